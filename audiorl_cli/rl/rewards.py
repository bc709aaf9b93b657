"""One pure function a reward, its range stated, and their weighted sum.

More is better in each. What may be earned lies in [0, 1]; what may be lost, a penalty, in [-1, 0], 0 where nothing is
wrong. `reward_config.REWARD_RANGES` has the ranges for the config to add up.

A reward compares a completion with its reference; both come normalised, but for `format_match` and `boilerplate`, which
look at what the model wrote. An empty reference is silence, for which it is right to write nothing: each function says
what that comes to. An error in one ends the run: there is no reward for a reward that failed.
"""

import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from operator import eq
from typing import Any, Final

from rapidfuzz.distance import Levenshtein

from audiorl_cli.config import RewardConfig
from audiorl_cli.errors import DataError
from audiorl_cli.reward_config import is_custom
from audiorl_cli.rl import custom
from audiorl_cli.text import Normaliser, normaliser, without_boilerplate
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


def edit_distance(reference: str, completion: str) -> float:
    """-(Levenshtein's distance in characters / length of the longer text), in [-1, 0].

    Unlike `cer` it still falls where a completion is several times too long. Two empty texts give 0, an empty
    reference -1 to any other completion. Source: Yujian and Bo 2007, https://doi.org/10.1109/TPAMI.2007.1078, whose
    "simple normalisation" it is.
    """
    return -Levenshtein.normalized_distance(" ".join(reference.split()), " ".join(completion.split()))


def length_ratio(reference: str, completion: str) -> float:
    """Words of the shorter text over words of the longer, in [0, 1], whatever the words are.

    Two empty texts give 1, an empty reference 0 to any other completion.
    """
    shorter, longer = sorted((len(reference.split()), len(completion.split())))
    return shorter / longer if longer else 1.0


def insertion(reference: str, completion: str) -> float:
    """-min(inserted words / words of the reference, 1), in [-1, 0], insertions as `wer.count_words` has them.

    An empty reference counts as one word: 0 to an empty completion, -1 to any other.
    """
    counts = count_words(reference, completion)
    return -min(counts.insertions / max(counts.reference_length, 1), 1.0)


def repetition(reference: str, completion: str) -> float:
    """-(the share of the completion's words that loop, beyond as many as loop in the reference), in [-1, 0].

    A word loops where a phrase it stands in, of any length, was said right before: of "no no no" two do, of "a b a b"
    the last two. An empty completion gives 0; with an empty reference every loop counts. The fault is described by
    Holtzman et al. 2020, https://arxiv.org/abs/1904.09751; the measure is our own.
    """
    words = completion.split()
    excess = _looping(words) - _looping(reference.split())
    return -max(excess, 0) / len(words) if words else 0.0


def _looping(words: Sequence[str]) -> int:
    looping = bytearray(len(words))
    for period in range(1, len(words) // 2 + 1):
        same = bytes(map(eq, islice(words, period, None), words))
        start = same.find(b"\1" * period)
        while start >= 0:
            end = same.find(b"\0", start) % (len(same) + 1)  # the end, where there is none
            looping[period + start : period + end] = b"\1" * (end - start)
            start = same.find(b"\1" * period, end)
    return sum(looping)


def hallucination(reference: str, completion: str) -> float:
    """-1 for a completion with words where the reference is empty, else 0: in [-1, 0]."""
    return -float(not reference.split() and bool(completion.split()))


def keyword_recall(reference: str, completion: str, keywords: Sequence[str]) -> float:
    """The share of the keywords in the reference, each as often as it stands there, that the completion has: in [0, 1].

    A keyword is one or more whole words; named twice it is one. 1 where the reference has none, as an empty one:
    nothing was to be recalled.
    """
    expected = {keyword: _occurrences(keyword, reference) for keyword in keywords}
    found = sum(min(count, _occurrences(keyword, completion)) for keyword, count in expected.items())
    return found / sum(expected.values()) if any(expected.values()) else 1.0


def _occurrences(keyword: str, text: str) -> int:
    return len(re.findall(rf"(?<!\S){re.escape(keyword)}(?!\S)", " ".join(text.split())))


def format_match(completion: str, pattern: str) -> float:
    """1 where the whole completion, as the model wrote it, matches the regular expression, else 0.

    The reference has no say, nor whether it is empty. A dot matches line breaks too.
    """
    return float(re.fullmatch(pattern, completion, re.DOTALL) is not None)


def boilerplate(reference: str, completion: str, patterns: Sequence[str]) -> float:
    """-1 where the completion, as the model wrote it, has what `text.without_boilerplate` takes out, else 0.

    An empty reference excuses nothing; what it says itself, in these words, is no boilerplate.
    """
    return -float(without_boilerplate(completion, patterns, reference) != completion)


# Those that want nothing but normalised texts.
REWARDS: Final[dict[str, Reward]] = {
    "wer": wer,
    "cer": cer,
    "exact": exact,
    "edit_distance": edit_distance,
    "length_ratio": length_ratio,
    "insertion": insertion,
    "repetition": repetition,
    "hallucination": hallucination,
}
_OF_CHARACTERS: Final = ("cer", "edit_distance")  # of those that `Normaliser.characters` leaves


@dataclass(frozen=True)
class Pair:
    """A completion and its reference: as they were, as they are compared, and what else is known of the utterance."""

    raw_reference: str
    raw_completion: str
    reference: str
    completion: str
    columns: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Rewarded:
    """What one completion earned: the weighted sum, and each reward before its weight."""

    total: float
    parts: dict[str, float]


@dataclass(frozen=True)
class Weighted:
    """The reward of a run: a weighted sum of named rewards, in weight order of the config.

    Its range is `RewardConfig.range`.
    """

    config: RewardConfig
    functions: dict[str, Callable[[Pair], float]]
    normaliser: Normaliser

    def __call__(self, references: Sequence[str], completions: Sequence[str]) -> list[Rewarded]:
        """The reward of each completion against the reference at its place. ValueError for different lengths."""
        places = enumerate(zip(references, completions, strict=True))
        return [self.one(f"number {place}", self.pair(*texts)) for place, texts in places]

    def pair(self, reference: str, completion: str, columns: Mapping[str, object] | None = None) -> Pair:
        """Both texts as they are compared; `columns` are for functions of the user's."""
        kept = completion
        if self.config.boilerplate == "strip":
            kept = without_boilerplate(completion, self.config.boilerplate_patterns, reference)
        return Pair(reference, completion, self.normaliser(reference), self.normaliser(kept), columns or {})

    def one(self, row: str, pair: Pair) -> Rewarded:
        """The reward of one completion of `row`.

        Raises DataError for a reward that is no finite number; what a reward raises has a note of reward and row.
        """
        parts = {name: _worth(name, function, row, pair) for name, function in self.functions.items()}
        return Rewarded(sum(self.config.weights[name] * part for name, part in parts.items()), parts)

    def columns(self, there: Sequence[str]) -> list[str]:
        """Those of the columns `there` that functions of the user's ask for. ConfigError for one that is not there."""
        own = [function for function in self.functions.values() if isinstance(function, _Own)]
        return sorted({name for one in own for name in one.custom.columns(there)})


@dataclass(frozen=True)
class _Own:
    """A function of the user's as a function of a pair."""

    custom: custom.Custom

    def __call__(self, pair: Pair) -> float:
        texts = (pair.raw_reference, pair.raw_completion, pair.reference, pair.completion)
        return self.custom({**pair.columns, **dict(zip(custom.TEXTS, texts, strict=True))})


def weighted(config: RewardConfig) -> Weighted:
    """The reward that `config` describes. Raises ConfigError for a normaliser or a function that does not exist.

    A weight of 0 is allowed: that reward is worked out and shown in `parts`, and has no say.
    """
    normalise = normaliser(config.normaliser)
    return Weighted(config, {name: _of_pair(name, config, normalise) for name in config.weights}, normalise)


def _of_pair(name: str, config: RewardConfig, normalise: Normaliser) -> Callable[[Pair], float]:
    if is_custom(name):
        return _Own(custom.load(name))
    if name == "keyword_recall":
        keywords = tuple(filter(None, map(normalise, config.keywords)))
        return lambda pair: keyword_recall(pair.reference, pair.completion, keywords)
    if name == "format":
        return lambda pair: format_match(pair.raw_completion, config.format)
    if name == "boilerplate":
        patterns = config.boilerplate_patterns
        return lambda pair: boilerplate(pair.raw_reference, pair.raw_completion, patterns)
    return partial(_of_texts, REWARDS[name], normalise.characters if name in _OF_CHARACTERS else str)


def _of_texts(function: Reward, made: Callable[[str], str], pair: Pair) -> float:
    return function(made(pair.reference), made(pair.completion))


def _worth(name: str, function: Callable[[Pair], Any], row: str, pair: Pair) -> float:
    try:
        worth = function(pair)
    except Exception as error:  # whatever it is goes on as it came: it only learns which row it was
        error.add_note(
            f"reward {name}, row {row}: completion {pair.raw_completion!r}, reference {pair.raw_reference!r}"
        )
        raise
    if not isinstance(worth, numbers.Real) or not math.isfinite(worth):
        raise DataError(
            f"reward {name}, row {row}",
            expected="a finite number",
            got=f"{worth!r} for {pair.raw_completion!r}",
            fix="Mend it.",
        )
    return float(worth) + 0.0  # a penalty of nothing is not -0
