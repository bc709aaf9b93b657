"""Supervised steps: what they minimise, what they leave alone, and that they can be gone on with."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tones import small_config, tone_shards

from audiorl_cli.bridge import checkpoint
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.rows import prompt_row
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.rl import snapshot
from audiorl_cli.rl.loop import RunResult
from audiorl_cli.rl.metrics import WarmstartMetrics
from audiorl_cli.rl.warmstart import WarmstartEngine, warmstart

CONFIG = small_config("train.save_every=3")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_shards(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def shards(data: Path) -> Shards:
    return open_shards(data)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, list[WarmstartMetrics]]:
    told: list[WarmstartMetrics] = []
    return warmstart(CONFIG, data, "tiny", tmp_path_factory.mktemp("runs") / "warm", on_step=told.append), told


def test_the_loss_is_the_cross_entropy_of_transcript_and_end(
    finished: tuple[RunResult, list[WarmstartMetrics]], shards: Shards
) -> None:
    loaded = checkpoint.load("tiny")
    prompter = Prompter(loaded.tokenizer, CONFIG.prompt)
    model = loaded.model
    total, count, right = 0.0, 0, 0
    rows = [1, 4]
    for number in rows:  # one by one and without padding, where the engine takes both in one padded batch
        row = shards.read([number])[0]
        prompt = prompt_row(row, number, prompter, prompter.length(row.num_frames))
        target = [*loaded.tokenizer(row.text)["input_ids"], loaded.tokenizer.eos_token_id]
        ids = np.concatenate([prompt["input_ids"], target])[None]
        with model.mesh:
            logits = jax.jit(
                lambda ids, features, frames: (
                    model(
                        input_ids=ids,
                        attention_mask=ids * 0 + 1,
                        input_features=features,
                        feature_attention_mask=frames,
                    ).logits
                )
            )(ids, prompt["input_features"][None], prompt["feature_attention_mask"][None])
        foretold = np.asarray(jax.nn.log_softmax(logits[0, len(prompt["input_ids"]) - 1 : -1]))
        total -= foretold[np.arange(len(target)), target].sum()
        right += int((foretold.argmax(axis=-1) == target).sum())
        count += len(target)
    metrics, samples = WarmstartEngine(CONFIG, checkpoint.load("tiny"), shards).update(rows, shards.read(rows))
    assert samples == ()
    assert metrics.loss == pytest.approx(total / count, rel=1e-5)
    assert metrics.token_accuracy_share == pytest.approx(right / count)


def test_a_run_learns_and_leaves_a_model(finished: tuple[RunResult, list[WarmstartMetrics]]) -> None:
    result, told = finished
    assert [metrics.step for metrics in told] == [1, 2, 3, 4]
    assert told[-1].loss < told[0].loss
    assert snapshot.steps(result.out) == [3, 4]
    assert checkpoint.load(str(result.out)).source == str(result.out)


def test_a_run_goes_on_bit_for_bit(
    finished: tuple[RunResult, list[WarmstartMetrics]], data: Path, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(metrics: WarmstartMetrics) -> None:
        if metrics.step == 4:
            raise KilledError

    with pytest.raises(KilledError):
        warmstart(CONFIG, data, "tiny", tmp_path / "run", on_step=kill)
    resumed = warmstart(CONFIG, data, "tiny", tmp_path / "run", on_step=lambda _: None)
    assert (resumed.began_at, resumed.steps) == (3, 4)
    first, second = (snapshot.load(run / "checkpoints" / "step-4").arrays for run in (finished[0].out, resumed.out))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_it_ends_at_the_first_batch_that_is_foretold_well_enough(data: Path, tmp_path: Path) -> None:
    def run(out: str, *overrides: str) -> tuple[RunResult, list[WarmstartMetrics]]:
        told: list[WarmstartMetrics] = []
        config = small_config("warmstart.learning_rate=1e-2", "warmstart.steps=6", *overrides)
        return warmstart(config, data, "tiny", tmp_path / out, on_step=told.append), told

    _, whole = run("whole")
    accuracies = [metrics.token_accuracy_share for metrics in whole]
    enough = max(accuracies[1:5])
    first = accuracies.index(enough) + 1
    assert enough > 0
    assert first < 6
    stop = f"warmstart.stop_accuracy={enough!r}"
    result, told = run("early", stop)
    assert [metrics.token_accuracy_share for metrics in told] == accuracies[:first]
    assert (result.steps, result.stopped, result.model) == (first, False, tmp_path / "early" / "model")
    again, told = run("early", stop)
    assert (again.steps, again.began_at, again.model, told) == (first, first, result.model, [])
    shutil.rmtree(tmp_path / "early" / "model")  # as where it was killed before the model was whole
    again, told = run("early", stop)
    assert (again.steps, again.model, told) == (first, result.model, [])
    assert checkpoint.load(str(result.out)).source == str(result.out)
    longer, told = run("early")
    assert (longer.steps, longer.began_at) == (6, first)
    assert [metrics.token_accuracy_share for metrics in told] == accuracies[first:]


@pytest.mark.parametrize("frozen", [False, True])
def test_the_tower_learns_unless_it_is_frozen(shards: Shards, frozen: bool) -> None:
    config = small_config(f"warmstart.freeze_audio_tower={str(frozen).lower()}")
    engine = WarmstartEngine(config, checkpoint.load("tiny"), shards)
    before = jax.device_get(engine.arrays())
    engine.update([0, 1], shards.read([0, 1]))
    after = jax.device_get(engine.arrays())
    moved = {
        name.split("/")[1] for name in before if name.startswith("graphstate/") and (before[name] != after[name]).any()
    }
    assert moved == ({"model"} if frozen else {"model", "audio_tower"})


def test_nothing_is_compiled_twice(shards: Shards) -> None:
    engine = WarmstartEngine(CONFIG, checkpoint.load("tiny"), shards)
    for rows in ([0, 1], [2, 3], [4, 5]):
        engine.update(rows, shards.read(rows))
    compiled: Any = engine._update
    assert compiled._cache_size() == 1
