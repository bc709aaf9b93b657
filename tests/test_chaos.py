"""A run that is killed at random moments, by real signals to real processes, ends as one that is left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tones import tone_shards

from audiorl_cli.rl import snapshot

KILLS = 6
SETTINGS = ("train.steps=40", "train.save_every=2", "train.keep=2", "train.samples_per_step=1")


def test_a_run_killed_at_random_moments_is_the_undisturbed_run(tmp_path: Path) -> None:
    data = tone_shards(tmp_path / "tones")
    runs = {0: tmp_path / "straight", KILLS: tmp_path / "killed"}
    for kills, out in runs.items():
        words = [Path(__file__).with_name("chaos.py"), data, out, 0, kills, *SETTINGS]
        done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["kills"] == kills
    straight, killed = runs.values()
    assert lines(straight / "metrics.jsonl") == lines(killed / "metrics.jsonl")
    assert lines(straight / "samples.jsonl") == lines(killed / "samples.jsonl")
    assert [line["step"] for line in lines(killed / "metrics.jsonl")] == list(range(1, 41))
    first, second = (snapshot.load(run / "checkpoints" / "step-40").arrays for run in (straight, killed))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert files(straight / "model") == files(killed / "model")
    # Nothing is left of what a kill cut off.
    assert sorted(os.listdir(killed)) == sorted(os.listdir(straight))
    assert sorted(os.listdir(killed / "checkpoints")) == ["step-38", "step-40"]


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log without what was timed."""
    told = map(json.loads, path.read_text().splitlines())
    return [{name: value for name, value in line.items() if not name.endswith("_s")} for line in told]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
