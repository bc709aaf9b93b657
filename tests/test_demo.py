"""The demo: every command of the line, one after another, on data made in the test."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from audiorl_cli import config as configs
from audiorl_cli import demo
from audiorl_cli.errors import ConfigError


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "audiorl_cli", "demo", "--quick", "--out", str(out)]
    return out, subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def test_the_whole_line_runs_and_leaves_what_it_says(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, process = done
    assert process.returncode == 0, process.stderr
    for step in demo.steps(out):
        assert f"$ {step.line}\n" in process.stdout.replace("\r", "")
    for left in ("warmstart/model/config.json", "run/model/model.safetensors", "reports/run/utterances.jsonl"):
        assert (out / left).is_file()
    before, after = (json.loads((out / "reports" / name / "metrics.json").read_text()) for name in ("warmstart", "run"))
    assert before["rows"] == after["rows"] == 8
    assert before["data_digest"] == after["data_digest"]


def test_the_last_report_can_be_looked_at_and_listened_to(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, process = done
    shown = out / "reports" / "run" / "report.html"
    assert f"to look at and listen to: {shown}" in process.stdout
    page = shown.read_text(encoding="utf-8")
    assert f'aria-label="The command">{demo.steps(out)[-1].line}</pre>' in page
    assert page.count("<img ") == page.count('<audio controls preload="metadata"') > 0  # prep's source is there
    assert "config.toml of the run that trained it" in page


def test_the_terminal_shows_our_output_and_nothing_else(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, process = done
    for noise in ("Warning", "warning", "WARN", "INFO", "Traceback", "DeprecationWarning", "absl"):
        assert noise not in process.stdout + process.stderr


def test_run_again_it_does_nothing_twice(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = done
    metrics = (out / "run" / "metrics.jsonl").read_bytes()
    ran: list[str] = []

    def command(words: Sequence[str]) -> int:
        ran.append(words[0])
        return 0

    speech = (out / "speech" / "train" / "manifest.jsonl").stat().st_mtime_ns
    assert demo.run(out, None, seed=0, quick=True, command=command, say=lambda _: None) == 0
    assert ran == ["prep", "prep", "check-batch", "warmstart", "eval", "train", "eval"]
    assert (out / "speech" / "train" / "manifest.jsonl").stat().st_mtime_ns == speech
    assert (out / "run" / "metrics.jsonl").read_bytes() == metrics


def test_another_demo_in_the_same_folder_is_refused(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = done
    with pytest.raises(ConfigError, match=r"demo\.toml"):
        demo.run(out, None, seed=1, quick=True, command=lambda _: 0, say=lambda _: None)


def test_a_step_that_fails_ends_it_with_its_code(tmp_path: Path) -> None:
    codes = iter([3])
    assert demo.run(tmp_path, None, seed=0, quick=True, command=lambda _: next(codes), say=lambda _: None) == 3


def test_its_config_is_one_that_train_takes(tmp_path: Path) -> None:
    full, quick = demo.settings(3, quick=False), demo.settings(3, quick=True)
    assert full.seed == quick.seed == 3
    assert quick.train.steps < full.train.steps
    path = tmp_path / "demo.toml"
    path.write_text(configs.dump(full), encoding="utf-8")
    assert configs.load(path) == full
