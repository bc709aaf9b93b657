"""What the completions of a step earned: their rewards, and the word errors they hold."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64
from transformers import PreTrainedTokenizerBase

from audiorl_cli.bridge.generate import Rollout
from audiorl_cli.config import RewardConfig, RunConfig
from audiorl_cli.data.shards import Row
from audiorl_cli.rl.advantages import overlong
from audiorl_cli.rl.metrics import Sample
from audiorl_cli.rl.rewards import weighted
from audiorl_cli.text import normaliser
from audiorl_cli.wer import ErrorCounts, count_words


@dataclass(frozen=True)
class Verdict:
    """Rewards and word errors of a step's completions, texts group by group."""

    texts: tuple[tuple[str, ...], ...]
    rewards: Float64[np.ndarray, "prompts group"]
    errors: ErrorCounts


class Judge:
    """The rewards of a run over the transcripts of its utterances, named by `ids` where one fails."""

    def __init__(self, config: RewardConfig, references: Sequence[str], ids: Sequence[str]) -> None:
        self._references, self._ids = references, ids
        self._weighted = weighted(config)
        self._normalise = normaliser(config.normaliser)

    def __call__(self, utterances: Sequence[int], texts: Sequence[str]) -> Verdict:
        """What `texts` earn: as many for each of `utterances` in turn, all compared with its transcript."""
        group = len(texts) // len(utterances)
        rewards, errors = [], ErrorCounts(0, 0, 0, 0)
        for utterance, text in zip(np.repeat(utterances, group), texts, strict=True):
            reference = self._references[utterance]
            rewards.append(self._weighted.one(self._ids[utterance], reference, text).total)
            errors += count_words(self._normalise(reference), self._normalise(text))
        groups = tuple(tuple(texts[first : first + group]) for first in range(0, len(texts), group))
        return Verdict(groups, np.asarray(rewards, np.float64).reshape(len(utterances), group), errors)


def earned(
    judge: Judge, utterances: Sequence[int], drawn: Rollout, tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> tuple[Verdict, Float[Array, "prompts group"]]:
    """What the completions `drawn` for these utterances earned, and that with what their length costs, in float32."""
    ids, mask = (np.asarray(array).reshape(-1, array.shape[-1]) for array in (drawn.drawn.tokens, drawn.mask))
    kept = [row[of_row] for row, of_row in zip(ids, mask, strict=True)]
    verdict = judge(utterances, tokenizer.batch_decode(kept, skip_special_tokens=True))
    rewards = jnp.asarray(verdict.rewards, jnp.float32)
    if config.loss.overlong_buffer:
        rewards += overlong(drawn.mask.sum(axis=-1), config.rollout.max_new_tokens, config.loss.overlong_buffer)
    return verdict, rewards


def samples(step: int, rows: Sequence[Row], verdict: Verdict, count: int) -> tuple[Sample, ...]:
    """The first `count` prompts of a step, to show."""
    return tuple(
        Sample(step, row.id, row.text, texts, tuple(map(float, earned)))
        for row, texts, earned in list(zip(rows, verdict.texts, verdict.rewards, strict=True))[:count]
    )
