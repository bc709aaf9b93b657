"""Samples -> log10 of mel power -> features, compiled by numba: the arithmetic of `mel.py`.

`LANES` frames are transformed side by side, so that every innermost loop is one over frames, which LLVM makes vector
instructions of. For that it must prove that what the loop writes is not what it reads later. Hence the transform works
in place, in one flat array, where all that it needs lies at places known when it is compiled.

The spectrum is in float64: what float32 rounds off a loud frequency is as much as there is of one 80 dB below it, which
made features 8e-5 wrong. Sums of power and what follows are in float32. No operation is fused or reordered (numba's
`fastmath` stays off) and the logarithm is written out, so every processor computes the same bits, however long its
vectors are. A frame's are those of its own samples: lanes do not mix.
"""

from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np
from jaxtyping import Float32, Float64, Int, Shaped

from audiorl_cli.core import HOP_LENGTH, N_FFT

_Work = Float64[np.ndarray, " size"]

LANES: Final = 8
_BLOCK: Final = 256  # frames whose power is held at a time: 412 KB, which stay in a core's own cache

# 400 real samples are 200 complex ones: the even are the real parts, the odd the imaginary. `_parted` sorts it out.
_POINTS: Final = N_FFT // 2
assert _POINTS == 8 * 5 * 5, f"the passes below are those of 200 points, not {_POINTS}"
_MIDDLE: Final = _POINTS // 2
_TURNS: Final = np.exp(-2j * np.pi * np.arange(N_FFT) / N_FFT)
_WINDOW: Final = np.hanning(N_FFT + 1)[:-1] / 2  # periodic Hann; the half is for `_parted`
# The row where the passes leave each frequency, and that of its negative. Eight bits: a row is below 256 for certain.
_ROWS: Final = np.array([25 * (k % 8) + 5 * (k // 8 % 5) + k // 40 for k in range(_POINTS)], np.uint8)
_MIRRORED: Final = _ROWS[-np.arange(_POINTS)]
_POWER: Final = 256 * 2 * LANES  # the power begins behind these 256 rows of real and imaginary parts
_SIZE: Final = _POWER + 2 * (_MIDDLE + 1) * _BLOCK

_COS1, _COS2, _SIN1, _SIN2 = (float(f(a)) for f in (np.cos, np.sin) for a in (0.4 * np.pi, 0.8 * np.pi))
_ROOT_HALF, _QUARTER, _HALF, _ONE = 0.5**0.5, np.float32(0.25), np.float32(0.5), np.float32(1)
_INFINITY, _LOG10_2 = np.float32(np.inf), np.float32(np.log10(2))
_ARTANH: Final = tuple(np.float32(2 / np.log(10) / odd) for odd in (1, 3, 5, 7, 9))


def power_row(bins: Int[np.ndarray, " weights"]) -> Int[np.ndarray, " weights"]:
    """Where `log_mel_power` holds these bins: those below the middle in order, then the others from the top down."""
    return np.where(bins <= _MIDDLE, bins, _POINTS + _MIDDLE + 1 - bins)


def _inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled as a part of what calls it."""
    return numba.njit(error_model="numpy")(function)


def _outer(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at the first call, which takes seconds, and kept on disk where numba finds a folder to write to.

    What is kept serves until this file or the processor is another. A change to core's constants does not reach it.
    """
    try:
        compiled = numba.njit(error_model="numpy", nogil=True, cache=True)(function)
    except RuntimeError:  # it finds none
        return numba.njit(error_model="numpy", nogil=True)(function)

    def call(*arguments: Any) -> Any:
        try:
            return compiled(*arguments)
        except OSError:  # compiled, and not kept for another process: the disk is full
            return compiled(*arguments)

    return call


@_inner
def _get(work: _Work, row: int, lane: int) -> complex:
    return complex(work[2 * LANES * row + lane], work[2 * LANES * row + LANES + lane])


@_inner
def _put(work: _Work, row: int, lane: int, value: complex) -> None:
    work[2 * LANES * row + lane] = value.real
    work[2 * LANES * row + LANES + lane] = value.imag


@_inner
def _turned(z: complex) -> complex:
    """-i z."""
    return complex(z.imag, -z.real)


@_inner
def _scaled(z: complex, factor: float) -> complex:
    """As z * factor, which would make a complex number of the factor first."""
    return complex(z.real * factor, z.imag * factor)


@_inner
def _dft4(a: complex, b: complex, c: complex, d: complex) -> tuple[complex, ...]:
    p, q, r, s = a + c, a - c, b + d, _turned(b - d)
    return p + r, q + s, p - r, q - s


@_inner
def _dft5(a: complex, b: complex, c: complex, d: complex, e: complex) -> tuple[complex, ...]:
    p, q, r, s = b + e, c + d, b - e, c - d
    t, u = a + _scaled(p, _COS1) + _scaled(q, _COS2), a + _scaled(p, _COS2) + _scaled(q, _COS1)
    v, w = _turned(_scaled(r, _SIN1) + _scaled(s, _SIN2)), _turned(_scaled(r, _SIN2) - _scaled(s, _SIN1))
    return a + p + q, t + v, u + w, u - w, t - v


@_inner
def _pass8(work: _Work) -> None:
    """200 points -> eight times 25."""
    for p in range(25):
        t1, t2, t3, t4 = _TURNS[2 * p], _TURNS[4 * p], _TURNS[6 * p], _TURNS[8 * p]
        t5, t6, t7 = _TURNS[10 * p], _TURNS[12 * p], _TURNS[14 * p]
        q, r, s = p + 50, p + 100, p + 150
        for i in range(LANES):
            a, b, c, d = _dft4(_get(work, p, i), _get(work, q, i), _get(work, r, i), _get(work, s, i))
            e, f, g, h = _dft4(
                _get(work, p + 25, i), _get(work, q + 25, i), _get(work, r + 25, i), _get(work, s + 25, i)
            )
            f, g, h = _scaled(f + _turned(f), _ROOT_HALF), _turned(g), _scaled(_turned(h) - h, _ROOT_HALF)
            _put(work, p, i, a + e)
            _put(work, p + 25, i, t1 * (b + f))
            _put(work, q, i, t2 * (c + g))
            _put(work, q + 25, i, t3 * (d + h))
            _put(work, r, i, t4 * (a - e))
            _put(work, r + 25, i, t5 * (b - f))
            _put(work, s, i, t6 * (c - g))
            _put(work, s + 25, i, t7 * (d - h))


@_inner
def _pass5(work: _Work) -> None:
    """Eight times 25 points -> five times 5 of each."""
    for first in range(0, _POINTS, 25):
        for p in range(5):
            t1, t2, t3, t4 = _TURNS[16 * p], _TURNS[32 * p], _TURNS[48 * p], _TURNS[64 * p]
            q = first + p
            for i in range(LANES):
                a, b, c = _get(work, q, i), _get(work, q + 5, i), _get(work, q + 10, i)
                a, b, c, d, e = _dft5(a, b, c, _get(work, q + 15, i), _get(work, q + 20, i))
                _put(work, q, i, a)
                _put(work, q + 5, i, t1 * b)
                _put(work, q + 10, i, t2 * c)
                _put(work, q + 15, i, t3 * d)
                _put(work, q + 20, i, t4 * e)


@_inner
def _last5(work: _Work) -> None:
    """Forty times 5 points -> their frequencies."""
    for q in range(0, _POINTS, 5):
        for i in range(LANES):
            a, b, c = _get(work, q, i), _get(work, q + 1, i), _get(work, q + 2, i)
            a, b, c, d, e = _dft5(a, b, c, _get(work, q + 3, i), _get(work, q + 4, i))
            _put(work, q, i, a)
            _put(work, q + 1, i, b)
            _put(work, q + 2, i, c)
            _put(work, q + 3, i, d)
            _put(work, q + 4, i, e)


@_inner
def _parted(work: _Work, low: int) -> None:
    """Power of the real samples' spectrum, at k and at 200 - k: each takes the complex one's value at both."""
    for k in range(_MIDDLE + 1):
        row, mirrored, turn = _ROWS[k], _MIRRORED[k], _TURNS[k]
        for i in range(LANES):
            y, z = _get(work, row, i), _get(work, mirrored, i)
            even = complex(y.real + z.real, y.imag - z.imag)
            odd = turn * complex(y.imag + z.imag, z.real - y.real)
            below, above = even + odd, even - odd
            at = _POWER + k * _BLOCK + low + i
            work[at] = below.real * below.real + below.imag * below.imag
            work[at + (_MIDDLE + 1) * _BLOCK] = above.real * above.real + above.imag * above.imag


@_inner
def _log10(x: np.float32, bits: np.int32) -> np.float32:
    """Of x >= 0, given with its bits; within 1e-6. Of 0: less than -38."""
    # x = 2^exponent mantissa, the mantissa from sqrt(1/2) to sqrt(2); ln(mantissa) = 2 artanh(s), |s| < 0.172
    exponent = np.int32(np.int32(bits - 0x3F3504F3) >> 23)
    mantissa = np.int32(bits - np.int32(exponent << 23)).view(np.float32)
    s = (mantissa - _ONE) / (mantissa + _ONE)
    c1, c3, c5, c7, c9 = _ARTANH
    square = s * s
    series = s * (c1 + square * (c3 + square * (c5 + square * (c7 + square * c9))))
    return series + np.float32(exponent) * _LOG10_2 if x < _INFINITY else x


@_inner
def _half(x: np.float32) -> np.int32:
    """The bits of x as float16, rounded to even; |x| < 65504."""
    bits = np.float32(x).view(np.int32)
    size = np.int32(bits & 0x7FFFFFFF)
    normal = np.int32(np.int32(size - (112 << 23) + 0xFFF + (np.int32(size >> 13) & 1)) >> 13)
    # below 2^-14 float16 is a fixed number of binary places, as float32 is from 1/2 to 1
    small = np.int32(np.float32(abs(x) + _HALF).view(np.int32) - 0x3F000000)
    return np.int32((small if size < 113 << 23 else normal) | (np.int32(bits >> 16) & 0x8000))


@_outer
def log_mel_power(
    samples: Float32[np.ndarray, " samples"],
    starts: Int[np.ndarray, " mels+1"],
    rows: Int[np.ndarray, " weights"],
    weights: Float32[np.ndarray, " weights"],
    log: Float32[np.ndarray, "mels frames"],
) -> None:
    """Fills `log` [mels, frames] from `samples`, which go on for as many frames as make whole groups of lanes.

    Mel m is the sum of `weights[i]` times the power in `rows[i]`, over i from `starts[m]` to `starts[m + 1]`.
    """
    work = np.empty(_SIZE, np.float64)
    frames = log.shape[1]
    for start in range(0, frames, _BLOCK):
        count = min(_BLOCK, frames - start)
        for group in range(_BLOCK // LANES):
            if group * LANES >= count:
                break
            heard = samples[(start + group * LANES) * HOP_LENGTH :]
            for n in range(N_FFT):
                for i in range(LANES):
                    work[n * LANES + i] = _WINDOW[n] * np.float64(heard[i * HOP_LENGTH + n])
            _pass8(work)
            _pass5(work)
            _last5(work)
            _parted(work, group * LANES)
        for mel in range(len(log)):
            out = log[mel, start : start + count]
            power = work[_POWER + rows[starts[mel]] * _BLOCK :]
            for t in range(count):
                out[t] = weights[starts[mel]] * np.float32(power[t])
            for i in range(starts[mel] + 1, starts[mel + 1]):
                power = work[_POWER + rows[i] * _BLOCK :]
                for t in range(count):
                    out[t] += weights[i] * np.float32(power[t])
            bits = out.view(np.int32)
            for t in range(count):
                out[t] = _log10(out[t], bits[t])


@_outer
def scale(
    log: Float32[np.ndarray, "mels heard"],
    lowest: np.float32,
    features: Shaped[np.ndarray, "mels frames"],
    narrow: bool,
) -> None:
    """A quarter of `log`, raised to `lowest`, into its place in `features`: float32, or `narrow` and float16's bits."""
    for mel in range(len(log)):
        for t in range(log.shape[1]):
            x = log[mel, t]
            x = (x if x > lowest else lowest) * _QUARTER
            if narrow:
                features[mel, t] = _half(x)
            else:
                features[mel, t] = x
