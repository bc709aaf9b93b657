"""The pipeline: a source's utterances through the workers into shards, in order, with a reason for what is left out.

The bytes of every file depend on the source and the settings alone: not on the number of workers, not on the clock,
and not on how often the run was killed and started again.
"""

import dataclasses
import itertools
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, Literal, get_args

from audiorl_cli import caches, core
from audiorl_cli.data import journal, recordings
from audiorl_cli.data.columns import AS_NAMED, Columns
from audiorl_cli.data.journal import Finished
from audiorl_cli.data.lock import lock_folder
from audiorl_cli.data.manifest import FORMAT, MANIFEST, REJECTED, VERSION, recorded, sealed
from audiorl_cli.data.prepare import Batch, Held, Preparation
from audiorl_cli.data.rejected import SKIP_RULES, Rejection, SkipRule
from audiorl_cli.data.shards import FeatureDtype, PackedRow, StagedShard, open_shards, publish, write_whole
from audiorl_cli.data.sources import Item, Source, SourceFormat, open_source, unique
from audiorl_cli.data.store import Place, Url, demand_apart
from audiorl_cli.data.survey import Survey, survey
from audiorl_cli.data.workers import Failure, ordered
from audiorl_cli.errors import AudioRLError, DataError, UsageError

Engine = Literal["local", "ray"]
_CLIP_SECONDS_MAX: Final = 300  # a window is stored whole, 15 MB at this length; what is longer belongs in segments


@dataclass(frozen=True)
class PrepSettings:
    """How recordings become rows. Raises UsageError for values that contradict one another.

    `clip_seconds`: the window; `min_seconds`, `max_seconds` (the window where None) bound a clip. `channel`: "mix",
    "left", "right" or a number from 0. `split`: of a Hugging Face data set. `root` confines the source's paths.
    `columns`: what those of a manifest, table or data set mean. `strict`: the first rejected row ends the run.
    `engine`: workers of this machine, so many (0: one a processor), or a Ray cluster's, which no `workers` counts.
    """

    dtype: FeatureDtype = "float16"
    clip_seconds: float = core.CLIP_SECONDS
    min_seconds: float = 0.1
    max_seconds: float | None = None
    channel: str = "mix"
    rows_per_shard: int = 128
    format: SourceFormat = "auto"
    split: str | None = None
    root: Place | None = None
    columns: Columns = AS_NAMED
    strict: bool = False
    engine: Engine = "local"
    workers: int = 0
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        bounded = 1 / core.FRAMES_PER_SECOND <= self.clip_seconds <= _CLIP_SECONDS_MAX  # false for NaN
        window = bounded and math.isclose(
            core.clip_frames(self.clip_seconds), self.clip_seconds * core.FRAMES_PER_SECOND
        )
        _check("--dtype", self.dtype in ("float16", "float32"), "float16 or float32", self.dtype)
        expected = f"0.01 to {_CLIP_SECONDS_MAX}, a whole number of 10 ms"
        _check("--clip-seconds", window, expected, self.clip_seconds)
        _check("--max-seconds", self.longest <= self.clip_seconds, "at most --clip-seconds", self.max_seconds)
        _check("--min-seconds", 0 <= self.min_seconds <= self.longest, "0 to --max-seconds", self.min_seconds)
        named = self.channel in ("mix", "left", "right") or (self.channel.isascii() and self.channel.isdigit())
        _check("--channel", named, "mix, left, right or a number from 0", self.channel)
        _check("--format", self.format in get_args(SourceFormat), ", ".join(get_args(SourceFormat)), self.format)
        _check("--rows-per-shard", self.rows_per_shard >= 1, ">= 1", self.rows_per_shard)
        _check("--engine", self.engine in get_args(Engine), " or ".join(get_args(Engine)), self.engine)
        _check("--workers", self.workers >= 0, ">= 0", self.workers)
        _check("--workers", not self.workers or self.engine == "local", "none with --engine ray", self.workers)

    @property
    def longest(self) -> float:
        """Seconds of the longest clip that is kept."""
        return self.clip_seconds if self.max_seconds is None else self.max_seconds

    def features(self) -> dict[str, Any]:
        """What decides the features and which rows are kept, as the manifest has it."""
        return {
            "sample_rate": core.SAMPLE_RATE,
            "n_fft": core.N_FFT,
            "hop_length": core.HOP_LENGTH,
            "mel_bins": core.MEL_BINS,
            "spectrum": "float64",
            "clip_seconds": self.clip_seconds,
            "clip_frames": core.clip_frames(self.clip_seconds),
            "dtype": self.dtype,
            "channel": self.channel,
            "min_seconds": self.min_seconds,
            "max_seconds": self.longest,
        }


@dataclass(frozen=True)
class Progress:
    """How far a run is. `done` of `total` rows of the source; `resumed` of them were done by an earlier run.

    `audio_seconds` were kept in the `elapsed_seconds` of this run.
    """

    done: int
    total: int
    kept: int
    rejected: int
    resumed: int
    audio_seconds: float
    elapsed_seconds: float


@dataclass(frozen=True)
class PrepSummary:
    """What a run left in `out`, and how fast.

    `resumed`: rows of the source that an earlier run had dealt with. `hours_per_second`: of audio, in this run.
    `skipped`: files of the source that no row stands for, by one of `rejected.SKIP_RULES`.
    """

    out: Place
    utterances: int
    hours: float
    shards: int
    rejected: Mapping[str, int]
    resumed: int
    elapsed_seconds: float
    hours_per_second: float
    skipped: Mapping[SkipRule, int] = field(default_factory=dict)


def prep(
    source: str,
    out: Place,
    settings: PrepSettings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> PrepSummary:
    """Write the utterances of `source` to `out` as shards, `manifest.json` and `rejected.jsonl`.

    Run again after it was killed, it goes on after the last finished shard; run again when it is done, it does
    nothing. Raises DataError for a source that cannot be read, for an `out` that holds other data, where nothing
    could be kept, and with `strict` for the first row that is rejected; UsageError for a bad setting.
    """
    settings = settings or PrepSettings()
    demand_apart(out, {"SOURCE": source}, outside=True)
    caches.prepare_numba()
    started = time.monotonic()
    opened = open_source(source, settings.format, settings.split, settings.root, settings.columns)
    # An object store needs no lock: see store_journal.py.
    with nullcontext() if isinstance(out, Url) else lock_folder(out):
        found = survey(opened)
        identity = {
            "version": VERSION,
            **settings.features(),
            "rows_per_shard": settings.rows_per_shard,
            "source": found.digest,
            "columns": [dataclasses.asdict(column) for column in found.columns],
        }
        done = _already_done(out, identity)
        if done is None:
            identity["written"] = found.written  # of a run that goes on: what is finished may be of a copy
            finished = journal.load(out, identity)
            _refuse_foreign(out)
            _sweep(out)
            journal.begin(out, identity, finished)
            run = _Run(out, opened, settings, found, started, on_progress, finished)
            done = run.finish()
            resumed, resumed_seconds = run.skipped, math.fsum(entry.seconds for entry in finished)
        else:
            resumed, resumed_seconds = found.total, done["totals"]["hours"] * 3600
        recordings.note(out, source, settings.split, settings.root, settings.columns)
        journal.end(out)
    totals, elapsed = done["totals"], time.monotonic() - started
    return PrepSummary(
        out=out,
        utterances=totals["utterances"],
        hours=totals["hours"],
        shards=len(done["shards"]),
        rejected=totals["rejected"],
        resumed=resumed,
        elapsed_seconds=elapsed,
        hours_per_second=max(0.0, totals["hours"] - resumed_seconds / 3600) / elapsed,
        skipped=done["source"].get("skipped", {}),
    )


@dataclass
class _Run:
    """The second pass: from the first item that no finished shard covers, to the manifest."""

    out: Place
    source: Source
    settings: PrepSettings
    survey: Survey
    started: float
    on_progress: Callable[[Progress], None] | None
    resumed: list[Finished]

    def __post_init__(self) -> None:
        self.finished = list(self.resumed)
        self.urgent: deque[Item | Batch[Any]] = deque()  # what the workers are to do next
        # Of the shards that are being written: the first item after each, its seconds, what was rejected among them.
        self.due: deque[tuple[int, float, list[Rejection]]] = deque()

    def finish(self) -> dict[str, Any]:
        """Write what is missing, then `rejected.jsonl` and the manifest, which it returns."""
        rows: list[PackedRow | Held] = []
        rejections: list[Rejection] = []
        first = done = self.skipped
        kept, audio_seconds = sum(entry.shard.rows for entry in self.finished), 0.0
        with closing(self._outcomes()) as outcomes:  # an error ends the workers here, not when Python collects them
            for outcome in outcomes:
                if isinstance(outcome, StagedShard):
                    self._publish(outcome)
                    continue
                done += 1
                if isinstance(outcome, Rejection):
                    self._refuse(outcome)
                    rejections.append(outcome)
                else:
                    rows.append(outcome)
                    kept, audio_seconds = kept + 1, audio_seconds + outcome.duration_s
                if len(rows) == self.settings.rows_per_shard or (rows and done == self.survey.total):
                    self.urgent.append(self._batch(rows))
                    self.due.append((done, math.fsum(row.duration_s for row in rows), rejections))
                    rows, rejections = [], []
                if self.on_progress is not None:
                    elapsed = time.monotonic() - self.started
                    self.on_progress(
                        Progress(done, self.survey.total, kept, done - kept, first, audio_seconds, elapsed)
                    )
        if done != self.survey.total:
            raise DataError(
                "SOURCE",
                expected=f"{self.survey.total} rows, as when it was first read",
                got=str(done),
                fix="Let nobody write to it, and give another --out.",
            )
        return self._seal(rejections)

    @property
    def skipped(self) -> int:
        """Items that an earlier run has dealt with."""
        return self.resumed[-1].next if self.resumed else 0

    def _outcomes(self) -> Generator[PackedRow | Held | Rejection | StagedShard, None, None]:
        settings = self.settings
        frames = core.clip_frames(settings.clip_seconds)
        prepare = Preparation(settings.dtype, frames, settings.min_seconds, settings.longest, settings.channel)
        items: Iterator[Item | Batch[Any]] = itertools.islice(unique(self.source.items()), self.skipped, None)
        results: Generator[tuple[Item | Batch[Any], Any], None, None]
        if settings.engine == "ray":
            from audiorl_cli.data import cluster

            results = cluster.ordered(prepare, items, settings.timeout_seconds, self.urgent)
        else:
            workers = min(settings.workers or len(os.sched_getaffinity(0)), max(1, self.survey.total - self.skipped))
            results = ordered(prepare, items, workers, settings.timeout_seconds, self.urgent)
        with closing(results):
            for task, result in results:
                if isinstance(result, AudioRLError):
                    raise result
                if not isinstance(result, Failure):
                    yield result
                elif isinstance(task, Batch):  # a worker's limits of time and memory are not those of a shard
                    yield task.stage()
                else:
                    yield Rejection(task.id, task.source, "decoder_failed", result.detail)

    def _batch(self, rows: list[PackedRow | Held]) -> Batch[PackedRow | Held]:
        path = self.out / f"data-{len(self.finished) + len(self.due):05d}.parquet"
        return Batch(path, rows, self.survey.columns, self.settings.dtype)

    def _publish(self, staged: StagedShard) -> None:
        """Give the next shard its name and write it down."""
        publish(staged.temporary, self.out / staged.record.file)
        finished = Finished(staged.record, *self.due.popleft())
        journal.append(self.out, len(self.finished), finished)
        self.finished.append(finished)

    def _refuse(self, rejection: Rejection) -> None:
        if self.settings.strict:
            raise DataError(
                f"{rejection.source} (id {rejection.id!r})",
                expected="an utterance that can be used",
                got=f"{rejection.reason}: {rejection.detail}",
                fix="Mend or remove it, or run without --strict.",
            )

    def _seal(self, last: list[Rejection]) -> dict[str, Any]:
        finished = self.finished
        _sweep(self.out)
        rejections = [*itertools.chain.from_iterable(entry.rejections for entry in finished), *last]
        reasons = Counter(rejection.reason for rejection in rejections)
        left_out = "".join(f"{rejection.line()}\n" for rejection in rejections).encode()
        write_whole(self.out / REJECTED, left_out)
        if not finished:
            raise self._nothing(rejections)
        seconds = math.fsum(entry.seconds for entry in finished)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "features": self.settings.features(),
            "rows_per_shard": self.settings.rows_per_shard,
            "columns": [dataclasses.asdict(column) for column in self.survey.columns],
            "source": {
                "format": self.source.kind,
                "rows": self.survey.total,
                "digest": self.survey.digest,
                "skipped": dict(self.survey.skipped),
            },
            "shards": [dataclasses.asdict(entry.shard) for entry in finished],
            "rejected": dataclasses.asdict(recorded(REJECTED, len(rejections), left_out)),
            "totals": {
                "utterances": sum(entry.shard.rows for entry in finished),
                "hours": round(seconds / 3600, 9),
                "rejected": dict(sorted(reasons.items())),
            },
        }
        write_whole(self.out / MANIFEST, sealed(manifest))
        return manifest

    def _nothing(self, rejections: list[Rejection]) -> DataError:
        if not rejections:
            skipped = ", ".join(f"{count} {SKIP_RULES[rule]}" for rule, count in self.survey.skipped.items())
            got, fix = "an empty source" + (f", with {skipped}" if skipped else ""), "Check SOURCE."
        else:
            first, reasons = rejections[0], Counter(rejection.reason for rejection in rejections)
            common = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
            got = f"{len(rejections)} rejected ({common}), the first in {first.source}: {first.detail}"
            fix = f"See {self.out / REJECTED}."
        return DataError(str(self.out), expected="at least one utterance that can be used", got=got, fix=fix)


def _already_done(out: Place, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a finished run of the same identity. Raises DataError where it is of another, or damaged."""
    try:
        if not (out / MANIFEST).exists():
            return None
    except OSError as error:  # of a store; a folder has been made by now
        raise DataError(
            str(out), expected="a store to write to", got=str(error.strerror), fix="Check the store and --out."
        ) from error
    manifest = open_shards(out).manifest
    found = {
        "version": manifest["version"],
        **manifest["features"],
        "rows_per_shard": manifest["rows_per_shard"],
        "source": manifest["source"]["digest"],
        "columns": manifest["columns"],
    }
    journal.refuse_other(out, found, identity)
    return dict(manifest)


def _refuse_foreign(out: Place) -> None:
    """Raise DataError where shards without manifest or journal are in the way: they are somebody's."""
    names = out.files() if isinstance(out, Url) else os.listdir(out)
    shards = sorted(name for name in names if fnmatch(name, "data-*.parquet"))
    if shards and not journal.exists(out):
        raise DataError(str(out), expected="no shards without a manifest", got=shards[0], fix="Give another --out.")


def _sweep(out: Place) -> None:
    """Remove what a killed run or worker left half written."""
    for temporary in out.glob(".*.tmp") if isinstance(out, Path) else ():
        temporary.unlink(missing_ok=True)


def _check(option: str, ok: bool, expected: str, got: object) -> None:
    if not ok:
        raise UsageError(option, expected=expected, got=repr(got), fix="Correct the option.")
