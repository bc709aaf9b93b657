"""Kaldi data folders: `wav.scp`, `text`, and where they are there `segments` and `utt2spk`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audiorl_cli.data.readers.lines import read_lines
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Entry, Utterance, checked_name, checked_text, confined, seconds
from audiorl_cli.data.tree import unlisted
from audiorl_cli.data.utterance_ids import utterance_id
from audiorl_cli.errors import DataError


@dataclass(frozen=True)
class KaldiSource:
    """The folder at `path`. Rows come in the order of `segments`, else of `wav.scp`.

    An entry of `wav.scp` that is a command is rejected: no shell is ever started.
    """

    path: Path
    root: Path | None = None
    kind: str = "kaldi"

    def items(self) -> Iterator[Entry]:
        """One item an utterance, then the transcripts and the recordings that none has, then files that no line names.

        Raises DataError without wav.scp or text.
        """
        for name in ("wav.scp", "text"):
            if not (self.path / name).is_file():
                raise DataError(
                    str(self.path / name), expected="a file", got="none", fix="Give a Kaldi folder or another --format."
                )
        recordings, texts, speakers = self._table("wav.scp"), self._table("text"), self._table("utt2spk")
        for table in (recordings, texts, speakers):
            yield from table.problems
        segments = self.path / "segments"
        seen: set[str] = set()
        used: set[str] = set()
        for identity, recording, start, end, where in self._parts(segments, recordings):
            if isinstance(identity, Rejection):
                yield identity
                continue
            seen.add(identity)
            used.add(recording)
            try:
                if recording not in recordings.values:
                    raise RejectedError("missing", "the recording has no entry in wav.scp")
                offset, stop = seconds(start, "offset"), None if end in ("", "-1") else seconds(end, "duration")
                if offset is not None and stop is not None and stop <= offset:
                    raise RejectedError("bad_segment", f"{offset} to {stop} s")
                name = recordings.values[recording]
                yield Utterance(
                    id=checked_name(identity, "an id"),
                    audio=confined(name, self.path, self.root),
                    text=checked_text(texts.values.get(identity)),
                    source=where,
                    audio_name=name,
                    speaker=checked_name(speakers.values.get(identity, ""), "a speaker"),
                    offset=offset,
                    duration=None if offset is None or stop is None else stop - offset,
                )
            except RejectedError as error:
                yield Rejection(identity[:100], where, error.reason, error.detail)
        for identity in texts.values:
            if identity not in seen:
                yield Rejection(identity[:100], "text", "missing", "a transcript without a recording")
        for recording in recordings.values:
            if recording not in used:
                yield Rejection(recording[:100], "wav.scp", "no_transcript", "no line of segments names the recording")
        files = {os.path.normpath(self.path / name) for name in recordings.values.values()}
        yield from unlisted(self.path, files, self.path / "text")

    def _parts(self, segments: Path, recordings: "_Table") -> Iterator[tuple[str | Rejection, str, str, str, str]]:
        if not segments.exists():
            for identity in recordings.values:
                yield identity, identity, "", "", "wav.scp"
            return
        for line in read_lines(segments):
            if isinstance(line, Rejection):
                yield line, "", "", "", ""
                continue
            words, where = line.text.split(), f"segments line {line.number}"
            if len(words) != 4:
                yield Rejection("", where, "bad_row", "not UTTERANCE RECORDING START END"), "", "", "", ""
                continue
            identity, recording, start, end = words
            yield _key(identity), _key(recording), start, end, where

    def _table(self, name: str) -> "_Table":
        values: dict[str, str] = {}
        problems: list[Rejection] = []
        path = self.path / name
        for line in read_lines(path) if path.exists() else ():
            if isinstance(line, Rejection):
                problems.append(line)
                continue
            key, _, value = line.text.strip().partition(" ")
            key, _, tabbed = key.partition("\t")
            key = _key(key)
            if key in values:
                problems.append(Rejection(key[:100], f"{name} line {line.number}", "duplicate_id", "a second entry"))
                continue
            values[key] = f"{tabbed} {value}".strip() if tabbed else value.strip()
        return _Table(values, problems)


def _key(word: str) -> str:
    """An id by the one rule, so that the files of a folder agree on it; what the rule refuses is rejected later."""
    try:
        return utterance_id(word) or word
    except ValueError:
        return word


@dataclass(frozen=True)
class _Table:
    """A file of `KEY VALUE` lines, in order, and what was wrong with it."""

    values: dict[str, str]
    problems: list[Rejection]
