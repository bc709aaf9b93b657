"""The command line as its users meet it: real processes, exit codes, one line for what went wrong."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tones import small_config, tone_shards
from typer.testing import CliRunner

from audiorl_cli import config as configs
from audiorl_cli import options


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
    for command in ("prep", "check-batch", "warmstart", "train", "forecast", "plot", "eval", "score", "doctor", "demo"):
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
        (("plot", "{tmp}", "--out", "{tmp}/out"), "metrics.jsonl"),
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


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (("prep", "{tmp}"), "SOURCE"),
        (("warmstart", "--model", "tiny", "--data", "{tmp}"), "--data"),
        (("train", "--model", "{tmp}", "--data", "x"), "--model"),
        (("train", "--model", "tiny", "--data", "x", "--validation", "{tmp}"), "--validation"),
        (("eval", "{tmp}", "--data", "x"), "MODEL"),
        (("forecast", "--model", "tiny", "--data", "{tmp}"), "--data"),
        (("demo", "--speech", "{tmp}"), "--speech"),
    ],
)
def test_nothing_is_written_into_what_is_read(words: tuple[str, ...], called: str, tmp_path: Path) -> None:
    done = audiorl(*(word.format(tmp=tmp_path) for word in words), "--out", f"{tmp_path}/.")
    assert done.returncode == 2
    assert f"expected a folder of its own, got the place of {called}. Give another --out." in one_line(done)
    assert list(tmp_path.iterdir()) == []


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


def test_forecast_tells_what_there_is_to_learn_and_train_takes_the_rows_that_teach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "fonts"))  # a new machine's, where none were looked for yet
    data, config, rows = tone_shards(tmp_path / "tones"), tmp_path / "config.toml", tmp_path / "rows.jsonl"
    config.write_text(configs.dump(small_config("train.steps=1", "train.samples_per_step=2", "rollout.top_k=500")))
    words = ("--config", config, "--data", data, "--model", "tiny", "--out")
    done = audiorl("forecast", *words, tmp_path / "forecast", "--rows", "6", "--write-subset", rows)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("6 groups of 4 at temperature 1: reward 0.")
    groups = [json.loads(line) for line in (tmp_path / "forecast/groups.jsonl").read_text().splitlines()]
    rows.write_text("".join(f"{json.dumps(group)}\n" for group in groups[2:4]))  # any two of them
    done = audiorl("train", *words, tmp_path / "run", "--subset", rows)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/run: 1 step; the model is in {tmp_path}/run/model\n")
    assert "note rollout.top_k = 500: tokens that it leaves out are never sampled" in done.stderr
    samples = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    assert {sample["id"] for sample in samples} == {group["id"] for group in groups[2:4]}
    rows.write_text(json.dumps({"id": groups[0]["id"]}))
    assert "--accept-changes" in one_line(audiorl("train", *words, tmp_path / "run", "--subset", rows))
    done = audiorl("plot", tmp_path / "run", "--out", tmp_path / "curves")
    files = ", ".join(f"{tmp_path}/curves/curves.{suffix}" for suffix in ("png", "svg", "html"))
    assert (done.stdout, done.stderr) == (f"1 run, 1 step: {files}\n", "")


def test_a_run_that_was_stopped_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    data, config, out = tone_shards(tmp_path / "tones"), tmp_path / "config.toml", tmp_path / "run"
    config.write_text(configs.dump(small_config("train.steps=2", "train.save_every=1")))
    script = (Path(__file__).with_name("killed.py"), "step-1", int(signal.SIGTERM))
    words = ("train", "--config", config, "--data", data, "--model", "tiny", "--out", out)
    command = [sys.executable, *map(str, (*script, *words))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (75, f"{out}: stopped at step 1; the same command goes on from there\n")


def test_a_command_is_told_as_it_was_typed() -> None:
    told: list[str] = []
    app = typer.Typer()

    @app.command()
    def other() -> None:
        pass

    @app.command("eval")
    def evaluate(
        context: typer.Context,
        model: str,
        data: options.Data,
        by: options.By = None,
        overrides: options.Overrides = None,
        replicates: options.Replicates = 10_000,
        json: options.Json = False,
    ) -> None:
        told.append(options.typed(context))

    words = ["eval", "my run", "--data", "d", "--by", "room", "--by", "speaker", "--json", "--set", "a.b='c'"]
    for given in (words, ["eval", "m", "--data", "d", "--replicates", "10000"]):
        assert CliRunner().invoke(app, given).exit_code == 0
    assert told == [
        "audiorl eval 'my run' --data d --by room --by speaker --set 'a.b='\"'\"'c'\"'\"'' --json",
        "audiorl eval m --data d --replicates 10000",
    ]
