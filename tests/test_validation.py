"""Held-out data while a run learns: what is measured, which step a run ends with, and when it has seen enough."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tones import small_config, tone_shards
from trackers import tensorboard_shows

from audiorl_cli.bridge import checkpoint, selection
from audiorl_cli.data.shards import open_shards
from audiorl_cli.errors import ConfigError, ModelError, UsageError
from audiorl_cli.evaluate import metrics
from audiorl_cli.evaluate.transcripts import evaluate
from audiorl_cli.rl import snapshot
from audiorl_cli.rl.metrics import StepMetrics, Validation, validations
from audiorl_cli.rl.run import RunResult, train
from audiorl_cli.rl.state import named
from audiorl_cli.rl.validation import best, fruitless
from audiorl_cli.rl.warmstart import warmstart

# Every step changes weights, by so little that no transcript is another: none is better than the start.
CONFIG = small_config("optimizer.learning_rate=1e-9", "validation.every=1", "train.keep=1", "train.save_every=9")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_shards(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_shards(tmp_path_factory.mktemp("held"), rows=3)


@pytest.fixture(scope="module")
def patient(data: Path, held: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, list[Any]]:
    """A run that ends once two validations were no better than its start, and what it told."""
    told: list[Any] = []
    config = dataclasses.replace(CONFIG, validation=dataclasses.replace(CONFIG.validation, patience=2))
    out = tmp_path_factory.mktemp("runs") / "run"
    result = train(
        config,
        data,
        "tiny",
        out,
        validation=held,
        on_step=lambda step: told.append(step.step),
        on_validation=lambda one, so_far: told.append((one.step, so_far.step)),
        tensorboard=True,
    )
    return result, told


def _one(step: int, wer: float) -> Validation:
    return Validation(step, wer, wer, 0.0, 0.0, 0.0, 1.0, "data", "normaliser")


def _silent(metrics: StepMetrics) -> None:
    pass


@pytest.mark.parametrize(
    ("wers", "step", "after"),
    [((0.5,), 0, 0), ((0.5, 0.4, 0.4, 0.6), 1, 2), ((0.5, 0.6, 0.3), 2, 0), ((0.2, 0.2, 0.2), 0, 2)],
)
def test_the_best_is_the_first_of_the_fewest_errors(wers: tuple[float, ...], step: int, after: int) -> None:
    seen = [_one(number, wer) for number, wer in enumerate(wers)]
    assert best(seen) is seen[step]
    assert fruitless(seen) == after
    assert (best([]), fruitless([])) == (None, 0)


def test_a_run_ends_when_its_patience_does(patient: tuple[RunResult, list[Any]]) -> None:
    result, told = patient
    assert told == [(0, 0), 1, (1, 0), 2, (2, 0)]
    assert (result.steps, result.stopped) == (2, False)
    seen = validations(result.out)
    assert [one.step for one in seen] == [0, 1, 2]
    assert result.best == seen[0]
    assert snapshot.steps(result.out) == [0, 2]  # the best, and the newest one to keep
    steps, wers = zip(*tensorboard_shows(result.out)["validation_wer"], strict=True)
    assert steps == (0, 1, 2)
    assert wers == pytest.approx([one.wer for one in seen])


def test_the_model_of_a_run_is_its_best_step(patient: tuple[RunResult, list[Any]], held: Path) -> None:
    result, _ = patient
    assert result.best
    assert result.best.step == 0
    start, ended = (checkpoint.load(name) for name in ("tiny", str(result.out)))
    before, after = (named(each.model.to_state().graphstate) for each in (start, ended))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    last = snapshot.of_step(result.out, 2).arrays
    assert not all(np.array_equal(array, last[f"graphstate/{name}"]) for name, array in before.items())
    found = evaluate(ended, open_shards(held), CONFIG.prompt, max_new_tokens=8).metrics
    assert found.wer == result.best.wer
    card = (result.out / "model" / "README.md").read_text()
    assert "| steps | 0 |" in card
    chosen = f"chosen by the lowest WER ({100 * found.wer:.2f} %) of 3 measured on the validation set {held} (3 utt"
    assert f"| which step | step 0 of 2 of train, {chosen}erances, digest {open_shards(held).digest[:16]}) |" in card


def test_a_wer_on_what_chose_the_model_is_said_to_be_too_low(
    patient: tuple[RunResult, list[Any]], data: Path, held: Path, tmp_path: Path
) -> None:
    # Anywhere else, without its run; one of the six rows of `data` is one of the three of `held` too.
    model = shutil.copytree(patient[0].out / "model", tmp_path / "elsewhere")
    ended, told = checkpoint.load(str(model)), []
    for shards in (held, data):
        found = evaluate(ended, open_shards(shards), CONFIG.prompt, max_new_tokens=8).metrics
        assert [(one.by, one.step, one.steps, one.data) for one in found.selections] == [("train", 0, 2, str(held))]
        assert metrics.of_table(json.loads(json.dumps(found.table()))) == found
        told.append((found.selections[0].shared, found.optimism))
    which = "utterances are of the validation set that chose the model (train step 0): this WER is"
    for (shared, optimism), count, begins in zip(told, (3, 1), ("all 3", "1 of the 6"), strict=True):
        assert shared == count
        assert optimism
        assert optimism.startswith(f"{begins} {which}")


def test_a_run_without_validation_says_so_and_what_chose_the_model_it_began_with(
    patient: tuple[RunResult, list[Any]], data: Path, held: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, warmstart=dataclasses.replace(CONFIG.warmstart, steps=1))
    result = warmstart(config, data, str(patient[0].out), tmp_path / "run", on_step=lambda _: None)
    card = (result.out / "model" / "README.md").read_text()
    assert "| which step | step 1 of 1 of warmstart, the last: no validation set chose it |" in card
    assert "| it began with | step 0 of 2 of train, chosen by" in card
    ended = checkpoint.load(str(result.out))
    assert [one.by for one in selection.decode(ended.files, "")] == ["train", "warmstart"]
    found = evaluate(ended, open_shards(held), CONFIG.prompt, max_new_tokens=8).metrics
    assert [one.shared for one in found.selections] == [3, 0]
    assert found.optimism
    assert "(train step 0)" in found.optimism


def test_what_chose_a_model_and_cannot_be_read_is_told() -> None:
    for content in (b"{", b"[]", b'{"version": 2, "selections": []}', b'{"version": 1, "selections": [{}]}'):
        with pytest.raises(ModelError, match=r"there: audiorl_selection\.json: expected what chose the model"):
            selection.decode({selection.FILE: content}, "there")
    assert selection.decode({}, "there") == ()


def test_a_run_that_had_enough_is_not_run_again(
    patient: tuple[RunResult, list[Any]], data: Path, held: Path, tmp_path: Path
) -> None:
    result, _ = patient
    config = dataclasses.replace(CONFIG, validation=dataclasses.replace(CONFIG.validation, patience=2))
    again = train(config, data, "tiny", result.out, validation=held, on_step=lambda _: pytest.fail("a step was taken"))
    assert (again.steps, again.best, again.model) == (2, result.best, result.out / "model")


def test_a_stopped_run_validates_as_an_undisturbed_one(
    patient: tuple[RunResult, list[Any]], data: Path, held: Path, tmp_path: Path
) -> None:
    def stop(metrics: StepMetrics) -> None:
        if metrics.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    out, untimed = tmp_path / "run", []
    assert train(CONFIG, data, "tiny", out, validation=held, on_step=stop).stopped
    line = json.dumps(dataclasses.asdict(_one(2, 0.0)))
    with open(out / "validation.jsonl", "a") as file:  # as if killed after another step, with a line cut short
        file.write(f'{line}\n{{"st')
    result = train(CONFIG, data, "tiny", out, validation=held, on_step=_silent)
    for run in (patient[0].out, out):
        untimed.append([dataclasses.replace(one, transcribe_s=0.0) for one in validations(run)])
    assert untimed[1][:3] == untimed[0]
    assert [one.step for one in untimed[1]] == [0, 1, 2, 3, 4]  # without patience, to its end
    assert (result.best and result.best.step, snapshot.steps(out)) == (0, [0, 4])


def test_the_best_step_of_a_run_that_learns_is_a_late_one(data: Path, tmp_path: Path) -> None:
    held = tone_shards(tmp_path / "held", rows=2)  # rows 0 and 1 of a longer tone each: what is learnt carries over
    config = small_config(
        "warmstart.steps=40",
        "warmstart.batch_size=6",
        "warmstart.learning_rate=3e-3",
        "rollout.max_new_tokens=24",
        "validation.every=20",
    )
    result = warmstart(config, data, "tiny", tmp_path / "run", validation=held, on_step=lambda _: None)
    seen = validations(result.out)
    assert [one.step for one in seen] == [0, 20, 40]
    assert result.best
    assert result.best == min(seen, key=lambda one: one.wer)
    assert result.best.step > 0
    assert result.best.wer < seen[0].wer
    found = evaluate(checkpoint.load(str(result.out)), open_shards(held), config.prompt, max_new_tokens=24).metrics
    assert found.wer == result.best.wer
    parts = (result.best.substitutions, result.best.insertions, result.best.deletions)
    assert sum(parts) == pytest.approx(result.best.wer)


def test_what_a_run_learns_from_is_not_held_out(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--validation: expected other recordings"):
        train(CONFIG, data, "tiny", tmp_path / "run", validation=data, on_step=_silent)
    assert not (tmp_path / "run").exists()


def test_other_held_out_data_is_another_run(
    patient: tuple[RunResult, list[Any]], data: Path, held: Path, tmp_path: Path
) -> None:
    other = tone_shards(tmp_path / "other", rows=2)
    out = tmp_path / "run"
    short = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=1))
    longer = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=2))
    train(short, data, "tiny", out, validation=held, on_step=_silent)
    with pytest.raises(ConfigError, match="validation was"):
        train(longer, data, "tiny", out, validation=other, on_step=_silent)
    result = train(longer, data, "tiny", out, validation=other, on_step=_silent, accept_changes=True)
    digest = open_shards(other).digest
    assert [(one.step, one.data == digest) for one in validations(out)] == [
        (0, False),
        (1, False),
        (1, True),
        (2, True),
    ]
    assert result.best
    assert result.best.data == digest  # what was measured on the other says nothing of it


def test_a_log_that_holds_something_else_is_told(patient: tuple[RunResult, list[Any]], tmp_path: Path) -> None:
    (tmp_path / "validation.jsonl").write_text('{"step": 1, "word": 2}\n')
    with pytest.raises(ModelError, match=r"validation.jsonl: expected validations"):
        validations(tmp_path)
