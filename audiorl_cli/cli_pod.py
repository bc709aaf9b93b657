"""One process a host, many hosts a run: where this one stands among them, and what is said when one is lost.

JAX's runtime aborts a process whose peers are gone, with a stack trace of C++ and no word of ours. So a process of
several is run by another, which has no part in the run, and which says what happened.
"""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from types import TracebackType
from typing import Any, Final, Self

from audiorl_cli import caches, console
from audiorl_cli.errors import AudioRLError, UsageError

LOST: Final = 75  # EX_TEMPFAIL of sysexits.h: what schedulers may start again
_ALONE: Final = "ENABLE_DISTRIBUTED_INIT"  # EasyDeL's: 0 says that there are no others
_COORDINATOR: Final = "JAX_COORDINATOR_ADDRESS"
_COUNT: Final = "JAX_NUM_PROCESSES"
_INDEX: Final = "JAX_PROCESS_ID"
_NATIVE: Final = "AUDIORL_NATIVE_LOG"  # set for the process that is run: where what is not Python's writes
_HEARTBEAT_S: Final = 60
_GONE: Final = ("Gloo", "coordination service", "distributed service", "UNAVAILABLE", "DEADLINE_EXCEEDED")
_PR_SET_PDEATHSIG: Final = 1
# Left alone, programs of the CPU that have no say in each other run in any order, and two processes in two.
# What C++ has to say goes to a file there, where it may be needed.
_SETTINGS: Final = {"JAX_CPU_ENABLE_ASYNC_DISPATCH": "false", "TF_CPP_MIN_LOG_LEVEL": "0"}


@dataclass(frozen=True)
class Place:
    """The `index` of this process among `count`, and the `coordinator` (host:port) that it asks for the others."""

    coordinator: str
    count: int
    index: int


class Joined:
    """While entered, this process is one of the run's, whatever their number; only the first speaks of how it goes.

    Called before JAX is used. The process of several that the user started never gets to enter: it starts another in
    its place and ends as that one does.
    """

    def __init__(self) -> None:
        self._place: Place | None = None

    def __enter__(self) -> Self:
        self._place = place()
        if self._place is None:
            return self
        if _NATIVE not in os.environ:
            sys.exit(_run(self._place))
        _keep_terminal(os.environ[_NATIVE])
        if self._place.index:
            console.mute()
            # Where a process does not lead, EasyDeL shows warnings, whatever level it is given.
            logging.disable(logging.WARNING)
        try:
            _join(self._place)
        except (RuntimeError, AudioRLError) as error:  # the first where the others did not come
            self.__exit__(type(error), error, error.__traceback__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Typer's ways to end are RuntimeErrors that carry a code: all processes take them together.
        orderly = hasattr(error, "exit_code") and not isinstance(error, AudioRLError)
        if self._place is None or error is None or orderly:
            return
        who, code = f"process {self._place.index} of {self._place.count}", 1
        if isinstance(error, AudioRLError):
            console.fail(f"{who}: {error}")
            code = error.exit_code
        elif isinstance(error, KeyboardInterrupt):  # a second one, which is not waited for
            console.fail(f"{who}: interrupted. {_AGAIN}")
            code = LOST
        elif any(word in str(error) for word in _GONE):
            console.fail(f"{who}: {_lost()}")
            code = LOST
        else:
            from audiorl_cli.bridge.backend import exhausted

            known = exhausted(error)
            if known is None:
                traceback.print_exception(error)
            else:
                console.fail(f"{who}: {known}")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # an orderly end would wait for the others, which wait for this one


def joined(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as what each process of a run does."""

    @wraps(command)
    def among_others(*args: Any, **kwargs: Any) -> None:
        caches.prepare()
        with Joined():
            command(*args, **kwargs)

    return among_others


def place() -> Place | None:
    """Where this process stands: by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by what JAX knows
    of TPU pods, Slurm and Open MPI; None where it is alone, or ENABLE_DISTRIBUTED_INIT=0 says so.

    Raises UsageError where only some of the three are there, or do not count.
    """
    if os.environ.get(_ALONE) == "0" and _NATIVE not in os.environ:
        return None
    told = [os.environ.get(name, "") for name in (_COORDINATOR, _COUNT, _INDEX)]
    found = _told(*told) if all(told) else _recognised()
    if any(told[1:]) and not all(told):
        raise _wrong(told)
    return found if found and found.count > 1 else None


def _told(coordinator: str, count: str, index: str) -> Place:
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count) and _is_address(coordinator)):
        raise _wrong([coordinator, count, index])
    return Place(coordinator, int(count), int(index))


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 1 << 16


def _wrong(told: list[str]) -> UsageError:
    got = ", ".join(f"{name}={value}" for name, value in zip((_COORDINATOR, _COUNT, _INDEX), told, strict=True))
    return UsageError(
        "place of this process",
        expected=f"{_COORDINATOR}=HOST:PORT, {_COUNT} and {_INDEX} (from 0, below it), or none of them",
        got=got,
        fix="Set all three in every process.",
    )


def _recognised() -> Place | None:
    from audiorl_cli.bridge import backend

    backend.load()
    # JAX's own tables, which are not public: its initialize() joins or raises, and says neither where nor with whom.
    from jax._src.clusters import ClusterEnv, K8sCluster

    kinds = [kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method and kind is not K8sCluster]
    kind = next((kind for kind in kinds if kind.is_env_present()), None)
    if kind is None or kind.get_process_count() < 2:
        return None
    address = kind.get_coordinator_address(300, os.environ.get("JAX_COORDINATOR_PORT"))
    return Place(address, kind.get_process_count(), kind.get_process_id())


def _run(place: Place) -> int:
    """Run the same command as the process at `place`; the exit code, and a word where it was lost."""
    told = {_COORDINATOR: place.coordinator, _COUNT: str(place.count), _INDEX: str(place.index)}
    descriptor, native = tempfile.mkstemp(prefix="audiorl-", suffix=".log")
    os.close(descriptor)
    command = [sys.executable, "-m", "audiorl_cli", *sys.argv[1:]]
    # In a group of its own: of a Ctrl-C that a terminal sends to both it would hear twice, which means at once.
    run = subprocess.Popen(
        command, env=os.environ | told | _SETTINGS | {_NATIVE: native}, process_group=0, preexec_fn=_die_with_parent
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: run.send_signal(number))
    code = run.wait()
    if code >= 0:
        os.unlink(native)
        return code
    word = _lost() if code == -signal.SIGABRT else f"ended by {signal.Signals(-code).name}. {_AGAIN}"
    console.fail(f"process {place.index} of {place.count}: {word} What its libraries wrote is in {native}.")
    return LOST


_AGAIN: Final = "Run the same command again on every host: it goes on from the newest checkpoint."


def _lost() -> str:
    return f"another process of this run has ended or cannot be reached; its own last words say why. {_AGAIN}"


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _keep_terminal(native: str) -> None:
    """Python writes where it did; what C++ writes of lost connections, and gloo of found ones, goes to a file."""
    for number, stream in ((1, "stdout"), (2, "stderr")):
        before: Any = getattr(sys, stream)
        mine = os.fdopen(os.dup(number), "w", buffering=1, encoding=before.encoding, errors=before.errors)
        setattr(sys, stream, mine)
        file = os.open(native, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)


def _join(place: Place) -> None:
    from audiorl_cli.bridge import backend

    backend.load()
    import jax

    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=[],
        initialization_timeout=_patience_s(),
        heartbeat_timeout_seconds=_HEARTBEAT_S,
    )


def _patience_s() -> int:
    """How long the others are waited for: JAX's own five minutes unless JAX_INITIALIZATION_TIMEOUT says otherwise."""
    told = os.environ.get("JAX_INITIALIZATION_TIMEOUT", "300")
    if not told.isdecimal():
        fix = "Correct it, or leave it out."
        raise UsageError("JAX_INITIALIZATION_TIMEOUT", expected="a number of seconds", got=told, fix=fix)
    return int(told)
