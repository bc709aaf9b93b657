"""Ids: whatever a file's author, pandas or a file system made of one id, prep and score take it for the same."""

import math

import pytest

from audiorl_cli.data.utterance_ids import id_of_recording, part, utterance_id


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, "7"),
        (7.0, "7"),
        ("7", "7"),
        (" 7 ", "7"),
        ("007", "007"),
        ("7.0", "7"),
        ("07.0", "07.0"),
        ("1.10", "1.10"),
        (1.5, "1.5"),
        (-0.0, "0"),
        (2**60, str(2**60)),
        ("spk 1/utt 2", "spk 1/utt 2"),
        ("cafe\u0301", "caf\u00e9"),
        ("caf\u00e9", "caf\u00e9"),
        (None, None),
        (math.nan, None),
        ("", None),
        (" \t", None),
    ],
)
def test_one_id_whatever_it_was_written_as(value: object, expected: str | None) -> None:
    assert utterance_id(value) == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (True, "of type bool"),
        (["a"], "of type list"),
        (math.inf, "of inf"),
        (1e17, "of 1e\\+17"),
        ("a\nb", "control characters"),
        ("a" * 1001, "more than 1000"),
        ("\udcff.wav", "not UTF-8"),
    ],
)
def test_what_is_no_id_is_refused_by_what_it_is(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        utterance_id(value)


@pytest.mark.parametrize(
    ("name", "offset", "expected"),
    [
        ("clips/a.b.wav", None, "a.b"),
        ("C:\\clips\\a.wav", None, "a"),
        ("a.wav", 0, "a@0"),
        ("a.wav", 2.5, "a@2.5"),
        ("a.wav", 7200.1234564, "a@7200.123456"),
        ("u/cafe\u0301.wav", None, "caf\u00e9"),
    ],
)
def test_the_id_of_a_recording(name: str, offset: float | None, expected: str) -> None:
    assert id_of_recording(name, offset) == expected


def test_parts_of_a_long_recording_that_begin_close_together_are_told_apart() -> None:
    assert part(7200.121) != part(7200.124)
