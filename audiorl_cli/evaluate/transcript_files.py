"""Transcript files as people have them -> id -> text. What has another layout is refused, saying what it looks like.

| layout | a row | is recognised by |
|---|---|---|
| JSONL, JSON | objects with an id (or a recording's file) and a text; an object of id: text | its first character |
| CSV, TSV | columns as its header names them; a TSV without one is id, text | `.csv`, `.tsv`, a tab, a header |
| LJSpeech | `id|text` or `id|text|normalised text` | the bars in every line |
| trn, stm, ctm | as sclite has them (nist.py) | the name, or the fields of every line |
| Kaldi text | `id words`; LibriSpeech's `.trans.txt` too | first words that look like ids (line_ids.py) |
| plain lines | words | none of these |

Files may be compressed (`.gz`), begin with a byte order mark and end their lines as Windows does.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from audiorl_cli.data.columns import AUDIO_COLUMNS, ID_COLUMNS, Fields
from audiorl_cli.data.rejected import RejectedError
from audiorl_cli.data.utterance_ids import id_of_recording, utterance_id
from audiorl_cli.errors import DataError
from audiorl_cli.evaluate import line_ids, nist

Layout = Literal["plain lines", "Kaldi text", "TSV", "CSV", "JSONL", "JSON", "LJSpeech", "trn", "stm", "ctm"]
FileFormat = Literal["auto", "lines", "kaldi", "tsv", "csv", "json", "trn", "stm", "ctm"]
_FORCED: Final[dict[FileFormat, Layout]] = {
    "lines": "plain lines",
    "kaldi": "Kaldi text",
    "tsv": "TSV",
    "csv": "CSV",
    "json": "JSONL",
    "trn": "trn",
    "stm": "stm",
    "ctm": "ctm",
}

# The first of these that a row has is its text. A NeMo manifest keeps the reference in `text` beside the recogniser's
# `pred_text`, and our own utterances.jsonl holds both sides: the order decides.
_TEXTS: Final = ("text", "sentence", "transcript", "transcription")
REFERENCE_FIELDS: Final = ("reference", "ref", *_TEXTS)
HYPOTHESIS_FIELDS: Final = ("hypothesis", "hyp", "pred_text", "predicted_text", "prediction", "pred", *_TEXTS)

# What is no text file at all, by its first bytes, and what has a layout of its own, by its first characters.
_BINARY: Final = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"PK\x03\x04": "a zip archive or spreadsheet",
    b"%PDF": "PDF",
    b"RIFF": "a recording",
    b"fLaC": "a recording",
    b"OggS": "a recording",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_OTHER_LAYOUTS: Final = {
    r"WEBVTT\b": "WebVTT subtitles",
    r"\d+\s*\n\d+:\d\d:\d\d[,.]\d{3} --> ": "SubRip subtitles",
    r"\[Script Info\]": "SubStation subtitles",
    r'File type = "ooTextFile': "a Praat TextGrid",
    r"#!MLF!#": "an HTK label file",
    r"@(?:UTF8|Begin)\b": "a CHAT transcript",
    r"<\?xml|<!DOCTYPE|<(?:html|tt|transcript|Trans)\b": "XML or HTML",
    r"SPEAKER \S+ \S+ [\d.]+ [\d.]+ ": "an RTTM file of speakers",
    r"---\s*\n\S+:": "YAML",
    r"\S+ +\S+\.(?:wav|flac|mp3|sph|ogg)(?: *\|)?(?:\n|$)": "Kaldi's wav.scp",
    rf"(?:{'|'.join((*REFERENCE_FIELDS, *HYPOTHESIS_FIELDS))})\s*\n.": "a table of one column, without ids",
}


@dataclass(frozen=True)
class TranscriptFile:
    """The texts of one file by id, in its order. The ids of plain lines are their line numbers.

    `field`: the column or key that the texts came from, "" where the layout has none.
    """

    path: Path
    kind: Layout
    texts: dict[str, str]
    field: str = ""

    @property
    def layout(self) -> str:
        """What the file was taken for, in words."""
        return f"{self.kind} ({self.field})" if self.field else self.kind


def read(path: Path, fields: Sequence[str], format: FileFormat = "auto") -> TranscriptFile:
    """Read the transcripts in `path`; where rows have names for what they hold, the text is the first of `fields`.

    Empty texts are texts, and empty plain lines count. Raises DataError for a file that cannot be read, a row without
    an id or a text, an id that comes twice, and a layout that is none of those above.
    """
    lines = _lines(path)
    return _read(path, lines, _layout(path, lines, format) or _of_lines(lines), fields)


def read_both(references: Path, hypotheses: Path, format: FileFormat = "auto") -> tuple[TranscriptFile, TranscriptFile]:
    """Read references and hypotheses, each in its own layout; `format` names that of both.

    Where lines have no layout of their own, both files together decide whether they begin with ids. The words of a ctm
    are divided among the segments of an stm. Raises DataError as `read`, and where it is not clear what begins lines.
    """
    lines, others = _lines(references), _lines(hypotheses)
    layout, other = _layout(references, lines, format), _layout(hypotheses, others, format)
    if (layout, other) == ("stm", "ctm"):
        return _segments(references, lines, hypotheses, others)
    if layout is None and other is None:
        found = line_ids.of_both(lines, others)
        if found == "unclear":
            raise DataError(
                str(hypotheses),
                expected="lines that clearly begin with an id, or clearly do not",
                got=f"first words as {line_ids.first_words(others)[0]!r}, the same in both files",
                fix="Say which it is: --format kaldi (an id, then the words) or --format lines.",
            )
        if found == "ids":
            layout = other = "Kaldi text"
    expected = None if layout is None else _read(references, lines, layout, REFERENCE_FIELDS)
    given = None if other is None else _read(hypotheses, others, other, HYPOTHESIS_FIELDS)
    return (
        expected or _read(references, lines, _of_lines(lines, given), REFERENCE_FIELDS),
        given or _read(hypotheses, others, _of_lines(others, expected), HYPOTHESIS_FIELDS),
    )


def _of_lines(lines: Sequence[str], other: TranscriptFile | None = None) -> Layout:
    """Decide what lines without a layout of their own are; `other`: the file they are scored with, if that has one."""
    known = other is not None and other.kind != "plain lines" and line_ids.known(lines, other.texts)
    return "Kaldi text" if known or line_ids.verdict(lines) == "ids" else "plain lines"


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        got = str((isinstance(error, OSError) and error.strerror) or error)
        raise DataError(str(path), expected="a file of transcripts", got=got, fix="Check the path.") from error
    binary = next((name for start, name in _BINARY.items() if content.startswith(start)), None)
    if binary or b"\0" in content:
        raise DataError(
            str(path), expected="UTF-8 text", got=binary or "a binary file", fix="Convert it to UTF-8 text."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        got = f"{error.reason} at byte {error.start}"
        raise DataError(str(path), expected="UTF-8 text", got=got, fix="Convert it to UTF-8.") from error
    # Not splitlines(), which also breaks at form feeds and Unicode's own separators inside a text.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _layout(path: Path, lines: Sequence[str], format: FileFormat) -> Layout | None:
    """Find the layout that a file's name or content shows, None for lines of words. Raises DataError."""
    if format != "auto":
        return _FORCED[format]
    head = "\n".join(lines[:3]).lstrip()
    for pattern, name in _OTHER_LAYOUTS.items():
        if re.match(pattern, head):
            fix = "Write one of these, or with --format lines have it taken as plain lines."
            raise DataError(str(path), expected=", ".join(get_args(Layout)), got=f"what looks like {name}", fix=fix)
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    first = next((line for line in lines if line.strip()), "")
    if suffix in (".jsonl", ".ndjson", ".json") or re.match(r'\{\s*["}]|\[\s*\{', head):
        return "JSON" if re.match(r"\[\s*[{\]]", head) or not _is_json(first) else "JSONL"
    by_name: dict[str, Layout] = {".trn": "trn", ".stm": "stm", ".ctm": "ctm", ".csv": "CSV", ".tsv": "TSV"}
    if suffix in by_name:
        return by_name[suffix]
    if name.endswith(".trans.txt"):
        return "Kaldi text"
    if "\t" in first:
        return "TSV"
    if _columns(first.split(","), (*REFERENCE_FIELDS, *HYPOTHESIS_FIELDS)):
        return "CSV"
    if lines and all(re.match(r"[^\s|]+\|", line) and line.count("|") < 3 for line in lines):
        return "LJSpeech"
    tests: dict[Layout, Callable[[Sequence[str]], bool]] = {"trn": nist.is_trn, "stm": nist.is_stm, "ctm": nist.is_ctm}
    return next((layout for layout, is_one in tests.items() if is_one(lines)), None)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


@dataclass(frozen=True)
class _Columns:
    """Which columns of a header hold text, id and recording; "" for none."""

    text: str
    id: str
    path: str


def _columns(header: Iterable[str], fields: Sequence[str]) -> _Columns | None:
    """Find the columns of a header, None where it lacks a text, or whatever would name an utterance."""
    names = {name.strip().lower() for name in header}
    text, identity, path = (
        next((name for name in known if name in names), "") for known in (fields, ID_COLUMNS, AUDIO_COLUMNS)
    )
    return _Columns(text, identity, path) if text and (identity or path) else None


def _read(path: Path, lines: Sequence[str], layout: Layout, fields: Sequence[str]) -> TranscriptFile:
    field = ""
    if layout == "plain lines":
        rows = [(str(number), line) for number, line in enumerate(lines, 1)]
    elif layout == "trn":
        rows = nist.trn(path, lines)
    elif layout == "stm":
        rows = [(one.id, one.text) for one in nist.stm(path, lines) if one.text is not None]
    elif layout == "ctm":
        rows = [*nist.texts_of_words(nist.ctm(path, lines)).items()]
    elif layout in ("JSON", "JSONL"):
        rows, field = _json_rows(path, lines, layout, fields)
    elif layout in ("CSV", "TSV"):
        rows, field = _table_rows(path, lines, layout, fields)
    else:
        rows = [_divided(path, n, line, layout) for n, line in enumerate(lines, 1) if line.strip()]
    return TranscriptFile(path, layout, _unique(path, rows), field)


def _segments(
    references: Path, lines: Sequence[str], hypotheses: Path, others: Sequence[str]
) -> tuple[TranscriptFile, TranscriptFile]:
    segments, words = nist.stm(references, lines), nist.ctm(hypotheses, others)
    strange = sorted({word.recording for word in words} - {one.recording for one in segments})
    if strange:
        raise DataError(
            f"{hypotheses}: {' '.join(strange[0])}",
            expected=f"recordings and channels that {references} has",
            got=f"{len(strange)} others",
            fix="Correct the names of files and channels.",
        )
    texts = _unique(references, [(one.id, one.text) for one in segments if one.text is not None])
    return (
        TranscriptFile(references, "stm", texts),
        TranscriptFile(hypotheses, "ctm", nist.texts_of_segments(segments, words)),
    )


def _divided(path: Path, number: int, line: str, layout: Layout) -> tuple[str, str]:
    """Divide a line of Kaldi's text, LJSpeech's table or a TSV without a header: an id, then the text.

    A line of an id alone is a text of no words: editors strip what divides them from the end of lines.
    """
    where = f"{path} line {number}"
    if layout == "Kaldi text":
        identity, *text = line.split(maxsplit=1)
        return _id(where, identity), "".join(text)
    identity, *columns = line.split("|") if layout == "LJSpeech" else line.split("\t", 1)
    if not identity.strip():
        raise DataError(where, expected="an id", got="none before the tab", fix="Write id<TAB>text.")
    return _id(where, identity), columns[-1] if columns else ""


def _table_rows(
    path: Path, lines: Sequence[str], layout: Layout, fields: Sequence[str]
) -> tuple[list[tuple[str, str]], str]:
    """Read the rows of a CSV or TSV; return them and the name of the column that their texts are from."""
    rows = [*_cells(path, lines, layout)]
    if not rows:
        return [], ""
    header, columns = rows[0][1], _columns(rows[0][1], fields)
    if columns is None and layout == "TSV":
        widths = {len(cells) for _, cells in rows}
        if widths == {1} or min(widths) > 2:
            got = "a .tsv without a tab" if widths == {1} else f"{min(widths)} columns without such a header"
            fix = "Write id<TAB>text, or name the columns on the first line."
            raise DataError(str(path), expected="TSV with two columns, or a header of id and text", got=got, fix=fix)
        return [_divided(path, number, "\t".join(cells), layout) for number, cells in rows], ""
    if columns is None:
        expected = f"a header with an id ({', '.join(ID_COLUMNS)}, or a recording) and a text ({', '.join(fields)})"
        raise DataError(f"{path} line 1", expected=expected, got=", ".join(header)[:100], fix="Name the columns so.")
    found = []
    for number, cells in rows[1:]:
        if len(cells) > len(header):
            got = f"{len(cells)} columns"
            fix = "Put a text with the divider in it in quotation marks." if layout == "CSV" else "Remove the tab."
            raise DataError(f"{path} line {number}", expected=f"{len(header)} columns", got=got, fix=fix)
        names = (name.strip().lower() for name in header)
        row = dict(zip(names, [*cells, *[""] * (len(header) - len(cells))], strict=True))
        found.append((_identity(f"{path} line {number}", row, columns), row[columns.text]))
    return found, columns.text


def _cells(path: Path, lines: Sequence[str], layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Read the rows of a table with their line numbers; in a TSV quotation marks mean nothing, as prep has it."""
    if layout == "TSV":
        yield from ((number, line.split("\t")) for number, line in enumerate(lines, 1) if line.strip())
        return
    first = lines[0] if lines else ""
    divider = max(",;\t|", key=first.count)
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=divider, strict=True)
    try:
        yield from ((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as error:
        where = f"{path} line {reader.line_num}"
        raise DataError(where, expected="a row of a CSV", got=str(error), fix="Correct the quotation marks.") from error


def _json_rows(
    path: Path, lines: Sequence[str], layout: Layout, fields: Sequence[str]
) -> tuple[list[tuple[str, str]], str]:
    """Read the rows of JSON; return them and the names that their texts had."""
    if layout == "JSONL":
        objects = [
            (f"{path} line {n}", _json(f"{path} line {n}", line)) for n, line in enumerate(lines, 1) if line.strip()
        ]
    else:
        whole = _json(str(path), "\n".join(lines))
        rows = whole if isinstance(whole, list) else [whole]
        objects = [(f"{path} row {number}", row) for number, row in enumerate(rows, 1)]
    if len(objects) == 1 and isinstance(objects[0][1], dict) and _is_table(objects[0][1]):
        return [(_id(str(path), one), text) for one, text in objects[0][1].items()], ""
    found, used = [], dict[str, None]()
    for where, row in objects:
        if not isinstance(row, dict):
            raise DataError(where, expected="a JSON object", got=type(row).__name__, fix="Write one object a line.")
        field = next((name for name in fields if name in row), None)
        if field is None:
            got = f"only {', '.join(map(str, row)) or 'nothing'}"
            raise DataError(where, expected=f"a text under {' or '.join(fields)}", got=got, fix="Add it.")
        if not isinstance(row[field], str):
            fix = "Leave the utterance out of both files, or write its text."
            raise DataError(f"{where}, {field}", expected="a text", got=json.dumps(row[field])[:40], fix=fix)
        used[field] = None
        columns = _columns(row, (field,))
        if columns is None:
            got = "segments: Whisper's output of one recording" if "segments" in row else "null"
            raise DataError(where, expected="an id", got=got, fix="Give every row an id or the file of its recording.")
        found.append((_identity(where, row, columns), row[field]))
    return found, ", ".join(used)


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(where, expected="a JSON object", got=str(error), fix="Write one object a line.") from error


def _is_table(row: Mapping[str, Any]) -> bool:
    """Return whether an object is one of ids and their texts."""
    names = {*REFERENCE_FIELDS, *HYPOTHESIS_FIELDS, *ID_COLUMNS, *AUDIO_COLUMNS}
    return bool(row) and not names & {*row} and all(isinstance(value, str) for value in row.values())


def _identity(where: str, row: Mapping[str, Any], columns: _Columns) -> str:
    """Return the id of a row as prep names utterances: its own, else that of the file of its recording."""
    value, name = row.get(columns.id), row.get(columns.path)
    name = name.get("path") if isinstance(name, dict) else name  # as the rows of `datasets` have it
    if value in (None, "") and not columns.id and isinstance(name, str):
        try:
            value = id_of_recording(name, Fields.of(row).part(row)[0])
        except (RejectedError, ValueError):
            value = None
    return _id(where, value)


def _id(where: str, value: Any) -> str:
    try:
        found = utterance_id(value)
    except ValueError:
        found = None
    if found is None:
        got, fix = json.dumps(value, ensure_ascii=False)[:40], "Give every row an id of its own."
        raise DataError(where, expected="an id", got=got, fix=fix)
    return found


def _unique(path: Path, rows: Sequence[tuple[str, str]]) -> dict[str, str]:
    texts = dict(rows)
    if len(texts) < len(rows):
        seen: set[str] = set()
        twice = [one for one, _ in rows if one in seen or seen.add(one)]  # type: ignore[func-returns-value]
        raise DataError(
            f"{path}: {twice[0]}",
            expected="each id once",
            got=f"{len(twice)} rows whose id came before",
            fix="Leave one row for each id.",
        )
    return texts
