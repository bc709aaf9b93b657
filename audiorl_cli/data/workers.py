"""Worker processes that cannot take the run down: results come in the order of the tasks, a crash costs at most one.

Each worker is a fresh interpreter with one thread for arithmetic: how many of them there are changes no result.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from socket import socketpair
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, Any, Final, Generic, TypeVar

from audiorl_cli.errors import InstallError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Tasks a worker that may be done before their turn: bounds what is held in memory. As many as are done while one worker
# is at an urgent task, which may take that long.
_WINDOW: Final = 32
_AHEAD: Final = 2  # tasks a worker has at hand: it need not wait until its last result was taken
_MEMORY_BYTES: Final = 4 << 30  # a worker's private memory; decoding 30 s takes a hundredth of it
_COMPLAINT_BYTES: Final = 1000
_FAREWELL_SECONDS: Final = 10.0  # in which a worker that has closed its connection ends
_READY: Final = "ready"
_KILLED: Final = f"exit code -{signal.SIGKILL.value}"  # by the system, for want of memory: a decoder does not
_GONE: Final = object()  # where a task would be: the other side is gone
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
    """A task that cost two workers their lives."""

    detail: str


@dataclass
class _Slot(Generic[Task]):
    """A task in its place in the order, and what became of it. `lost`: it was with a worker that is gone."""

    task: Task
    result: Any = None
    done: bool = False
    lost: bool = False


class _Worker:
    """One process, the connection to it, and the tasks it has: it is at the first."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        try:
            self.connection, self.process, self.complaints = _started()
        except OSError as error:
            raise _not_started(str(error.strerror)) from error
        self.slots: deque[_Slot[Any]] = deque()
        self.ready = False
        self.deadline = 0.0
        self.connection.send(function)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self.complaints.close()

    def last_words(self) -> str:
        """What the traceback of a worker that has said its last ended with, else how it ended."""
        try:
            self.process.wait(_FAREWELL_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "a result that cannot be read"
        self.complaints.seek(max(0, self.complaints.seek(0, os.SEEK_END) - _COMPLAINT_BYTES))
        lines = self.complaints.read().decode("utf-8", "replace").splitlines()
        return lines[-1] if lines else f"exit code {self.process.returncode}"


def _started() -> tuple[Connection, "subprocess.Popen[bytes]", IO[bytes]]:
    """A new worker process, the connection to it, and the file that it complains into. Raises OSError."""
    with ExitStack() as opened:
        ours, theirs = map(opened.enter_context, socketpair())
        complaints = opened.enter_context(TemporaryFile())
        process = subprocess.Popen(
            module_command("audiorl_cli.data.workers", str(theirs.fileno())),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            env=module_environment() | _ONE_THREAD,
        )
        theirs.close()
        opened.pop_all()
        return Connection(ours.detach()), process, complaints


def ordered(
    function: Callable[[Task], Result],
    tasks: Iterator[Task],
    workers: int,
    timeout_seconds: float,
    urgent: deque[Task] | None = None,
) -> Generator[tuple[Task, Result | Failure], None, None]:
    """Each task with its result, in the order of `tasks`, which are drawn no further ahead than a window.

    What is put into `urgent` while a result is looked at is done before the tasks to come, and its result comes next.
    `function` must be importable in a fresh interpreter; a method `start` of it is what each worker does first. A task
    whose worker dies or takes longer than `timeout_seconds` is given to another; at the second time, or where it runs
    out of memory, its result is a Failure. Raises InstallError where a worker cannot start, and where the system ends
    (SIGKILL) the second one that is at a task.
    """
    pool: list[_Worker] = []
    try:
        for _ in range(workers):
            pool.append(_Worker(function))
        yield from _ordered(pool, function, tasks, timeout_seconds, deque() if urgent is None else urgent)
    finally:
        for worker in pool:
            worker.stop()


class Hand(Generic[Task, Result]):
    """One such worker that is kept from one call to the next, as long as this process lives."""

    def __init__(self, function: Callable[[Task], Result], timeout_seconds: float) -> None:
        self._function, self._timeout_seconds = function, timeout_seconds
        self._pool = [_Worker(function)]

    def __call__(self, tasks: Iterable[Task]) -> list[Result | Failure]:
        """The results of `tasks`, in their order, as `ordered` gives them."""
        done = _ordered(self._pool, self._function, iter(tasks), self._timeout_seconds, deque())
        return [result for _, result in done]

    def stop(self) -> None:
        """End the process."""
        for worker in self._pool:
            worker.stop()


def _ordered(
    pool: list[_Worker],
    function: Callable[[Task], Result],
    tasks: Iterator[Task],
    timeout_seconds: float,
    urgent: deque[Task],
) -> Iterator[tuple[Task, Result | Failure]]:
    order: deque[_Slot[Task]] = deque()
    waiting: deque[_Slot[Task]] = deque()  # in the order, and not with a worker that lives
    drained = False
    while True:
        while urgent:
            order.appendleft(_Slot(urgent.pop()))
            waiting.appendleft(order[0])
        # a second task only where every worker has a first
        for worker in [worker for count in range(_AHEAD) for worker in pool if len(worker.slots) <= count]:
            if not worker.ready:
                continue
            if not waiting and not drained and len(order) < _WINDOW * len(pool):
                drawn = _next(tasks)
                drained = drawn is None
                if drawn is not None:
                    order.append(drawn)
                    waiting.append(drawn)
            if waiting:
                _give(worker, waiting.popleft(), timeout_seconds)
        while order and order[0].done and not urgent:
            slot = order.popleft()
            yield slot.task, slot.result
        if drained and not order and not urgent:
            return
        if not urgent and any(worker.slots or not worker.ready for worker in pool):
            waiting.extend(_listen(pool, function, timeout_seconds))


def _next(tasks: Iterator[Task]) -> _Slot[Task] | None:
    for task in tasks:
        return _Slot(task)
    return None


def _give(worker: _Worker, slot: _Slot[Any], timeout_seconds: float) -> None:
    worker.slots.append(slot)
    if len(worker.slots) == 1:
        worker.deadline = time.monotonic() + timeout_seconds
    try:
        worker.connection.send(slot.task)
    except OSError:  # it died between two tasks; listening to it will say so
        return


def _listen(pool: list[_Worker], function: Callable[[Any], Any], timeout_seconds: float) -> list[_Slot[Any]]:
    """Wait until some worker has something to say or has overstayed, and act on it.

    Returns the tasks to be given out again.
    """
    busy = {worker.connection: worker for worker in pool if worker.slots or not worker.ready}
    deadlines = [worker.deadline for worker in pool if worker.slots]
    patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
    heard = [busy[connection] for connection in wait(list(busy), patience) if isinstance(connection, Connection)]
    orphans: list[_Slot[Any]] = []
    for worker in heard:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            words = worker.last_words()
            if not worker.ready:
                raise _not_started(words) from None
            if words == _KILLED and worker.slots and worker.slots[0].lost:
                raise _killed() from None
            orphans += _replace(pool, worker, function, f"the decoder crashed: {words}")
            continue
        if not worker.ready:
            worker.ready = True
        elif worker.slots:
            slot = worker.slots.popleft()
            slot.result, slot.done = message, True
            worker.deadline = time.monotonic() + timeout_seconds  # of the next, which it is at already
    now = time.monotonic()
    for worker in [w for w in pool if w.slots and w not in heard and now >= w.deadline]:
        orphans += _replace(pool, worker, function, "the decoder took too long")
    return orphans


def _replace(pool: list[_Worker], worker: _Worker, function: Callable[[Any], Any], detail: str) -> list[_Slot[Any]]:
    """Put a new worker in the place of one that is gone, and return the tasks to be given out again.

    The one that it was at has a second try: what another process, or a night asleep, did to it is not the task's fault.
    """
    worker.stop()
    if worker.slots:
        slot = worker.slots[0]
        if slot.lost:
            worker.slots.popleft()
            slot.result, slot.done = Failure(detail), True
        slot.lost = True
    pool[pool.index(worker)] = _Worker(function)
    return list(worker.slots)


def _not_started(why: str) -> InstallError:
    fix = "Mend that, then run it again; where memory, processes or open files are few, with fewer --workers."
    return InstallError("a worker process", expected="to start", got=why, fix=fix)


def _killed() -> InstallError:
    return InstallError(
        "two worker processes, one after the other",
        expected="to be left at work",
        got="SIGKILL, as from a system without memory",
        fix="Give it more memory, or fewer --workers, and run it again: it goes on after the last finished shard.",
    )


def serve(connection: Connection) -> None:
    """A worker's life: receive the function, then tasks, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends its workers
    ours = _limit_memory()
    try:
        function = connection.recv()
        if hasattr(function, "start"):
            function.start()
        connection.send(_READY)
        tasks: SimpleQueue[Any] = SimpleQueue()
        # Tasks are taken in whatever this process is at: were both sides sending, neither would receive.
        Thread(target=_receive, args=(connection, tasks), daemon=True).start()
        while (task := tasks.get()) is not _GONE:
            try:
                result = function(task)
            except MemoryError:
                result = Failure("the decoder ran out of memory") if ours else _starved()
            connection.send(result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _receive(connection: Connection, tasks: "SimpleQueue[Any]") -> None:
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, ConnectionResetError):
        return
    finally:
        tasks.put(_GONE)


def _limit_memory() -> bool:
    """Bound this process's memory; whether no other bound is narrower."""
    import resource

    kinds = (resource.RLIMIT_DATA, resource.RLIMIT_AS)
    limits = [limit for kind in kinds for limit in resource.getrlimit(kind) if limit != resource.RLIM_INFINITY]
    ours = all(limit >= _MEMORY_BYTES for limit in limits)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > _MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, hard))
    return ours


def _starved() -> InstallError:
    return InstallError(
        "a worker process",
        expected=f"the memory that it may use ({_MEMORY_BYTES >> 30} GiB)",
        got="a lower limit (ulimit -d, ulimit -v), which it has reached",
        fix="Raise the limit.",
    )


if __name__ == "__main__":
    # Run as a program this file is the module __main__; what it sends must be of the module that the parent knows.
    from audiorl_cli.data import workers

    workers.serve(Connection(int(sys.argv[1])))
