"""A file or bytes -> float32 mono samples at 16 kHz, or the reason why not.

libsndfile reads first, FFmpeg what it cannot. Both read in blocks and stop past the longest clip that is wanted, so
memory is bounded whatever a header claims; a recording that decodes to less than it claims is rejected, not shortened.
"""

import atexit
import io
import os
import stat
import tempfile
from collections import OrderedDict
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import soundfile
from jaxtyping import Float32

from audiorl_cli.core import SAMPLE_RATE
from audiorl_cli.data.channels import Block, chosen, mono
from audiorl_cli.data.containers import streams
from audiorl_cli.data.ffmpeg import Ffmpeg, floats
from audiorl_cli.data.libsndfile import BrokenOffError, GuessedLengthError, Soundfile
from audiorl_cli.data.rejected import RejectedError
from audiorl_cli.data.sequential import Sequential
from audiorl_cli.data.store import Place, Url
from audiorl_cli.data.tar import Member
from audiorl_cli.errors import MACHINE_ERRORS, DataError

_SEGMENT_SLACK: Final = 0.05  # seconds: offsets and durations are rounded where they are written down
_CLAIM_SLACK: Final = (0.1, 0.02)  # seconds, and share of the claim: what a manifest's duration may be off
_KEPT_OPEN: Final = 8  # recordings of which parts were read: their parts may take turns


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


def decode(source: Place | Member | bytes, channel: str, extent: Extent) -> Clip:
    """The clip in a file or in its bytes. `channel`: "mix" (the mean), "left", "right", or a number from 0.

    A recording of which a part was read stays open for further parts: until eight others were read, or it has changed.

    Raises RejectedError with a reason of `data.rejected`. Infinite or overlarge samples are the caller's to judge
    only after the features: here every sample is finite.
    """
    if extent.wanted is not None and extent.wanted > extent.max_seconds:
        raise RejectedError("too_long", f"{extent.wanted:.4f} s")
    try:
        if extent.offset is None or isinstance(source, bytes):
            with closing(_Recording(source, channel)) as recording:
                samples, rate = recording.read(extent)
        else:
            samples, rate = _kept_open(source, channel).read(extent)
    except OSError as error:  # FFmpeg's errors are OSErrors too and are met where it is called
        raise _unreadable(source, error) from error
    seconds = len(samples) / rate
    if seconds > extent.max_seconds:
        raise RejectedError("too_long", f"more than {extent.max_seconds:g} s")
    if not len(samples):
        raise RejectedError("empty", "no samples")
    one = mono(samples, rate)
    if not np.isfinite(one).all():
        raise RejectedError("non_finite", "samples that are NaN or infinite")
    _check_claim(extent, seconds)
    return Clip(_resampled(one, rate), seconds)


_OPEN: Final[OrderedDict[tuple[Any, ...], "_Recording"]] = OrderedDict()  # the last one read is the last


@atexit.register
def _close_all() -> None:
    while _OPEN:
        _OPEN.popitem()[1].close()


def _kept_open(source: Place | Member, channel: str) -> "_Recording":
    """Return the recording, as it is now, from those that are open if it is among them."""
    written: tuple[int, ...] = ()
    file = source.archive if isinstance(source, Member) else source
    if isinstance(file, Path) and file.is_file():
        found = file.stat()
        written = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    key = (source, channel, *written)
    recording = _OPEN.pop(key, None) or _Recording(source, channel)
    _OPEN[key] = recording
    while len(_OPEN) > _KEPT_OPEN:
        _OPEN.popitem(last=False)[1].close()
    return recording


class _Recording:
    """An open file, its streams known. Raises RejectedError where it is none, or its header contradicts its bytes."""

    def __init__(self, source: Place | Member | bytes, channel: str) -> None:
        self._file, self._channel = _opened(source), channel
        self._name = Path() if isinstance(source, bytes) else Path(source.name)
        self._in_order: Sequential | None = None
        try:
            size = self._file.seek(0, io.SEEK_END)
            if size == 0:
                raise RejectedError("empty", "0 bytes")
            self._streams = streams(self._file, size)
        except (RejectedError, OSError):
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file, and what reads it."""
        if self._in_order is not None:
            self._in_order.close()
        self._file.close()

    def read(self, extent: Extent) -> tuple[Block, int]:
        """Return the samples of a part, of the channels that were asked for, and their rate in Hz."""
        if len(self._streams) > 1:
            return self._read_in_order(extent, libsndfile=True)
        broken: RejectedError | None = None
        try:
            with closing(Soundfile(self._file, self._streams[0])) as sound:
                if not sound.sequential or extent.offset is None:
                    return self._read_soundfile(sound, extent), sound.rate
            return self._read_in_order(extent, libsndfile=True)
        except (soundfile.LibsndfileError, GuessedLengthError):
            pass
        except BrokenOffError as error:
            broken = error.rejection
        try:
            if extent.offset is None:
                return self._read_ffmpeg(extent)
            return self._read_in_order(extent, libsndfile=False)
        except RejectedError as error:
            # Where libsndfile knew the content and FFmpeg does not, the first verdict says more.
            if broken is not None and error.reason == "not_audio":
                raise broken from error
            raise

    def _read_soundfile(self, sound: Soundfile, extent: Extent) -> Block:
        if sound.total is not None:
            _check_extent(extent, sound.total / sound.rate)
        length = round((extent.max_seconds if extent.wanted is None else extent.wanted) * sound.rate)
        most = length + (extent.wanted is None)  # one more than wanted shows what is too long
        found = [chosen(block, self._channel, 0) for block in sound.blocks(round(extent.start * sound.rate), most)]
        return found[0] if len(found) == 1 else np.concatenate([np.zeros((0, 1), np.float32), *found][bool(found) :])

    def _read_ffmpeg(self, extent: Extent) -> tuple[Block, int]:
        found: list[Block] = []
        read = 0
        with closing(Ffmpeg(self._file, self._streams[0], self._name)) as decoder:
            for frame in decoder.frames():
                found.append(chosen(floats(frame), self._channel, found[0].shape[1] if found else 0))
                read += len(found[-1])
                if read > round(extent.max_seconds * decoder.rate):
                    decoder.check(ended=False)
                    break
            else:
                decoder.check(ended=True)
                _check_extent(extent, read / decoder.rate)
            return np.concatenate(found), decoder.rate

    def _read_in_order(self, extent: Extent, *, libsndfile: bool) -> tuple[Block, int]:
        if self._in_order is None:
            self._in_order = Sequential(self._file, self._streams, self._name, self._channel, libsndfile=libsndfile)
        samples, end = self._in_order.read(extent.start, extent.wanted or extent.max_seconds)
        rate = self._in_order.rate
        if end is not None:
            _check_extent(extent, end)
        return (samples if extent.wanted is None else samples[: round(extent.wanted * rate)]), rate


def _opened(source: Place | Member | bytes) -> io.FileIO:
    if not isinstance(source, Path):
        return _temporary(source)
    try:
        # A pipe would block when it is opened; what was opened is checked, so that nothing can be exchanged between.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise RejectedError("missing", "no such file") from error
    except OSError as error:
        raise _unreadable(source, error) from error
    except ValueError as error:  # a NUL within the name
        raise RejectedError("unreadable", str(error)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RejectedError("not_a_file", "a folder, pipe or device")
    return io.FileIO(descriptor, "rb")


def _unreadable(source: Place | Member | bytes, error: OSError) -> RejectedError | DataError:
    """What a file that the system does not read is: rejected, unless the system says that the machine is to blame."""
    if error.errno not in MACHINE_ERRORS:
        return RejectedError("unreadable", str(error.strerror))
    item = "a recording" if isinstance(source, bytes) else str(source)
    return DataError(
        item, expected="to read it", got=str(error.strerror), fix="Mend the machine or its disk, run again."
    )


def _temporary(source: Url | Member | bytes) -> io.FileIO:
    """A nameless file with what is at a URL or in a tar, or these bytes. Raises DataError where there is no room."""
    with ExitStack() as opened:
        try:
            file = opened.enter_context(tempfile.TemporaryFile(buffering=0))
            with os.fdopen(os.dup(file.fileno()), "wb") as writer:  # buffered: one write of a raw file may do half
                if isinstance(source, Url):
                    _download(source, writer)
                elif isinstance(source, Member):
                    _copy(source, writer)
                else:
                    writer.write(source)
        except OSError as error:
            raise DataError(
                "temporary files",
                expected="a folder with room to write to (TMPDIR, else /tmp)",
                got=str(error.strerror or error),
                fix="Free disk space, or set TMPDIR to another folder.",
            ) from error
        opened.pop_all()
        return file


def _copy(member: Member, file: BinaryIO) -> None:
    blocks = member.blocks()
    while True:
        try:
            block = next(blocks, b"")
        except FileNotFoundError as error:
            raise RejectedError("missing", f"no {member.archive}") from error
        except OSError as error:
            raise _unreadable(member, error) from error
        if not block:
            return
        file.write(block)


def _download(url: Url, file: BinaryIO) -> None:
    try:
        url.copy_to(file)
    except FileNotFoundError as error:
        raise RejectedError("missing", "no such file") from error
    except OSError as error:  # the store has failed, with all retries, or refuses: no recording is to blame
        if error.filename is None:
            raise  # not the store's: it is the copy that could not be written
        raise DataError(
            str(url), expected="a store that answers", got=str(error.strerror), fix="Run it again when it does."
        ) from error


def _check_extent(extent: Extent, total: float) -> None:
    """The part asked for lies within `total` seconds, and is not longer than wanted."""
    end = total if extent.wanted is None else extent.start + extent.wanted
    if end > total + _SEGMENT_SLACK or extent.start >= total:
        alone = extent.wanted is not None and abs(extent.wanted - total) <= _SEGMENT_SLACK
        hint = ", as long as the part: if it was cut before, --columns offset=,end=" if alone else ""
        raise RejectedError("bad_segment", f"{extent.start:.2f} to {end:.2f} s of a recording of {total:.2f} s{hint}")
    if end - extent.start > extent.max_seconds:
        raise RejectedError("too_long", f"{end - extent.start:.4f} s")


def _check_claim(extent: Extent, seconds: float) -> None:
    if extent.offset is not None or extent.duration is None:
        return
    slack = _CLAIM_SLACK[0] + _CLAIM_SLACK[1] * extent.duration
    if seconds < extent.duration - slack:
        raise RejectedError("truncated", f"{seconds:.2f} s decoded, the source claims {extent.duration:.2f} s")
    if seconds > extent.duration + slack:
        claimed = f"the source claims {extent.duration:.2f} s (what is to be cut has an offset, be it 0)"
        raise RejectedError("bad_header", f"{seconds:.2f} s decoded, {claimed}")


def _resampled(samples: Float32[np.ndarray, " samples"], rate: int) -> Float32[np.ndarray, " resampled"]:
    if rate == SAMPLE_RATE:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ"), dtype=np.float32)
