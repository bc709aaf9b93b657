"""What the programs of a run would take of a slice's chips: compiled for them here, from shapes, without weights.

Programs of many layers compile for long, and a layer is like the next: they are compiled with two numbers of layers,
and what more of them take is taken from the difference.
"""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jax

from audiorl_cli import core
from audiorl_cli.config import RunConfig
from audiorl_cli.errors import ConfigError
from audiorl_cli.tpu.advice import advice
from audiorl_cli.tpu.chips import Slice
from audiorl_cli.tpu.flops import flops
from audiorl_cli.tpu.hlo import traffic
from audiorl_cli.tpu.subject import Layers, Resident, Subject, extrapolated, subject

FRAMES: Final = core.CLIP_FRAMES
_DEPTHS: Final = (2, 4)  # layers that are compiled, of the decoder and of the tower
# XLA's least effort takes a tenth of the time, and leaves programs a little larger than those of a run.
_EFFORT: Final = {"exec_time_optimization_effort": -1.0}
_PASSES: Final = {"float32": 6, "bfloat16": 1}  # of a TPU's bfloat16 products that make one of the dtype
_NEEDED: Final = re.compile(r"Used ([\d.]+)([KMGT]?) of|\(size=(\d+)\) would exceed")
_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Figures:
    """Of one call of a program, on one chip: bytes that it holds beside what it is given, operations, bytes of HBM that
    it reads and writes, bytes that go from chip to chip."""

    working: float
    flops: float
    hbm: float
    wire: float


@dataclass(frozen=True)
class Program:
    """A program of a step. `calls`: how often a step makes it, at most. `seconds`: the least that a call can take, as
    its `bound` says: compute, memory or network."""

    name: str
    calls: int
    figures: Figures
    seconds: float
    bound: str


@dataclass(frozen=True)
class Plan:
    """A run on a slice. Bytes and operations are those of one chip.

    `cache`: of keys and values, at its fullest, within what `sample` holds. `gradients`: within what `update` holds.
    `peak`: the most that is held at once, at the program `fullest`. `seconds`: the least that a step can take;
    completions are taken to be as long as they may be. `cost`: of all steps, where a price is given. `layers`: of
    decoder and tower; `compiled`: with how many the programs were compiled, all else is extrapolated.
    """

    slice: str
    accelerator: str
    chips: int
    hosts: int
    mesh: dict[str, int]
    hbm: float
    resident: Resident
    cache: float
    gradients: float
    programs: tuple[Program, ...]
    fullest: str
    peak: float
    fits: bool
    seconds: float
    cost: float | None
    layers: Layers
    compiled: tuple[Layers, ...]
    prompt_tokens: int
    advice: tuple[str, ...]


class TooLargeError(ConfigError):
    """A program that XLA will not make, as it would not fit the chip."""


def plan(
    config: RunConfig,
    model: str,
    place: Slice,
    *,
    whole: bool = False,
    price: float | None = None,
    frames: int = FRAMES,
    on_progress: OnProgress = lambda _: None,
) -> Plan:
    """What a run of `config` with `model` takes of the slice `place`, clips of `frames`. `chips.prepare` comes first.

    `whole`: every layer is compiled, nothing extrapolated. `price`: of a chip, an hour. Raises TooLargeError where XLA
    refuses a program, and as `subject` does.
    """
    on_progress("shapes")
    run = subject(config, model, place, frames)
    held, cuts = run.resident(), cuts_of(run.layers, config, whole)
    found: dict[str, list[tuple[Layers, Figures]]] = {}
    for cut in cuts:
        for name, (program, arguments) in run.programs(cut).items():
            if cut == cuts[0] or any(cut[axis] != cuts[0][axis] for axis in _axes(name, config)):
                on_progress(f"{name}, {cut[0]} layers and {cut[1]} of the tower")
                found.setdefault(name, []).append((cut, compiled(run, name, program, arguments, cut)))
    programs = tuple(
        _program(name, extrapolated(points, run.layers, _axes(name, config)), config, place)
        for name, points in found.items()
    )
    fullest = max(programs, key=lambda each: each.figures.working)
    peak, seconds = held.total + fullest.figures.working, sum(each.calls * each.seconds for each in programs)
    made = Plan(
        slice=str(place),
        accelerator=place.accelerator,
        chips=place.chips,
        hosts=place.hosts,
        mesh=run.mesh,
        hbm=place.chip.hbm_bytes,
        resident=held,
        cache=run.cache(),
        gradients=held.optimizer / 2,  # Adam's moments are two of what the gradient is one of
        programs=programs,
        fullest=fullest.name,
        peak=peak,
        fits=peak <= place.chip.hbm_bytes,
        seconds=seconds,
        cost=None if price is None else price * place.chips * seconds * config.train.steps / 3600,
        layers=run.layers,
        compiled=tuple(cuts),
        prompt_tokens=run.tokens,
        advice=(),
    )
    return made if made.fits else dataclasses.replace(made, advice=advice(config, made))


def cuts_of(layers: Layers, config: RunConfig, whole: bool) -> list[Layers]:
    """The numbers of layers with which programs are compiled."""
    low, high = _DEPTHS
    if whole or min(layers) <= high:
        return [layers]
    # Where the tower is frozen, no program has layers of both.
    return [(low, low), (high, high)] if config.train.freeze_audio_tower else [(low, low), (high, low), (low, high)]


def compiled(run: Subject, name: str, program: Any, arguments: tuple[Any, ...], cut: Layers) -> Figures:
    """The figures of a program with layers `cut`. Raises TooLargeError where XLA refuses it."""
    trips = run.config.rollout.max_new_tokens - 1  # of the only loop whose end depends on data
    traced = program.trace(*arguments)
    try:
        made = traced.lower().compile(_EFFORT)
    except jax.errors.JaxRuntimeError as error:
        needed = _NEEDED.search(str(error))
        if needed is None:
            raise
        size = float(needed[3]) if needed[3] else float(needed[1]) * _UNITS[needed[2]]
        raise TooLargeError(
            f"{run.place}: {name}",
            expected=f"a program within the {run.place.chip.hbm_bytes / 2**30:.2f} GiB of a chip",
            got=f"{size / 2**30:.1f} GiB with {cut[0]} layers and {cut[1]} of the tower",
            fix=f"What helps: {'; '.join(advice(run.config, None, name))}.",
        ) from error
    memory, moved = made.memory_analysis(), traffic(made.as_text(), trips)
    working = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Figures(
        working=working + memory.generated_code_size_in_bytes,
        flops=flops(traced.jaxpr, trips, 1 / run.mesh["ep"]) / run.place.chips,
        hbm=moved.hbm,
        wire=moved.wire,
    )


def _axes(name: str, config: RunConfig) -> tuple[int, ...]:
    """Which layers a program has: the decoder's (0), the tower's (1)."""
    if not config.train.freeze_audio_tower:
        return 0, 1
    return (1,) if name == "hear" else (0,)


def _program(name: str, figures: Figures, config: RunConfig, place: Slice) -> Program:
    chip = place.chip
    times = {
        "compute": figures.flops * _PASSES[config.train.dtype] / chip.flops,
        "memory": figures.hbm / chip.hbm_rate,
        "network": figures.wire / chip.ici_rate,
    }
    bound = max(times, key=lambda each: times[each])
    calls = {"hear": config.rollout.rounds, "sample": config.rollout.rounds, "update": config.loss.iterations}
    return Program(name, calls.get(name, 1), figures, times[bound], bound)
