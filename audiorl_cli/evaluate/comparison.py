"""A model against a baseline on the same utterances: what changed, and whether by more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from audiorl_cli.errors import DataError
from audiorl_cli.evaluate.bootstrap import Bootstrap, Interval, PairedBootstrap, clusters, paired
from audiorl_cli.evaluate.matched_pairs import MatchedPairs, matched_pairs
from audiorl_cli.evaluate.metrics import Conditions, Metrics, Results, of_interval, summarise
from audiorl_cli.evaluate.utterance import Utterance, counted_again
from audiorl_cli.text import normaliser


@dataclass(frozen=True)
class Comparison:
    """Results less their baseline's: a negative difference is an improvement. Utterances are counted by their errors.

    `wer_difference_interval` and `probability_of_improvement` are of the paired bootstrap, None where it says nothing.
    `baseline_normaliser` is the one, with its version, that the baseline's report was counted with, where that was
    another and all figures here are of both counted alike.
    """

    model: str
    baseline_model: str
    wer: float
    baseline_wer: float
    wer_difference: float
    wer_difference_interval: Interval | None
    probability_of_improvement: float | None
    matched_pairs: MatchedPairs
    cer: float
    baseline_cer: float
    cer_difference: float
    substitutions_difference: int
    insertions_difference: int
    deletions_difference: int
    better: int
    worse: int
    same: int
    baseline_normaliser: str | None


def check_comparable(ours: Conditions, baseline: Conditions, *, accept_changes: bool = False) -> None:
    """Raise DataError where results under these conditions cannot be compared with those under `baseline`.

    Other data never can. Another normaliser can with `accept_changes`: `compare` then counts the baseline again.
    """
    if ours.data_digest != baseline.data_digest:
        raise _other_terms("data_digest", "over the same data", ours.data_digest, baseline.data_digest, "")
    if ours.normaliser_digest != baseline.normaliser_digest and not accept_changes:
        raise _other_terms(
            "normaliser_digest",
            "counted with the same normaliser",
            ours.normaliser_digest,
            baseline.normaliser_digest,
            " Or have its transcripts counted again with this one: --accept-changes.",
        )


def compare(ours: Results, baseline: Results, *, accept_changes: bool = False) -> Comparison:
    """What changed from `baseline` to `ours`; resampled as `ours` was.

    With `accept_changes` a baseline of another normaliser is counted again, from its raw texts, with that of `ours`: no
    figure counted otherwise is set against another. Raises DataError where they are not comparable, as
    `check_comparable` has it, and for other utterances.
    """
    check_comparable(ours.metrics.conditions, baseline.metrics.conditions, accept_changes=accept_changes)
    given, baseline = baseline, counted_alike(ours, baseline)
    counted_with = None
    if baseline is not given:
        counted_with = f"{given.metrics.conditions.normaliser} {given.metrics.conditions.normaliser_version}"
    _check_utterances(ours.utterances, baseline.utterances)
    new, old = ours.metrics, baseline.metrics
    changes = [
        one.words.errors - other.words.errors for one, other in zip(ours.utterances, baseline.utterances, strict=True)
    ]
    chance = _paired(ours.utterances, baseline.utterances, new.bootstrap)
    return Comparison(
        model=new.conditions.model,
        baseline_model=old.conditions.model,
        wer=new.wer,
        baseline_wer=old.wer,
        wer_difference=new.wer - old.wer,
        wer_difference_interval=None if chance is None else chance.difference_interval,
        probability_of_improvement=None if chance is None else chance.probability_of_improvement,
        matched_pairs=matched_pairs(
            [one.alignment for one in ours.utterances], [one.alignment for one in baseline.utterances]
        ),
        cer=new.cer,
        baseline_cer=old.cer,
        cer_difference=new.cer - old.cer,
        substitutions_difference=new.substitutions - old.substitutions,
        insertions_difference=new.insertions - old.insertions,
        deletions_difference=new.deletions - old.deletions,
        better=sum(change < 0 for change in changes),
        worse=sum(change > 0 for change in changes),
        same=sum(change == 0 for change in changes),
        baseline_normaliser=counted_with,
    )


def of_table(table: Mapping[str, Any] | None) -> Comparison | None:
    """The comparison whose JSON this is. Raises KeyError or TypeError for any other object."""
    if table is None:
        return None
    nested = {
        "wer_difference_interval": of_interval(table["wer_difference_interval"]),
        "matched_pairs": MatchedPairs(**table["matched_pairs"]),
    }
    return Comparison(**{**table, **nested})


def counted_alike(ours: Results, baseline: Results) -> Results:
    """`baseline` as it is, or where it has another normaliser, its transcripts counted again with that of `ours`.

    Then it has no intervals. Raises DataError where this audiorl's normaliser is not that of `ours` any more.
    """
    conditions = ours.metrics.conditions
    if conditions.normaliser_digest == baseline.metrics.conditions.normaliser_digest:
        return baseline
    normalise = normaliser(conditions.normaliser)
    if normalise.digest != conditions.normaliser_digest:
        raise _other_terms(
            "normaliser_digest",
            f"of this audiorl's normaliser {normalise.name}",
            normalise.digest,
            conditions.normaliser_digest,
            "",
        )
    metrics: Metrics = baseline.metrics
    again = [counted_again(one, normalise) for one in baseline.utterances]
    return summarise(again, metrics.conditions, metrics.seconds, Bootstrap(replicates=0))


def _paired(ours: Sequence[Utterance], baseline: Sequence[Utterance], bootstrap: Bootstrap) -> PairedBootstrap | None:
    counts = np.array(
        [
            (one.words.errors, other.words.errors, one.words.reference_length)
            for one, other in zip(ours, baseline, strict=True)
        ],
        np.int64,
    ).reshape(-1, 3)
    if bootstrap.cluster == "speaker":
        counts = clusters(counts, [one.speaker for one in ours])
    return paired(counts, bootstrap.replicates, bootstrap.seed)


def _check_utterances(ours: Sequence[Utterance], baseline: Sequence[Utterance]) -> None:
    for one, other in zip(ours, baseline, strict=False):
        if (one.id, one.reference) != (other.id, other.reference):
            raise _other_utterances(f"{one.id} {one.reference!r}", f"{other.id} {other.reference!r}")
    if len(ours) != len(baseline):
        raise _other_utterances(f"{len(ours)} rows", f"{len(baseline)}")


def _other_terms(name: str, alike: str, expected: str, got: str, more: str) -> DataError:
    return DataError(
        f"baseline, {name}",
        expected=f"a report {alike} ({expected[:12]})",
        got=f"one with {got[:12]}",
        fix=f"Evaluate both on the same terms.{more}",
    )


def _other_utterances(expected: str, got: str) -> DataError:
    return DataError("baseline", expected=expected, got=got, fix="Compare reports over the same utterances.")
