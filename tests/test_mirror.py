"""Runs and reports in an object store, over its real protocol: what is there is always fit to go on from."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from objects import BUCKET, Objects, objects_below, serving
from tones import small_config, tone_shards
from typer.testing import CliRunner

from audiorl_cli.cli import app
from audiorl_cli.data.mirror import Mirror
from audiorl_cli.data.store import Url
from audiorl_cli.errors import DataError
from audiorl_cli.rl import remote
from audiorl_cli.rl.metrics import StepMetrics
from audiorl_cli.rl.run import RunResult, train

CONFIG = small_config("train.keep=2", "train.save_every=1")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    another_machine(tmp_path / "first", monkeypatch)
    with serving() as objects:
        yield objects


@pytest.fixture
def url(tmp_path: Path) -> Url:
    return Url(f"s3://{BUCKET}/{tmp_path.name}/one")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_shards(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the run on this disk."""
    out = tmp_path_factory.mktemp("straight") / "one"
    train(CONFIG, data, "tiny", out, on_step=lambda _: None)
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def another_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIORL_CACHE", str(cache))


def learn(url: Url, data: Path, on_step: Callable[[StepMetrics], None] = lambda _: None) -> RunResult:
    run = partial(train, CONFIG, data, "tiny", on_step=on_step)
    return remote.at(url, lambda folder, saved: run(folder, on_saved=saved))


def stop_after(step: int) -> Callable[[StepMetrics], None]:
    return lambda metrics: os.kill(os.getpid(), signal.SIGTERM) if metrics.step == step else None


def comparable(files: dict[str, bytes]) -> dict[str, Any]:
    """The files without what was timed."""
    plain: dict[str, Any] = dict(files)
    steps = [json.loads(line) for line in files["metrics.jsonl"].splitlines()]
    plain["metrics.jsonl"] = [{name: v for name, v in step.items() if not name.endswith("_s")} for step in steps]
    return plain


def test_a_run_begun_on_one_machine_is_finished_on_another(
    store: Objects, url: Url, data: Path, straight: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: set[str] = set()

    def once(method: str, path: str) -> str | None:
        if method != "PUT" or path in failed:
            return None
        failed.add(path)
        return "503 Slow Down"

    store.failing = once
    begun = learn(url, data, stop_after(2))
    assert [str(begun.out), begun.steps, begun.stopped, begun.model] == [url, 2, True, None]
    assert len(failed) > 5
    another_machine(tmp_path / "second", monkeypatch)
    done = learn(url, data)
    assert (done.began_at, done.steps, str(done.model)) == (2, 4, f"{url}/model")
    assert comparable(objects_below(url)) == comparable(straight)
    assert not list((tmp_path / "second" / "runs").iterdir())
    store.log.clear()
    again = learn(url, data)
    assert (again.began_at, again.steps, str(again.model)) == (4, 4, f"{url}/model")
    assert store.sent(r"one/.*\w$") == store.sent(r"one/(config.toml|run.json)$") == 2  # which are written anew


def test_a_store_that_refuses_leaves_what_can_be_gone_on_from(
    store: Objects, url: Url, data: Path, straight: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.failing = lambda method, path: "403 Forbidden" if method == "PUT" and "step-3/snapshot.json" in path else None
    with pytest.raises(DataError, match=rf"{url}: expected to read and write there, got .*step-3"):
        learn(url, data)
    assert "checkpoints/step-3/arrays.safetensors" in objects_below(url)  # half a checkpoint
    store.failing = lambda method, path: None
    another_machine(tmp_path / "second", monkeypatch)
    assert learn(url, data).began_at == 2
    assert comparable(objects_below(url)) == comparable(straight)


def test_the_store_is_what_counts(store: Objects, url: Url) -> None:
    mirror = Mirror(url)
    write(mirror.folder, "metrics.jsonl", "checkpoints/step-1/arrays.safetensors", "checkpoints/step-1/snapshot.json")
    write(mirror.folder, "model/config.json", "model/model.safetensors", "checkpoints/.step-2.tmp/snapshot.json")
    mirror.push()
    put = [path.partition("/one/")[2] for method, path in store.log if method == "PUT" and not path.endswith("/")]
    assert put == [
        "metrics.jsonl",
        "checkpoints/step-1/arrays.safetensors",
        "checkpoints/step-1/snapshot.json",
        "model/model.safetensors",
        "model/config.json",
    ]
    (mirror.folder / "metrics.jsonl").write_text("another")
    (mirror.folder / "model" / "config.json").unlink()
    store.log.clear()
    mirror.push()
    assert [store.sent(r"one/.*\w$"), store.sent("one/metrics"), store.sent("model/config", "DELETE")] == [1, 1, 1]
    # Of a model without its config nothing comes back, nor stays; nor does what the store does not have.
    write(mirror.folder, "suspicions.jsonl")
    mirror = Mirror(url)
    mirror.pull()
    visible = (path.relative_to(mirror.folder).as_posix() for path in mirror.folder.rglob("[!.]*") if path.is_file())
    names = sorted(name for name in visible if "tmp" not in name)
    assert names == ["checkpoints/step-1/arrays.safetensors", "checkpoints/step-1/snapshot.json", "metrics.jsonl"]
    assert (mirror.folder / "metrics.jsonl").read_text() == "another"


def test_a_report_goes_where_it_is_wanted(store: Objects, data: Path) -> None:
    out = f"s3://{BUCKET}/reports/tiny"
    words = ["eval", "tiny", "--data", str(data), "--out", out, "--max-new-tokens", "2", "--replicates", "10"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"{out}/report.html" in done.output
    assert {"metrics.json", "report.html", "utterances.jsonl"} <= objects_below(Url(out)).keys()


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
