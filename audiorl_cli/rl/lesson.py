"""What a step was to learn from, kept in the run where its loss or gradient is no finite number."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from audiorl_cli.data.shards import write_whole
from audiorl_cli.errors import DataError
from audiorl_cli.rl.metrics import numbers

NONFINITE: Final = "nonfinite"


@dataclass(frozen=True)
class Lesson:
    """One prompt of a step: the row's id and reference, its completions, what each earned (what punishes its length
    included) and its advantage. A supervised step has the first two alone.
    """

    id: str
    reference: str
    completions: tuple[str, ...] = ()
    rewards: tuple[float, ...] = ()
    advantages: tuple[float, ...] = ()


def lesson(row: str, reference: str, completions: Sequence[str], rewards: Any, advantages: Any) -> Lesson:
    """A Lesson of arrays [group]."""
    return Lesson(row, reference, tuple(completions), tuple(map(float, rewards)), tuple(map(float, advantages)))


def keep(run: Path, told: Any, lessons: Sequence[Lesson]) -> Path:
    """Write the metrics `told` of a step and its `lessons` to `run`/nonfinite/step-N.json; what is no finite number is
    null there. Raises DataError where it cannot be written.
    """
    path = run / NONFINITE / f"step-{told.step}.json"
    content = {"metrics": numbers(told), "prompts": [numbers(one) for one in lessons]}
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(str(path), expected="to write it", got=str(error.strerror), fix="Free disk space.") from error
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return path
