"""A checkpoint over shards: the greedy transcript of every row, rows of like length heard together."""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from audiorl_cli import core
from audiorl_cli.bridge.batches import HEARD, Batch, batches
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.generate import batch_rows, transcribe
from audiorl_cli.bridge.mesh import batch_shards, own_rows
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.rows import prompt_row
from audiorl_cli.data.shards import Row, Shards


class Transcript(NamedTuple):
    """What was heard in a row, `number` in its shards. `tokens`: without the one that ended them; `cut`: none did."""

    number: int
    row: Row
    text: str
    tokens: int
    cut: bool


def transcripts(
    checkpoint: Checkpoint, shards: Shards, prompter: Prompter, *, batch_size: int, max_new_tokens: int
) -> Iterator[list[Transcript]]:
    """Every row of `shards` once, `batch_size` at a time and the longest first; of several processes, each its own.

    Rows are heard in a few windows for each of which the model is compiled once, and `batch_size` transcripts are
    written at a time. Raises DataError for a row that the model could not hear whole.
    """
    size = min(batch_size, shards.rows)
    at_once = -(-size // HEARD)  # parts of a batch: each is heard by itself, and all are written down together
    rows_each = -(-size // at_once)
    plan = batches(shards.column("num_frames"), shards.clip_frames, rows_each)
    longest = max(prompter.length(part.frames) for part in plan)
    own = own_rows(checkpoint.model.mesh, batch_rows(rows_each, batch_shards(checkpoint.model.mesh)))
    for rows, parts in _read(shards, plan, prompter, own, at_once):
        completions = transcribe(checkpoint, parts, max_new_tokens, at_once=at_once, longest=longest)
        yield [
            Transcript(
                number,
                row,
                checkpoint.tokenizer.decode(tokens, skip_special_tokens=True),
                len(tokens),
                len(tokens) == max_new_tokens,  # the token that ends a completion is not among them
            )
            for (number, row), tokens in zip(rows, completions, strict=True)
            if number is not None
        ]


_Numbered = tuple[int | None, Row]
"""A row and its number; None for one that fills a batch."""


def _read(
    shards: Shards, plan: Sequence[Batch], prompter: Prompter, own: Sequence[int], at_once: int
) -> Iterator[tuple[list[_Numbered], list[Prompts]]]:
    """`at_once` parts of the plan: of each the rows at the places `own` with their numbers, and their prompts, the next
    read while the last are heard."""

    def read(parts: Sequence[Batch]) -> tuple[list[_Numbered], list[Prompts]]:
        rows = [_rows(shards, part, own) for part in parts]
        prompts = [_prompts(*each, prompter) for each in zip(rows, parts, strict=True)]
        return list(itertools.chain.from_iterable(rows)), prompts

    together = [plan[first : first + at_once] for first in range(0, len(plan), at_once)]
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(read, together[0])
        for parts in together[1:]:
            current, ahead = ahead, reader.submit(read, parts)
            yield current.result()
        yield ahead.result()


def _rows(shards: Shards, part: Batch, own: Sequence[int]) -> list[_Numbered]:
    """The rows at the places `own` of a part; its last row stands in for those that are missing."""
    last = len(part.rows) - 1
    numbers = sorted({part.rows[min(place, last)] for place in own})
    rows = dict(zip(numbers, shards.read(numbers), strict=True))
    return [(part.rows[place] if place <= last else None, rows[part.rows[min(place, last)]]) for place in own]


def _prompts(rows: Sequence[_Numbered], part: Batch, prompter: Prompter) -> Prompts:
    """The columns of `prompt_row`, stacked and cut to the window of the part.

    Raises DataError for a row the model could not hear whole.
    """
    length = prompter.length(part.frames)
    columns = [prompt_row(row, part.rows[-1] if number is None else number, prompter, length) for number, row in rows]

    def stacked(name: str) -> np.ndarray:
        return np.stack([column[name] for column in columns])

    return Prompts(
        stacked("input_ids"),
        stacked("attention_mask"),
        stacked(core.FEATURE_ATTENTION_MASK)[..., : part.frames],
        stacked(core.INPUT_FEATURES)[..., : part.frames],
    )
