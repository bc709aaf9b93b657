"""The command that asks what a pod would have to be, which `cli` puts into the app. Imports as there."""

from typing import TYPE_CHECKING, Annotated

import typer

from audiorl_cli import console, console_plan, options
from audiorl_cli.errors import UsageError

if TYPE_CHECKING:
    from audiorl_cli.tpu.chips import Slice


def plan(
    model: Annotated[
        str | None,
        typer.Option("--model", help="As for train; of a folder, config.json is enough."),
    ] = None,
    topology: Annotated[
        str | None, typer.Option("--topology", help="The slice, as v5p:2x2x4; with --search v5p is enough.")
    ] = None,
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    list_slices: Annotated[bool, typer.Option("--list", help="Show chips and slices, and plan nothing.")] = False,
    search: Annotated[
        bool, typer.Option("--search", help="The smallest slice that fits, by whichever mesh; [mesh] has no say.")
    ] = False,
    full_depth: Annotated[
        bool, typer.Option("--full-depth", help="Compile every layer, rather than two and four of them.")
    ] = False,
    clip_seconds: Annotated[float, typer.Option("--clip-seconds", min=0.01, help="The window of the shards.")] = 30.0,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="Of a chip, an hour: what the run costs.")
    ] = None,
    json: options.Json = False,
) -> None:
    """What a run would take of a slice's chips: memory, time, cost. Its programs are compiled for them, here.

    No TPU is needed, and no weights. The compiler takes ten minutes of two cores for 30 billion parameters.
    """
    from audiorl_cli.tpu import chips

    if list_slices:
        offered = [place for chip in chips.CHIPS.values() for place in chips.slices(chip)]
        console.as_json([console_plan.described(place) for place in offered]) if json else console_plan.slices(offered)
        return
    if model is None or topology is None:
        missing = "--model" if model is None else "--topology"
        raise UsageError("plan", expected="--model, --topology, or --list", got=f"no {missing}", fix="Give it.")
    places = _places(topology, search)
    from audiorl_cli import config as configs

    settings = configs.load(config, overrides)
    chips.prepare()
    from audiorl_cli.bridge import backend

    with console.starting():
        backend.start()
        from audiorl_cli import core
        from audiorl_cli.tpu import plan as planning
        from audiorl_cli.tpu import search as searching

    frames = core.clip_frames(clip_seconds)
    with console.stages() as on_progress:
        if search:
            tried = searching.search(settings, model, places, price=price, frames=frames, on_progress=on_progress)
        else:
            found = planning.plan(
                settings, model, places[0], whole=full_depth, price=price, frames=frames, on_progress=on_progress
            )
    if search:
        console.as_json(tried) if json else console_plan.search(tried)
        fits = tried.found is not None
    else:
        console.as_json(found) if json else console_plan.plan(found)
        fits = found.fits
    if not fits:
        raise typer.Exit(1)


def _places(topology: str, search: bool) -> "list[Slice]":
    """The slice asked for, or those to search: every one of the chip, from the slice on where one is named."""
    from audiorl_cli.tpu import chips

    chip = chips.CHIPS.get(topology)
    if chip is not None and search:
        return chips.slices(chip)
    first = chips.slice_of(topology)
    return [place for place in chips.slices(first.chip) if place.chips >= first.chips] if search else [first]
