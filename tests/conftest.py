"""What every test shares: the folder of real speech, which is beside the project and never in it."""

from pathlib import Path

import pytest

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "speech"


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of real recordings; the test skips where it is absent."""
    if not SPEECH.is_dir():
        pytest.skip(f"real recordings are absent: {SPEECH} does not exist")
    return SPEECH
