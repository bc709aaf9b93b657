"""The thinker's decoder over groups: a prompt is read once, and all its completions follow from what was kept of it.

The layers are EasyDeL's own, walked here, so that LoRA, experts and sharding are as everywhere; the attention between
them is ours. EasyDeL's own call takes every completion as a row with a copy of its prompt in front.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from audiorl_cli.bridge import experts
from audiorl_cli.bridge.mesh import HEADS, kept
from audiorl_cli.bridge.thinker import positions
from audiorl_cli.bridge.tower import MASKED

_BLOCK: Final = 128  # tokens of a prompt that attend at a time
_IN_FLOAT32: Final = {"preferred_element_type": jnp.float32}
AnyArray = Array | np.ndarray


class KeyValues(NamedTuple):
    """What one layer keeps of each token: its key, rotated, and its value."""

    keys: Float[Array, "prompts kv_heads group tokens width"]
    values: Float[Array, "prompts kv_heads group tokens width"]


class Prompts(NamedTuple):
    """Prompts padded on the left, and their clips: log-mel features, or `audio`, what the tower has made of them."""

    input_ids: Int[AnyArray, "prompts tokens"]
    attention_mask: Int[AnyArray, "prompts tokens"]
    feature_attention_mask: Int[AnyArray, "prompts frames"]
    input_features: Float[AnyArray, "prompts mels frames"] | None = None
    audio: Float[AnyArray, "prompts vectors width"] | None = None


class Prefix(NamedTuple):
    """Prompts that the decoder has read: all that a completion needs of them.

    `layers`: what each layer keeps, a group of one. `attended`: the tokens that are not padding. `last`: the hidden
    state of the last token, which foretells the first of a completion.
    """

    layers: tuple[KeyValues, ...]
    attended: Bool[Array, "prompts tokens"]
    last: Float[Array, "prompts width"]


def prefill(model: Any, prompts: Prompts, *, recompute: bool = False) -> Prefix:
    """Read prompts, each once, and hear their clips unless they have been heard.

    `recompute`: the backward pass works each layer out again, and keeps nothing of it but its input.
    """
    attention_mask = jnp.asarray(prompts.attention_mask)
    if prompts.audio is None:
        hear = jax.checkpoint(lambda *clips: model.audio_tower(*clips)) if recompute else model.audio_tower
        prompts = prompts._replace(audio=hear(prompts.input_features, prompts.feature_attention_mask))
    embeddings = kept(model.mesh, model.compute_embedding(**prompts._asdict()))
    count = embeddings.shape[1]
    attended = attention_mask.astype(bool)
    # Padding sees itself, so that no row of scores is empty; nothing else sees padding.
    seen = (jnp.tri(count, dtype=bool) & attended[:, None, :]) | jnp.eye(count, dtype=bool)
    hidden, layers = embeddings[:, None], []
    for layer in model.model.layers:
        call = _call(layer, recompute)
        hidden, own = call(hidden, positions(attention_mask)[:, None], seen[:, None, None, None])
        layers.append(own)
    return Prefix(tuple(layers), attended, model.model.norm(hidden[:, 0, -1:])[:, 0])


def padded(prefix: Prefix, tokens: int) -> Prefix:
    """The same, on the left as much padding as makes prompts of `tokens`: prompts of several lengths can be joined."""
    more = tokens - prefix.attended.shape[1]

    def behind(states: Array) -> Array:
        return jnp.pad(states, ((0, 0), (0, 0), (0, 0), (more, 0), (0, 0)))

    layers: tuple[KeyValues, ...] = jax.tree_util.tree_map(behind, prefix.layers)
    return Prefix(layers, jnp.pad(prefix.attended, ((0, 0), (more, 0))), prefix.last)


def joined(model: Any, prefixes: Sequence[Prefix]) -> Prefix:
    """Prompts of one length, those of each one after the other."""
    prefix: Prefix = jax.tree_util.tree_map(lambda *parts: jnp.concatenate(parts), *prefixes)
    layers = kept(model.mesh, prefix.layers, HEADS)
    return Prefix(layers, *kept(model.mesh, (prefix.attended, prefix.last)))


def foretell(
    model: Any, prefix: Prefix, tokens: Int[Array, "prompts group tokens"], *, recompute: bool = False
) -> Float[Array, "prompts group tokens width"]:
    """The hidden state that foretells each token of the completions of `prefix`: that of the token before it.

    A completion sees its prompt and itself, at the positions it would have alone. `recompute` as in `prefill`.
    """
    prompts, group, count = tokens.shape
    first = jnp.broadcast_to(prefix.last[:, None, None], (prompts, group, 1, prefix.last.shape[-1]))
    if count == 1:
        return first
    hidden = kept(model.mesh, _embedded(model, tokens[..., :-1]))  # nothing is foretold from the last
    places, seen = _places(prefix, jnp.arange(count - 1)), jnp.tri(count - 1, dtype=bool)
    for layer, before in zip(model.model.layers, prefix.layers, strict=True):
        hidden, _ = _call(layer, recompute)(hidden, places, seen, (before, prefix.attended))
    return jnp.concatenate([first, model.model.norm(hidden)], axis=2)


def empty(prefix: Prefix, group: int, tokens: int) -> tuple[KeyValues, ...]:
    """Room in every layer for `tokens` tokens of each of `group` completions of `prefix`."""

    def room(states: Array) -> Array:
        prompts, heads, _, _, width = states.shape
        return jnp.zeros((prompts, heads, group, tokens, width), states.dtype)

    return tuple(KeyValues(room(layer.keys), room(layer.values)) for layer in prefix.layers)


def decode(
    model: Any,
    prefix: Prefix,
    written: tuple[KeyValues, ...],
    tokens: Int[Array, "prompts group"],
    place: Int[Array, ""],
) -> tuple[Float[Array, "prompts group width"], tuple[KeyValues, ...]]:
    """The `place`-th token of each completion (from 0): the hidden state that foretells the next, and `written` with
    this token in it."""
    hidden, layers = kept(model.mesh, _embedded(model, tokens[..., None])), []
    places, seen = _places(prefix, place[None]), jnp.arange(written[0].keys.shape[3]) <= place
    for layer, before, own in zip(model.model.layers, prefix.layers, written, strict=True):
        hidden, own = _layer(layer, hidden, places, seen, (before, prefix.attended), (own, place))
        layers.append(own)
    return model.model.norm(hidden)[:, :, 0], tuple(layers)


def _embedded(model: Any, tokens: Int[Array, "prompts group tokens"]) -> Float[Array, "prompts group tokens width"]:
    embeddings = model.model.embed_tokens(tokens.reshape(tokens.shape[0], -1))
    return jnp.reshape(embeddings, (*tokens.shape, -1))


def _places(prefix: Prefix, places: Int[Array, " tokens"]) -> Int[Array, "prompts 1 tokens"]:
    """Positions of the tokens at `places` of a completion: they go on from those of the prompt."""
    return (prefix.attended.sum(axis=-1, dtype=jnp.int32)[:, None] + places)[:, None]


def _call(layer: Any, recompute: bool) -> Callable[..., tuple[Array, KeyValues]]:
    call = partial(_layer, layer)
    return jax.checkpoint(call) if recompute else call


def _layer(
    layer: Any,
    hidden: Float[Array, "prompts group tokens width"],
    places: Int[Array, "prompts 1 tokens"],
    seen: Bool[Array, "*groups tokens own"],
    before: tuple[KeyValues, Bool[Array, "prompts prompt"]] | None = None,
    written: tuple[KeyValues, Int[Array, ""]] | None = None,
) -> tuple[Float[Array, "prompts group tokens width"], KeyValues]:
    """One decoder layer, and the keys and values that it keeps.

    `seen`: which of the completion's own tokens each token attends to. `before`: the prompt, of which all see what is
    attended. `written`: the tokens before these, and the place at which these are added.
    """
    attention, mesh = layer.self_attn, layer.config.mesh
    inputs = layer.input_layernorm(hidden)
    heads = (*hidden.shape[:-1], -1, attention.head_dim)
    query, key, value = attention._postprocess_qkv(
        *(project(inputs).reshape(heads) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
    )
    query, key = attention.rotary(places, query, key)
    own = kept(mesh, KeyValues(*(states.transpose(0, 3, 1, 2, 4) for states in (key, value))), HEADS)
    if written is not None:
        old, place = written
        own = KeyValues(*(jax.lax.dynamic_update_slice_in_dim(o, n, place, 3) for o, n in zip(old, own, strict=True)))
    mixed = _attend(query, own, seen, before, attention.o_proj.precision)
    hidden = kept(mesh, hidden + attention.o_proj(mixed.reshape(*hidden.shape[:-1], -1)))
    inputs = layer.post_attention_layernorm(hidden)
    inputs = inputs.reshape(inputs.shape[0], -1, inputs.shape[-1])
    outputs = experts.mixed(layer.mlp, inputs) if layer.is_moe else layer.mlp(inputs)
    return kept(mesh, hidden + outputs.reshape(hidden.shape)), own


def _attend(
    query: Float[Array, "prompts group tokens heads width"],
    own: KeyValues,
    seen: Bool[Array, "*groups tokens own"],
    before: tuple[KeyValues, Bool[Array, "prompts prompt"]] | None,
    precision: jax.lax.PrecisionLike,
) -> Float[Array, "prompts group tokens heads width"]:
    """Softmax attention, scores in float32, over a completion's own tokens and its prompt's, which no group copies."""
    prompts, group, tokens, heads, width = query.shape
    kv_heads = own.keys.shape[1]
    # Laid out so that every product below is one of plain matrices: nothing is moved before or after it.
    query = query.reshape(prompts, group, tokens, kv_heads, -1, width).transpose(0, 3, 1, 4, 2, 5) * width**-0.5
    product = partial(jnp.einsum, precision=precision)
    if before is None:
        mixed = _attend_in_blocks(query, own, seen, product)
    else:
        mixed = _attend_after(query, own, seen, before, product)
    return mixed.transpose(0, 2, 4, 1, 3, 5).reshape(prompts, group, tokens, heads, width)


def _attend_in_blocks(
    query: Float[Array, "prompts kv_heads group heads tokens width"],
    own: KeyValues,
    seen: Bool[Array, "*groups tokens tokens"],
    product: Callable[..., Array],
) -> Float[Array, "prompts kv_heads group heads tokens width"]:
    """Over a prompt's own tokens, a block of them at a time: none of a block sees what comes behind it, and of its
    scores more stay in a processor's cache."""
    count, blocks = query.shape[-2], []
    for start in range(0, count, _BLOCK):
        here, up_to = slice(start, start + _BLOCK), slice(min(start + _BLOCK, count))
        scores = product("pkgrsd,pkgtd->pkgrst", query[..., here, :], own.keys[..., up_to, :], **_IN_FLOAT32)
        weights = jax.nn.softmax(jnp.where(seen[..., here, up_to], scores, MASKED), axis=-1).astype(own.values.dtype)
        blocks.append(product("pkgrst,pkgtd->pkgrsd", weights, own.values[..., up_to, :]))
    return jnp.concatenate(blocks, axis=-2)


def _attend_after(
    query: Float[Array, "prompts kv_heads group heads tokens width"],
    own: KeyValues,
    seen: Bool[Array, "*groups tokens own"],
    before: tuple[KeyValues, Bool[Array, "prompts prompt"]],
    product: Callable[..., Array],
) -> Float[Array, "prompts kv_heads group heads tokens width"]:
    """Over the prompt, and behind it the completion's own tokens."""
    prompt, attended = before
    scores = jnp.where(seen, product("pkgrsd,pkgtd->pkgrst", query, own.keys, **_IN_FLOAT32), MASKED)
    of_prompt = product("pkgrsd,pktd->pkgrst", query, prompt.keys[:, :, 0], **_IN_FLOAT32)
    of_prompt = jnp.where(attended[:, None, None, None, None], of_prompt, MASKED)
    count = of_prompt.shape[-1]
    weights = jax.nn.softmax(jnp.concatenate([of_prompt, scores], axis=-1), axis=-1).astype(own.values.dtype)
    mixed = product("pkgrst,pktd->pkgrsd", weights[..., :count], prompt.values[:, :, 0])
    return mixed + product("pkgrst,pkgtd->pkgrsd", weights[..., count:], own.values)
