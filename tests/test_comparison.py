"""A model against a baseline: differences by hand, chance as the bootstrap and the matched-pairs test have it."""

import dataclasses

import numpy as np
import pytest

from audiorl_cli.errors import ConfigError, DataError
from audiorl_cli.evaluate.bootstrap import Bootstrap, paired
from audiorl_cli.evaluate.comparison import check_comparable, compare
from audiorl_cli.evaluate.matched_pairs import matched_pairs
from audiorl_cli.evaluate.metrics import Conditions, Results, summarise
from audiorl_cli.evaluate.utterance import scored
from audiorl_cli.text import Normaliser, normaliser

BASIC, NONE = normaliser("basic"), normaliser("none")
DRAWS = Bootstrap(500)
PAIRS = [("a b", "x y"), ("c", "c"), ("d", "e"), ("", "")]


def _conditions(model: str = "tiny", normalise: Normaliser = BASIC) -> Conditions:
    return Conditions(model, "float32", "d" * 64, "Transcribe.", 8, normalise.name, normalise.version, normalise.digest)


def _results(
    pairs: list[tuple[str, str]],
    model: str = "tiny",
    normalise: Normaliser = BASIC,
    bootstrap: Bootstrap = DRAWS,
    speakers: str = "",
) -> Results:
    utterances = [
        scored(
            normalise,
            id=f"u{number}",
            speaker=speakers[number] if speakers else "",
            duration_s=1.0,
            reference_raw=reference,
            hypothesis_raw=hypothesis,
            tokens=1,
            at_token_limit=False,
            prompt="",
            columns={},
        )
        for number, (reference, hypothesis) in enumerate(pairs)
    ]
    return summarise(utterances, _conditions(model, normalise), 1.0, bootstrap)


def test_comparison_by_hand() -> None:
    found = compare(_results([("a b", "a y"), ("c", "c c"), ("d", "e"), ("", "")], "run"), _results(PAIRS))
    assert (found.model, found.baseline_model) == ("run", "tiny")
    assert (found.better, found.worse, found.same) == (1, 1, 2)
    assert (found.wer, found.baseline_wer) == (0.75, 0.75)
    assert found.wer_difference == 0.0
    assert (found.substitutions_difference, found.insertions_difference, found.deletions_difference) == (-1, 1, 0)
    assert found.cer_difference == pytest.approx((1 + 2 + 1) / 5 - (2 + 1) / 5)
    assert found.baseline_normaliser is None
    assert (found.matched_pairs.segments, found.matched_pairs.p) == (3, 1.0)
    assert compare(_results(PAIRS), _results(PAIRS)).wer_difference == 0.0


@pytest.mark.parametrize(("cluster", "units"), [("utterance", 4), ("speaker", 2)])
def test_chance_is_of_the_draws_that_were_asked_for(cluster: str, units: int) -> None:
    draws = Bootstrap(500, cluster, seed=7)  # type: ignore[arg-type]
    pairs = [("a b", "a b"), ("c", "c"), ("d", "e"), ("f g h", "f x y")]
    ours, baseline = (
        _results(pairs, bootstrap=draws, speakers="mnmn"),
        _results([("a b", "x b"), ("c", "x"), ("d", "d"), ("f g h", "")], speakers="mnmn"),
    )
    by_utterance = [[0, 1, 2], [0, 1, 1], [1, 0, 1], [2, 3, 3]]
    by_speaker = [[1, 1, 3], [2, 4, 4]]
    counts = np.array(by_utterance if units == 4 else by_speaker)
    expected = paired(counts, 500, seed=7)
    found = compare(ours, baseline)
    assert expected is not None
    assert found.wer_difference_interval == expected.difference_interval
    assert found.probability_of_improvement == expected.probability_of_improvement
    assert found.matched_pairs == matched_pairs(
        [one.alignment for one in ours.utterances], [one.alignment for one in baseline.utterances]
    )


def test_without_replicates_there_is_a_test_but_no_probability() -> None:
    found = compare(_results(PAIRS, bootstrap=Bootstrap(0)), _results(PAIRS))
    assert (found.wer_difference_interval, found.probability_of_improvement) == (None, None)
    assert found.matched_pairs.p == 1.0


def test_what_was_counted_otherwise_is_not_compared() -> None:
    ours = _results(PAIRS)
    conditions = ours.metrics.conditions
    for field, other in (
        ("normaliser_digest", dataclasses.replace(conditions, normaliser_digest="x" * 64)),
        ("data_digest", dataclasses.replace(conditions, data_digest="x" * 64)),
    ):
        theirs = Results(dataclasses.replace(ours.metrics, conditions=other), ours.utterances)
        with pytest.raises(DataError, match=f"baseline, {field}: expected a report .*, got one with .*. Evaluate both"):
            compare(ours, theirs)
    for pairs in (PAIRS[:-1], [*PAIRS, ("e", "e")]):
        with pytest.raises(DataError, match=r"baseline: expected 4 rows, got [35]"):
            compare(ours, _results(pairs))
    with pytest.raises(DataError, match="baseline: expected u0 'a b', got u0 'other'"):
        compare(ours, _results([("other", ""), *PAIRS[1:]]))


def test_another_normaliser_is_refused_and_how_to_go_on_is_said() -> None:
    with pytest.raises(DataError, match="counted again with this one: --accept-changes"):
        check_comparable(_conditions(), _conditions(normalise=NONE))
    check_comparable(_conditions(), _conditions(normalise=NONE), accept_changes=True)


def test_a_baseline_of_another_normaliser_is_counted_again_when_told_to() -> None:
    written = [("A b!", "A b"), ("C", "c"), ("d", "x")]
    counted_otherwise = _results(written, "before", NONE)
    assert counted_otherwise.metrics.wer == 3 / 4  # "b!" and "C" are wrong as they stand
    found = compare(_results([("A b!", "a B"), ("C", "c"), ("d", "d")]), counted_otherwise, accept_changes=True)
    assert (found.wer, found.baseline_wer) == (0.0, 0.25)
    assert (found.better, found.worse, found.same) == (1, 0, 2)
    assert (found.baseline_model, found.baseline_normaliser) == ("before", "none 1")
    assert found.baseline_cer == 1 / 5


def test_other_data_is_refused_whatever_is_accepted() -> None:
    other = dataclasses.replace(_conditions(), data_digest="e" * 64)
    with pytest.raises(DataError, match="baseline, data_digest") as refused:
        check_comparable(_conditions(), other, accept_changes=True)
    assert "--accept-changes" not in str(refused.value)


def test_a_normaliser_that_is_no_longer_there_cannot_count_again() -> None:
    ours = _results(PAIRS)
    conditions = ours.metrics.conditions
    for other, error in (
        (dataclasses.replace(conditions, normaliser="nonsuch", normaliser_digest="n" * 64), ConfigError),
        (dataclasses.replace(conditions, normaliser_digest="n" * 64), DataError),
    ):
        old = Results(dataclasses.replace(ours.metrics, conditions=other), ours.utterances)
        with pytest.raises(error):
            compare(old, _results(PAIRS), accept_changes=True)
