"""MAPSSWE: is one system better than another on the same speech, by more than chance? The test that sclite has.

Gillick and Cox 1989, "Some statistical issues in the comparison of speech recognition algorithms". Errors of one
utterance depend on each other, those of segments with right words between them hardly. As NIST's sc_stats has it, with
its default: a segment ends where both systems have `BUFFER_WORDS` words in a row right, neither with an insertion
between them, and where the utterance ends. A stretch in which neither is wrong is no segment. What differs: sc_stats
aligns with weights of its own, and gives z = 0 where all differences are alike.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from audiorl_cli.wer import Alignment

BUFFER_WORDS: Final = 2


@dataclass(frozen=True)
class MatchedPairs:
    """The outcome. `mean_difference`: errors a segment, less the baseline's. `z` is negative where there are fewer.

    `p` is two-sided, of the normal distribution, which asks for some 50 segments. Both are None where the differences
    are all alike and not 0: then there is no variance to hold them against.
    """

    segments: int
    mean_difference: float
    z: float | None
    p: float | None


def matched_pairs(alignments: Sequence[Alignment], baseline: Sequence[Alignment]) -> MatchedPairs:
    """The test over two systems' alignments of the same utterances, against the same references.

    z is the mean difference over its standard error, with n - 1 in the variance. Raises ValueError for lists of
    different lengths, and alignments to references of different lengths.
    """
    differences = [
        ours - theirs for one, other in zip(alignments, baseline, strict=True) for ours, theirs in segments(one, other)
    ]
    mean = statistics.fmean(differences) if differences else 0.0
    if mean == 0:
        return MatchedPairs(len(differences), 0.0, 0.0, 1.0)
    deviation = statistics.stdev(differences) if len(differences) > 1 else 0.0
    if deviation == 0:
        return MatchedPairs(len(differences), mean, None, None)
    z = mean / (deviation / math.sqrt(len(differences)))
    return MatchedPairs(len(differences), mean, z, math.erfc(abs(z) / math.sqrt(2)))


def segments(one: Alignment, other: Alignment) -> list[tuple[int, int]]:
    """The errors of both systems in each segment of an utterance, from first to last.

    Raises ValueError where the alignments are not to references of the same length.
    """
    found: list[tuple[int, int]] = []
    errors = (0, 0)
    right = 0
    for place in zip(_places(one), _places(other), strict=True):
        (inserted, wrong), (other_inserted, other_wrong) = place
        if inserted or other_inserted:
            right = 0
        right = 0 if wrong or other_wrong else right + 1
        errors = (errors[0] + inserted + wrong, errors[1] + other_inserted + other_wrong)
        if right >= BUFFER_WORDS and errors != (0, 0):
            found.append(errors)
            errors = (0, 0)
    return [*found, errors] if errors != (0, 0) else found


def _places(alignment: Alignment) -> list[tuple[int, int]]:
    """For each reference word (insertions before it, 1 if it is wrong); last, what is inserted behind all of them."""
    places: list[tuple[int, int]] = []
    inserted = 0
    for chunk in alignment.chunks:
        if chunk.kind == "insert":
            inserted += len(chunk.hypothesis)
            continue
        wrong = int(chunk.kind != "equal")
        for _ in chunk.reference:
            places.append((inserted, wrong))
            inserted = 0
    return [*places, (inserted, 0)]
