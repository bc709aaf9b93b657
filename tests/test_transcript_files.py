"""Every layout of transcripts by hand: the same texts, whatever holds them; other layouts are refused by name."""

import gzip
import json
from pathlib import Path

import pytest

from audiorl_cli.errors import DataError
from audiorl_cli.evaluate.score import score_files
from audiorl_cli.evaluate.transcript_files import (
    HYPOTHESIS_FIELDS,
    REFERENCE_FIELDS,
    FileFormat,
    read,
    read_both,
)

TEXTS = {"utt1": "one too three", "utt2": "", "utt3": "uh four"}
# name, content, what it is taken for
LAYOUTS = {
    "text": ("utt1 one too three\nutt2\nutt3  uh four\n", "Kaldi text"),
    "text.txt": ("utt1\tone too three\nutt2\t\nutt3\tuh four\n", "TSV"),
    "84-1.trans.txt": ("utt1 one too three\nutt2\nutt3 uh four\n", "Kaldi text"),
    "windows": ("\ufeffutt1 one too three\r\nutt2 \r\nutt3 uh four\r\n", "Kaldi text"),
    "a.tsv": ("utt1\tone too three\nutt2\nutt3\tuh four", "TSV"),
    "b.tsv": (
        "path\tup\tsentence\nclips/utt1.mp3\t2\tone too three\nutt2.mp3\t1\t\nutt3.mp3\t1\tuh four\n",
        "TSV (sentence)",
    ),
    "a.csv": ('id,duration,pred_text\nutt1,1.5,"one too three"\nutt2,2,\nutt3,1,uh four\n', "CSV (pred_text)"),
    "b.csv": ("Text;ID\none too three;utt1\n;utt2\nuh four;utt3\n", "CSV (text)"),
    "table": ("file,transcription\na/utt1.wav,one too three\na/utt2.wav,\na/utt3.wav,uh four\n", "CSV (transcription)"),
    "metadata": ("utt1|One too 3|one too three\nutt2||\nutt3|uh 4|uh four\n", "LJSpeech"),
    "a.jsonl": (
        '{"id": "utt1", "text": "one too three"}\n\n{"id": "utt2", "text": ""}\n{"id": "utt3", "text": "uh four"}\n',
        "JSONL (text)",
    ),
    "nemo.json": (
        '{"audio_filepath": "a/utt1.wav", "text": "no", "pred_text": "one too three"}\n'
        '{"audio_filepath": "b/utt2.wav", "text": "no", "pred_text": ""}\n'
        '{"audio_filepath": "utt3.wav", "text": "no", "pred_text": "uh four"}\n',
        "JSONL (pred_text)",
    ),
    "array.json": (
        json.dumps([{"utt_id": key, "hypothesis": text} for key, text in TEXTS.items()], indent=1),
        "JSON (hypothesis)",
    ),
    "hf.json": (
        json.dumps([{"audio": {"path": f"x/{key}.flac"}, "sentence": text} for key, text in TEXTS.items()]),
        "JSON (sentence)",
    ),
    "table.json": (json.dumps(TEXTS, indent=2), "JSON"),
    "one_line.json": (json.dumps(TEXTS), "JSONL"),
    "hyp.trn": ("one too three (utt1)\n;; a comment\n(utt2)\nuh four (utt3)\n", "trn"),
    "hyp.txt": ("one too three (utt1)\n (utt2)\nuh four  (utt3) \n", "trn"),
    "hyp.ctm": (
        ";; a comment\nutt1 1 0.5 0.2 too 0.9\nutt1 1 0.1 0.2 one\nutt1 1 0.9 0.2 three\n"
        "utt3 1 0.10 0.20 uh\nutt3 1 0.40 0.20 four\n",
        "ctm",
    ),
}


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_holds_the_same_texts(tmp_path: Path, name: str) -> None:
    content, layout = LAYOUTS[name]
    found = read(_file(tmp_path, name, content), HYPOTHESIS_FIELDS)
    assert found.layout == layout
    assert {one: text.strip() for one, text in found.texts.items()} == {
        one: text for one, text in TEXTS.items() if text or layout != "ctm"
    }
    packed = read(_file(tmp_path, f"{name}.gz", gzip.compress(content.encode())), HYPOTHESIS_FIELDS)
    assert (packed.layout, packed.texts) == (layout, found.texts)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("other", ["text", "hyp.trn", "a.tsv", "hf.json"])
def test_any_layout_is_scored_against_any_other_by_id(tmp_path: Path, name: str, other: str) -> None:
    references = _file(tmp_path, f"references.{other}", LAYOUTS[other][0].replace("too", "two"))
    found = score_files(references, _file(tmp_path, name, LAYOUTS[name][0]))
    assert (found.rows, found.reference_words, found.substitutions, found.wer) == (3, 5, 1, 1 / 5)
    assert found.layouts == (read(references, REFERENCE_FIELDS).layout, LAYOUTS[name][1])


def test_ids_are_no_words(tmp_path: Path) -> None:
    references = _file(tmp_path, "r", "utt1 one two three\nutt2 four five six\n")
    assert score_files(references, _file(tmp_path, "h", "utt2 four five six\nutt1 one too three\n")).wer == 1 / 6
    # Words that come once each, the same on both sides, are words; where they might be either, a person says so.
    words = _file(tmp_path, "w", "one two three\nfour five six\n")
    assert score_files(words, _file(tmp_path, "v", "one too three\nfour five six\n")).reference_words == 6
    doubt = _file(tmp_path, "d", "anna goes\nbert too\ncarl stays\n")
    assert score_files(doubt, doubt).layouts == (
        "plain lines",
        "plain lines (--format kaldi if the first words, all different and the same in both files, are ids)",
    )
    either = _file(tmp_path, "e", "5 minutes\n10 minutes\n20 seconds\n")
    with pytest.raises(DataError, match=r"first words as '5', the same in both files. Say which it is: --format kaldi"):
        read_both(either, either)
    assert score_files(either, either, format="lines").reference_words == 6
    assert score_files(either, either, format="kaldi").reference_words == 3


def test_ids_without_digits_are_known_from_the_other_file(tmp_path: Path) -> None:
    references = _file(tmp_path, "r.tsv", "anna\tone two\nbert\tthree\n")
    found = score_files(references, _file(tmp_path, "h", "bert three\nanna one too\n"))
    assert (found.layouts, found.reference_words, found.substitutions) == (("TSV", "Kaldi text"), 3, 1)
    with pytest.raises(DataError, match=r"expected TSV, as .* holds, got plain lines"):
        score_files(references, _file(tmp_path, "p", "three\none too\n"))
    with pytest.raises(DataError, match=r"expected Kaldi text, as .* holds, got plain lines"):
        score_files(_file(tmp_path, "k", LAYOUTS["text"][0]), _file(tmp_path, "p", "three\none too\n\n"))


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("lines", "one two (utt1)\n{}\n"),
        ("kaldi", "utt1 one two (utt1)\nx {}\n"),
        ("tsv", "utt1\tone two (utt1)\nx\t{}\n"),
        ("csv", "id|text\nutt1|one two (utt1)\nx|{}\n"),
        ("json", '{"id": "utt1", "text": "one two (utt1)"}\n{"id": "x", "text": "{}"}\n'),
        ("trn", "one two (utt1) (utt1)\n{} (x)\n"),
    ],
)
def test_a_layout_may_be_named(tmp_path: Path, format: FileFormat, content: str) -> None:
    path = _file(tmp_path, "x.dat", content)
    if format == "trn":
        with pytest.raises(DataError, match=r"got sclite's mark of alternatives or optional words, \(utt1\)"):
            read(path, REFERENCE_FIELDS, format)
        return
    assert [*read(path, REFERENCE_FIELDS, format).texts.values()] == ["one two (utt1)", "{}"]


PLAIN = [
    "oh no (laughs)\nyes (laughs)\n",
    "well (he said)\n",
    "<unk> and\n",
    "[noise] hello\n[noise]\n",
    "one, two\ntext, id, more\n",
    "a | b\n",
    "it took 1 2.0 3.0 hours\n",
]


@pytest.mark.parametrize("content", PLAIN)
def test_lines_of_words_are_taken_as_they_are(tmp_path: Path, content: str) -> None:
    found = read(_file(tmp_path, "h.txt", content), HYPOTHESIS_FIELDS)
    assert (found.kind, [*found.texts.values()]) == ("plain lines", content.splitlines())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("WEBVTT\n\n00:00.000 --> 00:01.000\nhi\n", "looks like WebVTT subtitles"),
        ("1\n00:00:00,000 --> 00:00:01,000\nhi\n", "looks like SubRip subtitles"),
        ('File type = "ooTextFile"\nObject class = "TextGrid"\n', "looks like a Praat TextGrid"),
        ("#!MLF!#\n", "looks like an HTK label file"),
        ("@UTF8\n@Begin\n", "looks like a CHAT transcript"),
        ('<?xml version="1.0"?>\n<a/>\n', "looks like XML or HTML"),
        ("SPEAKER f 1 0.0 1.5 <NA> <NA> s <NA> <NA>\n", "looks like an RTTM file"),
        ("utt1 /data/a.wav\nutt2 /data/b.wav\n", "looks like Kaldi's wav.scp"),
        ("sentence\nhello\nbye\n", "looks like a table of one column, without ids"),
        (b"PAR1\x15\x04", "got Parquet"),
        (b"PK\x03\x04", "got a zip archive"),
        ("a b\n".encode("utf-16"), "got UTF-16"),
        (b"a\0b", "got a binary file"),
        (gzip.compress(b"a b\n" * 99, mtime=0)[:20], "expected a file of transcripts, got Compressed file ended"),
        ('{"text": "hi", "segments": [], "language": "en"}', "expected an id, got segments: Whisper's output of one"),
        ('[{"text": "hi"}]', "row 1: expected an id, got null"),
        ('[{"id": 1, "text": "hi"}, 2]', "row 2: expected a JSON object, got int"),
        ('{"id": true, "text": "hi"}', "expected an id, got true"),
        ("one { a / b } (utt1)\n", "got sclite's mark of alternatives or optional words, {"),
        ("utt1 a\nutt1 b\nutt2 c\nutt3 d\n", "utt1: expected each id once, got 1 rows"),
    ],
)
def test_other_layouts_are_refused_by_name(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(_file(tmp_path, "h.txt", content), HYPOTHESIS_FIELDS)


def test_parts_of_one_recording_have_ids_of_their_own(tmp_path: Path) -> None:
    rows = [{"audio_filepath": "a.wav", "offset": offset, "text": str(offset)} for offset in (0, 2.5, 7)]
    path = _file(tmp_path, "manifest.json", "\n".join(map(json.dumps, rows)))
    assert read(path, REFERENCE_FIELDS).texts == {"a@0": "0", "a@2.5": "2.5", "a@7": "7"}


def test_the_published_counts_in_any_layout(speech: Path, tmp_path: Path) -> None:
    def rows(name: str) -> list[tuple[str, str]]:
        lines = (speech / "wer_golden" / name).read_text(encoding="utf-8").splitlines()
        return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]

    kaldi = "".join(f"{one} {text}\n" for one, text in rows("test-clean.ref.tsv"))
    trn = "".join(f"{text} ({one})\n" for one, text in reversed(rows("test-clean.b1.rnnt_baseline.hyp.tsv")))
    found = score_files(_file(tmp_path, "text", kaldi), _file(tmp_path, "hyp", trn), replicates=0)
    assert found.layouts == ("Kaldi text", "trn")
    assert (found.rows, found.reference_words) == (2620, 52_576)
    assert (found.substitutions, found.insertions, found.deletions) == (1501, 195, 225)
