"""Prompts with audio -> completions, greedy or sampled: each clip heard once, each prompt read once, however many
completions follow. Compiled once for each shape of a batch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from audiorl_cli.bridge import decoder
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.sampling import Drawn, sampled
from audiorl_cli.bridge.thinker import without_media
from audiorl_cli.config import RolloutConfig

PROMPT_STEP = 32
"""Prompts are padded to a multiple of so many tokens: clips of every length share a few compiled programs."""
ROWS_STEP = 8
"""A batch is padded to a power of two, above this to a multiple of it, for the same reason."""

Merge = Callable[[], Any]
"""Makes the model of its parts: a `lax` loop's body may not call a module from outside of it."""
_Draw = Callable[[Float[Array, "prompts group vocab"], Int[Array, ""]], Any]


class Rollout(NamedTuple):
    """Groups of completions. `mask` is 1 on their tokens, the one that ended each included; behind it all is 0.

    `drawn`: the tokens, and the log-probs they have.
    """

    drawn: Drawn
    mask: Bool[Array, "prompts group tokens"]
    ended: Bool[Array, "prompts group"]


def transcribe(
    checkpoint: Checkpoint,
    input_ids: Int[np.ndarray, "batch tokens"],
    attention_mask: Int[np.ndarray, "batch tokens"],
    input_features: Float[np.ndarray, "batch mels frames"],
    feature_attention_mask: Int[np.ndarray, "batch frames"],
    max_new_tokens: int,
) -> list[list[int]]:
    """The greedy completion of each row as token ids, without the token that ended it.

    Prompts are padded on the left, their `attention_mask` 1 on real tokens. A completion has at most `max_new_tokens`,
    and never a placeholder of audio, image or video.
    """
    model = checkpoint.model
    rows, tokens = input_ids.shape
    extra_tokens = -tokens % PROMPT_STEP
    extra_rows = _rows(rows, batch_shards(model.mesh)) - rows
    left = ((0, 0), (extra_tokens, 0))
    graph, state = nnx.split(model)
    completions = _greedy(
        graph,
        state,
        *(
            # Rows that fill the batch repeat the last one, so that they end when it does.
            np.pad(array, ((0, extra_rows), *((0, 0),) * (array.ndim - 1)), mode="edge")
            for array in (
                np.pad(input_ids, left, constant_values=checkpoint.tokenizer.pad_token_id).astype(np.int32),
                np.pad(attention_mask, left).astype(np.int32),
                input_features.astype(np.float32),
                feature_attention_mask.astype(np.int32),
            )
        ),
        max_new_tokens=max_new_tokens,
    )
    return [cut(row.tolist(), ends(model)) for row in np.asarray(completions)[:rows]]


def rollout(merge: Merge, prompts: Prompts, keys: PRNGKeyArray, sampling: RolloutConfig) -> Rollout:
    """A group of completions of each prompt, drawn with the key of its prompt: `keys` [prompts].

    The same key gives the same completions, whatever the other prompts are. To be called in a compiled function; the
    loop ends with the last completion.
    """
    draw = partial(sampled, keys=keys, media=merge().media_token_ids, sampling=sampling)
    return Rollout(*_complete(merge, prompts, draw, sampling.group_size, sampling.max_new_tokens))


def ends(model: Any) -> list[int]:
    """The tokens that end a completion."""
    return [int(token) for token in np.atleast_1d(model.generation_config.eos_token_id)]


def cut(completion: list[int], ends: Sequence[int]) -> list[int]:
    """The ids before the first of `ends`."""
    return next((completion[:place] for place, token in enumerate(completion) if token in ends), completion)


@partial(jax.jit, static_argnames=("graph", "max_new_tokens"))
def _greedy(
    graph: Any,
    state: Any,
    input_ids: Int[Array, "batch tokens"],
    attention_mask: Int[Array, "batch tokens"],
    input_features: Float[Array, "batch mels frames"],
    feature_attention_mask: Int[Array, "batch frames"],
    *,
    max_new_tokens: int,
) -> Int[Array, "batch new"]:
    def merge() -> Any:
        return nnx.merge(graph, state)

    media = merge().media_token_ids

    def draw(logits: Array, _: Array) -> tuple[Array]:
        return (without_media(logits, media).argmax(axis=-1).astype(jnp.int32),)

    prompts = Prompts(input_ids, attention_mask, feature_attention_mask, input_features)
    made, _, _ = _complete(merge, prompts, draw, 1, max_new_tokens)
    tokens: Array = made[0][:, 0]
    return tokens


def _complete(
    merge: Merge, prompts: Prompts, draw: _Draw, group: int, limit: int
) -> tuple[Any, Bool[Array, "prompts group tokens"], Bool[Array, "prompts group"]]:
    """What `draw` gives at each place, tokens first: [prompts, group, limit] each; which of it counts; what ended."""
    model = merge()
    last_ones = jnp.asarray(ends(model))

    def put(column: Any, columns: Any, going: Array, place: Any) -> Any:
        return jax.tree_util.tree_map(
            lambda new, all_: all_.at[:, :, place].set(jnp.where(going, new, jnp.zeros_like(new))), column, columns
        )

    with model.mesh:
        prefix = decoder.prefill(model, prompts)
        going = jnp.ones((len(prompts.input_ids), group), bool)
        logits = model.apply_lm_head(prefix.last)[:, None]
        first = draw(jnp.broadcast_to(logits, (*going.shape, logits.shape[-1])), jnp.asarray(0))
        made = jax.tree_util.tree_map(lambda column: jnp.zeros((*going.shape, limit), column.dtype), first)
        start = (
            jnp.asarray(1),
            put(first, made, going, 0),
            put(going, jnp.zeros((*going.shape, limit), bool), going, 0),
            first[0],
            ~jnp.isin(first[0], last_ones),
            decoder.empty(prefix, group, max(limit - 1, 1)),
        )

        def step(carry: Any) -> Any:
            place, made, mask, tokens, going, written = carry
            inner = merge()
            hidden, written = decoder.decode(inner, prefix, written, tokens, place - 1)
            drawn = draw(inner.apply_lm_head(hidden), place)
            made, mask = put(drawn, made, going, place), put(going, mask, going, place)
            return place + 1, made, mask, drawn[0], going & ~jnp.isin(drawn[0], last_ones), written

        _, made, mask, _, going, _ = jax.lax.while_loop(lambda carry: (carry[0] < limit) & carry[4].any(), step, start)
    return made, mask, ~going


def batch_shards(mesh: Any) -> int:
    """Devices among which the rows of a batch are divided."""
    return int(mesh.shape["dp"] * mesh.shape["fsdp"] * mesh.shape["ep"])


def _rows(rows: int, shards: int) -> int:
    step = ROWS_STEP if rows > ROWS_STEP else 1 << (rows - 1).bit_length()
    step = int(np.lcm(step, shards))
    return -(-rows // step) * step
