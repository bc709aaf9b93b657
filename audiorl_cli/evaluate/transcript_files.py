"""Transcript files as people have them: TSV, JSONL or plain lines -> id -> text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from audiorl_cli.errors import DataError

# The first of these that a JSONL row has is its text. A NeMo manifest keeps the reference in `text` beside the
# recogniser's `pred_text`, and our own utterances.jsonl holds both sides: the order decides.
REFERENCE_FIELDS: Final = ("reference", "text", "sentence")
HYPOTHESIS_FIELDS: Final = ("hypothesis", "pred_text", "text", "sentence")
_PATH_FIELDS: Final = ("audio_filepath", "audio", "path", "file")
_HEADER: Final = {"text", "sentence", "reference", "hypothesis", "transcript"}


@dataclass(frozen=True)
class TranscriptFile:
    """The texts of one file by id, in its order. The ids of plain lines are their line numbers."""

    path: Path
    kind: Literal["TSV", "JSONL", "plain lines"]
    texts: dict[str, str]


def read(path: Path, fields: Sequence[str]) -> TranscriptFile:
    """The transcripts in `path`; in JSONL, the text is the first of `fields` a row has.

    `.jsonl` and `.tsv` are what they are called; any other file is JSONL if it begins with `{`, TSV if its first line
    has a tab, else plain lines, of which empty ones count. Empty texts are texts. Raises DataError for a file that
    cannot be read, a row without an id or a text, an id that comes twice, and what would be taken for something that
    it is not: a CSV, and a `.tsv` without a tab.
    """
    lines = _lines(path)
    first = next((line for line in lines if line.strip()), "")
    suffix = path.suffix.lower()
    if suffix == ".csv" or (suffix == ".tsv" and first and not any("\t" in line for line in lines)):
        got = "a table with commas" if suffix == ".csv" else "a .tsv without a tab"
        raise DataError(str(path), expected="TSV, JSONL or plain lines", got=got, fix="Write id<TAB>text.")
    kind: Literal["TSV", "JSONL", "plain lines"]
    if suffix in (".jsonl", ".ndjson", ".json") or (suffix != ".tsv" and first.lstrip().startswith("{")):
        kind, rows = "JSONL", [_json_row(path, n, line, fields) for n, line in enumerate(lines, 1) if line.strip()]
    elif suffix == ".tsv" or "\t" in first:
        kind, rows = "TSV", [_tab_row(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
        if rows and rows[0][0].lower() == "id" and rows[0][1].lower() in _HEADER:
            del rows[0]
    else:
        kind, rows = "plain lines", [(str(number), line) for number, line in enumerate(lines, 1)]
    texts = dict(rows)
    if len(texts) < len(rows):
        _refuse_twice(path, [row[0] for row in rows])
    return TranscriptFile(path, kind, texts)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            str(path), expected="a file of transcripts", got=str(error.strerror), fix="Check the path."
        ) from error
    except UnicodeDecodeError as error:
        got = f"{error.reason} at byte {error.start}"
        raise DataError(str(path), expected="UTF-8 text", got=got, fix="Convert it to UTF-8.") from error
    # Not splitlines(), which also breaks at form feeds and Unicode's own separators inside a text.
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _tab_row(path: Path, number: int, line: str) -> tuple[str, str]:
    # A line of an id alone is a text of no words: editors strip the tab at its end.
    identity, _, text = line.partition("\t")
    if not identity.strip():
        raise DataError(f"{path} line {number}", expected="an id", got="none before the tab", fix="Write id<TAB>text.")
    return identity.strip(), text


def _json_row(path: Path, number: int, line: str, fields: Sequence[str]) -> tuple[str, str]:
    where = f"{path} line {number}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(where, expected="a JSON object", got=str(error), fix="Write one object a line.") from error
    if not isinstance(row, dict):
        raise DataError(where, expected="a JSON object", got=type(row).__name__, fix="Write one object a line.")
    field = next((name for name in fields if name in row), None)
    if field is None:
        got = f"only {', '.join(map(str, row)) or 'nothing'}"
        raise DataError(where, expected=f"a text under {' or '.join(fields)}", got=got, fix="Add it.")
    if not isinstance(row[field], str):
        fix = "Leave the utterance out of both files, or write its text."
        raise DataError(f"{where}, {field}", expected="a text", got=json.dumps(row[field])[:40], fix=fix)
    return _identity(where, row), row[field]


def _identity(where: str, row: dict[str, Any]) -> str:
    """`id`, else the stem of the audio file, as prep names utterances."""
    identity = row.get("id")
    if isinstance(identity, int) and not isinstance(identity, bool):
        return str(identity)
    if isinstance(identity, str) and identity:
        return identity
    path = next((row[name] for name in _PATH_FIELDS if isinstance(row.get(name), str)), "")
    if identity is not None or not Path(path).stem:
        raise DataError(where, expected="an id", got=json.dumps(identity)[:40], fix="Give every row an id of its own.")
    return Path(path).stem


def _refuse_twice(path: Path, ids: list[str]) -> None:
    seen: set[str] = set()
    twice = [one for one in ids if one in seen or seen.add(one)]  # type: ignore[func-returns-value]
    raise DataError(
        f"{path}: {twice[0]}",
        expected="each id once",
        got=f"{len(twice)} rows whose id came before",
        fix="Leave one row for each id.",
    )
