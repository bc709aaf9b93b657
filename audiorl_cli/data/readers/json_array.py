"""An array of JSON objects in a file that is not trusted, one at a time, in bounded memory."""

import codecs
import json
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import Any, Final

from audiorl_cli.data.readers.lines import LINE_BYTES, reading
from audiorl_cli.data.store import Place
from audiorl_cli.errors import DataError

_BLOCK: Final = 1 << 16  # bytes
_WHITE: Final = " \t\r\n"


def begins_array(path: Place) -> bool:
    """Return whether a file's first character that is no white space is a bracket. Raises DataError as `read_lines`."""
    with reading(path) as file:
        while block := file.read(_BLOCK):
            start = block.removeprefix(b"\xef\xbb\xbf").lstrip()
            if start:
                return bool(start.startswith(b"["))
    return False


def read_array(path: Place, constant: Callable[[str], Any]) -> Iterator[Any]:
    """Yield the values of the array in `path`; `constant` reads NaN and infinities.

    Raises DataError for a file that cannot be read, is not UTF-8 or JSON, or has values as long as no row is.
    """
    with reading(path) as file:
        text = _Text(path, file)
        text.skip("[")
        if text.next() == "]":
            return
        decoder = json.JSONDecoder(parse_constant=constant)
        while True:
            yield text.value(decoder)
            if text.next() == "]":
                return
            text.skip(",")


class _Text:
    """What has been read of a file and not yet been used."""

    def __init__(self, path: Place, file: BufferedIOBase) -> None:
        self._path, self._file, self._decoder = path, file, codecs.getincrementaldecoder("utf-8-sig")()
        self._buffer, self._at, self._values = "", 0, 0

    def next(self) -> str:
        """The next character that is no white space, without taking it; "" at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _WHITE:
                self._at += 1
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def skip(self, expected: str) -> None:
        """Take the next character. Raises DataError where it is another."""
        found = self.next()
        if found != expected:
            raise self._bad(f"{found!r} for {expected!r}" if found else "the end of the file")
        self._at += 1

    def value(self, decoder: json.JSONDecoder) -> Any:
        """Take the next value."""
        self.next()
        while True:
            try:
                value, end = decoder.raw_decode(self._buffer, self._at)
                if end < len(self._buffer) or not self._more():  # a number may go on behind what has been read
                    break
            except (json.JSONDecodeError, RecursionError) as error:
                if len(self._buffer) - self._at > LINE_BYTES or not self._more():
                    raise self._bad(str(error)) from error
        self._at, self._values = end, self._values + 1
        return value

    def _more(self) -> bool:
        """Read on. The position is kept where nothing has been taken since."""
        block = self._file.read(_BLOCK)
        try:
            text = self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise self._bad("bytes that are not UTF-8") from error
        self._buffer, self._at = self._buffer[self._at :] + text, 0
        return bool(block)

    def _bad(self, got: str) -> DataError:
        return DataError(
            f"{self._path} row {self._values + 1}",
            expected="an array of JSON objects",
            got=got,
            fix="Mend the file, or write one object a line.",
        )
