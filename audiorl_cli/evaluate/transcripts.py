"""A checkpoint over a folder of shards: the greedy transcript of every row, and the report of them all, in order."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from audiorl_cli import core
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.generate import transcribe
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.rows import prompt_row
from audiorl_cli.config import PromptConfig
from audiorl_cli.data.shards import Row, Shards
from audiorl_cli.errors import DataError, UsageError
from audiorl_cli.evaluate import page, report
from audiorl_cli.evaluate.batches import HEARD, Batch, batches
from audiorl_cli.evaluate.bootstrap import BOOTSTRAP, Bootstrap
from audiorl_cli.evaluate.comparison import check_comparable, compare, counted_alike
from audiorl_cli.evaluate.exhibits import exhibits
from audiorl_cli.evaluate.metrics import Conditions, summarise
from audiorl_cli.evaluate.page import Making
from audiorl_cli.evaluate.report import Report
from audiorl_cli.evaluate.slices import ALWAYS
from audiorl_cli.evaluate.utterance import Utterance, scored
from audiorl_cli.text import normaliser

Progress = Callable[[int, int], None]  # rows done, rows in all


def evaluate(
    checkpoint: Checkpoint,
    shards: Shards,
    prompt: PromptConfig,
    *,
    batch_size: int = 32,
    max_new_tokens: int = 64,
    normaliser_name: str = "basic",
    out: Path | None = None,
    baseline: Report | None = None,
    accept_changes: bool = False,
    bootstrap: Bootstrap = BOOTSTRAP,
    by: Sequence[str] = (),
    command: str = "",
    on_progress: Progress | None = None,
) -> Report:
    """Transcribe every row of `shards` and count its errors; written to `out` where one is given.

    Rows of like length are heard together, in a few windows for each of which the model is compiled once, and
    `batch_size` transcripts are written at a time; the report has them in the order of the data. `bootstrap` and `by`
    are what `summarise` makes of them, `accept_changes` is `compare`'s, `command` is what the page says made it.
    Raises DataError for shards without rows, a row that the model could not hear whole, and, before any work is done,
    for an `out` that holds another report, a `baseline` that was counted otherwise, columns `by` that the shards lack,
    and speakers to draw that they do not name; ConfigError for an unknown normaliser, UsageError for sizes below 1.
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
        check_comparable(conditions, baseline.metrics.conditions, accept_changes=accept_changes)
    _check_columns(shards, by, bootstrap)
    size = min(batch_size, shards.rows)
    at_once = -(-size // HEARD)  # parts of a batch: each is heard by itself, and all are written down together
    rows_each = -(-size // at_once)
    plan = batches(shards.column("num_frames"), shards.clip_frames, rows_each)
    longest = max(prompter.length(part.frames) for part in plan)
    utterances: dict[int, Utterance] = {}
    began = time.perf_counter()
    for rows, parts in _read(shards, plan, prompter, rows_each, at_once):
        completions = transcribe(checkpoint, parts, max_new_tokens, at_once=at_once, longest=longest)
        for (number, row), tokens in zip(rows.items(), completions, strict=False):  # behind the last row: filling
            raw = checkpoint.tokenizer.decode(tokens, skip_special_tokens=True)
            cut = len(tokens) == max_new_tokens  # the token that ends a completion is not among them
            utterances[number] = scored(
                normalise,
                id=row.id,
                speaker=row.speaker,
                duration_s=row.duration_s,
                reference_raw=row.text,
                hypothesis_raw=raw,
                tokens=len(tokens),
                at_token_limit=cut,
                prompt=prompter.text(row.num_frames),
                columns=row.extra,
            )
        if on_progress is not None:
            on_progress(len(utterances), shards.rows)
    in_order = [utterances[number] for number in range(shards.rows)]
    found = summarise(in_order, conditions, time.perf_counter() - began, bootstrap, by)
    change = compare(found, baseline, accept_changes=accept_changes) if baseline is not None else None
    whole = Report(found.metrics, found.utterances, change)
    if out is not None:
        places = {one.id: place for place, one in enumerate(whole.utterances)}
        report.write(
            whole,
            out,
            baseline=None if baseline is None else counted_alike(found, baseline),
            exhibits=exhibits(shards, [places[one.id] for one in report.worst(whole, page.WORST)]),
            making=Making(command, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", page.run_files(checkpoint.source)),
        )
    return whole


def _check_columns(shards: Shards, by: Sequence[str], bootstrap: Bootstrap) -> None:
    known = [*ALWAYS, *shards.read([0])[0].extra]
    for name in by:
        if name not in known:
            raise DataError(
                f"--by {name}",
                expected=f"one of {', '.join(known)}",
                got="no such column",
                fix=f"Name a column that prep kept in {shards.folder}.",
            )
    if bootstrap.cluster == "speaker":
        speakers = shards.column("speaker")
        if not all(speakers) or len({*speakers}) < 2:
            got = f"{speakers.count('')} rows without one" if not all(speakers) else f"{speakers[0]} alone"
            raise DataError(
                "--cluster speaker",
                expected="a speaker for every row, two or more in all",
                got=got,
                fix="Leave it out: utterances are drawn then.",
            )


def _read(
    shards: Shards, plan: Sequence[Batch], prompter: Prompter, rows_each: int, at_once: int
) -> Iterator[tuple[dict[int, Row], list[Prompts]]]:
    """`at_once` parts of the plan: their rows by number and their prompts, the next read while the last are heard."""

    def read(parts: Sequence[Batch]) -> tuple[dict[int, Row], list[Prompts]]:
        rows = [shards.read(part.rows) for part in parts]
        prompts = [_prompts(*each, prompter, rows_each) for each in zip(rows, parts, strict=True)]
        numbers = itertools.chain.from_iterable(part.rows for part in parts)
        return dict(zip(numbers, itertools.chain.from_iterable(rows), strict=True)), prompts

    together = [plan[first : first + at_once] for first in range(0, len(plan), at_once)]
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(read, together[0])
        for parts in together[1:]:
            current, ahead = ahead, reader.submit(read, parts)
            yield current.result()
        yield ahead.result()


def _prompts(rows: Sequence[Row], part: Batch, prompter: Prompter, count: int) -> Prompts:
    """The columns of `prompt_row`, stacked and cut to the window of the part: `count` prompts.

    The last row stands in for those that are missing. Raises DataError for a row the model could not hear whole.
    """
    length = prompter.length(part.frames)
    columns = [prompt_row(row, number, prompter, length) for number, row in zip(part.rows, rows, strict=True)]
    columns += [columns[-1]] * (count - len(rows))

    def stacked(name: str) -> np.ndarray:
        return np.stack([column[name] for column in columns])

    return Prompts(
        stacked("input_ids"),
        stacked("attention_mask"),
        stacked(core.FEATURE_ATTENTION_MASK)[..., : part.frames],
        stacked(core.INPUT_FEATURES)[..., : part.frames],
    )


def _dtype(checkpoint: Checkpoint) -> str:
    model: Any = checkpoint.model
    return str(np.dtype(model.param_dtype))
