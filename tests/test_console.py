"""What a person sees: plain text in files and pipes, one line for an interruption, counts that read as English."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tones import tone_shards

from audiorl_cli import console
from audiorl_cli.data.prep import PrepSummary
from audiorl_cli.rl.metrics import WarmstartMetrics


def _shown(capsys: pytest.CaptureFixture[str], summary: PrepSummary) -> list[str]:
    console.prep_summary(summary)
    return capsys.readouterr().out.splitlines()


def test_one_is_singular(capsys: pytest.CaptureFixture[str]) -> None:
    one = PrepSummary(Path("data"), 1, 0.5, 1, {}, 0, 2.0, 0.25)
    assert _shown(capsys, one) == ["data: 1 utterance, 0.500 h, in 1 shard", "2.0 s, 900 s of audio a second"]
    two = PrepSummary(Path("data"), 2, 0.5, 3, {}, 1, 2.0, 0.25)
    assert _shown(capsys, two)[:2] == ["data: 2 utterances, 0.500 h, in 3 shards", "1 row done by an earlier run"]


def test_a_run_with_nothing_left_to_do_claims_no_speed(capsys: pytest.CaptureFixture[str]) -> None:
    done = PrepSummary(Path("data"), 2, 0.5, 1, {"missing": 1}, 3, 0.1, 0.0)
    assert _shown(capsys, done)[-1] == "all of it was done by an earlier run"


def test_a_run_shows_its_last_step_wherever_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    for ends, shown in ((47, ["1", "20", "40", "47"]), (40, ["1", "20", "40"])):
        with console.warmstart_progress(400) as on_step:
            for step in range(1, ends + 1):
                on_step(WarmstartMetrics(step, 1.0, 0.5, 1.0, 1e-3, 0.1))
        lines = [line.split() for line in capsys.readouterr().err.splitlines()]
        assert [words[0] for words in lines] == ["step", *shown]


def test_ctrl_c_is_one_line_and_what_is_done_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "data"
    words = ["prep", tone_shards(tmp_path).parent / "source", "--out", out, "--rows-per-shard", "2", "--workers", "1"]
    killed = [Path(__file__).with_name("killed.py"), "data-00001.parquet", int(signal.SIGINT), *words]
    done = subprocess.run([sys.executable, *map(str, killed)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "error interrupted. Run it again: prep, warmstart and train go on from where they were.\n"
    assert (out / "data-00000.parquet").exists()
    assert not (out / "manifest.json").exists()
