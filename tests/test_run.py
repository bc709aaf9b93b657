"""Whole runs: their files, resuming bit for bit, stopping, and what may not go on."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import jax
import numpy as np
import pytest
from tones import small_config, tone_shards

from audiorl_cli import config as configs
from audiorl_cli.bridge import checkpoint
from audiorl_cli.errors import ConfigError, DataError, ModelError
from audiorl_cli.rl import snapshot
from audiorl_cli.rl.metrics import StepMetrics
from audiorl_cli.rl.run import RunResult, train

CONFIG = small_config("train.keep=2", "train.save_every=1", "train.samples_per_step=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_shards(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, list[StepMetrics]]:
    """A run of four steps, undisturbed, and what it told."""
    told: list[StepMetrics] = []
    return train(CONFIG, data, "tiny", tmp_path_factory.mktemp("runs") / "straight", on_step=told.append), told


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def stop_after(step: int) -> Callable[[StepMetrics], None]:
    def on_step(metrics: StepMetrics) -> None:
        if metrics.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


def silent(metrics: StepMetrics) -> None:
    pass


def test_a_run_leaves_its_files(straight: tuple[RunResult, list[StepMetrics]]) -> None:
    result, told = straight
    run = result.out
    assert (result.steps, result.began_at, result.stopped, result.model) == (4, 0, False, run / "model")
    assert configs.load(run / "config.toml") == CONFIG
    assert [metrics.step for metrics in told] == [1, 2, 3, 4]
    assert lines(run / "metrics.jsonl") == [asdict(metrics) for metrics in told]
    assert list(lines(run / "metrics.jsonl")[0]) == [field.name for field in fields(StepMetrics)]
    samples = lines(run / "samples.jsonl")
    assert [sample["step"] for sample in samples] == [1, 2, 3, 4]
    assert len(samples[0]["completions"]) == len(samples[0]["rewards"]) == 4  # type: ignore[arg-type]
    assert snapshot.steps(run) == [3, 4]


def test_the_final_model_is_the_last_checkpoint(straight: tuple[RunResult, list[StepMetrics]]) -> None:
    run = straight[0].out
    loaded = checkpoint.load(str(run)).model.to_state()
    arrays = snapshot.load(run / "checkpoints" / "step-4").arrays
    kept = sorted(array.sum(dtype=np.float64) for name, array in arrays.items() if name.startswith("graphstate/"))
    read = sorted(np.asarray(leaf).sum(dtype=np.float64) for leaf in jax.tree_util.tree_leaves(loaded.graphstate))
    assert read == pytest.approx(kept)


def test_a_finished_run_is_not_run_again(straight: tuple[RunResult, list[StepMetrics]], data: Path) -> None:
    run = straight[0].out
    before = (run / "metrics.jsonl").read_bytes()
    again = train(CONFIG, data, "tiny", run, on_step=lambda _: pytest.fail("a step was taken"))
    assert (again.steps, again.began_at, again.model) == (4, 4, run / "model")
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_stopped_run_goes_on_bit_for_bit(
    straight: tuple[RunResult, list[StepMetrics]], data: Path, tmp_path: Path
) -> None:
    config = small_config("train.keep=2", "train.save_every=3", "train.samples_per_step=1")
    out = tmp_path / "run"
    stopped = train(config, data, "tiny", out, on_step=stop_after(2))
    assert (stopped.steps, stopped.stopped, stopped.model) == (2, True, None)
    assert snapshot.steps(out) == [2]
    with open(out / "metrics.jsonl", "a") as file:  # as if killed later, with a line cut short
        file.write('{"step": 3}\n{"st')
    resumed = train(config, data, "tiny", out, on_step=silent)
    assert (resumed.steps, resumed.began_at, resumed.stopped) == (4, 2, False)

    whole = straight[0].out
    untimed = [
        [
            {name: value for name, value in line.items() if not name.endswith("_s")}
            for line in lines(run / "metrics.jsonl")
        ]
        for run in (whole, out)
    ]
    assert untimed[0] == untimed[1]
    assert lines(whole / "samples.jsonl") == lines(out / "samples.jsonl")
    first, second = (snapshot.load(run / "checkpoints" / "step-4").arrays for run in (whole, out))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_what_on_step_raises_ends_the_run(data: Path, tmp_path: Path) -> None:
    def broken(metrics: StepMetrics) -> None:
        raise TypeError("broken display")  # which EasyDeL's loop takes for the end of training

    with pytest.raises(TypeError, match="broken display"):
        train(CONFIG, data, "tiny", tmp_path / "run", on_step=broken)
    assert not (tmp_path / "run" / "model").exists()


def test_a_damaged_checkpoint_stops_the_run_and_names_the_last_good_one(
    straight: tuple[RunResult, list[StepMetrics]], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight[0].out, out)
    shutil.rmtree(out / "model")
    arrays = out / "checkpoints" / "step-4" / "arrays.safetensors"
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(ModelError, match=r"step-4.*sha256.*Delete it to go on from step-3"):
        train(CONFIG, data, "tiny", out, on_step=silent)
    shutil.rmtree(out / "checkpoints" / "step-4")
    assert train(CONFIG, data, "tiny", out, on_step=silent).began_at == 3


def test_another_run_in_the_folder_is_refused(
    straight: tuple[RunResult, list[StepMetrics]], data: Path, tmp_path: Path
) -> None:
    run = straight[0].out
    with pytest.raises(ConfigError, match=r"config\.seed was 0 and is 7"):
        train(
            small_config("train.keep=2", "train.save_every=1", "train.samples_per_step=1", "seed=7"),
            data,
            "tiny",
            run,
            on_step=silent,
        )
    with pytest.raises(ConfigError, match="model was 'tiny' and is 'other'"):
        train(CONFIG, data, "other", run, on_step=silent)
    with pytest.raises(ConfigError, match="data was"):
        train(CONFIG, tone_shards(tmp_path / "others", rows=2), "tiny", run, on_step=silent)
    with pytest.raises(ConfigError, match="a folder without a run"):
        train(CONFIG, data, "tiny", run, on_step=silent, resume=False)


def test_other_files_in_the_folder_are_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="other files"):
        train(CONFIG, data, "tiny", tmp_path, on_step=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_without_shards_makes_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(CONFIG, tmp_path / "nothing", "tiny", tmp_path / "run", on_step=silent)
    assert not (tmp_path / "run").exists()
