"""The bootstrap: against a direct simulation, against what theory says, and by hand where chance has no say."""

import itertools
import random
import tracemalloc

import numpy as np
import pytest

from audiorl_cli.evaluate import bootstrap
from audiorl_cli.evaluate.bootstrap import (
    Interval,
    clusters,
    interval,
    paired,
    rate_intervals,
    rates,
    resample,
    wer_interval,
)
from audiorl_cli.wer import ErrorCounts, total

UNITS = 40


def _counts(units: int, *most: int, seed: int = 0) -> np.ndarray:
    """Columns of whole numbers from 0 to `most`."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.integers(number + 1, size=units) for number in most], axis=1)


def _simulated(counts: np.ndarray, replicates: int, seed: int) -> list[list[int]]:
    """The same in the plainest words: draw utterances one by one from another generator, and add up."""
    draw = random.Random(seed)
    rows = counts.tolist()
    return [[sum(column) for column in zip(*draw.choices(rows, k=len(rows)), strict=True)] for _ in range(replicates)]


def test_the_sums_are_those_of_the_units_that_were_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = _counts(UNITS, 5, 30, 9)
    monkeypatch.setattr(bootstrap, "_DRAWS", UNITS * 7)  # 7 replicates at a time, the last of 3
    found = resample(counts, 31, seed=5)
    generator = np.random.default_rng(5)
    expected = []
    for number in (7, 7, 7, 7, 3):
        for drawn in generator.integers(UNITS, size=(number, UNITS)):
            expected.append([sum(int(counts[unit, column]) for unit in drawn) for column in range(3)])
    assert found.tolist() == expected


def test_the_interval_agrees_with_a_direct_simulation() -> None:
    counts = _counts(UNITS, 5, 30)
    replicates = 20_000
    ours = wer_interval(counts, replicates, seed=0)
    simulated = sorted(errors / words for errors, words in _simulated(counts, replicates, seed=1))
    assert ours is not None
    width = simulated[int(0.975 * replicates)] - simulated[int(0.025 * replicates)]
    # A percentile of 20,000 draws has a standard error of some 1.3 % of the interval's width: three of them.
    assert ours.low == pytest.approx(simulated[int(0.025 * replicates)], abs=0.04 * width)
    assert ours.high == pytest.approx(simulated[int(0.975 * replicates)], abs=0.04 * width)


def test_the_paired_bootstrap_agrees_with_a_direct_simulation() -> None:
    counts = _counts(UNITS, 5, 5, 30, seed=1)
    replicates = 20_000
    ours = paired(counts, replicates, seed=0)
    simulated = sorted((one - other) / words for one, other, words in _simulated(counts, replicates, seed=1))
    assert ours is not None
    width = simulated[int(0.975 * replicates)] - simulated[int(0.025 * replicates)]
    assert ours.difference_interval.low == pytest.approx(simulated[int(0.025 * replicates)], abs=0.04 * width)
    assert ours.difference_interval.high == pytest.approx(simulated[int(0.975 * replicates)], abs=0.04 * width)
    improved = sum(change < 0 for change in simulated) / replicates
    assert 0.05 < improved < 0.95  # or it says little
    assert ours.probability_of_improvement == pytest.approx(improved, abs=0.015)  # three standard errors of both


def test_errors_of_independent_words_spread_as_the_binomial_does() -> None:
    generator = np.random.default_rng(0)
    errors = generator.binomial(10, 0.1, size=2000)
    found = wer_interval(np.stack([errors, np.full(2000, 10)], axis=1), 4000, seed=0)
    assert found is not None
    half = 1.96 * (0.1 * 0.9 / 20_000) ** 0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found.low < 0.1 < found.high


def test_units_that_are_alike_leave_nothing_to_chance() -> None:
    assert wer_interval(np.array([[1, 4]] * 5), 100, seed=0) == Interval(0.25, 0.25)
    found = paired(np.array([[1, 2, 4]] * 5), 100, seed=0)
    assert found is not None
    assert (found.difference_interval, found.probability_of_improvement) == (Interval(-0.25, -0.25), 1.0)
    same = paired(np.array([[2, 2, 4], [1, 1, 4]]), 100, seed=0)
    assert same is not None
    assert same.probability_of_improvement == 0.0  # no difference is no improvement


def test_pairs_are_drawn_together() -> None:
    # A hard and an easy unit: each system's WER moves much, their difference not at all.
    counts = np.array([[9, 10, 10], [0, 1, 10]])
    found = paired(counts, 1000, seed=0)
    assert found is not None
    assert found.difference_interval == Interval(-0.1, -0.1)
    alone = wer_interval(counts[:, [0, 2]], 1000, seed=0)
    assert alone == Interval(0.0, 0.9)


def test_a_speaker_is_drawn_whole() -> None:
    counts = np.array([[1, 10], [2, 10], [3, 10], [4, 20]])
    assert clusters(counts, ["b", "a", "b", "c"]).tolist() == [[4, 20], [2, 10], [4, 20]]
    # Utterances of a speaker are alike, so that utterance by utterance the interval is too narrow.
    alike = np.repeat(np.array([[0, 10], [1, 10], [5, 10], [9, 10]]), 25, axis=0)
    by_utterance = wer_interval(alike, 2000, seed=0)
    by_speaker = wer_interval(clusters(alike, [unit // 25 for unit in range(100)]), 2000, seed=0)
    assert by_utterance is not None
    assert by_speaker is not None
    assert by_speaker.high - by_speaker.low > 3 * (by_utterance.high - by_utterance.low)


def test_the_percentiles_by_hand() -> None:
    assert interval(np.arange(1001.0)) == Interval(25.0, 975.0)
    assert interval(np.array([0.0, 1.0])) == Interval(0.025, 0.975)  # linear between neighbours


def test_all_rates_are_those_of_the_summed_counts() -> None:
    words = [ErrorCounts(1, 0, 2, 7), ErrorCounts(0, 3, 0, 1), ErrorCounts(), ErrorCounts(insertions=2)]
    counts = np.array([(w.substitutions, w.insertions, w.deletions, w.hits, 2, 9) for w in words])
    draws = [total(drawn) for drawn in itertools.product(words, repeat=4)]
    found = rate_intervals(resample(counts, 4000, seed=0))
    for name in ("wer", "mer", "wil"):
        every = np.array([getattr(one, name) for one in draws])  # all 256 draws there are, each as likely
        ours = getattr(found, name)
        assert min(every) <= ours.low < np.quantile(every, 0.1)
        assert np.quantile(every, 0.9) < ours.high <= max(every)
    assert found.cer == Interval(2 / 9, 2 / 9)


def test_no_reference_word_counts_as_one_as_in_the_rates_of_the_corpus() -> None:
    errors, words = [0, 3, 5], [0, 0, 10]
    expected = [ErrorCounts(insertions=e, hits=w).rate for e, w in zip(errors, words, strict=True)]
    assert rates(np.array(errors), np.array(words)).tolist() == expected


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    counts = _counts(UNITS, 5, 30)
    assert wer_interval(counts, 500, seed=3) == wer_interval(counts, 500, seed=3) != wer_interval(counts, 500, seed=4)


def test_where_nothing_can_be_drawn_nothing_is_said() -> None:
    assert wer_interval(np.array([[1, 4]]), 100, seed=0) is None
    assert wer_interval(np.zeros((0, 2), int), 100, seed=0) is None
    assert wer_interval(_counts(5, 1, 9), 0, seed=0) is None
    assert paired(np.array([[1, 2, 4]]), 100, seed=0) is None
    assert paired(_counts(5, 1, 1, 9), 0, seed=0) is None
    with pytest.raises(ValueError, match="no units"):
        resample(np.zeros((0, 2), int), 100, seed=0)


def test_memory_does_not_grow_with_the_replicates() -> None:
    counts = _counts(2000, 5, 30)
    peaks = []
    for replicates in (100, 1000):
        tracemalloc.start()
        resample(counts, replicates, seed=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 4e6  # all draws at once would be 16 MB, and as much again in counts
