"""The matched-pairs test: segments by hand, the statistic by hand, and no difference where chance made none."""

import math
import random
import statistics

import pytest

from audiorl_cli.evaluate.matched_pairs import MatchedPairs, matched_pairs, segments
from audiorl_cli.wer import Alignment, align


def _aligned(reference: str, *hypotheses: str) -> list[Alignment]:
    return align([reference] * len(hypotheses), list(hypotheses))


# reference, ours, the baseline's, errors of both in each segment
BY_HAND = [
    ("a b c d", "a b c d", "a b c d", []),
    ("a b c d", "a x c d", "a b c d", [(1, 0)]),
    ("a b c d", "a x c d", "a y c d", [(1, 1)]),
    ("a b c d e", "x b c d e", "a b c d x", [(1, 0), (0, 1)]),  # three right between
    ("a b c d", "x b c d", "a b c y", [(1, 0), (0, 1)]),  # two are enough
    ("a b c", "x b c", "a b y", [(1, 1)]),  # one is not
    ("a b c d e", "x b c d e", "a b y d z", [(1, 2)]),  # ours is right there, the baseline is not: one segment
    ("a b c d", "x b i c d", "a b c y", [(2, 1)]),  # right, but for an insertion between them
    ("a b c d", "x b c i d", "a b c y", [(1, 0), (1, 1)]),  # ended before it
    ("a b c", "a b c i j", "a b c", [(2, 0)]),  # at the end of the utterance
    ("a b c", "i a b c", "a b c j", [(1, 0), (0, 1)]),
    ("a b", "", "a b", [(2, 0)]),
    ("", "i j", "k", [(2, 1)]),
    ("", "", "", []),
]


@pytest.mark.parametrize(("reference", "ours", "baseline", "expected"), BY_HAND)
def test_segments_by_hand(reference: str, ours: str, baseline: str, expected: list[tuple[int, int]]) -> None:
    assert segments(*_aligned(reference, ours, baseline)) == expected
    assert segments(*_aligned(reference, baseline, ours)) == [(other, one) for one, other in expected]


def test_no_error_is_lost_or_counted_twice() -> None:
    draw = random.Random(0)
    for _ in range(500):
        texts = [" ".join(draw.choices("abcd", k=draw.randrange(12))) for _ in range(3)]
        ours, baseline = _aligned(*texts)
        found = segments(ours, baseline)
        assert sum(one for one, _ in found) == ours.counts.errors
        assert sum(other for _, other in found) == baseline.counts.errors
        assert (0, 0) not in found


def test_the_statistic_by_hand() -> None:
    # Differences of -1, -1, +1, -2: mean -0.75, variance ((0.25^2)*2 + 1.75^2 + 1.25^2) / 3 = 4.75 / 3.
    references = ["a b c", "a b c", "a b c", "a b"]
    ours = align(references, ["a b c", "a b c", "a x c", "a b"])
    baseline = align(references, ["x b c", "a b", "a b c", ""])
    found = matched_pairs(ours, baseline)
    z = -0.75 / math.sqrt(4.75 / 3 / 4)
    assert (found.segments, found.mean_difference) == (4, -0.75)
    assert found.z == pytest.approx(z)
    assert found.p == pytest.approx(2 * statistics.NormalDist().cdf(z))
    other = matched_pairs(baseline, ours)
    assert (other.p, other.mean_difference) == (found.p, 0.75)
    assert other.z == pytest.approx(-z)


def test_systems_that_do_as_well_differ_by_nothing() -> None:
    ours, baseline = _aligned("a b c d e", "x b c d e", "a b c d x")
    assert matched_pairs([ours], [baseline]) == MatchedPairs(2, 0.0, 0.0, 1.0)
    assert matched_pairs([ours], [ours]) == MatchedPairs(1, 0.0, 0.0, 1.0)
    assert matched_pairs([], []) == MatchedPairs(0, 0.0, 0.0, 1.0)


def test_differences_without_variance_are_no_evidence() -> None:
    right, wrong = _aligned("a b c", "a b c", "a x c")
    assert matched_pairs([wrong, wrong], [right, right]) == MatchedPairs(2, 1.0, None, None)
    assert matched_pairs([wrong], [right]) == MatchedPairs(1, 1.0, None, None)


def test_what_is_not_of_the_same_reference_is_refused() -> None:
    one, other = align(["a b", "a b c"], ["a b", "a b c"])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        segments(one, other)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        matched_pairs([one], [])


def test_chance_alone_is_found_significant_as_often_as_the_level_says() -> None:
    draw = random.Random(0)
    words = [str(number) for number in range(12)]
    significant = 0
    for _ in range(200):
        pairs = []
        for _ in range(40):
            heard = [[word if draw.random() > 0.1 else "x" for word in words] for _ in range(2)]
            pairs.append(_aligned(" ".join(words), *map(" ".join, heard)))
        found = matched_pairs([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        significant += found.p is not None and found.p < 0.05
    assert 2 <= significant <= 19  # 10 expected; 3 standard deviations of the binomial
