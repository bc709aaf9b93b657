"""What every test shares: the folder of real speech, which is beside the project and never in it, and a full disk."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "speech"


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of real recordings; the test skips where it is absent."""
    if not SPEECH.is_dir():
        pytest.skip(f"real recordings are absent: {SPEECH} does not exist")
    return SPEECH


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Called with a number of bytes: from then on no file of this process grows beyond it, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
