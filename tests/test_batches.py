"""Batches by hand: like lengths together, each in the smallest of a few windows; and invariants over random lengths."""

from itertools import pairwise

import numpy as np
import pytest

from audiorl_cli.bridge import batches as module
from audiorl_cli.bridge.batches import MOST_WINDOWS, WINDOW_FRAMES, Batch, batches


@pytest.fixture
def free_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another window costs one frame, so that each is worth it."""
    monkeypatch.setattr(module, "WINDOW_FRAMES", 1)


@pytest.mark.usefixtures("free_windows")
def test_batches_by_hand() -> None:
    found = batches([120, 2950, 30, 1000, 100, 301], 3000, 2)
    assert found == [Batch((1, 3), 3000), Batch((5, 0), 400), Batch((2, 4), 100)]


@pytest.mark.usefixtures("free_windows")
def test_rows_of_one_length_stay_in_the_order_of_the_data() -> None:
    assert batches([150, 110, 200, 101, 199], 1000, 2) == [Batch((0, 1), 200), Batch((2, 3), 200), Batch((4,), 200)]


def test_a_window_is_worth_a_minute_of_audio() -> None:
    # One row at a time, each short one in a window of 3000 costs 2900 frames: 5,800 of two, 8,700 of three.
    assert WINDOW_FRAMES == 6_000
    assert {batch.frames for batch in batches([3000] + [100] * 2, 3000, 1)} == {3000}
    assert {batch.frames for batch in batches([3000] + [100] * 3, 3000, 1)} == {3000, 100}


@pytest.mark.usefixtures("free_windows")
def test_the_windows_are_those_in_which_least_is_heard_in_vain() -> None:
    # Eight lengths, four windows: the neighbours that differ by 100 share one, at 100 in vain a pair.
    lengths = [100, 200, 800, 900, 1500, 1600, 2900, 3000]
    found = batches(lengths, 3000, 1)
    assert [batch.frames for batch in found] == [3000, 3000, 1600, 1600, 900, 900, 200, 200]
    # A length of many rows is given its own before that of one.
    many = batches([100] * 50 + [200, 1000, 2000, 3000], 3000, 1)
    assert sorted({batch.frames for batch in many}) == [100, 1000, 2000, 3000]


@pytest.mark.usefixtures("free_windows")
def test_no_window_is_longer_than_the_clip() -> None:
    assert batches([180, 20], 180, 1) == [Batch((0,), 180), Batch((1,), 100)]
    assert batches([20, 7], 50, 1) == [Batch((0,), 50), Batch((1,), 50)]


def test_a_row_of_no_frames_has_a_place_in_which_it_is_refused() -> None:
    assert batches([0, 5000], 3000, 4) == [Batch((1, 0), 3000)]


@pytest.mark.usefixtures("free_windows")
@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_heard_once_and_whole(seed: int) -> None:
    generator = np.random.default_rng(seed)
    clip, size = int(generator.integers(50, 30_000)), int(generator.integers(1, 20))
    frames = generator.integers(1, clip + 1, size=int(generator.integers(1, 500))).tolist()
    found = batches(frames, clip, size)
    assert sorted(row for batch in found for row in batch.rows) == list(range(len(frames)))
    assert [len(batch.rows) for batch in found[:-1]] == [size] * (len(found) - 1)
    longest = [max(frames[row] for row in batch.rows) for batch in found]
    assert all(need <= batch.frames <= clip for need, batch in zip(longest, found, strict=True))
    assert len({batch.frames for batch in found}) <= MOST_WINDOWS
    # Longest first, to the chunk.
    shortest = [min(frames[row] for row in batch.rows) for batch in found]
    chunks = [(-(-low // 100), -(-high // 100)) for low, high in zip(shortest, longest, strict=True)]
    assert all(low >= high for (low, _), (_, high) in pairwise(chunks))
    assert batches(frames, clip, size) == found
