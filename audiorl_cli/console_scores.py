"""What a person sees of scores: rates with their intervals, slices, confusions, the worst, a model beside another."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from audiorl_cli.console import count, percent, say, table

if TYPE_CHECKING:
    from audiorl_cli.evaluate.bootstrap import Interval, RateIntervals
    from audiorl_cli.evaluate.comparison import Comparison
    from audiorl_cli.evaluate.confusions import Confusion, Confusions
    from audiorl_cli.evaluate.matched_pairs import MatchedPairs
    from audiorl_cli.evaluate.metrics import Hallucinations, Metrics, Rates
    from audiorl_cli.evaluate.score import Score
    from audiorl_cli.evaluate.slices import Slice
    from audiorl_cli.evaluate.utterance import Utterance
    from audiorl_cli.wer import Alignment, Chunk

_SLICES: Final = 20  # of one column
_CONFUSIONS: Final = 5  # of one kind


def totals(metrics: "Metrics", worst: "Sequence[Utterance]", by: Sequence[str]) -> None:
    """The totals, the slices of the columns `by`, the most frequent confusions, the utterances that went worst."""
    _rates(metrics, metrics.conditions.normaliser)
    say(f"{metrics.seconds:.1f} s, {metrics.rtfx:.1f} s of audio a second (RTFx)")
    if metrics.selections:
        say(f"the model: {metrics.selections[-1]}")
    if metrics.optimism:
        say(metrics.optimism)
    if metrics.token_limit_share:
        say(f"{percent(metrics.token_limit_share)} of the transcripts were cut at --max-new-tokens")
    _hallucinations(metrics.hallucinations, metrics.rows)
    for column in dict.fromkeys(by):
        _slices(column, [one for one in metrics.slices if one.column == column])
    _confusions(metrics.confusions)
    if worst:
        rows = [(one.id, percent(one.wer), marked(one.alignment)) for one in worst]
        table("worst", ("utterance", "WER", "[said > written] [- left out] [+ put in]"), rows)


def marked(alignment: "Alignment") -> str:
    """A hypothesis read against its reference on one line: "the cat [sat > set] [- on] mat [+ mat]"."""
    return " ".join(_stretch(chunk) for chunk in alignment.chunks)


def score(result: "Score") -> None:
    """What text alone tells: how files were read, error rates, what was hallucinated, the most frequent confusions."""
    if result.layouts is not None:
        by = "line number" if "plain lines" in result.layouts else "id"
        say(f"matched by {by}: {result.layouts[0]} against {result.layouts[1]}")
    _rates(result, result.normaliser)
    _hallucinations(result.hallucinations, result.rows)
    _confusions(result.confusions)


def comparison(change: "Comparison") -> None:
    """A report beside its baseline, and whether what changed is more than chance."""
    if change.baseline_normaliser:
        say(f"the baseline was counted with normaliser {change.baseline_normaliser}; here it is counted as this was")
    rows = [
        ("WER", percent(change.baseline_wer), percent(change.wer), f"{100 * change.wer_difference:+.2f}"),
        ("CER", percent(change.baseline_cer), percent(change.cer), f"{100 * change.cer_difference:+.2f}"),
    ]
    table("", ("", change.baseline_model, change.model, "change"), rows)
    say(f"{change.better} utterances better, {change.worse} worse, {change.same} the same")
    found = change.wer_difference_interval
    if found is not None and change.probability_of_improvement is not None:
        say(
            f"WER changed by {100 * found.low:+.2f} to {100 * found.high:+.2f} (95 % interval); "
            f"probability of improvement {percent(change.probability_of_improvement)}"
        )
    _matched_pairs(change.matched_pairs)


def _stretch(chunk: "Chunk") -> str:
    reference, hypothesis = " ".join(chunk.reference), " ".join(chunk.hypothesis)
    if chunk.kind == "substitute":
        return f"[{reference} > {hypothesis}]"
    return {"equal": reference, "delete": f"[- {reference}]", "insert": f"[+ {hypothesis}]"}[chunk.kind]


def _rates(found: "Rates", normaliser: str) -> None:
    """WER and its counts on one line, the others on the next, each with its interval where there is one."""
    intervals = found.intervals
    say(
        f"WER {_rate('wer', found.wer, intervals)}: {count(found.reference_words, 'word')}, "
        f"{count(found.substitutions, 'substitution')}, {count(found.insertions, 'insertion')}, "
        f"{count(found.deletions, 'deletion')}; {count(found.rows, 'utterance')}, normaliser {normaliser}"
    )
    rates = {"cer": found.cer, "mer": found.mer, "wil": found.wil}
    line = ", ".join(f"{name.upper()} {_rate(name, rate, intervals)}" for name, rate in rates.items())
    few = f", {found.units} alone: too few to trust" if found.too_few else ""
    say(line if intervals is None else f"{line}; 95 % intervals by {found.bootstrap.cluster}{few}")


def _rate(name: str, rate: float, intervals: "RateIntervals | None") -> str:
    return percent(rate) if intervals is None else f"{percent(rate)} ({_interval(getattr(intervals, name))})"


def _interval(found: "Interval | None") -> str:
    return "-" if found is None else f"{100 * found.low:.2f} to {100 * found.high:.2f}"


def _hallucinations(found: "Hallucinations", rows: int) -> None:
    if not found.found:
        say(f"hallucinated: none of {count(rows, 'utterance')}")
        return
    within = "" if found.interval is None else f" ({_interval(found.interval)})"
    say(
        f"hallucinated: {percent(found.share)}{within}, {found.found} of {count(rows, 'utterance')}: "
        f"{found.on_silence} of {found.silent} without speech, {count(found.loops, 'loop')}, {found.too_long} too long"
    )


def _slices(column: str, found: "Sequence[Slice]") -> None:
    rows = [
        (one.value, one.rows, one.reference_words, percent(one.wer), _interval(one.interval), one.hallucinated)
        for one in found[:_SLICES]
    ]
    table(f"by {column}", (column, "rows", "words", "WER", "95 % interval", "hallucinated"), rows)
    if len(found) > _SLICES:
        say(f"and {len(found) - _SLICES} more in metrics.json")


def _confusions(found: "Confusions") -> None:
    kinds = {"substituted": found.substituted, "inserted": found.inserted, "deleted": found.deleted}
    rows = [(kind, ", ".join(map(_confusion, most[:_CONFUSIONS]))) for kind, most in kinds.items() if most]
    if rows:
        table("most often", ("", "said > written, how many times"), rows)


def _confusion(one: "Confusion") -> str:
    words = (
        f"{one.reference} > {one.hypothesis}" if one.reference and one.hypothesis else one.reference or one.hypothesis
    )
    return f"{words} {one.count}"


def _matched_pairs(found: "MatchedPairs") -> None:
    where = f"matched pairs (MAPSSWE): {count(found.segments, 'segment')}"
    if found.z is None or found.p is None:
        say(f"{where}, all of them alike: no test")
    else:
        say(f"{where}, z {found.z:+.2f}, p {found.p:.3g}")
