"""A GRPO step, ours (`engine = "audiorl"`) against EasyDeL's with every mend in: rollout, update, and the whole.

    python benchmarks/step.py [--prompts 2] [--group 8] [--tokens 32] [--steps 5] [--trainable-tower]
        [--size small|large] [--dtype float32|bfloat16] [--peak TFLOPS] [--alone]

The same weights and rows, steps of one and of the other in turn, medians after two of each to warm up; 30 s of audio
a prompt, completions that only their limit ends. `rollout_over_deaf` is our rollout over the same loop on the same
tokens without a tower before it: what hearing costs. JSON out, each ratio beside its limit.

For a GPU: `--size large --dtype bfloat16`, `--peak` being what the chip can do. Work is counted as what has to be done,
2 operations for each parameter that a token meets, three times that with a gradient; prompts once, attention's own
products and the tower left out. `--alone` leaves EasyDeL's out, for sizes at which it does not fit.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from audiorl_cli.bridge import quiet

quiet.silence()

import bench_model  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from audiorl_cli import config as configs  # noqa: E402
from audiorl_cli.bridge import checkpoint  # noqa: E402
from audiorl_cli.bridge.decoder import Prompts  # noqa: E402
from audiorl_cli.bridge.rows import stacked  # noqa: E402
from audiorl_cli.core import CLIP_SECONDS  # noqa: E402
from audiorl_cli.data.shards import Row, open_shards  # noqa: E402
from audiorl_cli.rl.easydel_engine import EasyDeLEngine  # noqa: E402
from audiorl_cli.rl.engine import AudioEngine  # noqa: E402
from audiorl_cli.rl.metrics import StepMetrics  # noqa: E402

_LIMITS: Final = {"rollout": 3.0, "update": 4.0, "step": 3.5}
_DEAF_LIMIT: Final = 1.3  # at most
_WARM_UP: Final = 2


def main() -> None:
    """Measure both on the same rows, and print what came of it."""
    arguments = _arguments()
    size = bench_model.LARGE if arguments.size == "large" else bench_model.SMALL
    with tempfile.TemporaryDirectory() as folder:
        bench_model.write(Path(folder) / "model", size, arguments.dtype)
        shards = open_shards(bench_model.shards(Path(folder), [CLIP_SECONDS] * arguments.prompts))
        engines: dict[str, Any] = {}
        for name, engine in (("audiorl", AudioEngine), ("easydel", EasyDeLEngine))[: 1 if arguments.alone else 2]:
            model = checkpoint.load(str(Path(folder) / "model"), dtype=arguments.dtype)
            engines[name] = engine(_config(name, arguments), model, shards)
        numbers = list(range(arguments.prompts))
        rows = shards.read(numbers)
        heard, deaf = _hearing(engines["audiorl"], numbers, rows, arguments.steps)
        took: dict[str, list[StepMetrics]] = {name: [] for name in engines}
        for _ in range(_WARM_UP + arguments.steps):
            for name, engine in engines.items():
                took[name].append(engine.update(numbers, rows)[0])
    seconds = {name: _medians(steps[_WARM_UP:]) for name, steps in took.items()}
    done = _operations(size, engines["audiorl"]._length, arguments)
    report = {
        "device": jax.devices()[0].device_kind,
        "size": arguments.size,
        "dtype": arguments.dtype,
        "prompts": arguments.prompts,
        "group": arguments.group,
        "audio_seconds": 30,
        "new_tokens": arguments.tokens,
        "tower": "trainable" if arguments.trainable_tower else "frozen",
        "seconds": seconds,
        "new_tokens_a_second": {
            name: {
                part: round(arguments.prompts * arguments.group * arguments.tokens / took) for part, took in of.items()
            }
            for name, of in seconds.items()
        },
        "teraflops": {
            name: {part: round(done[part] / took / 1e12, 3) for part, took in of.items()}
            for name, of in seconds.items()
        },
        "rollout_over_deaf": round(heard / deaf, 2),
        "rollout_over_deaf_limit_at_most": _DEAF_LIMIT,
    }
    if arguments.peak:
        report["share_of_peak"] = {
            name: {part: round(rate / arguments.peak, 4) for part, rate in of.items()}
            for name, of in report["teraflops"].items()
        }
    if not arguments.alone:
        report["ratio"] = {part: round(seconds["easydel"][part] / seconds["audiorl"][part], 2) for part in _LIMITS}
        report["limit_at_least"] = _LIMITS
    print(json.dumps(report, indent=2))


def _operations(size: bench_model.Size, length: int, arguments: argparse.Namespace) -> dict[str, float]:
    """What has to be computed, prompts of `length` tokens once: see the top."""
    new = arguments.prompts * arguments.group * arguments.tokens
    forward = 2.0 * (size.active * (arguments.prompts * length + new) + size.head * new)
    update = forward * (1 + 3)  # the reference, and the policy with its gradient
    return {"rollout": forward, "update": update, "step": forward + update}


def _hearing(engine: AudioEngine, numbers: list[int], rows: list[Row], count: int) -> tuple[float, float]:
    """Seconds of our rollout, with its clips heard in it and with vectors of nought given in their place."""
    columns = Prompts(*(jnp.asarray(column) for column in stacked(rows, numbers, engine._prompter, engine._length)))
    tower = engine._state.model.audio_tower
    vectors = (len(rows), int(tower.vectors(columns.feature_attention_mask.shape[-1])), tower.config.output_dim)
    nothing = columns._replace(input_features=None, audio=jnp.zeros(vectors, tower.dtype))
    took: tuple[list[float], list[float]] = [], []
    for _ in range(_WARM_UP + count):
        for times, prompts in zip(took, (columns, nothing), strict=True):
            began = time.perf_counter()
            np.asarray(engine._sample(*engine._parameters(), prompts, 0, 0).mask)
            times.append(time.perf_counter() - began)
    return statistics.median(took[0][_WARM_UP:]), statistics.median(took[1][_WARM_UP:])


def _medians(steps: list[StepMetrics]) -> dict[str, float]:
    return {part: round(statistics.median(getattr(step, f"{part}_s") for step in steps), 3) for part in _LIMITS}


def _config(engine: str, arguments: argparse.Namespace) -> configs.RunConfig:
    return configs.load(
        None,
        [
            f"engine={engine}",
            "reward.weights={cer = 1.0}",
            f"rollout.group_size={arguments.group}",
            f"rollout.max_new_tokens={arguments.tokens}",
            f"train.batch_size={arguments.prompts}",
            f"train.dtype={arguments.dtype}",
            f"train.freeze_audio_tower={str(not arguments.trainable_tower).lower()}",
        ],
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--trainable-tower", action="store_true")
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peak", type=float, default=0.0)
    parser.add_argument("--alone", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
