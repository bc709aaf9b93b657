"""Rewards by hand, their ranges over real transcripts, and what a weighted sum makes of them."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from audiorl_cli.config import RewardConfig
from audiorl_cli.errors import ConfigError
from audiorl_cli.rl.rewards import REWARDS, Rewarded, Weighted, reward, weighted
from audiorl_cli.text import normaliser

# reference, completion, wer, cer, exact
BY_HAND = [
    ("one two", "one two", 1.0, 1.0, 1.0),
    ("one two", "one", 0.5, 3 / 7, 0.0),  # " two": four of seven characters
    ("one two", "one too", 0.5, 6 / 7, 0.0),
    ("one two", "", 0.0, 0.0, 0.0),
    ("one", "two six ten", 0.0, 0.0, 0.0),  # WER 3: no less than 0
    ("ab", "ab cd", 0.0, 0.0, 0.0),  # WER 1, CER 1.5
    ("abcd", "abcde", 0.0, 0.75, 0.0),
    ("one two three four", "one two three four five", 0.75, 1 - 5 / 18, 0.0),
    ("", "", 1.0, 1.0, 1.0),
    ("", "a", 0.0, 0.0, 0.0),
    ("", "hallucinated words", 0.0, 0.0, 0.0),
    ("", "  ", 1.0, 1.0, 1.0),
    ("one  two", " one two", 1.0, 1.0, 1.0),
]


@pytest.mark.parametrize(("reference", "completion", "wer", "cer", "exact"), BY_HAND)
def test_by_hand(reference: str, completion: str, wer: float, cer: float, exact: float) -> None:
    assert reward("wer")(reference, completion) == pytest.approx(wer)
    assert reward("cer")(reference, completion) == pytest.approx(cer)
    assert reward("exact")(reference, completion) == exact


def test_an_unknown_reward_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="one of wer, cer, exact, got 'bleu'"):
        reward("bleu")
    with pytest.raises(ConfigError, match="one of wer, cer, exact, got 'bleu'"):
        weighted(RewardConfig(weights={"wer": 1.0, "bleu": 1.0}))
    with pytest.raises(ConfigError, match="one of none, basic"):
        weighted(RewardConfig(normaliser="nonsuch"))


def test_a_weighted_sum_normalises_both_sides_and_shows_each_part() -> None:
    score = weighted(RewardConfig(weights={"wer": 2.0, "exact": 0.5, "cer": 0.0}, normaliser="basic"))
    assert score(["One, two!", "a bc"], ["one TWO.", "a bd"]) == [
        Rewarded(2.5, {"wer": 1.0, "exact": 1.0, "cer": 1.0}),
        Rewarded(1.0, {"wer": 0.5, "exact": 0.0, "cer": 0.75}),
    ]
    assert weighted(RewardConfig(normaliser="none"))(["One"], ["one"])[0].total == 0.0
    assert score([], []) == []


def test_references_and_completions_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        weighted(RewardConfig())(["a", "b"], ["a"])


def test_a_reward_that_fails_is_not_a_reward_of_zero() -> None:
    def fails(reference: str, completion: str) -> float:
        raise ZeroDivisionError

    broken: dict[str, Callable[[str, str], float]] = {"fails": fails}
    with pytest.raises(ZeroDivisionError):
        Weighted({"fails": 1.0}, broken, normaliser("none"))(["a"], ["a"])


def test_ranges_over_real_transcripts(speech: Path) -> None:
    lines = (speech / "wer_golden" / "test-clean.ref.tsv").read_text(encoding="utf-8").splitlines()
    texts = [line.partition("\t")[2] for line in lines][:512]
    shifted = texts[1:] + texts[:1]  # another utterance's words: every kind of error
    score = weighted(RewardConfig(weights=dict.fromkeys(REWARDS, 1.0)))
    wrong = score(texts, shifted)
    for one in wrong:
        assert all(0 <= part <= 1 and math.isfinite(part) for part in one.parts.values())
    assert all(one.total == len(REWARDS) for one in score(texts, texts))
    assert sum(one.parts["wer"] for one in wrong) / len(wrong) < 0.2
