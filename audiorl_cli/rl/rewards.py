"""One pure function a reward, its range stated, and their weighted sum.

A reward compares a completion with its reference; both come normalised. An error in one ends the run: there is no
reward for a reward that failed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from audiorl_cli.config import RewardConfig
from audiorl_cli.errors import ConfigError, DataError
from audiorl_cli.text import Normaliser, normaliser
from audiorl_cli.wer import count_characters, count_words

Reward = Callable[[str, str], float]


def wer(reference: str, completion: str) -> float:
    """1 - min(WER, 1), in [0, 1]. WER has no upper bound; a hundredth wrong word is no worse than all words wrong.

    An empty reference gives 1 to an empty completion and 0 to any other.
    """
    return 1.0 - min(count_words(reference, completion).rate, 1.0)


def cer(reference: str, completion: str) -> float:
    """1 - min(CER, 1), in [0, 1]. An empty reference gives 1 to an empty completion and 0 to any other."""
    return 1.0 - min(count_characters(reference, completion).rate, 1.0)


def exact(reference: str, completion: str) -> float:
    """1 where both have the same words in the same order, else 0. Two empty texts are the same."""
    return float(reference.split() == completion.split())


REWARDS: Final[dict[str, Reward]] = {"wer": wer, "cer": cer, "exact": exact}


def reward(name: str) -> Reward:
    """The function of (reference, completion) called `name`. Raises ConfigError, naming those there are."""
    if name not in REWARDS:
        raise ConfigError("reward", expected=f"one of {', '.join(REWARDS)}", got=repr(name), fix="Name one of these.")
    return REWARDS[name]


@dataclass(frozen=True)
class Rewarded:
    """What one completion earned: the weighted sum, and each reward before its weight."""

    total: float
    parts: dict[str, float]


@dataclass(frozen=True)
class Weighted:
    """The reward of a run: a weighted sum of named rewards over normalised texts, in weight order of the config.

    Its range is the sum of the weights below zero to the sum of those above, each reward being in [0, 1].
    """

    weights: dict[str, float]
    functions: dict[str, Reward]
    normaliser: Normaliser

    def __call__(self, references: Sequence[str], completions: Sequence[str]) -> list[Rewarded]:
        """The reward of each completion against the reference at its place. ValueError for different lengths."""
        places = enumerate(zip(references, completions, strict=True))
        return [self.one(f"number {place}", *texts) for place, texts in places]

    def one(self, row: str, reference: str, completion: str) -> Rewarded:
        """The reward of one completion of `row`.

        Raises DataError for a reward that is no finite number; what a reward raises has a note of reward and row.
        """
        sides = self.normaliser(reference), self.normaliser(completion)
        parts = {name: _worth(name, function, row, *sides) for name, function in self.functions.items()}
        return Rewarded(sum(self.weights[name] * part for name, part in parts.items()), parts)


def weighted(config: RewardConfig) -> Weighted:
    """The reward that `config` describes. Raises ConfigError for a reward or a normaliser that does not exist.

    A weight of 0 is allowed: that reward is worked out and shown in `parts`, and has no say.
    """
    return Weighted(config.weights, {name: reward(name) for name in config.weights}, normaliser(config.normaliser))


def _worth(name: str, function: Reward, row: str, reference: str, completion: str) -> float:
    try:
        worth = function(reference, completion)
    except Exception as error:  # whatever it is goes on as it came: it only learns which row it was
        error.add_note(f"reward {name}, row {row}: completion {completion!r}, reference {reference!r}")
        raise
    if not math.isfinite(worth):
        raise DataError(
            f"reward {name}, row {row}", expected="a finite number", got=f"{worth} for {completion!r}", fix="Mend it."
        )
    return worth
