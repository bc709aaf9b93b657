"""A layer's experts on a CPU: one product over all of them, of which each token takes the share it chose.

EasyDeL sorts tokens by expert for a grouped product, which XLA has not for CPUs: there `jax.lax.ragged_dot` multiplies
each of the k copies of a token with every expert all the same, k times the arithmetic, and slower by more than that.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mixed(block: Any, hidden: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
    """What EasyDeL's expert block makes of `hidden`."""
    if jax.default_backend() == "cpu":
        return dense(block, hidden)
    outputs: Array = block(hidden)[0]
    return outputs


def dense(block: Any, hidden: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
    """The same by every expert for every token, the share of one not chosen nought. Rounded where EasyDeL rounds, so
    that the same experts are chosen (`easydel/layers/moe/_moe_module.py`, `_sparse_moe_call`)."""
    tokens = hidden.reshape(-1, hidden.shape[-1])
    logits = block.gate(tokens)
    chances = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(logits.dtype)
    chosen, experts = jax.lax.top_k(chances, block.num_experts_per_tok)
    weights = block.moe_hooks.refine_weights_hook(chosen)
    shares = jnp.einsum("nk,nke->en", weights, jax.nn.one_hot(experts, chances.shape[-1], dtype=weights.dtype))
    stack = block.experts
    gate, up, down = (layer.kernel[...] for layer in (stack.gate_proj, stack.up_proj, stack.down_proj))
    # Tokens are repeated for each expert: laid out any other way, XLA copies the weights at every call.
    copies = jnp.broadcast_to(tokens, (len(gate), *tokens.shape))
    inner = stack.act_fn(jnp.matmul(copies, gate)) * jnp.matmul(copies, up)
    weighed = jnp.matmul(inner, down).astype(jnp.float32) * shares[..., None].astype(jnp.float32)
    outputs: Array = weighed.sum(axis=0).astype(hidden.dtype)
    return outputs.reshape(hidden.shape)
