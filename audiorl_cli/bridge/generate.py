"""Prompts with audio -> completions: greedy decoding with a KV cache, compiled once for each shape of a batch."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from audiorl_cli.bridge.checkpoint import Checkpoint

PROMPT_STEP = 32
"""Prompts are padded to a multiple of so many tokens: clips of every length share a few compiled programs."""
ROWS_STEP = 8
"""A batch is padded to a power of two, above this to a multiple of it, for the same reason."""


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
    and never a placeholder of audio, image or video. The audio is encoded once.
    """
    model = checkpoint.model
    settings = model.generation_config
    rows, tokens = input_ids.shape
    extra_tokens = -tokens % PROMPT_STEP
    extra_rows = _rows(rows, batch_shards(model.mesh)) - rows
    left = ((0, 0), (extra_tokens, 0))
    graph, state = nnx.split(model)
    sequences = _greedy(
        graph,
        state,
        *(
            # Rows that fill the batch repeat the last one, so that they end when it does.
            np.pad(array, ((0, extra_rows), *((0, 0),) * (array.ndim - 1)), mode="edge")
            for array in (
                np.pad(input_ids, left, constant_values=settings.pad_token_id).astype(np.int32),
                np.pad(attention_mask, left).astype(np.int32),
                input_features.astype(np.float32),
                feature_attention_mask.astype(np.int32),
            )
        ),
        max_new_tokens=max_new_tokens,
    )
    completions = np.asarray(sequences)[:rows, tokens + extra_tokens :]
    return [cut(row.tolist(), settings.eos_token_id) for row in completions]


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
) -> Int[Array, "batch tokens_and_new"]:
    model = nnx.merge(graph, state)
    with model.mesh:
        sequences: Array = model.generate(
            input_ids,
            attention_mask=attention_mask,
            input_features=input_features,
            feature_attention_mask=feature_attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        ).sequences
    return sequences


def batch_shards(mesh: Any) -> int:
    """Devices among which the rows of a batch are divided."""
    return int(mesh.shape["dp"] * mesh.shape["fsdp"] * mesh.shape["ep"])


def _rows(rows: int, shards: int) -> int:
    step = ROWS_STEP if rows > ROWS_STEP else 1 << (rows - 1).bit_length()
    step = int(np.lcm(step, shards))
    return -(-rows // step) * step
