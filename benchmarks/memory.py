"""Peak bytes of an update at group sizes 4, 8 and 16: ours (`engine = "audiorl"`), ours in parts, and EasyDeL's.

    python benchmarks/memory.py [--prompts 2] [--tokens 32]

What XLA plans for the compiled program beyond the arguments it is given: activations, gradients, logits. JSON out, in
MiB, with what each further completion of a prompt costs.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Final

from audiorl_cli.bridge import quiet

quiet.silence()

import bench_model  # noqa: E402
import jax  # noqa: E402

from audiorl_cli import config as configs  # noqa: E402
from audiorl_cli.bridge import checkpoint  # noqa: E402
from audiorl_cli.core import CLIP_SECONDS  # noqa: E402
from audiorl_cli.data.shards import Shards, open_shards  # noqa: E402
from audiorl_cli.rl.easydel_engine import EasyDeLEngine  # noqa: E402
from audiorl_cli.rl.engine import AudioEngine  # noqa: E402

_GROUPS: Final = (4, 8, 16)
_PARTS: Final = ("memory.prompts=1", "memory.completions=2", "memory.vocabulary=2048", "memory.recompute=true")


def main() -> None:
    """Plan each program, run none but the rollouts whose completions they take, and print what they need."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench_model.write(Path(folder) / "model")
        shards = open_shards(bench_model.shards(Path(folder), [CLIP_SECONDS] * arguments.prompts))
        model = str(Path(folder) / "model")
        found: dict[str, dict[int, float]] = {}
        for name, extra in (("audiorl", ()), ("audiorl in parts", _PARTS), ("easydel", ("engine=easydel",))):
            found[name] = {}
            for group in _GROUPS:
                config = configs.load(
                    None,
                    [
                        "reward.weights={cer = 1.0}",
                        f"rollout.group_size={group}",
                        f"rollout.max_new_tokens={arguments.tokens}",
                        f"train.batch_size={arguments.prompts}",
                        *extra,
                    ],
                )
                planned = (_easydels if name == "easydel" else _ours)(config, model, shards)
                found[name][group] = round(planned.memory_analysis().temp_size_in_bytes / 2**20, 1)
    first, *_, last = _GROUPS
    report = {
        "prompts": arguments.prompts,
        "audio_seconds": 30,
        "new_tokens": arguments.tokens,
        "mib_by_group": found,
        "mib_a_completion": {
            name: round((sizes[last] - sizes[first]) / (last - first) / arguments.prompts, 2)
            for name, sizes in found.items()
        },
    }
    print(json.dumps(report, indent=2))


def _ours(config: configs.RunConfig, model: str, shards: Shards) -> Any:
    engine = AudioEngine(config, checkpoint.load(model), shards)
    numbers = list(range(config.train.batch_size))
    pool, *_ = engine._pool(numbers, shards.read(numbers))
    return engine._update.lower(engine._state, pool.prompts, engine._groups(pool)).compile()


def _easydels(config: configs.RunConfig, model: str, shards: Shards) -> Any:
    engine = EasyDeLEngine(config, checkpoint.load(model), shards)
    numbers = list(range(config.train.batch_size))
    trainer = engine._trainer
    with trainer.mesh:
        batch, _ = trainer._preprocess_batch_input(
            state=trainer.model_state, batch=engine.batch(numbers, shards.read(numbers)), is_train=True
        )
        compiled = trainer.sharded_training_step_function
        return (
            jax.jit(compiled.__wrapped__, static_argnums=compiled.static_argnums_, donate_argnums=0)
            .lower(
                trainer.model_state, batch, *trainer._train_shared_fn_extra_args, *trainer._train_shared_fn_static_args
            )
            .compile()
        )


if __name__ == "__main__":
    main()
