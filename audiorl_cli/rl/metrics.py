"""What a step tells: its numbers and a few of its samples, and the files of a run that keep them."""

import dataclasses
import importlib
import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from audiorl_cli.errors import InstallError

METRICS: Final = "metrics.jsonl"
SAMPLES: Final = "samples.jsonl"
TENSORBOARD: Final = "tensorboard"
WANDB_ID: Final = "wandb-id"


@dataclass(frozen=True)
class StepMetrics:
    """The numbers of one step of reinforcement. `step` counts finished updates, from 1.

    `reward_std`: the standard deviation within a group, mean over groups. `sample_wer`: word errors over reference
    words of all completions of the step, normalised. `zero_spread_share`: groups all of whose rewards are equal, which
    take no part in the update. `kl`: nats a token against the reference model, of the groups that do; None where there
    are none or `loss.beta` is 0. `truncated_share`: completions that did not end by themselves. `grad_norm`: before
    clipping, of what learns.
    """

    step: int
    reward_mean: float
    reward_std: float
    sample_wer: float
    kl: float | None
    zero_spread_share: float
    entropy: float | None
    clip_share: float | None
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
    """One prompt of a step: the utterance's id, its reference, its group of completions and what each earned."""

    step: int
    id: str
    reference: str
    completions: tuple[str, ...]
    rewards: tuple[float, ...]


def finite(metrics: StepMetrics | WarmstartMetrics) -> bool:
    """Whether loss and gradient are numbers to learn from."""
    return math.isfinite(metrics.loss) and math.isfinite(metrics.grad_norm)


def last(run: Path) -> dict[str, Any] | None:
    """The numbers of the last step in the log of `run`; None where it has none. A kill may have cut the line short."""
    path = run / METRICS
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    numbers: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return numbers


class RunLog:
    """Appends to metrics.jsonl and samples.jsonl of a run, and to TensorBoard and Weights & Biases where asked.

    Opened at `step`, it first drops lines of later steps: a run that was killed is resumed from its newest checkpoint,
    and the steps after it happen again. TensorBoard is told to forget them too; Weights & Biases, where a run keeps its
    id however often it is resumed, keeps the first telling of a step. A context manager. Raises InstallError where a
    tracker's package is missing, or Weights & Biases lets nobody in.
    """

    def __init__(self, run: Path, step: int, *, tensorboard: bool = False, wandb: str | None = None) -> None:
        self._wandb = _wandb(wandb, run) if wandb else None
        self._tensorboard = _tensorboard(run / TENSORBOARD, step) if tensorboard else None
        for name in (METRICS, SAMPLES):
            _keep_until(run / name, step)
        self._metrics = open(run / METRICS, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
        self._samples = open(run / SAMPLES, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__

    def write(self, metrics: StepMetrics | WarmstartMetrics, samples: Sequence[Sample] = ()) -> None:
        """Append one step; it is on its way to the disk when this returns."""
        numbers = dataclasses.asdict(metrics)
        self._metrics.write(json.dumps(numbers) + "\n")
        self._metrics.flush()
        for sample in samples:
            self._samples.write(json.dumps(dataclasses.asdict(sample), ensure_ascii=False) + "\n")
        self._samples.flush()
        told = {name: value for name, value in numbers.items() if value is not None and name != "step"}
        if self._tensorboard is not None:
            for name, value in told.items():
                self._tensorboard.add_scalar(name, value, metrics.step)
            self._tensorboard.flush()  # left alone it waits two minutes, and a killed run is not told them again
        if self._wandb is not None:
            self._wandb.log(told, step=metrics.step, commit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.close()
        self._samples.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)


def _keep_until(path: Path, step: int) -> None:
    """Keep the whole lines of `path` that are of `step` or before it; a kill may have cut the last one short."""
    if not path.exists():
        return
    kept = 0
    with open(path, "r+b") as file:
        for line in file:  # as bytes: a text may hold what Python takes for the end of a line, and JSON does not
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
            kept += len(line)
        file.truncate(kept)


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
