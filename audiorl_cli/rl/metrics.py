"""What a step tells: its numbers and a few of its samples, and the files of a run that keep them."""

import dataclasses
import importlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from audiorl_cli.errors import InstallError, ModelError
from audiorl_cli.rl.tripwires import Suspicion

METRICS: Final = "metrics.jsonl"
SAMPLES: Final = "samples.jsonl"
SUSPICIONS: Final = "suspicions.jsonl"
VALIDATION: Final = "validation.jsonl"
TENSORBOARD: Final = "tensorboard"
WANDB_ID: Final = "wandb-id"


@dataclass(frozen=True)
class StepMetrics:
    """The numbers of one step of reinforcement. `step` counts finished updates, from 1.

    `reward_std`: the standard deviation within a group, mean over groups. `sample_wer`: word errors over reference
    words of all completions of the step, normalised, and of these the substitutions, insertions and deletions alone.
    `rewards`: the mean of each reward, before its weight; a log has them as reward_NAME. `zero_spread_share`: groups
    all of whose rewards are equal, which take no part in the update. `kl`: nats a token against the reference model, of
    the groups that do; None where there are none or `loss.beta` is 0. `entropy`: nats a token, of the tokens drawn;
    `clip_share`: of the tokens that take part, what the clip held back, mean over the updates.
    `sampler_difference_mean`, `sampler_difference_max`: |log policy - log sampler| of the tokens drawn, of the policy
    that the first update finds; `sampler_kl`: an estimate of KL(sampler || policy), nats a token (rl/correction.py), 0
    but for noise where they are one; `sampler_clip_share`: of the tokens that take part, those whose weight was above
    `loss.sampler_cap`, None without a correction. All from `entropy` on are None where the engine does not tell.
    `prompts_sampled`: in all rounds of the step, whose rewards and errors are told. `truncated_share`: completions that
    did not end by themselves. `grad_norm`: before clipping, of what learns. `learning_rate`: of the step's updates, the
    mean.
    """

    step: int
    reward_mean: float
    reward_std: float
    sample_wer: float
    sample_substitutions: float
    sample_insertions: float
    sample_deletions: float
    rewards: Mapping[str, float]
    kl: float | None
    zero_spread_share: float
    entropy: float | None
    clip_share: float | None
    sampler_difference_mean: float | None
    sampler_difference_max: float | None
    sampler_kl: float | None
    sampler_clip_share: float | None
    prompts_sampled: int
    truncated_share: float
    completion_tokens_mean: float
    loss: float
    grad_norm: float
    learning_rate: float
    rollout_s: float
    update_s: float
    step_s: float


@dataclass(frozen=True)
class WarmstartMetrics:
    """The numbers of one supervised step. `loss`: nats a token; `token_accuracy_share`: tokens foretold, both of the
    transcript and its end. `grad_norm`: before clipping, of what learns."""

    step: int
    loss: float
    token_accuracy_share: float
    grad_norm: float
    learning_rate: float
    step_s: float


@dataclass(frozen=True)
class Sample:
    """One prompt of a step: the utterance's id, its reference, its group of completions and what each earned.

    `parts`: the same reward by reward, before their weights. `normaliser`: the digest of the one they were made with.
    """

    step: int
    id: str
    reference: str
    completions: tuple[str, ...]
    rewards: tuple[float, ...]
    parts: tuple[dict[str, float], ...]
    normaliser: str


def finite(metrics: StepMetrics | WarmstartMetrics) -> bool:
    """Whether loss and gradient are numbers to learn from."""
    return math.isfinite(metrics.loss) and math.isfinite(metrics.grad_norm)


def numbers(told: Any) -> dict[str, Any]:
    """A dataclass of numbers as a log holds it, one level: what is no finite number is None."""
    plain: dict[str, Any] = {}
    for name, value in dataclasses.asdict(told).items():
        if isinstance(value, Mapping):
            plain |= {f"{name.removesuffix('s')}_{key}": _plain(one) for key, one in value.items()}
        else:
            plain[name] = _plain(value)
    return plain


@dataclass(frozen=True)
class Validation:
    """Greedy transcripts of all held-out rows after `step` updates.

    `wer`: word errors over reference words, both sides normalised as the rewards' are, and of these the substitutions,
    insertions and deletions alone. `truncated_share`: transcripts that did not end by themselves. `data` and
    `normaliser`: digests of what it was measured on and with.
    """

    step: int
    wer: float
    substitutions: float
    insertions: float
    deletions: float
    truncated_share: float
    transcribe_s: float
    data: str
    normaliser: str


def prefixed(validation: Validation) -> dict[str, float]:
    """Its numbers by the names they have among those of a step."""
    return {f"validation_{name}": value for name, value in numbers(validation).items() if isinstance(value, float)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def last(run: Path) -> dict[str, Any] | None:
    """The numbers of the last step in the log of `run`; None where it has none.

    Raises ModelError for a log that cannot be read.
    """
    lines = _lines(run / METRICS)
    return _told(run / METRICS, lines[-1]) if lines else None


def steps(run: Path) -> list[dict[str, Any]]:
    """The numbers of every step in the log of `run`, in order. Raises ModelError for a log that cannot be read."""
    path = run / METRICS
    return [_told(path, line) for line in _lines(path)]


def validations(run: Path) -> list[Validation]:
    """What held-out data said of the steps of `run`, in order. Raises ModelError for a log that cannot be read."""
    path = run / VALIDATION
    told = [(line, _told(path, line)) for line in _lines(path)]
    try:
        return [Validation(**one) for _, one in told]
    except TypeError as error:
        raise ModelError(str(path), expected="validations", got=str(error), fix="Delete it, or mend it.") from error


def _lines(path: Path) -> list[bytes]:
    """The lines of a log, of which a kill may have cut the last one short."""
    with _usable(path):
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


class RunLog:
    """Appends to the logs of a run, metrics.jsonl and its like, and to TensorBoard and Weights & Biases where asked.

    Opened at `step`, it first drops lines of later steps: a run that was killed is resumed from its newest checkpoint,
    and the steps after it happen again. TensorBoard is told to forget them too; Weights & Biases, where a run keeps its
    id however often it is resumed, keeps the first telling of a step. A context manager. Raises InstallError where a
    tracker's package is missing, or Weights & Biases lets nobody in, ModelError where a log cannot be read or written.
    """

    def __init__(self, run: Path, step: int, *, tensorboard: bool = False, wandb: str | None = None) -> None:
        self._run = run
        self._wandb = _wandb(wandb, run) if wandb else None
        self._tensorboard = _tensorboard(run / TENSORBOARD, step) if tensorboard else None
        for name in (METRICS, SAMPLES, SUSPICIONS, VALIDATION):
            with _usable(run / name):
                _keep_until(run / name, step)
        with _usable(run):
            self._metrics = open(run / METRICS, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
            self._samples = open(run / SAMPLES, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__

    def write(
        self,
        metrics: StepMetrics | WarmstartMetrics,
        samples: Sequence[Sample] = (),
        validation: Validation | None = None,
    ) -> None:
        """Append one step, what is no finite number as null; it is on its way to the disk when this returns."""
        line = numbers(metrics)
        with _usable(Path(self._metrics.name)):
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
        with _usable(Path(self._samples.name)):
            for sample in samples:
                self._samples.write(json.dumps(dataclasses.asdict(sample), ensure_ascii=False) + "\n")
            self._samples.flush()
        told = {name: value for name, value in line.items() if value is not None and name != "step"}
        if validation is not None:
            self._append(VALIDATION, validation)
            told |= prefixed(validation)
        self._track(metrics.step, told)

    def begin(self, validation: Validation) -> None:
        """Append what held-out data says of the model that the run begins with."""
        self._append(VALIDATION, validation)
        self._track(validation.step, prefixed(validation))

    def suspect(self, suspicion: Suspicion) -> None:
        """Append what is suspected of the run; it is on its way to the disk when this returns."""
        self._append(SUSPICIONS, suspicion)

    def _append(self, name: str, told: Any) -> None:
        path = self._run / name
        with _usable(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(told)) + "\n")

    def _track(self, step: int, told: Mapping[str, Any]) -> None:
        """Once a step: Weights & Biases hears no second word of it."""
        if self._tensorboard is not None:
            for name, value in told.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()  # left alone it waits two minutes, and a killed run is not told them again
        if self._wandb is not None:
            self._wandb.log(dict(told), step=step, commit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for log in (self._metrics, self._samples):
            with suppress(OSError):  # a line that could not be written has been told of, and would be tried again
                log.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)


class NoLog:
    """The log of a process that writes none."""

    def write(self, *_: object) -> None:
        """Nothing."""

    begin = suspect = write

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


def _keep_until(path: Path, step: int) -> None:
    """Keep the whole lines of `path` that are of `step` or before it; a kill may have cut the last one short."""
    if not path.exists():
        return
    kept = 0
    with open(path, "r+b") as file:
        for line in file:  # as bytes: a text may hold what Python takes for the end of a line, and JSON does not
            if not line.endswith(b"\n") or _told(path, line)["step"] > step:
                break
            kept += len(line)
        file.truncate(kept)


def _told(path: Path, line: bytes) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    if not isinstance(told, dict) or not isinstance(told.get("step"), int):
        raise ModelError(
            str(path), expected="a step in every line", got=repr(line[:80]), fix="Mend the line, or delete it."
        )
    return told


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(
            str(path),
            expected="to read and write it",
            got=str(error.strerror),
            fix="Free disk space (or mend its permissions) and run again: it goes on from its newest checkpoint.",
        ) from error


def _tensorboard(folder: Path, step: int) -> Any:
    library = _tracker("torch.utils.tensorboard", "tensorboard", "--tensorboard")
    return library.SummaryWriter(str(folder), purge_step=step + 1)


def _wandb(project: str, run: Path) -> Any:
    library = _tracker("wandb", "wandb", "--wandb")
    # Without a word of its own, nor a question to whoever is not logged in, and blind to what we print: the terminal
    # is ours. Said to `setup`: the settings of `init` come too late for its questions and warnings.
    library.setup(library.Settings(silent=True, console="off"))
    try:
        return library.init(project=project, name=run.name, dir=str(run), id=_wandb_id(run), resume="allow")
    except library.Error as error:
        raise InstallError(
            f"--wandb {project}",
            expected="to log there",
            got=str(error),
            fix="Run wandb login, or set WANDB_MODE=offline and wandb sync the run later.",
        ) from error


def _wandb_id(run: Path) -> str:
    """The id of `run` there, the same at every resumption."""
    path = run / WANDB_ID
    if not path.exists():
        path.write_text(uuid.uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _tracker(module: str, package: str, flag: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InstallError(
            flag, expected=f"the package {package}", got=str(error), fix=f"pip install {package}, or leave out {flag}."
        ) from error
