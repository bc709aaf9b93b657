"""A checkpoint over a folder of shards: the greedy transcript of every row, and the report of them all, in order."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from audiorl_cli import core
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.generate import transcribe
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.rows import prompt_row
from audiorl_cli.config import PromptConfig
from audiorl_cli.data.shards import Row, Shards
from audiorl_cli.errors import DataError, UsageError
from audiorl_cli.evaluate import report
from audiorl_cli.evaluate.batches import Batch, batches
from audiorl_cli.evaluate.report import Conditions, Report, Utterance
from audiorl_cli.text import Normaliser, normaliser

Progress = Callable[[int, int], None]  # rows done, rows in all


def evaluate(
    checkpoint: Checkpoint,
    shards: Shards,
    prompt: PromptConfig,
    *,
    batch_size: int = 8,
    max_new_tokens: int = 64,
    normaliser_name: str = "basic",
    out: Path | None = None,
    baseline: Report | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Transcribe every row of `shards` and count its errors; written to `out` where one is given.

    Rows of like length are transcribed together, in a few windows for each of which the model is compiled once; the
    report has them in the order of the data. Raises DataError for shards without rows, a row
    that the model could not hear whole, and, before any work is done, for an `out` that holds another report and a
    `baseline` that was counted otherwise; ConfigError for an unknown normaliser, UsageError for sizes below 1.
    """
    for option, number in (("--batch-size", batch_size), ("--max-new-tokens", max_new_tokens)):
        if number < 1:
            raise UsageError(option, expected=">= 1", got=str(number), fix="Give a larger number.")
    normalise, prompter = normaliser(normaliser_name), Prompter(checkpoint.tokenizer, prompt)
    if not shards.rows:
        raise DataError(str(shards.folder), expected="rows to transcribe", got="none", fix="Run audiorl prep again.")
    conditions = Conditions(
        model=checkpoint.source,
        dtype=_dtype(checkpoint),
        data_digest=shards.digest,
        prompt=prompter.text(core.CLIP_FRAMES),
        max_new_tokens=max_new_tokens,
        normaliser=normalise.name,
        normaliser_version=normalise.version,
        normaliser_digest=normalise.digest,
    )
    if out is not None:
        report.check_out(out, conditions)
    if baseline is not None:
        report.check_comparable(conditions, baseline.metrics.conditions)
    size = min(batch_size, shards.rows)
    plan = batches(shards.column("num_frames"), shards.clip_frames, size)
    utterances: dict[int, Utterance] = {}
    began = time.perf_counter()
    for numbers, rows, columns in _read(shards, plan, prompter, size):
        completions = transcribe(
            checkpoint,
            columns["input_ids"],
            columns["attention_mask"],
            columns[core.INPUT_FEATURES],
            columns[core.FEATURE_ATTENTION_MASK],
            max_new_tokens,
        )
        for number, row, tokens in zip(numbers, rows, completions[: len(rows)], strict=True):
            raw = checkpoint.tokenizer.decode(tokens, skip_special_tokens=True)
            cut = len(tokens) == max_new_tokens  # the token that ends a completion is not among them
            utterances[number] = _utterance(row, raw, len(tokens), cut, prompter.text(row.num_frames), normalise)
        if on_progress is not None:
            on_progress(len(utterances), shards.rows)
    in_order = [utterances[number] for number in range(shards.rows)]
    found = report.summarise(in_order, conditions, time.perf_counter() - began)
    if out is not None:
        report.write(found, out)
    return found


def _read(
    shards: Shards, plan: Sequence[Batch], prompter: Prompter, size: int
) -> Iterator[tuple[tuple[int, ...], list[Row], dict[str, np.ndarray]]]:
    """The rows of each batch and their columns, the next batch read while the last one is transcribed."""

    def read(batch: Batch) -> tuple[tuple[int, ...], list[Row], dict[str, np.ndarray]]:
        rows = shards.read(batch.rows)
        return batch.rows, rows, _columns(rows, batch, prompter, size)

    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(read, plan[0])
        for batch in plan[1:]:
            current, ahead = ahead, reader.submit(read, batch)
            yield current.result()
        yield ahead.result()


def _columns(rows: Sequence[Row], batch: Batch, prompter: Prompter, size: int) -> dict[str, np.ndarray]:
    """The columns of `prompt_row`, stacked and cut to the window of the batch: `size` prompts.

    The last row stands in for those that are missing. Raises DataError for a row the model could not hear whole.
    """
    length = prompter.length(batch.frames)
    columns = [prompt_row(row, number, prompter, length) for number, row in zip(batch.rows, rows, strict=True)]
    columns += [columns[-1]] * (size - len(rows))
    for_audio = {name: np.stack([column[name][..., : batch.frames] for column in columns]) for name in core.AUDIO_KEYS}
    return {
        name: np.stack([column[name] for column in columns]) for name in ("input_ids", "attention_mask")
    } | for_audio


def _utterance(row: Row, raw: str, tokens: int, cut: bool, prompt: str, normalise: Normaliser) -> Utterance:
    reference, hypothesis = normalise(row.text), normalise(raw)
    return Utterance(
        id=row.id,
        speaker=row.speaker,
        duration_s=row.duration_s,
        reference=reference,
        hypothesis=hypothesis,
        tokens=tokens,
        at_token_limit=cut,
        reference_raw=row.text,
        hypothesis_raw=raw,
        prompt=prompt,
        **report.counts(reference, hypothesis),
    )


def _dtype(checkpoint: Checkpoint) -> str:
    model: Any = checkpoint.model
    return str(np.dtype(model.param_dtype))
