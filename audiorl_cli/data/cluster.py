"""prep's work on a Ray cluster: what `workers` does with processes of this machine, done by tasks on all nodes.

A task prepares some utterances, by a worker process of its node, and another joins rows to a shard. Rows stay in Ray's
object store between the two: this process sees what became of each utterance, and of a shard the finished bytes, which
it writes to a folder; into an object store the nodes write themselves. What
was on a node that dies is made again by the tasks that made it; a shard that was written down is not.
"""

import hashlib
import os
import socket
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Final

from audiorl_cli.data.manifest import FileRecord
from audiorl_cli.data.prepare import Batch, Held, Preparation
from audiorl_cli.data.rejected import Rejection
from audiorl_cli.data.shards import PackedRow, StagedShard, stage_shard
from audiorl_cli.data.sources import Item
from audiorl_cli.data.store import Url
from audiorl_cli.data.tar import Member
from audiorl_cli.data.workers import Failure, Hand
from audiorl_cli.errors import AudioRLError, DataError, InstallError

_CHUNK: Final = 32  # utterances a task: a fifth of a second's work, a hundred times what Ray spends on a task
_AHEAD: Final = 3  # tasks a processor that are given out, or done before their turn: bounds what the cluster holds
_RETRIES: Final = 8  # deaths of nodes that one task may meet with
_CONNECT_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 5.0  # between two looks at how large the cluster is
# What decides the bytes of a shard besides our own code. The same release comes with the same libsndfile and FFmpeg.
_LIBRARIES: Final = ("numpy", "numba", "pyarrow", "soundfile", "soxr", "av")

Task = Item | Batch[Any]


@dataclass
class _Chunk:
    items: Sequence[Item]
    facts: Any  # reference to what became of each: seconds where it is a row
    rows: Any  # reference to the rows


def ordered(
    prepare: Preparation, items: Iterator[Task], timeout_seconds: float, urgent: deque[Task]
) -> Generator[tuple[Task, Held | Rejection | Failure | StagedShard], None, None]:
    """Each item with what became of it, in order; the batches put into `urgent` meanwhile with their shards, in order.

    A shard may come after outcomes of items beyond it. Raises InstallError where no cluster can be reached or a node
    has another installation, DataError for a recording that a node cannot see and for a cluster that gives up.
    """
    with _connected() as ray:
        settings = {"max_retries": _RETRIES, "num_cpus": 1}
        # SPREAD: without it the first node gets all that fits on it; a shard is joined where most of its rows are.
        prepared = ray.remote(**settings, num_returns=2, scheduling_strategy="SPREAD")(_prepared)
        joined = ray.remote(**settings, num_returns=1)(_joined)
        installation = _installation()
        chunks: deque[_Chunk] = deque()
        shards: deque[tuple[Batch[Held], Any]] = deque()
        processors, looked, drained = 1, -_LOOK_SECONDS, False
        while True:
            if time.monotonic() - looked >= _LOOK_SECONDS:
                processors, looked = max(1, int(ray.cluster_resources().get("CPU", 1))), time.monotonic()
            while not drained and len(chunks) < _AHEAD * processors:
                chunk = [_absolute(item) for item in islice(items, _CHUNK)]
                drained = len(chunk) < _CHUNK
                if chunk:
                    chunks.append(_Chunk(chunk, *prepared.remote(prepare, chunk, timeout_seconds, installation)))
            if not chunks and not shards:
                return
            # Shards come before further rows once one is due for every processor: rows wait where there is room.
            heads = [ref for _, ref in islice(shards, 1)]
            if chunks and len(shards) <= processors:
                heads.append(chunks[0].facts)
            ready, _ = ray.wait(heads, num_returns=1)
            if shards and ready == [shards[0][1]]:
                batch, ref = shards.popleft()
                yield batch, _staged(batch, *_got(ray, ref))
                continue
            head = chunks.popleft()
            for index, (item, fact) in enumerate(zip(head.items, _got(ray, head.facts), strict=True)):
                yield item, _outcome(item, fact, head.rows, index)
                while urgent:
                    due = urgent.popleft()
                    assert isinstance(due, Batch)
                    shards.append((due, joined.remote(*_by_reference(due))))


@contextmanager
def _connected() -> Iterator[Any]:
    """Ray, connected to the cluster of RAY_ADDRESS or of this machine for as long as the context lasts."""
    # Read when it is connected: else Ray warns of what a later version will do with graphics cards.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray._private import services, worker

    # Ray prints what befalls a cluster, pages for a node that dies, to standard output, where --json goes. There is no
    # public switch. What matters arrives as exceptions.
    worker._worker_logs_enabled = False
    try:
        # Where nobody listens Ray itself would try for minutes, and write of it to the terminal.
        host, _, port = services.canonicalize_bootstrap_address_or_die("auto").rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        address = os.environ.get("RAY_ADDRESS")
        raise InstallError(
            "--engine ray",
            expected=f"a Ray cluster at {address} (RAY_ADDRESS)" if address else "a Ray cluster on this machine",
            got="none that answers" if isinstance(error, OSError) else str(error).splitlines()[0],
            fix="Start one with `ray start --head`, or set RAY_ADDRESS to one that this machine is a node of.",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()  # what is still at work for this run ends with it


def _got(ray: Any, reference: Any) -> Any:
    """What a task returned. Raises its own error where that is one of ours, DataError where the cluster gave up."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AudioRLError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise DataError(
            "the Ray cluster",
            expected=f"to finish a task within {_RETRIES} retries",
            got=str(error).splitlines()[0],
            fix="Mend it and run again: prep goes on after the last finished shard.",
        ) from error


def _absolute(item: Task) -> Item:
    """The item for a process with another working folder."""
    assert not isinstance(item, Batch)
    if isinstance(item, Rejection) or not isinstance(item.audio, Path | Member):
        return item
    if isinstance(item.audio, Member):
        return replace(item, audio=replace(item.audio, archive=Path(os.path.abspath(item.audio.archive))))
    return replace(item, audio=Path(os.path.abspath(item.audio)))


def _outcome(item: Item, fact: "float | Rejection | Failure", rows: Any, index: int) -> Held | Rejection | Failure:
    if isinstance(fact, float):
        return Held(fact, rows, index)
    unseen = isinstance(fact, Rejection) and fact.reason in ("missing", "unreadable")
    audio = None if isinstance(item, Rejection) else item.audio
    file = audio.archive if isinstance(audio, Member) else audio
    if unseen and isinstance(file, Path) and os.access(file, os.R_OK):
        raise DataError(
            str(file),
            expected="a recording that every node of the Ray cluster can read",
            got="one that only this machine can",
            fix="Put SOURCE on a file system that all nodes share, or into an object store.",
        )
    return fact


def _by_reference(batch: Batch[Held]) -> tuple[Any, ...]:
    """The arguments of `_joined`: the lists of rows as references, which Ray brings to the node that joins them."""
    lists = list(dict.fromkeys(row.rows for row in batch.rows))
    places = {rows: number for number, rows in enumerate(lists)}
    chosen = [(places[row.rows], row.index) for row in batch.rows]
    return (replace(batch, rows=()), chosen, *lists)


def _prepared(
    prepare: Preparation, items: Iterable[Item], timeout_seconds: float, installation: str
) -> tuple[list[Any], list[PackedRow | None]]:
    """On a node: what became of each item, seconds where it is a row, and the rows."""
    if _installation() != installation:
        raise InstallError(
            f"node {os.uname().nodename} of the Ray cluster",
            expected=f"audiorl as it is on the machine that began this: {installation}",
            got=_installation(),
            fix="Install the same on every node: the bytes of shards depend on it.",
        )
    results = _hand(prepare, timeout_seconds)(items)
    facts = [result.duration_s if isinstance(result, PackedRow) else result for result in results]
    return facts, [result if isinstance(result, PackedRow) else None for result in results]


def _joined(batch: Batch[PackedRow], chosen: Sequence[tuple[int, int]], *lists: Any) -> tuple[FileRecord, bytes | None]:
    """On a node: the shard of the chosen rows, each given by its list and its place there.

    Into an object store it is written from here, and its bytes are None. A folder need not be the node's to see.
    """
    whole = replace(batch, rows=[lists[number][index] for number, index in chosen])
    return (whole.stage().record, None) if isinstance(batch.path, Url) else whole.content()


def _staged(batch: Batch[Held], record: FileRecord, content: bytes | None) -> StagedShard:
    return StagedShard(batch.path, record) if content is None else stage_shard(batch.path, record, content)


@cache
def _hand(prepare: Preparation, timeout_seconds: float) -> Hand[Item, Any]:
    # Ray keeps a process for further tasks of a run, and ends it with the run.
    return Hand(prepare, timeout_seconds)


@cache
def _installation() -> str:
    """The versions of what decides the bytes of a shard, and a digest of our own code for it."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    return ", ".join([f"audiorl {code.hexdigest()[:12]}", *(f"{name} {_version(name)}" for name in _LIBRARIES)])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
