"""The share of a GRPO step that goes by waiting for rows and making a batch of them.

    python benchmarks/pipeline.py [--steps 6]

A run's own loop over shards of 64 clips of 30 s, read at random from the disk while the step before is taken, with
`engine = "audiorl"` at 2 prompts of 8 completions of 32 tokens. JSON out, the share beside its limit.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from audiorl_cli.bridge import quiet

quiet.silence()

import bench_model  # noqa: E402

from audiorl_cli import config as configs  # noqa: E402
from audiorl_cli.bridge import checkpoint  # noqa: E402
from audiorl_cli.bridge.rows import stacked  # noqa: E402
from audiorl_cli.core import CLIP_SECONDS  # noqa: E402
from audiorl_cli.data.shards import open_shards  # noqa: E402
from audiorl_cli.rl import loop  # noqa: E402
from audiorl_cli.rl.engine import AudioEngine  # noqa: E402

_ROWS: Final = 64
_LIMIT: Final = 0.05
_WARM_UP: Final = 2


def main() -> None:
    """Take steps as a run does, and time what stands between them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    steps = parser.parse_args().steps + _WARM_UP
    config = configs.load(
        None, ["reward.weights={cer = 1.0}", "rollout.max_new_tokens=32", "train.batch_size=2", f"train.steps={steps}"]
    )
    with tempfile.TemporaryDirectory() as folder:
        bench_model.write(Path(folder) / "model")
        shards = open_shards(bench_model.shards(Path(folder), [CLIP_SECONDS] * _ROWS))
        engine = AudioEngine(config, checkpoint.load(str(Path(folder) / "model")), shards)
        plan = loop.Plan(steps, config.train.batch_size, config.seed, config.train.save_every, config.train.keep)
        waited, made, took = [], [], []
        asked = time.perf_counter()
        for indices, rows in loop._batches(shards, plan, 0, engine.mesh):
            began = time.perf_counter()
            stacked(rows, indices, engine._prompter, engine._length)
            columns = time.perf_counter() - began
            step = engine.update(indices, rows)[0]
            waited.append(began - asked)
            made.append(columns)
            took.append(step.step_s)
            asked = time.perf_counter()
    waiting, making, stepping = (statistics.median(times[_WARM_UP:]) for times in (waited, made, took))
    share = (waiting + making) / (waiting + stepping)
    report = {
        "rows": _ROWS,
        "seconds": {"waiting": round(waiting, 4), "making_the_batch": round(making, 4), "step": round(stepping, 3)},
        "share": round(share, 4),
        "limit_at_most": _LIMIT,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
