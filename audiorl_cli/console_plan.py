"""What a person sees of a plan."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from audiorl_cli.console import count, say, table

if TYPE_CHECKING:
    from audiorl_cli.tpu.chips import Slice
    from audiorl_cli.tpu.plan import Plan
    from audiorl_cli.tpu.search import Search

_GIB: Final = 2**30


def described(place: "Slice") -> dict[str, Any]:
    """A slice as --list --json has it."""
    return {
        "topology": str(place),
        "accelerator": place.accelerator,
        "chips": place.chips,
        "hosts": place.hosts,
        "hbm_bytes": place.chip.hbm_bytes,
    }


def slices(offered: "Sequence[Slice]") -> None:
    """Every slice."""
    rows = [
        (str(one), one.accelerator, one.chips, one.hosts, f"{one.chip.hbm_bytes / _GIB:.2f} GiB") for one in offered
    ]
    table("", ("topology", "accelerator type", "chips", "hosts", "HBM of a chip, to programs"), rows)


def plan(found: "Plan") -> None:
    """What a run takes of a slice."""
    axes = ", ".join(f"{name} {size}" for name, size in found.mesh.items() if size > 1) or "no mesh"
    say(f"{found.slice} ({found.accelerator}): {count(found.chips, 'chip')} on {count(found.hosts, 'host')}, {axes}")
    held = found.resident
    rows = [("weights", held.weights), ("optimizer", held.optimizer), ("reference model", held.reference)]
    rows += [("batch", held.batch)]
    rows += [(f"at work in {one.name}", one.figures.working) for one in found.programs]
    table("", ("GiB of a chip", ""), [(name, f"{size / _GIB:10.2f}") for name, size in rows])
    part = {"update": ("gradients", found.gradients), "sample": ("keys and values", found.cache)}.get(found.fullest)
    within = f", of which {part[0]} {part[1] / _GIB:.2f}" if part else ""
    say(f"most at once: {found.peak / _GIB:.2f} of {found.hbm / _GIB:.2f} GiB, in {found.fullest}{within}")
    programs = [
        (
            f"{one.name} x {one.calls}" if one.calls > 1 else one.name,
            one.figures.flops / 1e12,
            one.figures.hbm / 1e9,
            one.figures.wire / 1e9,
            one.seconds,
            one.bound,
        )
        for one in found.programs
    ]
    table("", ("of a chip, a call", "TFLOP", "GB of HBM", "GB of network", "s at least", "bound"), programs)
    price = f", {found.cost:,.0f} for the run" if found.cost is not None else ""
    say(f"a step: {found.seconds:.1f} s at least, completions as long as they may be{price}")
    if found.compiled == (found.layers,):
        say("compiled with every layer")
    else:
        cuts = ", ".join(f"{decoder} + {tower}" for decoder, tower in found.compiled)
        say(
            f"compiled with {cuts} layers of decoder + tower, extrapolated to {found.layers[0]} + {found.layers[1]}; "
            "what stays through a step is counted with all"
        )
    if found.fits:
        say(f"fits: {(found.hbm - found.peak) / _GIB:.2f} GiB to spare")
        return
    say(f"does not fit: {(found.peak - found.hbm) / _GIB:.2f} GiB too much. What helps:")
    for line in found.advice:
        say(f"  {line}")


def search(tried: "Search") -> None:
    """What was tried, and the plan of what fits."""
    rows = [
        (
            one.slice,
            one.mesh.data,
            one.mesh.fsdp,
            one.mesh.expert,
            one.mesh.tensor,
            f"{one.resident / _GIB:.2f}",
            "" if one.peak is None else f"{one.peak / _GIB:.2f}",
            one.verdict,
        )
        for one in tried.trials
    ]
    table("", ("slice", "data", "fsdp", "expert", "tensor", "GiB stay", "at most", ""), rows)
    if tried.found is None:
        say("none of these fits")
        return
    plan(tried.found)
