"""Where streams of packets begin and end: Ogg, MP3, FLAC, MP4, ASF, AMR and Matroska, as `headers` does for samples.

Sources: RFC 3533 (Ogg), RFC 9639 (FLAC), ISO/IEC 14496-12 (MP4), the Xing and LAME tags of MP3, ASF 01.20.03,
RFC 4867 (AMR), RFC 9559 (Matroska).
"""

import itertools
import struct
from collections.abc import Callable, Iterator
from io import FileIO
from typing import Final

from audiorl_cli.data.headers import MAGIC, Stream, chunked, find, read_at, require
from audiorl_cli.data.rejected import RejectedError

_XING_WITHIN: Final = 64  # bytes of the first frame: its header, the side information, then the tag at up to 36
_XING_OFFSETS: Final = (36, 21, 13, 38, 23, 15)  # of the tag in its frame, by version and channels, and with a checksum
_MP3_FRAME_MAX: Final = 1441  # bytes
_FLAC_STREAMS: Final = (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")  # the marker, and the header of STREAMINFO
_ASF: Final = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_EBML: Final = b"\x1a\x45\xdf\xa3"
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675


def streams(file: FileIO, size: int) -> list[Stream]:
    """Return the streams of a file of `size` bytes, in order: one, unless several files were joined.

    Raises RejectedError where a header contradicts itself or the bytes that are there. Kinds that are not known here
    are one stream, and are checked as they are decoded.
    """
    found: list[Stream] = []
    start = 0
    while start < size and (not found or read_at(file, start, 4) in MAGIC):  # else what follows is no sound
        several = _streams_at(file, start, size)
        found += several
        start = several[-1].end
    return found


def _streams_at(file: FileIO, start: int, size: int) -> list[Stream]:
    samples = chunked(file, start, size)
    if samples is not None:
        return [samples]
    sound = _behind_id3(file, start)
    head = read_at(file, sound, 16)
    borders: Callable[[FileIO, int, int], list[int]] | None = None
    if head[:4] == b"OggS":
        borders = _ogg
    elif head[:4] == b"fLaC":
        borders = _flac
    elif head[4:8] == b"ftyp":
        borders = _mp4
    elif head == _ASF:
        borders = _asf
    elif head[:5] == b"#!AMR":
        borders = _amr
    elif head[:4] == _EBML:
        _check_matroska(file, sound, size)
    elif head[:1] == b"\xff" and head[1:2] >= b"\xe0":
        borders = _mp3
    if borders is None:
        return [Stream(start, size)]
    places = [start, *borders(file, sound, size), size]
    return [Stream(*pair) for pair in itertools.pairwise(places)]


def _behind_id3(file: FileIO, start: int) -> int:
    """Where the sound begins: behind the ID3v2 tag at `start`, if there is one."""
    head = read_at(file, start, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return start
    # its size is in four times seven bits
    return start + 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def flac_md5(file: FileIO, start: int = 0) -> bytes | None:
    """Return the MD5 of the decoded samples that the FLAC at `start` carries, None where it has none."""
    head = read_at(file, start, 42)
    # marker, header of the first block (type 0 is STREAMINFO), its 34 bytes, of which the last 16 are the digest
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F != 0 or not any(head[26:]):
        return None
    return head[26:]


def _flac(file: FileIO, start: int, size: int) -> list[int]:
    position, last = start + 4, False
    while not last and position < size:  # blocks of metadata, which may hold anything
        header = read_at(file, position, 4).ljust(4, b"\x80")
        last = bool(header[0] & 0x80)
        position += 4 + int.from_bytes(header[1:], "big")
    found = []
    while places := [place for mark in _FLAC_STREAMS if (place := find(file, mark, position, size)) >= 0]:
        found.append(min(places))
        position = found[-1] + 42
    return found


def _ogg(file: FileIO, start: int, size: int) -> list[int]:
    """A page that begins a stream, behind one that does not, begins the next link of a chain (RFC 3533, section 4)."""
    found: list[int] = []
    unfinished: dict[bytes, bool] = {}  # by serial number: the last packet goes on in a page to come
    position, begun = start, False
    while position < size:
        head = read_at(file, position, 27 + 255)
        if head[:4] != b"OggS":
            if b"OggS".startswith(head):
                raise RejectedError("truncated", "the Ogg ends within a page")
            position = find(file, b"OggS", position, size)
            if position < 0:
                break
            continue
        segments = head[26] if len(head) >= 27 else 255
        table = head[27 : 27 + segments]
        end = position + 27 + segments + sum(table)
        if len(table) < segments or end > size:
            raise RejectedError("truncated", "the Ogg ends within a page")
        first = bool(head[5] & 0x02)  # of its logical stream
        if first and begun:
            _check_finished(unfinished)
            unfinished.clear()
            found.append(position)
        begun = not first
        unfinished[head[14:18]] = table[-1] == 255 if table else unfinished.get(head[14:18], False)
        position = end
    _check_finished(unfinished)
    return found


def _check_finished(unfinished: dict[bytes, bool]) -> None:
    if any(unfinished.values()):
        raise RejectedError("truncated", "the Ogg ends within a packet")


def mp3_tag(file: FileIO, start: int = 0) -> tuple[int, int, int] | None:
    """Return where the first frame of an MP3 begins, and how many frames and bytes its Xing tag counts, if any."""
    start = _behind_id3(file, start)
    frame = read_at(file, start, _XING_WITHIN)
    tag = max(frame.find(name) for name in (b"Xing", b"Info"))
    if tag < 0 or len(frame) < tag + 16:
        return None
    flags, frames, length = struct.unpack(">III", frame[tag + 4 : tag + 16])
    return (start, frames, length) if flags & 3 == 3 else None  # both numbers are there


def _mp3(file: FileIO, start: int, size: int) -> list[int]:
    """A tag of a file or of its frames begins a stream or ends one, and so does what follows all that a tag counts."""
    borders = _mp3_tags(file, start, size)
    found = sorted(borders)
    for begin, end in itertools.pairwise([start, *found, size]):
        counted = mp3_tag(file, begin)
        if counted is None:
            continue
        first, frames, claimed = counted
        # encoders differ in whether they count the frame that holds the tag
        frame = claimed // max(frames, 1)
        require(first + claimed - 2 * frame, size, "MP3")
        # Tags of several kinds may follow the frames: what does is a stream where one frame follows another.
        position = max(first + 1, first + claimed - frame // 2)
        limit = min(end, first + claimed + max(2 * frame, _MP3_FRAME_MAX))
        while (position := find(file, b"\xff", position, limit)) >= 0:
            if _mp3_frames(file, position) == 3:
                borders.add(position)
                break
            position += 1
    return sorted(borders)


def _mp3_tags(file: FileIO, start: int, size: int) -> set[int]:
    """Where ID3v2 tags and frames with a Xing tag begin, and ID3v1 tags end, that have frames behind them."""
    behind = start + _XING_WITHIN
    marked = {place: _behind_id3(file, place) for place in _places(file, b"ID3", behind, size)}
    borders = {place for place, sound in marked.items() if _mp3_frames(file, sound) >= 2}
    borders |= {place + 128 for place in _places(file, b"TAG", behind, size) if _mp3_frames(file, place + 128) >= 2}
    for place in itertools.chain(*(_places(file, name, behind, size) for name in (b"Xing", b"Info"))):
        frames = (place - offset for offset in _XING_OFFSETS)
        borders |= {begin for begin in frames if _mp3_frames(file, begin) >= 2 and begin not in marked.values()}
    return borders


def _places(file: FileIO, needle: bytes, start: int, size: int) -> Iterator[int]:
    while (start := find(file, needle, start, size)) >= 0:
        yield start
        start += len(needle)


def _mp3_frames(file: FileIO, position: int) -> int:
    """How many frames follow one another at `position`, up to three."""
    count = 0
    while count < 3 and (length := _mp3_frame(read_at(file, position, 4))):
        count, position = count + 1, position + length
    return count


_KILOBITS: Final = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG-2 and 2.5
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG-1
)
_MP3_RATES: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def _mp3_frame(header: bytes) -> int:
    """Return how many bytes the frame of layer III has that begins so, 0 where none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, bits, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bits in (0, 15) or rate == 3:
        return 0
    kilobits = _KILOBITS[version == 3][bits]
    return (144 if version == 3 else 72) * 1000 * kilobits // _MP3_RATES[version][rate] + (header[2] >> 1 & 1)


def _mp4(file: FileIO, start: int, size: int) -> list[int]:
    found, position, fragments, described = [], start, False, False
    while position + 8 <= size:
        length, name = struct.unpack(">I4s", read_at(file, position, 8))
        if not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in name):
            break
        if name == b"ftyp" and described:
            found.append(position)
            fragments = described = False
        fragments |= name == b"moof"
        described |= name in (b"moov", b"mdat")
        if length == 1:
            length = int.from_bytes(read_at(file, position + 8, 8), "big")
        position = size if length == 0 else position + max(length, 8)
    if fragments and position > size:  # without fragments its tables tell how much there should be
        raise RejectedError("truncated", "the MP4 ends within a fragment")
    return found


def _asf(file: FileIO, start: int, size: int) -> list[int]:
    found, position = [], start
    while position + 24 <= size:
        if position > start and read_at(file, position, 16) == _ASF:
            found.append(position)
        position += max(24, int.from_bytes(read_at(file, position + 16, 8), "little"))
    return found


def _amr(file: FileIO, start: int, size: int) -> list[int]:
    return list(_places(file, b"#!AMR", start + 5, size))


def _check_matroska(file: FileIO, start: int, size: int) -> None:
    """Raise RejectedError where the file ends within an element: a live recording claims no length at all."""
    position = start
    while position < size:
        head = read_at(file, position, 12)
        width = 9 - head[0].bit_length()
        if width > 4 or len(head) <= width:
            return
        name, first = int.from_bytes(head[:width], "big"), head[width]
        octets = 9 - first.bit_length()
        if octets > 8:
            return
        value = int.from_bytes(head[width : width + octets].ljust(octets, b"\0"), "big")
        length = value & ((1 << 7 * octets) - 1)
        position += width + octets
        if name == _SEGMENT or (name == _CLUSTER and length == (1 << 7 * octets) - 1):
            continue  # its own elements follow
        if length == (1 << 7 * octets) - 1:
            return
        position += length
    if position > size:
        raise RejectedError("truncated", "the Matroska ends within an element")
