"""A report as one page that needs nothing but a browser: page.html, page.css and page.js, filled with its figures.

Nothing of it is fetched: the page's own policy forbids all but what stands in it, and names its style and script by
their digests. Every text of the data is escaped.
"""

import base64
import hashlib
import importlib.metadata
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from audiorl_cli import __version__
from audiorl_cli.data.mirror import local
from audiorl_cli.evaluate.bootstrap import Interval
from audiorl_cli.evaluate.exhibits import Exhibit
from audiorl_cli.evaluate.metrics import Metrics, Results
from audiorl_cli.evaluate.slices import Slice, sliced
from audiorl_cli.evaluate.utterance import Utterance
from audiorl_cli.wer import Alignment, ErrorCounts, total

if TYPE_CHECKING:
    from jinja2 import Template

    from audiorl_cli.evaluate.comparison import Comparison

WORST: Final = 20
"""So many of the worst utterances are shown with picture and sound."""
SLICES: Final = 40  # of one column; metrics.json has all
CONFUSIONS: Final = 15  # of one kind
_RUN: Final = ("config.toml", "run.json")
_LIBRARIES: Final = ("easydel", "jax", "transformers")
_TICKS: Final = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Making:
    """How a report came about, for those who want to make it again: the command, and files of the RUN that was heard.

    `when`: a date and time, as it is to be read.
    """

    command: str = ""
    when: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rate:
    """A row of the totals; rates and their change are fractions."""

    name: str
    meaning: str
    value: float
    interval: Interval | None
    baseline: float | None
    baseline_interval: Interval | None


def run_files(model: str) -> dict[str, str]:
    """The texts that say how a RUN was trained, by name; none where `model` is no folder of a run."""
    paths = [local(model) / name for name in _RUN]
    if not paths[0].is_file():
        return {}
    return {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()}


def page(
    found: Results,
    change: "Comparison | None",
    worst: Sequence[Utterance],
    *,
    baseline: Results | None = None,
    exhibits: Mapping[str, Exhibit] | None = None,
    making: Making | None = None,
) -> bytes:
    """The page of a report. `baseline`: what `change` is against, counted alike, where its utterances are at hand.

    `worst` are shown first, each with its exhibit where there is one.
    """
    metrics = found.metrics
    style, script = (_text(name) for name in ("page.css", "page.js"))
    rates = _rates(metrics, change, baseline)
    before = {} if baseline is None else {one.id: one for one in baseline.utterances}
    html = _template().render(
        metrics=metrics,
        conditions=metrics.conditions,
        change=change,
        rates=rates,
        scale=_scale(
            [*(one.value for one in rates), *(one.baseline for one in rates)],
            [*(one.interval for one in rates), *(one.baseline_interval for one in rates)],
        ),
        worst=[(one, before.get(one.id), (exhibits or {}).get(one.id)) for one in worst],
        exhibited=exhibits is not None,
        columns=_slices(found, before),
        compared=bool(before),
        slices_shown=SLICES,
        confusions_shown=CONFUSIONS,
        making=making or Making(),
        versions=_versions(),
        data=_data(found, before),
        style=style,
        script=script,
        policy=f"default-src 'none'; img-src data:; media-src data:; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'",
    )
    return html.encode()


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": lambda share: f"{100 * share:.2f} %",
        "points": lambda share: f"{100 * share:+.2f}".replace("-", "−"),
        "signed": lambda number: f"{number:+,}".replace("-", "−"),
        "within": lambda one: f"{100 * one.low:.2f} to {100 * one.high:.2f}",
        "between": lambda one: f"{100 * one.low:+.2f} to {100 * one.high:+.2f}".replace("-", "−"),
        "count": lambda number, noun: f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s",
        "at": lambda share, scale: f"{100 * share / scale:.2f}%",
        "data": lambda content, kind: f"data:{kind};base64,{base64.b64encode(content).decode()}",
    }
    return environment.from_string(_text("page.html"))


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _rates(metrics: Metrics, change: "Comparison | None", baseline: Results | None) -> list[Rate]:
    old = None if baseline is None else baseline.metrics

    def rate(name: str, meaning: str) -> Rate:
        before = getattr(change, f"baseline_{name}", None) if old is None else getattr(old, name)
        value = getattr(metrics, name)
        return Rate(name.upper(), meaning, value, _interval(metrics, name), before, _interval(old, name))

    return [
        rate("wer", "word error rate: errors over reference words"),
        rate("cer", "character error rate"),
        rate("mer", "match error rate: the share of the alignment that is wrong"),
        rate("wil", "word information lost"),
    ]


def _interval(metrics: Metrics | None, name: str) -> Interval | None:
    return None if metrics is None or metrics.intervals is None else getattr(metrics.intervals, name)


def _slices(
    found: Results, before: Mapping[str, Utterance]
) -> list[tuple[str, list[tuple[Slice, float | None]], float]]:
    """For each column its slices, each with the baseline's WER where that is known, and the end of their axis."""
    tables = []
    for column in _columns(found.metrics):
        slices = [one for one in found.metrics.slices if one.column == column]
        rows: dict[str, list[ErrorCounts]] = {}
        for one, value in zip(found.utterances, sliced(found.utterances, column) if before else (), strict=False):
            rows.setdefault(value, []).append(before[one.id].words)
        rates = [total(rows[one.value]).rate if before else None for one in slices]
        scale = _scale([*(one.wer for one in slices), *rates], [one.interval for one in slices])
        tables.append((column, list(zip(slices, rates, strict=True)), scale))
    return tables


def _columns(metrics: Metrics) -> list[str]:
    return list(dict.fromkeys(one.column for one in metrics.slices))


def _scale(values: Sequence[float | None], intervals: Sequence[Interval | None]) -> float:
    """The end of an axis from 0 that holds all of these: the next round number."""
    most = max([value or 0.0 for value in values] + [one.high for one in intervals if one], default=0.0)
    unit = 0.001
    while 10 * unit < most:
        unit *= 10
    return next((unit * tick for tick in _TICKS if unit * tick >= most), 10 * unit)


def _versions() -> dict[str, str]:
    return {"audiorl": __version__, **{name: importlib.metadata.version(name) for name in _LIBRARIES}}


def _data(found: Results, before: Mapping[str, Utterance]) -> str:
    """All utterances for page.js, as JSON that ends no script element: a list a row, in the order that it reads."""
    from jinja2.utils import htmlsafe_json_dumps

    slices, members = [], []
    for column in _columns(found.metrics):
        values = [one.value for one in found.metrics.slices if one.column == column]
        numbers = {value: number for number, value in enumerate(values)}
        slices.append([column, values])
        members.append([numbers[value] for value in sliced(found.utterances, column)])
    within = zip(*members, strict=True) if members else itertools.repeat(())
    rows = [_row(one, before.get(one.id), where) for one, where in zip(found.utterances, within, strict=False)]
    table = {"compared": bool(before), "slices": slices, "rows": rows}
    return htmlsafe_json_dumps(table, ensure_ascii=False, separators=(",", ":"))


def _row(one: Utterance, before: Utterance | None, slices: Sequence[int]) -> list[Any]:
    row: list[Any] = [
        one.id,
        one.speaker,
        round(one.duration_s, 2),
        one.words.reference_length,
        one.substitutions,
        one.insertions,
        one.deletions,
        int(one.hallucination.found) + 2 * one.at_token_limit,
        slices,
        _chunks(one.alignment),
    ]
    if before is not None:
        row += [before.words.errors, 0 if before.alignment == one.alignment else _chunks(before.alignment)]
    return row


def _chunks(alignment: Alignment) -> list[Any]:
    """Words that are right as one text, any other stretch as the pair of what was said and what was written."""
    return [
        " ".join(one.reference) if one.kind == "equal" else [" ".join(one.reference), " ".join(one.hypothesis)]
        for one in alignment.chunks
    ]
