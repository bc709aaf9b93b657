"""Prompts and their references through the model, as in training, under any audio: compiled once for a set of rows.

Rows go through EasyDeL's collator and the function that decides which columns the model is given, so that a path which
loses the audio shows in what comes out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from easydel.trainers.training_utils import extract_generation_model_kwargs
from easydel.trainers.utils import GRPODataCollatorTFDS
from flax import nnx
from jaxtyping import Array, Float, Int

from audiorl_cli import core
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.mesh import batch_shards, placed
from audiorl_cli.bridge.prompt import Prompter, target
from audiorl_cli.bridge.rows import columns
from audiorl_cli.data.shards import Row


@dataclass(frozen=True)
class Passed:
    """Rows that have passed through the model, prompts padded on the left and references on the right.

    `input_features` and `feature_attention_mask` are the rows' own, whether or not the model was given them.
    `log_probs`: of each token of the references, in nats.
    """

    input_ids: Int[np.ndarray, "rows tokens"]
    attention_mask: Int[np.ndarray, "rows tokens"]
    input_features: Float[np.ndarray, "rows mels frames"]
    feature_attention_mask: Int[np.ndarray, "rows frames"]
    hidden: Float[Array, "rows tokens width"]
    log_probs: Float[np.ndarray, "rows targets"]


class Forward:
    """The model, and the references of `rows`; `counted` [rows, targets] is 1 on their tokens and 0 on padding.

    `audio`: every row whose audio they will be heard under, which decides the length of the prompts.
    """

    def __init__(self, checkpoint: Checkpoint, prompter: Prompter, rows: Sequence[Row], audio: Sequence[Row]) -> None:
        self._model, self._prompter = checkpoint.model, prompter
        self._split = nnx.split(checkpoint.model)
        self._length = max(prompter.length(row.num_frames) for row in audio)
        targets = [target(checkpoint.tokenizer, row.text) for row in rows]
        self._targets = np.full((len(rows), max(map(len, targets))), prompter.pad_token_id, np.int32)
        self.counted = np.zeros_like(self._targets)
        for row, ids in enumerate(targets):
            self._targets[row, : len(ids)], self.counted[row, : len(ids)] = ids, 1

    def __call__(self, audio: Sequence[Row]) -> Passed:
        """The references, each under the audio of the row in its place and a prompt made for that audio."""
        rows = slice(len(audio))
        prompts = [columns(row, number, self._prompter, self._length) for number, row in enumerate(audio)]
        prompts += [prompts[-1]] * self._missing(len(prompts))
        targets, counted = self._filled(self._targets), self._filled(self.counted)
        collator = GRPODataCollatorTFDS(max_prompt_length=self._length, pad_token_id=self._prompter.pad_token_id)
        batch = collator([dict(prompt) for prompt in prompts])
        given = extract_generation_model_kwargs(batch, model_callable=self._model.__call__)
        ids = np.concatenate([batch["input_ids"], targets], axis=1)
        mask = np.concatenate([batch["attention_mask"], counted], axis=1)
        hidden, log_probs = _pass(*self._split, *placed(self._model.mesh, (ids, mask, given, targets)))
        return Passed(
            ids[rows],
            mask[rows],
            np.stack([prompt[core.INPUT_FEATURES] for prompt in prompts])[rows],
            np.stack([prompt[core.FEATURE_ATTENTION_MASK] for prompt in prompts])[rows],
            hidden[rows],
            np.asarray(log_probs)[rows],
        )

    def logits(self, hidden: Float[Array, "tokens width"]) -> Float[np.ndarray, "tokens vocab"]:
        """The logits of one row of `Passed.hidden`: those of all rows may be more than a device holds."""
        return np.asarray(_head(*self._split, hidden[None])[0])

    def vectors(
        self, features: Float[np.ndarray, "rows mels frames"], mask: Int[np.ndarray, "rows frames"]
    ) -> Float[np.ndarray, "rows vectors hidden"]:
        """The audio tower's vectors of clips, heard in one batch."""
        clips = placed(self._model.mesh, (self._filled(features), self._filled(mask)))
        return np.asarray(_tower(*self._split, *clips))[: len(features)]

    def _filled(self, rows: np.ndarray) -> np.ndarray:
        """`rows`, the last repeated until the devices can divide them."""
        return np.concatenate([rows, rows[-1:].repeat(self._missing(len(rows)), axis=0)])

    def _missing(self, rows: int) -> int:
        return -rows % batch_shards(self._model.mesh)


@partial(jax.jit, static_argnames="graph")
def _pass(
    graph: Any,
    state: Any,
    ids: Int[Array, "rows tokens"],
    mask: Int[Array, "rows tokens"],
    given: Mapping[str, Array],
    targets: Int[Array, "rows targets"],
) -> tuple[Float[Array, "rows tokens width"], Float[Array, "rows targets"]]:
    """Hidden states of every token, and the log-prob of each target, foretold by the token before it."""
    model = nnx.merge(graph, state)
    with model.mesh:
        hidden = model(input_ids=ids, attention_mask=mask, **given, apply_lm_head=False).last_hidden_state
        logits = model.apply_lm_head(hidden[:, -targets.shape[1] - 1 : -1])
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return hidden, jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]


@partial(jax.jit, static_argnames="graph")
def _head(graph: Any, state: Any, hidden: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens vocab"]:
    model = nnx.merge(graph, state)
    with model.mesh:
        logits: Array = model.apply_lm_head(hidden)
    return logits


@partial(jax.jit, static_argnames="graph")
def _tower(
    graph: Any, state: Any, features: Float[Array, "rows mels frames"], mask: Int[Array, "rows frames"]
) -> Float[Array, "rows vectors hidden"]:
    model = nnx.merge(graph, state)
    with model.mesh:
        vectors: Array = model.audio_tower(features, mask)
    return vectors
