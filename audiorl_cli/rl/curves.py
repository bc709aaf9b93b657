"""The curves of one or several runs: PNG, SVG, and one page that needs no network."""

import html
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float64

from audiorl_cli.data.lock import lock_folder
from audiorl_cli.data.shards import write_whole
from audiorl_cli.errors import DataError, ModelError
from audiorl_cli.rl import metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Series = Float64[np.ndarray, " steps"]

# The order of the panels: first what a run is for, then what goes wrong with it, then how it learns. What else a log
# holds comes behind these, by name.
_FIRST: Final = (
    "reward_mean",
    "validation_wer",
    "sample_wer",
    "sample_substitutions",
    "sample_insertions",
    "sample_deletions",
    "reward_std",
    "zero_spread_share",
    "kl",
    "entropy",
    "completion_tokens_mean",
    "truncated_share",
    "clip_share",
    "sampler_difference_mean",
    "sampler_difference_max",
    "sampler_kl",
    "sampler_clip_share",
    "token_accuracy_share",
    "loss",
    "grad_norm",
    "learning_rate",
)
_FRACTIONS: Final = ("_share", "_wer", "_substitutions", "_insertions", "_deletions")
_TIMES: Final = ("rollout_s", "update_s")  # parts of step_s
_COLUMNS: Final = 3
_WINDOWS: Final = 25  # of a run's steps: the bold line is the mean of one such part
_PANEL_INCHES: Final = (4.2, 2.6)


@dataclass(frozen=True)
class Curves:
    """What was drawn: the runs by the names they have in it, how many steps they took together, the files."""

    runs: tuple[str, ...]
    steps: int
    files: tuple[Path, ...]


def plot(runs: Sequence[Path], out: Path) -> Curves:
    """Draw what the logs of `runs` tell, a panel a number and a line a run, into curves.png, .svg and .html in `out`.

    A thin line is every step, a bold one the mean over a 25th of the run's steps. What no log holds has no panel, and a
    number that a step does not tell, or that is not finite, no point. The same logs give the same bytes. Raises
    ModelError for a run without a log, DataError for an `out` that cannot be written.
    """
    logs = {name: _log(run) for name, run in zip(_names(runs), runs, strict=True)}
    figure = _figure(logs)
    drawn = {suffix: _drawn(figure, suffix) for suffix in ("png", "svg")}
    page = _page(logs, drawn["svg"].decode()).encode()
    with lock_folder(out):
        for suffix, content in {**drawn, "html": page}.items():
            write_whole(out / f"curves.{suffix}", content)
    files = tuple(out / f"curves.{suffix}" for suffix in (*drawn, "html"))
    return Curves(tuple(logs), sum(log[-1]["step"] for log in logs.values()), files)


def _log(run: Path) -> list[dict[str, Any]]:
    found = {told["step"]: told for told in metrics.steps(run)}
    if not found:
        raise ModelError(
            str(run / metrics.METRICS), expected="the log of a run", got="nothing", fix="Name the --out of a train."
        )
    for one in metrics.validations(run):
        found[one.step] = found.get(one.step, {"step": one.step}) | metrics.prefixed(one)
    return [found[step] for step in sorted(found)]


def _names(runs: Sequence[Path]) -> list[str]:
    """What tells the runs apart, the shorter the better: their paths without the folder that all have in common."""
    paths = [run.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise DataError("RUN", expected="each run once", got="one twice", fix="Leave one of them out.")
    if len(paths) == 1:
        return [paths[0].name]
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) for path in paths]


def _panels(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    told = {name for log in logs.values() for step in log for name, value in step.items() if _number(value)}
    others = sorted(told - {*_FIRST, *_TIMES, "step", "step_s"})
    return [name for name in (*_FIRST, *others, "step_s") if name in told]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def series(log: Sequence[Mapping[str, Any]], name: str) -> tuple[Series, Series]:
    """The steps at which `log` tells a finite number of this name, and the numbers."""
    points = [(step["step"], step[name]) for step in log if _number(step.get(name))]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, np.float64), np.asarray(values, np.float64)


def smoothed(steps: Series, values: Series) -> tuple[Series, Series]:
    """The means of consecutive parts of the points, one at least: `_WINDOWS` parts, or one a point where fewer are."""
    parts = np.array_split(np.arange(len(values)), max(1, min(_WINDOWS, len(values))))
    return np.array([steps[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def _figure(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> "Figure":
    # Where it finds no folder for its list of fonts it says so at length, and makes a temporary one.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    names = _panels(logs)
    rows = -(-len(names) // _COLUMNS)
    # Not pyplot, which looks for a display and keeps every figure.
    figure = Figure(figsize=(_PANEL_INCHES[0] * _COLUMNS, _PANEL_INCHES[1] * rows), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(rows, _COLUMNS, place)
        for number, log in enumerate(logs.values()):
            steps, values = series(log, name)
            if not len(steps):
                continue
            colour = f"C{number % 10}"
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.4)
            axes.plot(*smoothed(steps, values), color=colour, linewidth=1.8)
        axes.set_title(name, fontsize=10, loc="left", parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if name.endswith(_FRACTIONS):
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(alpha=0.25)
    lines = [figure.axes[0].plot([], [], color=f"C{number % 10}")[0] for number in range(len(logs))]
    legend = figure.legend(lines, list(logs), loc="outside lower left", ncols=4, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a run may be named with dollars
    return figure


def _drawn(figure: "Figure", suffix: str) -> bytes:
    import matplotlib

    # Without a date, and with ids that do not hang on chance: the same logs give the same bytes.
    metadata = {"Date": None} if suffix == "svg" else {"Software": None}
    with BytesIO() as file, matplotlib.rc_context({"svg.hashsalt": "audiorl", "svg.fonttype": "none"}):
        figure.savefig(file, format=suffix, dpi=110, metadata=metadata)
        return file.getvalue()


def _page(logs: Mapping[str, Sequence[Mapping[str, Any]]], svg: str) -> str:
    names = _panels(logs)
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("steps", *names))
    rows = "".join(
        f'<tr><th scope="row">{html.escape(run)}</th><td>{log[-1]["step"]}</td>'
        + "".join(f"<td>{_last(log, name)}</td>" for name in names)
        + "</tr>\n"
        for run, log in logs.items()
    )
    return _PAGE.format(
        title=html.escape(", ".join(logs)),
        svg=svg[svg.index("<svg") :].replace("<svg", '<svg role="img" aria-label="Curves over steps"', 1),
        head=head,
        rows=rows,
    )


def _last(log: Sequence[Mapping[str, Any]], name: str) -> str:
    steps, values = series(log, name)
    return f"{smoothed(steps, values)[1][-1]:.4g}" if len(values) else ""


_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>audiorl: {title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }}
figure {{ margin: 0; background: white; color: #333; border-radius: 8px; padding: .5rem; }}
svg {{ width: 100%; height: auto; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }}
th[scope=row] {{ text-align: left; }}
</style>
<h1>{title}</h1>
<figure>{svg}
<figcaption>Thin: every step. Bold: the mean of a 25th of a run's steps.</figcaption></figure>
<h2>The last 25th of each run</h2>
<div tabindex="0"><table><thead><tr><td></td>{head}</tr></thead>
<tbody>
{rows}</tbody></table></div>
</html>
"""
