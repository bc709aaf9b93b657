import numpy as np
import pytest

from audiorl_cli.rl.order import batch_rows, further_rows


def test_every_epoch_takes_every_row_once_whatever_the_batches() -> None:
    stream = [row for step in range(10) for row in batch_rows(7, 3, seed=1, step=step)]
    epochs = [stream[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    assert batch_rows(100, 8, seed=3, step=5) == batch_rows(100, 8, seed=3, step=5)
    assert batch_rows(100, 8, seed=3, step=5) != batch_rows(100, 8, seed=4, step=5)
    assert batch_rows(100, 100, seed=0, step=2) == list(np.random.default_rng([0, 2]).permutation(100))


def test_a_batch_may_be_larger_than_the_data() -> None:
    assert sorted(batch_rows(2, 5, seed=0, step=0)[:4]) == [0, 0, 1, 1]


def test_further_rounds_take_rows_that_the_step_has_not() -> None:
    batch = [3, 9, 4]
    rounds = [further_rows(11, batch, seed=1, step=5, number=number) for number in range(1, 5)]
    assert [len(rows) for rows in rounds] == [3, 3, 0, 0]  # of the eight rows left, two make no round
    sampled = batch + rounds[0] + rounds[1]
    assert len(set(sampled)) == 9
    assert set(sampled) <= set(range(11))


def test_further_rows_are_a_function_of_seed_and_step() -> None:
    def drawn(seed: int, step: int) -> list[int]:
        return further_rows(100, range(8), seed=seed, step=step, number=1)

    assert drawn(3, 5) == drawn(3, 5)
    assert drawn(3, 5) != drawn(4, 5)
    assert drawn(3, 5) != drawn(3, 6)
    assert drawn(3, 5) != [row for row in batch_rows(100, 100, seed=3, step=5) if row >= 8][:8]


def test_nothing_to_take_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows >= 1"):
        batch_rows(0, 1, seed=0, step=0)
