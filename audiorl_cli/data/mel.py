"""Samples -> log-mel features, as transformers' `WhisperFeatureExtractor(feature_size=128)` computes them.

Only the frames that hold audio are transformed; the rest of the window is one constant per clip.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float, Float32

from audiorl_cli.core import CLIP_FRAMES, HOP_LENGTH, MEL_BINS, N_FFT, SAMPLE_RATE

_FLOOR: Final = 1e-10  # power below which the logarithm is cut off
_DYNAMIC_RANGE: Final = 8.0  # in log10 of power: what lies further below the clip's loudest bin is raised to it
_LOWEST: Final = math.log10(_FLOOR)
SILENCE: Final = (_LOWEST + 4.0) / 4.0  # every frame of digital silence: -1.5


@dataclass(frozen=True)
class LogMel:
    """`features`: float32 [128, frames] of the whole window. `num_frames`: how many of them are audio."""

    features: Float32[np.ndarray, "mels frames"]
    num_frames: int


def log_mel(samples: Float[np.ndarray, " samples"], frames: int = CLIP_FRAMES) -> LogMel:
    """Log-mel of mono `samples` at 16 kHz, padded with silence to a window of `frames` frames of 10 ms.

    `num_frames` is ceil(samples / 160), as the extractor's attention mask counts. Agrees with the extractor
    to 1e-4 on speech, padded frames included. Source: Radford et al. 2022, arXiv:2212.04356, section 2.2.

    Raises ValueError for no samples, or for more than the window holds: a transcript cannot be cut.
    """
    count = len(samples)
    if samples.ndim != 1 or not 0 < count <= frames * HOP_LENGTH:
        raise ValueError(f"samples: expected 1 to {frames * HOP_LENGTH} in one dimension, got shape {samples.shape}")
    # Frame t is centred on sample 160 t and reaches 200 samples either way: these are touched by audio.
    heard = min(frames, -(-(count + N_FFT // 2) // HOP_LENGTH))
    power = _power(_frames(samples, heard, frames * HOP_LENGTH))
    mel = np.maximum(power @ mel_filters(), _FLOOR)  # [heard, mels]
    log = np.log10(mel)
    # numpy's float32 log10 of the floor is -10 or -10.000001, by processor and by place in the array.
    log[mel == np.float32(_FLOOR)] = _LOWEST
    lowest = log.max() - _DYNAMIC_RANGE
    features = np.full((MEL_BINS, frames), (max(_LOWEST, lowest) + 4.0) / 4.0, dtype=np.float32)
    features[:, :heard] = ((np.maximum(log, lowest) + 4.0) / 4.0).T
    return LogMel(features, -(-count // HOP_LENGTH))


def _frames(samples: Float[np.ndarray, " samples"], heard: int, window: int) -> Float32[np.ndarray, "heard n_fft"]:
    """Overlapping frames of the padded window: silence to `window` samples, then 200 mirrored at both ends."""
    half = N_FFT // 2
    padded = np.zeros(max(heard * HOP_LENGTH + N_FFT, half + len(samples)), dtype=np.float32)
    padded[half : half + len(samples)] = samples
    padded[:half] = padded[2 * half : half : -1]
    end = half + window
    if end < len(padded):  # the last frames see the mirror image of the window's end
        mirrored = min(half, len(padded) - end)
        padded[end : end + mirrored] = padded[end - 2 : end - 2 - mirrored : -1]
    return np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[: heard * HOP_LENGTH : HOP_LENGTH]


def _power(frames: Float32[np.ndarray, "heard n_fft"]) -> Float32[np.ndarray, "heard bins"]:
    spectrum = np.fft.rfft(frames * _hann())
    power: Float32[np.ndarray, "heard bins"] = np.square(spectrum.real) + np.square(spectrum.imag)
    return power


@cache
def _hann() -> Float32[np.ndarray, " n_fft"]:
    """The periodic Hann window, as an STFT uses it (numpy's own is the symmetric one)."""
    return np.hanning(N_FFT + 1)[:-1].astype(np.float32)


@cache
def mel_filters() -> Float32[np.ndarray, "bins mels"]:
    """Slaney's triangular filters of equal area, 128 from 0 Hz to 8 kHz over the 201 bins of the FFT."""
    import librosa.filters  # two seconds, most of them numba's: only for processes that compute features

    filters: Float32[np.ndarray, "bins mels"] = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=MEL_BINS).T
    return np.ascontiguousarray(filters)
