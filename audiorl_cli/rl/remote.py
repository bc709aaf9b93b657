"""A run whose folder is in an object store: learnt on this machine's disk, followed by the store at each checkpoint."""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from audiorl_cli.bridge import hosts
from audiorl_cli.data.mirror import Mirror
from audiorl_cli.data.store import Place
from audiorl_cli.rl import folder
from audiorl_cli.rl.loop import RunResult

Learn = Callable[[Path, Callable[[], None]], RunResult]
"""A run in a folder, which calls back after each checkpoint."""


def at(out: Place, learn: Learn) -> RunResult:
    """What `learn` does, in `out`, where its result then says that it is.

    Once the run is finished nothing of it stays on this disk, unless `out` is there.

    Of several processes the first alone reads and writes there. Raises DataError where the store cannot be used, and
    where another process of this machine, or one of another that began later, writes there.
    """
    if isinstance(out, Path):
        return learn(out, lambda: None)
    mirror = Mirror(out)
    with ExitStack() as held:
        hosts.from_first(lambda: held.enter_context(mirror.claimed()))
        hosts.from_first(mirror.pull)
        result = learn(mirror.folder, mirror.push)
        hosts.from_first(mirror.push)
        if hosts.leads() and not result.stopped:
            mirror.forget()
    places: dict[str, Any] = {"out": out, "model": None if result.stopped else out / folder.MODEL}
    return dataclasses.replace(result, **places)
