"""What a model says that nobody said: each kind at its threshold and just below it."""

import pytest

from audiorl_cli.evaluate.hallucination import LENGTH_MORE, LENGTH_RATIO, LOOP_MORE, LOOP_WORDS, hallucination

LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z"


def test_the_thresholds_are_the_documented_ones() -> None:
    assert (LOOP_WORDS, LOOP_MORE, LENGTH_RATIO, LENGTH_MORE) == (10, 3, 2.0, 5)


def test_a_right_transcript_has_none() -> None:
    for text in ("", "one", "no no no no no", LETTERS):
        found = hallucination(text, text)
        assert not found.found
        assert (found.on_silence, found.loop, found.too_long) == (False, "", False)


def test_output_on_silence() -> None:
    assert hallucination("", "uh").on_silence
    assert hallucination("", "uh").found
    assert not hallucination("", " ").on_silence
    assert not hallucination("a", "").found
    assert hallucination("", LETTERS).too_long is False  # it is that already


LOOPS = [
    ("", "a a", ""),
    ("", "a a a", "a"),  # three times more than the none of the reference
    ("a", "a a a", ""),
    ("a", "a a a a", "a"),
    ("no no", "no no no no", ""),
    ("no no", "no no no no no", "no"),
    ("x", "thank you thank you thank you", "thank you"),
    ("x", "thank you thank you thank", ""),  # two and a half
    ("x", "y a b a b a b z", "a b"),
    ("x", "a b a b a b c c c c", "c"),  # four of one outdo three of two
    ("x", "c c c a b a b a b", "c"),  # of equal ones the shortest
    ("x", "a a a b b b", "a"),  # then the first
    ("a b a b a b", "a b a b a b a b", ""),
    ("q", " ".join(["a b c d e f g h i j"] * 3), "a b c d e f g h i j"),  # the longest that is looked for
    ("q", " ".join(["a b c d e f g h i j k"] * 3), ""),
]


@pytest.mark.parametrize(("reference", "hypothesis", "loop"), LOOPS)
def test_loops(reference: str, hypothesis: str, loop: str) -> None:
    found = hallucination(reference, hypothesis)
    assert found.loop == loop
    assert found.found == (bool(loop) or found.on_silence or found.too_long)


def test_a_loop_alone_is_a_hallucination() -> None:
    found = hallucination("a b c d", "a b b b b")
    assert (found.loop, found.too_long, found.found) == ("b", False, True)


@pytest.mark.parametrize(
    ("words", "heard", "too_long"),
    [
        (5, 10, False),  # twice as many are not more than twice
        (5, 11, True),
        (1, 5, False),  # a short reference: not five words more
        (1, 6, True),
        (10, 20, False),
        (10, 21, True),
    ],
)
def test_far_too_many_words(words: int, heard: int, too_long: bool) -> None:
    reference, hypothesis = " ".join(LETTERS.split()[:words]), " ".join(LETTERS.split()[:heard])
    found = hallucination(reference, hypothesis)
    assert (found.too_long, found.found) == (too_long, too_long)
    assert found.length_ratio == heard / words


def test_the_ratio_to_an_empty_reference_is_that_to_one_word() -> None:
    assert hallucination("", "a b c").length_ratio == 3.0
    assert hallucination("", "").length_ratio == 0.0


def test_a_long_text_that_repeats_itself_as_its_reference_does_has_no_loop() -> None:
    for text in ("ha " * 9000, "ha ha ha ha no " * 1800, " ".join(f"w{n} w{n} w{n}" for n in range(3000))):
        assert not hallucination(text, text).found
        assert hallucination(text, text + " so so so").loop == "so"
