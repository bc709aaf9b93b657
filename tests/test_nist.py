"""stm and ctm by hand: which word is whose, what is not scored, what stands for several texts."""

from pathlib import Path

import pytest

from audiorl_cli.errors import DataError
from audiorl_cli.evaluate import nist
from audiorl_cli.evaluate.score import score_files

STM = """;; segments
show 1 anna 0.0 2.0 <o,f0,female> one two
show 1 bert 2.0 3.5 three
show 1 inter_segment_gap 3.5 5.0 <o,,> IGNORE_TIME_SEGMENT_IN_SCORING
show 1 anna 5.0 6.0
show 2 carl 0.0 9.9 <unk> four
"""
CTM = """show 1 1.9 0.3 three 0.99
show 1 0.1 0.4 one
show 1 0.6 0.4 too
show 1 3.6 0.5 noise
show 1 8.0 0.5 uh
show 2 0.1 0.1 four
"""


def _file(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def test_words_belong_to_the_segment_of_their_middle_or_the_nearest(tmp_path: Path) -> None:
    segments, words = nist.stm(tmp_path, STM.splitlines()), nist.ctm(tmp_path, CTM.splitlines())
    assert [one.text for one in segments] == ["one two", "three", None, "", "<unk> four"]
    assert nist.texts_of_segments(segments, words) == {
        "show 1 anna 0-2": "one too",
        "show 1 bert 2-3.5": "three",  # begins before it, and has its middle in it
        "show 1 anna 5-6": "uh",  # two seconds behind its end: nobody said it
        "show 2 carl 0-9.9": "four",
    }


def test_an_stm_is_scored_with_a_ctm_or_another_stm(tmp_path: Path) -> None:
    stm = _file(tmp_path, "r.stm", STM)
    found = score_files(stm, _file(tmp_path, "h.ctm", CTM))
    assert found.layouts == ("stm", "ctm")
    assert (found.rows, found.substitutions, found.insertions, found.deletions) == (4, 1, 1, 1)
    assert score_files(stm, _file(tmp_path, "h", STM.replace("two", "too"))).substitutions == 1
    with pytest.raises(DataError, match=r"show 3: expected recordings and channels that .* has, got 1 others"):
        score_files(stm, _file(tmp_path, "h.ctm", CTM + "show 3 0.1 0.2 five\n"))


def test_channels_are_told_apart_where_a_file_has_several(tmp_path: Path) -> None:
    words = nist.ctm(tmp_path, CTM.splitlines())
    assert nist.texts_of_words(words) == {"show-1": "one too three noise uh", "show-2": "four"}
    assert nist.texts_of_words(words[-1:]) == {"show": "uh"}


@pytest.mark.parametrize(
    ("read", "line", "message"),
    [
        (nist.stm, "show 1 anna 2.0 1.0 one", "line 1: expected file channel speaker begin end words, got show"),
        (nist.stm, "show 1 anna", "expected file channel"),
        (nist.stm, "show 1 anna 0 1 one {a / b}", r"line 1: expected one text, got sclite's mark of .*, {"),
        (nist.stm, "show 1 anna 0 1 (uh) one", r"got sclite's mark of .*, \(uh\)"),
        (nist.ctm, "show 1 0.0 nan one", "expected file channel begin duration word"),
        (nist.ctm, "show 1 0.0 0.1", "expected file channel begin duration word"),
        (nist.ctm, "show 1 0.0 0.1 <ALT_BEGIN>", "got sclite's mark"),
        (nist.trn, "one two", r"expected words \(id\), got one two"),
    ],
)
def test_a_line_that_is_none_is_refused(tmp_path: Path, read: object, line: str, message: str) -> None:
    assert callable(read)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "x", [line])
