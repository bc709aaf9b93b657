"""The command line as its users meet it: real processes, exit codes, one line for what went wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def audiorl(*words: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "audiorl_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The single line on standard error, after seeing that it is single and that nothing else was printed."""
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_help_and_version_import_nothing_heavy() -> None:
    heavy = "{'jax', 'easydel', 'numpy', 'torch', 'transformers', 'datasets', 'librosa', 'numba', 'pyarrow'}"
    code = f"""
import sys
from typer.testing import CliRunner
from audiorl_cli.cli import app
for words in (["--help"], ["--version"], ["train", "--help"]):
    assert CliRunner().invoke(app, words).exit_code == 0
print(sorted({heavy} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_of_the_house_is_there() -> None:
    shown = audiorl("--help").stdout
    for command in ("prep", "check-batch", "warmstart", "train", "eval", "score", "doctor", "demo"):
        assert f" {command} " in shown


def test_no_command_is_wrong_usage() -> None:
    assert audiorl("trian").returncode == 2
    assert audiorl("eval", "tiny").returncode == 2


def test_a_setting_out_of_bounds_is_wrong_usage_in_one_line(tmp_path: Path) -> None:
    done = audiorl("prep", tmp_path, "--out", tmp_path / "out", "--clip-seconds", "1.2345")
    assert done.returncode == 2
    assert "--clip-seconds" in one_line(done)


@pytest.mark.parametrize(
    ("words", "item"),
    [
        (("prep", "{tmp}/absent", "--out", "{tmp}/out"), "absent"),
        (("check-batch", "--data", "{tmp}", "--model", "tiny"), "manifest.json"),
        (("train", "--data", "{tmp}", "--model", "tiny", "--out", "{tmp}/run"), "manifest.json"),
        (("train", "--config", "{tmp}/no.toml", "--data", "x", "--model", "tiny", "--out", "{tmp}/run"), "no.toml"),
        (("warmstart", "--set", "rollout.groups=4", "--data", "x", "--model", "tiny", "--out", "{tmp}/w"), "groups"),
        (("eval", "tiny", "--data", "{tmp}", "--out", "{tmp}/report", "--baseline", "{tmp}"), "metrics.json"),
        (("score", "{tmp}/a.tsv", "{tmp}/b.tsv"), "a.tsv"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(words: tuple[str, ...], item: str, tmp_path: Path) -> None:
    done = audiorl(*(word.format(tmp=tmp_path) for word in words))
    assert done.returncode == 1
    line = one_line(done)
    assert item in line
    assert "expected" in line
    assert "got" in line


def test_score_reads_text_and_answers_in_json(tmp_path: Path) -> None:
    (tmp_path / "ref.tsv").write_text("a\tone two three\nb\tfour\n", encoding="utf-8")
    (tmp_path / "hyp.tsv").write_text("b\tfour five\na\tone three\n", encoding="utf-8")
    done = audiorl("score", tmp_path / "ref.tsv", tmp_path / "hyp.tsv", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert (result["substitutions"], result["insertions"], result["deletions"]) == (0, 1, 1)
    assert result["wer"] == 0.5
    assert result["intervals"]["wer"] == {"low": 1 / 3, "high": 1.0}  # either utterance, twice
    done = audiorl("score", tmp_path / "ref.tsv", tmp_path / "hyp.tsv", "--replicates", "0", "--json")
    assert json.loads(done.stdout)["intervals"] is None


def test_prep_tells_what_it_kept_and_what_it_left_out(tmp_path: Path, speech: Path) -> None:
    manifest = tmp_path / "some.jsonl"
    rows = [
        {"audio": str(speech / "digits" / "recordings" / "7_theo_3.wav"), "text": "seven"},
        {"audio": str(speech / "digits" / "recordings" / "no_such.wav"), "text": "eight"},
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = audiorl("prep", manifest, "--out", tmp_path / "shards", "--clip-seconds", "3", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["utterances"] == 1
    assert result["rejected"] == {"missing": 1}
    strict = audiorl("prep", manifest, "--out", tmp_path / "strict", "--clip-seconds", "3", "--strict")
    assert strict.returncode == 1
    assert "some.jsonl line 2" in one_line(strict)


def test_doctor_says_that_all_is_well_and_how_the_keys_got_in() -> None:
    done = audiorl("doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert report["patch"]["took_hold"] is True
    assert {entry["name"] for entry in report["patch"]["lists"]} >= {"FLATTENABLE_MULTIMODAL_KEYS", "_TOKENIZED_FIELDS"}
