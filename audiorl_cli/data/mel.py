"""Samples -> log-mel features, as transformers' `WhisperFeatureExtractor(feature_size=128)` computes them.

Only the frames that hold audio are transformed; the rest of the window is one constant per clip.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Int

from audiorl_cli.core import CLIP_FRAMES, HOP_LENGTH, MEL_BINS, N_FFT, SAMPLE_RATE

_FLOOR: Final = 1e-10  # power below which the logarithm is cut off
_DYNAMIC_RANGE: Final = 8.0  # in log10 of power: what lies further below the clip's loudest bin is raised to it
_LIFT: Final = 4.0  # features are (log10 of power + 4) / 4; the filters bring the 4, as a factor of power
_LOWEST: Final = math.log10(_FLOOR) + _LIFT
SILENCE: Final = _LOWEST / 4.0  # every frame of digital silence: -1.5


@dataclass(frozen=True)
class LogMel:
    """`features`: [128, frames] of the whole window. `num_frames`: how many of them are audio."""

    features: Float[np.ndarray, "mels frames"]
    num_frames: int


def log_mel(samples: Float[np.ndarray, " samples"], frames: int = CLIP_FRAMES, dtype: str = "float32") -> LogMel:
    """Log-mel of mono `samples` at 16 kHz, padded with silence to a window of `frames` frames of 10 ms.

    `num_frames` is ceil(samples / 160), as the extractor's attention mask counts. Within 1e-6 of exact arithmetic
    before `dtype` rounds, and 1e-4 of the extractor's, padded frames included. A sample, or a power, that is not
    finite leaves no finite feature. Source: Radford et al. 2022, arXiv:2212.04356, section 2.2.

    Raises ValueError for no samples, or for more than the window holds: a transcript cannot be cut.
    """
    count = len(samples)
    if samples.ndim != 1 or not 0 < count <= frames * HOP_LENGTH:
        raise ValueError(f"samples: expected 1 to {frames * HOP_LENGTH} in one dimension, got shape {samples.shape}")
    from audiorl_cli.data import spectrum  # numba takes a second: for processes that compute features

    # Frame t is centred on sample 160 t and reaches 200 samples either way: these are touched by audio.
    heard = min(frames, -(-(count + N_FFT // 2) // HOP_LENGTH))
    log = np.empty((MEL_BINS, heard), np.float32)
    transformed = -(-heard // spectrum.LANES) * spectrum.LANES
    spectrum.log_mel_power(_padded(samples, transformed, frames * HOP_LENGTH), *_filters(), log)
    lowest = np.maximum(np.float32(_LOWEST), log.max() - np.float32(_DYNAMIC_RANGE))
    features = np.empty((MEL_BINS, frames), dtype)
    features[:, heard if np.isfinite(lowest) else 0 :] = lowest / 4.0
    if features.dtype == np.float16 and np.isfinite(lowest):  # numba does not know float16
        spectrum.scale(log, lowest, features.view(np.uint16), True)
    elif np.isfinite(lowest):
        spectrum.scale(log, lowest, features, False)
    return LogMel(features, -(-count // HOP_LENGTH))


def _padded(samples: Float[np.ndarray, " samples"], frames: int, window: int) -> Float32[np.ndarray, " padded"]:
    """What `frames` frames see: silence to `window` samples, then 200 mirrored at both ends."""
    half = N_FFT // 2
    end, heard_end = half + window, half + len(samples)
    padded = np.empty(max(frames * HOP_LENGTH + N_FFT, heard_end), np.float32)
    padded[half:heard_end] = samples
    padded[heard_end:] = 0
    padded[:half] = padded[2 * half : half : -1]
    if end < len(padded):  # the last frames see the mirror image of the window's end
        mirrored = min(half, len(padded) - end)
        padded[end : end + mirrored] = padded[end - 2 : end - 2 - mirrored : -1]
    return padded


@cache
def _filters() -> tuple[Int[np.ndarray, " mels+1"], Int[np.ndarray, " weights"], Float32[np.ndarray, " weights"]]:
    """The filters, lifted, as `spectrum.log_mel_power` takes them: most of the weights are zero."""
    from audiorl_cli.data import spectrum

    mels, bins = np.nonzero(mel_filters().T)
    weights = mel_filters()[bins, mels] * np.float32(10**_LIFT)
    return np.searchsorted(mels, np.arange(MEL_BINS + 1)), spectrum.power_row(bins), weights


@cache
def mel_filters() -> Float32[np.ndarray, "bins mels"]:
    """Slaney's triangular filters of equal area, 128 from 0 Hz to 8 kHz over the 201 bins of the FFT."""
    import librosa.filters  # two seconds, most of them numba's: only for processes that compute features

    filters: Float32[np.ndarray, "bins mels"] = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=MEL_BINS).T
    return np.ascontiguousarray(filters)
