"""The order of data: which rows a step takes, as a pure function of the seed and the step."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Int64

_FURTHER: Final = 1  # tells the order of further rows from that of epochs, which is drawn from two numbers


def batch_rows(rows: int, batch_size: int, *, seed: int, step: int) -> list[int]:
    """Row numbers of step `step` (from 0): the next `batch_size` of an endless stream of shuffled epochs.

    Every epoch is its own permutation of all `rows`, drawn from (seed, epoch); a batch may straddle two. No state is
    kept between steps, so a resumed run takes the rows an undisturbed one would have taken.
    """
    if rows < 1 or batch_size < 1 or step < 0:
        raise ValueError(f"expected rows >= 1, batch_size >= 1, step >= 0, got {rows}, {batch_size}, {step}")
    places = range(step * batch_size, (step + 1) * batch_size)
    return [int(_permutation(rows, (seed, place // rows))[place % rows]) for place in places]


def further_rows(rows: int, batch: Sequence[int], *, seed: int, step: int, number: int) -> list[int]:
    """Row numbers for round `number` (from 1) of sampling in step `step`, whose first round took `batch`.

    All rounds of a step take different rows: those that `batch` has not, in an order drawn from (seed, step), as many
    as `batch` has for each round. Empty where fewer than that are left.
    """
    order = _permutation(rows, (seed, step, _FURTHER))
    left = order[~np.isin(order, batch)]
    found: list[int] = left[(number - 1) * len(batch) : number * len(batch)].tolist()
    return found if len(found) == len(batch) else []


@lru_cache(maxsize=4)
def _permutation(rows: int, seed: tuple[int, ...]) -> Int64[np.ndarray, " rows"]:
    return np.random.default_rng(seed).permutation(rows)
