"""Confusions: every error is in one list, counted, the most frequent first."""

from pathlib import Path

from audiorl_cli.evaluate import transcript_files
from audiorl_cli.evaluate.confusions import Confusion, Confusions, confusions
from audiorl_cli.evaluate.transcript_files import HYPOTHESIS_FIELDS, REFERENCE_FIELDS
from audiorl_cli.wer import align


def test_confusions_by_hand() -> None:
    references = ["a b c", "a b c", "b c", "d", "e", ""]
    hypotheses = ["a x c", "y x c", "b", "", "e z", "z w"]
    assert confusions(align(references, hypotheses)) == Confusions(
        substituted=(Confusion("b", "x", 2), Confusion("a", "y", 1)),
        inserted=(Confusion("", "z", 2), Confusion("", "w", 1)),
        deleted=(Confusion("c", "", 1), Confusion("d", "", 1)),
    )


def test_so_many_are_kept_and_no_more() -> None:
    alignments = align(["a b c d"] * 2, ["w x y z", "a b v z"])
    found = confusions(alignments, kept=2)
    assert found.substituted == (Confusion("d", "z", 2), Confusion("a", "w", 1))


def test_nothing_wrong_nothing_confused() -> None:
    assert confusions(align(["a"], ["a"])) == confusions([]) == Confusions((), (), ())


def test_every_error_of_a_real_recogniser_is_in_one_list(speech: Path) -> None:
    folder = speech / "wer_golden"
    expected = transcript_files.read(folder / "test-clean.ref.tsv", REFERENCE_FIELDS).texts
    heard = transcript_files.read(folder / "test-clean.b1.rnnt_baseline.hyp.tsv", HYPOTHESIS_FIELDS).texts
    found = confusions(align([*expected.values()], [heard[one] for one in expected]), kept=10_000)
    counts = [sum(one.count for one in ones) for ones in (found.substituted, found.inserted, found.deleted)]
    assert counts == [1501, 195, 225]
    assert found.substituted[0].count >= found.substituted[1].count > 1
