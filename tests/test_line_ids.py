"""Whether lines begin with ids: what is sure, what is words, and what a person has to say."""

import pytest

from audiorl_cli.evaluate.line_ids import Verdict, known, of_both, verdict

IDS = [
    "84-121123-0000 GO|84-121123-0001 DO YOU HEAR",
    "utt1 one two three|utt2 four five six",
    "utt1 one|utt2|utt10 two",  # nothing was heard in one of them
    "utt1 one|utt2 two|",  # a blank line at the end
    "0001 one two|0002 three|0010 four",
    "BAC009S0764W0121 a|BAC009S0764W0122 b|BAC009S0764W0123 c",
    "common_voice_en_1.mp3 a|common_voice_en_22.mp3 b|common_voice_en_3.mp3 c",
    "p225_001 a|p226_001 b",
    "en-f5-00033 a|en-us-m7-00014 b|en-us-m7-00062 c",
    "anna_hall a|bert_hall b|carl_lab c",
    "alice-001 a|bob-001 b|eve-002 c",
    "s1/u1 a|s1/u2 b|s2/u1 c",
    "84-121123-0000 only one line",
    "utt1 a|utt1 b|utt2 c|utt3 d",  # twice: refused as such, not taken for words
]
WORDS = [
    "one two three|four five six",
    "yes|no|stop",
    "go home|turn left|stop",
    "the cat|the dog|a mouse",
    "3 apples|no pears|5 plums",
    "covid-19 is here|go",
    "utt1 one||utt2 two",  # a blank line is an utterance without words
    "",
    "hello",
]
UNCLEAR = [
    "5 minutes|10 minutes|20 minutes",
    "1 one|2 two|3 three",
    "e4 e5|d4 d5|f2 f3",
    "10-year-old boys",
    "utt1 one",
    "mp3 players",
]


BY_HAND: list[tuple[str, Verdict]] = [
    *((one, "ids") for one in IDS),
    *((one, "words") for one in WORDS),
    *((one, "unclear") for one in UNCLEAR),
]


@pytest.mark.parametrize(("text", "expected"), BY_HAND)
def test_one_file_alone(text: str, expected: Verdict) -> None:
    assert verdict(text.split("|")) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        *((text, text, expected) for text, expected in BY_HAND),  # the same words first on both sides may well be words
        ("utt1 a|utt2 b", "utt2 b|utt1 a", "ids"),
        ("utt1 a|utt2 b", "a|b", "words"),  # only one of them has ids: refused when they are matched
        ("p1_1 a|p1_2 b|p1_3 c", "p1_1 a|p1_2 b|p1_3 c|xx d", "ids"),
        ("anna a|bert b|carl c", "carl c|anna a|bert b", "unclear"),  # the same words in another order
        ("anna a|bert b|carl c", "anna a|bert b|dora c", "words"),
        ("5 minutes|10 minutes", "5 minutes|10 minute", "unclear"),
        ("5 minutes|10 minutes", "five minutes|10 minutes", "words"),
    ],
)
def test_two_files_together(one: str, other: str, expected: Verdict) -> None:
    assert of_both(one.split("|"), other.split("|")) == expected
    assert of_both(other.split("|"), one.split("|")) == expected


def test_ids_that_are_known_from_elsewhere() -> None:
    assert known(["anna a", "bert b"], {"anna", "bert"})
    assert known(["anna a", "bert b"], {"anna", "x"})
    assert not known(["anna a", "bert b", "carl c"], {"anna"})
    assert not known([], {"anna"})
