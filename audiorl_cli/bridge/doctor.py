"""Whether this machine can run the project: versions, devices, memory, and EasyDeL's lists with the audio keys.

What is examined may be missing, so nothing heavy is imported here before it has been seen to import.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from audiorl_cli import __version__, caches
from audiorl_cli.bridge import backend
from audiorl_cli.errors import InstallError

if TYPE_CHECKING:
    from audiorl_cli.bridge.keys import PatchReport
    from audiorl_cli.bridge.mends import MendReport

# What is imported of a distribution, where that is not its name with underscores. EasyDeL imports pillow and torch
# under `easydel.modules` without declaring them: its top level alone would pass without.
_MODULES: Final = {
    "easydel": "easydel.modules.qwen3_omni_moe",
    "pillow": "PIL",
}
_REINSTALL: Final = "Run pip install . in the project's folder."
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_MEMINFO: Final = Path("/proc/meminfo")


@dataclass(frozen=True)
class Package:
    """A dependency: versions `needed`, the one `found` (None: not installed), the verdict, "ok" or what is wrong."""

    name: str
    needed: str
    found: str | None
    verdict: str


@dataclass(frozen=True)
class Device:
    """A device as JAX sees it. `memory_bytes`: what JAX may use of its memory; None where it does not say (CPUs)."""

    id: int
    platform: str
    kind: str
    memory_bytes: int | None


@dataclass(frozen=True)
class Machine:
    """The host: its cores that this process may use, its memory in bytes (or the container's limit), what is free."""

    system: str
    cores: int
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Problem:
    """One thing that is missing or not as needed, and what to do."""

    item: str
    expected: str
    got: str
    fix: str


@dataclass(frozen=True)
class DoctorReport:
    """What was found. `patch` is None where EasyDeL could not be patched, and `mends` are empty then; all is well
    where `problems` is empty."""

    version: str
    python: str
    packages: tuple[Package, ...]
    machine: Machine
    devices: tuple[Device, ...]
    patch: "PatchReport | None"
    mends: "tuple[MendReport, ...]"
    problems: tuple[Problem, ...]


def examine() -> DoctorReport:
    """Look at everything, import every dependency, and patch EasyDeL in this process; what is wrong is reported."""
    problems: list[Problem] = []
    with _caches(problems):
        devices = _devices(problems)
        packages = _packages(problems)
        patch = _patch(problems)
        return DoctorReport(
            version=__version__,
            python=platform.python_version(),
            packages=packages,
            machine=machine(),
            devices=devices,
            patch=patch,
            mends=_mends() if patch else (),
            problems=tuple(problems),
        )


@contextmanager
def _caches(problems: list[Problem]) -> Iterator[None]:
    """While entered libraries find a folder to write to: a temporary one where other commands would find none."""
    with ExitStack() as opened:
        try:
            caches.prepare()
        except InstallError as error:
            problems.append(Problem(error.item, error.expected, error.got, error.fix))
            with suppress(OSError):  # no room at all: what is missing then shows when packages are imported
                folder = opened.enter_context(TemporaryDirectory())
                caches.stand_in(Path(folder))
        yield


def _packages(problems: list[Problem]) -> tuple[Package, ...]:
    try:
        from packaging.requirements import Requirement

        distribution = metadata.distribution("audiorl")
    except ImportError as error:  # metadata's PackageNotFoundError is one
        problems.append(Problem("audiorl", "an installed package", str(error), _REINSTALL))
        return ()
    _check_python(distribution.metadata["Requires-Python"], problems)
    packages = []
    for line in distribution.requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            package = _package(requirement.name, str(requirement.specifier))
            packages.append(package)
            if package.verdict != "ok":
                fix = f"Run pip install '{requirement.name}{requirement.specifier}'."
                problems.append(Problem(package.name, package.needed, package.verdict, fix))
    return tuple(packages)


def _package(name: str, needed: str) -> Package:
    from packaging.specifiers import SpecifierSet

    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Package(name, needed, None, "not installed")
    if not SpecifierSet(needed).contains(found, prereleases=True):
        return Package(name, needed, found, f"{found} is installed")
    try:
        import_module(_MODULES.get(name, name.replace("-", "_")))
    except (ImportError, OSError, RuntimeError) as error:  # a shared library, or a folder to write to, is missing
        return Package(name, needed, found, f"does not import: {error}")
    return Package(name, needed, found, "ok")


def _check_python(needed: str, problems: list[Problem]) -> None:
    from packaging.specifiers import SpecifierSet

    found = platform.python_version()
    if not SpecifierSet(needed).contains(found, prereleases=True):
        problems.append(Problem("python", needed, found, "Make the environment with such a Python."))


def _devices(problems: list[Problem]) -> tuple[Device, ...]:
    try:
        backend.start()
        import jax
    except ImportError as error:
        problems.append(Problem("devices", "JAX", str(error), _REINSTALL))
        return ()
    except InstallError as error:
        problems.append(Problem("devices", error.expected, f"{error.item}: {error.got}", error.fix))
        backend.without_settings()  # what else is to be looked at imports with JAX on the CPU
        return ()
    devices = jax.devices()
    return tuple(Device(d.id, d.platform, d.device_kind, (d.memory_stats() or {}).get("bytes_limit")) for d in devices)


def _patch(problems: list[Problem]) -> "PatchReport | None":
    try:
        from audiorl_cli.bridge import keys

        return keys.apply()
    except ImportError as error:
        problems.append(Problem("EasyDeL's lists of columns", "EasyDeL", str(error), _REINSTALL))
    except InstallError as error:
        problems.append(Problem(error.item, error.expected, error.got, error.fix))
    return None


def _mends() -> "tuple[MendReport, ...]":
    from audiorl_cli.bridge import mends

    return mends.examine()


def machine() -> Machine:
    """The host as it is now. What the page cache holds is free: it gives way, and is full of weights just read."""
    page = os.sysconf("SC_PAGE_SIZE")
    memory, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    free = _counted(_MEMINFO).get("MemAvailable:", free // 1024) * 1024
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    if limit.isdecimal():
        statistics = _counted(_CGROUP_LIMIT.with_name("memory.stat"))
        used = statistics.get("anon", 0) + statistics.get("shmem", 0) + statistics.get("slab_unreclaimable", 0)
        memory, free = min(memory, int(limit)), min(free, max(int(limit) - used, 0))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(f"{platform.system()} {platform.machine()}", cores, memory, free)


def _counted(path: Path) -> dict[str, int]:
    """The lines `name number ...` of one of the kernel's files; none where there is no such file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {words[0]: int(words[1]) for words in map(str.split, lines)}
