"""Rows of like length together: which rows are heard at once, and in a window of how many frames."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from audiorl_cli.core import CHUNK_FRAMES

HEARD: Final = 8
"""Rows that are heard at a time: so few that they are of like length, and enough to keep a processor at work."""
MOST_WINDOWS: Final = 4
"""What hears a window is compiled for it, at whatever size of data."""
WINDOW_FRAMES: Final = 6_000
"""So many frames less have to be heard for one more window: a minute of audio. Hearing that takes less than compiling
does, but what was compiled is kept on disk for the next checkpoint."""


class Batch(NamedTuple):
    """Numbers of rows, and the first frames of their windows that hold all of their audio."""

    rows: tuple[int, ...]
    frames: int


def batches(frames: Sequence[int], clip_frames: int, size: int) -> list[Batch]:
    """Every row once, `size` at a time and the longest first; `frames`: the valid ones of each row's `clip_frames`.

    The last batch may be smaller. Windows are whole chunks of the audio tower. They follow from the arguments alone, so
    that the same data is transcribed by the same arithmetic every time.
    """
    chunks = [max(-(-number // CHUNK_FRAMES), 1) for number in frames]
    order = sorted(range(len(frames)), key=lambda row: -chunks[row])  # of one length in order, as they are stored
    together = [tuple(order[first : first + size]) for first in range(0, len(order), size)]
    needed = [chunks[rows[0]] for rows in together]
    windows = _windows(needed, WINDOW_FRAMES / (size * CHUNK_FRAMES))
    return [
        Batch(rows, min(windows[bisect_left(windows, need)] * CHUNK_FRAMES, clip_frames))
        for rows, need in zip(together, needed, strict=True)
    ]


def _windows(needed: Sequence[int], price: float) -> list[int]:
    """The windows, rising, in which batches that need so much each cost least: their windows, and `price` a window."""
    counts = Counter(needed)
    sizes = sorted(counts)
    up_to = [0, *accumulate(counts[size] for size in sizes)]
    # By number of windows, then by number of sizes, the smallest first: the least cost of these, and its windows.
    cheapest: list[list[tuple[float, tuple[int, ...]]]] = [[(0.0, ()), *[(math.inf, ())] * len(sizes)]]
    for _ in range(MOST_WINDOWS):
        before = cheapest[-1]
        one_more = [
            min(
                (cost + price + size * (up_to[end] - up_to[start]), (*windows, size))
                for start, (cost, windows) in enumerate(before[:end])
            )
            for end, size in enumerate(sizes, 1)
        ]
        cheapest.append([(math.inf, ()), *one_more])
    return list(min(row[-1] for row in cheapest)[1])
