"""Everything a person sees on a terminal. Results go to standard output, progress and errors to standard error."""

import dataclasses
import gc
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from audiorl_cli.data.rejected import SKIP_RULES
from audiorl_cli.errors import UsageError

if TYPE_CHECKING:
    from audiorl_cli.bridge.collate import BatchReport, Column
    from audiorl_cli.bridge.doctor import DoctorReport
    from audiorl_cli.bridge.hearing import Gain, Hearing
    from audiorl_cli.bridge.prove import Proof
    from audiorl_cli.data.leakage import Leakage
    from audiorl_cli.data.prep import PrepSummary
    from audiorl_cli.data.prep import Progress as Prep
    from audiorl_cli.data.verify import Verification
    from audiorl_cli.rl.loop import RunResult
    from audiorl_cli.rl.metrics import StepMetrics, WarmstartMetrics

_LINES: Final = 20  # of a run's steps, whatever its length
_WHAT: Final = 40  # characters of a text, or of a digest, that is an example
_NARROWEST: Final = 40  # columns
_CELL: Final = (11, 14)  # narrowest and widest cell in a line of a step: seven of the narrow ones fit a terminal of 80


class _Stream(io.TextIOBase):
    """A standard stream by its name in `sys`, whichever it is when it is written to."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _stream(self) -> IO[str]:
        stream = getattr(sys, self._name)
        # While rich shows a bar, what it has put there hands everything to a console, which would hand it to this.
        behind: IO[str] = getattr(stream, "rich_proxied_file", stream)
        return behind

    def write(self, text: str) -> int:
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"


class _Stdout(_Stream):
    """Standard output; an OSError says that it is of this stream."""

    def write(self, text: str) -> int:
        with _named():
            return super().write(text)

    def flush(self) -> None:
        with _named():
            super().flush()


class _Stderr(_Stream):
    """Standard error. A reader that has gone, or a full disk, ends no run."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = "standard output"
        raise


def _width(stream: IO[str] | None) -> int | None:
    """How wide a console on `stream` is; None: as the terminal, whenever something is shown.

    A file or a pipe has no width of its own: wide enough that no table of ours is folded. In a terminal of a few
    columns, or of none, rich shows nothing, and waits for ever where it shows a bar.
    """
    if stream is None or not stream.isatty():
        return 120
    told = os.environ.get("COLUMNS", "")  # which rich takes before it asks the terminal
    columns = int(told) if told.isdecimal() else shutil.get_terminal_size().columns
    return _NARROWEST if columns < _NARROWEST else None


_STDOUT: Final = cast(IO[str], _Stdout("stdout"))
_STDERR: Final = cast(IO[str], _Stderr("stderr"))
out = Console(file=_STDOUT, highlight=False, width=_width(sys.stdout))
err = Console(file=_STDERR, highlight=False, width=_width(sys.stderr))


# What went wrong is said whatever else is not shown.
_last = Console(file=_STDERR, highlight=False, width=_width(sys.stderr))


def open_streams() -> None:
    """See that there is something behind every standard stream, before any other file is opened.

    The next file to be opened would have the number of one that is closed, and what libraries print would go into it.
    A character that a stream's encoding lacks is written as an escape. Raises UsageError where standard output is
    closed: every command has a result to write there.
    """
    closed = [number for number in range(3) if not _is_open(number)]
    for number in closed:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
    if 1 in closed:
        raise UsageError(
            "standard output",
            expected="a file, a pipe or a terminal for the result",
            got="none: it is closed",
            fix="Redirect it to /dev/null to do without.",
        )


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def flush() -> None:
    """Write what waits for standard output. Raises OSError where it cannot be written, and then nothing more is."""
    try:
        _STDOUT.flush()
    except OSError:
        close()
        raise


def close() -> None:
    """Write nothing more to standard output: Python would try again when it ends, and complain."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.close(descriptor)


def mute() -> None:
    """Show nothing but what goes wrong."""
    out.quiet = err.quiet = True


def say(text: str) -> None:
    """One line or paragraph of result, printed as it is: no markup is read from it."""
    out.print(escape(text), soft_wrap=True)


def fail(message: str) -> None:
    """One line that says what went wrong, on standard error."""
    _last.print(f"[bold red]error[/] {escape(message)}", soft_wrap=True)


def as_json(result: Any) -> None:
    """A result (dataclasses and what JSON has) on standard output, for programs. NaN is refused: it is not JSON."""
    if not out.quiet:
        _STDOUT.write(json.dumps(result, indent=2, allow_nan=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; a cell that is a number is set to the right."""
    shown = Table(title=title or None, title_justify="left", title_style="bold", header_style="dim", box=None)
    for number, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        shown.add_column(escape(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(cell(value) for value in row))
    out.print(shown)


def cell(value: object) -> str:
    """A value as a person reads it: booleans as words, floats to four figures."""
    if isinstance(value, bool):
        return "[green]ok[/]" if value else "[red]no[/]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value))


def percent(share: float) -> str:
    """0.1234 -> 12.34 %."""
    return f"{100 * share:.2f} %"


def _faults(kind: str, faults: Sequence[Any], place: Callable[[Any], str]) -> None:
    for one in faults:
        line = f"{place(one)}: expected {one.expected}, got {one.got}. {one.fix}"
        out.print(f"[bold red]{kind}[/] {escape(line)}", soft_wrap=True)


def count(number: int, noun: str) -> str:
    """1 shard, 2 shards."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def starting() -> Iterator[None]:
    """A sign of life while libraries are imported, nine seconds for EasyDeL; nothing in a file or a pipe."""
    # A million objects that stay: looking among them for garbage is a sixth of that time, and as much of tracing's.
    gc.disable()
    try:
        with err.status("starting") if err.is_terminal else nullcontext():
            yield
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)  # JAX makes 50,000 objects in less than a second, nearly none of them garbage
        gc.enable()


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """A sign of life through work of several stages, each shown as it begins; nothing in a file or a pipe."""
    if not err.is_terminal:
        yield lambda _: None
        return
    with err.status("") as status:
        yield lambda stage: status.update(stage)


def _bar(*columns: ProgressColumn) -> Progress:
    """A bar that is gone when it is done. In a file or a pipe there is none, not even the line it would stand on."""
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


@contextmanager
def prep_progress() -> Iterator["Callable[[Prep], None]"]:
    """A bar over the rows of a source, with hours of audio a second and the time left."""
    columns = (
        TextColumn("prep"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with _bar(*columns) as bar:
        task = bar.add_task("prep", total=None, note="")

        def on_progress(now: "Prep") -> None:
            rate = now.audio_seconds / max(now.elapsed_seconds, 1e-9)
            note = f"{now.rejected} rejected, {rate:.0f} s of audio a second"
            bar.update(task, total=now.total, completed=now.done, note=note)

        yield on_progress


def prep_summary(summary: "PrepSummary") -> None:
    """What prep kept, what it left out and why, and how fast it was."""
    rejected = sum(summary.rejected.values())
    kept, shards = count(summary.utterances, "utterance"), count(summary.shards, "shard")
    say(f"{summary.out}: {kept}, {summary.hours:.3f} h, in {shards}")
    if rejected:
        say(f"{rejected} rejected, each with its reason in {summary.out / 'rejected.jsonl'}")
        most_first = sorted(summary.rejected, key=lambda reason: -summary.rejected[reason])
        table("", ("reason", "rows"), [(reason, summary.rejected[reason]) for reason in most_first])
    if summary.skipped:
        table("", ("files", "not read"), [(files, SKIP_RULES[rule]) for rule, files in summary.skipped.items()])
    if summary.resumed == summary.utterances + rejected:
        say("all of it was done by an earlier run")
        return
    if summary.resumed:
        say(f"{count(summary.resumed, 'row')} done by an earlier run")
    say(f"{summary.elapsed_seconds:.1f} s, {3600 * summary.hours_per_second:.0f} s of audio a second")


def verify_progress() -> AbstractContextManager["Callable[[int, int], None]"]:
    """A bar over the rows of a folder of shards, with the time left."""
    return counted("verify")


def verification(found: "Verification") -> None:
    """What was checked of a folder where nothing is wrong."""
    rows, shards = count(found.utterances, "row"), count(found.shards, "shard")
    checked = f"{rows}, {found.hours:.3f} h, in {shards} of {decimal(found.bytes)}; {found.rejected} rejected"
    out.print(f"[bold green]whole[/]: {escape(str(found.folder))}, every byte and row: {checked}", soft_wrap=True)


def split(found: "Leakage") -> None:
    """Both sides of a split, how much they share, and whether they may."""
    verification(found.train)
    verification(found.test)
    train, test = found.train.folder, found.test.folder
    kinds = {"audio": found.audio, "speaker": found.speaker, "text": found.text}
    rows = [(kind, o.shared, o.rows, o.unknown) for kind, o in kinds.items()]
    table("", ("on both sides", "different", f"rows of {test}", "rows without"), rows)
    first = [(kind, e.what[:_WHAT], e.train, e.test) for kind, o in kinds.items() for e in o.first]
    if first:
        table("", ("for example", "", f"in {train}", f"in {test}"), first)
    if found.leaks:
        out.print(f"[bold red]leak[/]: {' and '.join(found.leaks)}", soft_wrap=True)
    else:
        out.print("[bold green]apart[/]: nothing that is a leak is on both sides")


def batch_report(report: "BatchReport", *, proof_wanted: bool = False) -> None:
    """The columns of the first batch at every stage, the rows of all of them, the proof, and what is wrong."""
    easydel = "patched" if report.patched else "as it is"
    say(f"model {report.model}, EasyDeL {easydel}, prompts of {report.max_prompt_length} tokens")
    for batch in report.batches:
        if batch is report.batches[0] or any(column.verdict != "ok" for column in batch.columns):
            stages = [column.stage for column in batch.columns]
            rows = [
                # A stage is named once, on the first of its rows.
                ("" if stages[:number][-1:] == [c.stage] else c.stage, c.key, _array(c), c.expected, c.verdict)
                for number, c in enumerate(batch.columns)
            ]
            table(f"batch {batch.number}", ("stage", "key", "found", "expected", "verdict"), rows)
        else:
            say(f"batch {batch.number}: the same shapes at every stage")
        checks = [(r.id, r.valid_frames, r.tokens_expected, r.placeholders, r.verdict) for r in batch.rows]
        table("", ("utterance", "valid frames", "audio tokens", "in the prompt", "verdict"), checks)
    if report.proof:
        _proof(report.proof)
    elif proof_wanted:
        say("not proved: what was found comes first")
    _faults("finding", report.findings, lambda one: one.where)
    if not report.findings:
        out.print("[bold green]sound[/]: every batch reaches the model whole")


def _proof(proof: "Proof") -> None:
    hearing = proof.hearing
    rows = [(r.id, r.tokens, f"{r.own:.2f}", f"{r.silence:.2f}", f"{r.another:.2f}", r.other) for r in hearing.rows]
    heads = ("utterance", "tokens", "own audio", "silence", "another's", "which is")
    table("log-prob of the reference, nats a token", heads, rows)
    _hearing(hearing)
    apart = [(a.output, a.other, float(f"{a.difference:.1e}"), a.limit, a.verdict) for a in proof.agreements]
    table("", ("model", "against", "largest difference", "limit", "verdict"), apart)
    if proof.skipped:
        say(f"not compared with transformers: {proof.skipped}")


def _hearing(hearing: "Hearing") -> None:
    def gain(over: "Gain") -> str:
        return f"in {over.rows} of {len(hearing.rows)} rows, by {round(over.nats, 2) + 0.0:.2f} nats a token"

    more = f"more likely than silence {gain(hearing.over_silence)}; than another's {gain(hearing.over_another)}"
    line = {
        "hears": f"[bold green]hears[/]: its own audio makes the reference {more}",
        "not yet": f"[bold yellow]not yet[/]: audio reaches the logits, but its own makes the reference {more}. "
        "A model is so before it is trained.",
        "deaf": "[bold red]deaf[/]: the audio changes nothing",
    }
    out.print(line[hearing.verdict], soft_wrap=True)


def _array(column: "Column") -> str:
    return column.shape if column.shape == column.dtype else f"{column.dtype} {column.shape}"


@contextmanager
def train_progress(steps: int) -> Iterator["Callable[[StepMetrics], None]"]:
    """A line a step on how the learning goes, over a bar with the time left."""
    heads = ("step", "reward", "sample WER", "KL", "no spread", "tokens", "s/step")

    def line(m: "StepMetrics") -> tuple[str, ...]:
        return (
            f"{m.step}",
            f"{m.reward_mean:.3f}",
            percent(m.sample_wer),
            "-" if m.kl is None else f"{round(m.kl, 4) + 0.0:.4f}",
            percent(m.zero_spread_share),
            f"{m.completion_tokens_mean:.1f}",
            f"{m.step_s:.2f}",
        )

    with _steps("train", steps, heads, line) as on_step:
        yield on_step


@contextmanager
def warmstart_progress(steps: int) -> Iterator["Callable[[WarmstartMetrics], None]"]:
    """The same for supervised steps."""

    def line(m: "WarmstartMetrics") -> tuple[str, ...]:
        return f"{m.step}", f"{m.loss:.3f}", percent(m.token_accuracy_share), f"{m.step_s:.2f}"

    with _steps("warmstart", steps, ("step", "loss", "tokens right", "s/step"), line) as on_step:
        yield on_step


@contextmanager
def _steps(
    name: str, steps: int, heads: tuple[str, ...], line: Callable[[Any], tuple[str, ...]]
) -> Iterator["Callable[[Any], None]"]:
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    every = max(1, steps // _LINES)
    wide = max(_CELL[0], min(_CELL[1], (err.width - 1) // len(heads)))  # a folded line is no line of a table
    with _bar(*columns) as bar:
        task = bar.add_task(name, total=steps)
        named, waiting = False, None

        def show(metrics: Any) -> None:
            err.print("".join(f"{value:>{wide}}" for value in line(metrics)))

        def on_step(metrics: Any) -> None:
            nonlocal named, waiting
            if not named:
                err.print("".join(f"{head:>{wide}}" for head in heads), style="dim")
                named = True
            bar.update(task, completed=metrics.step)
            waiting = None if metrics.step % every == 0 or metrics.step in (1, steps) else metrics
            if waiting is None:
                show(metrics)

        yield on_step
        if waiting is not None:  # the last step, where a run ended before its bar did
            show(waiting)


def stopping() -> None:
    """A run was asked to stop: it does so where nothing is lost, which may be minutes away."""
    err.print("stopping after this step; ask again to stop at once and lose what was not saved")


def run_result(result: "RunResult") -> None:
    """Where a run stands, and what to do next."""
    if result.began_at:
        say(f"{result.out}: taken up again at step {result.began_at}")
    if result.stopped:
        say(f"{result.out}: stopped at step {result.steps}; the same command goes on from there")
    else:
        of = f", of step {result.best.step} (held-out WER {percent(result.best.wer)})" if result.best else ""
        say(f"{result.out}: {count(result.steps, 'step')}; the model is in {result.model}{of}")


def eval_progress() -> AbstractContextManager["Callable[[int, int], None]"]:
    """A bar over the utterances, with the time left."""
    return counted("eval")


@contextmanager
def counted(name: str) -> Iterator["Callable[[int, int], None]"]:
    """A bar over what is done of how many, with the time left."""
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with _bar(*columns) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def doctor_report(report: "DoctorReport") -> None:
    """The machine, the packages, EasyDeL's lists, and what to mend."""
    gib = 1024**3
    machine = report.machine
    say(f"audiorl {report.version}, Python {report.python}, {machine.system}")
    say(f"{machine.cores} cores, {machine.memory_bytes / gib:.1f} GiB of memory, {machine.free_bytes / gib:.1f} free")
    for device in report.devices:
        memory = f", {device.memory_bytes / gib:.1f} GiB" if device.memory_bytes else ""
        say(f"device {device.id}: {device.platform} {device.kind}{memory}")
    packages = [(p.name, p.needed, p.found or "-", p.verdict) for p in report.packages]
    table("", ("package", "needed", "found", "verdict"), packages)
    if report.patch:
        lists = [
            (
                f"{entry.module}.{entry.name}",
                ", ".join(entry.had) or "-",
                ", ".join(entry.added) or "-",
                entry.took_hold,
            )
            for entry in report.patch.lists
        ]
        table("", ("EasyDeL's list", "had", "put in", "took hold"), lists)
    if report.mends:
        mends = [
            (m.name, m.fault, Path(m.upstream).name, "needed" if m.needed else "mended upstream: delete it")
            for m in report.mends
        ]
        table("", ("mend", "what EasyDeL does", "where", "verdict"), mends)
    _faults("problem", report.problems, lambda one: one.item)
    if not report.problems:
        out.print("[bold green]all is well[/]")
