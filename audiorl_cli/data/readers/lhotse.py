"""lhotse manifests: cuts, recordings with supervisions, and its Shar format (`cuts.N.jsonl.gz`, `recording.N.tar`).

An utterance is a supervision: its text, and its part of the recording, as `CutSet.trim_to_supervisions` cuts it. What
prep would have to do to the audio is never passed over: cuts that are mixed, padded or transformed are rejected.
Source: https://lhotse.readthedocs.io, checked against manifests that lhotse 1.33 writes.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from audiorl_cli.core import SAMPLE_RATE
from audiorl_cli.data.columns import Fields, checked_name, seconds
from audiorl_cli.data.readers.jsonl import read_rows
from audiorl_cli.data.rejected import RejectedError, Rejection, Skipped
from audiorl_cli.data.sources import Entry, Utterance, checked_text, confined
from audiorl_cli.data.store import Place, Url
from audiorl_cli.data.tar import Member, members
from audiorl_cli.data.tree import is_recording, unlisted
from audiorl_cli.errors import DataError

_MANIFEST: Final = re.compile(r".*(cuts|recordings|supervisions).*\.jsonl?(\.gz)?")
_SHAR: Final = re.compile(r"cuts\.(?P<shard>\d+)\.jsonl(\.gz)?")
_CUTS: Final = ("MonoCut", "MultiCut", "Cut")
_OTHER_CUTS: Final = {"MixedCut": "a cut that is padded, or a mix of several", "PaddingCut": "nothing but padding"}
_SLACK: Final = 0.05  # seconds: lhotse rounds to samples
_PLAIN: Final = Fields(None, None, None)


def kind_of(path: Place) -> str | None:
    """Return "cuts", "recordings" or "supervisions" where a manifest's first row is one of these, else None."""
    try:
        _, row = next(read_rows(path), ("", None))
    except DataError:
        return None
    if not isinstance(row, dict) or "id" not in row:
        return None
    if row.get("type") in (*_CUTS, *_OTHER_CUTS):
        return "cuts"
    if isinstance(row.get("sources"), list) and "sampling_rate" in row:
        return "recordings"
    segment = row.keys() >= {"recording_id", "start", "duration"} and Fields.of(row).audio is None
    return "supervisions" if segment else None


def manifests(folder: Path) -> list[Path]:
    """Return the manifests right in a folder, by their names and first rows, sorted."""
    named = sorted(path for path in folder.iterdir() if path.is_file() and _MANIFEST.fullmatch(path.name))
    return [path for path in named if kind_of(path)]


@dataclass
class _Shard:
    """The recordings of one tar of Shar, by the cut's id. `used`: the ids that cuts have taken."""

    tar: Path
    files: dict[str, Member] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class LhotseSource:
    """The manifest at `path`, or that of a folder; of several the one whose name has `split` in it.

    Relative names of recordings are taken from the manifest's folder, or where there is no such file from the working
    folder, as lhotse does.
    """

    path: Path
    root: Path | None = None
    split: str | None = None
    kind: str = "lhotse"

    def items(self) -> Iterator[Entry]:
        """Yield one item a supervision, or cut or recording without one, and count the other files of a folder.

        Raises DataError where manifests are missing, or several could be meant.
        """
        used: set[str] = set()
        if self.path.is_dir() and any(_SHAR.fullmatch(path.name) for path in self.path.iterdir()):
            yield from self._shar(self.path)
            return
        chosen = self._chosen()
        if kind_of(chosen) == "cuts":
            yield from self._cuts(chosen, None, used)
            tables = [chosen]
        else:
            recordings, supervisions = self._pair(chosen, "recordings"), self._pair(chosen, "supervisions")
            yield from self._supervisions(recordings, supervisions, used)
            tables = [recordings, supervisions]
        if self.path.is_dir():
            yield from unlisted(self.path, {*used, *map(str, tables)}, chosen)

    def _chosen(self) -> Path:
        if self.path.is_file():
            return self.path
        found = manifests(self.path)
        cuts = [path for path in found if kind_of(path) == "cuts"] or [
            path for path in found if kind_of(path) == "recordings"
        ]
        named = [path for path in cuts if self.split is None or self.split in re.split(r"[._]", path.name)]
        if len(named) != 1:
            listed = ", ".join(path.name for path in (named or cuts)[:5]) or "none"
            fix = "Name one of them, or a word of its name with --split."
            raise DataError(str(self.path), expected="one manifest of cuts or recordings", got=listed, fix=fix)
        return named[0]

    def _pair(self, path: Path, kind: str) -> Path:
        """The manifest that belongs to one of recordings or supervisions. Raises DataError where there is none."""
        own = kind_of(path)
        if own == kind:
            return path
        other = path.with_name(path.name.replace(str(own), kind))
        if not other.is_file() or other == path:
            got = f"no {other.name}" if other != path else "one whose name does not say recordings or supervisions"
            raise DataError(str(path), expected=f"{kind} beside it", got=got, fix="Name a manifest of cuts, or add it.")
        return other

    def _shar(self, folder: Path) -> Iterator[Entry]:
        for path in sorted(folder.iterdir()):
            match = _SHAR.fullmatch(path.name)
            if match is None:
                if path.is_file() and not re.fullmatch(r"recording\.\d+\.tar", path.name):
                    yield Skipped("unlisted" if is_recording(path.name) else "other_file")
                continue
            tar = folder / f"recording.{match['shard']}.tar"
            if not tar.is_file():
                raise DataError(str(path), expected=f"{tar.name} beside it", got="none", fix="Export that field, too.")
            shard = _Shard(tar)
            for entry in members(tar):
                if not isinstance(entry, Member):
                    yield entry
                elif not entry.name.endswith((".json", ".nometa", ".nodata")):
                    shard.files[str(PurePosixPath(entry.path).with_suffix(""))] = entry
            yield from self._cuts(path, shard, set())
            left = len(shard.files.keys() - shard.used)
            if left:
                yield Skipped("unlisted", left)

    def _cuts(self, path: Path, shard: _Shard | None, used: set[str]) -> Iterator[Entry]:
        for entry in _rows(path):
            if isinstance(entry, Rejection):
                yield entry
                continue
            where, cut = entry
            supervisions = cut.get("supervisions") or []
            try:
                kind = cut.get("type")
                if kind not in _CUTS:
                    raise RejectedError(
                        "bad_row", f"{_OTHER_CUTS.get(str(kind), 'no cut of a recording')} ({kind})"[:200]
                    )
                recording = cut.get("recording")
                if not isinstance(recording, dict):
                    raise RejectedError("missing", "a cut without a recording")
                if shard is not None:
                    recording = {**recording, "member": shard.files.get(str(cut.get("id")))}
                    shard.used.add(str(cut.get("id")))
                used.update(_paths(recording, path.parent))
                if not isinstance(supervisions, list) or not supervisions:
                    raise RejectedError("no_transcript", "a cut without supervisions")
            except RejectedError as error:
                yield Rejection(str(cut.get("id") or "")[:100], where, error.reason, error.detail)
                continue
            for number, supervision in enumerate(supervisions):
                at = where if len(supervisions) == 1 else f"{where} supervision {number}"
                yield self._item(at, cut, recording, supervision, path.parent, alone=len(supervisions) == 1)

    def _supervisions(self, recordings: Path, supervisions: Path, used: set[str]) -> Iterator[Entry]:
        found: dict[str, str] = {}
        for entry in _rows(recordings):
            if isinstance(entry, Rejection):
                yield entry
                continue
            where, recording = entry
            if str(recording.get("id")) in found:
                yield Rejection(str(recording.get("id"))[:100], where, "duplicate_id", "an earlier row has this id")
            else:
                found[str(recording.get("id"))] = json.dumps(recording)
        said: set[str] = set()
        for entry in _rows(supervisions):
            if isinstance(entry, Rejection):
                yield entry
                continue
            where, row = entry
            name = str(row.get("recording_id"))
            said.add(name)
            if name not in found:
                yield Rejection(str(row.get("id") or "")[:100], where, "missing", f"no recording {name}"[:200])
                continue
            recording = json.loads(found[name])
            used.update(_paths(recording, recordings.parent))
            cut = {"id": row.get("id"), "start": 0, "duration": recording.get("duration")}
            yield self._item(where, cut, recording, row, recordings.parent, alone=True)
        for name in found:
            if name not in said:
                yield Rejection(name[:100], recordings.name, "no_transcript", "no supervision of this recording")

    def _item(
        self,
        where: str,
        cut: Mapping[str, Any],
        recording: Mapping[str, Any],
        supervision: object,
        base: Path,
        *,
        alone: bool,
    ) -> Utterance | Rejection:
        identity = cut.get("id")
        try:
            if not isinstance(supervision, dict):
                raise RejectedError("bad_row", "a supervision that is no object")
            identity = identity if alone else supervision.get("id")
            _check_transforms(recording)
            audio, name, channel = self._source(
                recording, _channels(supervision.get("channel", cut.get("channel"))), base
            )
            offset, duration = _part(cut, supervision, recording)
            about = {key: supervision[key] for key in ("language", "gender") if supervision.get(key) is not None}
            custom = [one for one in (cut.get("custom"), supervision.get("custom")) if isinstance(one, dict)]
            text = supervision.get("text")
            return Utterance(
                id=checked_name(identity, "an id") or checked_name(supervision.get("id"), "an id"),
                audio=audio,
                text=checked_text(text),
                source=where,
                audio_name=name,
                speaker=checked_name(supervision.get("speaker"), "a speaker"),
                offset=offset,
                duration=duration,
                channel=channel,
                extra=_PLAIN.extra({key: value for one in (*custom, about) for key, value in one.items()}),
            )
        except RejectedError as error:
            return Rejection(str(identity or "")[:100], where, error.reason, error.detail)

    def _source(
        self, recording: Mapping[str, Any], channels: list[int] | None, base: Path
    ) -> tuple[Place | Member, str, int | None]:
        """The file of a recording that has `channels`, its name, and the channel to read where it has several."""
        sources = [(one, _channels(one.get("channels")) or [0]) for one in _objects(recording, "sources")]
        holding = [one for one in sources if channels is None or {*channels} <= {*one[1]}]
        if len(holding) != 1:
            several = f"channels {channels} in several files" if sources else "a recording without a source"
            raise RejectedError("bad_channel" if sources else "missing", several)
        ((source, own),) = holding
        channel = None
        if channels is not None and sorted(channels) != sorted(own):
            if len(channels) > 1:
                raise RejectedError("bad_channel", f"channels {channels} of {own}")
            channel = own.index(channels[0])
        kind, name = source.get("type"), source.get("source")
        if kind == "shar":
            member = recording.get("member")
            if not isinstance(member, Member):
                raise RejectedError("missing", "no recording in the tar")
            return member, f"{member.archive.name}/{member.path}", channel
        if kind not in ("file", "url") or not isinstance(name, str):
            raise RejectedError("not_a_file", f"a source of type {kind}, not file or url"[:100])
        path = confined(name, base, self.root)
        if isinstance(path, Path) and not path.exists():
            here = confined(name, Path.cwd(), self.root)
            path = here if isinstance(here, Url) or here.exists() else path
        return path, name, channel


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]] | Rejection]:
    for where, row in read_rows(path):
        if isinstance(row, dict):
            yield where, row
        elif isinstance(row, Rejection):
            yield row
        else:
            yield Rejection("", where, "bad_row", "not a JSON object")


def _channels(value: object) -> list[int] | None:
    """The channels of a supervision or cut. Raises RejectedError where they are no numbers."""
    if value is None:
        return None
    listed = value if isinstance(value, list) else [value]
    channels = [one for one in listed if isinstance(one, int) and not isinstance(one, bool)]
    if not channels or len(channels) < len(listed):
        raise RejectedError("bad_row", f"channels {value!r}"[:100])
    return channels


def _part(
    cut: Mapping[str, Any], supervision: Mapping[str, Any], recording: Mapping[str, Any]
) -> tuple[float | None, float | None]:
    """Offset and duration of a supervision in its recording, None and its length where it is all of it.

    Raises RejectedError where the supervision reaches outside its cut: words of its text are not in it.
    """
    total = seconds(recording.get("duration"), "duration")
    start, length = seconds(cut.get("start"), "start") or 0.0, seconds(cut.get("duration"), "duration")
    try:
        begin = float(supervision.get("start") or 0.0)  # a supervision may begin before its cut
    except (TypeError, ValueError, OverflowError) as error:
        raise RejectedError("bad_segment", "a start that is not a number") from error
    duration = seconds(supervision.get("duration"), "duration")
    if length is None or duration is None:
        raise RejectedError("bad_segment", "no duration")
    if not -_SLACK <= begin <= begin + duration <= length + _SLACK:
        raise RejectedError("bad_segment", f"a supervision from {begin:g} to {begin + duration:g} s of {length:g} s")
    offset = max(0.0, round(start + begin, 9))
    if total is not None and offset == 0 and abs(duration - total) < 1e-3:
        return None, total
    return offset, duration


def _objects(recording: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects in a list of a recording. Raises RejectedError where it is no such list."""
    listed = recording.get(key)
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise RejectedError("bad_row", f"{key} that are no list of objects")
    return listed


def _check_transforms(recording: Mapping[str, Any]) -> None:
    """Raise RejectedError for a transform that prep would have to apply: it resamples to 16 kHz, and does no other."""
    for one in _objects(recording, "transforms"):
        options = one.get("kwargs") if one.get("name") == "Resample" else None
        rate = options.get("target_sampling_rate") if isinstance(options, dict) else None
        if not isinstance(rate, int) or rate < SAMPLE_RATE:
            said = json.dumps(one, default=str)[:150]
            raise RejectedError("bad_row", f"a transform that prep does not apply: {said}; save the audio with it")


def _paths(recording: Mapping[str, Any], base: Path) -> Iterator[str]:
    for source in _objects(recording, "sources"):
        if isinstance(source.get("source"), str) and "\0" not in source["source"]:
            yield str(base / source["source"])
