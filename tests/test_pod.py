"""Several processes, one run: each its own rows, one writer, and what happens when one of them is lost."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from several import Hosts
from tones import tone_shards

from audiorl_cli import cli_pod
from audiorl_cli.cli_pod import Place
from audiorl_cli.errors import UsageError
from audiorl_cli.rl import snapshot

STEPS = 5
BATCH = 4

FLAT = ["tone0", "tone2", "tone3", "tone5", "tone7"]
"""Rows that earn nothing whatever is written: a batch that has one of them is sampled a second time."""

REWARD = f"""
import json, os

def f(completion, id):
    with open(os.environ["ROWS"] + os.environ.get("JAX_PROCESS_ID", "0"), "a") as file:
        file.write(json.dumps([id, completion]) + "\\n")
    if os.environ.get("FAIL") == os.environ.get("JAX_PROCESS_ID", "0"):
        raise ZeroDivisionError("a reward of the user's own")
    return 0.0 if id in {FLAT} else float(len(set(completion)) % 5)
"""


def words(folder: Path, out: Path, steps: int = STEPS) -> list[object]:
    settings = {
        "reward.weights": '{"counted:f" = 0.1}',
        "rollout.group_size": 4,
        "rollout.max_new_tokens": 8,
        "rollout.rounds": 2,
        "optimizer.learning_rate": 1e-3,
        "loss.beta": 0.05,
        "train.steps": steps,
        "train.batch_size": BATCH,
        "train.save_every": 1,
        "train.samples_per_step": 3,
        "validation.every": 3,
        "validation.batch_size": 4,
    }
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    data = ["--data", folder / "train" / "shards", "--validation", folder / "heldout" / "shards"]
    return [*data, "--model", "tiny", "--out", out, *sets]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pod")
    tone_shards(folder / "train", rows=9)
    tone_shards(folder / "heldout", rows=5)
    (folder / "counted.py").write_text(REWARD)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The run of one process."""
    out = folder / "alone"
    ((code, _, error),) = Hosts(
        1, words(folder, out), {"PYTHONPATH": str(folder), "ROWS": str(folder / "alone-")}
    ).ended()
    assert code == 0, error
    return out


@pytest.fixture(scope="module")
def disturbed(folder: Path) -> Path:
    """The same run by two processes, one of which is asked to stop, then by four, of which the first is killed, and by
    two at last."""
    out, rows = folder / "disturbed", {"PYTHONPATH": str(folder), "ROWS": str(folder / "disturbed-")}
    hosts = Hosts(2, words(folder, out), rows)
    hosts.wait_for(out / "metrics.jsonl", '"step": 1')
    hosts.processes[1].send_signal(signal.SIGTERM)
    (code, told, error), (other, *quiet) = hosts.ended()
    assert (code, other) == (75, 75), error
    assert "stopped at step" in told
    assert quiet == ["", ""]
    hosts = Hosts(4, words(folder, out), rows)
    hosts.wait_for(out / "metrics.jsonl", '"step": 3')
    hosts.processes[0].kill()
    (code, *_), *others = hosts.ended()
    assert code == -signal.SIGKILL
    for index, (code, told, error) in enumerate(others, 1):
        (line,) = error.splitlines()
        assert code == 75, error
        assert f"process {index} of 4: another process of this run has ended" in line
        assert "Run the same command again on every host" in line
        assert told == ""
    (code, told, error), (other, *quiet) = Hosts(2, words(folder, out), rows).ended()
    assert (code, other) == (0, 0), error
    assert f"{STEPS} steps; the model is in" in told
    assert quiet == ["", ""]
    return out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_whoever_took_its_steps_it_is_the_run_of_one_process(alone: Path, disturbed: Path) -> None:
    first, second = lines(alone / "metrics.jsonl"), lines(disturbed / "metrics.jsonl")
    assert [one["step"] for one in second] == list(range(1, STEPS + 1))
    exact = (
        "reward_mean",
        "sample_wer",
        "reward_counted:f",
        "prompts_sampled",
        "zero_spread_share",
        "completion_tokens_mean",
    )
    assert sum(one["prompts_sampled"] == 2 * BATCH for one in first) > 2
    for one, other in zip(first, second, strict=True):
        assert [one[name] for name in exact] == [other[name] for name in exact]
        for name in ("loss", "kl", "entropy", "grad_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6)
    assert len(lines(alone / "samples.jsonl")) == 3 * STEPS
    assert lines(disturbed / "samples.jsonl") == lines(alone / "samples.jsonl")
    for one, other in zip(lines(alone / "validation.jsonl"), lines(disturbed / "validation.jsonl"), strict=True):
        assert {**one, "transcribe_s": 0} == {**other, "transcribe_s": 0}
    arrays = [snapshot.load(run / "checkpoints" / f"step-{STEPS}").arrays for run in (alone, disturbed)]
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_allclose(arrays[1][name], array, rtol=1e-2, atol=2e-4, err_msg=name)
    # Nobody but the first writes, and it leaves what a process by itself does.
    assert sorted(os.listdir(disturbed)) == sorted(os.listdir(alone))
    assert sorted(os.listdir(disturbed / "model")) == sorted(os.listdir(alone / "model"))


@pytest.fixture(scope="module")
def failed(folder: Path) -> list[tuple[int, str, str]]:
    """One step of two processes, of which the second cannot judge its rows."""
    environment = {"PYTHONPATH": str(folder), "ROWS": str(folder / "failed-"), "FAIL": "1"}
    return Hosts(2, words(folder, folder / "failed", steps=1), environment).ended()


def test_what_fails_in_one_process_is_told_there_and_the_others_end(failed: list[tuple[int, str, str]]) -> None:
    (first, _, word), (second, _, trace) = failed
    assert (first, second) == (75, 1)
    assert "process 0 of 2: another process of this run has ended" in word
    assert "a reward of the user's own" in trace
    assert "Traceback" not in word


def test_one_whom_the_others_leave_alone_says_so(folder: Path) -> None:
    hosts = Hosts(2, words(folder, folder / "never"), {"JAX_INITIALIZATION_TIMEOUT": "3"}, come=[1])
    ((code, told, error),) = hosts.ended()
    (line,) = error.splitlines()
    assert (code, told) == (75, "")
    assert "process 1 of 2: another process of this run has ended or cannot be reached" in line
    assert not (folder / "never").exists()


def test_every_round_draws_what_one_process_draws(folder: Path, alone: Path, disturbed: Path) -> None:
    """Row by row and text by text; what was drawn again after a stop was the same."""
    by_several = set().union(*(completions(folder / f"disturbed-{index}") for index in range(4)))
    of_one = completions(folder / "alone-0")
    assert len(of_one) > STEPS * BATCH * 4
    assert by_several == of_one


def completions(path: Path) -> set[tuple[str, str]]:
    """The rows judged in one process, each with each of its completions."""
    return {tuple(json.loads(line)) for line in path.read_text().splitlines()}


def test_rewards_are_given_where_the_rows_are(
    folder: Path, alone: Path, disturbed: Path, failed: list[tuple[int, str, str]]
) -> None:
    mine, theirs = (judged(folder / f"failed-{index}") for index in range(2))
    assert len(mine) == 2
    assert len(theirs) == 1  # of its two, it failed at the first
    every = judged(folder / "alone-0")
    assert mine | theirs <= every
    assert not mine & theirs
    of_four = [judged(folder / f"disturbed-{index}") for index in range(4)]
    assert all(rows and rows <= every for rows in of_four)


def judged(path: Path) -> set[str]:
    """The ids of rows whose completions were judged in one process."""
    return {row for row, _ in completions(path)}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, None),
        ({"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, Place("h:1", 2, 1)),
        ({"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "h:1",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "1",
                "ENABLE_DISTRIBUTED_INIT": "0",
            },
            None,
        ),
        # Slurm, as JAX knows it: the port comes of the job's number, 65535 - 4095 + 1234 % 4096.
        (
            {
                "SLURM_JOB_ID": "1234",
                "SLURM_STEP_NODELIST": "tpu[1-3]",
                "SLURM_NTASKS": "3",
                "SLURM_PROCID": "2",
                "SLURM_LOCALID": "0",
            },
            Place("tpu1:62674", 3, 2),
        ),
    ],
)
def test_a_process_finds_its_place(
    told: dict[str, str], expected: Place | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    surround(monkeypatch, told)
    assert cli_pod.place() == expected


@pytest.mark.parametrize(
    "told",
    [
        {"JAX_NUM_PROCESSES": "2"},
        {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
        {"JAX_COORDINATOR_ADDRESS": "h", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
        {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "1"},
    ],
)
def test_half_a_place_is_refused(told: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    surround(monkeypatch, told)
    with pytest.raises(UsageError, match="JAX_COORDINATOR_ADDRESS=HOST:PORT"):
        cli_pod.place()


def surround(monkeypatch: pytest.MonkeyPatch, told: dict[str, str]) -> None:
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "ENABLE_DISTRIBUTED_INIT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
