"""Shards of an object store on this machine's disk, held to their sha256; the longest unused make room for others.

The folder is AUDIORL_CACHE, `audiorl` in the user's cache otherwise; it holds at most AUDIORL_CACHE_GB, 50 otherwise.
Any number of processes may share it: a shard is known by its sha256, whichever folder it is of. Beside the shards, and
not counted, are folders that processes hold while they live: a run that is learnt, a model that is used.
"""

import atexit
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pyarrow as pa

from audiorl_cli import caches
from audiorl_cli.data.manifest import COPY_AGAIN, FileRecord, digest_of
from audiorl_cli.data.store import Url
from audiorl_cli.errors import ConfigError, DataError

_GIGABYTES: Final = 50.0


def fetched(url: Url, record: FileRecord) -> pa.NativeFile:
    """The shard that is at `url`, opened on this machine. It stays readable when it has to make room for others.

    Raises DataError where it cannot be read or is not what `record` says, and where the cache cannot be written.
    """
    folder = caches.folder()
    path = folder / record.sha256
    with suppress(FileNotFoundError):
        file = pa.OSFile(str(path))
        if digest_of(path) == record.sha256:
            os.utime(path)
            return file
        path.unlink()  # damaged on this disk
    try:
        content = url.read_bytes()
    except OSError as error:
        raise DataError(
            str(url), expected="a shard to read", got=str(error.strerror), fix="Check the store, run again."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != record.sha256:
        expected = f"a sha256 beginning {record.sha256[:16]}"
        raise DataError(str(url), expected=expected, got=found[:16], fix=COPY_AGAIN)
    return _kept(path, content)


def _kept(path: Path, content: bytes) -> pa.NativeFile:
    """Write a shard into the cache, under its lock: so that there is room for each that is being written."""
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.parent / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _make_room(path.parent, bound() - len(content))
            temporary.write_bytes(content)
            os.replace(temporary, path)
            return pa.OSFile(str(path))  # before another may throw it out
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(
            str(path),
            expected="to write it",
            got=str(error.strerror),
            fix="Free disk space, or set AUDIORL_CACHE to another folder or AUDIORL_CACHE_GB lower.",
        ) from error


def _make_room(folder: Path, most: int) -> None:
    """Remove what was used longest ago until at most so many bytes are left."""
    files = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in folder.iterdir() if path.is_file())
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= most:
            return
        if path.name != ".lock":
            path.unlink(missing_ok=True)  # one that a killed process was writing, too: nobody writes without the lock
            total -= size


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While entered no other process fills or removes `folder` or those beside it; it then stays as long as this
    process lives. Those beside it that no process holds are removed first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        own = open(folder.parent / f".{folder.name}", "w")  # noqa: SIM115 - whose lock goes with this process
        atexit.register(own.close)
        fcntl.flock(own, fcntl.LOCK_SH)
        for other in folder.parent.glob("[!.]*"):
            if other != folder:
                _remove_unused(other)
        yield


def _remove_unused(folder: Path) -> None:
    token = folder.with_name(f".{folder.name}")
    with open(token, "w") as file, suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
        token.unlink()


def bound() -> int:
    """The most bytes that shards may take here. Raises ConfigError where AUDIORL_CACHE_GB is no number."""
    text = os.environ.get("AUDIORL_CACHE_GB", "")
    try:
        number = float(text) if text else _GIGABYTES
        if not 0 < number < float("inf"):
            raise ValueError(text)
    except ValueError as error:
        raise ConfigError("AUDIORL_CACHE_GB", expected="a number of GB", got=repr(text), fix="Correct it.") from error
    return int(number * 1e9)
