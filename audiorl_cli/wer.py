"""Error rates and alignments: pure functions over text that is already normalised.

Of the alignments with the fewest errors, the one with the most hits counts, always. That settles substitutions,
insertions and deletions, which the number of errors alone does not ("a b" heard as "b c" is two substitutions, or a
deletion, a hit and an insertion). Published counts are split so; jiwer and rapidfuzz take either.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import jiwer
from rapidfuzz.distance import Levenshtein

Kind = Literal["equal", "substitute", "insert", "delete"]


@dataclass(frozen=True)
class ErrorCounts:
    """Errors of one utterance, or of a corpus when summed; in words or in characters, as they were counted."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    hits: int = 0

    @property
    def errors(self) -> int:
        """Substitutions, insertions and deletions together."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def reference_length(self) -> int:
        """Words (or characters) of the reference."""
        return self.substitutions + self.deletions + self.hits

    @property
    def rate(self) -> float:
        """Errors over reference length: 0 is right, and there is no upper bound.

        An empty reference counts as one word, as in jiwer: 0 where nothing was inserted, else the number of insertions.
        """
        return self.errors / max(self.reference_length, 1)

    @property
    def wer(self) -> float:
        """`rate`, under the name it has when words were counted."""
        return self.rate

    @property
    def hypothesis_length(self) -> int:
        """Words (or characters) of the hypothesis."""
        return self.substitutions + self.insertions + self.hits

    @property
    def mer(self) -> float:
        """Match error rate, (S + D + I) / (S + D + I + H): the share of the alignment that is wrong, 0 to 1.

        Of two empty texts it is 0. Morris, Maier and Green 2004, "From WER and RIL to MER and WIL".
        """
        return self.errors / max(self.errors + self.hits, 1)

    @property
    def wil(self) -> float:
        """Word information lost, 1 - (H / reference length) (H / hypothesis length), 0 to 1; the same paper.

        Of two empty texts nothing is lost: 0. Where one alone is empty all is: 1.
        """
        if self.errors == 0:
            return 0.0
        return 1 - self.hits**2 / max(self.reference_length * self.hypothesis_length, 1)

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.hits + other.hits,
        )


@dataclass(frozen=True)
class Chunk:
    """A stretch of an alignment. `equal` and `substitute` have as many words on both sides, the others none on one."""

    kind: Kind
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


@dataclass(frozen=True)
class Alignment:
    """How a hypothesis is read against its reference, from first word to last."""

    chunks: tuple[Chunk, ...]

    @property
    def counts(self) -> ErrorCounts:
        """The errors the chunks show."""
        size: dict[Kind, int] = dict.fromkeys(("equal", "substitute", "insert", "delete"), 0)
        for chunk in self.chunks:
            size[chunk.kind] += max(len(chunk.reference), len(chunk.hypothesis))
        return ErrorCounts(size["substitute"], size["insert"], size["delete"], size["equal"])


def count_words(reference: str, hypothesis: str) -> ErrorCounts:
    """Word errors of one hypothesis; words are what whitespace separates."""
    numbers: dict[str, int] = {}
    sides = [[numbers.setdefault(word, len(numbers)) for word in side.split()] for side in (reference, hypothesis)]
    return _count(*sides)


def count_characters(reference: str, hypothesis: str) -> ErrorCounts:
    """Character errors of one hypothesis: code points, and one space between words counts as a character."""
    return _count(" ".join(reference.split()), " ".join(hypothesis.split()))


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """The corpus: errors and lengths summed, so that its rate weighs every word alike."""
    return sum(counts, ErrorCounts())


def align(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """The word alignment of each hypothesis; its counts are those of `count_words`.

    jiwer's, but where it has fewer hits than there could be. Raises ValueError for lists of different lengths.
    """
    pairs = [(one.split(), other.split()) for one, other in zip(references, hypotheses, strict=True)]
    # jiwer's default transforms split at single spaces only: it gets lists of words instead.
    found = jiwer.process_words([pair[0] for pair in pairs], [pair[1] for pair in pairs], _as_it_is, _as_it_is)
    alignments = []
    for (reference, hypothesis), spans in zip(pairs, found.alignments, strict=True):
        alignment = Alignment(
            tuple(
                Chunk(
                    span.type,
                    tuple(reference[span.ref_start_idx : span.ref_end_idx]),
                    tuple(hypothesis[span.hyp_start_idx : span.hyp_end_idx]),
                )
                for span in spans
            )
        )
        if alignment.counts != count_words(" ".join(reference), " ".join(hypothesis)):
            alignment = _most_hits(reference, hypothesis)
        alignments.append(alignment)
    return alignments


def _as_it_is(words: list[list[str]]) -> list[list[str]]:
    return words


def _count(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> ErrorCounts:
    # An error weighs more than any number of substitutions could: one distance holds both, errors first.
    unit = len(reference) + len(hypothesis) + 1
    distance: int = Levenshtein.distance(reference, hypothesis, weights=(unit, unit, unit + 1))
    errors, substitutions = divmod(distance, unit)
    # What else is wrong are insertions and deletions, and they differ as the lengths do.
    insertions = (errors - substitutions + len(hypothesis) - len(reference)) // 2
    deletions = errors - substitutions - insertions
    return ErrorCounts(substitutions, insertions, deletions, len(reference) - substitutions - deletions)


_STEP: Final[dict[Kind, tuple[int, int]]] = {"equal": (1, 1), "substitute": (1, 1), "insert": (0, 1), "delete": (1, 0)}
_GAPS: Final[tuple[Kind, ...]] = ("delete", "insert")


def _most_hits(reference: list[str], hypothesis: list[str]) -> Alignment:
    """The alignment with the fewest errors and, among those, the most hits; the first from the left where they tie.

    Wagner and Fischer's table from the ends back, each cell (errors, substitutions) of what is left to align.
    """
    rows, columns = len(reference), len(hypothesis)
    rest = [[(rows - row + columns - column, 0) for column in range(columns + 1)] for row in range(rows + 1)]
    best: list[list[Kind]] = [
        ["insert" if row == rows else "delete" for _ in range(columns + 1)] for row in range(rows + 1)
    ]
    for row in reversed(range(rows)):
        for column in reversed(range(columns)):
            same = reference[row] == hypothesis[column]
            errors, substitutions = rest[row + 1][column + 1]
            cost = (errors, substitutions) if same else (errors + 1, substitutions + 1)
            kind: Kind = "equal" if same else "substitute"
            for gap in _GAPS:
                down, right = _STEP[gap]
                errors, substitutions = rest[row + down][column + right]
                if (errors + 1, substitutions) < cost:
                    cost, kind = (errors + 1, substitutions), gap
            rest[row][column], best[row][column] = cost, kind
    steps: list[Chunk] = []
    row = column = 0
    while row < rows or column < columns:
        kind = best[row][column]
        down, right = _STEP[kind]
        step = Chunk(kind, tuple(reference[row : row + down]), tuple(hypothesis[column : column + right]))
        row, column = row + down, column + right
        if steps and steps[-1].kind == kind:
            last = steps.pop()
            step = Chunk(kind, last.reference + step.reference, last.hypothesis + step.hypothesis)
        steps.append(step)
    return Alignment(tuple(steps))
