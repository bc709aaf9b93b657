"""Slices: every row in one slice of a column, ranges in order, the worst value first."""

from typing import Any

from audiorl_cli.evaluate.bootstrap import Bootstrap, Interval
from audiorl_cli.evaluate.slices import Slice, slices
from audiorl_cli.evaluate.utterance import Utterance, scored
from audiorl_cli.text import normaliser

DRAWS = Bootstrap(100)


def _utterance(hypothesis: str, *, speaker: str = "", duration_s: float = 1.0, **columns: Any) -> Utterance:
    return scored(
        normaliser("none"),
        id="",
        speaker=speaker,
        duration_s=duration_s,
        reference_raw="a b",
        hypothesis_raw=hypothesis,
        tokens=0,
        at_token_limit=False,
        prompt="",
        columns=columns,
    )


def _rows(found: tuple[Slice, ...], column: str) -> list[tuple[str, int]]:
    return [(one.value, one.rows) for one in found if one.column == column]


def test_speakers_by_hand() -> None:
    rows = [
        _utterance("a b", speaker="ann"),
        _utterance("a", speaker="bob"),
        _utterance("a x c", speaker="bob"),
        _utterance("", speaker="cat"),
    ]
    found = slices(rows, ["speaker"], DRAWS)
    assert _rows(found, "speaker") == [("cat", 1), ("bob", 2), ("ann", 1)]  # once, though asked for, the worst first
    cat, bob, ann = found[:3]
    assert (cat.wer, bob.wer, ann.wer) == (1.0, 0.75, 0.0)
    assert (bob.substitutions, bob.insertions, bob.deletions, bob.reference_words) == (1, 1, 1, 4)
    assert bob.interval == Interval(0.5, 1.0)
    assert (cat.interval, ann.interval) == (None, None)


def test_durations_are_cut_at_fixed_edges() -> None:
    rows = [_utterance("a b", duration_s=seconds) for seconds in (30.0, 1.999, 2.0, 4.9, 5.0, 20.0, 0.1)]
    found = slices(rows, [], DRAWS)
    assert {one.column for one in found} == {"duration_s"}  # no row has a speaker
    assert _rows(found, "duration_s") == [("under 2", 2), ("2 to 5", 2), ("5 to 10", 1), ("20 and more", 2)]


def test_any_column_and_rows_that_lack_it() -> None:
    rows = [
        _utterance("a b", room="hall", take=1, noisy=True),
        _utterance("a", room="hall", take=2, noisy=False),
        _utterance("", room=None, take=2, noisy=False),
    ]
    found = slices(rows, ["room", "take", "noisy"], DRAWS)
    assert _rows(found, "room") == [("(none)", 1), ("hall", 2)]
    assert _rows(found, "take") == [("2", 2), ("1", 1)]  # few numbers are values, not ranges
    assert _rows(found, "noisy") == [("False", 2), ("True", 1)]


def test_many_numbers_are_cut_into_quarters() -> None:
    rows = [_utterance("a b", snr_db=float(number)) for number in range(40)] + [_utterance("", snr_db=None)]
    found = slices(rows, ["snr_db"], DRAWS)
    assert _rows(found, "snr_db") == [
        ("under 9.75", 10),
        ("9.75 to 19.5", 10),
        ("19.5 to 29.25", 10),
        ("29.25 and more", 10),
        ("(none)", 1),
    ]


def test_a_column_of_numbers_that_are_none_is_not_cut() -> None:
    rows = [_utterance("a b", snr_db=float(number)) for number in range(20)] + [_utterance("a b", snr_db=float("inf"))]
    assert len(_rows(slices(rows, ["snr_db"], DRAWS), "snr_db")) == 21


def test_speakers_are_drawn_within_a_slice_but_their_own() -> None:
    rows = [_utterance(text, speaker=name, room="hall") for name in "ab" for text in ("a b", "")]
    found = {one.column: one for one in slices(rows, ["room"], Bootstrap(100, "speaker"))}
    # Either speaker has half of its words wrong: among speakers there is no spread, among utterances there is.
    assert found["room"].interval == Interval(0.5, 0.5)
    assert found["speaker"].interval == Interval(0.0, 1.0)


def test_hallucinations_of_a_slice_are_counted() -> None:
    rows = [_utterance("a b b b b b", room="hall"), _utterance("a b", room="hall"), _utterance("x", room="lab")]
    assert {one.value: one.hallucinated for one in slices(rows, ["room"], DRAWS) if one.column == "room"} == {
        "hall": 1,
        "lab": 0,
    }


def test_no_rows_no_slices() -> None:
    assert slices([], ["room"], DRAWS) == ()
