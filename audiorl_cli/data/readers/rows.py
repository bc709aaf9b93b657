"""Rows of a manifest or table, each an object of named columns -> utterances."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from audiorl_cli.data.columns import NO_VALUES, Columns, checked_name, is_missing
from audiorl_cli.data.rejected import RejectedError
from audiorl_cli.data.sources import Utterance, checked_text, confined
from audiorl_cli.data.store import Place, Url
from audiorl_cli.data.tar import Member
from audiorl_cli.data.utterance_ids import id_of_recording, part
from audiorl_cli.errors import DataError

_FILE: Final = frozenset({"path", "bytes", "sampling_rate"})
_CLAIMED_LENGTH: Final = 100  # characters of the id of a rejected row


@dataclass(frozen=True)
class Rows:
    """How rows are read whose table lies in folder `base`, from which relative names of recordings are taken.

    `clips`: a folder of `base` to look into for a file that is named without any folder. `typed`: whether an empty
    text is one of no words; where everything is text, as in a table, it is a missing one. `_whole`: the recordings that
    rows have the whole of: where, and hashes of their text and numbers.
    """

    columns: Columns
    base: Place
    root: Place | None
    clips: str = ""
    typed: bool = True
    _whole: dict[str, tuple[str, int, int]] = field(default_factory=dict, compare=False)

    def utterance(self, row: Mapping[str, Any], where: str, member: Member | None = None) -> Utterance:
        """Return the utterance in one row; `member`: the recording, where the row names a file within a tar.

        The id is the column's, else the stem of the file's name, with "@OFFSET" behind it for a part of a recording;
        where two files have one stem, the later one's id is its name as written. Raises RejectedError, and DataError
        for a column that would have to be understood.
        """
        fields = self.columns.fields(row)
        fields.check(row, where)
        if fields.audio is None:
            raise RejectedError("bad_row", f"no recording in {', '.join(row)}"[:200] + "; see --columns audio=NAME")
        name = _file_name(row[fields.audio])
        if is_missing(name):
            raise RejectedError("bad_row", "no file name")
        if not isinstance(name, str):
            raise RejectedError("bad_row", f"a file name of type {type(name).__name__}")
        path = confined(name, self.base, self.root) if member is None else member
        if not isinstance(path, Member) and self.clips and not os.path.dirname(name) and not _is_there(path):
            path = confined(f"{self.clips}/{name}", self.base, self.root)
        offset, duration = fields.part(row)
        identity, fallback = checked_name(row[fields.id] if fields.id else None, "an id"), None
        if not identity:
            identity, fallback = _id_of(name, offset), checked_name(name + part(offset), "an id")
        if fields.text is None:
            raise RejectedError("no_transcript", f"no text in {', '.join(row)}"[:200] + "; see --columns text=NAME")
        text, channel = self._text(row[fields.text]), fields.channel_of(row)
        if offset is None and channel is None:
            self._check_whole(str(path), text, fields.numbers(row, self.columns.names), where)
        return Utterance(
            id=identity,
            audio=path,
            text=text,
            source=where,
            audio_name=name,
            speaker=checked_name(row[fields.speaker] if fields.speaker else None, "a speaker"),
            offset=offset,
            duration=duration,
            channel=channel,
            fallback_id=fallback,
            extra=fields.extra(row),
            folder=self.base,
        )

    def _check_whole(self, path: str, text: str, numbers: Mapping[str, object], where: str) -> None:
        """Raise DataError where an earlier row has the whole of a recording too, with another text and other numbers.

        Then the numbers are likely to say which part of it each text belongs to.
        """
        digests = hash(text), hash(repr(numbers))
        first, *before = self._whole.setdefault(path, (where, *digests))
        if before[0] != digests[0] and before[1] != digests[1]:
            names = ", ".join(numbers)
            raise DataError(
                where,
                expected="one text for the whole of a recording",
                got=f"another than in {first}, and other values in {names}",
                fix="Say which are its parts: --columns offset=NAME,end=NAME, or extra=NAME for each that is not.",
            )

    def claimed_id(self, row: object) -> str:
        """Return what a row that cannot be used would be called, for people to find it by."""
        if not isinstance(row, Mapping):
            return ""
        fields = self.columns.fields(str(name) for name in row)
        name, identity = (_file_name(row.get(column)) if column else None for column in (fields.audio, fields.id))
        return str(identity or (Path(name).stem if isinstance(name, str) else ""))[:_CLAIMED_LENGTH]

    def paths(self, row: Mapping[str, Any]) -> Iterator[str]:
        """Yield where the recording of a row may lie, as `tree.unlisted` compares paths."""
        audio = self.columns.fields(row).audio
        name = _file_name(row[audio]) if audio else None
        for folder in ("", self.clips) if self.clips else ("",):
            if isinstance(name, str):
                path = os.path.normpath(os.path.join(folder, name))
                yield str(self.base / path) if isinstance(self.base, Url) else os.path.normpath(self.base / path)

    def _text(self, value: object) -> str:
        """A transcript. Raises RejectedError for what pandas and Python write for a missing one, too."""
        if isinstance(value, str) and (value in NO_VALUES or not (self.typed or value.strip())):
            said = f"{value!r}, as pandas and Python write a missing value" if value.strip() else "an empty cell"
            raise RejectedError("no_transcript", said)
        return checked_text(None if isinstance(value, float) and is_missing(value) else value)


def _file_name(value: object) -> object:
    """The path in an object that has nothing but that, as `datasets` writes rows down; any other value as it is."""
    if isinstance(value, Mapping) and value.get("bytes") is None and set(value) <= _FILE:
        return value.get("path")
    return value


def _is_there(path: Place) -> bool:
    return path.exists() if isinstance(path, Url) else os.path.exists(path)  # Path's raises for a name that is too long


def _id_of(name: str, offset: float | None) -> str:
    try:
        return id_of_recording(name, offset) or ""
    except ValueError as error:
        raise RejectedError("bad_row", f"an id {error}") from error
