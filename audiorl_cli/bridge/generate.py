"""Prompts with audio -> completions, greedy or sampled: each clip heard once, each prompt read once, however many
completions follow."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from audiorl_cli.bridge import decoder, hosts
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.decoder import Prefix, Prompts
from audiorl_cli.bridge.mesh import HEADS, batch_shards, kept, own_rows, placed
from audiorl_cli.bridge.sampling import Drawn, sampled
from audiorl_cli.bridge.thinker import without_media
from audiorl_cli.bridge.weights import ready
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

    `drawn`: the tokens, and the log-probs with which they were drawn.
    """

    drawn: Drawn
    mask: Bool[Array, "prompts group tokens"]
    ended: Bool[Array, "prompts group"]


def transcribe(
    checkpoint: Checkpoint, parts: Sequence[Prompts], max_new_tokens: int, *, at_once: int = 0, longest: int = 0
) -> list[list[int]]:
    """The greedy completion of each prompt of all `parts` as token ids, without the token that ended it.

    The prompts of a part are heard and read together, in their own window; the completions of all parts are written
    together, since a token costs a decoder about the same for many as for few. Arrays may be numpy's. A completion has
    at most `max_new_tokens`, and never a placeholder of audio, image or video. `at_once` parts and prompts of `longest`
    tokens are the most that any call is given: with them, calls share one program for writing. Of several processes
    each gives the prompts that are its `own_rows` of `batch_rows`, and gets their completions.
    """
    model, mesh, pad = checkpoint.model, checkpoint.model.mesh, checkpoint.tokenizer.pad_token_id
    graph, state = nnx.split(ready(model))
    tokens = max(longest, *(part.input_ids.shape[1] for part in parts))
    tokens += -tokens % PROMPT_STEP
    prefixes = [
        _read(graph, state, placed(mesh, _filled(part, pad, batch_shards(mesh))), tokens=tokens) for part in parts
    ]
    prefixes += prefixes[-1:] * (at_once - len(parts))
    completions = iter(hosts.whole(_greedy(graph, state, tuple(prefixes), max_new_tokens=max_new_tokens)))
    found = []
    for part, prefix in zip(parts, prefixes, strict=False):
        rows = [next(completions).tolist() for _ in range(len(prefix.attended))]
        here = [rows[place] for place in own_rows(mesh, len(rows))]
        found += [cut(row, ends(model)) for row in here[: len(part.input_ids)]]
    return found


def rollout(merge: Merge, prompts: Prompts, keys: PRNGKeyArray, sampling: RolloutConfig) -> Rollout:
    """A group of completions of each prompt, drawn with the key of its prompt: `keys` [prompts].

    The same key gives the same completions, whatever the other prompts are. To be called in a compiled function; the
    loop ends with the last completion.
    """
    model = merge()
    draw = partial(sampled, keys=keys, media=model.media_token_ids, sampling=sampling)
    with model.mesh:
        prefix = decoder.prefill(model, prompts)
        return Rollout(*_complete(merge, prefix, draw, sampling.group_size, sampling.max_new_tokens))


def row_keys(seed: int, step: Any, first: Any, count: int) -> PRNGKeyArray:
    """The keys [count] of a step's rows, which are numbered from `first`: of (seed, step, row), and of nothing else."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(partial(jax.random.fold_in, key))(first + jnp.arange(count))


def ends(model: Any) -> list[int]:
    """The tokens that end a completion."""
    return [int(token) for token in np.atleast_1d(model.generation_config.eos_token_id)]


def cut(completion: list[int], ends: Sequence[int]) -> list[int]:
    """The ids before the first of `ends`."""
    return next((completion[:place] for place, token in enumerate(completion) if token in ends), completion)


@partial(jax.jit, static_argnames=("graph", "tokens"))
def _read(graph: Any, state: Any, prompts: Prompts, *, tokens: int) -> Prefix:
    model = nnx.merge(graph, state)
    with model.mesh:
        return decoder.padded(decoder.prefill(model, prompts), tokens)


@partial(jax.jit, static_argnames=("graph", "max_new_tokens"))
def _greedy(graph: Any, state: Any, prefixes: tuple[Prefix, ...], *, max_new_tokens: int) -> Int[Array, "prompts new"]:
    def merge() -> Any:
        return nnx.merge(graph, state)

    model = merge()

    def draw(logits: Array, _: Array) -> tuple[Array]:
        return (without_media(logits, model.media_token_ids).argmax(axis=-1).astype(jnp.int32),)

    with model.mesh:
        made, _, _ = _complete(merge, decoder.joined(model, prefixes), draw, 1, max_new_tokens)
    tokens: Array = made[0][:, 0]
    return tokens


def _complete(
    merge: Merge, prefix: Prefix, draw: _Draw, group: int, limit: int
) -> tuple[Any, Bool[Array, "prompts group tokens"], Bool[Array, "prompts group"]]:
    """What `draw` gives at each place, tokens first: [prompts, group, limit] each; which of it counts; what ended."""
    model = merge()
    last_ones = jnp.asarray(ends(model))

    def put(column: Any, columns: Any, going: Array, place: Any) -> Any:
        return jax.tree_util.tree_map(
            lambda new, all_: all_.at[:, :, place].set(jnp.where(going, new, jnp.zeros_like(new))), column, columns
        )

    going = jnp.ones((len(prefix.last), group), bool)
    logits = model.apply_lm_head(prefix.last)[:, None]
    first = draw(jnp.broadcast_to(logits, (*going.shape, logits.shape[-1])), jnp.asarray(0))
    made = jax.tree_util.tree_map(lambda column: jnp.zeros((*going.shape, limit), column.dtype), first)
    start = (
        jnp.asarray(1),
        put(first, made, going, 0),
        put(going, jnp.zeros((*going.shape, limit), bool), going, 0),
        first[0],
        ~jnp.isin(first[0], last_ones),
        kept(model.mesh, decoder.empty(prefix, group, max(limit - 1, 1)), HEADS),
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


def _filled(part: Prompts, pad_token_id: int, shards: int) -> Prompts:
    """`part`, with padding to a length and a number of rows that few programs share."""
    rows, tokens = part.input_ids.shape
    left = ((0, 0), (-tokens % PROMPT_STEP, 0))
    longer = part._replace(
        input_ids=np.pad(part.input_ids, left, constant_values=pad_token_id).astype(np.int32),
        attention_mask=np.pad(part.attention_mask, left).astype(np.int32),
    )
    more = 0 if hosts.several() else batch_rows(rows, shards) - rows

    def with_rows(array: Any) -> Any:
        # Rows that fill the batch repeat the last one, so that they end when it does.
        return np.pad(array, ((0, more), *((0, 0),) * (array.ndim - 1)), mode="edge")

    filled: Prompts = jax.tree_util.tree_map(with_rows, longer)
    return filled


def batch_rows(rows: int, shards: int) -> int:
    """How many rows a batch of so many is heard as, divided among `shards` devices."""
    step = ROWS_STEP if rows > ROWS_STEP else 1 << (rows - 1).bit_length()
    step = int(np.lcm(step, shards))
    return -(-rows // step) * step
