"""The order of data: which rows a step takes, as a pure function of the seed and the step."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int64


def batch_rows(rows: int, batch_size: int, *, seed: int, step: int, stream: int = 0) -> list[int]:
    """Row numbers of step `step` (from 0): the next `batch_size` of an endless stream of shuffled epochs.

    Every epoch is its own permutation of all `rows`, drawn from (seed, epoch); a batch may straddle two. No state is
    kept between steps, so a resumed run takes the rows an undisturbed one would have taken. Each `stream` is another.
    """
    if rows < 1 or batch_size < 1 or step < 0:
        raise ValueError(f"expected rows >= 1, batch_size >= 1, step >= 0, got {rows}, {batch_size}, {step}")
    places = range(step * batch_size, (step + 1) * batch_size)
    return [int(_permutation(rows, seed, place // rows, stream)[place % rows]) for place in places]


@lru_cache(maxsize=4)
def _permutation(rows: int, seed: int, epoch: int, stream: int) -> Int64[np.ndarray, " rows"]:
    return np.random.default_rng([seed, epoch, stream] if stream else [seed, epoch]).permutation(rows)
