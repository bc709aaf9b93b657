"""A few steps on one device and on meshes of eight: `python meshes.py DATA OUT`.

A process of its own, as the number of devices is fixed before JAX starts; those of a CPU are threads of it. Of each run
`OUT/NAME.npz` holds what was computed, and `OUT/NAME.json` what lay where: the part of each array on one device.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # Programs are made to be run once or twice: quickly, not well.
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    # On a busy machine a device may wait for another's thread longer than the 40 s after which XLA aborts.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
)
os.environ["XLA_FLAGS"] = " ".join(FLAGS)

from audiorl_cli.bridge.quiet import silence  # noqa: E402

silence()

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding  # noqa: E402
from products import loose, products  # noqa: E402
from tones import small_config  # noqa: E402

from audiorl_cli.bridge import checkpoint, generate  # noqa: E402
from audiorl_cli.bridge import tiny as tiny_model  # noqa: E402
from audiorl_cli.bridge.checkpoint import Checkpoint  # noqa: E402
from audiorl_cli.bridge.decoder import Prompts  # noqa: E402
from audiorl_cli.bridge.forward import Forward  # noqa: E402
from audiorl_cli.bridge.mesh import Spec  # noqa: E402
from audiorl_cli.bridge.rows import stacked  # noqa: E402
from audiorl_cli.config import MeshConfig, RunConfig  # noqa: E402
from audiorl_cli.data.shards import Shards, open_shards  # noqa: E402
from audiorl_cli.rl.engine import AudioEngine  # noqa: E402
from audiorl_cli.rl.programs import abstract_programs  # noqa: E402

ROWS = list(range(8))
CLIP_FRAMES = 100  # of tone_shards
PROGRAMS = ("_hear", "_sample", "_score", "_update")


def narrow(tokenizer: Any) -> dict[str, Any]:
    """A thinker of one layer, of which every axis finds something to divide, its head not tied."""
    config = tiny_model.tiny_config(tokenizer)
    config["tie_word_embeddings"] = False
    config["text_config"] |= {
        "vocab_size": 968,
        "hidden_size": 64,
        "head_dim": 16,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "num_experts": 8,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 1,
        "tie_word_embeddings": False,
    }
    config["audio_config"] |= {"d_model": 64, "encoder_layers": 1, "encoder_ffn_dim": 128, "output_dim": 64}
    config["vision_config"] |= {"out_hidden_size": 64}
    return config


setattr(checkpoint, "tiny_config", narrow)  # noqa: B010 - a name that it does not give out


def config_of(axes: str, *more: str) -> RunConfig:
    settings = ("train.batch_size=8", "rollout.max_new_tokens=6")
    return small_config(*settings, "optimizer.learning_rate=1e-4", f"mesh={{{axes}}}", *more)


def of(config: RunConfig, load: Callable[..., Checkpoint] = checkpoint.load) -> Checkpoint:
    """The model on all devices, or on the first where the config asks for no mesh."""
    return load("tiny", mesh=config.mesh, devices=jax.devices()[:1] if config.mesh == MeshConfig() else None)


class Watched:
    """An engine whose programs are looked at as they are compiled, ahead of their first call."""

    def __init__(self, config: RunConfig, shards: Shards) -> None:
        self.shards, self.programs, self.texts = shards, dict[str, Any](), dict[str, str]()
        self.given, self.places = dict[str, Any](), dict[str, Any]()
        self.engine, self.computed = AudioEngine(config, of(config), shards), dict[str, np.ndarray]()
        for name in PROGRAMS:
            setattr(self.engine, name, self._watched(name, getattr(self.engine, name)))

    def _watched(self, name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if name not in self.programs:
                lowered = function.lower(*arguments)
                self.texts[name], self.programs[name] = lowered.as_text(), lowered.compile()
            self.given[name] = parts(arguments)
            return self.programs[name](*arguments)

        return call

    def step(self) -> None:
        """One step, its numbers and all that it changed, under the number of the step."""
        metrics, _ = self.engine.update(ROWS, self.shards.read(ROWS))
        numbers = [metrics.loss, metrics.kl, metrics.entropy, metrics.grad_norm, metrics.reward_mean]
        found = {
            "numbers": np.asarray(numbers),
            "tokens": np.asarray(self.engine._lessons[1]),
            **jax.device_get(self.engine.arrays()),
        }
        self.computed |= {f"{metrics.step}/{name}": array for name, array in found.items()}

    def greedy(self) -> None:
        """Greedy completions of rows that no mesh divides without filling up."""
        engine, rows = self.engine, ROWS[:5]
        prompts = Prompts(*stacked(self.shards.read(rows), rows, engine._prompter, engine._length))
        self.computed["greedy"] = np.asarray(generate.transcribe(engine.checkpoint(), [prompts], 6))

    def read(self) -> None:
        """Log-probs of transcripts by EasyDeL's call of the model, which its trainer and warmstart make."""
        engine, rows = self.engine, self.shards.read(ROWS[:5])
        passed = Forward(engine.checkpoint(), engine._prompter, rows, rows)(rows)
        self.computed["log_probs"] = passed.log_probs

    def shapes(self) -> None:
        """Of each program, whether it is the same made of shapes alone, and its products of less than float32."""
        engine = self.engine
        made = abstract_programs(engine.config, of(engine.config, checkpoint.abstract), engine._length, CLIP_FRAMES)
        traced = {name: program.trace(*given) for name, (program, given) in made.items()}
        self.places["shapes"] = {name: one.lower().as_text() == self.texts[f"_{name}"] for name, one in traced.items()}
        self.places["loose"] = {name: loose(products(one.jaxpr)) for name, one in traced.items()}

    def write(self, out: Path) -> None:
        """What was computed, and what lay where."""
        written = {name: program.as_text() for name, program in self.programs.items()}
        state = self.engine._state
        self.places |= {
            "state": parts({"graphstate": state.graphstate, "opt_state": state.opt_state}),
            "given": self.given,
            "flops": {name: program.cost_analysis()["flops"] for name, program in self.programs.items()},
            # What a layer keeps of completions: [prompts, heads, group, tokens, width].
            "caches": sorted({*re.findall(r"f32\[(\d+,\d+,4,5,16)\]", written["_sample"])}),
        }
        arrays: dict[str, Any] = {name.replace("/", "|"): array for name, array in self.computed.items()}
        np.savez(out.with_suffix(".npz"), **arrays)
        out.with_suffix(".json").write_text(json.dumps(self.places))


def parts(tree: Any) -> dict[str, list[int]]:
    """Of each array, by its path: the shape of what one device holds of it."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.sharding.shard_shape(leaf.shape))
        for path, leaf in flat
        if isinstance(leaf, jax.Array)
    }


def row_parallel(width: str | None) -> float:
    """How wrong a product of rows is that are summed over tp, where its width is divided by `width` or by none."""
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 2, 2), ("dp", "fsdp", "tp"))
    place = partial(NamedSharding, mesh)
    rows, weights, before = (
        np.random.default_rng(0).normal(size=shape) for shape in ((8, 13, 64), (64, 64), (8, 13, 64))
    )

    def product(rows: Any, weights: Any, before: Any) -> Any:
        hold: Any = jax.lax.with_sharding_constraint
        rows = hold(rows, place(Spec(("dp", "fsdp"), None, "tp")))
        after = place(Spec(("dp", "fsdp"), None, width))
        return hold(hold(before, after) + jnp.matmul(rows, weights, precision="highest"), after)

    found = jax.jit(product)(rows, jax.device_put(weights, place(Spec("tp", "fsdp"))), before)
    return float(np.abs(np.asarray(found) - (before + rows @ weights)).max())


def main(data: Path, out: Path) -> None:
    shards = open_shards(data)
    one = Watched(config_of(""), shards)
    one.step()
    one.step()
    one.greedy()
    one.read()
    taken = jax.device_get(one.engine.arrays())
    one.step()
    one.places["xla"] = {"whole": row_parallel(None), "divided": row_parallel("tp")}
    one.write(out / "one")
    first = Watched(config_of("data=2, fsdp=2, tensor=2", "memory.prompts=4"), shards)
    first.step()
    first.step()
    first.greedy()
    first.read()
    first.shapes()
    first.write(out / "first")
    second = Watched(config_of("fsdp=2, expert=4"), shards)
    second.engine.restore(taken)
    second.step()
    second.read()
    second.write(out / "second")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
