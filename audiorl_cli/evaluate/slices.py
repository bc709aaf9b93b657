"""Where the errors are: the rows of each speaker, of each range of durations, of each value of any column."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from audiorl_cli.evaluate.bootstrap import Bootstrap, Interval, clusters, wer_interval
from audiorl_cli.evaluate.utterance import Utterance
from audiorl_cli.wer import total

SPEAKER: Final = "speaker"
DURATION: Final = "duration_s"
ALWAYS: Final = (SPEAKER, DURATION)
"""What a report is sliced by without being asked; speakers, where the data names any."""
UNKNOWN: Final = "(none)"
DURATION_EDGES: Final = (2.0, 5.0, 10.0, 20.0)  # seconds: a command, a sentence, a long one, a paragraph
_MOST_NUMBERS: Final = 12  # a column with more different numbers is cut into quarters of its rows


@dataclass(frozen=True)
class Slice:
    """The rows whose `column` has one value, or lies in one range, and their word errors.

    `interval` is None for a slice of one row, and where each unit that is drawn is a speaker, of one speaker.
    """

    column: str
    value: str
    rows: int
    reference_words: int
    substitutions: int
    insertions: int
    deletions: int
    wer: float
    interval: Interval | None
    hallucinated: int


def slices(utterances: Sequence[Utterance], by: Sequence[str], bootstrap: Bootstrap) -> tuple[Slice, ...]:
    """The slices by speaker and duration, then by the columns `by`: ranges rising, other values with the worst first.

    A slice is resampled by itself, as `bootstrap` says; that of a speaker always by utterance.
    """
    named = [name for name in ALWAYS if name != SPEAKER or any(one.speaker for one in utterances)]
    return tuple(
        found for column in dict.fromkeys([*named, *by]) for found in _of_column(utterances, column, bootstrap)
    )


def sliced(utterances: Sequence[Utterance], column: str) -> list[str]:
    """The value of the slice of `column` that each of `utterances`, all of a report's, is in."""
    return _named(utterances, column)[0]


def _named(utterances: Sequence[Utterance], column: str) -> tuple[list[str], list[str]]:
    """What each row's slice is called, and the names of the ranges, rising, where the column is cut into such."""
    values = [_value(one, column) for one in utterances]
    edges = list(DURATION_EDGES) if column == DURATION else _quarters(values)
    name = _ranges(edges) if edges else _text
    return [*map(name, values)], [*map(name, [-np.inf, *edges]), UNKNOWN] if edges else []


def _of_column(utterances: Sequence[Utterance], column: str, bootstrap: Bootstrap) -> list[Slice]:
    values, order = _named(utterances, column)
    groups: dict[str, list[Utterance]] = {}
    for one, value in zip(utterances, values, strict=True):
        groups.setdefault(value, []).append(one)
    by_speaker = bootstrap.cluster == "speaker" and column != SPEAKER
    found = [_slice(column, value, rows, bootstrap, by_speaker=by_speaker) for value, rows in groups.items()]
    if not order:
        return sorted(found, key=lambda one: (-one.wer, one.value))
    return sorted(found, key=lambda one: order.index(one.value))


def _slice(column: str, value: str, rows: Sequence[Utterance], bootstrap: Bootstrap, *, by_speaker: bool) -> Slice:
    words = total(one.words for one in rows)
    counts = np.array([(one.words.errors, one.words.reference_length) for one in rows], np.int64)
    if by_speaker:
        counts = clusters(counts, [one.speaker for one in rows])
    return Slice(
        column=column,
        value=value,
        rows=len(rows),
        reference_words=words.reference_length,
        substitutions=words.substitutions,
        insertions=words.insertions,
        deletions=words.deletions,
        wer=words.rate,
        interval=wer_interval(counts, bootstrap.replicates, bootstrap.seed),
        hallucinated=sum(one.hallucination.found for one in rows),
    )


def _value(one: Utterance, column: str) -> Any:
    if column == SPEAKER:
        return one.speaker or None
    return one.duration_s if column == DURATION else one.columns.get(column)


def _text(value: Any) -> str:
    return UNKNOWN if value is None else str(value)


def _quarters(values: Sequence[Any]) -> list[float]:
    """The edges that cut the rows of a column of many different numbers into quarters; none for any other column."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in known):
        return []
    if len({*known}) <= _MOST_NUMBERS or not np.isfinite(known).all():
        return []
    return sorted({float(edge) for edge in np.quantile(known, (0.25, 0.5, 0.75))})


def _ranges(edges: Sequence[float]) -> Callable[[Any], str]:
    """What a number's range is called; an edge belongs to the range above it."""
    names = [f"under {edges[0]:.6g}", *(f"{low:.6g} to {high:.6g}" for low, high in pairwise(edges))]
    names.append(f"{edges[-1]:.6g} and more")

    def name(value: Any) -> str:
        return UNKNOWN if value is None else names[int(np.searchsorted(edges, value, side="right"))]

    return name
