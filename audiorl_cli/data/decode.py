"""A file or bytes -> float32 mono samples at 16 kHz, or the reason why not.

libsndfile reads first, FFmpeg what it cannot. Both read in blocks and stop past the longest clip that is wanted, so
memory is bounded whatever a header claims; a recording that decodes to less than it claims is rejected, not shortened.
"""

import hashlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
import soundfile
from jaxtyping import Float, Float32, Shaped

from audiorl_cli.core import SAMPLE_RATE
from audiorl_cli.data.headers import check_claims, flac_md5, mp3_tag
from audiorl_cli.data.rejected import Reason, RejectedError
from audiorl_cli.data.store import Place, Url
from audiorl_cli.errors import DataError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer

_RATES: Final = (4_000, 768_000)  # Hz
_CHANNELS_MAX: Final = 32
_BLOCK: Final = 1 << 18  # samples, all channels together
_LOSSY_SLACK: Final = 0.1  # seconds that a container may claim beyond its last frame
_SEGMENT_SLACK: Final = 0.05  # seconds: offsets and durations are rounded where they are written down
_CLAIM_SLACK: Final = (0.1, 0.02)  # seconds, and share of the claim: what a manifest's duration may be off

# Demuxers of single recordings. Playlists and scripts, which name further files, are not among them.
_DEMUXERS: Final = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,eac3,flac,flv,iff,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,"
    "nistsphere,ogg,rm,shn,tak,tta,voc,w64,wav,wv"
)
# Raw streams whose length FFmpeg guesses from the bit rate.
_GUESSED: Final = frozenset({"aac", "ac3", "amr", "amrnb", "amrwb", "eac3", "mp3", "mpeg", "mpegts"})
_PADDED: Final = frozenset(
    {"mov", "matroska", "ogg", "asf", "avi", "flv", "rm"}
)  # containers whose length counts padded packets
_RECORDING_SUFFIXES: Final = frozenset(
    {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".sph", ".m4a", ".aac", ".wma"}
)
_FLAC_BITS: Final = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}


@dataclass(frozen=True)
class Clip:
    """`samples`: float32 mono at 16 kHz. `seconds`: length before resampling."""

    samples: Float32[np.ndarray, " samples"]
    seconds: float


@dataclass(frozen=True)
class Extent:
    """Which part to read. `offset` None: all of it, and `duration`, if given, is a claim about its length.

    Else `duration` seconds from `offset` on, to the end where `duration` is None. `max_seconds` bounds what is read.
    """

    offset: float | None = None
    duration: float | None = None
    max_seconds: float = 30.0

    @property
    def start(self) -> float:
        """Seconds before the part begins."""
        return self.offset or 0.0

    @property
    def wanted(self) -> float | None:
        """Seconds to read, None for all."""
        return None if self.offset is None else self.duration


def decode(source: Place | bytes, channel: str, extent: Extent) -> Clip:
    """The clip in a file or in its bytes. `channel`: "mix" (the mean), "left", "right", or a number from 0.

    Raises RejectedError with a reason of `data.rejected`. Infinite or overlarge samples are the caller's to judge
    only after the features: here every sample is finite.
    """
    if extent.wanted is not None and extent.wanted > extent.max_seconds:
        raise RejectedError("too_long", f"{extent.wanted:.4f} s")
    with _opened(source) as file:
        size = file.seek(0, io.SEEK_END)
        if size == 0:
            raise RejectedError("empty", "0 bytes")
        check_claims(file, size)
        name = Path() if isinstance(source, bytes) else Path(source.name)
        samples, rate = _read(file, name, channel, extent)
    seconds = len(samples) / rate
    if seconds > extent.max_seconds:
        raise RejectedError("too_long", f"more than {extent.max_seconds:g} s")
    if not len(samples):
        raise RejectedError("empty", "no samples")
    if not np.isfinite(samples).all():
        raise RejectedError("non_finite", "samples that are NaN or infinite")
    _check_claim(extent, seconds)
    return Clip(_resampled(samples, rate), seconds)


@contextmanager
def _opened(source: Place | bytes) -> Iterator[io.FileIO]:
    if isinstance(source, Url):
        with tempfile.TemporaryFile(buffering=0) as file:
            _download(source, file)
            yield file
        return
    if isinstance(source, bytes):
        # libsndfile reads a descriptor and a Python object in different ways; one way gives one result.
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(source)
            yield file
        return
    try:
        # A pipe would block when it is opened; what was opened is checked, so that nothing can be exchanged between.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise RejectedError("missing", "no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL within the name
        raise RejectedError("unreadable", str(getattr(error, "strerror", error))) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RejectedError("not_a_file", "a folder, pipe or device")
    with os.fdopen(descriptor, "rb", buffering=0) as file:  # unbuffered: libsndfile moves the descriptor's position
        try:
            yield file
        except OSError as error:  # FFmpeg's errors are OSErrors too and are met where it is called
            raise RejectedError("unreadable", str(error.strerror)) from error


def _download(url: Url, file: BinaryIO) -> None:
    try:
        url.copy_to(file)
    except FileNotFoundError as error:
        raise RejectedError("missing", "no such file") from error
    except OSError as error:  # the store has failed, with all retries, or refuses: no recording is to blame
        raise DataError(
            str(url), expected="a store that answers", got=str(error.strerror), fix="Run it again when it does."
        ) from error


def _read(file: io.FileIO, name: Path, channel: str, extent: Extent) -> tuple[Float32[np.ndarray, " samples"], int]:
    try:
        return _read_soundfile(file, channel, extent)
    except (soundfile.LibsndfileError, _GuessedLengthError):
        opened = False
    except _BrokenOffError as broken:
        first = broken.rejection
        opened = True
    file.seek(0)
    try:
        return _read_ffmpeg(file, name, channel, extent)
    except RejectedError as error:
        # Where libsndfile knew the content and FFmpeg does not, the first verdict says more.
        if opened and error.reason == "not_audio":
            raise first from error
        raise


class _BrokenOffError(Exception):
    """libsndfile opened the file and could not read all of it: `rejection` unless FFmpeg does better."""

    def __init__(self, rejection: RejectedError) -> None:
        super().__init__(rejection)
        self.rejection = rejection


class _GuessedLengthError(Exception):
    """libsndfile guesses the length of an MP3 without a tag, and reads no further than that."""


def _read_soundfile(file: io.FileIO, channel: str, extent: Extent) -> tuple[Float32[np.ndarray, " samples"], int]:
    # A descriptor, not a name: by its name libsndfile would guess at headerless samples.
    md5, counted = flac_md5(file), mp3_tag(file) is not None
    with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
        if sound.format == "MP3" and not counted:
            raise _GuessedLengthError
        rate, channels, total = sound.samplerate, sound.channels, sound.frames
        _check_format(rate, channels)
        known = total < 1 << 62  # a stream of unknown length claims the largest number
        start = round(extent.start * rate)
        if known:
            if not total:
                raise RejectedError("empty", "a header with no samples")
            _check_extent(extent, total / rate)
        length = round((extent.max_seconds if extent.wanted is None else extent.wanted) * rate)
        bits = _FLAC_BITS.get(sound.subtype) if md5 and sound.format == "FLAC" and extent.offset is None else None
        checksum = hashlib.md5(usedforsecurity=False)
        blocks: list[Float32[np.ndarray, " samples"]] = []
        read = 0
        try:
            if start:
                sound.seek(start)
            while read < length + 1:  # one more than wanted shows what is too long
                count = min(_BLOCK // channels, length + 1 - read)
                block = sound.read(count, dtype=_integers(bits) if bits else "float32", always_2d=True)
                if not len(block):
                    break
                if bits:
                    checksum.update(_packed(block, bits))
                    block = _scaled(block)
                blocks.append(_mono(block, channel))
                read += len(block)
                if extent.wanted is not None and read >= length:
                    break
        except soundfile.LibsndfileError as error:
            reason: Reason = "truncated" if known and start + read < total else "corrupt"
            detail = f"{read / rate:.4f} s decoded" + (f" of {total / rate:.4f} s" if known else "")
            raise _BrokenOffError(RejectedError(reason, detail)) from error
        samples = blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *blocks])
        if extent.wanted is not None:
            return samples[:length], rate
        if known and read <= length and start + read < total:
            short = RejectedError("truncated", f"{read / rate:.4f} s decoded of {total / rate:.4f} s")
            if sound.format == "MP3" and total - start - read > _LOSSY_SLACK * rate:
                raise short  # FFmpeg does not look at what its tag counts
            raise _BrokenOffError(short)
        if bits and read <= length and checksum.digest() != md5:
            raise RejectedError("corrupt", "the samples are not those of the FLAC's checksum")
        return samples, rate


def _integers(bits: int) -> str:
    """The type that samples of a FLAC are read as; in the wider one they are left-justified."""
    return "int16" if bits == 16 else "int32"


def _packed(block: Shaped[np.ndarray, "samples channels"], bits: int) -> bytes | memoryview:
    """Samples as FLAC hashes them: little-endian integers of their own width, channels interleaved."""
    little = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<"))
    size, width = little.itemsize, bits // 8
    if size == width:
        return little.data
    return little.view(np.uint8).reshape(-1, size)[:, size - width :].tobytes()


def _scaled(block: Shaped[np.ndarray, "samples channels"]) -> Float32[np.ndarray, "samples channels"]:
    """Integers as libsndfile's floats: of the full scale, which is a power of two."""
    scaled: Float32[np.ndarray, "samples channels"] = block.astype(np.float32)
    scaled *= np.float32(0.5 ** (8 * block.itemsize - 1))
    return scaled


def _read_ffmpeg(
    file: io.FileIO, name: Path, channel: str, extent: Extent
) -> tuple[Float32[np.ndarray, " samples"], int]:
    import av  # costs more than all the rest here, and most recordings never need it

    av.logging.set_level(av.logging.PANIC)  # it writes to the terminal on its own; errors arrive as exceptions
    try:
        container = av.open(file, mode="r", options={"format_whitelist": _DEMUXERS, "protocol_whitelist": ""})
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise RejectedError("not_audio", "no decoder knows the content") from error
    with container:
        if not container.streams.audio:
            raise RejectedError("not_audio", f"a {container.format.name} without sound")
        pictures = av.stream.Disposition.attached_pic
        films = [stream for stream in container.streams.video if not stream.disposition & pictures]
        if films and name.suffix.lower() in _RECORDING_SUFFIXES:
            raise RejectedError("not_audio", f"a video under the name of a {name.suffix.lower()}")
        return _decoded(container, channel, extent)


def _decoded(container: "InputContainer", channel: str, extent: Extent) -> tuple[Float32[np.ndarray, " samples"], int]:
    import av

    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise RejectedError("not_audio", "sound of a kind that no decoder knows")
    stream.codec_context.thread_count = 1  # the workers are the parallelism
    limit = extent.start + (extent.max_seconds if extent.wanted is None else extent.wanted)
    blocks: list[Float32[np.ndarray, " samples"]] = []
    read, rate, damaged, ended = 0, 0, False, True
    numbered, following = container.format.name == "flac", None
    try:
        for packet in container.demux(stream):
            damaged |= packet.is_corrupt
            for frame in packet.decode():
                if rate and frame.sample_rate != rate:
                    raise RejectedError("corrupt", f"the rate changes from {rate} to {frame.sample_rate} Hz")
                rate = frame.sample_rate
                # FFmpeg passes over frames that it cannot read; a FLAC numbers its samples, which shows what is gone.
                damaged |= numbered and (frame.pts is None or following not in (None, frame.pts))
                following = (frame.pts or 0) + frame.samples
                _check_format(rate, frame.layout.nb_channels)
                block = _mono(_floats(frame), channel)
                read += len(block)
                skipped = read - len(block) - round(extent.start * rate)
                if skipped + len(block) > 0:
                    blocks.append(block[max(0, -skipped) :])
            if rate and read > round(limit * rate):
                ended = False
                break
    except av.FFmpegError:
        damaged = True
    claimed = _claimed_seconds(container)
    slack = _LOSSY_SLACK if container.format.name.split(",")[0] in _PADDED else 1 / (rate or 1)
    decoded = read / (rate or 1)
    if ended and claimed is not None and decoded < claimed - slack:
        raise RejectedError("truncated", f"{decoded:.4f} s decoded of {claimed:.4f} s")
    if damaged:
        raise RejectedError("corrupt", f"damaged data after {decoded:.2f} s")
    if not rate:
        raise RejectedError("empty", "no samples")
    if ended:
        _check_extent(extent, read / rate)
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return (samples if extent.wanted is None else samples[: round(extent.wanted * rate)]), rate


def _claimed_seconds(container: "InputContainer") -> float | None:
    if container.format.name in _GUESSED:
        return None
    stream = container.streams.audio[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None or container.streams.video else container.duration / 1_000_000


def _floats(frame: "AudioFrame") -> Float32[np.ndarray, "samples channels"]:
    # planar frames are [channels, samples], packed ones [1, samples * channels]
    values: Shaped[np.ndarray, "planes values"] = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        values, full_scale = values - np.float32(128.0), 128.0
    else:
        full_scale = 1.0 if values.dtype.kind == "f" else 2.0 ** (8 * values.dtype.itemsize - 1)
    return (values / full_scale).astype(np.float32)


def _mono(block: Float[np.ndarray, "samples channels"], channel: str) -> Float32[np.ndarray, " samples"]:
    if block.shape[1] == 1 and channel in ("mix", "left", "0"):
        return np.ascontiguousarray(block[:, 0], dtype=np.float32)
    if channel == "mix":
        with np.errstate(over="ignore", invalid="ignore"):  # non-finite samples are rejected by name later
            mean: Float32[np.ndarray, " samples"] = block.mean(axis=1, dtype=np.float32)
        return mean
    number = {"left": 0, "right": 1}.get(channel)
    number = int(channel) if number is None else number
    if number >= block.shape[1]:
        raise RejectedError("bad_channel", f"channel {channel} of {block.shape[1]}")
    return np.ascontiguousarray(block[:, number])


def _check_format(rate: int, channels: int) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise RejectedError("bad_header", f"{rate} Hz")
    if not 1 <= channels <= _CHANNELS_MAX:
        raise RejectedError("bad_header", f"{channels} channels")


def _check_extent(extent: Extent, total: float) -> None:
    """The part asked for lies within `total` seconds, and is not longer than wanted."""
    end = total if extent.wanted is None else extent.start + extent.wanted
    if end > total + _SEGMENT_SLACK or extent.start >= total:
        raise RejectedError("bad_segment", f"{extent.start:.2f} to {end:.2f} s of a recording of {total:.2f} s")
    if end - extent.start > extent.max_seconds:
        raise RejectedError("too_long", f"{end - extent.start:.4f} s")


def _check_claim(extent: Extent, seconds: float) -> None:
    if extent.offset is not None or extent.duration is None:
        return
    slack = _CLAIM_SLACK[0] + _CLAIM_SLACK[1] * extent.duration
    if seconds < extent.duration - slack:
        raise RejectedError("truncated", f"{seconds:.2f} s decoded, the source claims {extent.duration:.2f} s")
    if seconds > extent.duration + slack:
        raise RejectedError("bad_header", f"{seconds:.2f} s decoded, the source claims {extent.duration:.2f} s")


def _resampled(samples: Float32[np.ndarray, " samples"], rate: int) -> Float32[np.ndarray, " resampled"]:
    if rate == SAMPLE_RATE:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ"), dtype=np.float32)
