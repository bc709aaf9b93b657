"""Programs compiled for chips that are not here, each in a process of its own, as many at once as the machine holds.

libtpu's compiler aborts the process where a program fails one of its checks (0.0.37: a ragged product's gradient whose
rows are no multiple of 8), and what it holds of a program it gives back only at the end of the process.
"""

import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, Final

from audiorl_cli.config import RunConfig
from audiorl_cli.data.workers import module_command, module_environment
from audiorl_cli.errors import AudioRLError, ConfigError
from audiorl_cli.tpu import chips
from audiorl_cli.tpu.advice import advice
from audiorl_cli.tpu.chips import Slice
from audiorl_cli.tpu.flops import flops
from audiorl_cli.tpu.hlo import traffic

if TYPE_CHECKING:
    from audiorl_cli.tpu.subject import Layers

OnProgress = Callable[[str], None]

# XLA's least effort takes a tenth of the time, and leaves programs a little larger than those of a run.
_EFFORT: Final = {"exec_time_optimization_effort": -1.0}
_NEEDED: Final = re.compile(r"Used ([\d.]+)([KMGT]?) of|\(size=(\d+)\) would exceed")
_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_MEMORY_BYTES: Final = 8 << 30  # what compiling four layers of 30 billion parameters takes, and some more


@dataclass(frozen=True)
class Job:
    """A program, by its `name`, of a run of `config` with `layers` of `model` on the slice `place`."""

    config: RunConfig
    model: str
    place: Slice
    frames: int
    name: str
    layers: "Layers"


@dataclass(frozen=True)
class Figures:
    """Of one call of a program, on one chip: bytes that it holds beside what it is given, operations, bytes of HBM that
    it reads and writes, bytes that go from chip to chip."""

    working: float
    flops: float
    hbm: float
    wire: float


class TooLargeError(ConfigError):
    """A program that XLA will not make, as it would not fit the chip."""


class CompilerError(ConfigError):
    """A program at which the compiler ended."""


def figures_of(jobs: Sequence[Job], on_progress: OnProgress) -> Generator[tuple[Job, Figures]]:
    """The figures of every program, those first that are done first.

    Raises TooLargeError where XLA refuses one, and CompilerError where the compiler ends; the others are then stopped.
    """
    at_once = min(len(jobs), os.cpu_count() or 1, _physical_bytes() // _MEMORY_BYTES or 1)
    running: list[subprocess.Popen[bytes]] = []
    with ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(_apart, job, running): job for job in jobs}
        on_progress(f"{len(jobs)} programs, {at_once} at once")
        try:
            for number, future in enumerate(as_completed(futures)):
                job = futures[future]
                yield job, future.result()
                on_progress(f"{number + 1} of {len(jobs)} programs: {_told(job)}")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in running:
                child.kill()


def figures(job: Job) -> Figures:
    """The figures of a program, compiled in this process. Raises TooLargeError where XLA refuses it."""
    import jax

    from audiorl_cli.tpu.subject import subject

    run = subject(job.config, job.model, job.place, job.frames)
    trips = job.config.rollout.max_new_tokens - 1  # of the only loop whose end depends on data
    program, arguments = run.programs(job.layers)[job.name]
    traced = program.trace(*arguments)
    try:
        made = traced.lower().compile(_EFFORT)
    except jax.errors.JaxRuntimeError as error:
        needed = _NEEDED.search(str(error))
        if needed is None:
            raise
        size = float(needed[3]) if needed[3] else float(needed[1]) * _UNITS[needed[2]]
        raise TooLargeError(
            f"{job.place}: {job.name}",
            expected=f"a program within the {job.place.chip.hbm_bytes / 2**30:.2f} GiB of a chip",
            got=f"{size / 2**30:.1f} GiB with {_told(job)}",
            fix=f"What helps: {'; '.join(advice(job.config, None, job.name))}.",
        ) from error
    memory, moved = made.memory_analysis(), traffic(made.as_text(), trips)
    working = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Figures(
        working=working + memory.generated_code_size_in_bytes,
        flops=flops(traced.jaxpr, trips, 1 / run.mesh["ep"]) / job.place.chips,
        hbm=moved.hbm,
        wire=moved.wire,
    )


def _apart(job: Job, running: list[subprocess.Popen[bytes]]) -> Figures:
    """`figures(job)`, of another process."""
    command = module_command("audiorl_cli.tpu.compiled", "")
    with NamedTemporaryFile(prefix="audiorl-plan-", suffix=".log", delete=False) as complaints:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, env=module_environment()
        )
    running.append(child)
    answer, _ = child.communicate(pickle.dumps(job))
    wrote = Path(complaints.name).read_text(errors="replace")
    if not wrote or not child.returncode:
        os.unlink(complaints.name)
    if child.returncode:
        how = signal.Signals(-child.returncode).name if child.returncode < 0 else f"code {child.returncode}"
        raise CompilerError(
            f"{job.place}: {_told(job)}",
            expected="a program",
            got=f"a compiler (libtpu {version('libtpu')}) that ends, {how}",
            fix="Try another mesh, or another slice." + (f" What it wrote is in {complaints.name}." if wrote else ""),
        )
    found: Figures | AudioRLError = pickle.loads(answer)
    if isinstance(found, AudioRLError):
        raise found
    return found


def _told(job: Job) -> str:
    return f"{job.name}, {job.layers[0]} layers and {job.layers[1]} of the tower"


def _physical_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _serve() -> None:
    """Compile what standard input names; the answer alone goes to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would wait for the compiler
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    chips.prepare()
    from audiorl_cli.bridge.quiet import silence

    silence()
    found: Any
    try:
        found = figures(pickle.loads(sys.stdin.buffer.read()))
    except AudioRLError as error:
        found = error
    answer.write(pickle.dumps(found))
    answer.close()


if __name__ == "__main__":
    # Run as a program this file is the module __main__; what it sends must be of the module that the parent knows.
    from audiorl_cli.tpu import compiled

    compiled._serve()
