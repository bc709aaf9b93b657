"""What the completions of a step earned: their rewards, and the word errors they hold."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64
from transformers import PreTrainedTokenizerBase

from audiorl_cli.bridge import hosts
from audiorl_cli.bridge.generate import Rollout
from audiorl_cli.config import RewardConfig, RunConfig
from audiorl_cli.core import INPUT_FEATURES
from audiorl_cli.data.shards import Shards
from audiorl_cli.rl.advantages import overlong
from audiorl_cli.rl.metrics import Sample
from audiorl_cli.rl.rewards import weighted
from audiorl_cli.wer import ErrorCounts, count_words


@dataclass(frozen=True)
class Verdict:
    """Rewards and word errors of a step's completions, group by group.

    `parts`: of each completion, each reward before its weight. `normaliser`: digest of what both sides went through.
    """

    texts: tuple[tuple[str, ...], ...]
    rewards: Float64[np.ndarray, "prompts group"]
    errors: tuple[tuple[ErrorCounts, ...], ...]
    parts: tuple[tuple[dict[str, float], ...], ...]
    normaliser: str


@dataclass(frozen=True)
class Tally:
    """The numbers of verdicts of all processes, prompt by prompt. `errors`: of each kind, as `ErrorCounts` has them."""

    rewards: Float64[np.ndarray, "prompts group"]
    errors: Float64[np.ndarray, "prompts group kinds"]
    parts: Mapping[str, Float64[np.ndarray, "prompts group"]]


class Judge:
    """The rewards of a run over the transcripts of its utterances, named by `ids` where one fails.

    `columns`: what functions of the user's ask for, a value an utterance.
    """

    def __init__(
        self,
        config: RewardConfig,
        references: Sequence[str],
        ids: Sequence[str],
        columns: Mapping[str, Sequence[object]] | None = None,
    ) -> None:
        self._references, self._ids, self._columns = references, ids, columns or {}
        self._weighted = weighted(config)
        self._digest = self._weighted.normaliser.digest

    @classmethod
    def of(cls, config: RewardConfig, shards: Shards) -> Self:
        """The judge of the utterances in `shards`.

        Raises ConfigError for a normaliser, a function or a column of it that does not exist, DataError for shards that
        cannot be read.
        """
        there = [name for name in shards.columns if name != INPUT_FEATURES]
        asked = weighted(config).columns(there)
        return cls(config, shards.texts(), shards.column("id"), {name: shards.column(name) for name in asked})

    def __call__(self, utterances: Sequence[int], texts: Sequence[str]) -> Verdict:
        """What `texts` earn: as many for each of `utterances` in turn, all compared with its transcript."""
        group = len(texts) // len(utterances)
        earned, errors = [], []
        for utterance, text in zip(np.repeat(utterances, group), texts, strict=True):
            columns = {name: values[utterance] for name, values in self._columns.items()}
            pair = self._weighted.pair(self._references[utterance], text, columns)
            earned.append(self._weighted.one(self._ids[utterance], pair))
            errors.append(count_words(pair.reference, pair.completion))
        places = range(0, len(texts), group)
        return Verdict(
            tuple(tuple(texts[first : first + group]) for first in places),
            np.asarray([one.total for one in earned], np.float64).reshape(len(utterances), group),
            tuple(tuple(errors[first : first + group]) for first in places),
            tuple(tuple(one.parts for one in earned[first : first + group]) for first in places),
            self._digest,
        )


def tally(verdict: Verdict, places: Sequence[int], count: int) -> Tally:
    """The numbers of the `count` prompts of a step, of which this process has judged those at `places`."""
    names = list(verdict.parts[0][0])
    rows = [
        [
            [reward, *dataclasses.astuple(errors), *(parts[name] for name in names)]
            for reward, errors, parts in zip(*of_prompt, strict=True)
        ]
        for of_prompt in zip(verdict.rewards, verdict.errors, verdict.parts, strict=True)
    ]
    table = hosts.gathered(places, np.asarray(rows, np.float64), count)
    kinds = len(dataclasses.fields(ErrorCounts))
    parts = {name: table[..., 1 + kinds + place] for place, name in enumerate(names)}
    return Tally(table[..., 0], table[..., 1 : 1 + kinds], parts)


def errors_and_rewards(tallies: Sequence[Tally]) -> dict[str, Any]:
    """What `StepMetrics` says of the word errors and of each reward, over all completions of `tallies`."""
    counts = sum(each.errors.reshape(-1, each.errors.shape[-1]).sum(axis=0) for each in tallies)
    errors = ErrorCounts(*(int(count) for count in counts))
    words = max(errors.reference_length, 1)
    parts = {name: [one for each in tallies for one in each.parts[name].flat] for name in tallies[0].parts}
    return {
        "sample_wer": errors.rate,
        "sample_substitutions": errors.substitutions / words,
        "sample_insertions": errors.insertions / words,
        "sample_deletions": errors.deletions / words,
        "rewards": {name: sum(values) / len(values) for name, values in parts.items()},
    }


def earned(
    judge: Judge, utterances: Sequence[int], drawn: Rollout, tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> tuple[Verdict, Float32[np.ndarray, "prompts group"]]:
    """What the completions of `drawn` that this process has, those for `utterances`, earned, and that with what their
    length costs, in float32."""
    ids, mask = hosts.here(drawn.drawn.tokens), hosts.here(drawn.mask)
    completions = zip(ids.reshape(-1, ids.shape[-1]), mask.reshape(-1, ids.shape[-1]), strict=True)
    kept = [row[of_row] for row, of_row in completions]
    verdict = judge(utterances, tokenizer.batch_decode(kept, skip_special_tokens=True))
    rewards = verdict.rewards.astype(np.float32)
    if config.loss.overlong_buffer:
        lengths = jnp.asarray(mask.sum(axis=-1))
        rewards += np.asarray(overlong(lengths, config.rollout.max_new_tokens, config.loss.overlong_buffer))
    return verdict, rewards


def samples(
    step: int, rows: Sequence[tuple[str, str]], texts: Sequence[Sequence[str]], tallied: Tally, normaliser: str
) -> tuple[Sample, ...]:
    """The first prompts of a step, to show: ids and references of `rows`, and the completions `texts` of each."""
    return tuple(
        Sample(
            step,
            *row,
            tuple(of_prompt),
            tuple(tallied.rewards[place].tolist()),
            tuple(
                {name: float(values[place, member]) for name, values in tallied.parts.items()}
                for member in range(len(of_prompt))
            ),
            normaliser,
        )
        for place, (row, of_prompt) in enumerate(zip(rows, texts, strict=True))
    )
