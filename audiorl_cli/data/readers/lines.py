"""Lines of a text file that is not trusted: bounded in length, UTF-8 or named as not."""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import Final

from audiorl_cli.data.rejected import Rejection
from audiorl_cli.data.store import Place, Url
from audiorl_cli.errors import DataError

_LINE_BYTES: Final = 1 << 18  # a transcript of an hour is a quarter of this


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


def read_lines(path: Place) -> Iterator[Line | Rejection]:
    """The lines of `path` that are not blank; one that is too long or not UTF-8 is a Rejection. Raises DataError."""
    try:
        with opened(path) as file:
            number = 0
            while raw := file.readline(_LINE_BYTES):
                number += 1
                where = f"{path.name} line {number}"
                if len(raw) == _LINE_BYTES and not raw.endswith(b"\n"):
                    _skip_line(file)
                    yield Rejection("", where, "bad_row", f"a line longer than {_LINE_BYTES} bytes")
                    continue
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    yield Rejection("", where, "bad_row", "not UTF-8")
                    continue
                if text.strip():
                    yield Line(number, text)
    except OSError as error:
        raise DataError(
            str(path), expected="a text file to read", got=str(error.strerror), fix="Check SOURCE and its permissions."
        ) from error


def _skip_line(file: BufferedReader) -> None:
    while rest := file.readline(_LINE_BYTES):
        if rest.endswith(b"\n"):
            return
