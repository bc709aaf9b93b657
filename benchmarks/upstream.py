"""EasyDeL's own trainer tests, twice: as EasyDeL is, and with our keys and our thinker put in. Exit 1 if they differ.

    python benchmarks/upstream.py TREE

TREE: a source tree of EasyDeL (a clone, or an unpacked archive). Its `easydel/` is what is tested, with the packages of
this Python around it; its `tests/trainers/test_*.py` are run offline, on CPU, and nothing is written into it. A test
that fails in both has to fail with the same message at the same line.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outcomes import Outcome, Session, read

_HERE: Final = Path(__file__).resolve().parent
_NAMES: Final = ("as it is", "patched")
_PYTEST: Final = ("-q", "--tb=no", "--continue-on-collection-errors", "-p", "no:cacheprovider", "-p", "outcomes")
_RAN: Final = (0, 1, 5)  # all passed, some failed, none was there


@dataclass(frozen=True)
class Comparison:
    """Tests of two sessions: which `differ`, and which fail `alike` in both; each name with its two outcomes."""

    differ: dict[str, tuple[Outcome | None, Outcome | None]]
    alike: dict[str, Outcome]


def compare(stock: Mapping[str, Outcome], patched: Mapping[str, Outcome]) -> Comparison:
    """The outcomes of two sessions, test by test; a test of only one of them differs."""
    names = dict.fromkeys([*stock, *patched])
    return Comparison(
        differ={name: (stock.get(name), patched.get(name)) for name in names if stock.get(name) != patched.get(name)},
        alike={
            name: told
            for name, told in stock.items()
            if told == patched.get(name) and told.kind not in ("passed", "skipped", "xfailed")
        },
    )


def session(tree: Path, files: list[Path], folder: Path, *, patched: bool) -> Session:
    """Run `files` of `tree` in `folder`, which is made and removed again.

    Raises SystemExit where pytest breaks off, or what ran is not what was meant to run.
    """
    folder.mkdir()
    told = folder / "outcomes.json"
    options = [*_PYTEST, f"--rootdir={tree}", f"--basetemp={folder / 'temporary'}", f"--outcomes={told}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | {
        "PYTHONPATH": os.pathsep.join(map(str, (tree, _HERE.parent, _HERE))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "pytest", *options, *(["--patched"] if patched else []), *map(str, files)]
    # Some tests write into the folder they run in: that is not the tree. pytest's own lines are not the result.
    code = subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr).returncode
    if code not in _RAN:
        sys.exit(f"{_NAMES[patched]}: pytest broke off with exit code {code}; why stands above.")
    found = read(told)
    shutil.rmtree(folder)
    if found.easydel is not None and not Path(found.easydel).is_relative_to(tree):
        sys.exit(f"expected easydel to come from {tree}, got {found.easydel}")
    if found.patched != patched:
        sys.exit(f"{_NAMES[patched]}: at the end, the audio keys were {'' if found.patched else 'not '}in EasyDeL.")
    return found


def commit(tree: Path) -> str:
    """The commit of a clone, with `-dirty` where files differ from it; an archive has none."""
    if not (tree / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def report(tree: Path, stock: Session, patched: Session) -> int:
    """Print the counts of both, what fails alike, what differs. Returns the exit code: 1 where anything differs."""
    found = compare(stock.outcomes, patched.outcomes)
    counts = [Counter(told.kind for told in one.outcomes.values()) for one in (stock, patched)]
    print(f"EasyDeL {patched.version}, commit {commit(tree)}, {stock.collected} tests")
    print(f"{'':10}{_NAMES[0]:>10}{_NAMES[1]:>10}")
    for kind in dict.fromkeys(["passed", "failed", "error", "skipped", *counts[0], *counts[1]]):
        print(f"{kind:10}{counts[0][kind]:10}{counts[1][kind]:10}")
    print(f"fails in both with the same message at the same line: {len(found.alike)}")
    for name, told in found.alike.items():
        print(f"  {name}\n    {_line(told)}")
    print(f"differs: {len(found.differ)}")
    for name, pair in found.differ.items():
        print(f"  {name}")
        for label, one in zip(_NAMES, pair, strict=True):
            print(f"    {label}: {'not run' if one is None else _line(one)}")
    return 1 if found.differ else 0


def _line(told: Outcome) -> str:
    lines = told.message.strip().splitlines() or [""]
    # What could not be collected has no place, and its message is a whole traceback.
    line = lines[0] if told.place else lines[-1].removeprefix("E").strip()
    return " ".join(part for part in (told.kind, Path(told.place).name, line) if part)


def main() -> int:
    """Both sessions, one after the other, and what sets them apart."""
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/upstream.py TREE")
    tree = Path(sys.argv[1]).resolve()
    files = sorted(tree.glob("tests/trainers/test_*.py"))
    if not files or not (tree / "easydel" / "__init__.py").is_file():
        sys.exit(f"{tree}: expected easydel/ and tests/trainers/test_*.py")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "run"  # the same for both: messages may quote it
        stock = session(tree, files, folder, patched=False)
        if not stock.collected:
            sys.exit("no test was collected")
        patched = session(tree, files, folder, patched=True)
    return report(tree, stock, patched)


if __name__ == "__main__":
    sys.exit(main())
