"""A layer's experts, their products chosen by where they are multiplied, and divided as a mesh divides experts.

EasyDeL sorts tokens by expert for `jax.lax.ragged_dot`. Off TPUs XLA makes of it a product of each of the k copies of a
token with every expert, the others' results masked. Here every token is multiplied with every expert once; on a CPU
many tokens go to their experts alone, in tiles that are of one expert each.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
from easydel.modules.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeTextSparseBlock
from flax import nnx
from jaxtyping import Array, Float, Int

from audiorl_cli.bridge.mesh import ROWS, Spec, batch_shards, platform

_TILE: Final = 128  # tokens of one expert in a product
_SUBLANES: Final = 8  # libtpu (0.0.37) ends at the gradient of a ragged product of rows that they do not divide
_WORTH: Final = 0.8  # tiles are used where they have at most this share of the rows that products with all have

EXPERT_RULES: Final = (
    (r"experts/(gate|up)_proj/kernel$", Spec("ep", "fsdp", "tp")),
    (r"experts/down_proj/kernel$", Spec("ep", "tp", "fsdp")),
)
"""How a mesh divides the experts' weights: EasyDeL's rules leave them, nearly all of a model, whole along fsdp."""

# They have no types.
_psum: Any = jax.lax.psum
_psum_scatter: Any = jax.lax.psum_scatter

_Kernels = tuple[Float[Array, "experts width inner"], Float[Array, "experts width inner"], Array]


class Experts(Qwen3OmniMoeTextSparseBlock):
    """EasyDeL's expert block in one dtype and one precision; on a mesh each device multiplies with its own experts."""

    def __init__(
        self, config: Any, dtype: Any, param_dtype: Any, precision: jax.lax.PrecisionLike = None, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config, dtype=dtype, param_dtype=param_dtype, precision=precision, rngs=rngs)
        # BaseMoeModule falls back to bfloat16: its subclass never tells it the dtype.
        self.dtype = dtype
        # Left alone, it makes a new closure at its first call, which no compiled function recognises and no `lax` loop
        # may do.
        weigh = _normalised if config.norm_topk_prob else _as_they_are
        self.moe_hooks: Any = self.moe_hooks.replace(refine_weights_hook=weigh)

    def __call__(
        self, hidden_states: Float[Array, "rows tokens width"]
    ) -> tuple[Float[Array, "rows tokens width"], Float[Array, "tokens experts"]]:
        """What the experts make of tokens, and the logits of the gate."""
        mesh = self.config.mesh
        # EasyDeL's products are of JAX's default precision, which is float32's own on a CPU and nowhere else.
        rounded = self.gate.precision is not None and platform(mesh) != "cpu"
        if mesh.size > 1 or rounded:
            return mixed(self, hidden_states), self.gate(hidden_states.reshape(-1, hidden_states.shape[-1]))
        made: tuple[Array, Array] = super().__call__(hidden_states)
        return made


def _normalised(weights: Float[Array, "tokens chosen"]) -> Float[Array, "tokens chosen"]:
    return weights / weights.sum(axis=-1, keepdims=True)


def _as_they_are(weights: Float[Array, "tokens chosen"]) -> Float[Array, "tokens chosen"]:
    return weights


def mixed(block: Experts, hidden: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
    """What the expert block makes of `hidden`."""
    mesh = block.config.mesh
    if mesh.size > 1:
        return divided(block, hidden)
    if platform(mesh) == "tpu":
        return grouped(block, hidden)
    if platform(mesh) == "cpu":  # a GPU is quicker with all of them at once
        count, experts = hidden[..., 0].size, block.experts.gate_proj.kernel.shape[0]
        if _tiles(count * block.num_experts_per_tok, experts) * _TILE <= _WORTH * count * experts:
            return tiled(block, hidden)
    return dense(block, hidden)


def divided(block: Experts, hidden: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
    """The same on a mesh: the devices along ep bring their rows together, each multiplies them with its own experts,
    and each takes the sum for its own rows. Along fsdp it is the weights that are brought together.

    EasyDeL's own needs a ragged all-to-all, which XLA has not for CPU, and which thus nothing here could prove right.
    """
    mesh, act, precision = block.config.mesh, block.experts.act_fn, block.gate.precision
    multiplied = _by_group if platform(mesh) == "tpu" else _by_all
    weights, experts = _routed(block, hidden)
    rows = ROWS if len(hidden) % batch_shards(mesh) == 0 else None  # rows that do not divide are everyone's
    several = mesh.shape["ep"] > 1  # libtpu (0.0.37) aborts at the scatter of a sum of one

    def of_device(hidden: Array, weights: Array, experts: Array, kernels: _Kernels) -> Array:
        given = hidden, weights, experts
        if not rows:
            # Said outright, as JAX forgets the sum over ep in the gradient of what is taken from rows by their numbers.
            given = jax.lax.pcast(given, "ep", to="varying")
        elif several:
            given = jax.lax.all_gather(given, "ep", tiled=True)
        hidden, weights, experts = given
        own = experts - jax.lax.axis_index("ep") * len(kernels[0])
        tokens, shares, own = (array.reshape(-1, array.shape[-1]) for array in (hidden, weights, own))
        made = multiplied(tokens, shares, own, kernels, act, precision).reshape(hidden.shape)
        if not rows:
            made = _psum(made, "ep")
        elif several:
            made = _psum_scatter(made, "ep", tiled=True)
        outputs: Array = _psum(made, "tp")
        return outputs

    column, row = Spec("ep", None, "tp"), Spec("ep", "tp")
    call = jax.shard_map(
        of_device, mesh=mesh, in_specs=(*[Spec(rows)] * 3, (column, column, row)), out_specs=Spec(rows)
    )
    outputs: Array = call(hidden, weights, experts, _kernels(block))
    return outputs


def dense(block: Experts, hidden: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
    """The same by every expert for every token, the share of one not chosen nought."""
    tokens = hidden.reshape(-1, hidden.shape[-1])
    outputs = _by_all(tokens, *_routed(block, tokens), _kernels(block), block.experts.act_fn, block.gate.precision)
    return outputs.reshape(hidden.shape)


def grouped(block: Experts, hidden: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
    """The same by the chosen experts alone, as a TPU multiplies groups of rows with a matrix each."""
    tokens = hidden.reshape(-1, hidden.shape[-1])
    outputs = _by_group(tokens, *_routed(block, tokens), _kernels(block), block.experts.act_fn, block.gate.precision)
    return outputs.reshape(hidden.shape)


def _by_all(
    tokens: Float[Array, "tokens width"],
    weights: Float[Array, "tokens chosen"],
    experts: Int[Array, "tokens chosen"],
    kernels: _Kernels,
    act: Callable[[Array], Array],
    precision: jax.lax.PrecisionLike,
) -> Float[Array, "tokens width"]:
    """Experts that have no kernel here add nothing."""
    gate, up, down = kernels
    product = partial(jnp.matmul, precision=precision)
    chosen = jax.nn.one_hot(experts, len(gate), dtype=weights.dtype)
    shares = jnp.einsum("nk,nke->en", weights, chosen, precision=precision)
    # Tokens are repeated for each expert: laid out any other way, XLA copies the weights at every call.
    copies = jnp.broadcast_to(tokens, (len(gate), *tokens.shape))
    inner = act(product(copies, gate)) * product(copies, up)
    weighed = product(inner, down).astype(jnp.float32) * shares[..., None].astype(jnp.float32)
    outputs: Array = weighed.sum(axis=0).astype(tokens.dtype)
    return outputs


def _by_group(
    tokens: Float[Array, "tokens width"],
    weights: Float[Array, "tokens chosen"],
    experts: Int[Array, "tokens chosen"],
    kernels: _Kernels,
    act: Callable[[Array], Array],
    precision: jax.lax.PrecisionLike,
) -> Float[Array, "tokens width"]:
    """Experts that have no kernel here add nothing: their copies of tokens stand behind all groups."""
    gate, up, down = kernels
    here = (experts >= 0) & (experts < len(gate))
    owner = jnp.where(here, experts, len(gate)).reshape(-1)
    by_expert = jnp.argsort(owner)
    sizes = jnp.bincount(owner, length=len(gate)).astype(jnp.int32)
    rows = jnp.pad(by_expert, (0, -owner.size % _SUBLANES))
    taken = (jnp.arange(rows.size) < sizes.sum())[:, None]  # what the product makes of the others is left open
    copies = jnp.where(taken, tokens[rows // experts.shape[1]], 0)
    product = partial(jax.lax.ragged_dot, group_sizes=sizes, precision=precision)
    inner = act(product(copies, gate)) * product(copies, up)
    made = jnp.where(taken, product(jnp.where(taken, inner, 0), down), 0)
    made = made[jnp.argsort(by_expert)].reshape(*experts.shape, -1)
    weighed = made.astype(jnp.float32) * weights[..., None].astype(jnp.float32)
    outputs: Array = weighed.sum(axis=1).astype(tokens.dtype)
    return outputs


def tiled(block: Experts, hidden: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
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
        product = partial(jnp.matmul, precision=block.gate.precision)
        inner = block.experts.act_fn(product(rows, gate[expert])) * product(rows, up[expert])
        return product(inner, down[expert])

    made = jax.lax.map(multiplied, (taken.reshape(tiles, _TILE), whose)).reshape(tiles * _TILE, -1)
    copies = made[jnp.zeros_like(places).at[by_expert].set(places)].reshape(*experts.shape, -1)
    weighed = copies.astype(jnp.float32) * weights[..., None].astype(jnp.float32)
    outputs: Array = weighed.sum(axis=1).astype(hidden.dtype)
    return outputs.reshape(hidden.shape)


def _tiles(copies: int, experts: int) -> int:
    """The most tiles that so many copies of tokens fill."""
    return copies // _TILE + experts


def _routed(
    block: Experts, tokens: Float[Array, "*tokens width"]
) -> tuple[Float[Array, "*tokens chosen"], Int[Array, "*tokens chosen"]]:
    """What share of each token goes to which experts. Rounded where EasyDeL rounds, so that the same experts are chosen
    (`easydel/layers/moe/_moe_module.py`, `_sparse_moe_call`)."""
    logits = block.gate(tokens)
    chances = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(logits.dtype)
    chosen, experts = jax.lax.top_k(chances, block.num_experts_per_tok)
    return block.moe_hooks.refine_weights_hook(chosen), experts


def _kernels(block: Experts) -> _Kernels:
    stack = block.experts
    gate, up, down = (layer.kernel[...] for layer in (stack.gate_proj, stack.up_proj, stack.down_proj))
    return gate, up, down
