"""Error rates and alignments: pure functions over text that is already normalised.

Of the alignments with the fewest errors, the one with the most hits counts, always. That settles substitutions,
insertions and deletions, which the number of errors alone does not ("a b" heard as "b c" is two substitutions, or a
deletion, a hit and an insertion). Published counts are split so; jiwer and rapidfuzz take either.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Final, Literal

import jiwer
import numpy as np
from jaxtyping import Int
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
    return _count(*_numbered(reference.split(), hypothesis.split()))


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
        counts = _count(*_numbered(reference, hypothesis))
        if alignment.counts != counts:
            alignment = _most_hits(reference, hypothesis, counts)
        alignments.append(alignment)
    return alignments


def _as_it_is(words: list[list[str]]) -> list[list[str]]:
    return words


def _numbered(*sides: Iterable[str]) -> list[list[int]]:
    """Return each side as numbers, the same number for equal words."""
    numbers: dict[str, int] = {}
    return [[numbers.setdefault(word, len(numbers)) for word in side] for side in sides]


_LONG: Final = 4_000_000  # cells; a smaller table takes rapidfuzz less time than the calls to numpy, some for each row
_NARROW: Final = 4  # numpy is faster where the whole table is so many times as wide as the band


def _count(reference: Sequence[int] | str, hypothesis: Sequence[int] | str) -> ErrorCounts:
    rows, columns = len(reference), len(hypothesis)
    errors = Levenshtein.distance(reference, hypothesis) if rows * columns > _LONG else columns
    if _NARROW * errors < columns:
        # Insertions less deletions are the difference of the lengths; the two together are no more than the errors.
        band = _Band((errors - columns + rows) // 2, (errors + columns - rows) // 2, unit=errors + 1)
        [(_, _, last)] = deque(band.rows(_codes(reference), _codes(hypothesis)), maxlen=1)
        # A place costs less by whole units only, and the last row ends no sooner than the hypothesis.
        substitutions = int(last[columns - rows + band.deletions - band.width]) % band.unit
    else:
        # An error weighs more than any number of substitutions could: one distance holds both, errors first.
        unit = rows + columns + 1
        distance: int = Levenshtein.distance(reference, hypothesis, weights=(unit, unit, unit + 1))
        errors, substitutions = divmod(distance, unit)
    # What else is wrong are insertions and deletions, and they differ as the lengths do.
    insertions = (errors - substitutions + columns - rows) // 2
    deletions = errors - substitutions - insertions
    return ErrorCounts(substitutions, insertions, deletions, rows - substitutions - deletions)


def _codes(side: Sequence[int] | str) -> Int[np.ndarray, " length"]:
    codes = np.frombuffer(side.encode("utf-32-le", "surrogatepass"), np.uint32) if isinstance(side, str) else side
    return np.asarray(codes, np.int32)


@dataclass(frozen=True)
class _Band:
    """The part of Wagner and Fischer's table that alignments with so many deletions and insertions at most stay in.

    Place k of row r is the cell of r words of the reference and r + k - `deletions` of the hypothesis (Ukkonen 1985,
    "Algorithms for approximate string matching"). An error costs `unit`, a substitution 1 more: `unit` is to be larger
    than the number of errors of the best alignment, so that these decide first.
    """

    deletions: int
    insertions: int
    unit: int

    @property
    def width(self) -> int:
        """Places of a row."""
        return self.deletions + 1 + self.insertions

    def rows(
        self, reference: Int[np.ndarray, " rows"], hypothesis: Int[np.ndarray, " columns"]
    ) -> Iterator[tuple[Int[np.ndarray, " places"], Int[np.ndarray, " places"], Int[np.ndarray, " places"]]]:
        """Yield for each word of the reference what its cells cost by a hit or substitution, by a deletion, at least.

        The cost at place k is less by k times `unit`. Then an insertion adds nothing, and costs by insertions are a
        running minimum. A row lacks the places left of the hypothesis' beginning; its last is that of the band.
        """
        beyond = (self.unit + 1) ** 2  # no less than what the best alignment costs
        most = (len(reference) + len(hypothesis) + 4) * (self.unit + 1) + beyond
        kind = np.int32 if most < 2**31 else np.int64
        words = np.full(self.deletions + len(reference) + self.insertions, -1, np.int32)
        words[self.deletions : self.deletions + len(hypothesis)] = hypothesis
        costs = np.full(self.width + 1, beyond, kind)  # nothing is right of the band
        costs[self.deletions : -1] = -self.deletions * self.unit
        wrong = np.asarray(self.unit + 1, kind)
        for row, word in enumerate(reference, 1):
            first = max(0, self.deletions - row)
            diagonal = costs[first:-1] + (words[row - 1 + first : row - 1 + self.width] != word) * wrong
            deletion = costs[first + 1 :] + np.asarray(2 * self.unit, kind)
            best = np.minimum.accumulate(np.minimum(diagonal, deletion))
            costs[first:-1] = best
            yield diagonal, deletion, best


def _most_hits(reference: list[str], hypothesis: list[str], counts: ErrorCounts) -> Alignment:
    """Return the alignment with the fewest errors and, among those, the most hits, as `counts` has them.

    Where several have, it is read from the left: a hit or substitution before a deletion before an insertion.
    """
    band = _Band(counts.deletions, counts.insertions, counts.errors + 1)
    # From the ends back, so that the way through the table can be walked from the left.
    ends = (_codes(side[::-1]) for side in _numbered(reference, hypothesis))
    # A bit for each choice: of nine thousand words at worst 20 MB.
    choices = [(np.packbits(one == best), np.packbits(other == best)) for one, other, best in band.rows(*ends)]

    def step(row: int, column: int) -> Kind:
        """Return the choice where so many words of each side are left."""
        if row:
            byte, bit = divmod(column - max(row - band.deletions, 0), 8)
            diagonal, deletion = choices[row - 1]
            if diagonal[byte] << bit & 128:
                return "equal" if reference[-row] == hypothesis[-column] else "substitute"
            if deletion[byte] << bit & 128:
                return "delete"
        return "insert"

    steps: list[Kind] = []
    row, column = len(reference), len(hypothesis)
    while row or column:
        steps.append(step(row, column))
        down, right = _STEP[steps[-1]]
        row, column = row - down, column - right
    words = iter(reference), iter(hypothesis)
    chunks = []
    for kind, run in groupby(steps):
        length = len([*run])
        sides = (tuple(islice(side, length * moved)) for side, moved in zip(words, _STEP[kind], strict=True))
        chunks.append(Chunk(kind, *sides))
    return Alignment(tuple(chunks))


_STEP: Final[dict[Kind, tuple[int, int]]] = {"equal": (1, 1), "substitute": (1, 1), "insert": (0, 1), "delete": (1, 0)}
