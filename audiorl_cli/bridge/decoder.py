"""The thinker's decoder over groups: a prompt is read once, and all its completions follow from what was kept of it.

The layers are EasyDeL's own, walked here, so that LoRA, experts and sharding are as everywhere; the attention between
them is ours. EasyDeL's own call takes every completion as a row with a copy of its prompt in front.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from audiorl_cli.bridge import experts
from audiorl_cli.bridge.thinker import positions
from audiorl_cli.bridge.tower import MASKED


class KeyValues(NamedTuple):
    """What one layer keeps of each token: its key, rotated, and its value."""

    keys: Float[Array, "prompts group tokens kv_heads width"]
    values: Float[Array, "prompts group tokens kv_heads width"]


class Prompts(NamedTuple):
    """Prompts padded on the left, and their clips: log-mel features, or `audio`, what the tower has made of them."""

    input_ids: Int[Array, "prompts tokens"]
    attention_mask: Int[Array, "prompts tokens"]
    feature_attention_mask: Int[Array, "prompts frames"]
    input_features: Float[Array, "prompts mels frames"] | None = None
    audio: Float[Array, "prompts vectors width"] | None = None


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
    attention_mask = prompts.attention_mask
    if prompts.audio is None:
        hear = jax.checkpoint(lambda *clips: model.audio_tower(*clips)) if recompute else model.audio_tower
        prompts = prompts._replace(audio=hear(prompts.input_features, prompts.feature_attention_mask))
    embeddings = model.compute_embedding(**prompts._asdict())
    count = embeddings.shape[1]
    attended = attention_mask.astype(bool)
    # Padding sees itself, so that no row of scores is empty; nothing else sees padding.
    seen = (jnp.tri(count, dtype=bool) & attended[:, None, :]) | jnp.eye(count, dtype=bool)
    hidden, layers = embeddings[:, None], []
    for layer in model.model.layers:
        call = _call(layer, recompute)
        hidden, kept = call(hidden, positions(attention_mask)[:, None], seen[:, None, None, None])
        layers.append(kept)
    return Prefix(tuple(layers), attended, model.model.norm(hidden[:, 0, -1:])[:, 0])


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
    hidden = _embedded(model, tokens[..., :-1])  # nothing is foretold from the last
    places, seen = _places(prefix, jnp.arange(count - 1)), jnp.tri(count - 1, dtype=bool)
    for layer, before in zip(model.model.layers, prefix.layers, strict=True):
        hidden, _ = _call(layer, recompute)(hidden, places, seen, (before, prefix.attended))
    return jnp.concatenate([first, model.model.norm(hidden)], axis=2)


def empty(prefix: Prefix, group: int, tokens: int) -> tuple[KeyValues, ...]:
    """Room in every layer for `tokens` tokens of each of `group` completions of `prefix`."""

    def room(states: Array) -> Array:
        prompts, _, _, heads, width = states.shape
        return jnp.zeros((prompts, group, tokens, heads, width), states.dtype)

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
    hidden, kept = _embedded(model, tokens[..., None]), []
    places, seen = _places(prefix, place[None]), jnp.arange(written[0].keys.shape[2]) <= place
    for layer, before, own in zip(model.model.layers, prefix.layers, written, strict=True):
        hidden, own = _layer(layer, hidden, places, seen, (before, prefix.attended), (own, place))
        kept.append(own)
    return model.model.norm(hidden)[:, :, 0], tuple(kept)


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
    attention = layer.self_attn
    inputs = layer.input_layernorm(hidden)
    heads = (*hidden.shape[:-1], -1, attention.head_dim)
    query, key, value = attention._postprocess_qkv(
        *(project(inputs).reshape(heads) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
    )
    query, key = attention.rotary(places, query, key)
    own = KeyValues(key, value)
    if written is not None:
        old, place = written
        own = KeyValues(*(jax.lax.dynamic_update_slice_in_dim(o, n, place, 2) for o, n in zip(old, own, strict=True)))
    mixed = _attend(query, own, seen, before, attention.o_proj.precision)
    hidden = hidden + attention.o_proj(mixed.reshape(*hidden.shape[:-1], -1))
    inputs = layer.post_attention_layernorm(hidden)
    inputs = inputs.reshape(inputs.shape[0], -1, inputs.shape[-1])
    outputs = experts.mixed(layer.mlp, inputs) if layer.is_moe else layer.mlp(inputs)
    return hidden + outputs.reshape(hidden.shape), own


def _attend(
    query: Float[Array, "prompts group tokens heads width"],
    own: KeyValues,
    seen: Bool[Array, "*groups tokens own"],
    before: tuple[KeyValues, Bool[Array, "prompts prompt"]] | None,
    precision: jax.lax.PrecisionLike,
) -> Float[Array, "prompts group tokens heads width"]:
    """Softmax attention, scores in float32, over a completion's own tokens and its prompt's, which no group copies."""
    *shape, heads, width = query.shape
    kv_heads = own.keys.shape[-2]
    query = query.reshape(*shape, kv_heads, heads // kv_heads, width) * width**-0.5
    product = partial(jnp.einsum, precision=precision)
    score = partial(product, preferred_element_type=jnp.float32)
    scores = jnp.where(seen, score("pgskrd,pgtkd->pgkrst", query, own.keys), MASKED)
    values = own.values
    if before is None:
        weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        return product("pgkrst,pgtkd->pgskrd", weights, values).reshape(*shape, heads, width)
    prompt, attended = before
    of_prompt = score("pgskrd,ptkd->pgkrst", query, prompt.keys[:, 0])
    of_prompt = jnp.where(attended[:, None, None, None, None], of_prompt, MASKED)
    count = of_prompt.shape[-1]
    weights = jax.nn.softmax(jnp.concatenate([of_prompt, scores], axis=-1), axis=-1).astype(values.dtype)
    mixed = product("pgkrst,ptkd->pgskrd", weights[..., :count], prompt.values[:, 0])
    mixed += product("pgkrst,pgtkd->pgskrd", weights[..., count:], values)
    return mixed.reshape(*shape, heads, width)
