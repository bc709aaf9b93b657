"""Recordings as libsndfile reads them: which formats it knows, and what proves that all was read."""

import hashlib
import io
from collections.abc import Iterator
from typing import Final

import numpy as np
import soundfile
from jaxtyping import Float32, Shaped

from audiorl_cli.data.containers import flac_md5, mp3_tag
from audiorl_cli.data.headers import Stream
from audiorl_cli.data.rejected import Reason, RejectedError
from audiorl_cli.data.window import Window

RATES: Final = (4_000, 768_000)  # Hz
CHANNELS_MAX: Final = 32
LOSSY_SLACK: Final = 0.1  # seconds that a container may claim beyond its last frame
_BLOCK: Final = 1 << 18  # samples, all channels together
_FLAC_BITS: Final = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}


class BrokenOffError(Exception):
    """libsndfile opened the file and could not read all of it: `rejection` unless FFmpeg does better."""

    def __init__(self, rejection: RejectedError) -> None:
        super().__init__(rejection)
        self.rejection = rejection


class GuessedLengthError(Exception):
    """libsndfile guesses the length of an MP3 without a tag, and reads no further than that."""


class Soundfile:
    """One stream of a file. `rate` in Hz; `total` samples by its header, None where that does not say.

    `sequential`: to begin in the middle is to read all before it, or gives other samples than reading all before it.
    Raises LibsndfileError where libsndfile does not know the content, GuessedLengthError, and RejectedError for a rate
    or number of channels that cannot be.
    """

    def __init__(self, file: io.FileIO, stream: Stream) -> None:
        self._md5, counted = flac_md5(file, stream.start), mp3_tag(file, stream.start) is not None
        # No name: by its name libsndfile would guess at headerless samples. A window has its own position in the file.
        self._sound = soundfile.SoundFile(Window(file, stream))
        self._mp3 = self._sound.format == "MP3"
        if self._mp3 and not counted:
            self.close()
            raise GuessedLengthError
        self.sequential = self._mp3
        self.rate, self.channels = self._sound.samplerate, self._sound.channels
        check_format(self.rate, self.channels)
        # a stream of unknown length claims the largest number
        self.total = self._sound.frames if self._sound.frames < 1 << 62 else None
        if self.total == 0:
            raise RejectedError("empty", "a header with no samples")

    def close(self) -> None:
        """Give up what libsndfile holds."""
        self._sound.close()

    def blocks(self, start: int = 0, most: int | None = None) -> Iterator[Float32[np.ndarray, "samples channels"]]:
        """Yield the samples from `start` on, `most` of them, or all.

        When the last was yielded, raises BrokenOffError where they are fewer than the header says or the decoder gave
        up, RejectedError where they are not those of a FLAC's checksum. Of `most` samples neither is known.
        """
        sound, total, rate = self._sound, self.total, self.rate
        bits = _FLAC_BITS.get(sound.subtype) if self._md5 and sound.format == "FLAC" and not start else None
        checksum = hashlib.md5(usedforsecurity=False)
        read = 0
        try:
            if start:
                sound.seek(start)
            while most is None or read < most:
                count = _BLOCK // self.channels
                count = count if most is None else min(count, most - read)
                block = sound.read(count, dtype=_integers(bits) if bits else "float32", always_2d=True)
                if not len(block):
                    break
                if bits:
                    checksum.update(_packed(block, bits))
                    block = _scaled(block)
                read += len(block)
                yield block
        except soundfile.LibsndfileError as error:
            reason: Reason = "truncated" if total is not None and start + read < total else "corrupt"
            detail = f"{read / rate:.4f} s decoded" + (f" of {total / rate:.4f} s" if total is not None else "")
            raise BrokenOffError(RejectedError(reason, detail)) from error
        if most is not None and read >= most:
            return
        if total is not None and start + read < total:
            short = RejectedError("truncated", f"{read / rate:.4f} s decoded of {total / rate:.4f} s")
            if self._mp3 and total - start - read > LOSSY_SLACK * rate:
                raise short  # FFmpeg does not look at what its tag counts
            raise BrokenOffError(short)
        if bits and checksum.digest() != self._md5:
            raise RejectedError("corrupt", "the samples are not those of the FLAC's checksum")


def check_format(rate: int, channels: int) -> None:
    """Raise RejectedError for a rate or a number of channels that no recording has."""
    if not RATES[0] <= rate <= RATES[1]:
        raise RejectedError("bad_header", f"{rate} Hz")
    if not 1 <= channels <= CHANNELS_MAX:
        raise RejectedError("bad_header", f"{channels} channels")


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
