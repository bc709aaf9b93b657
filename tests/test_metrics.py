import importlib.util
import json
from pathlib import Path

import pytest

from audiorl_cli.errors import InstallError
from audiorl_cli.rl.metrics import RunLog, Sample, WarmstartMetrics, finite


def metrics(step: int, loss: float = 1.0) -> WarmstartMetrics:
    return WarmstartMetrics(step, loss, 0.5, 1.0, 1e-3, 0.1)


def test_a_log_opened_at_a_step_forgets_what_came_after(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write(metrics(step), [Sample(step, "é", "one", ("two",), (0.5,))])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    with RunLog(tmp_path, 2) as log:
        log.write(metrics(3, loss=9.0))
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in steps] == [(1, 1.0), (2, 1.0), (3, 9.0)]
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [sample["step"] for sample in samples] == [1, 2]
    assert samples[0] == {"step": 1, "id": "é", "reference": "one", "completions": ["two"], "rewards": [0.5]}


@pytest.mark.parametrize(("loss", "verdict"), [(1.0, True), (float("nan"), False), (float("inf"), False)])
def test_a_loss_that_is_no_number_is_seen(loss: float, verdict: bool) -> None:
    assert finite(metrics(1, loss)) is verdict


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_missing_tracker_is_named(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="pip install wandb"):
        RunLog(tmp_path, 0, wandb="project")
