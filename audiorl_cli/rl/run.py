"""One run of reinforcement learning, from config to final model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from audiorl_cli.bridge import checkpoint as checkpoints
from audiorl_cli.bridge import hosts
from audiorl_cli.bridge.mesh import demand_rows
from audiorl_cli.config import RunConfig
from audiorl_cli.data.shards import open_shards
from audiorl_cli.data.store import Place
from audiorl_cli.data.subset import subset as subset_of
from audiorl_cli.errors import UsageError
from audiorl_cli.rl import custom, folder, loop
from audiorl_cli.rl.card import card
from audiorl_cli.rl.easydel_engine import EasyDeLEngine
from audiorl_cli.rl.engine import AudioEngine
from audiorl_cli.rl.judge import Judge
from audiorl_cli.rl.loop import RunResult
from audiorl_cli.rl.metrics import StepMetrics, Validation
from audiorl_cli.rl.notice import notices
from audiorl_cli.rl.tripwires import Suspicion
from audiorl_cli.rl.validation import Validator, held_out
from audiorl_cli.text import normaliser

__all__ = ["RunResult", "StepMetrics", "train"]


def train(
    config: RunConfig,
    data: Place,
    model: str,
    out: Path,
    *,
    on_step: Callable[[StepMetrics], None],
    on_stop: Callable[[], None] = lambda: None,
    on_notice: Callable[[str], None] = lambda _: None,
    on_suspicion: Callable[[Suspicion], None] = lambda _: None,
    on_validation: Callable[[Validation, Validation], None] = lambda one, best: None,
    on_saved: Callable[[], None] = lambda: None,
    validation: Place | None = None,
    resume: bool = True,
    subset: Path | None = None,
    tensorboard: bool = False,
    wandb: str | None = None,
    audio_cache: Path | None = None,
    accept_changes: bool = False,
) -> RunResult:
    """Train `model` on the shards in `data` by GRPO into the run folder `out`.

    `on_notice` hears of settings that a person should know of (rl/notice.py) before the first step.
    `on_step` hears of every step, `on_stop` of a wish to stop, which is met after the step that is being taken, and
    `on_suspicion` of what the last steps make a person suspect, which RUN/suspicions.jsonl keeps. With held-out shards
    in `validation` the run ends with the step that transcribes them best; `on_validation` hears of each, and of the
    best until then, and RUN/validation.jsonl keeps them.

    Where `out` holds the same run unfinished, it goes on from the newest checkpoint; finished, it returns at once. With
    `accept_changes` it goes on with other settings, data or normaliser too, and RUN/changes.jsonl tells of them.
    `subset` is a file of the rows to learn from (data/subset.py), `wandb` the project to log to, `audio_cache` a folder
    to keep what a frozen tower makes of each clip.

    Raises UsageError for a tower that learns and has an `audio_cache`, and a `validation` of what it learns from,
    ConfigError for a reward that does not exist or asks for a column that does not, and for an `out` that holds
    anything else (with `resume` false, any run), ModelError for a model or checkpoint that cannot be used or written
    and a loss that is no number, DataError for shards or a cache that cannot be used and an `out` that another command
    writes into, InstallError for a tracker. Whatever a reward or `on_step` raises ends the run; a reward's has a note
    of its name and row.
    """
    whole = open_shards(data)
    apart = held_out(validation, whole)
    shards = whole if subset is None else subset_of(whole, subset)
    frozen = config.train.freeze_audio_tower
    if audio_cache and (config.engine != "audiorl" or not frozen):
        raise UsageError(
            "--audio-cache",
            expected='engine = "audiorl" and train.freeze_audio_tower = true',
            got=f'engine = "{config.engine}", train.freeze_audio_tower = {str(frozen).lower()}',
            fix="Leave it out: what a tower makes of a clip changes as it learns.",
        )
    if hosts.several() and (config.engine == "easydel" or audio_cache):
        raise UsageError(
            "run of several processes",
            expected='engine = "audiorl" without --audio-cache',
            got="--audio-cache" if audio_cache else 'engine = "easydel"',
            fix="Leave it out, or run one process (ENABLE_DISTRIBUTED_INIT=0).",
        )
    Judge.of(config.reward, shards)  # what is wrong with a reward shows before anything is written or a model loaded
    origin = folder.Origin(
        "train",
        shards.digest,
        model,
        audio_cache is not None,
        normaliser(config.reward.normaliser).digest,
        apart.digest if apart else "",
        custom.digest(config.reward.weights),
    )
    settings = config.train
    plan = loop.Plan(
        settings.steps,
        settings.batch_size,
        config.seed,
        settings.save_every,
        settings.keep,
        settings.on_nonfinite,
        config.validation.every,
        config.validation.patience,
    )

    def begin() -> loop.Engine[StepMetrics]:
        for notice in notices(config, shards.rows):
            on_notice(notice)
        demand_rows(config.mesh, train__batch_size=settings.batch_size, memory__prompts=config.memory.prompts)
        loaded = checkpoints.load(model, dtype=settings.dtype, masters=settings.master_weights, mesh=config.mesh)
        if config.engine == "easydel":
            return EasyDeLEngine(config, loaded, shards)
        return AudioEngine(config, loaded, shards, audio_cache)

    with folder.opened(out, config, origin, resume=resume, accept_changes=accept_changes):
        return loop.run(
            out,
            plan,
            shards,
            begin,
            on_step,
            export=settings.export,
            command=origin.kind,
            card=partial(card, config, origin, shards),
            validator=Validator(config, apart) if apart else None,
            on_stop=on_stop,
            on_suspicion=on_suspicion,
            on_validation=on_validation,
            on_saved=on_saved,
            tensorboard=tensorboard,
            wandb=wandb,
        )
