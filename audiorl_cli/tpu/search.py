"""The smallest slice that a run fits, and how its chips divide the work there."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from audiorl_cli.config import MeshConfig, RunConfig
from audiorl_cli.errors import ConfigError
from audiorl_cli.tpu.chips import Slice
from audiorl_cli.tpu.compiled import CompilerError, OnProgress, TooLargeError
from audiorl_cli.tpu.plan import FRAMES, Plan, plan
from audiorl_cli.tpu.subject import subject


@dataclass(frozen=True)
class Trial:
    """A mesh on a slice: bytes that stay on a chip, the most that is held at once where its programs were compiled, and
    what came of it."""

    slice: str
    mesh: MeshConfig
    resident: float
    peak: float | None
    verdict: str


@dataclass(frozen=True)
class Search:
    """What was tried, and the plan of what fits; none where nothing does."""

    trials: tuple[Trial, ...]
    found: Plan | None


def search(
    config: RunConfig,
    model: str,
    places: Sequence[Slice],
    *,
    price: float | None = None,
    frames: int = FRAMES,
    on_progress: OnProgress = lambda _: None,
) -> Search:
    """The first of `places` that a run of `config` fits, by whichever mesh; other arguments as of `plan`.

    Meshes are tried in the order in which they move fewest weights (fsdp fetches them for each token, tensor halves
    what is multiplied), and compiled only where weights, moments and what the last one held beside them leave room.
    """
    trials: list[Trial] = []
    for place in places:
        beside = 0.0
        for mesh, stays in _meshes(config, model, place, frames, on_progress):
            if stays + beside > place.chip.hbm_bytes:
                trials.append(Trial(str(place), mesh, stays, None, "too large before it is compiled"))
                continue
            divided = divided_by(config, mesh)

            def told(stage: str, where: str = f"{place}, {_axes(mesh)}") -> None:
                on_progress(f"{where}: {stage}")

            try:
                found = plan(divided, model, place, patient=False, price=price, frames=frames, on_progress=told)
            except (TooLargeError, CompilerError) as error:
                trials.append(Trial(str(place), mesh, stays, None, error.got))
                continue
            verdict = "fits" if found.fits else f"{found.fullest} is too large"
            trials.append(Trial(str(place), mesh, stays, found.peak, verdict))
            if found.fits:
                return Search(tuple(trials), found)
            beside = found.peak - found.resident.total
    return Search(tuple(trials), None)


def _meshes(
    config: RunConfig, model: str, place: Slice, frames: int, on_progress: OnProgress
) -> Iterator[tuple[MeshConfig, float]]:
    """The meshes that divide model and batch, and the bytes that stay on a chip with each."""
    for mesh in _divisions(place.chips):
        on_progress(f"{place}, {_axes(mesh)}: shapes")
        try:
            yield mesh, subject(divided_by(config, mesh), model, place, frames).resident().total
        except ConfigError:  # rows, heads or experts that it would divide
            continue


def divided_by(config: RunConfig, mesh: MeshConfig) -> RunConfig:
    """`config` on `mesh`, whose devices take a prompt each at a time where `memory.prompts` does not divide."""
    shards, prompts = mesh.data * mesh.fsdp * mesh.expert, config.memory.prompts
    memory = dataclasses.replace(config.memory, prompts=shards) if prompts % shards else config.memory
    return dataclasses.replace(config, mesh=mesh, memory=memory)


def _divisions(chips: int) -> Iterator[MeshConfig]:
    """Every way of dividing chips among the axes, those first that move fewest weights."""
    sizes = [size for size in range(1, chips + 1) if chips % size == 0]
    found = [
        MeshConfig(chips // (fsdp * expert * tensor), fsdp, expert, tensor)
        for fsdp in sizes
        for tensor in sizes
        for expert in sizes
        if chips % (fsdp * expert * tensor) == 0
    ]
    return iter(sorted(found, key=lambda mesh: (mesh.fsdp, mesh.tensor, mesh.data)))


def _axes(mesh: MeshConfig) -> str:
    named = {"data": mesh.data, "fsdp": mesh.fsdp, "expert": mesh.expert, "tensor": mesh.tensor}
    return " x ".join(f"{name} {size}" for name, size in named.items() if size > 1) or "one chip"
