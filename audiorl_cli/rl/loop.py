"""The loop of a run, whatever is learnt in it: rows in order, steps, logs, checkpoints, until done or stopped."""

import dataclasses
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from safetensors import SafetensorError

from audiorl_cli.bridge import checkpoint as checkpoints
from audiorl_cli.bridge import hosts
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.mesh import own_rows
from audiorl_cli.bridge.selection import FILE, Selection, StoredSelection, decode, encode
from audiorl_cli.config import Export
from audiorl_cli.data.shards import Row, Shards
from audiorl_cli.errors import ModelError
from audiorl_cli.rl import folder, lesson, snapshot
from audiorl_cli.rl.lesson import Lesson
from audiorl_cli.rl.metrics import (
    NoLog,
    RunLog,
    Sample,
    StepMetrics,
    Validation,
    WarmstartMetrics,
    finite,
    last,
    numbers,
    steps,
    validations,
)
from audiorl_cli.rl.order import batch_rows
from audiorl_cli.rl.stop import StopRequested
from audiorl_cli.rl.tripwires import Suspicion, Tripwires
from audiorl_cli.rl.validation import Validator, best, fruitless

Numbers = TypeVar("Numbers", StepMetrics, WarmstartMetrics)
Told = TypeVar("Told", StepMetrics, WarmstartMetrics, covariant=True)


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `steps`: updates the model has had, `began_at` of them before this call (0: a fresh start).

    `model`: the folder of the final model; None where the run was `stopped` by SIGTERM or Ctrl-C, and then the newest
    checkpoint holds everything, and the same command goes on from it. `best`: the validation of that model, where there
    were any.
    """

    out: Path
    steps: int
    began_at: int
    stopped: bool
    model: Path | None
    best: Validation | None = None


@dataclass(frozen=True)
class Plan:
    """Rows of `batch_size` for `steps` updates in the order of `seed`; a checkpoint every `save_every`, `keep` kept.

    `on_nonfinite`: what follows a step whose loss or gradient is no finite number.
    `validate_every` so many steps, where there is held-out data, of which `patience` (0: any number) may bring nothing.
    `enough`: whether the numbers of a step, as they stand in the log, make it the last.
    """

    steps: int
    batch_size: int
    seed: int
    save_every: int
    keep: int
    on_nonfinite: Literal["stop", "skip"] = "stop"
    validate_every: int = 1
    patience: int = 0
    enough: Callable[[Mapping[str, Any]], bool] = lambda _: False

    def is_over(self, step: int, told: Mapping[str, Any] | None, seen: Sequence[Validation]) -> bool:
        """Whether `step` is the last; `told`: the numbers of the newest step there are, `seen`: its validations."""
        enough = told is not None and told["step"] == step and self.enough(told)
        return step >= self.steps or enough or 0 < self.patience <= fruitless(seen)


class Engine(Protocol[Told]):
    """One model under training."""

    @property
    def mesh(self) -> Any:
        """The devices that its batches are divided among."""

    @property
    def step(self) -> int:
        """Updates done."""

    def update(self, indices: Sequence[int], rows: Sequence[Row]) -> tuple[Told, tuple[Sample, ...]]:
        """One step on the rows of `indices`, of which this process has `rows`. Returns its numbers and samples of it,
        the same in every process.

        Of a loss or gradient that is no finite number nothing is learnt; the step counts where such are skipped.
        """

    def lessons(self) -> tuple[Lesson, ...]:
        """What the last step was to learn from, prompt by prompt."""

    def arrays(self) -> snapshot.Arrays:
        """Every array that an update changes, until the next update takes its buffers."""

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what `arrays` gave the first process. Raises ModelError where they are not of this engine."""

    def checkpoint(self) -> Checkpoint:
        """The model as it now is."""


def run(
    out: Path,
    plan: Plan,
    shards: Shards,
    begin: Callable[[], Engine[Numbers]],
    on_step: Callable[[Numbers], None],
    *,
    export: Export,
    command: folder.Kind,
    card: Callable[[int, Sequence[Selection]], str],
    validator: Validator | None = None,
    on_stop: Callable[[], None] = lambda: None,
    on_suspicion: Callable[[Suspicion], None] = lambda _: None,
    on_validation: Callable[[Validation, Validation], None] = lambda one, best: None,
    on_saved: Callable[[], None] = lambda: None,
    tensorboard: bool = False,
    wandb: str | None = None,
) -> RunResult:
    """Drive the engine that `begin` makes from the newest checkpoint in `out` to the end of `plan`, or until stopped.

    `on_stop` hears of a wish to stop, which is met after the step that is being taken, `on_suspicion` of what the last
    steps make a person suspect (rl/tripwires.py), which the log keeps too, `on_validation` of each time that
    `validator` is asked, and of the best until then, whose checkpoint is kept,
    and `on_saved`, in the process that writes, of each checkpoint. The model, of the last step or of the best, is saved
    as `export`, with the `card` of its steps and of what chose them, which `bridge.selection.FILE` has too. A finished
    run to which `plan` gives more steps goes on, and has no model until it is finished again. The batch of a step whose
    loss or gradient is no finite number is kept (rl/lesson.py). Raises ModelError for a damaged checkpoint, for such a
    step where `plan` does not skip it, for an export that the model is not fit for, and where a checkpoint, the log or
    the model cannot be written, InstallError for a tracker that cannot be used; what the engine or `on_step` raises
    ends the run as it is.
    """
    model = out / folder.MODEL
    told, every, finished = hosts.from_first(lambda: (last(out), validations(out), model.is_dir()))
    seen = validator.like(every) if validator else []
    there = hosts.from_first(lambda: snapshot.steps(out))
    taken = (there or [told["step"] if told else plan.steps])[-1]
    if finished and plan.is_over(taken, told, seen):
        return RunResult(out, taken, taken, False, model, best(seen))
    began_at, newest = _snapshot(lambda: snapshot.newest(out))
    saved_at = began_at
    # The log comes first: of a tracker that lets nobody in a person hears at once, and not once a large model is read.
    with (
        StopRequested(on_stop) as stop,
        RunLog(out, began_at, tensorboard=tensorboard, wandb=wandb) if hosts.leads() else NoLog() as log,
    ):
        engine = begin()
        checkpoints.demand_export(engine.checkpoint(), export)
        if there:
            engine.restore(newest)
        del newest  # as large as the model and its optimizer
        if hosts.leads():
            for old in (model, out / folder.ADAPTER):  # of fewer steps than are asked for now
                shutil.rmtree(old, ignore_errors=True)
        seen = [one for one in seen if one.step <= began_at]

        def save() -> int:
            return _save(out, engine, plan, seen, on_saved)

        if validator and not seen:
            seen.append(validator(engine.checkpoint(), began_at))
            log.begin(seen[0])
            on_validation(seen[0], seen[0])
            saved_at = save()
        told, every_step = hosts.from_first(lambda: (last(out), steps(out)))
        over, tripwires = plan.is_over(began_at, told, seen), Tripwires(every_step)
        for indices, rows in _batches(shards, plan, began_at, engine.mesh):
            if over or hosts.any_of(stop.asked):
                break
            metrics, samples = engine.update(indices, rows)
            if not finite(metrics):
                lessons = engine.lessons()
                kept = hosts.from_first(partial(lesson.keep, out, metrics, lessons))
                if plan.on_nonfinite == "stop":
                    if saved_at < engine.step < metrics.step:
                        save()
                    raise _nonfinite(metrics, kept)
            over, validation = plan.is_over(engine.step, dataclasses.asdict(metrics), seen), None
            if validator and (over or engine.step % plan.validate_every == 0):
                validation = validator(engine.checkpoint(), engine.step)
                seen.append(validation)
            log.write(metrics, samples, validation)
            for suspicion in tripwires.check(numbers(metrics)):
                log.suspect(suspicion)
                on_suspicion(suspicion)
            if engine.step % plan.save_every == 0 or (validation and validation is best(seen)):
                saved_at = save()
            on_step(metrics)
            if validation and (chosen := best(seen)):
                on_validation(validation, chosen)
            over = over or plan.is_over(engine.step, None, seen)
        if saved_at != engine.step:
            save()
        taken, chosen = engine.step, best(seen)
        if not over:
            return RunResult(out, taken, began_at, True, None, chosen)
        if chosen and chosen.step != taken:
            _, arrays = _snapshot(lambda: snapshot.of_step(out, chosen.step))
            engine.restore(arrays)
        _export(engine.checkpoint(), out, export, card, _selection(command, taken, validator, seen))
        return RunResult(out, taken, began_at, False, model, chosen)


def _selection(command: str, steps: int, validator: Validator | None, seen: Sequence[Validation]) -> StoredSelection:
    """What chose the model, in the process that writes it."""
    if validator and seen and hosts.leads():
        return validator.selection(command, seen, steps)
    return StoredSelection(command, steps, steps)


def _export(
    trained: Checkpoint,
    out: Path,
    export: Export,
    card: Callable[[int, Sequence[Selection]], str],
    selection: StoredSelection,
) -> None:
    """Write the adapter and the model of a run that is over, and after what chose the model that it began with what
    chose this one."""
    selections = (*decode(trained.files, trained.source), selection)
    trained = dataclasses.replace(trained, files={**trained.files, FILE: encode(selections)})
    try:
        checkpoints.save_adapter(trained, out / folder.ADAPTER, export=export)
        # Last: it is what makes the run a finished one.
        checkpoints.save(trained, out / folder.MODEL, export=export, card=card(selection.step, selections))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            str(out / folder.MODEL),
            expected="to write it",
            got=str(error),
            fix="Free disk space and run again: its last checkpoint holds everything.",
        ) from error


def _snapshot(read: Callable[[], snapshot.Snapshot | None]) -> tuple[int, dict[str, np.ndarray]]:
    """The step of what the first process reads (0: of nothing), and its arrays, which no other process gets."""
    arrays: dict[str, np.ndarray] = {}

    def step() -> int:
        found = read()
        arrays.update(found.arrays if found else {})
        return found.step if found else 0

    return hosts.from_first(step), arrays


def _batches(shards: Shards, plan: Plan, began_at: int, mesh: Any) -> Iterator[tuple[list[int], list[Row]]]:
    """The rows of each update that is left, the numbers of all and those that are this process's part themselves, the
    next batch read while the last one is learnt from."""
    own = own_rows(mesh, plan.batch_size)

    def batch(step: int) -> tuple[list[int], list[Row]]:
        indices = batch_rows(shards.rows, plan.batch_size, seed=plan.seed, step=step)
        return indices, shards.read([indices[place] for place in own])

    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = deque([reader.submit(batch, step) for step in range(began_at, plan.steps)[:1]])
        for step in range(began_at, plan.steps):
            current = ahead.popleft()
            ahead.extend(reader.submit(batch, later) for later in range(step + 1, plan.steps)[:1])
            yield current.result()


def _save(
    out: Path, engine: Engine[Numbers], plan: Plan, seen: Sequence[Validation], on_saved: Callable[[], None]
) -> int:
    chosen = best(seen)
    failed: list[ModelError] = []
    try:
        snapshot.save(out, engine.step, engine.arrays(), keep=plan.keep, best=chosen.step if chosen else None)
    except ModelError as error:
        failed = [error]

    def told() -> None:
        for error in failed:
            raise error
        on_saved()

    hosts.from_first(told)
    return engine.step


def _nonfinite(metrics: StepMetrics | WarmstartMetrics, kept: Path) -> ModelError:
    return ModelError(
        f"step {metrics.step}",
        expected="a finite loss and gradient",
        got=f"loss {metrics.loss}, gradient norm {metrics.grad_norm}",
        fix=f"Nothing was learnt of its batch, which is in {kept}. "
        'Set train.on_nonfinite to "skip", or start a new run with other settings.',
    )
