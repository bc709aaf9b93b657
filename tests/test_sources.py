"""Sources: every kind is read in its own order, and a row that cannot be trusted is rejected by name in its place."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pytest

from audiorl_cli.data.readers.huggingface import HuggingFaceSource
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Item, Utterance, open_source, unique
from audiorl_cli.errors import DataError


def _items(path: Path, **options: Any) -> list[Item]:
    source = open_source(str(path), **options)
    items = list(unique(source.items()))
    assert list(unique(source.items())) == items  # a source can be read again
    return items


def _kept(items: Iterable[Item]) -> list[Utterance]:
    return [item for item in items if isinstance(item, Utterance)]


def _reasons(items: Iterable[Item]) -> dict[str, str]:
    return {item.source: item.reason for item in items if isinstance(item, Rejection)}


def _manifest(folder: Path, *rows: object) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_librispeech_tree(speech: Path) -> None:
    items = _items(speech / "librispeech/test-other-mini")
    expected = [json.loads(line) for line in (speech / "librispeech/manifest.jsonl").read_text().splitlines()]
    texts = {Path(row["audio"]).stem: (row["text"], row["speaker"]) for row in expected}
    assert {item.id: (item.text, item.speaker) for item in _kept(items)} == texts
    assert [item.id for item in items] == sorted(texts)


def test_a_recording_without_a_line_of_transcript(speech: Path, tmp_path: Path) -> None:
    chapter = tmp_path / "84/121123"
    chapter.mkdir(parents=True)
    (chapter / "84-121123.trans.txt").write_text("84-121123-0001 GO ON\n84-121123-0002\n")
    for number in (1, 2, 3):
        (chapter / f"84-121123-000{number}.flac").touch()
    items = _items(tmp_path)
    assert [(u.id, u.text, u.speaker) for u in _kept(items)] == [
        ("84-121123-0001", "GO ON", "84"),
        ("84-121123-0002", "", "84"),
    ]
    assert _reasons(items) == {"84/121123/84-121123-0003.flac": "no_transcript"}


def test_a_folder_with_a_manifest(speech: Path) -> None:
    items = _items(speech / "formats")
    rows = [json.loads(line) for line in (speech / "formats/manifest.jsonl").read_text().splitlines()]
    spoken = [row for row in rows if row["text"] is not None]
    assert [(u.audio_name, u.text) for u in _kept(items)] == [(row["audio"], row["text"]) for row in spoken]
    assert set(_reasons(items).values()) == {"no_transcript"}
    ids = [u.id for u in _kept(items)]
    # three files of one stem: the first has it, the others are told apart by their names as written
    assert ids[:3] == [
        "uberi_audio-mono-16-bit-44100Hz",
        "uberi_audio-mono-16-bit-44100Hz.flac",
        "uberi_audio-mono-16-bit-44100Hz.wav",
    ]
    assert len(set(ids)) == len(ids)
    assert _kept(items)[0].extra["lang"] == "en"


def test_jsonl_of_nemo_with_parts_of_a_recording(tmp_path: Path) -> None:
    path = _manifest(
        tmp_path,
        {"audio_filepath": "a/long.wav", "text": "one", "offset": 0, "duration": 2.5, "speaker": 7},
        {"audio_filepath": "a/long.wav", "text": "two", "offset": 2.5, "duration": 1, "lang": "en"},
        {"audio_filepath": "b/long.wav", "text": "three", "offset": 2.5, "duration": 1},
        {"path": "c.wav", "text": "", "id": 12, "duration": 3, "num_frames": 5},
    )
    one, two, three, four = _kept(_items(path))
    assert (one.id, one.offset, one.duration, one.speaker) == ("long@0", 0.0, 2.5, "7")
    assert (two.id, three.id) == ("long@2.5", "b/long.wav@2.5")
    assert two.extra == {"lang": "en"}
    assert (four.id, four.text, four.offset, four.duration) == ("12", "", None, 3.0)
    assert four.extra == {"source_num_frames": 5}
    assert three.audio == tmp_path / "b/long.wav"


def test_bad_rows_are_rejected_in_their_place(tmp_path: Path) -> None:
    bad: list[tuple[object, str]] = [
        ({"audio": "a.wav", "text": None}, "no_transcript"),
        ({"audio": "a.wav"}, "no_transcript"),
        ({"audio": "a.wav", "text": 5}, "bad_row"),
        ({"audio": "a.wav", "text": "\x1b[31mred"}, "bad_text"),
        ('{"audio": "a.wav", "text": "half \\ud800"}', "bad_text"),
        ({"text": "no audio"}, "bad_row"),
        ({"audio": ["a.wav"], "text": "x"}, "bad_row"),
        ({"audio": "a\0.wav", "text": "x"}, "bad_row"),
        ({"audio": "../a.wav", "text": "x"}, "outside_folder"),
        ({"audio": "b/../../a.wav", "text": "x"}, "outside_folder"),
        ({"audio": "https://example.org/a.wav", "text": "x"}, "not_a_file"),
        ({"audio": "cat a.wav |", "text": "x"}, "not_a_file"),
        ({"audio": "a.wav", "text": "x", "offset": -1}, "bad_segment"),
        ({"audio": "a.wav", "text": "x", "offset": "soon"}, "bad_segment"),
        ({"audio": "a.wav", "text": "x", "offset": [1]}, "bad_segment"),
        ({"audio": "a.wav", "text": "x", "id": "new\nline"}, "bad_row"),
        ({"audio": "a.wav", "text": "x", "id": True}, "bad_row"),
        ('{"audio": "a.wav", "text": NaN}', "no_transcript"),
        ("[1, 2]", "bad_row"),
        ("not json", "bad_row"),
        ("[" * 100_000, "bad_row"),
        ('{"audio": "a.wav", "text": "' + "a" * 1_000_000 + '"}', "bad_row"),
        ({"audio": "good.wav", "text": "y", "id": "first"}, "duplicate_id"),
    ]
    path = _manifest(tmp_path, {"audio": "good.wav", "text": "x", "id": "first"}, *(row for row, _ in bad))
    with path.open("ab") as file:
        file.write(b'{"audio": "a.wav", "text": "\xff"}\n\n{"audio": "last.wav", "text": "z"}')
    items = _items(path)
    expected = {f"manifest.jsonl line {number}": reason for number, (_, reason) in enumerate(bad, 2)}
    assert _reasons(items) == expected | {f"manifest.jsonl line {len(bad) + 2}": "bad_row"}
    assert [u.id for u in _kept(items)] == ["first", "last"]


def test_root_confines_absolute_paths_and_links(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret.wav").touch()
    (inside / "plain.wav").touch()
    (inside / "link.wav").symlink_to(outside / "secret.wav")
    names = ["plain.wav", "link.wav", str(outside / "secret.wav"), str(inside / "plain.wav")]
    path = _manifest(inside, *({"audio": name, "text": "x", "id": name} for name in names))
    assert [u.id for u in _kept(_items(path))] == names
    assert [u.id for u in _kept(_items(path, root=inside))] == [names[0], names[3]]
    assert set(_reasons(_items(path, root=inside)).values()) == {"outside_folder"}


def test_common_voice_tables(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/cv_1.mp3").touch()
    table = tmp_path / "train.tsv"
    table.write_text('client_id\tpath\tsentence\tage\nabc\tcv_1.mp3\tSay "hello\ttwenties\nabc\tcv_2.mp3\n')
    items = _items(table)
    (one,) = _kept(items)
    assert (one.audio, one.text, one.speaker) == (tmp_path / "clips/cv_1.mp3", 'Say "hello', "abc")
    assert one.extra == {"age": "twenties"}
    assert _reasons(items) == {"train.tsv line 3": "bad_row"}


def test_csv_with_quotes_and_segments(tmp_path: Path) -> None:
    table = tmp_path / "data.csv"
    rows = [b"audio,text,offset,duration", b'a.wav,"one, two",1.5,2', b"b.wav,three,,", b"\xff,x,,", b"c.wav,x,soon,"]
    table.write_bytes(b"\n".join(rows))
    items = _items(tmp_path)
    one, two = _kept(items)
    assert (one.text, one.offset, one.duration, one.id) == ("one, two", 1.5, 2.0, "a@1.5")
    assert (two.text, two.offset, two.duration) == ("three", None, None)
    assert _reasons(items) == {"data.csv line 4": "bad_row", "data.csv line 5": "bad_segment"}


def test_a_text_over_several_lines_keeps_its_line_breaks(tmp_path: Path) -> None:
    table = tmp_path / "data.csv"
    table.write_bytes(b'path,sentence\r\na.wav,"one\r\ntwo ""three"""\r\nb.wav,four\r\nc.wav\r\n')
    items = _items(table)
    assert [u.text for u in _kept(items)] == ['one\ntwo "three"', "four"]
    assert _kept(items)[0].source == "data.csv line 2"  # where the row begins
    assert _reasons(items) == {"data.csv line 5": "bad_row"}


def test_a_quotation_mark_that_nothing_closes_costs_its_own_row_alone(tmp_path: Path) -> None:
    table = tmp_path / "data.csv"
    rows = ["path,sentence", "a.wav,one", 'b.wav,"two', "c.wav,three", 'd.wav,"four', "e.wav,five"]
    table.write_text("\n".join(rows))
    items = _items(table)
    assert [u.text for u in _kept(items)] == ["one", "three", "five"]
    assert _reasons(items) == {"data.csv line 3": "bad_row", "data.csv line 5": "bad_row"}


def test_a_table_in_another_encoding_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes("path,sentence\na.wav,one\n".encode("utf-16"))
    with pytest.raises(DataError, match="expected a header in UTF-8, got not UTF-8"):
        _items(tmp_path / "data.csv")


def test_a_table_without_a_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a.wav,one\n")
    with pytest.raises(DataError, match="header"):
        _items(tmp_path)


def test_a_kaldi_folder(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("rec1 audio/rec1.wav\nrec2 sph2pipe -f wav rec2.sph |\n")
    (tmp_path / "text").write_text("u1 hello there\nu2\nu3 piped\nu5 lost\n")
    (tmp_path / "utt2spk").write_text("u1 anna\n")
    segments = ["u1 rec1 0.5 2.0", "u2 rec1 2.0 -1", "u3 rec2 0 1", "u4 rec9 0 1", "u6 rec1 3 2", "u7 rec1"]
    (tmp_path / "segments").write_text("\n".join(segments))
    items = _items(tmp_path)
    one, two = _kept(items)
    assert (one.id, one.text, one.speaker, one.offset, one.duration) == ("u1", "hello there", "anna", 0.5, 1.5)
    assert (two.id, two.text, two.offset, two.duration) == ("u2", "", 2.0, None)
    assert _reasons(items) == {
        "segments line 3": "not_a_file",
        "segments line 4": "missing",
        "segments line 5": "bad_segment",
        "segments line 6": "bad_row",
        "text": "missing",
    }


def test_a_kaldi_folder_without_segments(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("u1 /abs/u1.wav\nu2 u2.wav\nu1 again.wav\n")
    (tmp_path / "text").write_text("u1\thello\n")
    items = _items(tmp_path)
    (one,) = _kept(items)
    assert (one.audio, one.text, one.offset) == (Path("/abs/u1.wav"), "hello", None)
    assert [item.reason for item in items if isinstance(item, Rejection)] == ["duplicate_id", "no_transcript"]


def test_the_files_of_a_kaldi_folder_agree_on_ids_in_any_form_of_unicode(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("cafe\u0301 a.wav\n")
    (tmp_path / "text").write_text("caf\u00e9 hello\n")
    (one,) = _kept(_items(tmp_path))
    assert (one.id, one.text) == ("caf\u00e9", "hello")


def test_a_folder_of_recordings_with_texts(speech: Path, tmp_path: Path) -> None:
    for name, text in (("a/x.flac", "one"), ("b/x.flac", "two"), ("b/y.flac", None), ("b/z.flac", "bad \x07")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        shutil.copy(speech / "librispeech_misc/1089-134691-0000.flac", path)
        if text is not None:
            path.with_suffix(".txt").write_text(text + "\n")
    items = _items(tmp_path)
    assert [(u.id, u.text) for u in _kept(items)] == [("x", "one"), ("b/x.flac", "two")]
    assert _reasons(items) == {"b/y.flac": "no_transcript", "b/z.flac": "bad_text"}


@pytest.fixture(scope="module")
def saved(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with embedded audio in three forms, and one that names files."""
    folder = tmp_path_factory.mktemp("hf")
    content = (speech / "librispeech_misc/1089-134691-0000.flac").read_bytes()
    sounds = [{"bytes": content, "path": "a.flac"}, {"bytes": content, "path": None}, None]
    rows = {"audio": sounds, "text": ["one", "two", "three"], "speaker_id": [1, 2, 3], "score": [0.5, 1.0, 2.0]}
    data = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio())
    data.save_to_disk(folder / "saved")
    named = {"file": ["a.wav", "/b.wav", "../c.wav", None], "sentence": ["one", None, "three", "four"]}
    datasets.Dataset.from_dict(named).save_to_disk(folder / "named")
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(folder / "dict")
    (folder / "parquet").mkdir()
    data.to_parquet(folder / "parquet/train.parquet")
    return folder


def test_one_parquet_file_of_a_hugging_face_data_set(saved: Path) -> None:
    assert [u.text for u in _kept(_items(saved / "parquet/train.parquet"))] == ["one", "two"]


def test_a_split_that_is_not_there_is_told_with_those_that_are(saved: Path) -> None:
    with pytest.raises(DataError, match=r"dict: expected .* got no split 'dev', only train, test\. Check SOURCE"):
        _items(saved / "dict", split="dev")


def test_a_hugging_face_data_set_from_disk_stays_undecoded(saved: Path) -> None:
    items = _items(saved / "saved")
    one, two = _kept(items)
    assert isinstance(one.audio, bytes)
    assert (one.id, one.text, one.speaker, one.extra) == ("a", "one", "1", {"score": 0.5})
    assert two.audio == one.audio
    assert two.id == "00000001"
    assert _reasons(items) == {"row 2": "missing"}


def test_a_hugging_face_data_set_that_names_files(saved: Path) -> None:
    items = _items(saved / "named")
    assert [u.audio for u in _kept(items)] == [saved / "named/a.wav"]
    assert _reasons(items) == {"row 1": "no_transcript", "row 2": "outside_folder", "row 3": "missing"}


def test_a_data_set_from_the_hub_names_its_own_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", tmp_path / "extracted")
    own, other = (tmp_path / "hub" / f"datasets--org--{name}" / "blobs" / "1.wav" for name in ("name", "other"))
    mine, unpacked = tmp_path / "mine.wav", tmp_path / "extracted" / "ab" / "2.wav"
    for path in (own, other, mine, unpacked):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (own.parent / "link.wav").symlink_to(mine)
    source = HuggingFaceSource.named("org/name:en", None, None)
    assert [source._file(str(path)) for path in (own, unpacked)] == [own, unpacked]
    for path in (other, mine, own.parent / "link.wav"):
        with pytest.raises(RejectedError, match="outside the data set's own files"):
            source._file(str(path))
    with pytest.raises(RejectedError, match="outside --root"):
        HuggingFaceSource("org/name", root=tmp_path / "elsewhere")._file(str(own))


def test_splits_are_chosen_or_asked_for(saved: Path) -> None:
    assert len(_items(saved / "dict", split="test")) == 3
    with pytest.raises(DataError, match="train, test"):
        _items(saved / "dict")
    with pytest.raises(DataError, match="expected a data set that loads"):
        _items(saved / "dict", split="nonsuch")


def test_a_folder_of_parquet_files(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    assert [u.text for u in _kept(_items(saved / "parquet"))] == ["one", "two"]


@pytest.mark.parametrize("name", ["nonsuch", "org/name"])
def test_no_such_source(name: str) -> None:
    with pytest.raises(DataError, match="nothing there"):
        open_source(name)


def test_sources_that_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without manifest, tables or recordings"):
        open_source(str(tmp_path))
    for name in ("train.tsv", "test.tsv"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"several tables \(test.tsv, train.tsv\)"):
        open_source(str(tmp_path))


def test_an_unreadable_manifest_is_one_clear_line(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "manifest.jsonl")
    with pytest.raises(DataError, match="got a folder, pipe or device"):
        list(open_source(str(tmp_path)).items())


def test_pipes_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="got a pipe or device"):
        open_source(str(tmp_path / "pipe.jsonl"))
    (tmp_path / "a.wav").touch()
    os.mkfifo(tmp_path / "a.txt")
    assert _reasons(_items(tmp_path, format="folder")) == {"a.wav": "unreadable"}


def test_a_transcript_outside_the_root_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.wav").touch()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "in/a.txt").symlink_to(tmp_path / "secret.txt")
    assert _reasons(_items(tmp_path / "in", root=tmp_path / "in")) == {"a.wav": "outside_folder"}


def test_a_row_that_is_left_out_can_be_found_by_its_file(tmp_path: Path) -> None:
    manifest = tmp_path / "some.jsonl"
    manifest.write_text('{"audio": "deep/clip_7.wav", "text": null}\n{"id": "u1", "audio": "b.wav"}\n7\n')
    assert [row.id for row in _items(manifest)] == ["clip_7", "u1", ""]
