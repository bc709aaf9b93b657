"""Which words are taken for which: substitutions, insertions and deletions, the most frequent first."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from audiorl_cli.wer import Alignment

KEPT: Final = 50
"""So many of each kind are kept: a report of a large corpus has as many different ones as it has errors."""


@dataclass(frozen=True)
class Confusion:
    """A reference word and what was written for it, "" on the side that has no word; `count`: how often."""

    reference: str
    hypothesis: str
    count: int


@dataclass(frozen=True)
class Confusions:
    """The most frequent of each kind; of equally frequent ones those first that are first in the alphabet."""

    substituted: tuple[Confusion, ...]
    inserted: tuple[Confusion, ...]
    deleted: tuple[Confusion, ...]


def confusions(alignments: Iterable[Alignment], kept: int = KEPT) -> Confusions:
    """The confusions of a corpus, at most `kept` of each kind.

    Words side by side in a stretch of substitutions are a pair, as in sclite's list of confusion pairs.
    """
    substituted: Counter[tuple[str, str]] = Counter()
    inserted: Counter[tuple[str, str]] = Counter()
    deleted: Counter[tuple[str, str]] = Counter()
    for alignment in alignments:
        for chunk in alignment.chunks:
            if chunk.kind == "substitute":
                substituted.update(zip(chunk.reference, chunk.hypothesis, strict=True))
            elif chunk.kind == "insert":
                inserted.update(("", word) for word in chunk.hypothesis)
            elif chunk.kind == "delete":
                deleted.update((word, "") for word in chunk.reference)
    return Confusions(*(_first(found, kept) for found in (substituted, inserted, deleted)))


def _first(found: Counter[tuple[str, str]], kept: int) -> tuple[Confusion, ...]:
    order = sorted(found, key=lambda pair: (-found[pair], pair))
    return tuple(Confusion(*pair, found[pair]) for pair in order[:kept])
