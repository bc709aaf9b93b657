import numpy as np
import pytest

from audiorl_cli.rl.order import batch_rows


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


def test_nothing_to_take_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows >= 1"):
        batch_rows(0, 1, seed=0, step=0)
