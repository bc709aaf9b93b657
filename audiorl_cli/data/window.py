"""A part of a file, read as a file of its own."""

import io
from typing import TYPE_CHECKING

from audiorl_cli.data.headers import Stream, read_at

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Window(io.RawIOBase):
    """The bytes of one stream of a file, its patches in their places. The file's own position stays where it is."""

    def __init__(self, file: io.FileIO, stream: Stream) -> None:
        super().__init__()
        self._file, self._stream, self._position = file, stream, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, from the beginning of the stream."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stream.end - self._stream.start}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill `buffer` as far as the stream goes, and return the number of bytes."""
        view = memoryview(buffer).cast("B")
        first, stream = self._position, self._stream
        count = max(0, min(len(view), stream.end - stream.start - first))
        content = read_at(self._file, stream.start + first, count)
        view[: len(content)] = content
        for place, value in stream.patches:
            low, high = max(place, first), min(place + len(value), first + len(content))
            if low < high:
                view[low - first : high - first] = value[low - place : high - place]
        self._position += len(content)
        return len(content)
