"""Logits -> a token of each completion, and the log-probs it has: temperature, top-k, top-p, min-p."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from audiorl_cli.bridge.thinker import without_media
from audiorl_cli.config import RolloutConfig


class Drawn(NamedTuple):
    """Tokens, and the log-probs in nats with which they were drawn: from what temperature, top-k, top-p and min-p have
    left, without placeholders. They are the sampler's, and not those that an update scores (rl/correction.py)."""

    tokens: Int[Array, "*completions"]
    log_probs: Float[Array, "*completions"]


def sampled(
    logits: Float[Array, "prompts group vocab"],
    place: Int[Array, ""],
    *,
    keys: PRNGKeyArray,
    media: tuple[int, ...],
    sampling: RolloutConfig,
) -> Drawn:
    """A token of each completion, the `place`-th, never one of `media`; `keys` [prompts] are those of the prompts."""
    group = logits.shape[1]
    whole = jax.nn.log_softmax(logits.astype(jnp.float32) / sampling.temperature, axis=-1)
    left = jax.nn.log_softmax(kept(without_media(whole, media), sampling), axis=-1)

    def token(key: Array, member: Array, left: Array) -> Array:
        return jax.random.categorical(jax.random.fold_in(jax.random.fold_in(key, member), place), left)

    of_group: Callable[..., Array] = jax.vmap(token, in_axes=(None, 0, 0))
    tokens = jax.vmap(of_group, in_axes=(0, None, 0))(keys, jnp.arange(group), left).astype(jnp.int32)
    return Drawn(tokens, jnp.take_along_axis(left, tokens[..., None], axis=-1)[..., 0])


def kept(logits: Float[Array, "*rows vocab"], sampling: RolloutConfig) -> Float[Array, "*rows vocab"]:
    """Logits with minus infinity for tokens that top-k, then top-p, then min-p exclude, as transformers orders them.

    Top-k: the k likeliest, and those as likely as the last of them. Top-p: the fewest likeliest of whose probability
    the sum is at least p, likewise. Min-p: those at least p times as likely as the likeliest.
    """
    if sampling.top_k:
        least = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if sampling.top_p < 1.0:
        falling = -jnp.sort(-logits, axis=-1)
        chances = jax.nn.softmax(falling, axis=-1)
        needed = jnp.cumsum(chances, axis=-1) - chances < sampling.top_p
        least = jnp.where(needed, falling, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if sampling.min_p:
        least = logits.max(axis=-1, keepdims=True) + jnp.log(sampling.min_p)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return logits
