"""Scoring two files: every format, matching by id, and what is refused rather than guessed."""

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from audiorl_cli.errors import ConfigError, DataError
from audiorl_cli.evaluate import transcript_files
from audiorl_cli.evaluate.bootstrap import Interval
from audiorl_cli.evaluate.score import score, score_files
from audiorl_cli.evaluate.transcript_files import REFERENCE_FIELDS
from audiorl_cli.text import normaliser
from audiorl_cli.wer import count_words

TSV = "u1\tone two three\nu2\tfour\nu3\t\n"
HYPOTHESES = {
    "same.tsv": "u3\tuh\nu1\tone too three\nu2\t\n",  # another order; an empty text
    "same.txt": "u2\nu1\tone too three\nu3\tuh\n".replace("u2\nu1", "u1").replace("u3", "u2\nu3"),
    "windows.tsv": "\ufeffu1\tone too three\r\nu2\t\r\nu3\tuh\r\n",
    "headed.tsv": "id\ttext\nu1\tone too three\nu2\nu3\tuh",  # no tab after u2, no newline at the end
    "a.jsonl": '{"id": "u1", "text": "one too three"}\n\n{"id": "u2", "text": ""}\n{"id": "u3", "text": "uh"}\n',
    "nemo.json": '{"audio_filepath": "a/u1.wav", "text": "one two three", "pred_text": "one too three"}\n'
    '{"audio_filepath": "u2.flac", "text": "four", "pred_text": ""}\n'
    '{"audio_filepath": "u3.flac", "text": "", "pred_text": "uh"}',
    "utterances": '{"id": "u1", "reference": "one two three", "hypothesis": "one too three", "text": "no"}\n'
    '{"id": "u2", "reference": "four", "hypothesis": ""}\n{"id": "u3", "reference": "", "hypothesis": "uh"}\n',
}


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", HYPOTHESES)
def test_every_format_gives_the_same_counts(tmp_path: Path, name: str) -> None:
    found = score_files(_file(tmp_path, "references.tsv", TSV), _file(tmp_path, name, HYPOTHESES[name]))
    assert (found.rows, found.reference_words) == (3, 4)
    assert (found.substitutions, found.insertions, found.deletions, found.hits) == (1, 1, 1, 2)
    assert found.wer == 0.75
    assert found.reference_characters == 17
    assert found.cer == pytest.approx((1 + 4 + 2) / 17)
    assert (found.normaliser, found.normaliser_digest) == ("none", normaliser("none").digest)


def test_references_come_from_their_own_field(tmp_path: Path) -> None:
    path = _file(tmp_path, "utterances.jsonl", HYPOTHESES["utterances"])
    assert score_files(path, path).wer == 0.75


def test_one_text_is_not_scored_against_itself(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.jsonl", '{"id": "u1", "text": "one two", "whisper": "one too"}\n')
    with pytest.raises(DataError, match="expected a text of its own for each side, got text for both"):
        score_files(path, path)


def test_plain_lines_are_matched_by_number_and_empty_ones_count(tmp_path: Path) -> None:
    references = _file(tmp_path, "r.txt", "one two\n\nthree\u2028four\n\n")
    found = score_files(references, _file(tmp_path, "h.txt", "one two\nuh\nthree four\n\n"))
    assert (found.rows, found.insertions, found.hits) == (4, 1, 4)


def test_the_normaliser_is_applied_to_both_sides(tmp_path: Path) -> None:
    references, hypotheses = _file(tmp_path, "r.txt", "Don’t, stop!\n"), _file(tmp_path, "h.txt", "don't STOP\n")
    assert score_files(references, hypotheses).wer == 1.0
    assert score_files(references, hypotheses, "basic").wer == 0.0
    assert score_files(references, hypotheses, "basic").normaliser_digest == normaliser("basic").digest
    with pytest.raises(ConfigError, match="one of none, basic"):
        score_files(references, hypotheses, "nonsuch")


def test_cer_of_cjk_by_hand() -> None:
    references, hypotheses = ["你好，世界", "我有iPhone 15"], ["你 好视界。", "我 有 iPhone 50"]
    found = score(references, hypotheses, "cjk", replicates=500)
    # Words: 你 好 世 界 | 我 有 iphone 15. Characters: 你好世界 | 我有iphone 15, the space between Latin words is one.
    assert (found.reference_words, found.substitutions, found.wer) == (8, 2, 2 / 8)
    assert (found.reference_characters, found.cer) == (4 + 11, (1 + 2) / 15)
    assert found.intervals is not None
    assert found.intervals.cer == Interval(2 / 11, 1 / 4)  # either utterance drawn twice
    assert score(["你好世界"], ["你好"], "cjk").cer == score(["你 好 世 界"], ["你 好"], "cjk").cer == 2 / 4
    assert score(["안녕 세계"], ["안녕세계"], "cjk").cer == 0.0


WRONG = [
    ("h.tsv", "u1\ta\nu3\tb\n", r"h\.tsv: id u2: expected one for each of the 3 in .*, got 1 missing"),
    ("h.tsv", "u1\ta\n", "got 2 missing"),
    ("h.tsv", TSV + "u4\ta\nu5\ta\n", "id u4: expected only what .* got 2 more"),
    ("h.tsv", TSV + "u2\tfour\nu1\t\n", "h.tsv: u2: expected each id once, got 2 rows"),
    ("h.tsv", "\ta\n", "line 1: expected an id"),
    ("h.txt", "one two three\nfour\n\n", "expected TSV, as .* holds, got plain lines. Give both files ids, or neither"),
    ("h.tsv", "", "got 3 missing"),
    ("h.jsonl", '{"id": "u1", "text": "a"}\n{"id"\n', "h.jsonl line 2: expected a JSON object"),
    ("h.jsonl", "[1]\n", "line 1: expected a JSON object, got list"),
    ("h.jsonl", '{"id": "u1", "words": "a"}', "a text under hypothesis or hyp or pred_text or .*, got only id, words"),
    ("h.jsonl", '{"id": "u1", "text": null}', "text: expected a text, got null"),
    ("h.jsonl", '{"id": "u1", "text": 3}', "text: expected a text, got 3"),
    ("h.jsonl", '{"id": ["u1"], "text": "a"}', "expected an id, got"),
    ("h.jsonl", '{"id": "", "text": "a"}', "expected an id, got"),
    ("h.jsonl", '{"text": "a"}', "expected an id, got null"),
    ("h.jsonl", "[" * 100_000, "expected a JSON object"),
    ("h.csv", "id,text\nu1,a\n", "got 2 missing"),
    ("h.csv", "a,b\nu1,a\n", "expected a header with an id .* and a text .*, got a, b"),
    ("h.csv", 'id,text\nu1,"a\n', "expected a row of a CSV, got unexpected end of data"),
    ("h.csv", "id,text\nu1,a, b\n", "line 2: expected 2 columns, got 3 columns"),
    ("h.tsv", "u1 a\nu2 b\nu3 c\n", "expected TSV with two columns, .*, got a .tsv without a tab"),
    ("h.tsv", "u1\ta\t0.9\nu2\tb\t0.8\n", "got 3 columns without such a header"),
    ("h.tsv", b"u1\t\xff\n", "expected UTF-8 text, got invalid start byte at byte 3"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_what_does_not_match_is_refused_by_name(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_files(_file(tmp_path, "references.tsv", TSV), _file(tmp_path, name, content))


def test_plain_lines_must_be_as_many(tmp_path: Path) -> None:
    three, two = _file(tmp_path, "3.txt", "a\nb\nc\n"), _file(tmp_path, "2.txt", "a\nb\n")
    with pytest.raises(DataError, match=r"2\.txt: line 3: .* got 1 missing"):
        score_files(three, two)
    with pytest.raises(DataError, match=r"3\.txt: line 3: .* got 1 more"):
        score_files(two, three)


def test_nothing_to_score_is_refused(tmp_path: Path) -> None:
    empty = _file(tmp_path, "a.tsv", "")
    with pytest.raises(DataError, match="expected transcripts, got none"):
        score_files(empty, empty)
    with pytest.raises(DataError, match="nonsuch: expected a file of transcripts, got No such file"):
        score_files(tmp_path / "nonsuch", empty)


def test_ids_are_matched_without_folders_and_suffixes_of_recordings(tmp_path: Path) -> None:
    references = _file(tmp_path, "r.tsv", "u1\tone two\nu2\tthree\n84.121\tfour\n")
    for ids in (("a/u1.wav", "b/u2.flac", "84.121.wav"), ("C:\\a\\u1.wav", "u2", "84.121")):
        rows = "".join(f"{one}\t{text}\n" for one, text in zip(ids, ("one two", "tree", "four"), strict=True))
        assert score_files(references, _file(tmp_path, "h.tsv", rows)).substitutions == 1
    with pytest.raises(DataError, match=r"id u1: .* 3 missing"):  # two recordings of one name are two utterances
        score_files(references, _file(tmp_path, "h.tsv", "a/u1.wav\tone\nb/u1.wav\ttwo\nu2.wav\tthree\n"))
    with pytest.raises(DataError, match=r"id u2: .* 1 missing, though there is U2"):
        score_files(references, _file(tmp_path, "h.tsv", "u1\tone\nU2\ttwo\n84.121\tfour\n"))


def test_a_score_is_json() -> None:
    found = score(["a b", ""], ["a", "x y z"])
    assert json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))["wer"] == 2.0
    assert json.dumps(dataclasses.asdict(score([""], ["x"])), allow_nan=False)  # an empty reference: 1.0, not infinity


def test_the_published_counts_exactly(speech: Path) -> None:
    folder = speech / "wer_golden"
    found = score_files(folder / "test-clean.ref.tsv", folder / "test-clean.b1.rnnt_baseline.hyp.tsv")
    assert (found.rows, found.reference_words) == (2620, 52_576)
    assert (found.substitutions, found.insertions, found.deletions) == (1501, 195, 225)
    assert 100 * found.wer == 3.6537583688374924
    assert found.mer == 1921 / (1921 + 50_850)
    assert found.wil == pytest.approx(1 - 50_850**2 / (52_576 * (50_850 + 1501 + 195)))


def test_intervals_by_hand() -> None:
    # Two utterances: both drawn in half of the draws, the right one or the wrong one twice in a quarter each.
    found = score(["a b", "c d"], ["a b", "x"], replicates=500).intervals
    assert found is not None
    assert found.wer == found.mer == found.wil == Interval(0.0, 1.0)
    assert found.cer == Interval(0.0, 1.0)
    assert score(["a b", "c d"], ["a b", "x"], replicates=0).intervals is None
    assert score(["a b"], ["a"]).intervals is None


def test_the_interval_of_a_real_recogniser_is_that_of_a_direct_simulation(speech: Path) -> None:
    folder = speech / "wer_golden"
    found = score_files(folder / "test-clean.ref.tsv", folder / "test-clean.b1.rnnt_baseline.hyp.tsv").intervals
    sides = [
        transcript_files.read(folder / f"test-clean.{name}.tsv", REFERENCE_FIELDS).texts
        for name in ("ref", "b1.rnnt_baseline.hyp")
    ]
    counts = [count_words(text, sides[1][one]) for one, text in sides[0].items()]
    pairs = [(one.errors, one.reference_length) for one in counts]
    draw = random.Random(0)
    rates = []
    for _ in range(1000):
        errors, words = zip(*draw.choices(pairs, k=len(pairs)), strict=True)
        rates.append(sum(errors) / sum(words))
    rates.sort()
    assert found is not None
    # A percentile of 1000 draws has a standard error of 6 % of the interval's width: some three of them.
    slack = 0.15 * (found.wer.high - found.wer.low)
    assert found.wer.low == pytest.approx(rates[25], abs=slack)
    assert found.wer.high == pytest.approx(rates[975], abs=slack)


def test_scoring_needs_no_model_library() -> None:
    program = "import sys, audiorl_cli.evaluate.score as s; print({'jax', 'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
