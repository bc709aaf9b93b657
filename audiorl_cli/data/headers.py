"""What a file says of its own length, held against the bytes that are there; where one stream ends and the next begins.

Decoders take a file that was cut short for a short file; the claims in its header tell the two apart. A program that
writes to a pipe cannot know the length: it writes a placeholder for the size, and the data then go on to the end of the
file. Two recordings that were joined byte by byte (`cat`) are two streams, each read as the file that it was.

A stream whose length nobody wrote down is whole if it ends between two samples, pages or packets, and truncated if it
ends within one: at such a border, a cut cannot be told from the end.

Sources: Microsoft RIFF/WAVE, EBU Tech 3306 (RF64), Sony Wave64, Apple AIFF-C and CAF, NIST SPHERE, Sun audio; for the
placeholders sox, FFmpeg and Kaldi's wave-reader.cc.
"""

import os
import struct
from dataclasses import dataclass
from io import FileIO
from typing import Final

from audiorl_cli.data.rejected import RejectedError

_PCM_TAGS: Final = frozenset({1, 3, 0xFFFE})  # integer, float and extensible: their frames have one size
_FIXED_RATE_TAGS: Final = frozenset({1, 3})  # their byte rate follows from the rest
_TRAILER_SECONDS: Final = 0.1  # a longer tail behind the last chunk is audio that the header denies
# Sizes that programs write who cannot go back: the largest number less a header or part of a frame; sox's 0x7F000000.
_PLACEHOLDERS: Final = (0x7F00_0000, 1 << 31, 1 << 32)
_PLACEHOLDER_SLACK: Final = 1 << 16  # bytes
_UNKNOWN_64: Final = 1 << 62
_SEARCH_BLOCK: Final = 1 << 20  # bytes


# What files begin with that may stand behind another: of samples, and of packets.
MAGIC: Final = frozenset({b"RIFF", b"RF64", b"BW64", b"FORM", b"riff", b"caff", b".snd", b"NIST", b"OggS", b"fLaC"})


@dataclass(frozen=True)
class Stream:
    """The bytes from `start` to `end` of a file, which would be a whole file on their own.

    `patches`: (offset from `start`, bytes) to be read in the place of what is there: sizes that the header left open.
    """

    start: int
    end: int
    patches: tuple[tuple[int, bytes], ...] = ()


def read_at(file: FileIO, position: int, count: int) -> bytes:
    """Return up to `count` bytes from `position` on; the file's own position stays where it is."""
    return os.pread(file.fileno(), count, position)


def find(file: FileIO, needle: bytes, start: int, end: int) -> int:
    """Return where `needle` first stands between `start` and `end`, -1 if nowhere."""
    while start < end:
        block = read_at(file, start, min(_SEARCH_BLOCK, end - start))
        at = block.find(needle)
        if at >= 0:
            return start + at
        if len(block) < len(needle):
            return -1
        start += len(block) - len(needle) + 1
    return -1


def require(end: int, size: int, kind: str) -> None:
    """Raise RejectedError where a claim reaches to `end` in a file of `size` bytes."""
    if end > size:
        raise RejectedError("truncated", f"the {kind} claims {end} bytes and has {size}")


@dataclass(frozen=True)
class _Layout:
    """A container of chunks. `head`: bytes before the first; `own`: whether a chunk's size counts its own header."""

    kind: str
    magic: tuple[bytes, ...]
    head: int
    chunk: struct.Struct
    data: bytes
    align: int = 1
    own: bool = False


_WAV: Final = _Layout("WAV", (b"RIFF", b"RF64", b"BW64"), 12, struct.Struct("<4sI"), b"data", align=2)
_AIFF: Final = _Layout("AIFF", (b"FORM",), 12, struct.Struct(">4sI"), b"SSND", align=2)
_W64: Final = _Layout("W64", (b"riff",), 40, struct.Struct("<4s12xQ"), b"data", align=8, own=True)
_CAF: Final = _Layout("CAF", (b"caff",), 8, struct.Struct(">4sQ"), b"data")


@dataclass
class _Format:
    """What the chunks before the data say. `align`: bytes of a frame, 0 where frames have no one size."""

    align: int = 0
    byte_rate: int = 0
    sizes: tuple[int, int, int] | None = None  # of an RF64: of the file, its data and its frames
    sizes_at: int = 0
    frames_at: int = 0


def chunked(file: FileIO, start: int, size: int) -> Stream | None:
    """Return the WAV, RF64, W64, AIFF, CAF, AU or SPH that begins at `start`, None where there is none.

    Raises RejectedError where its header contradicts itself or the `size` bytes of the file.
    """
    head = read_at(file, start, 40)
    if head[:4] in _WAV.magic and head[8:12] == b"WAVE":
        return _chunks(file, start, size, _WAV)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _chunks(file, start, size, _AIFF)
    if head[:4] == b"riff" and head[24:28] == b"wave":
        return _chunks(file, start, size, _W64)
    if head[:8] == b"caff\0\x01\0\0":
        return _chunks(file, start, size, _CAF)
    if head[:4] == b".snd":
        return _au(file, start, size)
    return _sph(file, start, size) if head[:7] == b"NIST_1A" else None


def _chunks(file: FileIO, start: int, size: int, layout: _Layout) -> Stream:
    position, found = start + layout.head, _Format()
    while position + layout.chunk.size <= size:
        name, length = layout.chunk.unpack(read_at(file, position, layout.chunk.size))
        body = position + layout.chunk.size
        if name[:4] in MAGIC:
            return Stream(start, position)
        if layout.align == 2 and read_at(file, position - 1, 4) in MAGIC:
            return Stream(start, position - 1)  # the stream before has an odd number of bytes and was not padded
        if not all(0x20 <= byte < 0x7F for byte in name):
            if found.byte_rate and size - position > found.byte_rate * _TRAILER_SECONDS:
                raise RejectedError("bad_header", f"{size - position} bytes behind the last chunk of the {layout.kind}")
            break
        if layout.own:
            length = max(0, length - layout.chunk.size)
        _note(file, name, body, found, layout)
        if name == layout.data:
            if found.sizes is not None and length == 0xFFFF_FFFF:
                length = found.sizes[1]
            if _unknown(length, size - body, layout) and not (length == 0 and _chunk_at(file, body, size, layout)):
                return _open_ended(file, start, size, layout, position, found)
            require(body + length, size, layout.kind)
        position = body + length + -length % layout.align
    return Stream(start, size)


def _note(file: FileIO, name: bytes, body: int, found: _Format, layout: _Layout) -> None:
    """Take down what a chunk before the data says of the format."""
    if name == b"fmt ":
        tag, channels, rate, byte_rate, align, _bits = struct.unpack(
            "<HHIIHH", read_at(file, body, 16).ljust(16, b"\0")
        )
        if tag in _FIXED_RATE_TAGS and byte_rate != rate * align:
            raise RejectedError(
                "bad_header", f"{byte_rate} bytes a second at {rate} Hz, {channels} channels, {align} bytes a frame"
            )
        found.byte_rate, found.align = byte_rate, align if tag in _PCM_TAGS else 0
    elif name == b"ds64":
        found.sizes, found.sizes_at = struct.unpack("<QQQ", read_at(file, body, 24).ljust(24, b"\0")), body
    elif name == b"COMM" and layout is _AIFF:
        channels, _frames, bits = struct.unpack(">HIH", read_at(file, body, 8).ljust(8, b"\0"))
        compression = read_at(file, body + 18, 4)
        if compression not in (b"ulaw", b"alaw", b"ULAW", b"ALAW", b"ima4"):
            found.align, found.frames_at = channels * ((bits + 7) // 8), body + 2
    elif name == b"desc" and layout is _CAF:
        found.align = int.from_bytes(read_at(file, body + 16, 4), "big")


def _unknown(length: int, available: int, layout: _Layout) -> bool:
    """Whether a size is a placeholder: of data, whose length the writer did not know."""
    if not available:
        return False
    if length == 0 or (layout is _AIFF and length == 8 < available):
        return True
    near = any(abs(length - value) <= _PLACEHOLDER_SLACK for value in _PLACEHOLDERS)
    return length > available and (near or length >= _UNKNOWN_64)


def _chunk_at(file: FileIO, position: int, size: int, layout: _Layout) -> bool:
    """Whether a chunk that fits into the file begins at `position`: then the one before it is empty indeed."""
    head = read_at(file, position, layout.chunk.size)
    if len(head) < layout.chunk.size:
        return False
    name, length = layout.chunk.unpack(head)
    return all(0x20 <= byte < 0x7F for byte in name) and position + length <= size


def _open_ended(file: FileIO, start: int, size: int, layout: _Layout, at: int, found: _Format) -> Stream:
    """Return the stream whose data chunk, at `at`, goes on to the next stream or the end, with its sizes filled in."""
    body, end = at + layout.chunk.size, size
    behind = 8 if layout is _AIFF else 4 if layout is _CAF else 0  # bytes of the chunk before the samples
    position = body
    while (position := _next_magic(file, position, size, layout)) >= 0:
        following = read_at(file, position, 40)
        if following[8:12] in (b"WAVE", b"AIFF", b"AIFC") or layout.magic[0] in (b"riff", b"caff"):
            end = position
            break
        position += 1
    length = end - body
    rest = (length - behind) % found.align if found.align else 0
    if rest and not (rest == 1 and found.align % 2):  # of frames of odd size the last one may have been padded
        raise RejectedError("truncated", f"a {layout.kind} of unknown length ends within a sample")
    length -= rest
    frames = (length - behind) // (found.align or 1)
    patches: list[tuple[int, bytes]] = []
    if layout is _CAF:
        patches = [(at + 4, struct.pack(">Q", length))]
    elif layout is _W64:
        patches = [(start + 16, struct.pack("<Q", end - start)), (at + 16, struct.pack("<Q", length + 24))]
    elif layout is _AIFF:
        patches = [(start + 4, _u32(">I", end - start - 8)), (at + 4, _u32(">I", length))]
        if found.frames_at:
            patches.append((found.frames_at, _u32(">I", frames)))
    elif found.sizes is not None:
        patches = [(found.sizes_at, struct.pack("<QQQ", end - start - 8, length, frames))]
    else:
        patches = [(start + 4, _u32("<I", end - start - 8)), (at + 4, _u32("<I", length))]
    return Stream(start, end, tuple((place - start, value) for place, value in patches))


def _next_magic(file: FileIO, position: int, size: int, layout: _Layout) -> int:
    marks = {
        "W64": b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0",
        "CAF": b"caff\0\x01\0\0desc",
    }
    places = [
        find(file, mark, position, size) for mark in ([marks[layout.kind]] if layout.kind in marks else layout.magic)
    ]
    return min((place for place in places if place >= 0), default=-1)


def _u32(form: str, value: int) -> bytes:
    return struct.pack(form, min(value, 0xFFFF_FFFF))


def _au(file: FileIO, start: int, size: int) -> Stream:
    offset, length, coding, _rate, channels = struct.unpack(">5I", read_at(file, start + 4, 20).ljust(20, b"\0"))
    body = start + offset
    if offset < 24:
        raise RejectedError("bad_header", f"an AU whose data begin at byte {offset}")
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(coding, 0) * channels
    if not _unknown(length, size - body, _AIFF):
        require(body + length, size, "AU")
        end = body + length
        return Stream(start, end if read_at(file, end, 4) in MAGIC else size)
    end = find(file, b".snd\0\0\0", body, size)
    end = size if end < 0 else end
    if width and (end - body) % width:
        raise RejectedError("truncated", "an AU of unknown length ends within a sample")
    return Stream(start, end, ((8, _u32(">I", end - body)),))


def _sph(file: FileIO, start: int, size: int) -> Stream:
    try:
        header = int(read_at(file, start + 8, 8))
    except ValueError as error:
        raise RejectedError("bad_header", "no header size in the SPH") from error
    fields: dict[bytes, bytes] = {}
    for line in read_at(file, start, min(max(header, 0), 1 << 16)).splitlines():
        words = line.split(None, 2)
        if len(words) == 3:
            fields[words[0]] = words[2]
    if fields.get(b"sample_coding", b"pcm") not in (b"pcm", b"ulaw", b"alaw"):
        return Stream(start, size)  # compressed: its bytes say nothing of its length
    try:
        frames, channels, width = (
            int(fields.get(name, b"1")) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")
        )
    except ValueError as error:
        raise RejectedError("bad_header", "counts in the SPH that are no numbers") from error
    end = start + header + frames * channels * width
    if b"sample_count" not in fields:
        return Stream(start, size)
    require(end, size, "SPH")
    return Stream(start, end if read_at(file, end, 4) in MAGIC else size)
