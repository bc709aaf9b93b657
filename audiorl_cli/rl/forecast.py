"""What GRPO would have to work with, before it is paid for: groups sampled as the first steps of a run would."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.generate import Rollout, rollout, row_keys
from audiorl_cli.bridge.mesh import by_rows, placed
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.rows import stacked
from audiorl_cli.config import RunConfig
from audiorl_cli.data.shards import Row, Shards, write_whole
from audiorl_cli.data.subset import write_subset
from audiorl_cli.rl.advantages import spread
from audiorl_cli.rl.judge import Judge, Verdict, earned
from audiorl_cli.rl.order import batch_rows

FORECAST: Final = "forecast.json"
GROUPS: Final = "groups.jsonl"
PICTURE: Final = "forecast.png"


@dataclass(frozen=True)
class Group:
    """The completions of one utterance. `rewards`: what GRPO would be given, what length costs included.

    `errors`: word errors of each completion; `words`: of the reference; `tokens`: of each completion, its end included;
    `ended`: whether it came to one within the limit. `spread`: whether the rewards differ, so that GRPO learns of it.
    """

    id: str
    reference: str
    words: int
    completions: tuple[str, ...]
    rewards: tuple[float, ...]
    errors: tuple[int, ...]
    tokens: tuple[int, ...]
    ended: tuple[bool, ...]
    spread: bool


@dataclass(frozen=True)
class Forecast:
    """The totals over `rows` groups. Rates are of the corpus: every word weighs alike.

    `zero_spread_share`: groups all of whose rewards are equal, of which nothing is learnt; `solved_share`: those among
    them without an error in any completion. `wer_mean`: of all completions; `wer_best`: of the best of each group, what
    sampling could come to with a perfect choice (the oracle); both None where no reference has a word.
    `reward_std`: within a group, mean over groups.
    """

    model: str
    data_digest: str
    rows: int
    group_size: int
    temperature: float
    reward_mean: float
    reward_std: float
    zero_spread_share: float
    solved_share: float
    wer_mean: float | None
    wer_best: float | None
    completion_tokens_mean: float
    completion_tokens_max: int
    truncated_share: float


def sample(
    config: RunConfig,
    checkpoint: Checkpoint,
    shards: Shards,
    rows: int,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[Group]:
    """A group of completions of each of `rows` utterances, or of all where there are fewer.

    They are those that the first steps of `train` would take, of this config and model, were it to learn nothing: the
    first batch is its first step's, token for token. `on_progress` hears of rows done and of how many. What a reward
    raises goes through.
    """
    prompter = Prompter(checkpoint.tokenizer, config.prompt)
    length = max(prompter.length(frames) for frames in set(shards.column("num_frames")))
    judge = Judge.of(config.reward, shards)
    graph, state = nnx.split(checkpoint.model)
    mesh = checkpoint.model.mesh
    draw = jax.jit(_drawer(config, graph, mesh), out_shardings=by_rows(mesh))
    size, wanted = config.train.batch_size, min(rows, shards.rows)
    groups: list[Group] = []
    for step in range(math.ceil(wanted / size)):
        indices = batch_rows(shards.rows, size, seed=config.seed, step=step)
        batch = shards.read(indices)
        prompts = placed(mesh, Prompts(*stacked(batch, indices, prompter, length)))
        drawn: Rollout = draw(state, prompts, jnp.asarray(step))
        verdict, rewards = earned(judge, indices, drawn, checkpoint.tokenizer, config)
        # The last batch of an epoch goes on in the next one: no row counts twice.
        groups += _groups(batch[: wanted - len(groups)], drawn, verdict, rewards)
        on_progress(len(groups), wanted)
    return groups


def forecast(groups: Sequence[Group], config: RunConfig, model: str, shards: Shards) -> Forecast:
    """The totals over `groups`, which are not none."""
    rewards = np.array([group.rewards for group in groups])
    tokens = np.array([group.tokens for group in groups])
    errors = np.array([group.errors for group in groups])
    words = sum(group.words for group in groups)
    flat = [group for group in groups if not group.spread]
    return Forecast(
        model=model,
        data_digest=shards.digest,
        rows=len(groups),
        group_size=rewards.shape[1],
        temperature=config.rollout.temperature,
        reward_mean=float(rewards.mean()),
        reward_std=float(rewards.std(axis=1).mean()),
        zero_spread_share=len(flat) / len(groups),
        solved_share=sum(not any(group.errors) for group in flat) / len(groups),
        wer_mean=float(errors.mean(axis=1).sum() / words) if words else None,
        wer_best=float(errors.min(axis=1).sum() / words) if words else None,
        completion_tokens_mean=float(tokens.mean()),
        completion_tokens_max=int(tokens.max()),
        truncated_share=1.0 - float(np.mean([group.ended for group in groups])),
    )


def write(out: Path, found: Forecast, groups: Sequence[Group]) -> None:
    """Put the totals, every group and a picture of them into the folder `out`. Raises DataError where it cannot."""
    write_subset(out / GROUPS, map(dataclasses.asdict, groups))
    write_whole(out / PICTURE, _picture(found, groups))
    write_whole(out / FORECAST, f"{json.dumps(dataclasses.asdict(found), indent=2)}\n".encode())


def with_signal(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The groups that GRPO learns of, as the lines of a subset that `train` takes."""
    return [
        {"id": group.id, "reward_std": float(np.std(group.rewards)), "errors_mean": float(np.mean(group.errors))}
        for group in groups
        if group.spread
    ]


def _drawer(config: RunConfig, graph: Any, mesh: Any) -> Callable[[Any, Prompts, Any], Rollout]:
    def draw(state: Any, prompts: Prompts, step: Any) -> Rollout:
        keys = row_keys(config.seed, step, 0, len(prompts.input_ids))
        with mesh:
            return rollout(lambda: nnx.merge(graph, state), prompts, keys, config.rollout)

    return draw


def _groups(rows: Sequence[Row], drawn: Rollout, verdict: Verdict, rewards: Any) -> list[Group]:
    tokens, ended = np.asarray(drawn.mask.sum(axis=-1)).tolist(), np.asarray(drawn.ended).tolist()
    differ, rewards = np.asarray(spread(rewards)).tolist(), np.asarray(rewards, np.float64).tolist()
    return [
        Group(
            id=row.id,
            reference=row.text,
            words=verdict.errors[place][0].reference_length,
            completions=verdict.texts[place],
            rewards=tuple(rewards[place]),
            errors=tuple(one.errors for one in verdict.errors[place]),
            tokens=tuple(tokens[place]),
            ended=tuple(ended[place]),
            spread=differ[place],
        )
        for place, row in enumerate(rows)
    ]


def _picture(found: Forecast, groups: Sequence[Group]) -> bytes:
    """Three histograms: the mean reward of a group, its WER with the best of each, the length of completions."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(13, 3.4), layout="constrained")
    rewards, errors, lengths = figure.subplots(1, 3)
    means = [[np.mean(group.rewards) for group in groups if group.spread is which] for which in (True, False)]
    rewards.hist(means, bins=20, stacked=True, color=["C0", "C7"], label=["with spread", "without: nothing to learn"])
    rewards.set(title="mean reward of a group", ylabel="groups")
    rewards.legend(frameon=False)
    spoken = [group for group in groups if group.words]
    shares = [[pick(group.errors) / group.words for group in spoken] for pick in (np.mean, min)]
    errors.hist(shares, bins=20, color=["C0", "C2"], label=["mean of the group", f"best of {found.group_size}"])
    errors.set(title="WER of an utterance")
    errors.xaxis.set_major_formatter(PercentFormatter(1))
    errors.legend(frameon=False)
    lengths.hist([number for group in groups for number in group.tokens], bins=20, color="C0")
    lengths.xaxis.set_major_locator(MaxNLocator(integer=True))
    lengths.set(title=f"tokens of a completion ({found.truncated_share:.1%} cut off)", ylabel="completions")
    with BytesIO() as file:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
        return file.getvalue()
