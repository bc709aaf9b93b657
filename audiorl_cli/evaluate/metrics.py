"""The totals of a report: rates with their intervals, what was hallucinated, slices, confusions, speed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
from jaxtyping import Int

from audiorl_cli.bridge.selection import Selection
from audiorl_cli.evaluate.bootstrap import (
    BOOTSTRAP,
    Bootstrap,
    Interval,
    RateIntervals,
    clusters,
    interval,
    rate_intervals,
    rates,
    resample,
)
from audiorl_cli.evaluate.confusions import Confusion, Confusions, confusions
from audiorl_cli.evaluate.slices import Slice, slices
from audiorl_cli.evaluate.utterance import Reading, Utterance
from audiorl_cli.wer import total

_FEW: Final = 20  # units


@dataclass(frozen=True)
class Conditions:
    """What decides the transcripts and how they are counted; a folder holds the report of one such."""

    model: str
    dtype: str
    data_digest: str
    prompt: str  # as the model is given it, the audio as one placeholder
    max_new_tokens: int
    normaliser: str
    normaliser_version: int
    normaliser_digest: str


@dataclass(frozen=True)
class Hallucinations:
    """Utterances, counted, and the share of all in which any of the three was found.

    `silent`: those whose reference is empty; `on_silence`: those among them whose hypothesis is not. An utterance may
    have a loop and be too long. `interval` is of the share, None as those of the rates are; where nothing was found it
    is 0 to 0, for no draw of these utterances has any.
    """

    found: int
    share: float
    interval: Interval | None
    silent: int
    on_silence: int
    loops: int
    too_long: int


@dataclass(frozen=True)
class Rates:
    """What texts alone tell of a corpus. `wer`, `cer`, `mer` and `wil` are fractions, every word weighs alike.

    `units` is the number of utterances or speakers that the bootstrap draws from; `intervals` is None where there is
    nothing to draw: fewer than two of them, or no replicates asked for.
    """

    rows: int
    reference_words: int
    substitutions: int
    insertions: int
    deletions: int
    hits: int
    wer: float
    mer: float
    wil: float
    reference_characters: int
    cer: float
    bootstrap: Bootstrap
    units: int
    intervals: RateIntervals | None
    hallucinations: Hallucinations
    confusions: Confusions

    @property
    def too_few(self) -> bool:
        """Whether percentile intervals from so few units are known to be too narrow."""
        return self.units < _FEW


@dataclass(frozen=True)
class ReportedSelection(Selection):
    """What chose the model. `shared`: how many utterances of the report are of the validation set that did."""

    shared: int = 0


@dataclass(frozen=True)
class Metrics(Rates):
    """The totals of a report. `token_limit_share` is a fraction.

    `rtfx` is seconds of audio a second of work. `seconds` is the time on the clock from the first batch to the last:
    reading, compilation, scoring and all, but not the loading of the model, nor what is made of the scores.
    `selections`: what chose the model, after what chose the one that its training began with.
    """

    conditions: Conditions
    hours: float
    token_limit_share: float
    seconds: float
    rtfx: float
    slices: tuple[Slice, ...]
    selections: tuple[ReportedSelection, ...] = ()

    @property
    def optimism(self) -> str | None:
        """Say that this WER is lower than on other recordings is likely to be; None where it is not.

        It is where a validation set that chose the model, or the one that its training began with, is of these.
        """
        choosing = [one for one in self.selections if one.shared]
        if not choosing:
            return None
        shared = max(one.shared for one in choosing)
        which = f"all {self.rows}" if shared == self.rows else f"{shared} of the {self.rows}"
        by = " and ".join(f"{one.by} step {one.step}" for one in choosing)
        return (
            f"{which} utterances are of the validation set that chose the model ({by}): this WER is a selected "
            "minimum, and optimistic"
        )

    def table(self) -> dict[str, Any]:
        """The object of metrics.json: the conditions on one level with the totals."""
        table = asdict(self)
        return {**table.pop("conditions"), **table}


@dataclass(frozen=True)
class Results:
    """Totals and utterances, in the order of the data."""

    metrics: Metrics
    utterances: tuple[Utterance, ...]


def summarise(
    utterances: Sequence[Utterance],
    conditions: Conditions,
    seconds: float,
    bootstrap: Bootstrap = BOOTSTRAP,
    by: Sequence[str] = (),
    selections: Sequence[ReportedSelection] = (),
) -> Results:
    """The results of `utterances`, transcribed in `seconds`; with slices by speaker, duration and the columns `by`."""
    audio = math.fsum(one.duration_s for one in utterances)
    metrics = Metrics(
        **vars(rates_of(utterances, bootstrap, [one.speaker for one in utterances])),
        conditions=conditions,
        hours=audio / 3600,
        token_limit_share=sum(one.at_token_limit for one in utterances) / max(len(utterances), 1),
        seconds=seconds,
        rtfx=audio / seconds,
        slices=slices(utterances, by, bootstrap),
        selections=tuple(selections),
    )
    return Results(metrics, tuple(utterances))


def rates_of(readings: Sequence[Reading], bootstrap: Bootstrap, speakers: Sequence[str] = ()) -> Rates:
    """The rates of `readings`. `speakers`, one a reading, are drawn where `bootstrap` says so."""
    words = total(one.words for one in readings)
    characters = sum(one.reference_characters for one in readings)
    counts = _counts(readings)
    if bootstrap.cluster == "speaker":
        counts = clusters(counts, speakers)
    intervals = hallucinated = None
    if len(counts) > 1 and bootstrap.replicates:
        sums = resample(counts, bootstrap.replicates, bootstrap.seed)
        intervals, hallucinated = rate_intervals(sums[:, :6]), interval(rates(sums[:, 6], sums[:, 7]))
    return Rates(
        rows=len(readings),
        reference_words=words.reference_length,
        substitutions=words.substitutions,
        insertions=words.insertions,
        deletions=words.deletions,
        hits=words.hits,
        wer=words.rate,
        mer=words.mer,
        wil=words.wil,
        reference_characters=characters,
        cer=sum(one.character_errors for one in readings) / max(characters, 1),
        bootstrap=bootstrap,
        units=len(counts),
        intervals=intervals,
        hallucinations=_hallucinations(readings, hallucinated),
        confusions=confusions(one.alignment for one in readings),
    )


def of_table(table: Mapping[str, Any]) -> Metrics:
    """The metrics that `Metrics.table` wrote. Raises KeyError or TypeError for any other object."""
    rest = dict(table)
    intervals, hallucinations, found = rest["intervals"], rest["hallucinations"], rest["confusions"]
    rest |= {
        "conditions": Conditions(**{field.name: rest.pop(field.name) for field in fields(Conditions)}),
        "bootstrap": Bootstrap(**rest["bootstrap"]),
        "intervals": intervals and RateIntervals(**{name: Interval(**one) for name, one in intervals.items()}),
        "hallucinations": Hallucinations(**{**hallucinations, "interval": of_interval(hallucinations["interval"])}),
        "slices": tuple(Slice(**{**one, "interval": of_interval(one["interval"])}) for one in rest["slices"]),
        "selections": tuple(ReportedSelection(**one) for one in rest.get("selections", ())),
        "confusions": Confusions(**{kind: tuple(Confusion(**one) for one in ones) for kind, ones in found.items()}),
    }
    return Metrics(**rest)


def of_interval(table: Mapping[str, float] | None) -> Interval | None:
    """An interval from its JSON."""
    return None if table is None else Interval(**table)


def _counts(readings: Sequence[Reading]) -> Int[np.ndarray, "units 8"]:
    """What `rate_intervals` takes, the utterances with a hallucination, and the utterances of each unit."""
    return np.array(
        [
            (
                one.substitutions,
                one.insertions,
                one.deletions,
                one.hits,
                one.character_errors,
                one.reference_characters,
                one.hallucination.found,
                1,
            )
            for one in readings
        ],
        np.int64,
    ).reshape(-1, 8)


def _hallucinations(readings: Sequence[Reading], share: Interval | None) -> Hallucinations:
    each = [one.hallucination for one in readings]
    found = sum(one.found for one in each)
    return Hallucinations(
        found=found,
        share=found / max(len(each), 1),
        interval=share,
        silent=sum(not one.reference for one in readings),
        on_silence=sum(one.on_silence for one in each),
        loops=sum(bool(one.loop) for one in each),
        too_long=sum(one.too_long for one in each),
    )
