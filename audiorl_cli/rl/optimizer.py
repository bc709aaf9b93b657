"""AdamW under a schedule, from the config; parameters may be frozen."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from audiorl_cli.config import OptimizerConfig
from audiorl_cli.errors import ConfigError

IsFrozen = Callable[[tuple[Any, ...]], bool]
"""Whether the parameter at this path of the tree (jax key entries) takes no updates."""


def frozen_parts(freeze_audio_tower: bool) -> tuple[str, ...]:
    """Parts of the model that take no updates: the vision tower, which is never run, and the audio tower if asked."""
    return ("visual", "audio_tower") if freeze_audio_tower else ("visual",)


def frozen_modules(*names: str) -> IsFrozen:
    """Freezes the parameters of the model's parts of these names, and no others."""
    return lambda path: getattr(path[0], "key", None) in names


def held(params: Any, is_frozen: IsFrozen) -> Any:
    """`params` for use inside a gradient: what is frozen is not differentiated, which saves its backward pass."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.lax.stop_gradient(leaf) if is_frozen(path) else leaf, params
    )


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of update t = 0, 1, ..., steps - 1; those that change nothing (`adamw`) count.

    It rises in a line over the first `warmup_steps` updates, none of which is at 0, to `learning_rate`; from there it
    is held (constant) or falls to reach 0 at update `steps` (linear, cosine). Raises ConfigError for a warmup as long
    as the run.
    """
    warmup, peak = config.warmup_steps, config.learning_rate
    if warmup >= steps:
        raise ConfigError(
            "optimizer.warmup_steps", expected=f"< the {steps} steps of the run", got=str(warmup), fix="Lower it."
        )
    falls: dict[str, Callable[[jax.Array], jax.Array]] = {
        "constant": jnp.ones_like,
        "linear": lambda done: 1.0 - done,
        "cosine": lambda done: 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
    }
    fall = falls[config.schedule]

    def rate(count: jax.typing.ArrayLike) -> jax.Array:
        update = jnp.asarray(count, jnp.float32)
        done = jnp.clip((update - warmup) / (steps - warmup), 0.0, 1.0)
        return peak * jnp.minimum((update + 1) / max(warmup, 1), 1.0) * fall(done)

    return rate


def decays(params: Any) -> Any:
    """Tell for each parameter whether weight decay is applied to it: to matrices and kernels, not to vectors."""
    return jax.tree_util.tree_map(lambda leaf: leaf.ndim > 1, params)


def adamw(config: OptimizerConfig, steps: int, is_frozen: IsFrozen) -> optax.GradientTransformationExtraArgs:
    """AdamW (arXiv:1711.05101) after clipping by the global norm, for what is not frozen.

    Its `update` takes the number of the update, `step` = 0, 1, ..., whose rate `schedule` gives: `apply_gradients`
    passes it on. A gradient that is zero in every parameter (no group has an advantage, every token is clipped or
    masked) or whose norm is not finite changes no bit, neither of a parameter nor of the optimizer's state: no momentum
    and no weight decay is applied. Such an update is counted all the same, so that the schedule reaches its end.

    Weights decay in matrices alone, embeddings and adapters included; norms, biases and other vectors do not, as in
    transformers' Trainer. Frozen parameters get no update, no weight decay, no optimizer state, and do not count in the
    norm.
    """
    direction = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay, decays),
    )

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: "frozen" if is_frozen(path) else "learning", params)

    learning = _descent(direction, schedule(config, steps))
    return optax.multi_transform({"learning": learning, "frozen": optax.set_to_zero()}, labels)


def apply_gradients(state: Any, gradients: Any) -> Any:
    """EasyDeL's state after one more update, at the rate of `state.step`. Its own method of this name passes no step to
    the optimizer (see `counting`).
    """
    updates, after = state.tx.update(gradients, state.opt_state, state.graphstate, step=state.step)
    return state.replace(
        step=state.step + 1, graphstate=optax.apply_updates(state.graphstate, updates), opt_state=after
    )


class Counted(NamedTuple):
    """The state of a `counting` optimizer. `step`: the number of the next update."""

    step: Int[Array, ""]
    inner: Any


def counting(optimizer: optax.GradientTransformationExtraArgs) -> optax.GradientTransformation:
    """`optimizer` for a trainer that passes no `step`: it counts its updates itself."""

    def init(params: Any) -> Counted:
        return Counted(jnp.zeros([], jnp.int32), optimizer.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Counted]:
        updates, inner = optimizer.update(updates, state.inner, params, step=state.step)
        return updates, Counted(state.step + 1, inner)

    return optax.GradientTransformation(init, update)


def _descent(direction: optax.GradientTransformation, rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Steps of `rate` against `direction`, and none where a gradient is zero or not finite: inside the compiled update,
    as its buffers are given away and nobody could take them back.
    """

    def update(gradients: Any, state: Any, params: Any = None, *, step: Any, **_: Any) -> tuple[Any, Any]:
        some = jnp.stack([(leaf != 0).any() for leaf in jax.tree_util.tree_leaves(gradients)]).any()
        sound = jnp.isfinite(optax.tree.norm(gradients)) & some
        updates, after = direction.update(gradients, state, params)
        scale = -rate(step)
        # Only -0.0 leaves every number as it is, a -0.0 too.
        updates = jax.tree_util.tree_map(
            lambda leaf: jnp.where(sound, scale.astype(leaf.dtype) * leaf, -jnp.zeros_like(leaf)), updates
        )
        return updates, jax.tree_util.tree_map(lambda new, old: jnp.where(sound, new, old), after, state)

    return optax.GradientTransformationExtraArgs(direction.init, update)
