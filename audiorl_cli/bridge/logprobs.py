"""Log-probs of tokens under the hidden states that foretell them, the vocabulary taken whole or a chunk at a time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from audiorl_cli.bridge.head import Head, head_and_inputs, logits
from audiorl_cli.bridge.tower import MASKED


class Scores(NamedTuple):
    """Of each token: its log-prob, and the entropy of the distribution it stands in, both in nats and float32.

    Nothing is learnt through the entropy.
    """

    log_probs: Float[Array, "*tokens"]
    entropy: Float[Array, "*tokens"]


class _Sums(NamedTuple):
    """Over the vocabulary so far: the largest logit, sums of exp(logit - largest), alone and times the logit, and the
    logit of the token itself."""

    largest: Float[Array, "*tokens"]
    total: Float[Array, "*tokens"]
    weighted: Float[Array, "*tokens"]
    logit: Float[Array, "*tokens"]


def token_scores(
    model: Any,
    hidden: Float[Array, "*tokens width"],
    tokens: Int[Array, "*tokens"],
    *,
    temperature: float = 1.0,
    chunk: int = 0,
) -> Scores:
    """Scores of `tokens` under softmax(logits / temperature), over the whole vocabulary.

    With a `chunk`, so many logits a token exist at once, forwards and backwards: 5 GB for 8,192 tokens of the released
    vocabulary otherwise. The sums over the chunks are those of the whole to float rounding.
    """
    head, inputs = head_and_inputs(model, hidden)
    vocabulary = head.kernel.shape[1]

    def add(sums: _Sums, part: Head, first: Array | int) -> _Sums:
        count = part.kernel.shape[1]
        found = logits(part, inputs, model.precision) / temperature
        found = jnp.where(first + jnp.arange(count) < vocabulary, found, MASKED)
        largest = jax.lax.stop_gradient(jnp.maximum(sums.largest, found.max(axis=-1)))
        kept, exps = jnp.exp(sums.largest - largest), jnp.exp(found - largest[..., None])
        place = tokens - first
        inside = (place >= 0) & (place < count)
        logit = jnp.take_along_axis(found, jnp.clip(place, 0, count - 1)[..., None], axis=-1)[..., 0]
        return _Sums(
            largest,
            sums.total * kept + exps.sum(axis=-1),
            jax.lax.stop_gradient(sums.weighted * kept + (exps * found).sum(axis=-1)),
            jnp.where(inside, logit, sums.logit),
        )

    zero = jnp.zeros(tokens.shape, jnp.float32)
    sums = _Sums(zero + MASKED, zero, zero, zero)
    if not 0 < chunk < vocabulary:
        sums = add(sums, head, 0)
    else:
        chunks = -(-vocabulary // chunk)

        def parts_of(columns: Array) -> Array:
            padded = jnp.pad(columns, ((0, 0), (0, chunks * chunk - vocabulary)))
            return padded.reshape(len(columns), chunks, chunk).transpose(1, 0, 2)

        parts = jax.tree_util.tree_map(parts_of, head)
        step = jax.checkpoint(lambda sums, numbered: (add(sums, numbered[0], numbered[1] * chunk), None))
        sums, _ = jax.lax.scan(step, sums, (parts, jnp.arange(chunks)))
    normaliser = sums.largest + jnp.log(sums.total)
    entropy = jax.lax.stop_gradient(normaliser - sums.weighted / sums.total)
    return Scores(sums.logit - normaliser, entropy)
