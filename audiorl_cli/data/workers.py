"""Worker processes that cannot take the run down: results come in the order of the tasks, a crash costs one task.

Each worker is a fresh interpreter with one thread for arithmetic: how many of them there are changes no result.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from socket import socketpair
from tempfile import TemporaryFile
from typing import Any, Final, Generic, TypeVar

from audiorl_cli.errors import InstallError

Task = TypeVar("Task")
Result = TypeVar("Result")

_WINDOW: Final = 4  # tasks a worker that may be done before their turn: bounds what is held in memory
_MEMORY_BYTES: Final = 4 << 30  # a worker's private memory; decoding 30 s takes a hundredth of it
_COMPLAINT_BYTES: Final = 1000
_READY: Final = "ready"
# Threads of BLAS split a sum differently on machines with more cores; the bytes of a shard must not depend on that.
_ONE_THREAD: Final = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")}


def module_command(module: str, argument: str) -> list[str]:
    """The command that runs `module` in a fresh interpreter, without the working folder on its path."""
    return [sys.executable, "-P", "-m", module, argument]


def module_environment() -> dict[str, str]:
    """This process's environment, with its own module path: a fresh interpreter finds what this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@dataclass(frozen=True)
class Failure:
    """A task that cost its worker its life."""

    detail: str


@dataclass
class _Slot(Generic[Task]):
    """A task in its place in the order, and what became of it."""

    task: Task
    result: Any = None
    done: bool = False


class _Worker:
    """One process, the connection to it, and the task it is at."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        ours, theirs = socketpair()
        self.complaints = TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            module_command("audiorl_cli.data.workers", str(theirs.fileno())),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.complaints,
            env=module_environment() | _ONE_THREAD,
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self.slot: _Slot[Any] | None = None
        self.ready = False
        self.deadline = 0.0
        self.connection.send(function)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self.complaints.close()

    def last_words(self) -> str:
        """What a dead worker's traceback ended with, else how it ended."""
        self.process.wait()
        self.complaints.seek(max(0, self.complaints.seek(0, os.SEEK_END) - _COMPLAINT_BYTES))
        lines = self.complaints.read().decode("utf-8", "replace").splitlines()
        return lines[-1] if lines else f"exit code {self.process.returncode}"


def ordered(
    function: Callable[[Task], Result], tasks: Iterator[Task], workers: int, timeout_seconds: float
) -> Iterator[tuple[Task, Result | Failure]]:
    """Each task with its result, in the order of `tasks`, which are drawn no further ahead than a small window.

    `function` must be importable in a fresh interpreter. A task whose worker dies, runs out of memory or takes longer
    than `timeout_seconds` gets a Failure, and another worker takes over. Raises InstallError where none can start.
    """
    pool = [_Worker(function) for _ in range(workers)]
    order: deque[_Slot[Task]] = deque()
    drained = False
    try:
        while True:
            for worker in pool:
                if drained or len(order) >= _WINDOW * workers:
                    break
                if worker.ready and worker.slot is None:
                    slot = _next(tasks)
                    if slot is None:
                        drained = True
                        break
                    order.append(slot)
                    _give(worker, slot, timeout_seconds)
            while order and order[0].done:
                slot = order.popleft()
                yield slot.task, slot.result
            if drained and not order:
                return
            if any(worker.slot is not None or not worker.ready for worker in pool):
                _listen(pool, function)
    finally:
        for worker in pool:
            worker.stop()


def _next(tasks: Iterator[Task]) -> _Slot[Task] | None:
    for task in tasks:
        return _Slot(task)
    return None


def _give(worker: _Worker, slot: _Slot[Any], timeout_seconds: float) -> None:
    worker.slot, worker.deadline = slot, time.monotonic() + timeout_seconds
    try:
        worker.connection.send(slot.task)
    except OSError:  # it died between two tasks; listening to it will say so
        return


def _listen(pool: list[_Worker], function: Callable[[Any], Any]) -> None:
    """Wait until some worker has something to say or has overstayed, and act on it."""
    busy = {worker.connection: worker for worker in pool if worker.slot is not None or not worker.ready}
    deadlines = [worker.deadline for worker in pool if worker.slot is not None]
    patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
    heard = [busy[connection] for connection in wait(list(busy), patience) if isinstance(connection, Connection)]
    for worker in heard:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            worker.process.kill()
            _replace(pool, worker, function, f"the decoder crashed: {worker.last_words()}")
            continue
        if not worker.ready:
            worker.ready = True
        elif worker.slot is not None:
            worker.slot.result, worker.slot.done, worker.slot = message, True, None
    now = time.monotonic()
    for worker in [w for w in pool if w.slot is not None and w not in heard and now >= w.deadline]:
        _replace(pool, worker, function, "the decoder took too long")


def _replace(pool: list[_Worker], worker: _Worker, function: Callable[[Any], Any], detail: str) -> None:
    worker.stop()
    if not worker.ready:
        raise InstallError("a worker process", expected="to start", got=detail, fix="Mend the installation.")
    if worker.slot is not None:
        worker.slot.result, worker.slot.done = Failure(detail), True
    pool[pool.index(worker)] = _Worker(function)


def serve(connection: Connection) -> None:
    """A worker's life: receive the function, then tasks, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends its workers
    _limit_memory()
    try:
        function = connection.recv()
        connection.send(_READY)
        while True:
            task = connection.recv()
            try:
                result = function(task)
            except MemoryError:
                result = Failure("the decoder ran out of memory")
            connection.send(result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _limit_memory() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > _MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, hard))


if __name__ == "__main__":
    # Run as a program this file is the module __main__; what it sends must be of the module that the parent knows.
    from audiorl_cli.data import workers

    workers.serve(Connection(int(sys.argv[1])))
