"""Runs and reports in an object store, over its real protocol: what is there is always fit to go on from."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest
from flax import nnx
from objects import BUCKET, Objects, objects_below, serving
from tones import small_config, tone_shards
from typer.testing import CliRunner

from audiorl_cli.bridge import checkpoint
from audiorl_cli.cli import app
from audiorl_cli.data import mirror
from audiorl_cli.data.lock import Holder
from audiorl_cli.data.mirror import Mirror
from audiorl_cli.data.store import Url
from audiorl_cli.errors import DataError, ModelError
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
    assert not list((tmp_path / "second" / "runs").glob("[!.]*"))
    store.log.clear()
    again = learn(url, data)
    assert (again.began_at, again.steps, str(again.model)) == (4, 4, f"{url}/model")
    # Two are written anew, and who writes there is said meanwhile.
    assert store.sent(r"one/.*\w$") == store.sent(r"one/(config.toml|run.json|.owner.json)$") == 3
    assert store.sent(r"one/.owner.json$", "DELETE") == 1


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


def test_of_two_that_write_there_the_one_that_began_later_goes_on(store: Objects, url: Url, data: Path) -> None:
    other = Holder(7, "another-host", "today", "audiorl train").dump()

    def taken_over(metrics: StepMetrics) -> None:
        if metrics.step == 2:
            (url / ".owner.json").write_bytes(other)

    with pytest.raises(
        DataError, match=rf"{url}: .* got `audiorl train` \(process 7 on another-host, .* taken it over"
    ):
        learn(url, data, taken_over)
    there = objects_below(url)
    assert "checkpoints/step-2/snapshot.json" in there
    assert "checkpoints/step-3/snapshot.json" not in there
    assert there[".owner.json"] == other
    assert learn(url, data).began_at == 2


def test_on_one_machine_one_at_a_time_learns_there(store: Objects, url: Url, data: Path) -> None:
    with Mirror(url).claimed(), pytest.raises(DataError, match=f"{url}: expected no other command that writes there"):
        learn(url, data)
    assert objects_below(url) == {}


def test_the_store_is_what_counts(store: Objects, url: Url) -> None:
    kept = Mirror(url)
    write(kept.folder, "metrics.jsonl", "checkpoints/step-1/arrays.safetensors", "checkpoints/step-1/snapshot.json")
    write(kept.folder, "model/config.json", "model/model.safetensors", "checkpoints/.step-2.tmp/snapshot.json")
    kept.push()
    put = [path.partition("/one/")[2] for method, path in store.log if method == "PUT" and not path.endswith("/")]
    assert put == [
        "metrics.jsonl",
        "checkpoints/step-1/arrays.safetensors",
        "checkpoints/step-1/snapshot.json",
        "model/model.safetensors",
        "model/config.json",
    ]
    (kept.folder / "metrics.jsonl").write_text("another")
    (kept.folder / "model" / "config.json").unlink()
    store.log.clear()
    kept.push()
    assert [store.sent(r"one/.*\w$"), store.sent("one/metrics"), store.sent("model/config", "DELETE")] == [1, 1, 1]
    # Of a model without its config nothing comes back, nor stays; nor does what the store does not have.
    write(kept.folder, "suspicions.jsonl")
    kept = Mirror(url)
    kept.pull()
    visible = (path.relative_to(kept.folder).as_posix() for path in kept.folder.rglob("[!.]*") if path.is_file())
    names = sorted(name for name in visible if "tmp" not in name)
    assert names == ["checkpoints/step-1/arrays.safetensors", "checkpoints/step-1/snapshot.json", "metrics.jsonl"]
    assert (kept.folder / "metrics.jsonl").read_text() == "another"


def test_a_run_is_heard_and_compared_where_it_is(
    store: Objects, url: Url, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(url, data)
    another_machine(tmp_path / "second", monkeypatch)
    out = f"s3://{BUCKET}/{tmp_path.name}/report"
    store.log.clear()
    evaluate(url, data, out)
    assert {"metrics.json", "report.html", "utterances.jsonl"} <= objects_below(Url(out)).keys()
    report = objects_below(Url(out))["report.html"].decode()
    assert "config.toml" in report
    assert str(url) in report  # the command, as it was given
    # Of the run its model and what it says of itself, not its checkpoints.
    assert store.sent(r"model\.safetensors", "GET") >= 1
    assert store.sent(r"checkpoints/step.*safetensors", "GET") == 0
    store.log.clear()
    mirror._copied.cache_clear()  # as in another process
    told = evaluate(url, data, str(tmp_path / "again"), "--baseline", out)
    assert "probability of improvement" in told
    assert store.sent(r"model\.safetensors", "GET") == 0
    with pytest.raises(DataError, match=r"none/metrics.json: expected a report .* got no such object"):
        evaluate(url, data, str(tmp_path / "again"), "--baseline", f"s3://{BUCKET}/none")


def test_a_model_in_a_store_is_the_one_that_is_there_now(store: Objects, url: Url, tmp_path: Path) -> None:
    first = tmp_path / "model"
    checkpoint.save(checkpoint.load("tiny"), first)
    put(first, url)
    assert not list(mirror.local(url).glob("*.safetensors"))
    assert checkpoint.abstract(url).source == url
    assert not list(mirror.local(url).glob("*.safetensors"))
    before = checkpoint.load(url)
    changed = nnx.state(before.model, nnx.Param)
    nnx.update(before.model, jax.tree_util.tree_map(lambda values: values + 1, changed))
    checkpoint.save(before, first)
    time.sleep(1.1)  # a store's clock may tick in seconds
    put(first, url)
    mirror._copied.cache_clear()
    after = checkpoint.load(url)
    assert equal(after.model, before.model)
    assert not equal(after.model, checkpoint.load("tiny").model)
    with pytest.raises(ModelError, match=f"{url}none: expected tiny, .* got no such folder"):
        checkpoint.load(f"{url}none")


def test_what_no_process_has_in_use_makes_room(store: Objects, url: Url, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (url / name / "config.json").write_bytes(b"{}")
    script = "import sys, time; from audiorl_cli.data.mirror import local; print(local(sys.argv[1]), flush=True); "
    script += "sys.stdin.read()"

    def using(name: str) -> tuple[subprocess.Popen[str], Path]:
        command = [sys.executable, "-c", script, url / name]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        return process, Path(process.stdout.readline().strip())

    first, one = using("a")
    second, two = using("b")
    assert (one / "config.json").exists()
    assert (two / "config.json").exists()
    first.kill()
    first.communicate()
    third, three = using("c")
    assert not one.parent.exists()
    assert (two / "config.json").exists()
    assert (three / "config.json").exists()
    for process in (second, third):
        process.communicate()


def put(folder: Path, url: Url) -> None:
    for path in folder.iterdir():
        (url / path.name).write_bytes(path.read_bytes())


def equal(one: Any, other: Any) -> bool:
    pairs = zip(*(jax.tree_util.tree_leaves(nnx.state(each, nnx.Param)) for each in (one, other)), strict=True)
    return all(bool((a == b).all()) for a, b in pairs)


def evaluate(model: str, data: Path, out: str, *more: str) -> str:
    words = ["eval", model, "--data", str(data), "--out", out, "--max-new-tokens", "2", "--replicates", "10", *more]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
