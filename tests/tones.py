"""A few seconds of tones as shards, for tests of training that need audio of any kind but no recordings."""

from pathlib import Path

import numpy as np
import soundfile

from audiorl_cli import config as configs
from audiorl_cli.config import RunConfig
from audiorl_cli.data.prep import PrepSettings, prep

TEXTS = ("one two three four five", "six seven eight nine ten", "two four six eight ten", "nine seven five three one")


def tone_shards(folder: Path, rows: int = 6) -> Path:
    """Shards of `rows` tones of 0.5 to 0.9 s in windows of 1 s, each with a text of five words."""
    source = folder / "source"
    source.mkdir(parents=True)
    for row in range(rows):
        seconds = np.arange(int(16_000 * (0.5 + 0.4 * row / rows))) / 16_000
        soundfile.write(source / f"tone{row}.wav", 0.3 * np.sin(2 * np.pi * 200 * (row + 1) * seconds), 16_000)
        (source / f"tone{row}.txt").write_text(TEXTS[row % len(TEXTS)])
    prep(str(source), folder / "shards", PrepSettings(clip_seconds=1.0, workers=1))
    return folder / "shards"


def small_config(*overrides: str) -> RunConfig:
    """Two prompts of four completions of eight tokens; a random model earns some CER reward and no WER reward."""
    settings = [
        "reward.weights={cer = 1.0}",
        "rollout.group_size=4",
        "rollout.max_new_tokens=8",
        "optimizer.learning_rate=1e-2",
        "loss.beta=0.05",
        "train.steps=4",
        "train.batch_size=2",
        "train.save_every=2",
        "warmstart.steps=4",
        "warmstart.batch_size=2",
    ]
    return configs.load(None, [*settings, *overrides])
