"""Parts of a recording that can only be decoded from its beginning on: decoded once for all of them.

A part is what decoding from the beginning gives, bit for bit, whichever parts were read before. Parts that come in the
order of their time cost one pass, of which little more than a part is held in memory. The first that lies further back
begins a second pass, which also writes what it decodes to a temporary file, from which parts are read.
"""

import io
import os
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import soundfile

from audiorl_cli.data.channels import Block, chosen
from audiorl_cli.data.ffmpeg import Ffmpeg, floats
from audiorl_cli.data.headers import Stream
from audiorl_cli.data.libsndfile import BrokenOffError, GuessedLengthError, Soundfile
from audiorl_cli.data.rejected import RejectedError
from audiorl_cli.errors import DataError

_BEHIND: Final = 30.0  # seconds before the part read last that stay in memory: parts overlap, workers take turns


def _no_room(error: OSError) -> DataError:
    return DataError(
        "temporary files",
        expected="a folder with room for a decoded recording whose parts are out of order (TMPDIR, else /tmp)",
        got=str(error.strerror or error),
        fix="Sort the parts, free disk space, or set TMPDIR to another folder.",
    )


class Sequential:
    """The streams of an open file called `name`, one after another, as the `channel` asks for it (`channels.chosen`).

    `libsndfile`: it is asked first. A stream of another rate than the first one's is resampled to that.
    """

    def __init__(self, file: io.FileIO, streams: list[Stream], name: Path, channel: str, *, libsndfile: bool) -> None:
        self._file, self._streams, self._name = file, streams, name
        self._channel, self._libsndfile = channel, libsndfile
        self._spool: io.FileIO | None = None
        self.rate = self._width = 0
        self._begin()

    def _begin(self) -> None:
        self._blocks = self._decoded()
        self._held: deque[tuple[int, Block]] = deque()
        self._held_from = self._position = 0
        self._ended = False
        self._failure: RejectedError | None = None

    def close(self) -> None:
        """Give up what is open."""
        self._blocks.close()
        if self._spool is not None:
            self._spool.close()

    def read(self, start: float, seconds: float) -> tuple[Block, float | None]:
        """Return `seconds` from `start` on and one sample more, and None; or what there is, and where it ends.

        Raises RejectedError where something is damaged or missing before the end of the part, DataError where there is
        no room for the temporary file.
        """
        if not self._position and not self._ended:
            self._next(0)
        first, last = round(start * self.rate), round((start + seconds) * self.rate)  # the last is read as well
        if first < self._held_from and self._spool is None:
            self._blocks.close()
            self._begin()
            try:
                self._spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as this does)
            except OSError as error:
                raise _no_room(error) from error
        while self._position <= last and not self._ended:
            self._next(first - round(_BEHIND * self.rate))
        if self._position > last:
            return self._slice(first, last + 1), None
        if self._failure is not None:
            raise self._failure
        return self._slice(first, self._position), self._position / self.rate

    def _next(self, needed: int) -> None:
        """Decode one block, and hold what of it lies behind sample `needed`, in memory or in the file."""
        try:
            block = next(self._blocks, None)
        except RejectedError as error:
            block, self._failure = None, error
        if block is None:
            self._ended = True
            return
        place, self._position = self._position, self._position + block.count
        if self._spool is not None:
            self._write(self._samples(block))
        elif self._position > needed or not place:
            self._held.append((place, self._samples(block)))
        while self._held and self._held[0][0] + len(self._held[0][1]) <= needed:
            self._held.popleft()
        if self._spool is None:
            self._held_from = self._held[0][0] if self._held else self._position

    def _samples(self, block: "_Block") -> Block:
        samples = chosen(block.samples(), self._channel, self._width)
        self._width = samples.shape[1]
        return samples

    def _write(self, samples: Block) -> None:
        assert self._spool is not None
        try:
            rest = memoryview(samples.tobytes())
            while rest:  # a disk that fills up takes a part first
                rest = rest[self._spool.write(rest) :]
        except OSError as error:
            self.close()
            self._spool = None
            self._begin()
            raise _no_room(error) from error

    def _slice(self, first: int, end: int) -> Block:
        if end <= first:
            return np.zeros((0, max(1, self._width)), np.float32)
        if self._spool is not None:
            frame = 4 * self._width
            content = os.pread(self._spool.fileno(), (end - first) * frame, first * frame)
            return np.frombuffer(content, np.float32).reshape(-1, self._width)
        return np.concatenate(
            [block[max(0, first - place) : end - place] for place, block in self._held if first < place + len(block)]
        )

    def _decoded(self) -> Generator["_Block", None, None]:
        for stream in self._streams:
            resampler = None
            for block in self._of(stream):
                self.rate = self.rate or block.rate
                if block.rate == self.rate:
                    yield block
                    continue
                import soxr

                samples = self._samples(block)
                resampler = resampler or soxr.ResampleStream(block.rate, self.rate, samples.shape[1], dtype="float32")
                yield _Block.of(resampler.resample_chunk(samples), self.rate)
            if resampler is not None:
                yield _Block.of(resampler.resample_chunk(np.zeros((0, self._width), np.float32), last=True), self.rate)

    def _of(self, stream: Stream) -> Iterator["_Block"]:
        """By the library that would read the stream if it were alone in its file."""
        try:
            if not self._libsndfile:
                raise GuessedLengthError
            if len(self._streams) > 1:
                with closing(Soundfile(self._file, stream)) as sound:
                    for _ in sound.blocks():
                        pass
            sound = Soundfile(self._file, stream)
        except (soundfile.LibsndfileError, GuessedLengthError, BrokenOffError):
            yield from self._by_ffmpeg(stream)
            return
        with closing(sound):
            try:
                for samples in sound.blocks():
                    yield _Block.of(samples, sound.rate)
            except BrokenOffError as error:
                raise error.rejection from error

    def _by_ffmpeg(self, stream: Stream) -> Iterator["_Block"]:
        with closing(Ffmpeg(self._file, stream, self._name)) as decoder:
            for frame in decoder.frames():
                if decoder.damaged:
                    decoder.check(ended=False)
                yield _Block(frame.samples, decoder.rate, partial(floats, frame))
            decoder.check(ended=True)


@dataclass(frozen=True)
class _Block:
    """`count` samples of `rate` Hz. `samples`: called where they are needed; that takes longer than decoding."""

    count: int
    rate: int
    samples: Callable[[], Block]

    @classmethod
    def of(cls, samples: Block, rate: int) -> "_Block":
        return cls(len(samples), rate, lambda: samples)
