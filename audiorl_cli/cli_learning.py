"""The commands around learning, which `cli` puts into the app: supervised steps, GRPO, its forecast, its curves.

As there, imports of the domain stand inside the commands.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from audiorl_cli import cli_pod, console, console_learning, options

if TYPE_CHECKING:
    from audiorl_cli.data.store import Place
    from audiorl_cli.rl.loop import RunResult

_STOPPED: Final = cli_pod.LOST  # where 0 would be a finished run


@cli_pod.joined
def warmstart(
    data: options.Data,
    model: options.Model,
    out: options.Run,
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    validation: options.Validation = None,
    tensorboard: options.TensorBoard = False,
    wandb: options.Wandb = None,
    json: options.Json = False,
) -> None:
    """Supervised steps, to give an untrained model something to improve."""
    from audiorl_cli import config as configs
    from audiorl_cli.bridge import backend

    settings = configs.load(config, overrides)
    places = _opened(out, model, data, validation)
    with console.starting():
        backend.start()
        from audiorl_cli.data.store import place
        from audiorl_cli.rl import remote
        from audiorl_cli.rl import warmstart as supervised

    with console.warmstart_progress(settings.warmstart.steps) as on_step:
        learn = partial(
            supervised.warmstart,
            settings,
            places[0],
            model,
            on_step=on_step,
            on_stop=console.stopping,
            on_validation=console_learning.validation,
            validation=places[1] if validation else None,
            tensorboard=tensorboard,
            wandb=wandb,
        )
        result = remote.at(place(out), lambda folder, saved: learn(folder, on_saved=saved))
    _end(result, json)


@cli_pod.joined
def train(
    data: options.Data,
    model: options.Model,
    out: options.Run,
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    validation: options.Validation = None,
    subset: Annotated[
        Path | None, typer.Option("--subset", help="File of the rows to learn from, as forecast writes it.")
    ] = None,
    audio_cache: Annotated[
        Path | None,
        typer.Option("--audio-cache", help="Folder to keep what a frozen audio tower makes of each clip."),
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Go on with the run in --out, other settings or data notwithstanding."),
    ] = False,
    tensorboard: options.TensorBoard = False,
    wandb: options.Wandb = None,
    json: options.Json = False,
) -> None:
    """GRPO with rewards from word error rate."""
    from audiorl_cli import config as configs
    from audiorl_cli.bridge import backend

    settings = configs.load(config, overrides)
    places = _opened(out, model, data, validation)
    with console.starting():
        backend.start()
        from audiorl_cli.data.store import place
        from audiorl_cli.rl import remote, run

    with console.train_progress(settings.train.steps) as on_step:
        learn = partial(
            run.train,
            settings,
            places[0],
            model,
            on_step=on_step,
            on_stop=console.stopping,
            on_notice=console_learning.notice,
            on_suspicion=console_learning.suspicion,
            on_validation=console_learning.validation,
            validation=places[1] if validation else None,
            subset=subset,
            tensorboard=tensorboard,
            wandb=wandb,
            audio_cache=audio_cache,
            accept_changes=accept_changes,
        )
        result = remote.at(place(out), lambda folder, saved: learn(folder, on_saved=saved))
    _end(result, json)


def _opened(out: str, model: str, data: str, validation: str | None) -> "list[Place]":
    """Where the shards are; what is wrong with a folder shows at once, not after ten seconds of imports."""
    from audiorl_cli.data.shards import open_shards
    from audiorl_cli.data.store import demand_apart, place

    demand_apart(place(out), {"--model": model, "--data": data, "--validation": validation})
    return [open_shards(place(named)).folder for named in (data, validation) if named is not None]


def _end(result: "RunResult", json: bool) -> None:
    """Where a run stands, the exit code too."""
    console.as_json(result) if json else console.run_result(result)
    if result.stopped:
        raise typer.Exit(_STOPPED)


def forecast(
    data: options.Data,
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", help="Folder for forecast.json, groups.jsonl and forecast.png.")],
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Utterances, a group of completions each.")] = 64,
    write_subset: Annotated[
        Path | None, typer.Option("--write-subset", help="File for the ids of the rows with signal, for --subset.")
    ] = None,
    json: options.Json = False,
) -> None:
    """What GRPO would have to work with, before a pod is paid for: the groups of a run's first steps, sampled."""
    from audiorl_cli import config as configs
    from audiorl_cli.bridge import backend
    from audiorl_cli.data.shards import open_shards
    from audiorl_cli.data.store import demand_apart, place

    demand_apart(out, {"--model": model, "--data": data})
    settings, shards = configs.load(config, overrides), open_shards(place(data))
    with console.starting():
        backend.start()
        from audiorl_cli.bridge import checkpoint
        from audiorl_cli.bridge.mesh import demand_rows
        from audiorl_cli.data.lock import lock_folder
        from audiorl_cli.data.subset import write_subset as write
        from audiorl_cli.rl import forecast as forecasting

    demand_rows(settings.mesh, train__batch_size=settings.train.batch_size)
    with lock_folder(out):
        with console.counted("forecast") as on_progress:
            loaded = checkpoint.load(model, dtype=settings.train.dtype, mesh=settings.mesh)
            groups = forecasting.sample(settings, loaded, shards, rows, on_progress)
        found = forecasting.forecast(groups, settings, model, shards)
        forecasting.write(out, found, groups)
    if write_subset is not None:
        write(write_subset, forecasting.with_signal(groups))
    console.as_json(found) if json else console_learning.forecast(found, groups, out)


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs of train or warmstart.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for curves.png, curves.svg and curves.html.")],
    json: options.Json = False,
) -> None:
    """The curves of one or several runs, as pictures and as a page that needs no network."""
    from audiorl_cli.rl.curves import plot as draw

    drawn = draw(runs, out)
    console.as_json(drawn) if json else console_learning.curves(drawn)
