"""Rewards by hand, their ranges over real transcripts, and what a weighted sum makes of them."""

import math
from pathlib import Path

import pytest

from audiorl_cli.config import RewardConfig
from audiorl_cli.errors import ConfigError, DataError
from audiorl_cli.rl.judge import Judge
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


def test_a_reward_that_fails_names_itself_and_its_row_and_is_not_0(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(reference: str, completion: str) -> float:
        return 1 / (len(completion) - 3)

    monkeypatch.setitem(REWARDS, "fails", fails)
    judge = Judge(RewardConfig({"wer": 1.0, "fails": 1.0}), ["one", "two"], ["row-a", "row-b"])
    assert judge([0], ["four"]).rewards.tolist() == [[1.0]]
    with pytest.raises(ZeroDivisionError) as raised:
        judge([0, 1], ["four", "five", "four", "six"])
    assert raised.value.__notes__ == ["reward fails, row row-b: completion 'six', reference 'two'"]


@pytest.mark.parametrize("worth", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_refused(worth: float) -> None:
    score = Weighted({"wild": 0.0}, {"wild": lambda reference, completion: worth}, normaliser("none"))
    with pytest.raises(DataError, match=r"reward wild, row x: expected a finite number, got (nan|inf) for 'b'"):
        score.one("x", "a", "b")


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
