"""Weights kept in float32 and computed with in bfloat16: the numbers of bfloat16, and no update lost to rounding."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from tones import small_config, tone_shards

from audiorl_cli.bridge import checkpoint
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.transcription import transcripts
from audiorl_cli.config import MeshConfig, RunConfig
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.evaluate.transcripts import evaluate
from audiorl_cli.rl.engine import AudioEngine
from audiorl_cli.rl.programs import abstract_programs
from audiorl_cli.rl.run import train
from audiorl_cli.rl.warmstart import WarmstartEngine

ROWS = [0, 1]
RATE = 1e-6
BFLOAT16 = (f"optimizer.learning_rate={RATE}", f"warmstart.learning_rate={RATE}", "train.dtype=bfloat16")
MASTERS = (*BFLOAT16, "train.master_weights=true")
NARROW, WIDE = small_config(*BFLOAT16), small_config(*MASTERS)
Engine = type[AudioEngine] | type[WarmstartEngine]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_shards(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def shards(data: Path) -> Shards:
    return open_shards(data)


def engine_of(kind: Engine, config: RunConfig, shards: Shards) -> Any:
    settings = config.train
    return kind(config, checkpoint.load("tiny", dtype=settings.dtype, masters=settings.master_weights), shards)


def weights_of(engine: Any) -> dict[str, np.ndarray]:
    arrays = jax.device_get(engine.arrays())
    return {name: np.asarray(array) for name, array in arrays.items() if name.startswith("graphstate/")}


@pytest.mark.parametrize("kind", [AudioEngine, WarmstartEngine])
def test_a_step_is_that_of_bfloat16_but_every_weight_moves_by_the_rate(kind: Engine, shards: Shards) -> None:
    narrow, wide = engine_of(kind, NARROW, shards), engine_of(kind, WIDE, shards)
    before, rounded = weights_of(wide), weights_of(narrow)
    theirs, ours = (engine.update(ROWS, shards.read(ROWS))[0] for engine in (narrow, wide))
    assert ours.loss == theirs.loss
    assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=0.01)
    if kind is AudioEngine:
        assert (ours.entropy, ours.reward_mean, ours.kl) == (theirs.entropy, theirs.reward_mean, 0.0)
    after, still = weights_of(wide), weights_of(narrow)
    assert {str(array.dtype) for array in after.values()} == {"float32"}
    assert {str(array.dtype) for array in still.values()} == {"bfloat16"}
    # Adam's first step is the rate times g / (|g| + 1e-8), up or down; a weight of 1 is known to 6e-8.
    moved = np.concatenate([np.abs(after[name] - before[name]).ravel() for name in after])
    assert moved.max() < 1.1 * RATE
    assert np.median(moved[moved > 0]) == pytest.approx(RATE, rel=0.02)
    stuck = np.concatenate([(still[name] == rounded[name]).ravel() for name in still])
    assert (moved > 0).mean() > 0.3 > 10 * (~stuck).mean()


def test_the_reference_is_no_wider_than_what_is_computed_with_it() -> None:
    shapes = checkpoint.outline("tiny", dtype="bfloat16", masters=True, mesh=MeshConfig(), devices=jax.devices())
    programs = abstract_programs(WIDE, shapes, prompt_tokens=30, frames=100)
    reference, learning = programs["score"][1][0], programs["update"][1][0].graphstate
    assert {str(leaf.dtype) for leaf in jax.tree_util.tree_leaves(reference)} == {"bfloat16"}
    assert {str(leaf.dtype) for leaf in jax.tree_util.tree_leaves(learning)} == {"float32"}
    assert jax.eval_shape(programs["score"][0], *programs["score"][1]).dtype == np.float32


def test_transcripts_are_those_of_bfloat16(shards: Shards) -> None:
    def heard(masters: bool) -> list[str]:
        loaded = checkpoint.load("tiny", dtype="bfloat16", masters=masters)
        prompter = Prompter(loaded.tokenizer, WIDE.prompt)
        found = transcripts(loaded, shards, prompter, batch_size=8, max_new_tokens=32)
        return [one.text for batch in found for one in batch]

    assert heard(masters=True) == heard(masters=False)


def test_a_run_is_saved_in_float32_and_validated_in_bfloat16(data: Path, tmp_path: Path) -> None:
    held = tone_shards(tmp_path / "held", rows=3)
    config = small_config(*MASTERS, "optimizer.learning_rate=1e-2", "validation.every=4")
    result = train(config, data, "tiny", tmp_path / "run", validation=held, on_step=lambda _: None)
    tensors = load_file(result.out / "model" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    loaded = checkpoint.load(str(result.out), dtype="bfloat16")
    found = evaluate(loaded, open_shards(held), config.prompt, max_new_tokens=8).metrics
    assert result.best is not None
    assert found.wer == result.best.wer
