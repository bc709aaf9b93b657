"""A checkpoint over a folder of shards: the greedy transcript of every row, and the report of them all, in order."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from audiorl_cli import core
from audiorl_cli.bridge import selection
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.selection import StoredSelection
from audiorl_cli.bridge.transcription import transcripts
from audiorl_cli.config import PromptConfig
from audiorl_cli.data.leakage import audio_digest
from audiorl_cli.data.shards import Shards
from audiorl_cli.errors import DataError, UsageError
from audiorl_cli.evaluate import page, report
from audiorl_cli.evaluate.bootstrap import BOOTSTRAP, Bootstrap
from audiorl_cli.evaluate.comparison import check_comparable, compare, counted_alike
from audiorl_cli.evaluate.exhibits import exhibits
from audiorl_cli.evaluate.metrics import Conditions, ReportedSelection, summarise
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

    `batch_size` of them at a time; the report has them in the order of the data. `bootstrap` and `by` are what
    `summarise` makes of them, `accept_changes` is `compare`'s, `command` is what the page says made it. Raises
    DataError for shards without rows, a row that the model could not hear whole, and, before any work is done, for an
    `out` that holds another report, a `baseline` that was counted otherwise, columns `by` that the shards lack, and
    speakers to draw that they do not name; ConfigError for an unknown normaliser, UsageError for sizes below 1.
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
    stored = selection.decode(checkpoint.files, checkpoint.source)
    recordings: list[str] = []
    utterances: dict[int, Utterance] = {}
    began = time.perf_counter()
    heard = transcripts(checkpoint, shards, prompter, batch_size=batch_size, max_new_tokens=max_new_tokens)
    for batch in heard:
        for number, row, raw, tokens, cut in batch:
            if any(one.recordings for one in stored):
                recordings.append(audio_digest(row))
            utterances[number] = scored(
                normalise,
                id=row.id,
                speaker=row.speaker,
                duration_s=row.duration_s,
                reference_raw=row.text,
                hypothesis_raw=raw,
                tokens=tokens,
                at_token_limit=cut,
                prompt=prompter.text(row.num_frames),
                columns=row.extra,
            )
        if on_progress is not None:
            on_progress(len(utterances), shards.rows)
    in_order = [utterances[number] for number in range(shards.rows)]
    chosen = [_reported(one, shards, recordings) for one in stored]
    found = summarise(in_order, conditions, time.perf_counter() - began, bootstrap, by, chosen)
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


def _reported(one: StoredSelection, shards: Shards, recordings: Sequence[str]) -> ReportedSelection:
    """What chose the model, and how many of the `recordings` of `shards` did."""
    known = {*one.recordings} - {""}  # of digital silence
    shared = shards.rows if one.digest == shards.digest else sum(audio in known for audio in recordings)
    table = asdict(one)
    del table["recordings"]
    return ReportedSelection(**table, shared=shared)


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


def _dtype(checkpoint: Checkpoint) -> str:
    model: Any = checkpoint.model
    return str(np.dtype(model.param_dtype))
