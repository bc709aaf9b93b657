"""The house keeps its one direction: imports go downwards only, EasyDeL stays in its rooms, files stay short.

Rules are looked for by a function over a tree of sources, so that each is also seen to fail on a tree that breaks it.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "audiorl_cli"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE

# From the ground up. Rooms of one floor do not know each other, but for KNOWN.
FLOORS: list[set[str]] = [
    {"core", "errors", "english"},
    {"caches", "loss_config", "reward_config"},
    {"config", "text"},
    {"data", "wer"},
    {"bridge"},
    {"evaluate", "rl", "tpu"},
    {"demo"},
    {
        "cli",
        "cli_learning",
        "cli_plan",
        "console",
        "console_learning",
        "console_plan",
        "console_scores",
        "options",
        "cli_pod",
        "__main__",
    },
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
KNOWN = {
    ("tpu", "rl"),
    ("cli", "cli_learning"),
    ("cli", "console"),
    ("cli", "console_scores"),
    ("cli", "options"),
    ("cli_learning", "console"),
    ("cli_learning", "console_learning"),
    ("cli_learning", "options"),
    ("cli_learning", "cli_pod"),
    ("cli_pod", "console"),
    ("cli", "cli_plan"),
    ("cli_plan", "console"),
    ("cli_plan", "console_plan"),
    ("cli_plan", "options"),
    ("console_plan", "console"),
    ("console_learning", "console"),
    ("console_scores", "console"),
    ("__main__", "cli"),
}
MAX_LINES = 600
NO_NOUNS = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def _imports(path: Path, module: list[str]) -> Iterator[list[str]]:
    """The dotted names a file imports, wherever in it they stand; `module` is its own package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = module[: len(module) - node.level + 1] if node.level else []
            base = parent + (node.module.split(".") if node.module else [])
            if base == [PACKAGE]:  # from audiorl_cli import wer
                yield from ([*base, alias.name] for alias in node.names)
            else:
                yield base


def _findings(root: Path) -> list[str]:
    found = []
    for path in sorted(root.rglob("*.py")):
        where = path.relative_to(root)
        room = where.parts[0].removesuffix(".py")
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES:
            found.append(f"{where}: longer than {MAX_LINES} lines")
        if NO_NOUNS & {*where.with_suffix("").parts}:
            found.append(f"{where}: not a noun of this project")
        if room != "__init__" and room not in FLOOR:
            found.append(f"{where}: stands on no floor")
            continue
        for name in _imports(path, [PACKAGE, *where.parts[:-1]]):
            top = name[0]
            if room in ("__init__", "core") and top not in sys.stdlib_module_names:
                found.append(f"{where}: imports {top}, which is not the standard library")
            if top == "easydel" and room != "bridge" and where.as_posix() != "rl/easydel_engine.py":
                found.append(f"{where}: imports easydel")
            if top != PACKAGE or len(name) == 1 or name[1] in (room, "__version__"):
                continue
            other = name[1]
            if other.startswith("console") and not room.startswith(("cli", "console_")):
                found.append(f"{where}: imports {other}")
            elif other not in FLOOR:
                found.append(f"{where}: imports {other}, which stands on no floor")
            elif FLOOR[other] >= FLOOR.get(room, 0) and (room, other) not in KNOWN:
                found.append(f"{where}: imports {other}, which is not below it")
    return found


def test_the_house_is_in_order() -> None:
    assert ROOT.is_dir()
    assert _findings(ROOT) == []


BROKEN = [
    ("text.py", "import audiorl_cli.wer", "imports wer, which is not below it"),
    ("text.py", "from audiorl_cli import wer", "imports wer, which is not below it"),
    ("text.py", "from audiorl_cli.config import load", "imports config, which is not below it"),
    ("data/mel.py", "from ..bridge import keys", "imports bridge, which is not below it"),
    ("data/mel.py", "def f():\n    from audiorl_cli.cli import app", "imports cli, which is not below it"),
    ("evaluate/a.py", "from audiorl_cli.rl.rewards import wer", "imports rl, which is not below it"),
    ("rl/a.py", "from audiorl_cli.evaluate.report import Report", "imports evaluate, which is not below it"),
    ("rl/a.py", "from audiorl_cli.tpu import plan", "imports tpu, which is not below it"),
    ("rl/a.py", "from audiorl_cli.console import show", "imports console"),
    ("rl/a.py", "import easydel.trainers as ed", "imports easydel"),
    ("evaluate/easydel_engine.py", "from easydel import GRPOTrainer", "imports easydel"),
    ("cli.py", "def f():\n    import easydel", "imports easydel"),
    ("core.py", "import numpy as np", "imports numpy, which is not the standard library"),
    ("core.py", "from audiorl_cli.errors import DataError", "imports audiorl_cli, which is not the standard library"),
    ("wer.py", "\n" * 601, "longer than 600 lines"),
    ("data/utils.py", "", "not a noun"),
    ("helpers/a.py", "", "not a noun"),
    ("rl/manager.py", "", "not a noun"),
    ("rl/a.py", "from audiorl_cli.console_scores import totals", "imports console_scores"),
    ("console.py", "from audiorl_cli.console_scores import totals", "imports console_scores"),
    ("options.py", "from audiorl_cli.cli import app", "imports cli, which is not below it"),
    ("attic.py", "", "stands on no floor"),
    ("rl/a.py", "from audiorl_cli.attic import x", "imports attic, which stands on no floor"),
]


@pytest.mark.parametrize(("name", "source", "finding"), BROKEN)
def test_each_rule_is_seen_to_fail(tmp_path: Path, name: str, source: str, finding: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(source, encoding="utf-8")
    assert any(f"{name}: {finding}" in one for one in _findings(tmp_path)), _findings(tmp_path)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("rl/easydel_engine.py", "import easydel\nfrom audiorl_cli.bridge.keys import apply"),
        ("bridge/keys.py", "from easydel.trainers import utils\nfrom . import tower\nfrom ..core import AUDIO_KEYS"),
        ("tpu/plan.py", "from audiorl_cli.rl.run import run"),
        ("cli.py", "from audiorl_cli import __version__, console\nfrom audiorl_cli.evaluate import score"),
        ("console_scores.py", "from audiorl_cli.console import say\nfrom audiorl_cli.evaluate.score import Score"),
        ("__main__.py", "from audiorl_cli.cli import main"),
        ("evaluate/report.py", "from audiorl_cli.evaluate.score import Score\nfrom audiorl_cli.wer import align"),
        ("core.py", "import dataclasses\nfrom typing import Final"),
    ],
)
def test_what_is_allowed_is_not_found(tmp_path: Path, name: str, source: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(source, encoding="utf-8")
    assert _findings(tmp_path) == []
