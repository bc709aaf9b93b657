"""The folder of a run: what it was begun with, whether it may be gone on with, whether it is finished."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from audiorl_cli import config as configs
from audiorl_cli.config import RunConfig
from audiorl_cli.errors import ConfigError

CONFIG: Final = "config.toml"
ORIGIN: Final = "run.json"
MODEL: Final = "model"
VERSION: Final = 1

Kind = Literal["train", "warmstart"]


@dataclass(frozen=True)
class Origin:
    """What a run is begun from, beside its config: kept in `run.json`.

    `data`: digest of the shards. `model`: its name, as given.
    """

    kind: Kind
    data: str
    model: str
    version: int = VERSION


def open_run(out: Path, config: RunConfig, origin: Origin, *, resume: bool) -> None:
    """Begin a run in `out`, or find the same one there.

    Raises ConfigError where `out` holds anything but this run: other files, a run of other settings (named), or, unless
    `resume`, any run at all.
    """
    if not (out / CONFIG).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise _occupied(out, "a new folder, an empty one, or a run", "other files")
        _begin(out, config, origin)
        return
    if not resume:
        raise _occupied(out, "a folder without a run", "one")
    changed = _changes(out, config, origin)
    if changed:
        raise ConfigError(
            str(out),
            expected="the settings its run was begun with",
            got="; ".join(changed),
            fix="Go back to them, or choose another --out.",
        )


def _begin(out: Path, config: RunConfig, origin: Origin) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ORIGIN).write_text(json.dumps(dataclasses.asdict(origin), indent=2) + "\n", encoding="utf-8")
        (out / CONFIG).write_text(configs.dump(config), encoding="utf-8")  # last: it is what makes the folder a run
    except OSError as error:
        raise _occupied(out, "a folder to write to", str(error.strerror)) from error


def _changes(out: Path, config: RunConfig, origin: Origin) -> list[str]:
    try:
        begun: dict[str, Any] = json.loads((out / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            str(out / ORIGIN), expected="the origin of a run", got=str(error), fix="Choose another --out."
        ) from error
    old = _flat(dataclasses.asdict(configs.load(out / CONFIG))) | begun
    new = _flat(dataclasses.asdict(config)) | dataclasses.asdict(origin)
    return [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flat(table: dict[str, Any], prefix: str = "config.") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _occupied(out: Path, expected: str, got: str) -> ConfigError:
    return ConfigError(str(out), expected=expected, got=got, fix="Choose another --out.")
