"""What a person should know of a run's settings before it begins: one line each."""

from audiorl_cli.config import RunConfig


def notices(config: RunConfig, rows: int) -> tuple[str, ...]:
    """The notices on a run of `config` over so many `rows`; none where there is nothing to say."""
    return tuple(line for line in (_left_out(config), _rounds(config, rows)) if line)


def _left_out(config: RunConfig) -> str:
    """What the sampler never draws, where the step takes its draws for those of the whole policy."""
    rollout = config.rollout
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    cuts = [
        f"rollout.{name} = {getattr(rollout, name)}" for name, none in off.items() if getattr(rollout, name) != none
    ]
    if not cuts or config.loss.sampler_correction != "none":
        return ""
    what = f"{', '.join(cuts)}: tokens that it leaves out are never sampled, and so never rewarded or punished"
    how = "the step learns from the others as if the whole policy had drawn them"
    weigh = "; loss.sampler_correction weighs them" if config.engine == "audiorl" else ""
    return f"{what}; {how}{weigh}"


def _rounds(config: RunConfig, rows: int) -> str:
    """How many rounds the data has rows for, where more are asked for."""
    asked, size = config.rollout.rounds, config.train.batch_size
    possible = max(rows // size, 1)
    if asked <= possible:
        return ""
    sampled = "once" if possible == 1 else f"{possible} times"
    return (
        f"rollout.rounds = {asked}: no row is sampled twice in a step, so that {rows} rows in batches of {size} are "
        f"sampled {sampled} at most"
    )
