"""The bootstrap: how far a rate would move, had other utterances or speakers been drawn. Pure functions over counts.

Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation": units (utterances, or
speakers with all of their utterances) are drawn with replacement, as many as there are, and the rate of each such
replicate is a ratio of sums, as that of the corpus is. An interval from a few units, two speakers say, is too narrow:
the two stand for all that there are.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int

from audiorl_cli.wer import ErrorCounts

Cluster = Literal["utterance", "speaker"]

# Draws that are held at a time: few enough for a processor's cache, whatever the number of units and replicates.
_DRAWS: Final = 1 << 16
_TAILS: Final = (0.025, 0.975)


@dataclass(frozen=True)
class Bootstrap:
    """What is drawn, how often, and from which seed: the same three give the same figures."""

    replicates: int = 10_000
    cluster: Cluster = "utterance"
    seed: int = 0


BOOTSTRAP: Final = Bootstrap()


@dataclass(frozen=True)
class Interval:
    """A 95 % interval: the 2.5 and 97.5 percentiles of the replicates, linear between neighbours."""

    low: float
    high: float


def clusters(counts: Int[np.ndarray, "rows columns"], names: Sequence[Hashable]) -> Int[np.ndarray, "units columns"]:
    """The rows of one name summed, a unit for each name, in the order in which names are first met."""
    numbers: dict[Hashable, int] = {}
    unit = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
    sums = np.zeros((len(numbers), counts.shape[1]), np.int64)
    np.add.at(sums, unit, counts)
    return sums


def resample(
    counts: Int[np.ndarray, "units columns"], replicates: int, seed: int
) -> Float[np.ndarray, "replicates columns"]:
    """The sums of every column over as many units as there are, drawn with replacement, `replicates` times.

    All columns see the same draws, so that rates made of them, and differences of rates, are paired. The sums are whole
    numbers, exact below 2**53. Memory does not grow with replicates times units. Raises ValueError without units.
    """
    units, columns = counts.shape
    if not units:
        raise ValueError("no units to draw from")
    generator = np.random.default_rng(seed)
    values = counts.astype(np.float64)
    sums = np.empty((replicates, columns))
    at_once = max(1, _DRAWS // units)
    for first in range(0, replicates, at_once):
        number = min(at_once, replicates - first)
        drawn = generator.integers(units, size=(number, units))
        drawn += units * np.arange(number)[:, None]
        times = np.bincount(drawn.reshape(-1), minlength=number * units).reshape(number, units)
        sums[first : first + number] = times @ values
    return sums


def rates(
    errors: Float[np.ndarray, " replicates"], lengths: Float[np.ndarray, " replicates"]
) -> Float[np.ndarray, " replicates"]:
    """Errors over lengths; as in `ErrorCounts.rate`, a length of 0 counts as 1."""
    found: Float[np.ndarray, " replicates"] = errors / np.maximum(lengths, 1)
    return found


def interval(values: Float[np.ndarray, " replicates"]) -> Interval:
    """The 95 % percentile interval of a figure over its replicates."""
    low, high = np.quantile(values, _TAILS)
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class RateIntervals:
    """The intervals of a corpus's rates, all from the same draws."""

    wer: Interval
    cer: Interval
    mer: Interval
    wil: Interval


def rate_intervals(sums: Float[np.ndarray, "replicates 6"]) -> RateIntervals:
    """The intervals of what `resample` made of these columns.

    Word substitutions, insertions, deletions and hits; character errors, reference characters.
    """
    words = [ErrorCounts(*map(int, replicate)) for replicate in sums[:, :4]]
    return RateIntervals(
        wer=interval(np.array([one.wer for one in words])),
        cer=interval(rates(sums[:, 4], sums[:, 5])),
        mer=interval(np.array([one.mer for one in words])),
        wil=interval(np.array([one.wil for one in words])),
    )


def wer_interval(counts: Int[np.ndarray, "units errors_and_words"], replicates: int, seed: int) -> Interval | None:
    """The interval of a WER (or CER) from the errors and reference words of each unit.

    None where nothing can be said: of fewer than two units every replicate is the corpus itself, and so is the interval
    of no replicates.
    """
    if len(counts) < 2 or not replicates:
        return None
    sums = resample(counts, replicates, seed)
    return interval(rates(sums[:, 0], sums[:, 1]))


@dataclass(frozen=True)
class PairedBootstrap:
    """A WER less its baseline's over the same draws. `probability_of_improvement`: the share of replicates below 0.

    A replicate without a difference is no improvement.
    """

    difference_interval: Interval
    probability_of_improvement: float


def paired(
    counts: Int[np.ndarray, "units errors_baseline_words"], replicates: int, seed: int
) -> PairedBootstrap | None:
    """The paired bootstrap of two systems, from the errors of both and the reference words of each unit.

    None where `wer_interval` is.
    """
    if len(counts) < 2 or not replicates:
        return None
    sums = resample(counts, replicates, seed)
    difference = rates(sums[:, 0] - sums[:, 1], sums[:, 2])
    return PairedBootstrap(interval(difference), float(np.mean(difference < 0)))
