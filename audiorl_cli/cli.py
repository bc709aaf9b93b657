"""The Typer app. A command: parse, import what it needs, make one call, show the result.

Imports of the domain stand inside the commands: `audiorl --help` must not pay for JAX and EasyDeL, and a mistake in a
config is told before they are.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, cast

import typer

from audiorl_cli import __version__, cli_learning, cli_plan, console, console_scores, options
from audiorl_cli.config import Dtype
from audiorl_cli.errors import MACHINE_ERRORS, AudioRLError, InstallError, UsageError

if TYPE_CHECKING:
    from audiorl_cli.data.store import Place

app = typer.Typer(
    name="audiorl",
    help="From recordings to a better audio language model: GRPO with rewards from word error rate, on EasyDeL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback is a defect of ours: show it as Python does
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED: Final = 130  # as shells count: 128 and the number of SIGINT
FeatureDtype = Literal["float16", "float32"]


def main() -> None:
    """The entry point: what a user can mend is one line and an exit code, never a traceback."""
    try:
        console.open_streams()
        try:
            app()
        except SystemExit:  # how Typer ends
            console.flush()
            raise
    except AudioRLError as error:
        console.fail(str(error))
        code = error.exit_code
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # Typer's, for Ctrl-C; it says nothing
            console.fail("interrupted. Run it again: prep, warmstart and train go on from where they were.")
        raise
    except BrokenPipeError:
        console.close()
        code = 1  # the reader of our output has gone, as `| head` does
    except (OSError, MemoryError, RuntimeError) as error:
        known = _of_machine(error)
        if known is None:
            raise
        console.fail(str(known))
        code = known.exit_code
    sys.exit(code)


def _of_machine(error: BaseException) -> InstallError | None:
    """What a user is told of an `error` that is the machine's: a disk is full, memory has run out; None of others."""
    if not isinstance(error, OSError):
        from audiorl_cli.bridge.backend import exhausted

        return exhausted(error)
    if error.filename == "standard output":
        console.close()
    if error.errno not in MACHINE_ERRORS:
        return None
    item, fix = str(error.filename or "this machine"), "Mend that (a full disk, too many open files), run it again."
    return InstallError(item, expected="to read and write", got=str(error.strerror), fix=fix)


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"audiorl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it, exit.")
    ] = False,
) -> None:
    pass


@app.command()
def prep(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="Tree of a corpus, JSONL, CSV/TSV, Kaldi, lhotse, tars, data set (hf:NAME:CONFIG), audio with .txt.",
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder for the shards, or s3:// or gs://.")] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="auto, librispeech, libritts, mls, vctk, ljspeech, jsonl, table, kaldi, lhotse, nemo, webdataset, "
            "hf or folder.",
        ),
    ] = "auto",
    split: Annotated[
        str | None,
        typer.Option("--split", help="Split of a data set; of several tables or cuts, the one of this name."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns",
            metavar="MEANING=COLUMN,...",
            help="audio, text, speaker, id, offset, end, duration, channel, extra.",
        ),
    ] = None,
    root: Annotated[str | None, typer.Option("--root", help="Confine the source's paths to this folder.")] = None,
    channel: Annotated[str, typer.Option("--channel", help="mix, left, right, or a number from 0.")] = "mix",
    dtype: Annotated[FeatureDtype, typer.Option("--dtype", help="Of the stored features.")] = "float16",
    clip_seconds: Annotated[float, typer.Option("--clip-seconds", help="The window; shorter is cheaper.")] = 30.0,
    min_seconds: Annotated[float, typer.Option("--min-seconds", help="Reject what is shorter.")] = 0.1,
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", help="Reject what is longer; the window unless given.")
    ] = None,
    rows_per_shard: Annotated[int, typer.Option("--rows-per-shard", help="Utterances a Parquet file.")] = 128,
    engine: Annotated[
        Literal["local", "ray"], typer.Option("--engine", help="This machine, or the Ray cluster of RAY_ADDRESS.")
    ] = "local",
    workers: Annotated[int, typer.Option("--workers", help="Processes of this machine; 0 is one a processor.")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first recording that cannot be used; see also --against.")
    ] = False,
    verify: Annotated[
        str | None, typer.Option("--verify", metavar="DATA", help="Check what an earlier run left, and make nothing.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="TEST", help="With --verify: is this apart from DATA?")
    ] = None,
    json: options.Json = False,
) -> None:
    """Recordings of any kind into fixed-length log-mel shards: SOURCE --out DATA.

    Killed and run again, it goes on from the last finished shard, and ends with the same bytes.

    --columns text=raw_text,audio=wav says what columns mean whose names prep does not know. offset with end or duration
    cuts a part, in seconds (NAME_ms: milliseconds); duration alone is held to the recording's length. "offset=" means
    that no column has it, extra=NAME that a column decides nothing.

    --verify DATA reads every byte and every row of such a folder, and names the first that is wrong.

    With --against TEST it also says which audio, speakers and texts both have. Audio or speakers are leaks: exit 1.
    Texts are leaks only with --strict: many people read the same ones. Speakers are compared as they are written.
    Audio is the same where its samples are, in whatever file: what was cut, made louder or coded with loss is another.
    """
    if verify is not None:
        from audiorl_cli.data.store import place

        _verify(context, place(verify), place(against) if against else None, strict=strict, json=json)
        return
    if source is None or out is None or against is not None:
        raise UsageError(
            "prep",
            expected="SOURCE --out DATA, --verify DATA, or --verify DATA --against TEST",
            got="--against alone" if against else "no --out" if source else "no SOURCE",
            fix="See audiorl prep --help.",
        )
    from audiorl_cli.data import prep as preparing
    from audiorl_cli.data.columns import AS_NAMED, Columns
    from audiorl_cli.data.sources import SourceFormat
    from audiorl_cli.data.store import place

    settings = preparing.PrepSettings(
        dtype=dtype,
        clip_seconds=clip_seconds,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        channel=channel,
        rows_per_shard=rows_per_shard,
        format=cast(SourceFormat, format),
        split=split,
        root=place(root) if root else None,
        columns=Columns.parse(columns) if columns else AS_NAMED,
        strict=strict,
        engine=engine,
        workers=workers,
    )
    with console.prep_progress() as on_progress:
        summary = preparing.prep(source, place(out), settings, on_progress)
    console.as_json(summary) if json else console.prep_summary(summary)


def _verify(context: typer.Context, data: "Place", against: "Place | None", *, strict: bool, json: bool) -> None:
    """The checks of prep: of one folder, or of the two sides of a split. What they would not heed is refused."""
    heeded = {"verify", "json"} if against is None else {"verify", "json", "against", "strict"}
    for name in context.params:
        given = context.get_parameter_source(name)
        if name not in heeded and given is not None and given.name == "COMMANDLINE":
            option = "SOURCE" if name == "source" else f"--{name.replace('_', '-')}"
            raise UsageError("--verify", expected="--against, --strict or --json", got=option, fix="Leave it out.")
    from audiorl_cli.data import leakage, verify

    if against is None:
        with console.verify_progress() as on_progress:
            found = verify.verify(data, on_progress)
        console.as_json(found) if json else console.verification(found)
        return
    with console.verify_progress() as on_progress:
        split = leakage.leakage(data, against, strict=strict, on_progress=on_progress)
    console.as_json(split) if json else console.split(split)
    if split.leaks:
        raise typer.Exit(1)


@app.command("check-batch")
def check_batch(
    data: options.Data,
    model: options.Model,
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Prompts a batch.")] = 4,
    batches: Annotated[int, typer.Option("--batches", min=1, help="Batches drawn from the shards.")] = 2,
    unpatched: Annotated[bool, typer.Option("--unpatched", help="Show what stock EasyDeL does instead.")] = False,
    prove: Annotated[
        bool, typer.Option("--prove", help="Load the weights: does it hear, does it agree with transformers?")
    ] = False,
    prove_rows: Annotated[int, typer.Option("--prove-rows", min=1, help="Rows that --prove takes.")] = 4,
    json: options.Json = False,
) -> None:
    """Show that batches reach the model with the right shapes, masks and audio token counts, without its weights.

    With them, --prove shows that it hears, as transformers does.
    """
    from audiorl_cli import config as configs
    from audiorl_cli.bridge import backend
    from audiorl_cli.data.shards import open_shards
    from audiorl_cli.data.store import place

    settings, shards = configs.load(config, overrides), open_shards(place(data))
    with console.starting():
        backend.start()
        from audiorl_cli.bridge import checkpoint, collate

    described = checkpoint.abstract(model)
    report = collate.check_batches(
        shards,
        described,
        settings.prompt,
        batch_size=batch_size,
        batches=batches,
        patched=not unpatched,
        seed=settings.seed,
    )
    if prove:
        with console.stages() as on_stage:
            from audiorl_cli.bridge.prove import proved

            report = proved(
                report,
                shards,
                described,
                settings.prompt,
                rows=prove_rows,
                seed=settings.seed,
                mesh=settings.mesh,
                on_stage=on_stage,
            )
    console.as_json(report) if json else console.batch_report(report, proof_wanted=prove)
    if report.findings:
        raise typer.Exit(1)


for _command in (
    cli_learning.warmstart,
    cli_learning.train,
    cli_learning.forecast,
    cli_plan.plan,
    cli_learning.plot,
):
    app.command()(_command)


@app.command("eval")
def evaluate(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="`tiny`, a Hugging Face folder, a hub id, or a RUN; s3:// or gs:// too.")
    ],
    data: options.Data,
    out: Annotated[
        str, typer.Option("--out", help="Folder for report.html, metrics.json, utterances.jsonl, or s3:// or gs://.")
    ],
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with prompt and normaliser; a RUN brings its own.")
    ] = None,
    overrides: options.Overrides = None,
    baseline: options.Baseline = None,
    accept_changes: options.CountAgain = False,
    by: options.By = None,
    cluster: options.Cluster = "utterance",
    replicates: options.Replicates = 10_000,
    max_new_tokens: options.MaxNewTokens = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of the weights.")] = "float32",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Utterances at once.")] = 32,
    worst: Annotated[int, typer.Option("--worst", min=0, help="How many of the worst utterances to show.")] = 5,
    json: options.Json = False,
) -> None:
    """Greedy transcripts of every row, and their error rates.

    Intervals are of 95 %, by a bootstrap over utterances, or over speakers: --cluster speaker.

    With --baseline the same draws give the probability of improvement; p is of sclite's matched-pairs test.
    """
    from audiorl_cli import config as configs
    from audiorl_cli.bridge import backend
    from audiorl_cli.data.mirror import delivered, local
    from audiorl_cli.data.shards import open_shards
    from audiorl_cli.data.store import demand_apart, place
    from audiorl_cli.evaluate import report

    demand_apart(place(out), {"MODEL": model, "--data": data})
    settings = configs.load(config or configs.of_run(local(model)), overrides)
    before = report.read(place(baseline)) if baseline else None
    shards = open_shards(place(data))
    with console.starting():
        backend.start()
        from audiorl_cli.bridge import checkpoint
        from audiorl_cli.evaluate import transcripts
        from audiorl_cli.evaluate.bootstrap import Bootstrap

    with delivered(place(out)) as folder, console.eval_progress() as on_progress:
        report.make_out(folder)
        found = transcripts.evaluate(
            checkpoint.load(model, dtype=dtype, mesh=settings.mesh),
            shards,
            settings.prompt,
            batch_size=batch_size,
            max_new_tokens=settings.rollout.max_new_tokens if max_new_tokens is None else max_new_tokens,
            normaliser_name=settings.reward.normaliser,
            out=folder,
            baseline=before,
            accept_changes=accept_changes,
            bootstrap=Bootstrap(replicates, cluster, settings.seed),
            by=by or (),
            command=options.typed(context),
            on_progress=on_progress,
        )
    if json:
        console.as_json({**found.metrics.table(), "comparison": found.comparison})
        return
    console_scores.totals(found.metrics, report.worst(found, worst), by or ())
    if found.comparison:
        console_scores.comparison(found.comparison)
    console.say(f"to look at and listen to: {place(out) / report.PAGE}")


@app.command()
def score(
    references: Annotated[
        Path, typer.Argument(help="Kaldi text, TSV, CSV, JSONL, JSON, sclite's trn, stm, ctm, or plain lines.")
    ],
    hypotheses: Annotated[Path, typer.Argument(help="The same ids, in any layout, or the same number of lines.")],
    normaliser: Annotated[str, typer.Option("--normaliser", help="none, basic, english, cjk, multilingual.")] = "none",
    format: Annotated[
        Literal["auto", "lines", "kaldi", "tsv", "csv", "json", "trn", "stm", "ctm"],
        typer.Option("--format", help="The layout of both files, where name and content mislead."),
    ] = "auto",
    replicates: options.Replicates = 10_000,
    json: options.Json = False,
) -> None:
    """Error rates of text alone, with 95 % intervals from a bootstrap over utterances."""
    from audiorl_cli.evaluate.score import score_files

    result = score_files(references, hypotheses, normaliser, replicates, format)
    console.as_json(result) if json else console_scores.score(result)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path("demo"),
    speech: Annotated[
        Path | None, typer.Option("--speech", help="Recorded single digits (manifest.jsonl) instead of synthetic ones.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of data, sampling and training.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps only: shows the line, learns nothing.")] = False,
) -> None:
    """The whole line on spoken digits: shards, checks, a warm start, GRPO, scores before and after."""
    from audiorl_cli import demo as story
    from audiorl_cli.data.store import demand_apart

    demand_apart(out, {"--speech": speech}, outside=True)

    def command(words: Sequence[str]) -> int:
        # Click gives back the code of typer.Exit, and None where a command just ends.
        return int(app(list(words), standalone_mode=False) or 0)

    code = story.run(out, speech, seed=seed, quick=quick, command=command, say=console.say)
    if code:
        raise typer.Exit(code)


@app.command()
def doctor(json: options.Json = False) -> None:
    """Versions, devices, memory, and whether EasyDeL passes audio on."""
    from audiorl_cli.bridge.quiet import silence

    silence()
    with console.starting():
        from audiorl_cli.bridge.doctor import examine

        report = examine()
    console.as_json(report) if json else console.doctor_report(report)
    if report.problems:
        raise typer.Exit(1)
