"""Hugging Face data sets: whatever `datasets` loads is read, its recordings byte for byte, without torchcodec."""

import gc
import io
import json
import shutil
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.readers.huggingface import HuggingFaceSource, _stored
from audiorl_cli.data.recordings import recordings
from audiorl_cli.data.rejected import Rejection, SkipRule
from audiorl_cli.data.shards import open_shards
from audiorl_cli.data.sources import Item, Utterance, open_source, unique
from audiorl_cli.errors import DataError

TONE = (np.sin(np.arange(8_000) / 5) * 8_000).astype(np.int16)


def _flac(gain: float = 1.0) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, (TONE * gain).astype(np.int16), 16_000, format="FLAC")
    return file.getvalue()


FLACS = [_flac(), _flac(0.5)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves tables of metadata open
        gc.collect()
    datasets.enable_progress_bars()


def _items(source: object, **options: Any) -> list[Item]:
    opened = open_source(str(source), **options)
    assert opened.kind == "hf"
    items = list(unique(opened.items()))
    assert list(unique(opened.items())) == items
    return items


def _kept(items: list[Item]) -> list[Utterance]:
    return [item for item in items if isinstance(item, Utterance)]


def _reasons(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.source, item.reason) for item in items if isinstance(item, Rejection)]


def _parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


SOUNDS = {
    "bytes": pa.array(FLACS, pa.binary()),
    "many bytes": pa.array(FLACS, pa.large_binary()),
    "bytes with a path": pa.array([{"bytes": flac, "path": "x.flac"} for flac in FLACS]),
    "bytes with a path that is null": pa.array([{"bytes": flac, "path": None} for flac in FLACS]),
}


@pytest.mark.parametrize("sounds", SOUNDS.values(), ids=SOUNDS)
@pytest.mark.parametrize("name", ["audio", "recorded"])  # by its name, or by its type alone
def test_a_parquet_file_of_bytes(tmp_path: Path, sounds: pa.Array, name: str) -> None:
    path = _parquet(tmp_path / "some.parquet", **{name: sounds, "sentence": ["one", "two"]})
    for source in (path, tmp_path):
        assert [(one.audio, one.text) for one in _kept(_items(source))] == [(FLACS[0], "one"), (FLACS[1], "two")]


FULL = {"int16": 1 / 32_768, "int32": 1 / 2_147_483_648, "float32": 1.0, "float64": 1.0}


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("form", ["column", "struct", "channels"])
def test_samples_in_a_column(tmp_path: Path, kind: str, form: str) -> None:
    values = TONE[:4_000].astype(kind) if kind.startswith("int") else TONE[:4_000].astype(kind) / 32_768
    type_ = pa.list_(pa.from_numpy_dtype(values.dtype))
    if form == "channels":
        sound = {"audio": pa.array([[values, values]], pa.list_(type_)), "sampling_rate": [16_000]}
    elif form == "struct":
        struct = pa.struct({"array": type_, "sampling_rate": pa.int64()})
        sound = {"audio": pa.array([{"array": values, "sampling_rate": 16_000}], struct)}
    else:
        sound = {"audio": pa.array([values], type_), "sampling_rate": [16_000]}
    (one,) = _kept(_items(_parquet(tmp_path / "some.parquet", **sound, text=["one"])))
    assert one.extra == {}
    assert isinstance(one.audio, bytes)
    clip = decode(one.audio, "mix", Extent())
    assert np.array_equal(clip.samples, (values * FULL[kind]).astype(np.float32))


def test_samples_of_unknown_scale_or_rate_are_refused(tmp_path: Path) -> None:
    wide = pa.array([[1, 2]], pa.list_(pa.int64()))
    path = _parquet(tmp_path / "some.parquet", audio=wide, sampling_rate=[16_000], text=["one"])
    with pytest.raises(DataError, match="expected samples as floats, int16 or int32, got int64 in column audio"):
        _items(path)
    path = _parquet(tmp_path / "other.parquet", audio=[[0.1, 0.2]], text=["one"])
    with pytest.raises(DataError, match="expected a column sampling_rate beside the samples in column audio"):
        _items(path)
    rows = {"audio": [[0.1], [0.1], [], None], "sampling_rate": [None, -1, 16_000, 16_000], "text": ["a"] * 4}
    reasons = [reason for _, reason in _reasons(_items(_parquet(tmp_path / "third.parquet", **rows)))]
    assert reasons == ["bad_header", "bad_header", "empty", "missing"]


def test_rows_without_recording_or_text_are_rejected_in_their_place(tmp_path: Path) -> None:
    sounds = [None, {"bytes": FLACS[0], "path": None}, {"bytes": None, "path": None}, {"bytes": FLACS[1], "path": "a"}]
    items = _items(_parquet(tmp_path / "some.parquet", audio=sounds, text=["one", None, "three", ""]))
    assert _reasons(items) == [("row 0", "missing"), ("row 1", "no_transcript"), ("row 2", "missing")]
    assert [(one.id, one.text) for one in _kept(items)] == [("a", "")]


@pytest.mark.parametrize(
    ("text", "got"),
    [([["one", "two"]], "List"), ([{"raw": "one"}], "'raw'"), ([5], "int64")],
)
def test_texts_that_are_no_text_are_refused_by_their_column(tmp_path: Path, text: list[Any], got: str) -> None:
    path = _parquet(tmp_path / "some.parquet", audio=FLACS[:1], text=text)
    with pytest.raises(DataError, match=rf"expected one text in each row of column text, got .*{got}"):
        _items(path)


@pytest.mark.parametrize(("audio", "got"), [([5], "int64"), ([{"a": 1}], "'a'"), ([["a"]], "List")])
def test_recordings_that_are_none_are_refused_by_their_column(tmp_path: Path, audio: list[Any], got: str) -> None:
    path = _parquet(tmp_path / "some.parquet", audio=audio, text=["one"])
    with pytest.raises(DataError, match=rf"expected bytes, samples or names of files in column audio, got .*{got}"):
        _items(path)


def test_a_text_column_of_labels_gives_their_names(tmp_path: Path) -> None:
    features = datasets.Features({"audio": datasets.Value("binary"), "text": datasets.ClassLabel(names=["no", "yes"])})
    datasets.Dataset.from_dict({"audio": FLACS, "text": [1, 0]}, features=features).save_to_disk(tmp_path / "saved")
    assert [one.text for one in _kept(_items(tmp_path / "saved"))] == ["yes", "no"]


def test_of_several_audio_columns_one_is_named_or_none_is_guessed(tmp_path: Path) -> None:
    sounds = {"audio": FLACS[:1], "context": FLACS[1:]}
    (one,) = _kept(_items(_parquet(tmp_path / "a.parquet", **sounds, text=["one"])))
    assert (one.audio, one.extra) == (FLACS[0], {})
    with pytest.raises(DataError, match="expected one audio column, got first, second"):
        _items(_parquet(tmp_path / "b.parquet", first=FLACS[:1], second=FLACS[1:], text=["one"]))
    (tmp_path / "x.flac").write_bytes(FLACS[0])
    (one,) = _kept(_items(_parquet(tmp_path / "c.parquet", audio=["x.flac"], image=[b"PNG"], text=["one"])))
    assert one.audio == tmp_path / "x.flac"


def test_further_columns_are_kept_as_json_has_them(tmp_path: Path) -> None:
    columns = {"when": pa.array([0], pa.timestamp("s")), "cost": pa.array(["1.5"]).cast(pa.decimal128(5, 2))}
    nested = [{"day": [1], "thumb": b"JPEG"}]
    path = _parquet(tmp_path / "a.parquet", audio=FLACS[:1], text=["one"], score=[0.5], nested=nested, **columns)
    (one,) = _kept(_items(path))
    assert one.extra == {"score": 0.5, "when": "1970-01-01T00:00:00", "cost": "1.50"}
    assert prep(str(path), tmp_path / "out", PrepSettings(clip_seconds=1.0, workers=1)).utterances == 1


def _audio_folder(folder: Path, metadata: str = "metadata.csv") -> Path:
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True)
        for name, flac in (("a", FLACS[0]), ("b", FLACS[1]), ("c", FLACS[0])):
            (folder / part / f"{name}.flac").write_bytes(flac)
        rows = [("a.flac", "one"), ("b.flac", "two, three"), ("gone.flac", "four")]
        with (folder / part / metadata).open("w") as file:
            if metadata.endswith(".jsonl"):
                file.writelines(json.dumps({"file_name": a, "transcription": b}) + "\n" for a, b in rows)
            else:
                file.writelines(["file_name,transcription\n", *(f'{a},"{b}"\n' for a, b in rows)])
    return folder


@pytest.mark.parametrize("metadata", ["metadata.csv", "metadata.jsonl"])
def test_an_audio_folder_with_metadata(tmp_path: Path, metadata: str) -> None:
    folder = _audio_folder(tmp_path / "set", metadata)
    with pytest.raises(DataError, match=r"expected one split, got train, test\. Choose one with --split"):
        _items(folder)
    items = _items(folder, split="test")
    assert [(one.id, one.text, one.audio) for one in _kept(items)] == [
        ("a", "one", folder / "test/a.flac"),
        ("b", "two, three", folder / "test/b.flac"),
        ("gone", "four", folder / "test/gone.flac"),
    ]
    assert [one.audio_name for one in _kept(items)] == ["test/a.flac", "test/b.flac", "test/gone.flac"]
    assert _reasons(items) == [("test/c.flac", "no_transcript")]  # nothing goes missing
    summary = prep(str(folder), tmp_path / "out", PrepSettings(clip_seconds=1.0, workers=1, split="test"))
    assert (summary.utterances, dict(summary.rejected)) == (2, {"missing": 1, "no_transcript": 1})


def test_an_audio_folder_of_labels_alone_lacks_transcripts(tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.flac").write_bytes(FLACS[0])
    with pytest.raises(DataError, match="expected a column text, got audio, label"):
        _items(tmp_path, format="hf")


def test_an_audio_folder_in_an_archive(tmp_path: Path) -> None:
    folder = _audio_folder(tmp_path / "set")
    shutil.make_archive(str(tmp_path / "packed" / "train"), "zip", folder / "train")
    items = _items(tmp_path / "packed", format="hf")
    assert [(one.id, one.audio, one.text) for one in _kept(items)] == [
        ("a", FLACS[0], "one"),
        ("b", FLACS[1], "two, three"),
    ]
    assert _reasons(items) == [("row 2", "missing")]


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """A data set whose README.md names two configs."""
    folder = tmp_path / "described"
    for name, text in (("en", "one"), ("de", "eins")):
        _parquet(folder / "files" / f"{name}.parquet", audio=FLACS[:1], text=[text])
    configs = "".join(f"- config_name: {name}\n  data_files: files/{name}.parquet\n" for name in ("en", "de"))
    (folder / "README.md").write_text(f"---\nlicense: mit\nconfigs:\n{configs}---\n# A set\n")
    return folder


def test_a_config_of_a_local_data_set(described: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"available configs: \['en', 'de'\]\. Name one: hf:.*described:CONFIG\.$"):
        _items(described)
    with pytest.raises(DataError, match="BuilderConfig 'fr' not found"):
        _items(f"hf:{described}:fr")
    assert [one.text for one in _kept(_items(f"hf:{described}:de"))] == ["eins"]
    prep(f"hf:{described}:de", tmp_path / "out", PrepSettings(clip_seconds=1.0, workers=1))
    shards = open_shards(tmp_path / "out")
    (sound,) = recordings(shards, shards.read([0])).values()
    assert np.array_equal(sound, TONE.astype(np.float32) / 32_768)


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow_files(tmp_path: Path, kind: str) -> None:
    table = pa.table({"audio": FLACS, "text": ["one", "two"]})
    with (
        pa.OSFile(str(tmp_path / "data.arrow"), "wb") as file,
        (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(file, table.schema) as writer,
    ):
        writer.write_table(table)
    for source in (tmp_path, tmp_path / "data.arrow"):
        assert [one.text for one in _kept(_items(source))] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", "audio,text\nx.flac,one\n"),
        ("train.jsonl", '{"audio": "x.flac", "text": "one"}\n'),
        ("train.json", '[{"audio": "x.flac", "text": "one"}]'),
    ],
)
def test_tables_as_data_sets(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    for source in (tmp_path, tmp_path / name):
        (one,) = _kept(_items(source, format="hf"))
        assert (one.audio, one.text) == (tmp_path / "x.flac", "one")


def test_a_parquet_file_without_rows_is_an_empty_source(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet", audio=pa.array([], pa.binary()), text=pa.array([], pa.string()))
    assert _items(tmp_path) == []


def test_a_data_set_of_tars(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name, content in (("a.flac", FLACS[0]), ("a.txt", b"one"), ("b.flac", FLACS[1]), ("b.txt", b"two")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: all\n  data_files: train.tar\n---\n")
    assert [(one.audio, one.text) for one in _kept(_items(tmp_path))] == [(FLACS[0], "one"), (FLACS[1], "two")]


def test_recordings_of_a_folder_that_no_row_names_are_counted(tmp_path: Path) -> None:
    for name in ("a.flac", "b.flac"):
        (tmp_path / name).write_bytes(FLACS[0])
    _parquet(tmp_path / "data" / "train.parquet", audio=["a.flac", "nul\0.flac"], text=["one", "two"])
    skipped: Counter[SkipRule] = Counter()
    items = list(unique(open_source(str(tmp_path)).items(), skipped))
    assert [one.audio for one in items if isinstance(one, Utterance)] == [tmp_path / "a.flac"]
    assert _reasons(items) == [("row 1", "bad_row")]
    assert skipped == {"unlisted": 1}


def test_part_of_a_split(tmp_path: Path) -> None:
    _parquet(tmp_path / "train.parquet", audio=FLACS, text=["one", "two"])
    assert [one.text for one in _kept(_items(tmp_path, split="train[1:]"))] == ["two"]


@pytest.mark.parametrize(
    ("name", "content", "got"),
    [
        ("a.parquet", b"PAR1 and no more", "Parquet magic bytes not found in footer"),
        ("a.arrow", b"nonsense", "File is too small"),
        ("README.md", b"---\nconfigs:\n - [: x\n---\n", "while parsing a flow node"),
        (
            "README.md",
            b"---\nconfigs:\n- config_name: en\n  data_files: x/*.csv\n---\n",
            r"No \(supported\) data files",
        ),
    ],
)
def test_what_does_not_load_is_one_line_with_its_cause(
    tmp_path: Path, name: str, content: bytes, got: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"expected a data set that loads, got {got}") as caught:
        _items(tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_files_that_disagree_are_one_line_at_the_row_where_they_do(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet", audio=FLACS, text=["one", "two"])
    _parquet(tmp_path / "b.parquet", audio=FLACS, sentence=["one", "two"])
    items = unique(open_source(str(tmp_path)).items())
    assert [next(items).id, next(items).id] == ["00000000", "00000001"]
    with pytest.raises(DataError, match=r"Couldn't cast .* because column names don't match"):
        next(items)


def test_what_the_hub_says_nothing_of_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        try:
            raise ImportError("No module named 'some_codec'")
        except ImportError as error:
            raise datasets.exceptions.DatasetGenerationError(
                "An error occurred while generating the dataset"
            ) from error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"org/name:en: expected .*, got No module named 'some_codec'\. Check its name"):
        list(HuggingFaceSource.named("org/name:en", None, None).items())


def test_audio_columns_store_what_they_are_given_without_a_codec() -> None:
    audio = datasets.Audio()
    assert _stored(audio, "a.flac") == {"bytes": None, "path": "a.flac"}
    assert _stored(audio, b"abc") == {"bytes": b"abc", "path": None}
    assert _stored(audio, {"bytes": b"abc", "path": "x"}) == {"bytes": b"abc", "path": "x"}
    wav = _stored(audio, {"array": np.array([0.5, -0.5]), "sampling_rate": 8_000})["bytes"]
    assert [values.tolist() for values in soundfile.read(io.BytesIO(wav))[:1]] == [[0.5, -0.5]]
