from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from audiorl_cli.bridge import checkpoint, lora
from audiorl_cli.config import LoraConfig, OptimizerConfig
from audiorl_cli.errors import ConfigError
from audiorl_cli.rl.optimizer import adamw, counting, decays, frozen_modules, held, schedule


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
    params = {"model": jnp.ones((2, 2)), "tower": jnp.ones(4)}
    frozen = frozen_modules("tower")
    tx = adamw(OptimizerConfig(learning_rate=0.1, weight_decay=0.5, clip_norm=1.0), 10, frozen)
    state = tx.init(params)
    updates, state = tx.update({"model": jnp.full((2, 2), 3.0), "tower": jnp.full(4, 1e6)}, state, params, step=0)
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


def test_matrices_decay_and_vectors_do_not() -> None:
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2), "rate": jnp.ones(())}
    tx = adamw(OptimizerConfig(learning_rate=1.0, weight_decay=0.5), 10, frozen_modules())
    updates, _ = tx.update(params, tx.init(params), params, step=0)
    assert [float(updates[name].min()) for name in params] == pytest.approx([-1.5, -1.0, -1.0], rel=1e-5)


def test_norms_and_biases_of_the_model_do_not_decay_and_adapters_do() -> None:
    model = checkpoint.load("tiny").model
    flat, _ = jax.tree_util.tree_flatten_with_path(decays(nnx.state(model, nnx.Param)))
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): decayed for path, decayed in flat}
    assert {path.split("/")[-2] for path, decayed in found.items() if decayed} == {"kernel", "embedding"}
    left = [path.split("/") for path, decayed in found.items() if not decayed]
    assert {path[-2] for path in left} == {"kernel", "bias", "scale"}
    # EasyDeL calls the scale of an RMSNorm its kernel.
    assert all("norm" in path[-3] for path in left if path[-2] == "kernel")
    adapters = decays(lora.adapted(model, LoraConfig(rank=2), 0, ()).to_state().graphstate)
    assert all(jax.tree.leaves(adapters))


def test_betas_and_epsilon_by_hand() -> None:
    config = OptimizerConfig(learning_rate=1.0, beta1=0.5, beta2=0.75, epsilon=0.5, clip_norm=1e9)
    tx = adamw(config, 10, frozen_modules())
    params = {"w": jnp.zeros((1, 1))}
    state = tx.init(params)
    # Means 2 / 2 and 4 / 4, corrected by 1 - 0.5 and 1 - 0.75: 2 / (2 + 0.5).
    updates, state = tx.update({"w": jnp.full((1, 1), 2.0)}, state, params, step=0)
    assert float(updates["w"][0, 0]) == pytest.approx(-0.8)
    # Means (1 - 4) / 2 and 0.75 * 1 + 0.25 * 16, corrected by 0.75 and 0.4375: -2 / (sqrt(10.857143) + 0.5).
    updates, _ = tx.update({"w": jnp.full((1, 1), -4.0)}, state, params, step=1)
    assert float(updates["w"][0, 0]) == pytest.approx(2 / 3.7950214, rel=1e-6)


@pytest.mark.parametrize("gradient", [[0.0, 0.0, 0.0], [-0.0, 0.0, -0.0]])
def test_a_gradient_of_zero_moves_no_bit(gradient: list[float]) -> None:
    """Momentum and decay would."""
    params = {"model": jnp.array([[1.0, -0.0, 3.0]]), "other": jnp.array([2.0])}
    tx = adamw(OptimizerConfig(learning_rate=0.1, weight_decay=0.5), 10, frozen_modules())
    good = {"model": jnp.array([[1.0, 2.0, -1.0]]), "other": jnp.array([1.0])}
    _, before = tx.update(good, tx.init(params), params, step=0)
    nothing = {"model": jnp.array([gradient]), "other": jnp.array([0.0])}
    updates, state = jax.jit(tx.update)(nothing, before, params, step=1)
    after = optax.apply_updates(params, updates)
    for old, new in ((params, after), (before, state)):
        same = jax.tree.map(lambda old, new: np.asarray(old).tobytes() == np.asarray(new).tobytes(), old, new)
        assert all(jax.tree.leaves(same))
    # One parameter with a gradient is enough, however small its square: all learn, momentum, decay and all.
    updates, _ = jax.jit(tx.update)({**nothing, "other": jnp.array([1e-30])}, before, params, step=1)
    assert (np.asarray(updates["model"]) != 0).all()


def test_the_rate_is_that_of_the_update_and_not_of_those_that_changed_something() -> None:
    config = OptimizerConfig(learning_rate=1.0, schedule="linear", beta1=0.0, beta2=0.0, epsilon=1e-16)
    tx, params = adamw(config, 4, frozen_modules()), {"w": jnp.zeros((1, 1))}
    for optimizer in (tx, counting(tx)):
        state, moved = optimizer.init(params), []
        for step, gradient in enumerate([1.0, 0.0, np.nan, 1.0]):
            given: Any = {"step": step} if optimizer is tx else {}
            updates, state = optimizer.update({"w": jnp.full((1, 1), gradient)}, state, params, **given)
            moved.append(float(updates["w"][0, 0]))
        assert moved == pytest.approx([-1.0, 0.0, 0.0, -0.25])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])  # the last has a norm beyond float32
def test_a_gradient_that_is_no_number_moves_no_bit(bad: float) -> None:
    params = {"model": jnp.array([1.0, -0.0, 3.0])}
    tx = adamw(OptimizerConfig(learning_rate=0.1, weight_decay=0.5), 10, frozen_modules())
    good = {"model": jnp.array([1.0, 2.0, -1.0])}
    _, before = tx.update(good, tx.init(params), params, step=0)
    updates, state = jax.jit(tx.update)({"model": jnp.array([bad, bad, 1.0])}, before, params, step=1)
    after = optax.apply_updates(params, updates)
    assert np.asarray(after["model"]).tobytes() == np.asarray(params["model"]).tobytes()
    same = jax.tree.map(lambda old, new: np.asarray(old).tobytes() == np.asarray(new).tobytes(), before, state)
    assert all(jax.tree.leaves(same))
    updates, state = jax.jit(tx.update)(good, before, params, step=1)
    assert not np.array_equal(optax.apply_updates(params, updates)["model"], params["model"])
