import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from audiorl_cli.config import OptimizerConfig
from audiorl_cli.errors import ConfigError
from audiorl_cli.rl.optimizer import adamw, frozen_modules, held, schedule


def rates(config: OptimizerConfig, steps: int) -> list[float]:
    return [float(schedule(config, steps)(step)) for step in range(steps + 1)]


def test_schedules_by_hand() -> None:
    assert rates(OptimizerConfig(learning_rate=2.0), 2) == [2.0, 2.0, 2.0]
    linear = OptimizerConfig(learning_rate=1.0, schedule="linear", warmup_steps=2)
    assert rates(linear, 6) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])
    cosine = OptimizerConfig(learning_rate=1.0, schedule="cosine")
    assert rates(cosine, 2) == pytest.approx([1.0, 0.5, 0.0], abs=1e-7)


def test_a_warmup_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_steps"):
        schedule(OptimizerConfig(warmup_steps=4), 4)


def test_what_is_frozen_neither_moves_nor_decays_nor_counts_in_the_norm() -> None:
    params = {"model": jnp.ones(4), "tower": jnp.ones(4)}
    frozen = frozen_modules("tower")
    tx = adamw(OptimizerConfig(learning_rate=0.1, weight_decay=0.5, clip_norm=1.0), 10, frozen)
    state = tx.init(params)
    updates, state = tx.update({"model": jnp.full(4, 3.0), "tower": jnp.full(4, 1e6)}, state, params)
    after = optax.apply_updates(params, updates)
    assert np.array_equal(after["tower"], params["tower"])
    # Adam's first update is one of size 1 whatever the gradient, and decay adds half of each parameter.
    assert np.asarray(after["model"]) == pytest.approx(1.0 - 0.1 * (1.0 + 0.5), rel=1e-5)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert len(moments) == 2  # of "model" alone
    assert np.asarray(moments[0]) == pytest.approx(0.1 * 0.5)  # its clipped gradient, 3 / |(3, 3, 3, 3)|


def test_what_is_held_has_no_gradient() -> None:
    frozen = frozen_modules("tower")
    gradients = jax.grad(lambda tree: sum(leaf.sum() for leaf in jax.tree.leaves(held(tree, frozen))))(
        {"model": jnp.ones(2), "tower": jnp.ones(2)}
    )
    assert gradients["model"].tolist() == [1.0, 1.0]
    assert gradients["tower"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])  # the last has a norm beyond float32
def test_a_gradient_that_is_no_number_moves_no_bit(bad: float) -> None:
    params = {"model": jnp.array([1.0, -0.0, 3.0])}
    tx = adamw(OptimizerConfig(learning_rate=0.1, weight_decay=0.5), 10, frozen_modules())
    good = {"model": jnp.array([1.0, 2.0, -1.0])}
    _, before = tx.update(good, tx.init(params), params)
    updates, state = jax.jit(tx.update)({"model": jnp.array([bad, bad, 1.0])}, before, params)
    after = optax.apply_updates(params, updates)
    assert np.asarray(after["model"]).tobytes() == np.asarray(params["model"]).tobytes()
    same = jax.tree.map(lambda old, new: np.asarray(old).tobytes() == np.asarray(new).tobytes(), before, state)
    assert all(jax.tree.leaves(same))
    updates, state = jax.jit(tx.update)(good, before, params)
    assert not np.array_equal(optax.apply_updates(params, updates)["model"], params["model"])
