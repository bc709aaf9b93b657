"""Whole runs: their files, resuming bit for bit, stopping, and what may not go on."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tones import small_config, tone_shards
from trackers import tensorboard_shows, wandb_holds

from audiorl_cli import config as configs
from audiorl_cli.bridge import checkpoint
from audiorl_cli.errors import ConfigError, DataError, InstallError, ModelError
from audiorl_cli.rl import snapshot
from audiorl_cli.rl.judge import Judge
from audiorl_cli.rl.metrics import StepMetrics, numbers
from audiorl_cli.rl.run import RunResult, train
from audiorl_cli.rl.tripwires import Suspicion

CONFIG = small_config("train.keep=2", "train.save_every=1", "train.samples_per_step=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_shards(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, list[StepMetrics]]:
    """A run of four steps, undisturbed, and what it told."""
    told: list[StepMetrics] = []
    return train(CONFIG, data, "tiny", tmp_path_factory.mktemp("runs") / "straight", on_step=told.append), told


def lines(path: Path) -> list[dict[str, Any]]:
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
    assert lines(run / "metrics.jsonl") == [numbers(metrics) for metrics in told]
    named = [field.name for field in fields(StepMetrics)]
    assert list(lines(run / "metrics.jsonl")[0]) == [name if name != "rewards" else "reward_cer" for name in named]
    parts = [told[0].sample_substitutions, told[0].sample_insertions, told[0].sample_deletions]
    assert sum(parts) == pytest.approx(told[0].sample_wer)
    assert told[0].rewards == {"cer": pytest.approx(told[0].reward_mean)}
    samples = lines(run / "samples.jsonl")
    assert [sample["step"] for sample in samples] == [1, 2, 3, 4]
    assert len(samples[0]["completions"]) == len(samples[0]["rewards"]) == 4
    assert samples[0]["rewards"] == [parts["cer"] for parts in samples[0]["parts"]]
    assert samples[0]["normaliser"] == json.loads((run / "run.json").read_text())["normaliser"]
    assert snapshot.steps(run) == [3, 4]
    assert not (run / "adapter").exists()


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

    demand_same(straight[0].out, out)


def demand_same(run: Path, other: Path) -> None:
    """Fail unless both runs took the same steps, in every bit, to step 4."""
    untimed = [
        [
            {name: value for name, value in line.items() if not name.endswith("_s")}
            for line in lines(folder / "metrics.jsonl")
        ]
        for folder in (run, other)
    ]
    assert untimed[0] == untimed[1]
    assert lines(run / "samples.jsonl") == lines(other / "samples.jsonl")
    first, second = (snapshot.load(folder / "checkpoints" / "step-4").arrays for folder in (run, other))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    weights = [sorted((folder / "model").glob("*.safetensors")) for folder in (run, other)]
    assert [path.read_bytes() for path in weights[0]] == [path.read_bytes() for path in weights[1]] != []


def test_a_run_given_more_steps_is_the_longer_run(
    straight: tuple[RunResult, list[StepMetrics]], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    short = small_config("train.keep=1", "train.save_every=7", "train.samples_per_step=1", "train.steps=2")
    assert train(short, data, "tiny", out, on_step=silent, tensorboard=True).model == out / "model"

    def unfinished(metrics: StepMetrics) -> None:
        assert not (out / "model").exists()

    longer = train(CONFIG, data, "tiny", out, on_step=unfinished, tensorboard=True)
    assert (longer.steps, longer.began_at, longer.stopped, longer.model) == (4, 2, False, out / "model")
    assert configs.load(out / "config.toml") == CONFIG
    assert snapshot.steps(out) == [3, 4]
    demand_same(straight[0].out, out)
    rewards = [(line["step"], float(np.float32(line["reward_mean"]))) for line in lines(out / "metrics.jsonl")]
    assert tensorboard_shows(out)["reward_mean"] == rewards


def test_a_suspicion_is_told_once_however_often_the_run_is_taken_up(data: Path, tmp_path: Path) -> None:
    told: list[Suspicion] = []
    reward = ("reward.weights={wer = 1.0}", "loss.beta=0", "optimizer.learning_rate=1e-9")  # a random model earns none
    for steps in (41, 43):
        config = small_config(f"train.steps={steps}", *reward)
        train(config, data, "tiny", tmp_path / "run", on_step=silent, on_suspicion=told.append)
    assert [(one.step, one.kind) for one in told] == [(40, "nothing to learn")]
    assert lines(tmp_path / "run/suspicions.jsonl") == [asdict(one) for one in told]


def test_a_tracker_is_looked_for_before_the_model(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    with pytest.raises(InstallError, match="pip install wandb"):
        train(CONFIG, data, "no such model", tmp_path / "run", on_step=silent, wandb="tones")


@pytest.mark.parametrize("command", ["train", "warmstart"])
def test_the_commands_tell_both_trackers_and_the_terminal_stays_ours(command: str, data: Path, tmp_path: Path) -> None:
    config, out = tmp_path / "config.toml", tmp_path / "run"
    config.write_text(configs.dump(small_config(f"{command}.steps=1")))
    words = [command, "--config", config, "--data", data, "--model", "tiny", "--out", out, "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-m", "audiorl_cli", *map(str, words), "--tensorboard", "--wandb", "tones"],
        env={**environment, "WANDB_MODE": "offline", "WANDB_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    assert json.loads(done.stdout)["steps"] == 1
    assert "wandb" not in done.stderr
    (told,) = lines(out / "metrics.jsonl")
    numbers = {name: value for name, value in told.items() if name != "step" and value is not None}
    assert tensorboard_shows(out) == {name: [(1, float(np.float32(value)))] for name, value in numbers.items()}
    (session,) = wandb_holds(out)
    assert (session.project, session.name, session.steps) == ("tones", "run", {1: numbers})


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


WILD = ("train.samples_per_step=1", "loss.kind=dr_grpo", "reward.weights={cer = 1e36}")


@pytest.mark.parametrize("engine", ["audiorl", "easydel"])
def test_a_gradient_that_is_no_number_stops_the_run_and_its_batch_is_kept(
    engine: str, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ModelError, match=r"step 1: expected a finite loss and gradient, .* norm inf.*step-1\.json"):
        train(small_config(f"engine={engine}", *WILD), data, "tiny", out, on_step=silent)
    kept = json.loads((out / "nonfinite" / "step-1.json").read_text())
    assert (kept["metrics"]["step"], kept["metrics"]["grad_norm"]) == (1, None)
    assert len(kept["prompts"]) == 2
    for prompt in kept["prompts"]:
        centred = np.asarray(prompt["rewards"]) - np.mean(prompt["rewards"])
        assert prompt["id"].startswith("tone")
        assert len(prompt["completions"]) == len(prompt["advantages"]) == len(prompt["rewards"]) == 4
        assert prompt["advantages"] == pytest.approx(centred, rel=1e-4, abs=1e31)
    assert (out / "metrics.jsonl").read_text() == ""


def test_steps_that_are_no_numbers_are_skipped_where_that_is_asked_for(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = small_config(*WILD, "train.on_nonfinite=skip")
    result = train(config, data, "tiny", out, on_step=stop_after(2))
    result = train(config, data, "tiny", out, on_step=silent)
    assert (result.steps, result.began_at, result.model) == (4, 2, out / "model")
    assert [(line["step"], line["grad_norm"]) for line in lines(out / "metrics.jsonl")] == [
        (step, None) for step in (1, 2, 3, 4)
    ]
    assert sorted(path.name for path in (out / "nonfinite").iterdir()) == [f"step-{step}.json" for step in (1, 2, 3, 4)]
    before, after = checkpoint.load("tiny").model.to_state(), checkpoint.load(str(out)).model.to_state()
    leaves = zip(*(jax.tree_util.tree_leaves(state.graphstate) for state in (before, after)), strict=True)
    assert all(np.array_equal(first, second) for first, second in leaves)


def test_a_stop_by_a_bad_step_saves_the_good_ones_before_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third step earns what no float32 holds; the same command comes to the same end, another policy goes on."""
    real = Judge.__call__
    calls: list[int] = []

    def wild(self: Judge, utterances: Any, texts: Any) -> Any:
        verdict = real(self, utterances, texts)
        calls.append(len(calls))
        return dataclasses.replace(verdict, rewards=verdict.rewards * (1e36 if len(calls) == 3 else 1.0))

    monkeypatch.setattr(Judge, "__call__", wild)
    out = tmp_path / "run"
    dull = ("train.save_every=9", "train.samples_per_step=1", "loss.kind=dr_grpo")
    with pytest.raises(ModelError, match="step 3"):
        train(small_config(*dull), data, "tiny", out, on_step=silent)
    assert snapshot.steps(out) == [2]
    assert [line["step"] for line in lines(out / "metrics.jsonl")] == [1, 2]
    calls[:] = [0, 1]
    resumed = train(small_config(*dull, "train.on_nonfinite=skip"), data, "tiny", out, on_step=silent)
    assert (resumed.began_at, resumed.steps) == (2, 4)
    assert [line["grad_norm"] is None for line in lines(out / "metrics.jsonl")] == [False, False, True, False]


@pytest.mark.parametrize(
    "overrides",
    [
        ("rollout.rounds=3", "loss.iterations=2", "lora.rank=2", "optimizer.schedule=cosine", "loss.overlong_buffer=4"),
        ("engine=easydel", "lora.rank=2", "optimizer.schedule=linear"),
    ],
)
def test_what_else_a_step_hangs_on_is_taken_up_again(overrides: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    config = small_config("train.keep=1", "train.save_every=4", "train.samples_per_step=2", *overrides)
    train(config, data, "tiny", tmp_path / "straight", on_step=silent)
    assert train(config, data, "tiny", tmp_path / "run", on_step=stop_after(2)).steps == 2
    assert train(config, data, "tiny", tmp_path / "run", on_step=silent).began_at == 2
    demand_same(tmp_path / "straight", tmp_path / "run")


def test_a_stop_before_the_first_step_is_met_there(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = checkpoint.load

    def stopped(*arguments: Any, **how: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return load(*arguments, **how)

    monkeypatch.setattr(checkpoint, "load", stopped)
    result = train(CONFIG, data, "tiny", tmp_path / "run", on_step=lambda _: pytest.fail("a step was taken"))
    assert (result.steps, result.stopped, result.model) == (0, True, None)


def test_a_disk_too_full_for_the_model_is_one_line_and_its_checkpoint_holds(
    straight: tuple[RunResult, list[StepMetrics]], data: Path, tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight[0].out, out)
    shutil.rmtree(out / "model")
    small_files(1_000_000)
    with pytest.raises(ModelError, match=r"model: expected to write it, got .*File too large"):
        train(CONFIG, data, "tiny", out, on_step=silent)
    assert snapshot.newest(out) is not None
    assert not (out / "model").exists()
