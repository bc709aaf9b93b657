"""Error counts by hand, against jiwer's totals, and against the published counts of a real recogniser."""

import itertools
import random
import tracemalloc
from pathlib import Path

import jiwer
import pytest
from rapidfuzz.distance import Levenshtein

from audiorl_cli import wer
from audiorl_cli.wer import Chunk, ErrorCounts, Kind, align, count_characters, count_words, total

# reference, hypothesis, substitutions, insertions, deletions, hits
BY_HAND = [
    ("a b c", "a b c", 0, 0, 0, 3),
    ("a b c", "a x c", 1, 0, 0, 2),
    ("a b c", "a c", 0, 0, 1, 2),
    ("a b c", "a b x c", 0, 1, 0, 3),
    ("a b", "", 0, 0, 2, 0),
    ("", "", 0, 0, 0, 0),
    ("", "two words", 0, 2, 0, 0),
    ("a", "b c d", 1, 2, 0, 0),
    ("a b", "b c", 0, 1, 1, 1),  # two substitutions would be as few errors, with one hit less
    ("a a b", "b a a", 0, 1, 1, 2),
    ("  a\tb\n", "a\u00a0b", 0, 0, 0, 2),  # words are what whitespace separates
    ("A", "a", 1, 0, 0, 0),  # case is the normaliser's business
]


@pytest.mark.parametrize(("reference", "hypothesis", "substitutions", "insertions", "deletions", "hits"), BY_HAND)
def test_words_by_hand(
    reference: str, hypothesis: str, substitutions: int, insertions: int, deletions: int, hits: int
) -> None:
    expected = ErrorCounts(substitutions, insertions, deletions, hits)
    assert count_words(reference, hypothesis) == expected
    assert align([reference], [hypothesis])[0].counts == expected


def test_characters_by_hand() -> None:
    assert count_characters("kitten", "sitting") == ErrorCounts(2, 1, 0, 4)
    assert count_characters("a b", "ab") == ErrorCounts(0, 0, 1, 2)  # the space is a character
    assert count_characters(" a  b ", "a b") == ErrorCounts(0, 0, 0, 3)  # and only one
    assert count_characters("世界", "世间") == ErrorCounts(1, 0, 0, 1)
    assert count_characters("", "") == ErrorCounts()
    assert count_characters("", "ab").insertions == 2


def test_rates() -> None:
    assert ErrorCounts(1, 1, 1, 1).rate == 1.0
    assert ErrorCounts(1, 0, 0, 3).wer == 0.25
    assert ErrorCounts(insertions=6, hits=2).rate == 3.0  # no upper bound
    assert ErrorCounts().rate == 0.0
    assert ErrorCounts(insertions=3).rate == 3.0  # an empty reference counts as one word
    assert ErrorCounts(2, 3, 5, 7).errors == 10
    assert ErrorCounts(2, 3, 5, 7).reference_length == 14


def test_match_errors_and_information_lost_by_hand() -> None:
    counts = ErrorCounts(substitutions=1, insertions=2, deletions=3, hits=4)
    assert counts.hypothesis_length == 7
    assert counts.mer == 6 / 10
    assert counts.wil == pytest.approx(1 - (4 / 8) * (4 / 7))
    assert (ErrorCounts().mer, ErrorCounts().wil) == (0.0, 0.0)
    for nothing_right in (ErrorCounts(insertions=3), ErrorCounts(deletions=3), ErrorCounts(substitutions=3)):
        assert (nothing_right.mer, nothing_right.wil) == (1.0, 1.0)


def test_match_errors_and_information_lost_are_jiwers_where_its_hits_are_ours() -> None:
    compared = 0
    for reference, hypothesis in _random_pairs(500):
        ours = count_words(reference, hypothesis)
        theirs = jiwer.process_words([reference.split()], [hypothesis.split()], list, list)
        if reference and hypothesis and ours.hits == theirs.hits:
            assert ours.mer == pytest.approx(theirs.mer)
            assert ours.wil == pytest.approx(theirs.wil)
            compared += 1
    assert compared > 300


def test_a_corpus_weighs_words_not_utterances() -> None:
    counts = [count_words("a", "b"), count_words("a b c", "a b c"), count_words("", "x")]
    assert total(counts) == ErrorCounts(1, 1, 0, 3)
    assert total(counts).rate == 0.5
    assert total([]) == ErrorCounts()


def test_alignment_of_a_sentence() -> None:
    [alignment] = align(["the cat sat on mat"], ["a the cat set on the mat"])
    assert alignment.chunks == (
        Chunk("insert", (), ("a",)),
        Chunk("equal", ("the", "cat"), ("the", "cat")),
        Chunk("substitute", ("sat",), ("set",)),
        Chunk("equal", ("on",), ("on",)),
        Chunk("insert", (), ("the",)),
        Chunk("equal", ("mat",), ("mat",)),
    )


def test_alignment_with_the_hit_that_an_edit_distance_may_pass_over() -> None:
    [alignment] = align(["a b"], ["b c"])
    assert alignment.chunks == (
        Chunk("delete", ("a",), ()),
        Chunk("equal", ("b",), ("b",)),
        Chunk("insert", (), ("c",)),
    )


def _random_pairs(number: int) -> list[tuple[str, str]]:
    draw = random.Random(0)
    return [
        (" ".join(draw.choices("abc", k=draw.randrange(9))), " ".join(draw.choices("abc", k=draw.randrange(9))))
        for _ in range(number)
    ]


def test_alignments_cover_both_sides_in_order_and_agree_with_the_counts() -> None:
    pairs = _random_pairs(2000)
    alignments = align([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    for (reference, hypothesis), alignment in zip(pairs, alignments, strict=True):
        assert [word for chunk in alignment.chunks for word in chunk.reference] == reference.split()
        assert [word for chunk in alignment.chunks for word in chunk.hypothesis] == hypothesis.split()
        assert alignment.counts == count_words(reference, hypothesis)
        for chunk in alignment.chunks:
            assert (chunk.reference == chunk.hypothesis) == (chunk.kind == "equal")
            assert chunk.kind in ("insert", "delete") or len(chunk.reference) == len(chunk.hypothesis)
        kinds = [chunk.kind for chunk in alignment.chunks]
        assert all(one != next for one, next in itertools.pairwise(kinds))


def test_errors_are_as_few_as_jiwers_and_hits_at_least_as_many() -> None:
    more_hits = 0
    for reference, hypothesis in _random_pairs(2000):
        ours = count_words(reference, hypothesis)
        theirs = jiwer.process_words([reference.split()], [hypothesis.split()], list, list)
        assert ours.errors == theirs.substitutions + theirs.insertions + theirs.deletions
        assert ours.hits >= theirs.hits
        more_hits += ours.hits > theirs.hits
    assert more_hits > 0  # or the rule about ties decides nothing


_STEP: dict[Kind, tuple[int, int]] = {"equal": (1, 1), "substitute": (1, 1), "insert": (0, 1), "delete": (1, 0)}


def _of_the_whole_table(reference: list[str], hypothesis: list[str]) -> list[Kind]:
    """The steps of the alignment with the fewest errors, then the most hits: Wagner and Fischer's table, cell by cell.

    Each cell is the (errors, substitutions) of the words that are left. Of equal ways the first: a hit or substitution,
    a deletion, an insertion.
    """
    rows, columns = len(reference), len(hypothesis)
    rest = [[(rows - row + columns - column, 0) for column in range(columns + 1)] for row in range(rows + 1)]
    best: list[list[Kind]] = [
        ["insert" if row == rows else "delete" for _ in range(columns + 1)] for row in range(rows + 1)
    ]
    for row in reversed(range(rows)):
        for column in reversed(range(columns)):
            same = reference[row] == hypothesis[column]
            diagonal, delete, insert = rest[row + 1][column + 1], rest[row + 1][column], rest[row][column + 1]
            found: list[tuple[tuple[int, int], Kind]] = [
                (diagonal, "equal") if same else ((diagonal[0] + 1, diagonal[1] + 1), "substitute"),
                ((delete[0] + 1, delete[1]), "delete"),
                ((insert[0] + 1, insert[1]), "insert"),
            ]
            rest[row][column], best[row][column] = min(found, key=lambda one: one[0])
    steps: list[Kind] = []
    row = column = 0
    while row < rows or column < columns:
        steps.append(best[row][column])
        row, column = row + _STEP[steps[-1]][0], column + _STEP[steps[-1]][1]
    return steps


def test_of_the_alignments_with_the_most_hits_the_whole_table_chooses() -> None:
    draw = random.Random(2)
    for size in (1, 2, 3, 6):
        for _ in range(400):
            one, other = (draw.choices("abcdef"[:size], k=draw.randrange(20)) for _ in range(2))
            chunks = wer._most_hits(one, other, count_words(" ".join(one), " ".join(other))).chunks
            steps = [chunk.kind for chunk in chunks for _ in chunk.reference or chunk.hypothesis]
            assert steps == _of_the_whole_table(one, other), (one, other)
            assert [word for chunk in chunks for word in chunk.reference] == one
            assert [word for chunk in chunks for word in chunk.hypothesis] == other


def _misread(words: list[str], share: float, draw: random.Random) -> list[str]:
    """The words with `share` of them left out, another, or followed by another, a third each."""
    kinds = draw.choices(["right", "left out", "another", "followed"], [1 - share, *[share / 3] * 3], k=len(words))
    read = zip(words, kinds, strict=True)
    return [
        one
        for word, kind in read
        for one in {"right": [word], "left out": [], "another": ["?"], "followed": [word, "!"]}[kind]
    ]


@pytest.mark.parametrize("whole", [0, 10**12])  # cells: from none in a band, to all in rapidfuzz's table
def test_a_band_of_the_table_counts_as_the_whole(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wer, "_LONG", whole)
    draw = random.Random(3)
    for size, share in itertools.product((30, 60, 400), (0.0, 0.05, 0.15)):
        words = draw.choices("abcdefgh", k=size)
        read = _misread(words, share, draw)
        unit = len(words) + len(read) + 1
        expected = Levenshtein.distance(words, read, weights=(unit, unit, unit + 1))
        for counts in (count_words(" ".join(words), " ".join(read)), wer._count("".join(words), "".join(read))):
            assert (counts.errors, counts.substitutions) == divmod(expected, unit)
            assert (counts.reference_length, counts.hypothesis_length) == (len(words), len(read))
    assert count_characters("\U0001f600" * 40, "\U0001f600" * 39 + "a") == ErrorCounts(1, 0, 0, 39)


@pytest.mark.parametrize("share", [0.15, 1.0])
def test_long_texts_take_little_memory(share: float) -> None:
    draw = random.Random(4)
    words = [f"w{draw.randrange(3000)}" for _ in range(5000)]
    other = [f"w{draw.randrange(3000)}" for _ in range(5000)] if share == 1 else _misread(words, share, draw)
    texts = " ".join(words), " ".join(other)
    tracemalloc.start()
    [alignment] = align([texts[0]], [texts[1]])
    counts = count_words(*texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert alignment.counts == counts
    assert [word for chunk in alignment.chunks for word in chunk.hypothesis] == other
    assert peak < 50e6  # a byte a cell would be half of that, the numbers of Python's lists 20 times as much


def test_swapping_the_sides_swaps_insertions_and_deletions() -> None:
    for reference, hypothesis in _random_pairs(500):
        one, other = count_words(reference, hypothesis), count_words(hypothesis, reference)
        assert (one.substitutions, one.insertions, one.deletions, one.hits) == (
            other.substitutions,
            other.deletions,
            other.insertions,
            other.hits,
        )


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        align(["a", "b"], ["a"])
    assert align([], []) == []


def test_the_published_counts_of_a_real_recogniser(speech: Path) -> None:
    def column(name: str) -> list[str]:
        lines = (speech / "wer_golden" / name).read_text(encoding="utf-8").splitlines()
        return [line.partition("\t")[2] for line in lines]

    references, hypotheses = column("test-clean.ref.tsv"), column("test-clean.b1.rnnt_baseline.hyp.tsv")
    words = total(map(count_words, references, hypotheses))
    characters = total(map(count_characters, references, hypotheses))
    alignments = align(references, hypotheses)
    assert words == ErrorCounts(substitutions=1501, insertions=195, deletions=225, hits=50850)
    assert words.reference_length == 52_576
    assert 100 * words.wer == 3.6537583688374924
    assert total(alignment.counts for alignment in alignments) == words
    assert characters.rate == pytest.approx(jiwer.cer(references, hypotheses))
