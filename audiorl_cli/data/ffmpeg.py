"""Recordings as FFmpeg reads them: what libsndfile does not know, and what it could not read to the end."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float32, Shaped

from audiorl_cli.data.headers import Stream
from audiorl_cli.data.libsndfile import LOSSY_SLACK, check_format
from audiorl_cli.data.rejected import RejectedError
from audiorl_cli.data.window import Window

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

# Demuxers of single recordings. Playlists and scripts, which name further files, are not among them.
_DEMUXERS: Final = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,eac3,flac,flv,iff,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,"
    "nistsphere,ogg,rm,shn,tak,tta,voc,w64,wav,wv"
)
# Raw streams whose length FFmpeg guesses from the bit rate.
_GUESSED: Final = frozenset({"aac", "ac3", "amr", "amrnb", "amrwb", "eac3", "mp3", "mpeg", "mpegts"})
# Containers whose length counts padded packets.
_PADDED: Final = frozenset({"mov", "matroska", "ogg", "asf", "avi", "flv", "rm"})
_RECORDING_SUFFIXES: Final = frozenset(
    {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".sph", ".m4a", ".aac", ".wma"}
)


class Ffmpeg:
    """One stream of a file called `name`. `damaged`: what was decoded until now is not all that was there.

    Raises RejectedError where it is no recording.
    """

    def __init__(self, file: io.FileIO, stream: Stream, name: Path) -> None:
        import av  # costs more than all the rest here, and most recordings never need it

        self._error = av.FFmpegError
        av.logging.set_level(av.logging.PANIC)  # it writes to the terminal on its own; errors arrive as exceptions
        options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": ""}
        try:
            self._container = av.open(Window(file, stream), mode="r", options=options)
        except (av.FFmpegError, ValueError, IndexError) as error:
            raise RejectedError("not_audio", "no decoder knows the content") from error
        container = self._container
        if not container.streams.audio:
            self.close()
            raise RejectedError("not_audio", f"a {container.format.name} without sound")
        pictures = av.stream.Disposition.attached_pic
        films = [stream for stream in container.streams.video if not stream.disposition & pictures]
        if films and name.suffix.lower() in _RECORDING_SUFFIXES:
            self.close()
            raise RejectedError("not_audio", f"a video under the name of a {name.suffix.lower()}")
        self._stream = container.streams.audio[0]
        if self._stream.codec_context is None:
            self.close()
            raise RejectedError("not_audio", "sound of a kind that no decoder knows")
        self._stream.codec_context.thread_count = 1  # the workers are the parallelism
        self.rate, self.damaged, self._read = 0, False, 0

    def close(self) -> None:
        """Give up what FFmpeg holds."""
        self._container.close()

    def frames(self) -> Iterator["AudioFrame"]:
        """Yield what the decoder makes of each packet. Raises RejectedError where the rate changes."""
        numbered, following = self._container.format.name == "flac", None
        try:
            for packet in self._container.demux(self._stream):
                self.damaged |= packet.is_corrupt
                for frame in packet.decode():
                    if self.rate and frame.sample_rate != self.rate:
                        raise RejectedError("corrupt", f"the rate changes from {self.rate} to {frame.sample_rate} Hz")
                    self.rate = frame.sample_rate
                    # FFmpeg passes over frames that it cannot read; a FLAC numbers its samples: that shows a gap.
                    self.damaged |= numbered and (frame.pts is None or following not in (None, frame.pts))
                    following = (frame.pts or 0) + frame.samples
                    check_format(self.rate, frame.layout.nb_channels)
                    self._read += frame.samples
                    yield frame
        except self._error:
            self.damaged = True

    def check(self, *, ended: bool) -> None:
        """Raise RejectedError for what was damaged, and where all was read (`ended`) for what is missing."""
        claimed = self._claimed_seconds()
        slack = LOSSY_SLACK if self._container.format.name.split(",")[0] in _PADDED else 1 / (self.rate or 1)
        decoded = self._read / (self.rate or 1)
        if ended and claimed is not None and decoded < claimed - slack:
            raise RejectedError("truncated", f"{decoded:.4f} s decoded of {claimed:.4f} s")
        if self.damaged:
            raise RejectedError("corrupt", f"damaged data after {decoded:.2f} s")
        if not self.rate:
            raise RejectedError("empty", "no samples")

    def _claimed_seconds(self) -> float | None:
        container, stream = self._container, self._stream
        if container.format.name in _GUESSED:
            return None
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None or container.streams.video else container.duration / 1_000_000


def floats(frame: "AudioFrame") -> Float32[np.ndarray, "samples channels"]:
    """Return the samples of a frame, of the full scale."""
    # planar frames are [channels, samples], packed ones [1, samples * channels]
    values: Shaped[np.ndarray, "planes values"] = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.float32:
        return values
    if values.dtype == np.uint8:
        values, full_scale = values - np.float32(128.0), 128.0
    else:
        full_scale = 1.0 if values.dtype.kind == "f" else 2.0 ** (8 * values.dtype.itemsize - 1)
    return (values / full_scale).astype(np.float32)
