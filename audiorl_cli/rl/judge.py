"""What the completions of a step earned: their rewards, and the word errors they hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float64

from audiorl_cli.config import RewardConfig
from audiorl_cli.core import INPUT_FEATURES
from audiorl_cli.data.shards import Row, Shards
from audiorl_cli.rl.metrics import Sample
from audiorl_cli.rl.rewards import weighted
from audiorl_cli.wer import ErrorCounts, count_words


@dataclass(frozen=True)
class Verdict:
    """Rewards and word errors of a step's completions, texts group by group.

    `parts`: of each completion, each reward before its weight. `normaliser`: digest of what both sides went through.
    """

    texts: tuple[tuple[str, ...], ...]
    rewards: Float64[np.ndarray, "prompts group"]
    errors: ErrorCounts
    parts: tuple[tuple[dict[str, float], ...], ...]
    normaliser: str


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
        earned, errors = [], ErrorCounts(0, 0, 0, 0)
        for utterance, text in zip(np.repeat(utterances, group), texts, strict=True):
            columns = {name: values[utterance] for name, values in self._columns.items()}
            pair = self._weighted.pair(self._references[utterance], text, columns)
            earned.append(self._weighted.one(self._ids[utterance], pair))
            errors += count_words(pair.reference, pair.completion)
        places = range(0, len(texts), group)
        return Verdict(
            tuple(tuple(texts[first : first + group]) for first in places),
            np.asarray([one.total for one in earned], np.float64).reshape(len(utterances), group),
            errors,
            tuple(tuple(one.parts for one in earned[first : first + group]) for first in places),
            self._digest,
        )


def samples(step: int, rows: Sequence[Row], verdict: Verdict, count: int) -> tuple[Sample, ...]:
    """The first `count` prompts of a step, to show."""
    groups = list(zip(rows, verdict.texts, verdict.rewards, verdict.parts, strict=True))[:count]
    return tuple(
        Sample(step, row.id, row.text, texts, tuple(map(float, earned)), parts, verdict.normaliser)
        for row, texts, earned, parts in groups
    )
