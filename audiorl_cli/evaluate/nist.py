"""The formats of NIST's sclite: trn, stm and ctm. Lines that begin with ";;" are comments.

trn: `words (id)`. stm: `file channel speaker begin end [<labels>] words`, a segment a line, times in seconds.
ctm: `file channel begin duration word [confidence]`, a word a line. Source: https://github.com/usnistgov/SCTK,
doc/infmts.htm
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audiorl_cli.errors import DataError

_TRN: Final = re.compile(r"(?P<text>.*?)\s*\((?P<id>[^\s()]+)\)\s*")
_IGNORED: Final = "ignore_time_segment_in_scoring"
# Alternatives ({a / b}), words that may be left out ((uh)), ctm's marks of alternatives: each stands for several texts.
_SEVERAL_TEXTS: Final = re.compile(r"[{}]|(?<!\S)(?:@|\(\S+\)|<ALT(?:_BEGIN|_END)?>)(?!\S)", re.IGNORECASE)


@dataclass(frozen=True)
class Word:
    """A word of a ctm. `middle`: seconds."""

    recording: tuple[str, str]
    middle: float
    text: str


@dataclass(frozen=True)
class Segment:
    """A line of an stm; `text` is None where nothing is scored."""

    recording: tuple[str, str]
    speaker: str
    begin: float
    end: float
    text: str | None

    @property
    def id(self) -> str:
        """What tells it from others."""
        return f"{' '.join(self.recording)} {self.speaker} {self.begin:g}-{self.end:g}"


def uncommented(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Return the lines that are neither blank nor comments, with their numbers."""
    return [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith(";;")]


def is_trn(lines: Sequence[str]) -> bool:
    """Return whether every line ends with an id in brackets: none comes twice, and all have a digit or several parts.

    "oh no (laughs)" is a line of text.
    """
    found = [_TRN.fullmatch(line) for _, line in uncommented(lines)]
    ids = [one["id"] for one in found if one]
    return 0 < len(found) == len({*ids}) and all(re.search(r"[\d_/-]", one) for one in ids)


def is_stm(lines: Sequence[str]) -> bool:
    """Return whether every line has the fields of an stm; one alone may have them by chance."""
    rows = [line.split() for _, line in uncommented(lines)]
    return len(rows) > 1 and all(len(row) > 4 and _begin_end(row[3:5]) is not None for row in rows)


def is_ctm(lines: Sequence[str]) -> bool:
    """Return whether every line has the fields of a ctm; one alone may have them by chance."""
    rows = [line.split() for _, line in uncommented(lines)]
    return len(rows) > 1 and all(4 < len(row) < 9 and _seconds(row[2:4]) is not None and "." in row[2] for row in rows)


def trn(path: Path, lines: Sequence[str]) -> list[tuple[str, str]]:
    """Read the rows (id, text) of a trn. Raises DataError for a line without an id, and for one of several texts."""
    rows = []
    for number, line in uncommented(lines):
        found = _TRN.fullmatch(line)
        if not found:
            raise _wrong(path, number, "words (id)", line)
        rows.append((found["id"], _one_text(path, number, found["text"])))
    return rows


def stm(path: Path, lines: Sequence[str]) -> list[Segment]:
    """Read the segments of an stm. Raises DataError for a line that is none, and for one of several texts."""
    segments = []
    for number, line in uncommented(lines):
        fields = line.split(maxsplit=5)
        times = _begin_end(fields[3:5])
        if times is None:
            raise _wrong(path, number, "file channel speaker begin end words", line)
        text = fields[5] if len(fields) > 5 else ""
        if re.match(r"<[^<>\s]*,[^<>\s]*>(?!\S)", text):
            text = text.partition(">")[2].strip()
        ignored = text.lower() == _IGNORED
        text_or_none = None if ignored else _one_text(path, number, text)
        segments.append(Segment((fields[0], fields[1]), fields[2], *times, text_or_none))
    return segments


def ctm(path: Path, lines: Sequence[str]) -> list[Word]:
    """Read the words of a ctm, by time. Raises DataError for a line that is none, and for one of several texts."""
    words = []
    for number, line in uncommented(lines):
        fields = line.split()
        times = _seconds(fields[2:4])
        if times is None or len(fields) < 5:
            raise _wrong(path, number, "file channel begin duration word", line)
        recording = (fields[0], fields[1])
        words.append(Word(recording, times[0] + times[1] / 2, _one_text(path, number, fields[4])))
    return sorted(words, key=lambda word: word.middle)


def texts_of_words(words: Sequence[Word]) -> dict[str, str]:
    """Join the words of each recording of a ctm; its id is the file's name, with a channel if it has several."""
    channels: dict[str, set[str]] = {}
    texts: dict[str, list[str]] = {}
    for word in words:
        channels.setdefault(word.recording[0], set()).add(word.recording[1])
    for word in words:
        file, channel = word.recording
        texts.setdefault(file if len(channels[file]) == 1 else f"{file}-{channel}", []).append(word.text)
    return {one: " ".join(found) for one, found in texts.items()}


def texts_of_segments(segments: Sequence[Segment], words: Sequence[Word]) -> dict[str, str]:
    """Give each word to the segment that has its middle, or is nearest; return the text of those that are scored.

    So no word that was written goes uncounted, but for those in segments that are not scored and in recordings of which
    there are no segments.
    """
    found: dict[str, list[str]] = {one.id: [] for one in segments if one.text is not None}
    of_recording: dict[tuple[str, str], list[Segment]] = {}
    for segment in sorted(segments, key=lambda one: one.begin):
        of_recording.setdefault(segment.recording, []).append(segment)
    for word in words:
        places = of_recording.get(word.recording, [])
        near = min(places, key=lambda one: max(one.begin - word.middle, word.middle - one.end, 0), default=None)
        if near is not None and near.text is not None:
            found[near.id].append(word.text)
    return {one: " ".join(texts) for one, texts in found.items()}


def _one_text(path: Path, number: int, text: str) -> str:
    several = _SEVERAL_TEXTS.search(text)
    if several:
        raise DataError(
            f"{path} line {number}",
            expected="one text",
            got=f"sclite's mark of alternatives or optional words, {several[0]}",
            fix="Write the one text to score, or score with sclite.",
        )
    return text


def _seconds(fields: Sequence[str]) -> tuple[float, float] | None:
    try:
        first, second = map(float, fields)
    except ValueError:
        return None
    return (first, second) if math.isfinite(first) and math.isfinite(second) and second >= 0 <= first else None


def _begin_end(fields: Sequence[str]) -> tuple[float, float] | None:
    times = _seconds(fields)
    return times if times is not None and times[0] <= times[1] else None


def _wrong(path: Path, number: int, expected: str, line: str) -> DataError:
    return DataError(f"{path} line {number}", expected=expected, got=line.strip()[:60], fix="Correct the line.")
