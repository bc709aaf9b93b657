"""The file of a shard, opened: on this disk, in the cache, or in the object store where the cache is too small.

On a disk its bytes are held to its sha256. In a store a row group is read at a time, and held to the checksums (CRC-32)
that pages carry, as the sha256 is that of all bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audiorl_cli.data.cache import fetched
from audiorl_cli.data.manifest import FileRecord, check_bytes
from audiorl_cli.data.store import Place, Url
from audiorl_cli.errors import DataError


def opened(folder: Place, record: FileRecord, *, trusted: bool = False) -> pq.ParquetFile:
    """The shard of `folder` that is on this machine, or is brought here.

    `trusted`: its bytes on this disk are not looked at; otherwise they are, once in a process. Raises DataError where
    it cannot be read or is not what `record` says.
    """
    if isinstance(folder, Url):
        return _fetched(folder / record.file, record)
    if not trusted:
        _intact(folder, record)
    return _local(str(folder / record.file), record.sha256, record.rows)


def in_place(url: Url, record: FileRecord) -> pq.ParquetFile:
    """The shard that is at `url`, for one thread. Raises DataError where it cannot be read or is no such shard."""
    with readable(url):
        footer = _footer(url, record)
        return pq.ParquetFile(url.in_place(), metadata=footer, pre_buffer=True, page_checksum_verification=True)


@contextmanager
def readable(url: Url) -> Iterator[None]:
    """While a shard is read in place: what goes wrong is a DataError that names it."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            str(url),
            expected="a shard that can be read, its pages as their checksums say",
            got=str(getattr(error, "strerror", None) or error),
            fix=f"Check the store, run again; audiorl prep --verify {url.parent} tells whether it is damaged.",
        ) from error


@cache
def _intact(folder: Path, record: FileRecord) -> None:
    check_bytes(folder, record, f"audiorl prep --verify {folder} names the rows. ")


@lru_cache(maxsize=64)
def _local(path: str, sha256: str, rows: int) -> pq.ParquetFile:
    # The digest is part of the cache's key: a folder that was written anew is opened anew.
    return _whole(path, path, rows)


@lru_cache(maxsize=4)  # an open shard takes disk space that the cache on disk has forgotten
def _fetched(url: Url, record: FileRecord) -> pq.ParquetFile:
    return _whole(fetched(url, record), str(url), record.rows)


@lru_cache(maxsize=1024)
def _footer(url: Url, record: FileRecord) -> pq.FileMetaData:
    footer = pq.read_metadata(url.in_place())
    _demand_rows(footer, str(url), record.rows)
    return footer


def _whole(source: Any, path: str, rows: int) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(source)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(path, expected="a Parquet shard", got=str(error), fix="Run audiorl prep again.") from error
    _demand_rows(file.metadata, path, rows)
    return file


def _demand_rows(footer: pq.FileMetaData, path: str, rows: int) -> None:
    if footer.num_rows != rows:
        raise DataError(
            path,
            expected=f"{rows} rows",
            got=f"{footer.num_rows} rows",
            fix="Delete the folder and run audiorl prep again.",
        )
