"""What a run's log holds, read back as its readers do: lines of JSON, TensorBoard, Weights & Biases."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import wandb
from trackers import tensorboard_shows, wandb_holds

from audiorl_cli.errors import InstallError, ModelError
from audiorl_cli.rl.metrics import RunLog, Sample, StepMetrics, WarmstartMetrics, finite, last


def metrics(step: int, loss: float = 1.0) -> WarmstartMetrics:
    return WarmstartMetrics(step, loss, 0.5, 1.0, 1e-3, 0.1)


def test_a_log_opened_at_a_step_forgets_what_came_after(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write(metrics(step), [Sample(step, "é", "one", ("t\u2028wo",), (0.5,), ({"wer": 0.5},), "d1")])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    with RunLog(tmp_path, 2) as log:
        log.write(metrics(3, loss=9.0))
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in steps] == [(1, 1.0), (2, 1.0), (3, 9.0)]
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_bytes().splitlines()]
    assert [sample["step"] for sample in samples] == [1, 2]
    assert samples[0] == {
        "step": 1,
        "id": "é",
        "reference": "one",
        "completions": ["t\u2028wo"],
        "rewards": [0.5],
        "parts": [{"wer": 0.5}],
        "normaliser": "d1",
    }


@pytest.mark.parametrize(("loss", "verdict"), [(1.0, True), (float("nan"), False), (float("inf"), False)])
def test_a_loss_that_is_no_number_is_seen(loss: float, verdict: bool) -> None:
    assert finite(metrics(1, loss)) is verdict


def test_a_number_that_is_none_is_null_in_the_log(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, tensorboard=True) as log:
        log.write(metrics(1, loss=float("nan")))
    told = last(tmp_path)
    assert told == {**asdict(metrics(1)), "loss": None}
    assert "loss" not in tensorboard_shows(tmp_path)


@pytest.mark.parametrize("line", ['{"step": 1, "lo', '{"step": null}', "7", "\0\0\0"])
def test_a_line_that_is_no_step_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{line}\n{{"step": 2}}\n')
    with pytest.raises(ModelError, match=r"metrics\.jsonl: expected a step in every line"):
        RunLog(tmp_path, 2)
    path.write_text(f"{line}\n")
    with pytest.raises(ModelError, match=r"metrics\.jsonl: expected a step in every line"):
        last(tmp_path)


def test_a_full_disk_is_one_line_and_costs_no_earlier_step(tmp_path: Path, small_files: Callable[[int], None]) -> None:
    with RunLog(tmp_path, 0) as log:
        log.write(metrics(1))
        small_files((tmp_path / "metrics.jsonl").stat().st_size + 10)
        with pytest.raises(ModelError, match=r"metrics\.jsonl: .* got File too large"):
            log.write(metrics(2))
    assert not (tmp_path / "metrics.jsonl").read_text().endswith("\n")
    with RunLog(tmp_path, 1):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == json.dumps(asdict(metrics(1))) + "\n"


def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").mkdir()
    with pytest.raises(ModelError, match=r"samples\.jsonl: expected to read and write it, got Is a directory"):
        RunLog(tmp_path, 0)


@pytest.mark.parametrize(
    ("package", "asked"), [("wandb", {"wandb": "project"}), ("tensorboard", {"tensorboard": True})]
)
def test_a_missing_tracker_is_named(
    package: str, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # what `import` finds where it is not installed
    with pytest.raises(InstallError, match=f"pip install {package}"):
        RunLog(tmp_path, 0, **asked)


def test_tensorboard_shows_each_number_at_its_step(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, tensorboard=True) as log:
        errors, rest = (0.75, 0.5, 0.125, 0.125, {"wer": 0.5}), (8.0, 0.0625, 1.0, 2.0, 3.0)
        sampler = (0.25, 0.5, 0.125, 0.0)
        log.write(StepMetrics(1, 0.5, 0.25, *errors, None, 0.0, 6.0, None, *sampler, 8, 0.125, 4.0, -2.0, *rest))
        log.write(StepMetrics(2, 1.5, 0.25, *errors, 0.375, 0.0, 6.0, 0.25, *sampler, 8, 0.125, 4.0, -3.0, *rest))
        assert tensorboard_shows(tmp_path)["loss"] == [(1, -2.0), (2, -3.0)]  # on the disk, should the run be killed
    shown = tensorboard_shows(tmp_path)
    assert shown.keys() == {field.name for field in fields(StepMetrics)} - {"step", "rewards"} | {"reward_wer"}
    assert shown["reward_wer"] == [(1, 0.5), (2, 0.5)]
    assert shown["reward_mean"] == [(1, 0.5), (2, 1.5)]
    assert shown["kl"] == [(2, 0.375)]  # there was none at step 1
    assert shown["step_s"] == [(1, 3.0), (2, 3.0)]


def test_tensorboard_shows_a_step_that_was_redone_once(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, tensorboard=True) as log:
        for step in range(1, 8):
            log.write(metrics(step, loss=float(step)))
    with RunLog(tmp_path, 5, tensorboard=True) as log:  # killed after step 7, its newest checkpoint of step 5
        log.write(metrics(6, loss=60.0))
    assert tensorboard_shows(tmp_path)["loss"] == [*((step, float(step)) for step in range(1, 6)), (6, 60.0)]
    with RunLog(tmp_path, 0, tensorboard=True) as log:  # killed before it had any
        log.write(metrics(1, loss=10.0))
    assert tensorboard_shows(tmp_path)["loss"] == [(1, 10.0)]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Weights & Biases as a user without a network has it, whatever the machine's own settings are."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("offline")
def test_weights_and_biases_hold_every_resumption_under_one_id(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "digits"
    run.mkdir()
    with RunLog(run, 0, wandb="speech") as log:
        log.write(metrics(1))
        log.write(metrics(2, loss=0.5))
    with RunLog(run, 1, wandb="speech") as log:
        log.write(metrics(2, loss=0.5))
        log.write(metrics(3, loss=0.25))
    assert capfd.readouterr() == ("", "")
    first, second = wandb_holds(run)
    assert (first.project, first.name) == (second.project, second.name) == ("speech", "digits")
    assert first.id == second.id
    assert first.steps == {
        1: {"loss": 1.0, "token_accuracy_share": 0.5, "grad_norm": 1.0, "learning_rate": 1e-3, "step_s": 0.1},
        2: {"loss": 0.5, "token_accuracy_share": 0.5, "grad_norm": 1.0, "learning_rate": 1e-3, "step_s": 0.1},
    }
    assert {step: numbers["loss"] for step, numbers in second.steps.items()} == {2: 0.5, 3: 0.25}
    assert (first.exit_code, second.exit_code) == (0, 0)


@pytest.mark.usefixtures("offline")
def test_weights_and_biases_know_of_a_run_that_failed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunLog(tmp_path, 0, wandb="speech"):
        raise KeyError
    assert [session.exit_code for session in wandb_holds(tmp_path)] == [1]


def test_who_is_not_logged_in_is_told_so_and_asked_nothing(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from audiorl_cli.errors import InstallError
from audiorl_cli.rl.metrics import RunLog
try:
    RunLog(Path({str(tmp_path)!r}), 0, wandb="speech")
except InstallError as error:
    print(error)
"""
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | home
    shown, terminal = os.openpty()  # where there is one, it asks
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    assert process.wait(timeout=120) == 0
    said = os.read(shown, 10_000).decode()
    os.close(shown)
    assert said.startswith("--wandb speech: expected to log there, got No API key configured.")
    assert said.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in Linux's /proc")
@pytest.mark.parametrize("ending", ["log.__exit__(None, None, None)", "os.kill(os.getpid(), 9)"])
@pytest.mark.usefixtures("offline")
def test_weights_and_biases_leave_no_process_behind(tmp_path: Path, ending: str) -> None:
    code = f"""
import os
from pathlib import Path
from audiorl_cli.rl.metrics import RunLog
log = RunLog(Path({str(tmp_path)!r}), 0, wandb="speech")
print("logging", flush=True)
input()
{ending}
"""
    mark = f"AUDIORL_TEST={tmp_path}"  # its children inherit it
    environment = os.environ | dict([mark.split("=")])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"logging\n"
        assert len(_marked(mark)) >= 2
        process.communicate(b"\n", timeout=60)
    patience = time.monotonic() + 30
    while _marked(mark) and time.monotonic() < patience:
        time.sleep(0.1)
    assert _marked(mark) == []


def _marked(mark: str) -> list[str]:
    """The numbers of the processes with `mark` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone since, or another user's
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(folder.name)
    return found
