"""What prep left in a folder, held to its manifest: every byte of every file, then every row."""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audiorl_cli.core import HOP_LENGTH, INPUT_FEATURES, SAMPLE_RATE
from audiorl_cli.data.manifest import MANIFEST, FileRecord, check_bytes
from audiorl_cli.data.rejected import RejectedError
from audiorl_cli.data.shards import Column, Row, Shards, open_shards, schema
from audiorl_cli.data.sources import checked_name, checked_text
from audiorl_cli.data.store import Place, Url
from audiorl_cli.errors import DataError

_DEFECT: Final = (
    "The file is as it was written, so its writer is at fault: delete the folder and run audiorl prep again."
)


@dataclass(frozen=True)
class Verification:
    """A folder where nothing is wrong. `bytes`: of its shards; `rejected`: lines of `rejected.jsonl`."""

    folder: Place
    utterances: int
    hours: float
    shards: int
    bytes: int
    rejected: int
    elapsed_seconds: float


def verify(
    folder: Place,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Verification:
    """Check all that prep left in `folder`. `on_row` gets every row, `on_progress` how many of how many.

    The manifest comes first, then the sizes, `rejected.jsonl`, and the shards in order: of each the sha256, the
    columns, and row by row the window, the frames, the transcript and an id that the folder has only once. Raises
    DataError for the first that is not as prep leaves it.
    """
    started = time.monotonic()
    shards = open_shards(folder)
    rejected, totals = FileRecord(**shards.manifest["rejected"]), shards.manifest["totals"]
    _refuse_strays(shards)
    _check_rejected(folder, rejected, totals["rejected"])
    ids: dict[str, str] = {}
    durations = []
    for record in shards.records:
        _check_shard(shards, record)
        for row in _rows(shards, record, ids):
            on_row(row)
            durations.append(row.duration_s)
            on_progress(len(durations), shards.rows)
    hours = math.fsum(durations) / 3600
    if totals["utterances"] != len(durations) or not math.isclose(totals["hours"], hours, abs_tol=1e-6):
        expected = f"{totals['utterances']} utterances of {totals['hours']} h in the shards"
        raise _fault(folder / MANIFEST, expected, f"{len(durations)} of {hours:.9f} h", _DEFECT)
    size, seconds = sum(record.bytes for record in shards.records), time.monotonic() - started
    return Verification(folder, len(durations), hours, len(shards.records), size, rejected.rows, seconds)


def _refuse_strays(shards: Shards) -> None:
    """Whatever reads the folder's Parquet files by their names would take a stray one for data."""
    known = {record.file for record in shards.records}
    names = shards.folder.files() if isinstance(shards.folder, Url) else os.listdir(shards.folder)
    for name in sorted(names):
        if name.endswith(".parquet") and name not in known:
            raise _fault(
                shards.folder / name, "no shard that the manifest does not name", "one", "Move it out of the folder."
            )


def _check_rejected(folder: Place, record: FileRecord, reasons: dict[str, int]) -> None:
    check_bytes(folder, record)
    path = folder / record.file
    found = Counter(json.loads(line)["reason"] for line in path.read_bytes().decode().splitlines())
    if found != reasons or found.total() != record.rows:
        raise _fault(path, f"{record.rows} lines: {reasons}", f"{found.total()}: {dict(found)}", _DEFECT)


def _check_shard(shards: Shards, record: FileRecord) -> None:
    """The bytes of a shard, then its columns."""
    path = shards.folder / record.file
    try:
        check_bytes(shards.folder, record)
    except DataError as error:
        if isinstance(path, Url):
            raise
        raise _fault(f"{path}{_damaged_row(path, record)}", error.expected, error.got, error.fix) from error
    columns = [Column(**column) for column in shards.manifest["columns"]]
    expected, found = schema(columns, shards.clip_frames, shards.dtype), shards.arrow(record)
    for one, other in zip_longest(_columns(expected), _columns(found), fillvalue=("none", "")):
        if one != other:
            raise _fault(path, "column {} {}".format(*one), "{} {}".format(*other), _DEFECT)


def _columns(arrow: pa.Schema) -> Iterator[tuple[str, object]]:
    for field in arrow:
        extended = isinstance(field.type, pa.BaseExtensionType)  # where `datasets` is imported
        yield field.name, field.type.storage_type if extended else field.type


def _damaged_row(path: Path, record: FileRecord) -> str:
    """The first row of a damaged shard that cannot be read, or whose checksum fails; "" where there is none such."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException):
        return ""  # it is the footer that is damaged, or there is no file
    whole = 0
    try:
        for _ in file.iter_batches(batch_size=1):
            whole += 1
    except (OSError, ValueError, pa.ArrowException):
        # Arrow looks at the beginning of a row to see where the one before it ends: it is this one or the next.
        return " row " + " or ".join(map(str, range(whole, min(whole + 2, record.rows))))
    return ""


def _rows(shards: Shards, record: FileRecord, ids: dict[str, str]) -> Iterator[Row]:
    """The rows of a shard, each checked. `ids`: where each id was met."""
    path, number = shards.folder / record.file, 0
    try:
        for group in shards.groups(record):
            for row in group:
                where = f"{path} row {number}"
                for expected, got in _row_faults(row, shards.clip_frames):
                    raise _fault(f"{where} (id {row.id!r})", expected, got, _DEFECT)
                if row.id in ids:
                    raise _fault(where, "an id of its own", f"{row.id!r}, which {ids[row.id]} has too", _DEFECT)
                ids[row.id] = f"{record.file} row {number}"
                yield row
                number += 1
    except (ValueError, OSError) as error:  # what Arrow raises, and `Shards.groups`
        raise _fault(f"{path} row {number}", f"a window of {shards.clip_frames} frames", str(error), _DEFECT) from error


def _row_faults(row: Row, frames: int) -> Iterator[tuple[str, str]]:
    """What is expected of a row, and what it has instead."""
    try:
        checked_name(row.id, "an id")
        checked_name(row.speaker, "a speaker")
        checked_text(row.text)
    except RejectedError as error:
        yield "id, speaker and transcript", error.detail
    if not isinstance(row.num_frames, int) or not 1 <= row.num_frames <= frames:
        yield f"num_frames of 1 to {frames}", str(row.num_frames)
    if row.duration_s is None or row.num_frames != -(-round(row.duration_s * SAMPLE_RATE) // HOP_LENGTH):
        yield f"a duration of {row.num_frames} frames of 10 ms", f"{row.duration_s} s"
    finite = np.isfinite(row.features)
    if not finite.all():
        mel, frame = np.argwhere(~finite)[0]
        yield f"finite {INPUT_FEATURES}", f"{row.features[mel, frame]} in frame {frame}, mel bin {mel}"


def _fault(item: Place | str, expected: str, got: str, fix: str) -> DataError:
    return DataError(str(item), expected=expected, got=got, fix=fix)
