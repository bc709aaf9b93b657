"""The folder of a run: what it was begun with, whether it may be gone on with, whether it is finished."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from audiorl_cli import config as configs
from audiorl_cli.bridge import hosts
from audiorl_cli.config import RunConfig
from audiorl_cli.data.lock import LOCK, lock_folder
from audiorl_cli.data.shards import write_whole
from audiorl_cli.errors import ConfigError, ModelError
from audiorl_cli.rl import snapshot
from audiorl_cli.rl.metrics import METRICS, last

CONFIG: Final = "config.toml"
CHANGES: Final = "changes.jsonl"
ORIGIN: Final = "run.json"
MODEL: Final = "model"
ADAPTER: Final = "adapter"
VERSION: Final = 1
# What no step depends on. Of steps there is more to say: `_demand_steps` does.
_FREE: Final = {
    "config.train.steps",
    "config.train.save_every",
    "config.train.keep",
    "config.train.samples_per_step",
    "config.train.on_nonfinite",
    "config.warmstart.steps",
    "config.warmstart.stop_accuracy",
    "config.validation.every",
    "config.validation.patience",
    "config.validation.batch_size",
}

Kind = Literal["train", "warmstart"]


@dataclass(frozen=True)
class Origin:
    """What a run is begun from, beside its config: kept in `run.json`.

    `data`: digest of the shards. `model`: its name, as given. `audio_cache`: whether clips came through one, rounded.
    `normaliser`: digest of the reward's, by which held-out transcripts are counted too. `validation`: digest of the
    held-out shards, where there are any. `rewards`: digest of the code of the user's own.
    """

    kind: Kind
    data: str
    model: str
    audio_cache: bool = False
    normaliser: str = ""
    validation: str = ""
    rewards: str = ""
    version: int = VERSION


@contextmanager
def opened(
    out: Path, config: RunConfig, origin: Origin, *, resume: bool, accept_changes: bool = False
) -> Iterator[None]:
    """While entered no other command writes into `out`, where a run was begun or found as `open_run` does, and raises.

    Of several processes the first locks it and opens the run. Raises DataError where another command holds it.
    """
    with ExitStack() as held:

        def enter() -> None:
            held.enter_context(lock_folder(out))
            open_run(out, config, origin, resume=resume, accept_changes=accept_changes)

        hosts.from_first(enter)
        yield


def open_run(out: Path, config: RunConfig, origin: Origin, *, resume: bool, accept_changes: bool = False) -> None:
    """Begin a run in `out`, or find the same one there, and keep `config` in it.

    What only says how long a run is and what it keeps may change while it is under way (`_FREE`). Raises ConfigError
    where `out` holds anything but this run: other files, a run of other settings (named) that has taken a step (unless
    `accept_changes`; then they are told in changes.jsonl), or, unless `resume`, any run at all; and for another number
    of steps that this run cannot have. Raises ModelError for a run that has lost all its checkpoints.
    """
    if not (out / CONFIG).exists():
        if out.exists() and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
            raise _occupied(out, "a new folder, an empty one, or a run", "other files")
    elif not resume:
        raise _occupied(out, "a folder without a run", "one")
    elif _has_learnt(out):
        begun = configs.load(out / CONFIG)
        _demand_checkpoint(out, begun)
        changed = _changes(out, begun, config, origin)
        if changed and not accept_changes:
            raise ConfigError(
                str(out),
                expected="the settings its run was begun with",
                got="; ".join(changed),
                fix="Go back to them, choose another --out, or (train) go on all the same with --accept-changes.",
            )
        _demand_steps(out, begun, config, origin.kind, accept_changes)
        if changed:
            _tell(out, changed)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _occupied(out, "a folder to write to", str(error.strerror)) from error
    write_whole(out / ORIGIN, f"{json.dumps(dataclasses.asdict(origin), indent=2)}\n".encode())
    write_whole(out / CONFIG, configs.dump(config).encode())  # last: it is what makes the folder a run


def _has_learnt(out: Path) -> bool:
    """Whether the run has taken a step: one that has not is begun anew, and its settings may have been the reason."""
    metrics = out / METRICS
    return (out / MODEL).is_dir() or bool(snapshot.steps(out)) or (metrics.exists() and metrics.stat().st_size > 0)


def _changes(out: Path, begun: RunConfig, config: RunConfig, origin: Origin) -> list[str]:
    try:
        source: dict[str, Any] = json.loads((out / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            str(out / ORIGIN), expected="the origin of a run", got=str(error), fix="Choose another --out."
        ) from error
    new = _flat(dataclasses.asdict(config)) | dataclasses.asdict(origin)
    # What an earlier version did not tell.
    before = {"audio_cache": False, "normaliser": origin.normaliser, "validation": "", "rewards": origin.rewards}
    old = _flat(dataclasses.asdict(begun)) | before | source
    return [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted((old.keys() | new.keys()) - _FREE)
        if old.get(name) != new.get(name)
    ]


def _demand_checkpoint(out: Path, begun: RunConfig) -> None:
    """Raise ModelError for an unfinished run without any checkpoint that has taken more steps than a kill can lose."""
    told, most = last(out), begun.train.save_every
    if told and told["step"] > most and not snapshot.steps(out) and not (out / MODEL).is_dir():
        raise ModelError(
            str(out / snapshot.CHECKPOINTS),
            expected=f"a checkpoint of the {told['step']} steps in {METRICS}, with one every {most}",
            got="none",
            fix="Put them back, or delete the run to start again.",
        )


def _tell(out: Path, changed: list[str]) -> None:
    """Append to the run's file of changes: after which step they came, and what they are."""
    path = out / CHANGES
    before = path.read_bytes() if path.exists() else b""
    line = json.dumps({"step": (snapshot.steps(out) or [0])[-1], "changed": changed}, ensure_ascii=False)
    write_whole(path, before + f"{line}\n".encode())


def _demand_steps(out: Path, begun: RunConfig, config: RunConfig, kind: Kind, accepted: bool) -> None:
    """Raise ConfigError where the steps already taken would not be those of a run of as many steps as `config` says,
    unless that is `accepted`, or where there is nothing to go on from.
    """
    before, after = _steps(begun, kind), _steps(config, kind)
    if before == after:
        return
    taken = snapshot.steps(out)
    where = f"{out}: {kind}.steps"
    if kind == "train" and config.optimizer.schedule != "constant" and not accepted:
        raise ConfigError(
            where,
            expected=f"the {before} it was begun with",
            got=str(after),
            fix=f"Its {config.optimizer.schedule} schedule spans them: with another number, the steps it has taken "
            "would have been others. Keep the number, or choose another --out.",
        )
    if taken and after < taken[-1]:
        raise ConfigError(where, expected=f"at least the {taken[-1]} it has taken", got=str(after), fix="Raise it.")
    if (out / MODEL).is_dir() and not taken:
        raise ConfigError(
            where,
            expected=f"a checkpoint of its {before} steps to go on from",
            got="none",
            fix="Begin a run of its model in another --out.",
        )


def _steps(config: RunConfig, kind: Kind) -> int:
    return config.train.steps if kind == "train" else config.warmstart.steps


def _flat(table: dict[str, Any], prefix: str = "config.") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _occupied(out: Path, expected: str, got: str) -> ConfigError:
    return ConfigError(str(out), expected=expected, got=got, fix="Choose another --out.")
