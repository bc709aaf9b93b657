"""A report: what a model heard in every utterance, and the totals. Written whole, read back, compared with another."""

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from audiorl_cli.data.shards import write_whole
from audiorl_cli.errors import DataError
from audiorl_cli.wer import ErrorCounts, count_characters, count_words, total

FORMAT: Final = "audiorl-report"
VERSION: Final = 1
METRICS: Final = "metrics.json"
UTTERANCES: Final = "utterances.jsonl"
# What JSON leaves as it is and str.splitlines() takes for the end of a line.
_LINE_ENDS: Final = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


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
class Utterance:
    """One row. `reference` and `hypothesis` are normalised, and what is counted; `_raw` is what was given and written.

    `wer` and the four counts before it are of words; `tokens` is the length of the completion.
    """

    id: str
    speaker: str
    duration_s: float
    reference: str
    hypothesis: str
    substitutions: int
    insertions: int
    deletions: int
    hits: int
    wer: float
    character_errors: int
    reference_characters: int
    tokens: int
    at_token_limit: bool
    reference_raw: str
    hypothesis_raw: str
    prompt: str

    @property
    def words(self) -> ErrorCounts:
        """The word errors."""
        return ErrorCounts(self.substitutions, self.insertions, self.deletions, self.hits)


@dataclass(frozen=True)
class Metrics:
    """The totals. `wer`, `cer` and `token_limit_share` are fractions; `rtfx` is seconds of audio a second of work.

    `seconds` is the time on the clock from the first batch to the last: reading, compilation, scoring and all, but not
    the loading of the model.
    """

    conditions: Conditions
    rows: int
    hours: float
    reference_words: int
    substitutions: int
    insertions: int
    deletions: int
    hits: int
    wer: float
    reference_characters: int
    cer: float
    token_limit_share: float
    seconds: float
    rtfx: float

    def table(self) -> dict[str, Any]:
        """The object of metrics.json: one level, conditions and totals."""
        table = asdict(self)
        return {**table.pop("conditions"), **table}


@dataclass(frozen=True)
class Report:
    """Totals and utterances, in the order of the data."""

    metrics: Metrics
    utterances: tuple[Utterance, ...]


@dataclass(frozen=True)
class Comparison:
    """A report less its baseline: a negative difference is an improvement. Utterances are counted by their errors."""

    model: str
    baseline_model: str
    wer: float
    baseline_wer: float
    wer_difference: float
    cer: float
    baseline_cer: float
    cer_difference: float
    substitutions_difference: int
    insertions_difference: int
    deletions_difference: int
    better: int
    worse: int
    same: int


def summarise(utterances: Sequence[Utterance], conditions: Conditions, seconds: float) -> Report:
    """The report of `utterances`, transcribed in `seconds`. Rates are of the corpus: every word weighs alike."""
    words = total(one.words for one in utterances)
    characters = sum(one.reference_characters for one in utterances)
    audio = math.fsum(one.duration_s for one in utterances)
    metrics = Metrics(
        conditions=conditions,
        rows=len(utterances),
        hours=audio / 3600,
        reference_words=words.reference_length,
        substitutions=words.substitutions,
        insertions=words.insertions,
        deletions=words.deletions,
        hits=words.hits,
        wer=words.rate,
        reference_characters=characters,
        cer=sum(one.character_errors for one in utterances) / max(characters, 1),
        token_limit_share=sum(one.at_token_limit for one in utterances) / max(len(utterances), 1),
        seconds=seconds,
        rtfx=audio / seconds,
    )
    return Report(metrics, tuple(utterances))


def counts(reference: str, hypothesis: str) -> dict[str, Any]:
    """The fields of an Utterance that follow from its two normalised texts."""
    words, characters = count_words(reference, hypothesis), count_characters(reference, hypothesis)
    return {
        **asdict(words),
        "wer": words.rate,
        "character_errors": characters.errors,
        "reference_characters": characters.reference_length,
    }


def make_out(folder: Path) -> None:
    """Make the folder of a report, so that one which cannot be written to is told before the work and not after it.

    Raises DataError for such a folder, and for a metrics.json in it that is no report.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from error
    if (folder / METRICS).exists():
        _metrics(folder / METRICS)


def check_out(folder: Path, conditions: Conditions) -> None:
    """Raise DataError where `folder` already holds a report made under other conditions.

    A report of the same model over the same data may be made again in its place. A file that is no report is in the
    way too: it is somebody's.
    """
    path = folder / METRICS
    if not path.exists():
        return
    there = _metrics(path).conditions
    for field in fields(Conditions):
        expected, got = getattr(conditions, field.name), getattr(there, field.name)
        if expected != got:
            raise DataError(
                str(path),
                expected=f"no report, or one of {field.name} {expected!r}",
                got=f"{field.name} {got!r}",
                fix="Choose another --out, or remove that report.",
            )


def write(report: Report, folder: Path) -> None:
    """Put the report into `folder`, metrics.json last: where it stands, the report is whole.

    Raises DataError where the folder holds another report, as `check_out` does, or cannot be written.
    """
    check_out(folder, report.metrics.conditions)
    lines = [json.dumps(asdict(one), ensure_ascii=False, allow_nan=False) + "\n" for one in report.utterances]
    table = {"format": FORMAT, "version": VERSION, **report.metrics.table()}
    totals = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / METRICS).unlink(missing_ok=True)  # or old totals would stand beside new utterances for a moment
    except OSError as error:
        raise _not_writable(folder, error) from error
    write_whole(folder / UTTERANCES, "".join(lines).translate(_LINE_ENDS).encode())
    write_whole(folder / METRICS, totals.encode())


def read(folder: Path) -> Report:
    """The report in `folder`. Raises DataError where there is none, or its totals are not those of its utterances."""
    metrics = _metrics(folder / METRICS)
    path = folder / UTTERANCES
    utterances = []
    for number, line in enumerate(_text(path).split("\n")[:-1], 1):
        try:
            utterances.append(Utterance(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise _not_a_report(f"{path} line {number}", str(error)) from error
    words = total(one.words for one in utterances)
    counted = ErrorCounts(metrics.substitutions, metrics.insertions, metrics.deletions, metrics.hits)
    if len(utterances) != metrics.rows or words != counted:
        raise _not_a_report(
            str(path), f"{len(utterances)} rows, {words}, where {METRICS} has {metrics.rows}, {counted}"
        )
    return Report(metrics, tuple(utterances))


def check_comparable(ours: Conditions, baseline: Conditions) -> None:
    """Raise DataError where reports under these conditions cannot be compared with those under `baseline`."""
    for name, alike in (
        ("normaliser_digest", "counted with the same normaliser"),
        ("data_digest", "over the same data"),
    ):
        expected, got = getattr(ours, name), getattr(baseline, name)
        if expected != got:
            raise DataError(
                f"baseline, {name}",
                expected=f"a report {alike} ({expected[:12]})",
                got=f"one with {got[:12]}",
                fix="Evaluate both on the same terms.",
            )


def compare(report: Report, baseline: Report) -> Comparison:
    """What changed from `baseline` to `report`.

    Raises DataError where they were not counted alike: another normaliser, other data, other utterances.
    """
    ours, theirs = report.metrics, baseline.metrics
    check_comparable(ours.conditions, theirs.conditions)
    for one, other in zip(report.utterances, baseline.utterances, strict=False):
        if (one.id, one.reference) != (other.id, other.reference):
            raise _other_utterances(f"{one.id} {one.reference!r}", f"{other.id} {other.reference!r}")
    if ours.rows != theirs.rows:
        raise _other_utterances(f"{ours.rows} rows", f"{theirs.rows}")
    changes = [
        one.words.errors - other.words.errors for one, other in zip(report.utterances, baseline.utterances, strict=True)
    ]
    return Comparison(
        model=ours.conditions.model,
        baseline_model=theirs.conditions.model,
        wer=ours.wer,
        baseline_wer=theirs.wer,
        wer_difference=ours.wer - theirs.wer,
        cer=ours.cer,
        baseline_cer=theirs.cer,
        cer_difference=ours.cer - theirs.cer,
        substitutions_difference=ours.substitutions - theirs.substitutions,
        insertions_difference=ours.insertions - theirs.insertions,
        deletions_difference=ours.deletions - theirs.deletions,
        better=sum(change < 0 for change in changes),
        worse=sum(change > 0 for change in changes),
        same=sum(change == 0 for change in changes),
    )


def worst(report: Report, number: int) -> list[Utterance]:
    """The `number` utterances with the highest WER, of equal ones those with more errors first; none without errors."""
    wrong = [one for one in report.utterances if one.words.errors]
    return sorted(wrong, key=lambda one: (-one.wer, -one.words.errors))[:number]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _not_a_report(str(path), str(error.strerror)) from error
    except UnicodeDecodeError as error:
        raise _not_a_report(str(path), str(error)) from error


def _metrics(path: Path) -> Metrics:
    try:
        table = json.loads(_text(path))
    except ValueError as error:
        raise _not_a_report(str(path), str(error)) from error
    if not isinstance(table, dict) or table.pop("format", None) != FORMAT:
        raise _not_a_report(str(path), "another kind of file")
    version = table.pop("version", None)
    if version != VERSION:
        raise _not_a_report(str(path), f"format version {version!r}, where this is version {VERSION}")
    try:
        conditions = Conditions(**{field.name: table.pop(field.name) for field in fields(Conditions)})
        return Metrics(conditions=conditions, **table)
    except (KeyError, TypeError) as error:
        raise _not_a_report(str(path), f"a table where something is off: {error}") from error


def _not_a_report(item: str, got: str) -> DataError:
    return DataError(
        item, expected="a report that audiorl eval wrote", got=got, fix="Run audiorl eval into another folder."
    )


def _not_writable(folder: Path, error: OSError) -> DataError:
    return DataError(str(folder), expected="a folder to write to", got=str(error.strerror), fix="Choose another --out.")


def _other_utterances(expected: str, got: str) -> DataError:
    return DataError("baseline", expected=expected, got=got, fix="Compare reports over the same utterances.")
