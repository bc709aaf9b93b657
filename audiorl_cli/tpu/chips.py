"""TPU chips: what each holds and does, the slices they come in, and a slice's devices as the compiler knows them."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from audiorl_cli.errors import InstallError, UsageError

_GIB: Final = 2**30
_ENVIRONMENT: Final = {
    # Nothing here is a TPU: JAX computes on the CPU, and libtpu asks no metadata server what machine it is on.
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    # It complains, on stderr and in /tmp/tpu_logs, of what a machine without TPUs cannot tell it.
    "TPU_ACCELERATOR_TYPE": "v6e-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    # Only who drives chips has to be alone on a machine.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class Chip:
    """A generation of TPUs, figures a chip.

    `hbm_bytes`: what XLA lets a program use, as libtpu 0.0.37 says when one asks for more. `flops`: a second, in
    bfloat16. `hbm_rate`, `ici_rate`: bytes a second, of memory, and to the two neighbours along one axis of the torus.
    The rates are Google's (cloud.google.com/tpu/docs/system-architecture-tpu-vm), as nothing here can measure them.
    `cores`: by how many the accelerator types of Google's cloud count a chip. `slices`: those on offer, up to 256
    chips. `options`: what libtpu has to be told.
    """

    name: str
    hbm_bytes: float
    flops: float
    hbm_rate: float
    ici_rate: float
    accelerator: str
    cores: int
    slices: tuple[str, ...]
    options: Mapping[str, str]


_CUBES: Final = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
_SQUARES: Final = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# A chip of v4 is one device to JAX on TPUs, which libtpu calls a megacore.
_MEGACORE: Final = {"chip_config_name": "megacore"}

CHIPS: Final = {
    chip.name: chip
    for chip in (
        Chip("v4", 30.75 * _GIB, 275e12, 1.228e12, 90e9, "v4", 2, _CUBES, _MEGACORE),
        Chip("v5e", 15.75 * _GIB, 197e12, 0.819e12, 90e9, "v5litepod", 1, _SQUARES, {}),
        Chip("v5p", 95.74 * _GIB, 459e12, 2.765e12, 180e9, "v5p", 2, _CUBES, {}),
        Chip("v6e", 31.25 * _GIB, 918e12, 1.64e12, 180e9, "v6e", 1, _SQUARES, {}),
    )
}


@dataclass(frozen=True)
class Slice:
    """Chips of one kind, and how they are joined: `dims` of the torus."""

    chip: Chip
    dims: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.dims))}"

    @property
    def chips(self) -> int:
        """How many it has."""
        return math.prod(self.dims)

    @property
    def accelerator(self) -> str:
        """The accelerator type by which Google's cloud knows it."""
        return f"{self.chip.accelerator}-{self.chips * self.chip.cores}"

    @property
    def hosts(self) -> int:
        """Machines that its chips are on: four each, or all of it where one machine has them."""
        return 1 if self.chips <= (4 if len(self.dims) == 3 else 8) else self.chips // 4


def slice_of(topology: str) -> Slice:
    """The slice of a name such as v5p:2x2x4. Raises UsageError for one that is not on offer."""
    name, _, dims = topology.partition(":")
    chip = CHIPS.get(name)
    if chip is None or dims not in chip.slices:
        offered = f"{name}:{', '.join(chip.slices)}" if chip else f"a slice of {', '.join(CHIPS)}, as v5p:2x2x4"
        raise UsageError("--topology", expected=offered, got=topology, fix="See audiorl plan --list.")
    return Slice(chip, tuple(int(size) for size in re.split("x", dims)))


def slices(chip: Chip) -> list[Slice]:
    """Every slice of `chip`, the smallest first."""
    return [slice_of(f"{chip.name}:{dims}") for dims in chip.slices]


def prepare() -> None:
    """Tell libtpu and JAX, before either is loaded, that nothing here is a TPU. Raises InstallError without libtpu."""
    if find_spec("libtpu") is None:
        raise InstallError("libtpu", expected="the compiler of TPUs", got="none", fix="Run make env EXTRA=tpu.")
    for name, value in _ENVIRONMENT.items():
        os.environ[name] = value


def devices(place: Slice) -> list[Any]:
    """The devices of a slice, one a chip, for which programs can be compiled. `prepare` comes first."""
    from jax.experimental import topologies

    # libtpu takes machines of four chips for granted, but the smallest slices of squares are of one machine.
    whole = {"chips_per_host_bounds": (*place.dims, 1)} if place.hosts == 1 and len(place.dims) == 2 else {}
    options: Any = {**place.chip.options, **whole}
    found: list[Any] = topologies.get_topology_desc(platform="tpu", topology_name=str(place), **options).devices
    return found
