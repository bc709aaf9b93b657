"""A layer's experts where there is no grouped product for them: on CPUs, and on one GPU.

EasyDeL sorts tokens by expert for `jax.lax.ragged_dot`. Off TPUs XLA makes of it a product of each of the k copies of a
token with every expert, the others' results masked. Here every token is multiplied with every expert once; on a CPU
many tokens go to their experts alone, in tiles that are of one expert each.
"""

from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_TILE: Final = 128  # tokens of one expert in a product
_WORTH: Final = 0.8  # tiles are used where they have at most this share of the rows that products with all have


def mixed(block: Any, hidden: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
    """What EasyDeL's expert block makes of `hidden`."""
    backend, devices = jax.default_backend(), block.config.mesh.size
    if backend == "tpu" or (backend == "gpu" and devices > 1):  # where EasyDeL divides experts among devices
        outputs: Array = block(hidden)[0]
        return outputs
    # A GPU is quicker with all of them at once; and sorting would bring together what a mesh has divided.
    if backend == "cpu" and devices == 1:
        count, experts = hidden[..., 0].size, block.experts.gate_proj.kernel.shape[0]
        if _tiles(count * block.num_experts_per_tok, experts) * _TILE <= _WORTH * count * experts:
            return tiled(block, hidden)
    return dense(block, hidden)


def dense(block: Any, hidden: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
    """The same by every expert for every token, the share of one not chosen nought."""
    tokens = hidden.reshape(-1, hidden.shape[-1])
    weights, experts = _routed(block, tokens)
    gate, up, down = _kernels(block)
    shares = jnp.einsum("nk,nke->en", weights, jax.nn.one_hot(experts, len(gate), dtype=weights.dtype))
    # Tokens are repeated for each expert: laid out any other way, XLA copies the weights at every call.
    copies = jnp.broadcast_to(tokens, (len(gate), *tokens.shape))
    inner = block.experts.act_fn(jnp.matmul(copies, gate)) * jnp.matmul(copies, up)
    weighed = jnp.matmul(inner, down).astype(jnp.float32) * shares[..., None].astype(jnp.float32)
    outputs: Array = weighed.sum(axis=0).astype(hidden.dtype)
    return outputs.reshape(hidden.shape)


def tiled(block: Any, hidden: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
    """The same by the chosen experts alone: tokens sorted by expert, those of each filled up to whole tiles."""
    tokens = hidden.reshape(-1, hidden.shape[-1])
    weights, experts = _routed(block, tokens)
    gate, up, down = _kernels(block)
    by_expert = jnp.argsort(experts.reshape(-1))
    counts = jnp.bincount(experts.reshape(-1), length=len(gate))
    filled = -(-counts // _TILE) * _TILE
    ends = jnp.cumsum(filled)
    # The sorted copies, each behind the tiles of the experts before its own.
    owner = experts.reshape(-1)[by_expert]
    places = jnp.arange(experts.size) + (ends - filled - (jnp.cumsum(counts) - counts))[owner]
    tiles = _tiles(experts.size, len(gate))
    # Room that no copy takes holds the first token: what comes of it is left there.
    taken = jnp.zeros(tiles * _TILE, jnp.int32).at[places].set(by_expert // experts.shape[1])
    whose = jnp.searchsorted(ends, jnp.arange(tiles) * _TILE, side="right").clip(max=len(gate) - 1)

    def multiplied(tile: tuple[Int[Array, " tile"], Int[Array, ""]]) -> Any:
        rows, expert = tokens[tile[0]], tile[1]
        return (block.experts.act_fn(rows @ gate[expert]) * (rows @ up[expert])) @ down[expert]

    made = jax.lax.map(multiplied, (taken.reshape(tiles, _TILE), whose)).reshape(tiles * _TILE, -1)
    copies = made[jnp.zeros_like(places).at[by_expert].set(places)].reshape(*experts.shape, -1)
    weighed = copies.astype(jnp.float32) * weights[..., None].astype(jnp.float32)
    outputs: Array = weighed.sum(axis=1).astype(hidden.dtype)
    return outputs.reshape(hidden.shape)


def _tiles(copies: int, experts: int) -> int:
    """The most tiles that so many copies of tokens fill."""
    return copies // _TILE + experts


def _routed(
    block: Any, tokens: Float[Array, "tokens width"]
) -> tuple[Float[Array, "tokens chosen"], Int[Array, "tokens chosen"]]:
    """What share of each token goes to which experts. Rounded where EasyDeL rounds, so that the same experts are chosen
    (`easydel/layers/moe/_moe_module.py`, `_sparse_moe_call`)."""
    logits = block.gate(tokens)
    chances = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(logits.dtype)
    chosen, experts = jax.lax.top_k(chances, block.num_experts_per_tok)
    return block.moe_hooks.refine_weights_hook(chosen), experts


def _kernels(block: Any) -> list[Float[Array, "experts in out"]]:
    stack = block.experts
    return [layer.kernel[...] for layer in (stack.gate_proj, stack.up_proj, stack.down_proj)]
