"""AdamW under a schedule, from the config; parameters may be frozen."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

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
    """Learning rate of update t = 0, 1, ..., steps - 1.

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


def adamw(config: OptimizerConfig, steps: int, is_frozen: IsFrozen) -> optax.GradientTransformation:
    """AdamW (beta 0.9 and 0.999, epsilon 1e-8) after clipping by the global norm, for what is not frozen.

    Frozen parameters get no update, no weight decay, no optimizer state, and do not count in the norm. A gradient whose
    norm is no finite number changes no bit, neither of a parameter nor of the optimizer's state.
    """
    learning = _finite_only(
        optax.chain(
            optax.clip_by_global_norm(config.clip_norm),
            optax.adamw(schedule(config, steps), weight_decay=config.weight_decay),
        )
    )

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: "frozen" if is_frozen(path) else "learning", params)

    return optax.multi_transform({"learning": learning, "frozen": optax.set_to_zero()}, labels)


def _finite_only(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, unmoved by gradients whose norm is no finite number: inside the compiled update, as its buffers are
    given away and nobody could take them back.
    """

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        sound = jnp.isfinite(optax.tree.norm(gradients))
        updates, after = inner.update(gradients, state, params)
        # Only -0.0 leaves every number as it is, a -0.0 too.
        updates = jax.tree_util.tree_map(lambda update: jnp.where(sound, update, -jnp.zeros_like(update)), updates)
        return updates, jax.tree_util.tree_map(lambda new, old: jnp.where(sound, new, old), after, state)

    return optax.GradientTransformation(inner.init, update)
