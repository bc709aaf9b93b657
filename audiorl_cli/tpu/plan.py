"""What the programs of a run would take of a slice's chips: compiled for them here, from shapes, without weights.

Programs of many layers compile for long, and a layer is like the next: they are compiled with two numbers of layers,
and what more of them take is taken from the difference.
"""

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from audiorl_cli import core
from audiorl_cli.config import RunConfig
from audiorl_cli.tpu.advice import advice
from audiorl_cli.tpu.chips import Slice
from audiorl_cli.tpu.compiled import Figures, Job, OnProgress, figures_of
from audiorl_cli.tpu.subject import Layers, Resident, Subject, extrapolated, subject

FRAMES: Final = core.CLIP_FRAMES
_DEPTHS: Final = (2, 4)  # layers that are compiled, of the decoder and of the tower
_PASSES: Final = {"float32": 6, "bfloat16": 1}  # of a TPU's bfloat16 products that make one of the dtype


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


def plan(
    config: RunConfig,
    model: str,
    place: Slice,
    *,
    whole: bool = False,
    patient: bool = True,
    price: float | None = None,
    frames: int = FRAMES,
    on_progress: OnProgress = lambda _: None,
) -> Plan:
    """What a run of `config` with `model` takes of the slice `place`, clips of `frames`. `chips.prepare` comes first.

    `whole`: every layer is compiled, nothing extrapolated. Unless `patient`, nothing more is compiled, nor told, once a
    program does not fit. `price`: of a chip, an hour. Raises as `figures_of` and `subject` do.
    """
    on_progress("shapes")
    run = subject(config, model, place, frames)
    held, room = run.resident(), place.chip.hbm_bytes
    jobs = _jobs(run, whole)
    points: dict[str, list[tuple[Layers, Figures]]] = {job.name: [] for job in jobs}
    ready: dict[str, Program] = {}
    with closing(figures_of(jobs, on_progress)) as done:
        for job, figures in done:
            points[job.name].append((job.layers, figures))
            if len(points[job.name]) == sum(other.name == job.name for other in jobs):
                every = extrapolated(sorted(points[job.name]), run.layers, _axes(job.name, config))
                ready[job.name] = _program(job.name, every, config, place)
                if not patient and held.total + every.working > room:
                    break
    programs = tuple(ready[name] for name in reversed(points) if name in ready)
    fullest = max(programs, key=lambda each: each.figures.working)
    peak, seconds = held.total + fullest.figures.working, sum(each.calls * each.seconds for each in programs)
    made = Plan(
        slice=str(place),
        accelerator=place.accelerator,
        chips=place.chips,
        hosts=place.hosts,
        mesh=run.mesh,
        hbm=room,
        resident=held,
        cache=run.cache(),
        gradients=held.optimizer / 2,  # Adam's moments are two of what the gradient is one of
        programs=programs,
        fullest=fullest.name,
        peak=peak,
        fits=peak <= room,
        seconds=seconds,
        cost=None if price is None else price * place.chips * seconds * config.train.steps / 3600,
        layers=run.layers,
        compiled=tuple(cuts_of(run.layers, config, whole)),
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


def _jobs(run: Subject, whole: bool) -> list[Job]:
    """What has to be compiled, the last programs of a step first: they hold most."""
    cuts = cuts_of(run.layers, run.config, whole)
    return [
        Job(run.config, run.model, run.place, run.frames, name, cut)
        for name in reversed(run.programs(cuts[0]))
        for cut in cuts
        if cut == cuts[0] or any(cut[axis] != cuts[0][axis] for axis in _axes(name, run.config))
    ]


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
    calls = {
        "hear": config.rollout.rounds,
        "sample": config.rollout.rounds,
        "score": 2 if config.loss.kl_estimator == "k1" else 1,  # the policy too
        "update": config.loss.iterations,
    }
    return Program(name, calls.get(name, 1), figures, times[bound], bound)
