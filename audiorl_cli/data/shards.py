"""The shard format: Parquet files of rows ready for the model.

A row is one utterance: its text and its log-mel window [128, frames]. `datasets.load_dataset("parquet")` gives the
windows back as arrays: the schema carries the metadata that library writes for its own `Array2D`.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float32

from audiorl_cli.core import INPUT_FEATURES, MEL_BINS
from audiorl_cli.data.cache import bound
from audiorl_cli.data.manifest import FileRecord, check_sizes, not_shards, read_manifest, recorded
from audiorl_cli.data.pages import Page, join, page
from audiorl_cli.data.shard_file import in_place, opened, readable
from audiorl_cli.data.store import Place, Url
from audiorl_cli.errors import DataError

FeatureDtype = Literal["float16", "float32"]
ColumnType = Literal["string", "int64", "float64", "bool", "json"]

# Rows are read one at a time and in any order while training: a row group is what one such read has to decode.
_ROW_GROUP_BYTES: Final = 1 << 21
_AT_ONCE: Final = 32  # pieces that a store is asked for at a time: most of it is waiting
_ARROW: Final[dict[str, pa.DataType]] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "json": pa.string(),
}
_ARRAY2D: Final = "datasets.features.features.Array2DExtensionType"
_FIXED: Final = {"id": "string", "text": "string", "speaker": "string", "duration_s": "float64", "num_frames": "int32"}
RESERVED_COLUMNS: Final = frozenset({*_FIXED, INPUT_FEATURES})


@dataclass(frozen=True)
class _Facts:
    id: str
    text: str
    speaker: str
    duration_s: float
    num_frames: int


@dataclass(frozen=True)
class Row(_Facts):
    """One utterance. `features`: log-mel [128, frames] float32, the first `num_frames` of them audio."""

    features: Float[np.ndarray, "mels frames"]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PackedRow(_Facts):
    """One utterance ready to be written: its features, in their final dtype, as a finished `page` of `frames`."""

    frames: int
    page: Page
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column kept from the source. "json" holds what has no one plain type, each value written as JSON."""

    name: str
    type: ColumnType


@dataclass(frozen=True)
class StagedShard:
    """A shard that is whole and on disk under a `temporary` name, or whole in an object store under its own."""

    temporary: Place
    record: FileRecord


@dataclass(frozen=True)
class Shards:
    """A folder of shards, opened. Rows are numbered from 0 through all shards, in source order.

    `chosen`: the numbers of the rows that are taken, which then are numbered from 0 among themselves; None: all.
    """

    folder: Place
    manifest: Mapping[str, Any]
    records: tuple[FileRecord, ...]
    rows: int
    clip_frames: int
    dtype: FeatureDtype
    digest: str
    chosen: tuple[int, ...] | None = None

    @property
    def paths(self) -> list[Place]:
        """The shard files, in order."""
        return [self.folder / record.file for record in self.records]

    @property
    def columns(self) -> list[str]:
        """The names of what is known of every row. Raises DataError for a shard that is not whole."""
        with self._file(self.records[0]) as file:
            return cast(list[str], file.schema_arrow.names)

    def texts(self) -> list[str]:
        """The transcript of every row."""
        return cast(list[str], self.column("text"))

    def column(self, name: str) -> list[Any]:
        """One column of every row, as Python values. Raises DataError where there is no such column."""
        if name not in self._facts.column_names:
            raise DataError(
                f"column {name!r} of {self.folder}",
                expected=f"one of {', '.join(self._facts.column_names)}",
                got="no such column",
                fix="Name a column that prep kept.",
            )
        values = cast(list[Any], self._facts.column(name).to_pylist())
        return values if self.chosen is None else [values[number] for number in self.chosen]

    def only(self, ids: Iterable[str]) -> "Shards":
        """The rows that have one of these ids, in source order; their digest is another one.

        Raises DataError for an id that no row has, and where there are none.
        """
        numbers = {identity: number for number, identity in enumerate(self.column("id"))}
        wanted = set(ids)
        strangers = sorted(wanted - numbers.keys())
        if strangers or not wanted:
            raise DataError(
                f"ids of rows of {self.folder}",
                expected="some that are there",
                got=f"{strangers[0]!r}, which is not" if strangers else "none",
                fix="Name rows of this folder.",
            )
        chosen = tuple(sorted(numbers[identity] for identity in wanted))
        digest = hashlib.sha256(f"{self.digest} {chosen}".encode()).hexdigest()
        return replace(self, rows=len(chosen), digest=digest, chosen=chosen)

    def read(self, indices: Sequence[int]) -> list[Row]:
        """The rows with these numbers, in this order. Raises IndexError beyond the last row."""
        starts = [0, *accumulate(record.rows for record in self.records)]
        wanted: dict[int, list[tuple[int, int]]] = {}  # by shard, places in the answer and offsets in the shard
        for place, index in enumerate(indices):
            if not 0 <= index < self.rows:
                raise IndexError(f"row {index} of {self.folder}: it has {self.rows} rows")
            index = index if self.chosen is None else self.chosen[index]
            shard = bisect_right(starts, index) - 1
            wanted.setdefault(shard, []).append((place, index - starts[shard]))

        def of_shard(shard: int) -> list[tuple[int, Row]]:
            places, offsets = zip(*sorted(wanted[shard], key=itemgetter(1)), strict=True)
            with self._file(self.records[shard]) as file:
                return list(zip(places, self._rows(file, offsets), strict=True))

        with ThreadPoolExecutor(_AT_ONCE if self._in_place else 1) as pool:
            found = dict(chain.from_iterable(pool.map(of_shard, wanted)))
        return [found[place] for place in range(len(indices))]

    def iterate(self, batch_size: int) -> Iterator[list[Row]]:
        """All rows in order, `batch_size` at a time; the last batch may be smaller."""
        if batch_size < 1:
            raise ValueError(f"batch_size: expected >= 1, got {batch_size}")
        for start in range(0, self.rows, batch_size):
            yield self.read(range(start, min(start + batch_size, self.rows)))

    def groups(self, record: FileRecord) -> Iterator[list[Row]]:
        """The rows of one shard in order, as many at a time as are decoded together; its bytes are taken on trust.

        Raises ValueError where a window has another shape.
        """
        with self._file(record, trusted=True) as file:
            first = 0
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                yield list(self._rows(file, range(first, first + rows)))
                first += rows

    def arrow(self, record: FileRecord) -> pa.Schema:
        """The columns of one shard, as Arrow reads them; its bytes are taken on trust."""
        with self._file(record, trusted=True) as file:
            return file.schema_arrow

    @cached_property
    def _in_place(self) -> bool:
        """Whether they are in a store, and more than the cache may hold: nearly every row would be another shard."""
        return isinstance(self.folder, Url) and sum(record.bytes for record in self.records) > bound()

    @cached_property
    def _facts(self) -> pa.Table:
        """Of every row, also of those that are not chosen, all but its window."""

        def of_shard(record: FileRecord) -> pa.Table:
            with self._file(record) as file:
                return file.read(columns=[name for name in file.schema_arrow.names if name != INPUT_FEATURES])

        with ThreadPoolExecutor(_AT_ONCE if self._in_place else None) as pool:  # one core takes long over many bytes
            return pa.concat_tables(pool.map(of_shard, self.records))

    @contextmanager
    def _file(self, record: FileRecord, *, trusted: bool = False) -> Iterator[pq.ParquetFile]:
        if isinstance(self.folder, Url) and self._in_place:
            url = self.folder / record.file
            with readable(url), in_place(url, record) as file:
                yield file
        else:
            yield opened(self.folder, record, trusted=trusted)

    def _rows(self, file: pq.ParquetFile, offsets: Iterable[int]) -> Iterator[Row]:
        """The rows at these places of a shard, each group of them decoded once where its rows come together."""
        per_group = file.metadata.row_group(0).num_rows
        for group, of_group in groupby(offsets, key=lambda offset: offset // per_group):
            table = file.read_row_group(group)
            features = _windows(table.column(INPUT_FEATURES), self.clip_frames)
            plain = table.drop_columns([INPUT_FEATURES])
            for offset in (offset % per_group for offset in of_group):
                (values,) = plain.slice(offset, 1).to_pylist()
                fixed = {name: values.pop(name) for name in _FIXED}
                yield Row(**fixed, features=features[offset].astype(np.float32), extra=values)


def open_shards(folder: Place) -> Shards:
    """Open a folder that prep wrote. Reads its manifest and the sizes of its shards.

    Before the first row of a shard is given its bytes are held to its sha256, once in a process, or what is read of it
    to its checksums (`shard_file`). Raises DataError where the folder, its manifest or one of its shards is missing or
    not as prep leaves them.
    """
    manifest = read_manifest(folder)
    try:
        records = tuple(FileRecord(**entry) for entry in manifest["shards"])
        clip_frames, dtype = int(manifest["features"]["clip_frames"]), manifest["features"]["dtype"]
    except (KeyError, TypeError, ValueError) as error:
        raise not_shards(folder, f"a manifest without {error}") from error
    check_sizes(folder, records)
    digest = hashlib.sha256("".join(record.sha256 for record in records).encode()).hexdigest()
    return Shards(folder, manifest, records, sum(r.rows for r in records), clip_frames, dtype, digest)


def pack(row: Row, dtype: FeatureDtype) -> PackedRow:
    """The row as `write_shard` takes it."""
    facts = {name: getattr(row, name) for name in _FIXED}
    window = row.features.astype(dtype, copy=False)
    return PackedRow(**facts, frames=window.shape[1], page=page(window), extra=row.extra)


def shard_bytes(rows: Sequence[PackedRow], columns: Sequence[Column], dtype: FeatureDtype) -> bytes:
    """The Parquet file of `rows`, which depends on the arguments alone.

    `columns` are those of `extra`; a row that lacks one holds null there.
    """
    arrow = schema(columns, rows[0].frames, dtype)
    table = pa.Table.from_arrays(
        [
            *(pa.array([getattr(row, name) for row in rows], _ARROW[kind]) for name, kind in _FIXED.items()),
            *(pa.array([_plain(row.extra.get(c.name), c.type) for row in rows], _ARROW[c.type]) for c in columns),
            pa.nulls(len(rows), arrow.field(INPUT_FEATURES).type),
        ],
        schema=arrow,
    )
    row_bytes = MEL_BINS * rows[0].frames * np.dtype(dtype).itemsize
    return join(table, [row.page for row in rows], max(1, _ROW_GROUP_BYTES // row_bytes))


def stage_shard(path: Place, record: FileRecord, content: bytes) -> StagedShard:
    """Write `content`, which `record` is of, as the shard that `publish` puts at `path`."""
    return StagedShard(_stage(path, content), record)


def write_shard(path: Place, rows: Sequence[PackedRow], columns: Sequence[Column], dtype: FeatureDtype) -> FileRecord:
    """Write `rows` as one shard, which appears under its name only when it is whole and on disk."""
    content = shard_bytes(rows, columns, dtype)
    write_whole(path, content)
    return recorded(path.name, len(rows), content)


def write_whole(path: Place, content: bytes) -> None:
    """Put `content` at `path` so that a reader sees all of it or none: a temporary file, fsync, rename; or one PUT."""
    publish(_stage(path, content), path)


def publish(temporary: Place, path: Place) -> None:
    """Give a file that is whole and on disk its name. In an object store it has it."""
    if isinstance(temporary, Url) or isinstance(path, Url):
        return
    with _writing(temporary, path):
        os.replace(temporary, path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the rename itself must survive a power cut
        finally:
            os.close(descriptor)


def _stage(path: Place, content: bytes) -> Place:
    if isinstance(path, Url):
        try:
            path.write_bytes(content)
        except OSError as error:
            fix = "Check the store and the credentials, run again."
            raise DataError(str(path), expected="to write it", got=str(error.strerror), fix=fix) from error
        return path
    # The process in the name: what one that outlived its run still writes is never what another publishes.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _writing(temporary, path), open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return temporary


@contextmanager
def _writing(temporary: Path, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(
            str(path), expected="to write it", got=str(error.strerror), fix="Free disk space or choose another --out."
        ) from error


def _plain(value: Any, kind: ColumnType) -> Any:
    if value is not None and kind == "json":
        return json.dumps(value, sort_keys=True, default=str)
    return float(value) if value is not None and kind == "float64" else value


def schema(columns: Sequence[Column], frames: int, dtype: FeatureDtype) -> pa.Schema:
    """The columns of every shard of a folder, the window last."""
    kinds = _FIXED | {column.name: "string" if column.type == "json" else column.type for column in columns}
    features: dict[str, dict[str, Any]] = {n: {"dtype": kind, "_type": "Value"} for n, kind in kinds.items()}
    features[INPUT_FEATURES] = {"shape": [MEL_BINS, frames], "dtype": dtype, "_type": "Array2D"}
    arrow = [(name, _ARROW[kind]) for name, kind in kinds.items()]
    # Where `datasets` is imported its Array2D is a registered Arrow type, and this is how one is spelled in a file;
    # anything else reads plain lists of lists.
    spelled = {"ARROW:extension:name": _ARRAY2D, "ARROW:extension:metadata": json.dumps([[MEL_BINS, frames], dtype])}
    window = pa.field(INPUT_FEATURES, pa.list_(pa.list_(pa.from_numpy_dtype(np.dtype(dtype)))), metadata=spelled)
    return pa.schema([*arrow, window], metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _windows(column: pa.ChunkedArray, frames: int) -> Float32[np.ndarray, "rows mels frames"]:
    lists = [chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk for chunk in column.chunks]
    for nested, length in ((lists, MEL_BINS), ([chunk.flatten() for chunk in lists], frames)):
        found = {size for chunk in nested for size in chunk.value_lengths().unique().to_pylist()}
        if found != {length}:
            raise ValueError(f"lists of {sorted(map(str, found))} values, not {length}")
    values = [chunk.flatten().flatten().to_numpy(zero_copy_only=False) for chunk in lists]
    windows: Float32[np.ndarray, "rows mels frames"] = np.concatenate(values).reshape(-1, MEL_BINS, frames)
    return windows
