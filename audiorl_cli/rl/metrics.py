"""What a step tells: its numbers and a few of its samples, and the files of a run that keep them."""

import dataclasses
import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from audiorl_cli.errors import InstallError

METRICS: Final = "metrics.jsonl"
SAMPLES: Final = "samples.jsonl"
TENSORBOARD: Final = "tensorboard"


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


class RunLog:
    """Appends to metrics.jsonl and samples.jsonl of a run, and to TensorBoard and Weights & Biases where asked.

    Opened at `step`, it first drops lines of later steps: a run that was killed is resumed from its newest checkpoint,
    and the steps after it happen again. A context manager. Raises InstallError where a tracker's package is missing.
    """

    def __init__(self, run: Path, step: int, *, tensorboard: bool = False, wandb: str | None = None) -> None:
        for name in (METRICS, SAMPLES):
            _keep_until(run / name, step)
        self._tensorboard = _tensorboard(run / TENSORBOARD) if tensorboard else None
        self._wandb = _wandb(wandb, run) if wandb else None
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
        if self._wandb is not None:
            self._wandb.log(told, step=metrics.step)

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
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    path.write_text("".join(kept), encoding="utf-8")


def _tensorboard(folder: Path) -> Any:
    return _tracker("torch.utils.tensorboard", "tensorboard", "--tensorboard").SummaryWriter(str(folder))


def _wandb(project: str, run: Path) -> Any:
    return _tracker("wandb", "wandb", "--wandb").init(project=project, name=run.name, dir=str(run))


def _tracker(module: str, package: str, flag: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InstallError(
            flag, expected=f"the package {package}", got=str(error), fix=f"pip install {package}, or leave out {flag}."
        ) from error
