"""Lines of a text file that is not trusted, compressed or not: bounded in length, UTF-8 or named as not."""

import bz2
import errno
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader
from pathlib import PurePosixPath
from typing import Final, cast

from audiorl_cli.data.rejected import Rejection
from audiorl_cli.data.store import Place, Url
from audiorl_cli.errors import DataError

LINE_BYTES: Final = 1 << 18  # a transcript of an hour is a quarter of this
_COMPRESSIONS: Final = (".gz", ".bz2", ".xz")


@dataclass(frozen=True)
class Line:
    """One line without its line break; `number` counts from 1."""

    number: int
    text: str


def regular(path: str, flags: int) -> int:
    """For `open`: a pipe would block it, and could not be read a second time. Raises OSError for what is no file."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "a folder, pipe or device")
    return descriptor


def opened(path: Place) -> BufferedReader:
    """`path` as a file to read. Raises OSError, also for what is no file."""
    return path.open() if isinstance(path, Url) else open(path, "rb", opener=regular)


def plain_suffix(name: str) -> str:
    """Return the suffix of a file's name in lower case, of .jsonl.gz that before the compression's."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix


@contextmanager
def reading(path: Place) -> Iterator[BufferedIOBase]:
    """Open `path` to read, unpacked where its name says that it is compressed.

    Errors of opening and reading become a DataError.
    """
    try:
        with opened(path) as file, _unpacked(path.name.lower(), file) as plain:
            yield plain
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            str(path),
            expected="a text file to read",
            got=str(getattr(error, "strerror", None) or error).rstrip("."),
            fix="Check SOURCE and its permissions.",
        ) from error


def _unpacked(name: str, file: BufferedReader) -> BufferedIOBase:
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=file)
    if name.endswith(".bz2"):
        return cast(BufferedIOBase, bz2.BZ2File(file))
    return lzma.LZMAFile(file) if name.endswith(".xz") else file


def read_lines(path: Place) -> Iterator[Line | Rejection]:
    """The lines of `path` that are not blank; one that is too long or not UTF-8 is a Rejection. Raises DataError."""
    with reading(path) as file:
        number = 0
        while raw := file.readline(LINE_BYTES):
            number += 1
            where = f"{path.name} line {number}"
            if len(raw) == LINE_BYTES and not raw.endswith(b"\n"):
                _skip_line(file)
                yield Rejection("", where, "bad_row", f"a line longer than {LINE_BYTES} bytes")
                continue
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield Rejection("", where, "bad_row", "not UTF-8")
                continue
            if text.strip():
                yield Line(number, text)


def _skip_line(file: BufferedIOBase) -> None:
    while rest := file.readline(LINE_BYTES):
        if rest.endswith(b"\n"):
            return
