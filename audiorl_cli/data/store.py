"""Places: a path on this machine, or a `Url` on an object store, which Arrow reaches by the store's own protocol.

A Url has the methods of a Path that prep and its readers use, and raises OSError as a Path does, so that what is said
of a file that cannot be read or written is said of an object too. An object is put whole or not at all.
"""

import errno
import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, Self

from audiorl_cli.errors import UsageError

# Arrow, which reads the shards anyway, speaks both. fsspec's s3fs would hold back three packages that others share.
SCHEMES: Final = ("s3://", "gs://")
_TRIES: Final = 6  # with growing pauses, half a minute in all
_BLOCK: Final = 8 << 20  # bytes that reading a long file asks for at a time
_AT_ONCE: Final = 32  # small objects that are read at a time


@dataclass(frozen=True)
class Stat:
    """What a listing says of an object, under the names that `os.stat` has."""

    st_size: int
    st_mtime_ns: int


class Url(str):
    """`s3://bucket/key` or `gs://bucket/key`: an object, or a prefix of some, as if it were a folder."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """The place, without a slash at its end."""
        return super().__new__(cls, text.rstrip("/"))

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self}/{name}")

    def __getnewargs__(self) -> tuple[str]:
        return (str(self),)

    @property
    def name(self) -> str:
        """The last part."""
        return self.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """All but the last part."""
        return Url(self.rpartition("/")[0])

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """What follows the last point of the name, with it."""
        return PurePosixPath(self.name).suffix

    def read_bytes(self) -> bytes:
        """The object."""
        with self._asked() as (store, path), store.open_input_stream(path) as file:
            content: bytes = file.read()
            return content

    def write_bytes(self, content: bytes) -> None:
        """Put the object, whole."""
        with self._asked() as (store, path), store.open_output_stream(path) as file:
            file.write(content)

    def copy_from(self, file: BinaryIO) -> None:
        """Put the object, whole, from `file`, some of it at a time."""
        with self._asked() as (store, path), store.open_output_stream(path) as own:
            shutil.copyfileobj(file, own, _BLOCK)

    def delete(self) -> None:
        """Remove the object."""
        with self._asked() as (store, path):
            store.delete_file(path)

    def open(self) -> io.BufferedReader:
        """The object as a file to read, some of it at a time."""
        with self._asked() as (store, path):
            return io.BufferedReader(_Told(self, store.open_input_stream(path)), _BLOCK)

    def in_place(self) -> Any:
        """The object as a file of Arrow, which reads what it is asked for, wherever that is."""
        with self._asked() as (store, path):
            return store.open_input_file(path)

    def copy_to(self, file: BinaryIO) -> None:
        """Write the object into `file`, some of it at a time."""
        with self.open() as own:
            shutil.copyfileobj(own, file, _BLOCK)

    def stat(self) -> Stat:
        """What the listing of its folder says, which is asked for once in a process."""
        found = _listed_once(self.parent).get(self.name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        return found

    def files(self) -> dict[str, Stat]:
        """The objects right below it, by name, as they are now; none where there is no such prefix."""
        return {path.rpartition("/")[2]: stat for path, stat in self._listed(recursive=False)}

    def all(self) -> dict[str, Stat]:
        """Every object below it, by the rest of its name, as they are now."""
        start = len(self.partition("://")[2]) + 1
        return {path[start:]: stat for path, stat in self._listed(recursive=True)}

    def below(self) -> Iterator[tuple["Url", str]]:
        """Every object below it as (its folder, its name), in the order of `os.walk` with its folders sorted."""
        start = len(self.partition("://")[2]) + 1
        names = (path[start:].rpartition("/") for path, _ in self._listed(recursive=True))
        for folder, name in sorted((tuple(filter(None, folder.split("/"))), name) for folder, _, name in names):
            yield Url("/".join((self, *folder))), name

    def exists(self) -> bool:
        """Whether there is such an object now."""
        return self.name in self.parent.files()

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """Several objects right below it, many at a time."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda name: (self / name).read_bytes(), names))

    def remove(self) -> None:
        """Remove every object below it."""
        with self._asked() as (store, path):
            if self.startswith("s3://"):
                store.delete_dir(path)  # many at a time
                return
            # Arrow knows no folder on Google's store unless one was made as such.
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(store.delete_file, [name for name, _ in self._listed(recursive=True)]))

    def _listed(self, *, recursive: bool) -> list[tuple[str, Stat]]:
        from pyarrow.fs import FileSelector

        with self._asked() as (store, path):
            found = store.get_file_info(FileSelector(path, allow_not_found=True, recursive=recursive))
            return [(info.path, Stat(info.size, info.mtime_ns)) for info in found if info.is_file]

    @contextmanager
    def _asked(self) -> Iterator[tuple[Any, str]]:
        """The store and the path in it. Its errors come out with their one line as `strerror`."""
        scheme, _, path = self.partition("://")
        try:
            yield _store(scheme, path.partition("/")[0]), path
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self)) from error
        except OSError as error:
            said = error.strerror or str(error).split(" (Request ID")[0].strip().rstrip(".")
            raise OSError(error.errno or errno.EIO, said, str(self)) from error


Place = Path | Url


def below(path: Place, folder: Place) -> str:
    """The part of `path` that is below `folder`, with slashes. Raises ValueError where none is."""
    return PurePosixPath(Path(path).as_posix()).relative_to(Path(folder).as_posix()).as_posix()


def place(text: str) -> Place:
    """The place that a word of the command line names. Raises UsageError for a store that is not spoken to."""
    if text.startswith(SCHEMES):
        return Url(text)
    if "://" in text:
        raise UsageError(
            text, expected=f"a path, or a URL with {' or '.join(SCHEMES)}", got="another", fix="Give one of these."
        )
    return Path(text)


def demand_apart(out: Place, inputs: Mapping[str, str | Path | None], *, outside: bool = False) -> None:
    """Raise UsageError where `out` is one of `inputs`, by what the command line calls them, links resolved.

    An input that is a file is kept apart from the folder it lies in: what is written there has names of its own. With
    `outside` neither may `out` lie within an input that is a folder, which is read with all that is below it. What is
    no place (a hub id, None) is passed over.
    """
    for called, given in inputs.items():
        if given is None or str(given).startswith("hf:"):
            continue
        source = place(given) if isinstance(given, str) else given
        if isinstance(source, Url) != isinstance(out, Url):
            continue
        got = _relation(out, source, outside)
        if got:
            raise UsageError(
                f"--out {out}", expected="a folder of its own", got=f"{got} {called}", fix="Give another --out."
            )


def _relation(out: Place, source: Place, outside: bool) -> str:
    """What `out` is to `source`, in words before its name; "" where it is nothing to it."""
    if isinstance(out, Url) or isinstance(source, Url):
        within = outside and str(out).startswith(f"{source}/")
        return "the place of" if out == source or within else ""
    if not source.exists():
        return ""
    here, there = (Path(os.path.realpath(path)) for path in (out, source))
    if here == there or (out.exists() and out.samefile(source)):
        return "the place of"
    if source.is_file():
        return "the folder of" if here == there.parent else ""
    return "a folder within" if outside and here.is_relative_to(there) else ""


class _Told(io.RawIOBase):
    """A file of a store, whose errors are those of its Url."""

    def __init__(self, url: Url, file: Any) -> None:
        super().__init__()
        self._url, self._file = url, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._url._asked():
            return int(self._file.readinto(buffer))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@cache
def _store(scheme: str, bucket: str) -> Any:
    """Arrow's file system, with what the environment says in the names that the stores' own tools use."""
    from pyarrow import fs

    if scheme == "gs":
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        if not emulator:
            return fs.GcsFileSystem()
        protocol, _, host = emulator.rpartition("://")
        return fs.GcsFileSystem(anonymous=True, scheme=protocol or "http", endpoint_override=host)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region or (None if endpoint else fs.resolve_s3_region(bucket)),
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=int(os.environ.get("AWS_MAX_ATTEMPTS") or _TRIES)),
        allow_delayed_open=True,  # a small object is one request
    )


@lru_cache(maxsize=64)
def _listed_once(folder: Url) -> dict[str, Stat]:
    return folder.files()
