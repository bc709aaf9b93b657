"""One run of reinforcement learning, from config to final model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from audiorl_cli.bridge import checkpoint as checkpoints
from audiorl_cli.config import RunConfig
from audiorl_cli.data.shards import open_shards
from audiorl_cli.rl import folder, loop
from audiorl_cli.rl.card import card
from audiorl_cli.rl.easydel_engine import EasyDeLEngine
from audiorl_cli.rl.engine import AudioEngine
from audiorl_cli.rl.loop import RunResult
from audiorl_cli.rl.metrics import StepMetrics

ENGINES: Final[dict[str, type[AudioEngine] | type[EasyDeLEngine]]] = {"audiorl": AudioEngine, "easydel": EasyDeLEngine}

__all__ = ["RunResult", "StepMetrics", "train"]


def train(
    config: RunConfig,
    data: Path,
    model: str,
    out: Path,
    *,
    on_step: Callable[[StepMetrics], None],
    on_stop: Callable[[], None] = lambda: None,
    resume: bool = True,
    tensorboard: bool = False,
    wandb: str | None = None,
) -> RunResult:
    """Train `model` on the shards in `data` by GRPO into the run folder `out`.

    `on_step` hears of every step, `on_stop` of a wish to stop, which is met after the step that is being taken.

    Where `out` holds the same run unfinished, it goes on from the newest checkpoint; finished, it returns at once.
    `wandb` is the project to log to. Raises ConfigError for an `out` that holds anything else (with `resume` false, any
    run), ModelError for a model or checkpoint that cannot be used or a loss that is no number, DataError for shards
    that cannot be used, InstallError for a tracker. Whatever a reward or `on_step` raises ends the run.
    """
    shards = open_shards(data)
    origin = folder.Origin("train", shards.digest, model)
    folder.open_run(out, config, origin, resume=resume)
    settings = config.train
    plan = loop.Plan(settings.steps, settings.batch_size, config.seed, settings.save_every, settings.keep)

    def begin() -> loop.Engine[StepMetrics]:
        return ENGINES[config.engine](config, checkpoints.load(model, dtype=settings.dtype, mesh=config.mesh), shards)

    return loop.run(
        out,
        plan,
        shards,
        begin,
        on_step,
        export=settings.export,
        card=partial(card, config, origin, shards),
        on_stop=on_stop,
        tensorboard=tensorboard,
        wandb=wandb,
    )
