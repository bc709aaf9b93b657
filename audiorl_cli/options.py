"""Options as types: those of more than one command, which mean the same wherever they stand, and those of eval."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

Data = Annotated[str, typer.Option("--data", help="Shards written by `audiorl prep`: a folder, or s3:// or gs://.")]
Model = Annotated[
    str,
    typer.Option("--model", help="`tiny` (built in, random), a Hugging Face folder, a hub id, or a RUN; s3:// too."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; what it leaves out has its default.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override one value of the config; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]
Run = Annotated[
    str, typer.Option("--out", help="Folder of the run, or s3:// or gs://; an unfinished one is taken up again.")
]
Validation = Annotated[
    str | None,
    typer.Option("--validation", help="Held-out shards, transcribed as the run goes: it ends with its best step."),
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard events into the run.")]
Wandb = Annotated[str | None, typer.Option("--wandb", metavar="PROJECT", help="Also log to Weights & Biases.")]
Replicates = Annotated[int, typer.Option("--replicates", min=0, help="Of the bootstrap; 0 leaves out intervals.")]

Baseline = Annotated[
    str | None, typer.Option("--baseline", help="A report to compare with, over the same data; or s3:// or gs://.")
]
CountAgain = Annotated[
    bool, typer.Option("--accept-changes", help="Count a baseline of another normaliser again, with this one.")
]
By = Annotated[
    list[str] | None,
    typer.Option(
        "--by", metavar="COLUMN", help="Show slices by speaker, duration_s, any column prep kept; repeatable."
    ),
]
Cluster = Annotated[Literal["utterance", "speaker"], typer.Option("--cluster", help="What the bootstrap draws.")]
MaxNewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, help="Longest transcript; rollout.max_new_tokens unless given."),
]


def typed(context: typer.Context) -> str:
    """The command of `context` as a user would type it: its arguments, and the options that were given."""
    words = ["audiorl", str(context.info_name)]
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[str(parameter.name)]
        for one in value if isinstance(value, list | tuple) else [value]:
            option = parameter.opts[0] if parameter.param_type_name == "option" else ""
            words += [word for word in (option, "" if isinstance(one, bool) else str(one)) if word]
    return shlex.join(words)
