"""Samples -> log-mel features, as transformers' `WhisperFeatureExtractor(feature_size=128)` computes them.

Only the frames that hold audio are transformed; the rest of the window is one constant per clip.
"""

import math
import threading
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import scipy.fft
from jaxtyping import Float, Float32

from audiorl_cli.core import CLIP_FRAMES, HOP_LENGTH, MEL_BINS, N_FFT, SAMPLE_RATE

_FLOOR: Final = 1e-10  # power below which the logarithm is cut off
_DYNAMIC_RANGE: Final = 8.0  # in log10 of power: what lies further below the clip's loudest bin is raised to it
_LIFT: Final = 4.0  # features are (log10 of power + 4) / 4; the filters bring the 4, as a factor of power
_LOWEST: Final = math.log10(_FLOOR) + _LIFT
SILENCE: Final = _LOWEST / 4.0  # every frame of digital silence: -1.5
_BINS: Final = N_FFT // 2 + 1
_BLOCK: Final = 128  # frames that are transformed at a time: what they need stays in a core's own cache
_CACHE_LINE: Final = 64  # bytes
_BAND: Final = 8  # mels multiplied at a time: neighbours hear the same few bins of the 201


@dataclass(frozen=True)
class LogMel:
    """`features`: [128, frames] of the whole window. `num_frames`: how many of them are audio."""

    features: Float[np.ndarray, "mels frames"]
    num_frames: int


def log_mel(samples: Float[np.ndarray, " samples"], frames: int = CLIP_FRAMES, dtype: str = "float32") -> LogMel:
    """Log-mel of mono `samples` at 16 kHz, padded with silence to a window of `frames` frames of 10 ms.

    `num_frames` is ceil(samples / 160), as the extractor's attention mask counts. Computed in float32, which `dtype`
    may round; agrees with the extractor to 1e-4 on speech, padded frames included. A sample, or a power, that is not
    finite leaves no finite feature. Source: Radford et al. 2022, arXiv:2212.04356, section 2.2.

    Raises ValueError for no samples, or for more than the window holds: a transcript cannot be cut.
    """
    count = len(samples)
    if samples.ndim != 1 or not 0 < count <= frames * HOP_LENGTH:
        raise ValueError(f"samples: expected 1 to {frames * HOP_LENGTH} in one dimension, got shape {samples.shape}")
    # Frame t is centred on sample 160 t and reaches 200 samples either way: these are touched by audio.
    heard = min(frames, -(-(count + N_FFT // 2) // HOP_LENGTH))
    log = _lifted_mel(_power(_frames(samples, heard, frames * HOP_LENGTH)))
    with np.errstate(divide="ignore"):  # no power at all: minus infinity, raised below
        np.log10(log, out=log)
    # What is cut off at the floor is cut off here: numpy's float32 log10 of it differs by processor.
    lowest = np.maximum(np.float32(_LOWEST), log.max() - np.float32(_DYNAMIC_RANGE))
    np.maximum(log, lowest, out=log)
    features = np.empty((MEL_BINS, frames), dtype)
    features[:, heard:] = lowest / 4.0
    np.divide(log, 4.0, out=features[:, :heard], casting="same_kind")
    return LogMel(features, -(-count // HOP_LENGTH))


class _Workspace(threading.local):
    """Arrays that serve clip after clip: mapping fresh memory each time costs as much as the arithmetic."""

    def __init__(self) -> None:
        self._arrays: dict[str, Float32[np.ndarray, " size"]] = {}

    def array(self, name: str, *shape: int) -> Float32[np.ndarray, "..."]:
        """An array of this shape, holding anything, until the next call with this name."""
        size = math.prod(shape)
        found = self._arrays.get(name)
        if found is None or len(found) < size:
            spare = np.empty(size + _CACHE_LINE // 4, np.float32)
            # vector instructions take twice as long where their operand lies across two lines
            first = -spare.ctypes.data % _CACHE_LINE // 4
            found = self._arrays[name] = spare[first : first + size]
        return found[:size].reshape(shape)


_WORKSPACE: Final = _Workspace()


def _frames(samples: Float[np.ndarray, " samples"], heard: int, window: int) -> Float32[np.ndarray, "heard n_fft"]:
    """Overlapping frames of the padded window: silence to `window` samples, then 200 mirrored at both ends."""
    half = N_FFT // 2
    end, heard_end = half + window, half + len(samples)
    padded = _WORKSPACE.array("padded", max(heard * HOP_LENGTH + N_FFT, heard_end))
    padded[half:heard_end] = samples
    padded[heard_end:] = 0.0
    padded[:half] = padded[2 * half : half : -1]
    if end < len(padded):  # the last frames see the mirror image of the window's end
        mirrored = min(half, len(padded) - end)
        padded[end : end + mirrored] = padded[end - 2 : end - 2 - mirrored : -1]
    return np.ndarray((heard, N_FFT), np.float32, padded, strides=(HOP_LENGTH * padded.itemsize, padded.itemsize))


def _power(frames: Float32[np.ndarray, "heard n_fft"]) -> Float32[np.ndarray, "heard bins"]:
    power = _WORKSPACE.array("power", len(frames), _BINS)
    for start in range(0, len(frames), _BLOCK):
        block = frames[start : start + _BLOCK]
        # numpy multiplies a long row in a third of the time of many short ones
        windowed = _WORKSPACE.array("windowed", *block.shape)
        np.copyto(windowed, block)
        np.multiply(windowed.reshape(-1), _windows()[: windowed.size], out=windowed.reshape(-1))
        # scipy's transform works on several frames at once, numpy's on one
        magnitude = np.abs(scipy.fft.rfft(windowed), out=power[start : start + _BLOCK])
        np.square(magnitude, out=magnitude)
    return power


def _lifted_mel(power: Float32[np.ndarray, "heard bins"]) -> Float32[np.ndarray, "mels heard"]:
    mel = _WORKSPACE.array("mel", MEL_BINS, len(power))
    for mels, bins, filters in _bands():
        np.matmul(filters, power[:, bins].T, out=mel[mels])
    return mel


@cache
def _windows() -> Float32[np.ndarray, " block*n_fft"]:
    """The periodic Hann window, as an STFT uses it (numpy's own is the symmetric one), once a frame of a block."""
    return np.tile(np.hanning(N_FFT + 1)[:-1].astype(np.float32), _BLOCK)


@cache
def _bands() -> tuple[tuple[slice, slice, Float32[np.ndarray, "band bins"]], ...]:
    """The filters cut into bands: its mels, the bins that any of them hears, their weights, lifted."""
    bands = []
    for first in range(0, MEL_BINS, _BAND):
        mels = slice(first, first + _BAND)
        heard = np.flatnonzero(mel_filters()[:, mels].any(axis=1))
        bins = slice(int(heard[0]), int(heard[-1]) + 1)
        bands.append((mels, bins, np.ascontiguousarray(mel_filters()[bins, mels].T * np.float32(10**_LIFT))))
    return tuple(bands)


@cache
def mel_filters() -> Float32[np.ndarray, "bins mels"]:
    """Slaney's triangular filters of equal area, 128 from 0 Hz to 8 kHz over the 201 bins of the FFT."""
    import librosa.filters  # two seconds, most of them numba's: only for processes that compute features

    filters: Float32[np.ndarray, "bins mels"] = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=MEL_BINS).T
    return np.ascontiguousarray(filters)
