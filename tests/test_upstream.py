"""The comparison of EasyDeL's own tests with and without our patch, on a made-up source tree and on made-up outcomes.

The real one takes a source tree of EasyDeL and minutes: `python benchmarks/upstream.py TREE`.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import upstream
from outcomes import Outcome, Session

TREE = {
    "alike": """
import pytest

def test_passes(): pass

def test_fails(): raise ValueError(object())  # whose address is another each time

def test_writes(): open("left_over", "x").close()  # not into the tree, and anew in each session

@pytest.fixture
def broken(): raise RuntimeError("set-up")

def test_error(broken): pass

@pytest.mark.skip(reason="no network")
def test_skipped(): pass
""",
    "lists": """
import easydel
from easydel.trainers.training_utils import GENERATION_MODEL_INPUT_KEYS
from easydel.infra.factory import TaskType, registry

def test_keys(): assert "input_features" not in GENERATION_MODEL_INPUT_KEYS

def test_thinker():
    import easydel.modules.qwen3_omni_moe
    module = registry.get_module_registration(TaskType.ANY_TO_ANY, "qwen3_omni_moe_thinker").module
    raise LookupError(module.__name__)
""",
    "uncollected": "raise ImportError('not here')",
}


def made_up_tree(folder: Path, tests: dict[str, str]) -> Path:
    """A tree that holds the installed EasyDeL and test files of ours."""
    spec = find_spec("easydel")
    assert spec is not None
    assert spec.origin is not None
    (folder / "tests" / "trainers").mkdir(parents=True)
    (folder / "easydel").symlink_to(Path(spec.origin).parent, target_is_directory=True)
    for name, source in tests.items():
        (folder / "tests" / "trainers" / f"test_{name}.py").write_text(source)
    return folder


def run(tree: Path) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "upstream.py"
    return subprocess.run([sys.executable, str(script), str(tree)], capture_output=True, text=True)


def test_a_tree_whose_outcomes_the_patch_changes(tmp_path: Path) -> None:
    tree = made_up_tree(tmp_path / "tree", TREE)
    told = run(tree)
    assert told.returncode == 1
    lines = told.stdout.splitlines()
    assert len(lines) > 6, told.stderr
    assert lines[0].startswith("EasyDeL 0.3.0, commit unknown, 7 tests")
    counts = {words[0]: words[1:] for words in map(str.split, lines[2:6])}
    assert counts == {"passed": ["3", "2"], "failed": ["2", "3"], "error": ["2", "2"], "skipped": ["1", "1"]}
    place = "tests/trainers/test_"
    assert "\n".join(lines[6:]) == "\n".join(
        [
            "fails in both with the same message at the same line: 3",
            f"  {place}uncollected.py",
            "    error ImportError: not here",
            f"  {place}alike.py::test_fails",
            "    failed test_alike.py:6 ValueError: <object object at 0x...>",
            f"  {place}alike.py::test_error",
            "    error test_alike.py:11 RuntimeError: set-up",
            "differs: 2",
            f"  {place}lists.py::test_keys",
            "    as it is: passed",
            f"    patched: {lines[-4].partition(': ')[2]}",
            f"  {place}lists.py::test_thinker",
            "    as it is: failed test_lists.py:11 LookupError: Qwen3OmniMoeThinkerForConditionalGeneration",
            "    patched: failed test_lists.py:11 LookupError: AudioThinker",
        ]
    )
    assert "failed test_lists.py:6 AssertionError" in lines[-4]
    assert sorted(path.name for path in tree.rglob("*") if "easydel" not in path.parts) == [
        *sorted(f"test_{name}.py" for name in TREE),
        "tests",
        "trainers",
    ]


@pytest.mark.parametrize(
    ("tests", "message"),
    [({"none": "", "broken": "import nowhere"}, "no test was collected"), ({}, "expected easydel/ and tests/trainers")],
)
def test_a_tree_without_tests_is_an_error(tmp_path: Path, tests: dict[str, str], message: str) -> None:
    told = run(made_up_tree(tmp_path, tests))
    assert (told.returncode, told.stdout) == (1, "")
    assert message in told.stderr.splitlines()[-1]


FAILED = Outcome("failed", "ValueError: one", "a.py:1")


def session(outcomes: dict[str, Outcome]) -> Session:
    return Session(easydel=None, version="0.3.0", patched=False, collected=len(outcomes), outcomes=outcomes)


def test_the_same_outcomes_are_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = session({"a": FAILED, "b": Outcome("passed"), "c": Outcome("skipped", "slow", "a.py:9")})
    assert upstream.report(tmp_path, told, told) == 0
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "fails in both with the same message at the same line: 1",
        "  a",
        "    failed a.py:1 ValueError: one",
        "differs: 0",
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"a": Outcome("passed")},
        {"a": Outcome("error", FAILED.message, FAILED.place)},
        {"a": Outcome("failed", "ValueError: two", FAILED.place)},
        {"a": Outcome("failed", FAILED.message, "a.py:2")},
        {},
        {"a": FAILED, "b": Outcome("passed")},
    ],
)
def test_any_other_outcome_is_a_difference(tmp_path: Path, other: dict[str, Outcome]) -> None:
    assert upstream.report(tmp_path, session({"a": FAILED}), session(other)) == 1
    assert upstream.report(tmp_path, session(other), session({"a": FAILED})) == 1


def test_the_commit_of_a_clone_is_told(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, env={**os.environ, **identity})

    assert upstream.commit(tmp_path) == "unknown"
    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "--message=one")
    told = upstream.commit(tmp_path)
    assert len(told) == 12
    (tmp_path / "file").write_text("two")
    assert upstream.commit(tmp_path) == f"{told}-dirty"
