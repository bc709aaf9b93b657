"""A run that is killed at random moments, by real signals to real processes, ends as one that is left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tones import tone_shards

from audiorl_cli.rl import snapshot

STEPS = 40
SETTINGS = (f"train.steps={STEPS}", "train.save_every=2", "train.keep=2", "train.samples_per_step=1")


@pytest.mark.parametrize(("engine", "kills"), [("audiorl", 14), ("easydel", 6)])
def test_a_run_killed_at_random_moments_is_the_undisturbed_run(tmp_path: Path, engine: str, kills: int) -> None:
    data = tone_shards(tmp_path / "tones")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    # A kill may leave half of a compiled program: not where other processes would come upon it.
    environment = {**os.environ, "COMPILE_FUNC_DIR": str(tmp_path / "compiled")}
    for out, number in ((straight, 0), (killed, kills)):
        words = [Path(__file__).with_name("chaos.py"), data, out, 0, number, f"engine={engine}", *SETTINGS]
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["kills"] == number
    assert lines(straight / "metrics.jsonl") == lines(killed / "metrics.jsonl")
    assert lines(straight / "samples.jsonl") == lines(killed / "samples.jsonl")
    assert [line["step"] for line in lines(killed / "metrics.jsonl")] == list(range(1, STEPS + 1))
    first, second = (snapshot.load(run / "checkpoints" / f"step-{STEPS}").arrays for run in (straight, killed))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert files(straight / "model") == files(killed / "model")
    # Nothing is left of what a kill cut off.
    assert sorted(os.listdir(killed)) == sorted(os.listdir(straight))
    assert sorted(os.listdir(killed / "checkpoints")) == [f"step-{STEPS - 2}", f"step-{STEPS}"]


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log without what was timed."""
    told = map(json.loads, path.read_text().splitlines())
    return [{name: value for name, value in line.items() if not name.endswith("_s")} for line in told]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
