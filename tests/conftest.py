"""What every test shares: the folder of real speech, which is beside the project and never in it, and a full disk."""

import gc
import importlib
import itertools
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Programs of tests run a few times: they are compiled quickly, not well, a third of the suite's time. JAX is not loaded
# yet, and the processes that tests start take it over.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

# As `console.starting` has it: what is imported stays, and a quarter of the time went into looking for garbage in it.
gc.disable()

_MODULES = itertools.count()

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "speech"


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of real recordings; the test skips where it is absent."""
    if not SPEECH.is_dir():
        pytest.skip(f"real recordings are absent: {SPEECH} does not exist")
    return SPEECH


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Called with the source of a function `f`: the name, `module:f`, under which a config has it as a reward."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(source: str) -> str:
        name = f"own_rewards_{next(_MODULES)}"  # Python keeps a module that it once imported
        (tmp_path / f"{name}.py").write_text(f"{source}\n", encoding="utf-8")
        importlib.invalidate_caches()
        return f"{name}:f"

    return write


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Called with a number of bytes: from then on no file of this process grows beyond it, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
