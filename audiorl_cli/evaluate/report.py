"""A report's files: the totals, what a model heard in every utterance, a page of both. Written whole, read back."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from audiorl_cli.data.shards import write_whole
from audiorl_cli.data.store import Place
from audiorl_cli.errors import DataError
from audiorl_cli.evaluate import comparison, metrics, page, utterance
from audiorl_cli.evaluate.comparison import Comparison
from audiorl_cli.evaluate.exhibits import Exhibit
from audiorl_cli.evaluate.metrics import Conditions, Metrics, Results
from audiorl_cli.evaluate.page import Making
from audiorl_cli.evaluate.utterance import Utterance
from audiorl_cli.wer import ErrorCounts, total

FORMAT: Final = "audiorl-report"
VERSION: Final = 2
METRICS: Final = "metrics.json"
UTTERANCES: Final = "utterances.jsonl"
PAGE: Final = "report.html"
# What JSON leaves as it is and str.splitlines() takes for the end of a line.
_LINE_ENDS: Final = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


@dataclass(frozen=True)
class Report(Results):
    """Results, and how they compare with a baseline's where one was given."""

    comparison: Comparison | None = None


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
        _totals(folder / METRICS)


def check_out(folder: Path, conditions: Conditions) -> None:
    """Raise DataError where `folder` already holds a report made under other conditions.

    A report of the same model over the same data may be made again in its place. A file that is no report is in the
    way too: it is somebody's.
    """
    path = folder / METRICS
    if not path.exists():
        return
    there = _totals(path)[0].conditions
    for field in fields(Conditions):
        expected, got = getattr(conditions, field.name), getattr(there, field.name)
        if expected != got:
            raise DataError(
                str(path),
                expected=f"no report, or one of {field.name} {expected!r}",
                got=f"{field.name} {got!r}",
                fix="Choose another --out, or remove that report.",
            )


def write(
    report: Report,
    folder: Path,
    *,
    baseline: Results | None = None,
    exhibits: Mapping[str, Exhibit] | None = None,
    making: Making | None = None,
) -> None:
    """Put the report into `folder`, metrics.json last: where it stands, the report is whole.

    `baseline`, `exhibits` and `making` are for the page, as `page.page` has them. Raises DataError where the folder
    holds another report, as `check_out` does, or cannot be written.
    """
    check_out(folder, report.metrics.conditions)
    lines = [json.dumps(one.json(), ensure_ascii=False, allow_nan=False) + "\n" for one in report.utterances]
    change = report.comparison and asdict(report.comparison)
    table = {"format": FORMAT, "version": VERSION, **report.metrics.table(), "comparison": change}
    shown = page.page(
        report, report.comparison, worst(report, page.WORST), baseline=baseline, exhibits=exhibits, making=making
    )
    totals = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / METRICS).unlink(missing_ok=True)  # or old totals would stand beside new utterances for a moment
    except OSError as error:
        raise _not_writable(folder, error) from error
    write_whole(folder / UTTERANCES, "".join(lines).translate(_LINE_ENDS).encode())
    write_whole(folder / PAGE, shown)
    write_whole(folder / METRICS, totals.encode())


def read(folder: Place) -> Report:
    """The report in `folder`. Raises DataError where there is none, or its totals are not those of its utterances."""
    found, change = _totals(folder / METRICS)
    path = folder / UTTERANCES
    utterances = []
    for number, line in enumerate(_text(path).split("\n")[:-1], 1):
        try:
            utterances.append(utterance.of_json(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _not_a_report(f"{path} line {number}", str(error)) from error
    words = total(one.words for one in utterances)
    counted = ErrorCounts(found.substitutions, found.insertions, found.deletions, found.hits)
    if len(utterances) != found.rows or words != counted:
        raise _not_a_report(str(path), f"{len(utterances)} rows, {words}, where {METRICS} has {found.rows}, {counted}")
    return Report(found, tuple(utterances), change)


def worst(report: Results, number: int) -> list[Utterance]:
    """The `number` utterances with the highest WER, of equal ones those with more errors first; none without errors."""
    wrong = [one for one in report.utterances if one.words.errors]
    return sorted(wrong, key=lambda one: (-one.wer, -one.words.errors))[:number]


def _text(path: Place) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise _not_a_report(str(path), str(error.strerror)) from error
    except UnicodeDecodeError as error:
        raise _not_a_report(str(path), str(error)) from error


def _totals(path: Place) -> tuple[Metrics, Comparison | None]:
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
        change = comparison.of_table(table.pop("comparison"))
        return metrics.of_table(table), change
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_a_report(str(path), f"a table where something is off: {error}") from error


def _not_a_report(item: str, got: str) -> DataError:
    return DataError(
        item, expected="a report that audiorl eval wrote", got=got, fix="Run audiorl eval again, into another folder."
    )


def _not_writable(folder: Path, error: OSError) -> DataError:
    return DataError(str(folder), expected="a folder to write to", got=str(error.strerror), fix="Choose another --out.")
