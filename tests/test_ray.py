"""prep on a real Ray cluster of two nodes: the local engine's bytes, whatever dies."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from objects import BUCKET, Objects, files_in, objects_below, serving

from audiorl_cli.data import cluster
from audiorl_cli.data.prep import PrepSettings, Progress, prep
from audiorl_cli.data.prepare import Preparation
from audiorl_cli.data.rejected import Rejection
from audiorl_cli.data.sources import Utterance
from audiorl_cli.data.store import Url
from audiorl_cli.errors import DataError, InstallError

# Ray leaves the files open that it starts the processes of a cluster with.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LOCAL = PrepSettings(clip_seconds=3.0, rows_per_shard=40)
RAY = PrepSettings(clip_seconds=3.0, rows_per_shard=40, engine="ray")
WORDS = ("--clip-seconds", "3", "--rows-per-shard", "40", "--engine", "ray")
MEMORY = 80 << 20  # of a node's object store, the least that Ray takes
# A node is missed after a second rather than after fifteen.
WATCHFUL = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 250,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 4,
}


@pytest.fixture(scope="module")
def source(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 digits, with recordings that cannot be used among them, at the start and at the end."""
    folder = tmp_path_factory.mktemp("source")
    lines = (speech / "digits/manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[:400]]
    for row in rows:
        row["audio"] = str(speech / "digits" / row["audio"])
    for number, line in enumerate((speech / "broken/manifest.jsonl").read_text().splitlines()):
        name = json.loads(line)["audio"]
        rows.insert(17 * number, {"audio": str(speech / "broken" / name), "text": "la la", "id": name})
    rows.append({"audio": "nonsuch.wav", "text": "x"})
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def local(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "data"
    prep(str(source), out, LOCAL)
    return out


@pytest.fixture(scope="module")
def store() -> Iterator[Objects]:
    with serving() as objects:
        yield objects


@pytest.fixture(scope="module")
def head(store: Objects) -> Iterator[Any]:
    """A cluster of one node, to which tests add their own. Nodes have the environment that they were started with."""
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False, "_system_config": WATCHFUL}
    one = Cluster(initialize_head=True, head_node_args=arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", one.address)
        yield one
    one.shutdown()  # type: ignore[no-untyped-call]


def _at_work(node: Any) -> bool:
    """Whether a worker of ours runs below this node's raylet."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return any("audiorl_cli.data.workers" in child.cmdline() for child in raylet.children(recursive=True))


def test_a_node_that_dies_costs_what_it_was_at(
    head: Any, store: Objects, source: Path, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = head.add_node(num_cpus=1, object_store_memory=MEMORY)
    out = Url(f"s3://{BUCKET}/data")
    written: set[str] = set()

    def kill(progress: Progress) -> None:
        if progress.done == 130:
            assert _at_work(node)
            assert _at_work(head.head_node)
            written.update(name for name in (out / ".progress").files() if name != "begun.json")
            head.remove_node(node, allow_graceful=False)

    summary = prep(str(source), out, RAY, kill)
    assert summary.resumed == 0
    assert objects_below(out) == files_in(local)
    # The nodes put the shards there themselves, none that was written down more than once.
    assert written
    assert {store.sent(f"data-{name[4:9]}.parquet") for name in written} == {1}
    assert capsys.readouterr().out == ""  # where --json goes


@pytest.mark.parametrize("killer", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_where_it_was(
    head: Any, source: Path, local: Path, tmp_path: Path, killer: signal.Signals
) -> None:
    out = tmp_path / "data"
    words = [Path(__file__).with_name("killed.py"), "data-00003.parquet", int(killer), "prep", source, "--out", out]
    done = subprocess.run([sys.executable, *map(str, words), *WORDS], capture_output=True, text=True)
    interrupted = "interrupted. Run it again: prep, warmstart and train go on from where they were."
    said = {signal.SIGKILL: (-killer, ""), signal.SIGINT: (130, f"error {interrupted}\n")}[killer]
    assert (done.returncode, done.stderr, done.stdout) == (*said, "")
    written = {path: path.stat().st_mtime_ns for path in out.glob("data-*.parquet")}
    assert sorted(path.name for path in written) == [f"data-0000{number}.parquet" for number in range(3)]
    if killer == signal.SIGINT:
        return
    words = ["prep", source, "--out", out, *WORDS, "--json"]
    done = subprocess.run([sys.executable, "-m", "audiorl_cli", *map(str, words)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["resumed"] >= 120
    assert written == {path: path.stat().st_mtime_ns for path in written}
    assert files_in(out) == files_in(local)


def test_no_cluster_is_one_line(source: Path, tmp_path: Path) -> None:
    words = ["prep", source, "--out", tmp_path / "data", *WORDS]
    done = subprocess.run(
        [sys.executable, "-m", "audiorl_cli", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error --engine ray: expected a Ray cluster at 127.0.0.1:1 (RAY_ADDRESS), got none that answers. "
        "Start one with `ray start --head`, or set RAY_ADDRESS to one that this machine is a node of.\n"
    )


def test_a_recording_that_only_this_machine_sees_is_not_called_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    item, fact = Utterance("a", path, "text", "a.wav", "a.wav"), Rejection("a", "a.wav", "missing", "no such file")
    assert cluster._outcome(item, fact, None, 0) is fact
    path.touch()
    with pytest.raises(DataError, match=r"a.wav: expected a recording that every node of the Ray cluster can read"):
        cluster._outcome(item, fact, None, 0)


def test_a_node_with_another_installation_makes_nothing() -> None:
    with pytest.raises(InstallError, match=r"node .* expected audiorl as it is on .*: another, got audiorl "):
        cluster._prepared(Preparation("float16", 300, 0.1, 3.0, "mix"), [], 1.0, "another")
