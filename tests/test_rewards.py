"""Rewards by hand, their ranges over real transcripts, and what a weighted sum makes of them."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from audiorl_cli.config import RewardConfig
from audiorl_cli.errors import ConfigError, DataError
from audiorl_cli.reward_config import REWARD_RANGES
from audiorl_cli.rl.judge import Judge, errors_and_rewards, tally
from audiorl_cli.rl.metrics import Sample
from audiorl_cli.rl.rewards import REWARDS, Rewarded, boilerplate, format_match, keyword_recall, repetition, weighted
from audiorl_cli.text import normaliser

Write = Callable[[str], str]

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
    assert REWARDS["wer"](reference, completion) == pytest.approx(wer)
    assert REWARDS["cer"](reference, completion) == pytest.approx(cer)
    assert REWARDS["exact"](reference, completion) == exact


OTHERS: dict[str, list[tuple[str, str, float]]] = {
    "edit_distance": [
        ("abcd", "abcd", 0),
        ("abcd", "abce", -1 / 4),
        ("abcd", "ab", -2 / 4),
        ("ab", "abcdefgh", -6 / 8),  # of the longer: still falling where CER is 3
        ("ab", "cd", -1),
        ("a b", "a  b ", 0),
        ("ab", "", -1),
        ("", "", 0),
        ("", "a", -1),
    ],
    "length_ratio": [
        ("one two", "six ten", 1),
        ("one two three four", "one", 1 / 4),
        ("one", "one two three four", 1 / 4),
        ("one", "", 0),
        ("", "", 1),
        ("", " ", 1),
        ("", "one", 0),
    ],
    "insertion": [
        ("one two", "one two", 0),
        ("one two", "one", 0),
        ("one two", "one six", 0),
        ("one two three four", "one two and three four", -1 / 4),
        ("one", "one two three", -1),  # two for one word: no less than -1
        ("", "", 0),
        ("", "one", -1),
        ("", "one two", -1),
    ],
    "repetition": [
        ("no", "no", 0),
        ("no", "no no no", -2 / 3),
        ("no no", "no no", 0),  # it was said so
        ("no no", "no no no no", -2 / 4),  # three loop, one of them in the reference
        ("a b", "a b a b", -2 / 4),
        ("a b", "a b a b a b", -4 / 6),
        ("a b c", "a b c x a b c", 0),  # not one right after the other
        ("a", "b a b a b", -3 / 5),
        ("the end", "the end the end the", -3 / 5),  # a loop that was cut short
        ("no no no", "no", 0),
        ("a", "", 0),
        ("", "", 0),
        ("", "thank you thank you", -2 / 4),
    ],
    "hallucination": [("", "", 0), ("", " ", 0), ("", "thank you", -1), ("a", "b", 0), ("a", "", 0)],
}


@pytest.mark.parametrize(
    ("name", "reference", "completion", "worth"), [(name, *row) for name, rows in OTHERS.items() for row in rows]
)
def test_others_by_hand(name: str, reference: str, completion: str, worth: float) -> None:
    assert REWARDS[name](reference, completion) == pytest.approx(worth)


def test_every_reward_has_a_table() -> None:
    assert {"wer", "cer", "exact", *OTHERS} == REWARDS.keys()
    assert {*REWARDS, "keyword_recall", "format", "boilerplate"} == REWARD_RANGES.keys()


KEYWORDS = ("lyon", "new york", "c++")
RECALL = [
    ("from lyon to new york", "from lyon to new york", 1.0),
    ("from lyon to new york", "from lion to new york", 1 / 2),
    ("lyon lyon lyon", "lyon lyon", 2 / 3),
    ("lyon", "lyon lyon", 1.0),  # recall only
    ("lyon", "lyons", 0.0),  # whole words
    ("in c++ too", "in c++ too", 1.0),
    ("new york", "new  york", 1.0),
    ("york is new", "", 1.0),  # no keyword
    ("", "lyon", 1.0),
    ("", "", 1.0),
    ("lyon", "", 0.0),
]


@pytest.mark.parametrize(("reference", "completion", "worth"), RECALL)
def test_keyword_recall_by_hand(reference: str, completion: str, worth: float) -> None:
    assert keyword_recall(reference, completion, KEYWORDS) == pytest.approx(worth)


@pytest.mark.parametrize(
    ("completion", "worth"),
    [("Hello there.", 1.0), ("hello there.", 0.0), ("Hello there. ", 0.0), ("Hello\nthere.", 1.0), ("", 0.0)],
)
def test_format_by_hand(completion: str, worth: float) -> None:
    assert format_match(completion, r"[A-Z].*\.") == worth


@pytest.mark.parametrize(
    ("reference", "completion", "worth"),
    [
        ("hello", "hello", 0),
        ("hello", "The audio says: hello", -1),
        ("The audio says: hello", "The audio says: hello", 0),
        ("", "The audio says: ", -1),
        ("", "", 0),
    ],
)
def test_boilerplate_by_hand(reference: str, completion: str, worth: float) -> None:
    assert boilerplate(reference, completion, RewardConfig().boilerplate_patterns) == worth


def test_an_unknown_reward_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"reward\.weights: expected one of wer, cer, exact, .*, got 'bleu'"):
        RewardConfig(weights={"wer": 1.0, "bleu": 1.0})
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


def test_keywords_are_normalised_and_the_format_is_of_what_was_written() -> None:
    keywords = ("Lyon!", "LYON", "…", "Rome")  # two spellings of one keyword, and none
    score = weighted(RewardConfig({"keyword_recall": 1.0, "format": 1.0}, keywords=keywords, format="[A-Z].*"))
    assert score(["to LYON, Rome"], ["To Lyon; rome."]) == [Rewarded(2.0, {"keyword_recall": 1.0, "format": 1.0})]
    assert score(["to LYON, Rome"], ["to rome"]) == [Rewarded(0.5, {"keyword_recall": 0.5, "format": 0.0})]


def test_boilerplate_is_kept_stripped_and_punished_by_config() -> None:
    said, wrote = ["Hello there"], ["The audio says: Hello there"]
    weights = {"wer": 1.0, "boilerplate": 0.5}
    assert weighted(RewardConfig(weights))(said, wrote) == [Rewarded(-0.5, {"wer": 0.0, "boilerplate": -1.0})]
    strip = weighted(RewardConfig(weights, boilerplate="strip"))
    assert strip(said, wrote) == [Rewarded(0.5, {"wer": 1.0, "boilerplate": -1.0})]
    assert strip(said, said) == [Rewarded(1.0, {"wer": 1.0, "boilerplate": 0.0})]
    own = RewardConfig(weights, boilerplate="strip", boilerplate_patterns=(r"\Ain it: ",))
    assert weighted(own)(said, ["In it: hello there"])[0].total == 0.5


def test_a_penalty_of_nothing_is_not_written_as_less_than_nothing() -> None:
    parts = weighted(RewardConfig(dict.fromkeys(REWARDS, 1.0)))(["a"], ["a"])[0].parts
    assert "-0.0" not in json.dumps(parts)


def test_references_and_completions_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        weighted(RewardConfig())(["a", "b"], ["a"])


def test_a_reward_that_fails_names_itself_and_its_row_and_is_not_0(module: Write) -> None:
    fails = module("def f(completion): return 1 / (len(completion) - 3)")
    judge = Judge(RewardConfig({"wer": 1.0, fails: 1.0}), ["one", "two"], ["row-a", "row-b"])
    assert judge([0], ["four"]).rewards.tolist() == [[1.0]]
    with pytest.raises(ZeroDivisionError) as raised:
        judge([0, 1], ["four", "five", "four", "six"])
    assert raised.value.__notes__ == [f"reward {fails}, row row-b: completion 'six', reference 'two'"]


@pytest.mark.parametrize(("worth", "got"), [("float('nan')", "nan"), ("float('inf')", "inf"), ("None", "None")])
def test_a_reward_that_is_no_number_is_refused(module: Write, worth: str, got: str) -> None:
    judge = Judge(RewardConfig({module(f"def f(): return {worth}"): 0.0}), ["a"], ["x"])
    with pytest.raises(DataError, match=rf"reward \w+:f, row x: expected a finite number, got {got} for 'b'"):
        judge([0], ["b"])


def test_a_verdict_tells_of_each_part_and_the_normaliser(module: Write) -> None:
    loud = module("def f(completion, speaker): return float(completion.isupper() and speaker == 'ann')")
    judge = Judge(RewardConfig({"wer": 1.0, loud: 0.5}), ["One", "Two six"], ["a", "b"], {"speaker": ["ann", "bob"]})
    verdict = judge([1, 0], ["TWO", "TWO SIX", "ONE", "one"])
    assert verdict.rewards.tolist() == [[0.5, 1.0], [1.5, 1.0]]
    assert [[part[loud] for part in group] for group in verdict.parts] == [[0.0, 0.0], [1.0, 0.0]]
    assert [[part["wer"] for part in group] for group in verdict.parts] == [[0.5, 1.0], [1.0, 1.0]]
    assert [[one.errors for one in group] for group in verdict.errors] == [[1, 0], [0, 0]]
    told = errors_and_rewards([tally(verdict, [0, 1], 2)] * 2)
    assert told["sample_wer"] == told["sample_deletions"] == pytest.approx(1 / 6)
    assert (told["sample_substitutions"], told["sample_insertions"]) == (0, 0)
    assert told["rewards"] == {"wer": 0.875, loud: 0.25}
    assert verdict.normaliser == normaliser("basic").digest
    sample = Sample(1, "a", "One", verdict.texts[1], (1.5, 1.0), verdict.parts[1], verdict.normaliser)
    assert json.loads(json.dumps(asdict(sample)))["parts"][0] == {"wer": 1.0, loud: 1.0}


def test_ranges_over_real_transcripts(speech: Path) -> None:
    lines = (speech / "wer_golden" / "test-clean.ref.tsv").read_text(encoding="utf-8").splitlines()
    texts = [*[line.partition("\t")[2] for line in lines][:512], ""]
    shifted = texts[1:] + texts[:1]  # another utterance's words: every kind of error
    config = RewardConfig(dict.fromkeys(REWARD_RANGES, 1.0), keywords=("the",), format="The.*")
    score = weighted(config)
    wrong = score(texts, shifted)
    for one in wrong:
        for name, part in one.parts.items():
            least, most = REWARD_RANGES[name]
            assert least <= part <= most, name
        assert config.range[0] <= one.total <= config.range[1]
    best = {name: ends[1] for name, ends in REWARD_RANGES.items()}
    for one in score(texts, texts):
        assert one.parts == best | {"format": one.parts["format"]}
    assert sum(one.parts["wer"] for one in wrong) / len(wrong) < 0.2
    assert all(math.isfinite(end) for end in config.range)


def _looping_word_by_word(words: list[str]) -> int:
    looping: set[int] = set()
    for period in range(1, len(words) // 2 + 1):
        run = 0
        for place in range(period, len(words)):
            run = run + 1 if words[place] == words[place - period] else 0
            if run >= period:
                looping.update(range(place - period + 1, place + 1))
    return len(looping)


def test_loops_are_counted_word_by_word_and_fast_in_long_texts() -> None:
    draw = random.Random(0)
    for _ in range(300):
        words = draw.choices("abc", k=draw.randrange(1, 30))
        assert repetition("", " ".join(words)) == -_looping_word_by_word(words) / len(words)
    assert repetition("", "no " * 4000) == -3999 / 4000


def test_characters_of_cjk_are_rewarded_without_spaces() -> None:
    config = RewardConfig(weights={"cer": 1.0, "edit_distance": 1.0, "wer": 1.0}, normaliser="cjk")
    [earned] = weighted(config)(["你好，世界"], ["你 好世"])
    assert earned.parts == {"cer": 3 / 4, "edit_distance": -1 / 4, "wer": 3 / 4}
