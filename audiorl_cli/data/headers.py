"""What a container claims about its own length, held against the bytes that are there.

Decoders take a file that was cut short for a short file; the claims in its header tell the two apart.
Sources: Microsoft RIFF/WAVE, Apple AIFF-C, NIST SPHERE, RFC 3533 (Ogg), RFC 9639 (FLAC), the Xing
and LAME tags of MP3.
"""

import struct
from io import FileIO
from typing import Final

from audiorl_cli.data.rejected import RejectedError

_UNKNOWN_SIZE: Final = 0xFFFFFFFF  # written by programs that stream a WAV and cannot go back
_PCM_TAGS: Final = frozenset({1, 3})  # integer and float samples: their byte rate follows from the rest
_TRAILER_SECONDS: Final = 0.1  # a longer tail behind the last chunk is audio that the header denies
_OGG_PAGE_MAX: Final = 27 + 255 + 255 * 255
_XING_WITHIN: Final = 64  # bytes of the first frame: its header, the side information, then the tag at up to 36


def check_claims(file: FileIO, size: int) -> None:
    """Raise RejectedError where the header contradicts itself or the `size` bytes of the file.

    Leaves the position at 0. Knows WAV, AIFF, SPH, Ogg and MP3; other kinds are checked by decoding them.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        _check_wav(file, size)
    elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        _check_aiff(file, size)
    elif head[:7] == b"NIST_1A":
        _check_sph(file, size)
    elif head[:4] == b"OggS":
        _check_ogg(file, size)
    elif head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        _check_mp3(file, size)
    file.seek(0)


def flac_md5(file: FileIO) -> bytes | None:
    """The MD5 of the decoded samples that a FLAC carries, None where it has none. Leaves the position at 0."""
    file.seek(0)
    head = file.read(42)
    file.seek(0)
    # marker, header of the first block (type 0 is STREAMINFO), its 34 bytes, of which the last 16 are the digest
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F != 0 or not any(head[26:]):
        return None
    return head[26:]


def _check_wav(file: FileIO, size: int) -> None:
    position, byte_rate = 12, 0
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        if not all(0x20 <= byte < 0x7F for byte in name):
            if byte_rate and size - position > byte_rate * _TRAILER_SECONDS:
                raise RejectedError("bad_header", f"{size - position} bytes behind the last chunk of the WAV")
            return
        if name == b"fmt " and length >= 16:
            tag, channels, rate, byte_rate, align, _bits = struct.unpack("<HHIIHH", file.read(16).ljust(16, b"\0"))
            if tag in _PCM_TAGS and byte_rate != rate * align:
                raise RejectedError(
                    "bad_header", f"{byte_rate} bytes a second at {rate} Hz, {channels} channels, {align} bytes a frame"
                )
        if name == b"data":
            if length == _UNKNOWN_SIZE:
                return
            _require(position + 8 + length, size, "WAV")
        position += 8 + length + length % 2


def _check_aiff(file: FileIO, size: int) -> None:
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(">4sI", file.read(8))
        if name == b"SSND":
            _require(position + 8 + length, size, "AIFF")
        position += 8 + length + length % 2


def _check_sph(file: FileIO, size: int) -> None:
    file.seek(8)
    try:
        header = int(file.read(8))
    except ValueError as error:
        raise RejectedError("bad_header", "no header size in the SPH") from error
    file.seek(0)
    fields: dict[bytes, bytes] = {}
    for line in file.read(min(header, 1 << 16)).splitlines():
        words = line.split(None, 2)
        if len(words) == 3:
            fields[words[0]] = words[2]
    if fields.get(b"sample_coding", b"pcm") not in (b"pcm", b"ulaw", b"alaw"):
        return  # compressed: its bytes say nothing of its length
    try:
        frames, channels, width = (
            int(fields.get(name, b"1")) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")
        )
    except ValueError as error:
        raise RejectedError("bad_header", "counts in the SPH that are no numbers") from error
    if b"sample_count" in fields:
        _require(header + frames * channels * width, size, "SPH")


def _check_ogg(file: FileIO, size: int) -> None:
    file.seek(max(0, size - _OGG_PAGE_MAX))
    tail = file.read(_OGG_PAGE_MAX)
    start = tail.rfind(b"OggS")
    if start < 0 or start + 27 > len(tail):
        raise RejectedError("truncated", "the Ogg ends within a page")
    flags, segments = tail[start + 5], tail[start + 26]
    table = tail[start + 27 : start + 27 + segments]
    if len(table) < segments or start + 27 + segments + sum(table) > len(tail):
        raise RejectedError("truncated", "the Ogg ends within a page")
    if not flags & 0x04:
        raise RejectedError("truncated", "the Ogg lacks the page that ends its stream")


def mp3_tag(file: FileIO) -> tuple[int, int, int] | None:
    """Where the first frame of an MP3 begins, and how many frames and bytes its Xing tag counts; None without a tag.

    Leaves the position at 0.
    """
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:  # a tag before the sound, its size in four times seven bits
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(_XING_WITHIN)
    file.seek(0)
    tag = max(frame.find(name) for name in (b"Xing", b"Info"))
    if tag < 0 or len(frame) < tag + 16:
        return None
    flags, frames, length = struct.unpack(">III", frame[tag + 4 : tag + 16])
    return (start, frames, length) if flags & 3 == 3 else None  # both numbers are there


def _check_mp3(file: FileIO, size: int) -> None:
    counted = mp3_tag(file)
    if counted is not None:
        start, frames, claimed = counted
        # encoders differ in whether they count the frame that holds the tag
        _require(start + claimed - 2 * claimed // max(frames, 1), size, "MP3")


def _require(end: int, size: int, kind: str) -> None:
    if end > size:
        raise RejectedError("truncated", f"the {kind} claims {end} bytes and has {size}")
