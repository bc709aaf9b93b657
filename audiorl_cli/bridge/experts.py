"""A layer's experts on a CPU: one product over all of them, of which each token takes the share it chose.

EasyDeL sorts tokens by expert for a grouped product, which XLA has not for CPUs: there it multiplies each of the k copies
of a token with every expert all the same (`jax.lax.ragged_dot`), k times the arithmetic, and slower by more than that.
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
    """The same by every expert for every token: routing in float32, shares of nought for those not chosen."""
    tokens = hidden.reshape(-1, hidden.shape[-1])
    chances = jax.nn.softmax(block.gate(tokens).astype(jnp.float32), axis=-1).astype(hidden.dtype)
    chosen, experts = jax.lax.top_k(chances, block.num_experts_per_tok)
    weights = block.moe_hooks.refine_weights_hook(chosen)
    shares = jnp.einsum("nk,nke->en", weights, jax.nn.one_hot(experts, chances.shape[-1], dtype=weights.dtype))
    stack = block.experts
    gate, up, down = (layer.kernel[...] for layer in (stack.gate_proj, stack.up_proj, stack.down_proj))
    # Tokens are repeated for each expert: laid out any other way, XLA copies the weights at every call.
    copies = jnp.broadcast_to(tokens, (len(gate), *tokens.shape))
    inner = stack.act_fn(jnp.matmul(copies, gate)) * jnp.matmul(copies, up)
    outputs: Array = (jnp.matmul(inner, down) * shares[..., None]).sum(axis=0)
    return outputs.reshape(hidden.shape)
