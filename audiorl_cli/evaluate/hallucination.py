"""What a model says that nobody said, as far as texts alone show it: output on silence, loops, far too many words.

Errors of another kind than a misheard word: a few of them may outweigh all others in a WER, and they are what a reader
of transcripts forgives least. Words are what whitespace separates, so that a script without spaces shows no loops.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LOOP_WORDS: Final = 10
"""The longest n-gram, in words, whose repetition is looked for."""
LOOP_MORE: Final = 3
"""A loop is said at least so many times more in a row than in the reference: people do repeat themselves."""
LENGTH_RATIO: Final = 2.0
"""A hypothesis is too long above so many times the words of its reference ..."""
LENGTH_MORE: Final = 5
"""... if it also has at least so many words more: "yes" heard as "oh yes sir" is a misheard word."""


@dataclass(frozen=True)
class Hallucination:
    """What was found in one utterance. `length_ratio`: hypothesis over reference words, the latter at least 1.

    `on_silence`: the reference is empty and the hypothesis is not.
    `loop`: the n-gram that comes in a row `LOOP_MORE` times more often than in the reference, "" where there is none.
    `too_long`: the hypothesis has more than `LENGTH_RATIO` times the words of a reference that is not empty, and
    `LENGTH_MORE` more.
    """

    on_silence: bool
    loop: str
    too_long: bool
    length_ratio: float

    @property
    def found(self) -> bool:
        """Whether there is any."""
        return self.on_silence or self.too_long or bool(self.loop)


def hallucination(reference: str, hypothesis: str) -> Hallucination:
    """What `hypothesis` says beyond `reference`, both normalised."""
    expected, said = reference.split(), hypothesis.split()
    return Hallucination(
        on_silence=bool(said) and not expected,
        loop=" ".join(_loop(expected, said)),
        too_long=bool(expected)
        and len(said) > LENGTH_RATIO * len(expected)
        and len(said) >= len(expected) + LENGTH_MORE,
        length_ratio=len(said) / max(len(expected), 1),
    )


def _loop(expected: Sequence[str], said: Sequence[str]) -> Sequence[str]:
    """The n-gram that is repeated most beyond `expected`, if by enough; of equal ones the shortest, then the first."""
    most, worst = LOOP_MORE - 1, said[:0]
    for size in range(1, min(LOOP_WORDS, len(said) // LOOP_MORE) + 1):
        first = 0
        expected_times: Counter[tuple[str, ...]] | None = None  # few texts need it
        # Words that equal those `size` places further on: a stretch of them is an n-gram said again and again.
        for place in range(len(said) - size + 1):
            if place < len(said) - size and said[place] == said[place + size]:
                continue
            times = (place - first) // size + 1
            if times > most:
                expected_times = expected_times or _in_a_row(expected, size)
                gram = said[first : first + size]
                more = times - expected_times[tuple(gram)]
                if more > most:
                    most, worst = more, gram
            first = place + 1
    return worst


def _in_a_row(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    """Count how often each n-gram of `size` words comes in a row in `words` at most."""
    most: Counter[tuple[str, ...]] = Counter()
    times = [0] * (len(words) + size)
    for start in reversed(range(len(words) - size + 1)):
        gram, next_one = words[start : start + size], words[start + size : start + 2 * size]
        times[start] = 1 + times[start + size] * (gram == next_one)
        most[tuple(gram)] = max(most[tuple(gram)], times[start])
    return most
