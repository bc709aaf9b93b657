"""Tarred data sets of NeMo: `tarred_audio_manifest.json`, or `sharded_manifests/manifest_N.json`, with `audio_N.tar`.

A row names a file of the tar of its `shard_id`; rows of parts of one file end in `-sub1`, `-sub2` and so on, and have
`offset` and `duration`. Source: https://github.com/NVIDIA-NeMo/NeMo, convert_to_tarred_audio_dataset.py
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from audiorl_cli.data.columns import AS_NAMED, Columns
from audiorl_cli.data.readers.jsonl import read_rows
from audiorl_cli.data.readers.rows import Rows
from audiorl_cli.data.rejected import RejectedError, Rejection, Skipped
from audiorl_cli.data.sources import Entry, Utterance, confined
from audiorl_cli.data.store import Place
from audiorl_cli.data.tar import Member, members
from audiorl_cli.data.tree import Listing, is_recording, listings, skipped
from audiorl_cli.errors import DataError

_MANIFEST: Final = re.compile(r"tarred_audio_manifest(_version_(?P<version>\d+))?\.jsonl?(\.gz)?")
_SHARDED: Final = re.compile(r"manifest[^/]*_(?P<shard>\d+)[^/]*\.jsonl?(\.gz)?")
_TAR: Final = re.compile(r"audio[^/]*_(?P<shard>\d+)[^/]*\.tar")
_PART: Final = re.compile(r"(?P<stem>.+)-sub\d+(?P<ending>\.\w+)?")
_CUT_FROM: Final = ("source_audio_offset",)
_FOLDER: Final = "sharded_manifests"
_LISTED: Final = 64  # tars whose files are remembered; rows come shard by shard


def is_manifest(path: Place) -> bool:
    """Return whether a file is a manifest of tars by its name."""
    return bool(_MANIFEST.fullmatch(path.name)) or (path.parent.name == _FOLDER and bool(_SHARDED.fullmatch(path.name)))


@dataclass
class _Set:
    """The manifests and tars of one folder. `used`: the names that rows took from each tar."""

    manifests: list[Path] = field(default_factory=list)
    tars: dict[int, Path] = field(default_factory=dict)
    used: dict[int, set[str]] = field(default_factory=dict)
    listed: "OrderedDict[int, Mapping[str, Member]]" = field(default_factory=OrderedDict)

    def files(self, shard: int) -> Mapping[str, Member]:
        """The recordings of a tar by their names. Raises DataError where it cannot be read."""
        if shard not in self.listed:
            found = (one for one in members(self.tars[shard]) if isinstance(one, Member))
            self.listed[shard] = {one.path: one for one in found}
            if len(self.listed) > _LISTED:
                self.listed.popitem(last=False)
        return self.listed[shard]


@dataclass(frozen=True)
class NemoSource:
    """The manifest at `path`, or all of a folder. Rows in the order of each manifest."""

    path: Path
    root: Path | None = None
    columns: Columns = AS_NAMED
    kind: str = "nemo"

    def items(self) -> Iterator[Entry]:
        """Yield one item a row, then count the recordings in tars that no row names, and other files.

        Raises DataError where there are no manifests or no tars.
        """
        sets: dict[Path, _Set] = {}
        if self.path.is_file():
            folder = self.path.parent
            sets[folder.parent if folder.name == _FOLDER else folder] = found = _Set([self.path])
            found.tars.update(_tars(folder.parent if folder.name == _FOLDER else folder))
        else:
            yield from self._found(sets)
        if not any(one.manifests and one.tars for one in sets.values()):
            got = "no audio_N.tar" if any(one.manifests for one in sets.values()) else "no manifest"
            fix = "Name the folder that holds both."
            raise DataError(str(self.path), expected="a manifest beside audio_N.tar", got=got, fix=fix)
        for found in sets.values():
            yield from self._set(found)

    def _found(self, sets: dict[Path, _Set]) -> Iterator[Entry]:
        """Sort what is below the folder into `sets`, and count the rest."""
        sharded: dict[Path, list[tuple[int, Path]]] = {}
        whole: dict[Path, list[tuple[int, Path]]] = {}
        for entry in listings(self.path):
            if not isinstance(entry, Listing):
                yield entry
                continue
            folder = Path(str(entry.folder))
            for name in entry.names:
                if match := _MANIFEST.fullmatch(name):
                    whole.setdefault(folder, []).append((int(match["version"] or 0), folder / name))
                elif match := _SHARDED.fullmatch(name):
                    top = folder.parent if folder.name == _FOLDER else folder
                    sharded.setdefault(top, []).append((int(match["shard"]), folder / name))
                elif match := _TAR.fullmatch(name):
                    sets.setdefault(folder, _Set()).tars[int(match["shard"])] = folder / name
                else:
                    yield Skipped("unlisted") if is_recording(name) else skipped(name)
        for folder in sorted({*whole, *sharded}):
            # A manifest of all shards says what those of each say, and a later version what earlier ones do.
            versions = [path for _, path in sorted(whole.get(folder, []))]
            shards = [path for _, path in sorted(sharded.get(folder, []))]
            sets.setdefault(folder, _Set()).manifests = versions[-1:] or shards
            passed_over = len(versions[:-1]) + (len(shards) if versions else 0)
            if passed_over:
                yield Skipped("other_transcript", passed_over)

    def _set(self, found: _Set) -> Iterator[Entry]:
        if not found.manifests:
            yield Skipped("unlisted", len(found.tars))
            return
        for manifest in found.manifests:
            rows = Rows(self.columns, manifest.parent, self.root)
            shard = _SHARDED.fullmatch(manifest.name)
            for where, row in read_rows(manifest):
                if isinstance(row, Rejection):
                    yield row
                else:
                    yield self._item(row, where, rows, found, None if shard is None else int(shard["shard"]))
        for shard_id, tar in sorted(found.tars.items()):
            used, unlisted = found.used.get(shard_id, set()), 0
            try:
                for one in members(tar):
                    if not isinstance(one, Member):
                        yield one
                    elif is_recording(one.path):
                        unlisted += one.path not in used
            except DataError as error:
                yield Rejection("", tar.name, "unreadable", error.got)
            if unlisted:
                yield Skipped("unlisted", unlisted)

    def _item(self, row: object, where: str, rows: Rows, found: _Set, shard: int | None) -> Utterance | Rejection:
        try:
            if not isinstance(row, dict):
                raise RejectedError("bad_row", f"JSON of type {type(row).__name__}, not an object")
            member = self._member(row, rows, found, shard)
            # Where the file was cut from, before it was written to its tar: it needs no further cut.
            cut_from = {key: row.pop(key) for key in _CUT_FROM if key in row}
            one = rows.utterance(row, where, member)
            return replace(one, extra={**one.extra, **cut_from})
        except RejectedError as error:
            return Rejection(rows.claimed_id(row), where, error.reason, error.detail)

    def _member(self, row: Mapping[str, Any], rows: Rows, found: _Set, shard: int | None) -> Member:
        audio = rows.columns.fields(row).audio
        name = row[audio] if audio else None
        shard = row.get("shard_id", shard)
        if not isinstance(name, str) or not isinstance(shard, int):
            raise RejectedError("bad_row", "no file name" if not isinstance(name, str) else "no shard_id")
        if shard not in found.tars:
            raise RejectedError("missing", f"no tar audio_{shard}.tar")
        tar = found.tars[shard]
        confined(tar.name, tar.parent, self.root)
        try:
            files = found.files(shard)
        except DataError as error:
            raise RejectedError("unreadable", f"{tar.name}: {error.got}") from error
        whole = _PART.fullmatch(name)
        for one in (name, f"{whole['stem']}{whole['ending'] or ''}" if whole else name):
            path = str(PurePosixPath(one))
            if path in files:
                found.used.setdefault(shard, set()).add(path)
                return files[path]
        raise RejectedError("missing", f"no {name} in {tar.name}"[:200])


def _tars(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir():
        if match := _TAR.fullmatch(path.name):
            yield int(match["shard"]), path
