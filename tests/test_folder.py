"""The folder of a run: who may go on in it, with what settings."""

import json
from pathlib import Path

import numpy as np
import pytest
from tones import small_config

from audiorl_cli import config as configs
from audiorl_cli.errors import ConfigError, ModelError
from audiorl_cli.rl import snapshot
from audiorl_cli.rl.folder import Kind, Origin, open_run


def origin(kind: Kind = "train", normaliser: str = "rules") -> Origin:
    return Origin(kind, data="digest", model="tiny", normaliser=normaliser)


def begun(out: Path, *overrides: str, kind: Kind = "train", taken: int = 2) -> None:
    """A run of four steps in `out` that has a checkpoint of `taken`."""
    open_run(out, small_config(*overrides), origin(kind), resume=True)
    snapshot.save(out, taken, {"step": np.asarray(taken, np.int32)}, keep=1)


def test_what_a_run_keeps_may_change_and_is_written_down(tmp_path: Path) -> None:
    begun(tmp_path, "optimizer.schedule=linear")
    changed = small_config(
        "optimizer.schedule=linear", "train.save_every=1", "train.keep=7", "train.samples_per_step=0"
    )
    open_run(tmp_path, changed, origin(), resume=True)
    assert configs.load(tmp_path / "config.toml") == changed


def test_a_run_does_not_claim_another_export_than_its_model_is(tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / "model").mkdir()
    before = (tmp_path / "config.toml").read_bytes()
    with pytest.raises(ConfigError, match=r"config\.train\.export was 'thinker' and is 'omni'"):
        open_run(tmp_path, small_config("train.export=omni"), origin(), resume=True)
    assert (tmp_path / "config.toml").read_bytes() == before


@pytest.mark.parametrize("steps", [2, 3, 40])
@pytest.mark.parametrize("kind", ["train", "warmstart"])
def test_steps_may_change_where_the_learning_rate_does_not_hang_on_them(tmp_path: Path, kind: Kind, steps: int) -> None:
    begun(tmp_path, kind=kind)
    longer = small_config(f"{kind}.steps={steps}")
    open_run(tmp_path, longer, origin(kind), resume=True)
    assert configs.load(tmp_path / "config.toml") == longer


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_steps_may_not_change_under_a_schedule_that_spans_them(tmp_path: Path, schedule: str) -> None:
    begun(tmp_path, f"optimizer.schedule={schedule}")
    before = (tmp_path / "config.toml").read_bytes()
    with pytest.raises(ConfigError, match=rf"train\.steps: expected the 4 .* got 8\. Its {schedule} schedule spans"):
        open_run(tmp_path, small_config(f"optimizer.schedule={schedule}", "train.steps=8"), origin(), resume=True)
    assert (tmp_path / "config.toml").read_bytes() == before


def test_a_schedule_of_reinforcement_does_not_bind_a_supervised_run(tmp_path: Path) -> None:
    begun(tmp_path, "optimizer.schedule=linear", kind="warmstart")
    longer = small_config("optimizer.schedule=linear", "warmstart.steps=8")
    open_run(tmp_path, longer, origin("warmstart"), resume=True)
    assert configs.load(tmp_path / "config.toml").warmstart.steps == 8


def test_steps_taken_are_not_taken_back(tmp_path: Path) -> None:
    begun(tmp_path, taken=3)
    with pytest.raises(ConfigError, match=r"train\.steps: expected at least the 3 it has taken, got 2"):
        open_run(tmp_path, small_config("train.steps=2"), origin(), resume=True)


def test_a_finished_run_without_checkpoints_cannot_go_on(tmp_path: Path) -> None:
    open_run(tmp_path, small_config(), origin(), resume=True)
    (tmp_path / "model").mkdir()
    open_run(tmp_path, small_config(), origin(), resume=True)
    with pytest.raises(ConfigError, match=r"expected a checkpoint of its 4 steps to go on from, got none"):
        open_run(tmp_path, small_config("train.steps=8"), origin(), resume=True)


@pytest.mark.parametrize("learnt", ["checkpoint", "model", "metrics"])
def test_what_decides_a_step_may_change_until_one_is_taken(tmp_path: Path, learnt: str) -> None:
    open_run(tmp_path, small_config("reward.weights={wer = 1.0}"), origin("warmstart"), resume=True)
    (tmp_path / "metrics.jsonl").touch()
    open_run(tmp_path, small_config("reward.weights={cer = 1.0}"), origin(), resume=True)
    assert configs.load(tmp_path / "config.toml").reward.weights == {"cer": 1.0}
    if learnt == "checkpoint":
        snapshot.save(tmp_path, 1, {}, keep=1)
    elif learnt == "model":
        (tmp_path / "model").mkdir()
    else:
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match=r"config\.reward\.weights\.cer was 1\.0 and is 2\.0"):
        open_run(tmp_path, small_config("reward.weights={cer = 2.0}"), origin(), resume=True)
    with pytest.raises(ConfigError, match="kind was 'train' and is 'warmstart'"):
        open_run(tmp_path, small_config("reward.weights={cer = 1.0}"), origin("warmstart"), resume=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="a folder to write to"):
        open_run(tmp_path / "file" / "run", small_config(), origin(), resume=True)


def test_another_version_of_the_normaliser_is_another_run(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(ConfigError, match="normaliser was 'rules' and is 'new rules'"):
        open_run(tmp_path, small_config(), origin(normaliser="new rules"), resume=True)
    known = json.loads((tmp_path / "run.json").read_text())
    del known["normaliser"]  # as an earlier version left it
    (tmp_path / "run.json").write_text(json.dumps(known))
    open_run(tmp_path, small_config(), origin(normaliser="new rules"), resume=True)


def test_changes_that_are_accepted_are_written_down(tmp_path: Path) -> None:
    begun(tmp_path, "optimizer.schedule=linear")
    for rate, steps in (("1e-3", 4), ("1e-4", 6)):
        changed = small_config("optimizer.schedule=linear", f"optimizer.learning_rate={rate}", f"train.steps={steps}")
        with pytest.raises(ConfigError, match="--accept-changes"):
            open_run(tmp_path, changed, origin(), resume=True)
        open_run(tmp_path, changed, origin(), resume=True, accept_changes=True)
        assert configs.load(tmp_path / "config.toml") == changed
        open_run(tmp_path, changed, origin(), resume=True)
    assert [json.loads(line) for line in (tmp_path / "changes.jsonl").read_text().splitlines()] == [
        {"step": 2, "changed": ["config.optimizer.learning_rate was 0.01 and is 0.001"]},
        {"step": 2, "changed": ["config.optimizer.learning_rate was 0.001 and is 0.0001"]},
    ]
    with pytest.raises(ConfigError, match="at least the 2 it has taken"):
        open_run(tmp_path, small_config("train.steps=1"), origin(), resume=True, accept_changes=True)


def test_a_run_that_has_lost_its_checkpoints_is_not_begun_anew(tmp_path: Path) -> None:
    config = small_config("train.save_every=2")
    open_run(tmp_path, config, origin(), resume=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')  # killed before the first was whole
    open_run(tmp_path, config, origin(), resume=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n')
    with pytest.raises(ModelError, match=r"checkpoints: expected a checkpoint of the 3 steps .* every 2, got none"):
        open_run(tmp_path, small_config("train.save_every=9"), origin(), resume=True)
    snapshot.save(tmp_path, 2, {}, keep=1)
    open_run(tmp_path, config, origin(), resume=True)
