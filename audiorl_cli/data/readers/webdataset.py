"""WebDataset tars: files of one name up to its first dot are a sample, `KEY.flac` with `KEY.txt` or `KEY.json`.

Files need not stand next to each other, as `tar cf` of a folder leaves them in any order. Source:
https://github.com/webdataset/webdataset
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from audiorl_cli.data.columns import AS_NAMED, Columns
from audiorl_cli.data.readers.rows import Rows
from audiorl_cli.data.rejected import RejectedError, Rejection, Skipped
from audiorl_cli.data.sources import Entry, Utterance, confined
from audiorl_cli.data.store import below
from audiorl_cli.data.tar import SUFFIXES, Member, members
from audiorl_cli.data.tree import Listing, is_recording, listings, preferred, skipped
from audiorl_cli.errors import DataError

_TEXTS: Final = (".txt", ".text", ".transcript", ".transcription", ".trn", ".lab")
_TEXT_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class WebDatasetSource:
    """The tar at `path`, or every tar of a folder in order of the names. Samples come as their first files do."""

    path: Path
    root: Path | None = None
    columns: Columns = AS_NAMED
    kind: str = "webdataset"

    def items(self) -> Iterator[Entry]:
        """Yield one item a recording or transcript without one, and count what else the tars hold."""
        if self.path.is_file():
            yield from self._samples(self.path, members(self.path))
            return
        for entry in listings(self.path):
            if not isinstance(entry, Listing):
                yield entry
                continue
            for name in entry.names:
                if not name.lower().endswith(SUFFIXES):
                    yield Skipped("unlisted") if is_recording(name) else skipped(name)
                    continue
                where = below(entry.folder / name, self.path)
                try:
                    path = Path(str(confined(name, entry.folder, self.root)))
                    found = list(members(path))
                except RejectedError as error:
                    yield Rejection("", where, error.reason, error.detail)
                except DataError as error:  # one tar of several
                    yield Rejection("", where, "unreadable", f"{error.got}. {error.fix}")
                else:
                    yield from self._samples(path, found)

    def _samples(self, path: Path, found: Iterable[Member | Rejection | Skipped]) -> Iterator[Entry]:
        samples: dict[str, list[Member]] = {}
        for entry in found:
            if isinstance(entry, Member):
                samples.setdefault(_key(entry.path), []).append(entry)
            else:
                yield entry
        rows = Rows(self.columns, path.parent, self.root)
        for key, files in samples.items():
            yield from self._sample(key, files, rows)

    def _sample(self, key: str, files: Sequence[Member], rows: Rows) -> Iterator[Entry]:
        recordings: dict[str, list[Member]] = {}
        for file in files:
            if is_recording(file.path):
                recordings.setdefault(_stem(file.path), []).append(file)
        others = [file for file in files if not is_recording(file.path)]
        about = [file for file in others if file.name.lower().endswith((*_TEXTS, ".json"))]
        if len(others) > len(about):
            yield Skipped("other_file", len(others) - len(about))
        if about and not recordings:
            yield Rejection(key[:100], _where(about[0]), "missing", f"no recording {key}.*")
        for stem, same in recordings.items():
            # Of a.1.flac and a.2.flac each has its own a.1.txt, though their key is one.
            own = [file for file in about if _stem(file.path) == stem] if len(recordings) > 1 else about
            by_name = {file.path: file for file in same}
            first, further = preferred(by_name)
            for path in further:
                detail = f"{by_name[first].name} has the same transcript"
                yield Rejection(key[:100], _where(by_name[path]), "duplicate_recording", detail)
            yield self._item(by_name[first], own, rows)

    def _item(self, recording: Member, about: Sequence[Member], rows: Rows) -> Utterance | Rejection:
        row: dict[str, Any] = {}
        try:
            described = _only([file for file in about if file.name.lower().endswith(".json")], recording)
            if described is not None:
                row |= _object(described)
            text = _only([file for file in about if not file.name.lower().endswith(".json")], recording)
            if text is not None:
                row["text"] = _content(text).strip()
            row["audio_filepath"] = _where(recording)
            cut_from = _cut_from(row, rows.columns)
            one = rows.utterance({key: row[key] for key in row if key not in cut_from}, _where(recording), recording)
            return replace(one, extra={**one.extra, **cut_from})
        except RejectedError as error:
            return Rejection(
                rows.claimed_id(row) or recording.name[:100], _where(recording), error.reason, error.detail
            )


def _cut_from(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """What says where in a longer recording a sample's was, before it was cut out, as most of them are."""
    fields = columns.fields(row)
    if "offset" in fields.offset or {"offset", "end"} & {meaning for meaning, _ in columns.given}:
        return {}
    return {name: row[name] for name in (*fields.offset, *fields.end)}


def _key(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, name.partition(".")[0])


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]


def _where(member: Member) -> str:
    return f"{member.archive.name}/{member.path}"


def _only(files: Sequence[Member], recording: Member) -> Member | None:
    """The one of `files` that describes a recording: of several the one of its name, or the normalised text."""
    key = _key(recording.path)
    named = [file for file in files if _stem(file.path) == key]
    normalized = [file for file in files if "normalized" in file.name.lower()]
    for chosen in (files, named, normalized):
        if len(chosen) == 1:
            return chosen[0]
    if files:
        listed = ", ".join(file.name for file in files[:3])
        raise RejectedError("bad_row", f"several transcripts: {listed}"[:200])
    return None


def _content(member: Member) -> str:
    if member.size > _TEXT_BYTES:
        raise RejectedError("bad_row", f"{member.name} is longer than {_TEXT_BYTES} bytes")
    try:
        return member.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RejectedError("bad_row", f"{member.name} is not UTF-8") from error
    except OSError as error:
        raise RejectedError("unreadable", f"the tar: {error.strerror}") from error


def _object(member: Member) -> dict[str, Any]:
    try:
        row = json.loads(_content(member))
    except (ValueError, RecursionError) as error:
        raise RejectedError("bad_row", f"{member.name} is not JSON") from error
    if not isinstance(row, dict):
        raise RejectedError("bad_row", f"{member.name} holds JSON of type {type(row).__name__}, not an object")
    return row
