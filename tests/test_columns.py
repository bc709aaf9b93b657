"""Columns: known names and named ones, parts of recordings that are cut or refused, values as pandas writes them."""

import bz2
import gzip
import io
import json
import lzma
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from audiorl_cli.data.columns import AS_NAMED, Columns, Fields
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.recordings import recordings
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.shards import open_shards
from audiorl_cli.data.sources import Item, Utterance, open_source, unique
from audiorl_cli.errors import DataError, UsageError

ROW = {"audio": "a.wav", "text": "x"}


def _items(path: Path, *columns: str) -> list[Item]:
    said = Columns.parse(columns) if columns else AS_NAMED
    return list(unique(open_source(str(path), columns=said).items()))


def _kept(items: Iterable[Item]) -> list[Utterance]:
    return [item for item in items if isinstance(item, Utterance)]


def _rejected(items: Iterable[Item]) -> list[tuple[str, str]]:
    return [(item.reason, item.detail) for item in items if isinstance(item, Rejection)]


def _jsonl(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["audio_filepath", "duration", "offset", "text"], ("audio_filepath", "text", None)),
        (["client_id", "path", "sentence", "age", "segment"], ("path", "sentence", "client_id")),
        (["wav_filename", "wav_filesize", "transcript"], ("wav_filename", "transcript", None)),
        (["audio", "transcription", "speaker_id"], ("audio", "transcription", "speaker_id")),
        (["Audio Path", "rawText", "Speaker"], ("Audio Path", "rawText", "Speaker")),
        (["Text", "text", "audioFilepath"], ("audioFilepath", "text", None)),
        (["file_name", "normalized_text", "raw_text"], ("file_name", "normalized_text", None)),
    ],
)
def test_names_that_tools_write_are_known(names: list[str], expected: tuple[str | None, ...]) -> None:
    fields = Fields.of(names)
    assert (fields.audio, fields.text, fields.speaker) == expected


@pytest.mark.parametrize(
    "part",
    [
        {"start": 1.5, "end": 2.0},
        {"offset": 1.5, "duration": 0.5},
        {"begin": "1.5", "stop": "2"},
        {"start_time": 1.5, "end_time": 2},
        {"segment_start": 1.5, "segment_end": 2.0, "duration": 0.5},
        {"start_ms": 1500, "end_ms": 2000},
        {"startTime": 1.5, "duration_ms": 500.0},
        {"onset": 1.5, "offset": 2.0},
        {"t_start": "0:01.5", "seg_end": "00:00:02,000"},
        {"Audio Start": "1.50", "Audio End": "2e0"},
        {"start": 1.5, "offset": 1.5, "dur": 0.5, "end": math.nan},
    ],
)
def test_parts_of_recordings_under_any_of_their_names(part: dict[str, Any]) -> None:
    row = ROW | part
    fields = Fields.of(row)
    fields.check(row, "here")
    assert fields.part(row) == (1.5, 0.5)
    assert fields.extra(row) == {}


def test_a_manifest_of_parts_is_cut(tmp_path: Path) -> None:
    rate = 16_000
    ramp = np.linspace(-0.5, 0.5, 4 * rate, dtype=np.float32)
    soundfile.write(tmp_path / "long.wav", ramp, rate, subtype="FLOAT")
    parts = [(0.0, 1.0), (1.0, 2.5), (3.0, 4.0)]
    rows = [{"audio": "long.wav", "text": f"part {start}", "start": start, "end": end} for start, end in parts]
    prep(str(_jsonl(tmp_path, *rows)), tmp_path / "data", PrepSettings(clip_seconds=2.0, workers=1))
    shards = open_shards(tmp_path / "data")
    assert [(row.id, row.duration_s) for row in shards.read(range(3))] == [
        ("long@0", 1.0),
        ("long@1", 1.5),
        ("long@3", 1.0),
    ]
    found = recordings(shards, shards.read(range(3)))
    for name, (start, end) in zip(("long@0", "long@1", "long@3"), parts, strict=True):
        np.testing.assert_array_equal(found[name], ramp[round(start * rate) : round(end * rate)])


@pytest.mark.parametrize(
    ("part", "detail"),
    [
        ({"start": 2, "end": 1}, "a part from 2 to 1 s"),
        ({"start": 2, "end": 2}, "a part from 2 to 2 s"),
        ({"start": -1, "end": 1}, "offset of -1.0 seconds"),
        ({"start": "soon", "end": 1}, "offset is not a number"),
        ({"start": True, "end": 1}, "offset is not a number"),
        ({"start": None, "end": 1}, "an end of 1 s without a start"),
        ({"end": 1}, "an end of 1 s without a start"),
        ({"start": 0, "end": 1, "duration": 3}, "a duration of 3 s from 0 to 1 s"),
        ({"start": 1, "offset": 2, "duration": 1}, "start of 1 s and offset of 2 s"),
        ({"start": math.inf, "end": 1}, "offset of inf seconds"),
    ],
)
def test_parts_that_cannot_be_are_rejected_row_by_row(tmp_path: Path, part: dict[str, Any], detail: str) -> None:
    items = _items(_jsonl(tmp_path, ROW | part, ROW | {"start": 0, "end": 1}))
    assert _rejected(items) == [("bad_segment", detail)]
    assert [(one.offset, one.duration) for one in _kept(items)] == [(0.0, 1.0)]


@pytest.mark.parametrize(
    "column",
    [
        {"segment": [0.5, 2.0]},
        {"timestamp": {"start": 0.5, "end": 2}},
        {"start_frame": 800},
        {"from": "0:00.5"},
        {"time_to_ms": 500},
        {"interval": "0.5-2.0"},
        {"startSample": "16000"},
        {"channel": 1},
        {"ch": "B"},
        {"xmin": 0.5},
        {"cut_offset_frames": 12},
    ],
)
def test_what_looks_like_a_part_and_is_not_used_is_refused(tmp_path: Path, column: dict[str, Any]) -> None:
    path, (name,) = _jsonl(tmp_path, ROW, ROW | {"id": "b"} | column), column
    refused = (
        rf"rows.jsonl line 2, column {name}: expected columns of parts .*, got .* or extra={name} if it is no part"
    )
    with pytest.raises(DataError, match=refused):
        _items(path)
    assert [one.extra.get(name) for one in _kept(_items(path, f"extra={name}"))] == [None, column[name]]


def test_a_channel_is_one_where_a_user_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Say --columns channel=ch \(from 0\), or extra=ch if it is no part"):
        _items(_jsonl(tmp_path, ROW | {"ch": 1}))
    stereo = np.stack([np.full(8000, 0.25, np.float32), np.full(8000, 0.5, np.float32)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 16_000, subtype="FLOAT")
    rows: list[dict[str, object]] = [
        {**ROW, "id": str(n), "ch": value} for n, value in enumerate((0, "1", "B", "left", None, 2.0, "C"))
    ]
    settings = PrepSettings(workers=1, columns=Columns.parse(["channel=ch"]))
    summary = prep(str(_jsonl(tmp_path, *rows)), tmp_path / "data", settings)
    assert summary.rejected == {"bad_channel": 2}
    shards = open_shards(tmp_path / "data")
    found = recordings(shards, shards.read(range(5)))
    levels = {name: float(samples.mean()) for name, samples in found.items() if not isinstance(samples, str)}
    assert levels == {"0": 0.25, "1": 0.5, "2": 0.5, "3": 0.25, "4": 0.375}


def test_a_table_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("audio,text,frame_start\na.wav,x,\nb.wav,y,16000\n")
    with pytest.raises(DataError, match=r"rows.csv line 3, column frame_start: expected columns of parts"):
        _items(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    "column",
    [
        {"segment": "Singleword Benchmark"},
        {"segment": ""},
        {"channel": "BBC"},
        {"start_date": "2020-01-01"},
        {"segment_id": 7},
        {"segments": [{"start": 0, "end": 1, "text": "x"}]},
        {"word_timestamps": [0.1, 0.2]},
        {"timestamp": 1_700_000_000},
        {"num_channels": 2},
        {"signal_to_noise": 20.5},
        {"trim_db": 40},
        {"end": None, "start": math.nan},
        {"offset": None},
    ],
)
def test_what_only_sounds_like_a_part_is_none(tmp_path: Path, column: dict[str, Any]) -> None:
    (one,) = _kept(_items(_jsonl(tmp_path, ROW | column)))
    assert (one.offset, one.duration) == (None, None)


def test_columns_are_named(tmp_path: Path) -> None:
    row = {"wav": "a.wav", "text": "raw", "clean": "Clean.", "who": 7.0, "key": "u1", "t_in": 0.5, "t_out_ms": 2000}
    path = _jsonl(tmp_path, row | {"duration": 9.0})
    (one,) = _kept(_items(path, "text=clean,speaker=who,id=key", "start=t_in", "end=t_out_ms,duration="))
    assert (one.id, one.text, one.speaker) == ("u1", "Clean.", "7")
    assert (one.offset, one.duration) == (0.5, 1.5)
    assert one.extra == {"source_text": "raw", "duration": 9.0}


def test_a_meaning_that_no_column_has(tmp_path: Path) -> None:
    path = _jsonl(tmp_path, ROW | {"start": 30.5, "end": 32.0})  # of the recording that a.wav was cut from
    (one,) = _kept(_items(path, "offset=,end="))
    assert (one.offset, one.duration, one.extra) == (None, None, {"start": 30.5, "end": 32.0})


def test_what_a_row_lacks_is_said_with_what_it_has(tmp_path: Path) -> None:
    assert _rejected(_items(_jsonl(tmp_path, {"audio": "a.wav", "said": "x"}, {"sound": "a.wav", "text": "x"}))) == [
        ("no_transcript", "no text in audio, said; see --columns text=NAME"),
        ("bad_row", "no recording in sound, text; see --columns audio=NAME"),
    ]


def test_a_named_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected the column txt of --columns, got only audio, text\. Correct"):
        _items(_jsonl(tmp_path, ROW), "speaker=txt")
    (tmp_path / "rows.csv").write_text("audio,text\na.wav,x\n")
    with pytest.raises(DataError, match=r"rows.csv line 1: expected the column txt of --columns, got only audio, text"):
        _items(tmp_path / "rows.csv", "text=txt")


@pytest.mark.parametrize("said", ["text", "words=a", "text=a,text=b", "", "extra="])
def test_columns_that_cannot_be_read(said: str) -> None:
    with pytest.raises(UsageError, match="--columns: expected MEANING=COLUMN"):
        Columns.parse([said])


def test_a_source_without_columns_takes_none(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with pytest.raises(UsageError, match="got a source of format folder"):
        _items(tmp_path, "text=a")


def test_named_columns_are_remembered_for_reading_again(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.linspace(-0.5, 0.5, 32_000, dtype=np.float32), 16_000, subtype="FLOAT")
    path = _jsonl(tmp_path, {"wav": "long.wav", "said": "x", "from": 0.5, "to": 1.0})
    settings = PrepSettings(workers=1, columns=Columns.parse(["text=said,offset=from", "end=to"]))
    prep(str(path), tmp_path / "data", settings)
    shards = open_shards(tmp_path / "data")
    (found,) = recordings(shards, shards.read([0])).values()
    assert isinstance(found, np.ndarray)
    assert len(found) == 8000


def test_a_folder_of_one_table_is_read_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    soundfile.write(source / "a.wav", np.ones(8000, np.float32) / 2, 16_000, subtype="FLOAT")
    (source / "all.csv").write_text("audio,text\na.wav,x\n")
    prep(str(source), tmp_path / "data", PrepSettings(workers=1))
    shards = open_shards(tmp_path / "data")
    assert isinstance(recordings(shards, shards.read([0]))["a"], np.ndarray)


def test_values_as_python_and_pandas_write_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        '{"audio": "a.wav", "text": "x", "speaker": 7.0, "snr": NaN, "id": 1}',
        '{"audio": "b.wav", "text": "y", "speaker": NaN, "snr": Infinity, "id": 2.0}',
        '{"audio": "c.wav", "text": NaN, "id": 3}',
        '{"audio": "d.wav", "text": "nan", "id": 4}',
        '{"audio": NaN, "text": "x", "id": 5}',
        "{'audio': 'e.wav', 'text': None}",
    ]
    path.write_text("\n".join(rows))
    items = _items(path)
    assert [(one.id, one.speaker, one.extra) for one in _kept(items)] == [
        ("1", "7", {"snr": None}),
        ("2", "", {"snr": math.inf}),
    ]
    assert _rejected(items) == [
        ("no_transcript", "no text"),
        ("no_transcript", "'nan', as pandas and Python write a missing value"),
        ("bad_row", "no file name"),
        ("bad_row", "not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ]


def test_a_table_as_pandas_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",audio,text,speaker,start,end\n0,a.wav,x,7.0,,\n1,b.wav,,8,,\n2,c.wav,y,,0.5,1.5\n")
    items = _items(path)
    assert [(one.id, one.speaker, one.offset, one.extra) for one in _kept(items)] == [
        ("a", "7", None, {"unnamed": "0"}),
        ("c@0.5", "", 0.5, {"unnamed": "2"}),
    ]
    assert _rejected(items) == [("no_transcript", "an empty cell")]


@pytest.mark.parametrize("divider", [";", "\t", "|", ","])
def test_what_divides_a_table(tmp_path: Path, divider: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f'audio{divider}text\r\na.wav{divider}"x{divider}y"\r\n')
    assert [one.text for one in _kept(_items(path))] == [f"x{divider}y"]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("rows.jsonl.gz", gzip.compress),
        ("rows.jsonl.bz2", bz2.compress),
        ("rows.jsonl.xz", lzma.compress),
        ("rows.csv.gz", gzip.compress),
        ("rows.tsv.gz", gzip.compress),
        ("rows.ndjson.gz", gzip.compress),
        ("rows.json.gz", gzip.compress),
    ],
)
def test_compressed_tables(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    content = {
        "jsonl": '{"audio": "a.wav", "text": "x"}\n',
        "ndjson": '{"audio": "a.wav", "text": "x"}\n',
        "csv": "audio,text\na.wav,x\n",
        "tsv": "audio\ttext\na.wav\tx\n",
        "json": '[{"audio": "a.wav", "text": "x"}]',
    }[name.split(".")[1]]
    path = tmp_path / name
    path.write_bytes(pack(content.encode()))
    assert [one.id for one in _kept(_items(path))] == ["a"]
    if not name.startswith("rows.json."):
        assert [one.id for one in _kept(_items(tmp_path))] == ["a"]
    path.write_bytes(pack(content.encode() * 1000)[:-12])
    with pytest.raises(DataError, match=r"expected a text file to read, got .*[a-z]\. Check SOURCE"):
        _items(path)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"expected a text file to read, got .*\. Check SOURCE"):
        _items(path)


def test_arrays_of_objects_are_read_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows = [{"audio": f"{n}.wav", "text": "\u00fc" * n, "nested": [{"a": [n]}]} for n in range(400)]
    for text in (json.dumps(rows), json.dumps(rows, indent=2, ensure_ascii=False), f"\ufeff \n{json.dumps(rows)}\n"):
        path.write_text(text, encoding="utf-8")
        found = _kept(_items(path))
        assert [one.text for one in found] == [row["text"] for row in rows]
        assert found[3].source == "rows.json row 4"
    path.write_text("[]")
    assert _items(path) == []
    path.write_text('[1, {"audio": "a.wav", "text": NaN}, 23]')
    assert _rejected(_items(path)) == [
        ("bad_row", "JSON of type int, not an object"),
        ("no_transcript", "no text"),
        ("bad_row", "JSON of type int, not an object"),
    ]


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b'[{"audio": "a.wav", "text": "x"}, {"audio": ', r"row 2: expected an array of JSON objects, got Expecting"),
        (b'[{"audio": "a.wav", "text": "x"}', r"row 2: expected .*, got the end of the file"),
        (b'[{"audio": "a.wav", "text": "x"} {}]', r"row 2: expected .*, got '{' for ','"),
        (b'[{"audio": "a.wav", "text": "\xff"}]', r"row 1: expected .*, got bytes that are not UTF-8"),
        (b"[" + b"[" * 100_000, r"row 1: expected an array of JSON objects, got "),
        (b'[{"a": "' + b"x" * 600_000, r"row 1: expected an array of JSON objects, got Unterminated string"),
    ],
)
def test_a_damaged_array_is_refused(tmp_path: Path, content: bytes, got: str) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(DataError, match=got):
        _items(tmp_path / "rows.json")


def test_a_data_frame_by_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"audio": {"0": "a.wav"}, "text": {"0": "x"}}')
    with pytest.raises(DataError, match=r"one object a column or index, .* Write it with orient='records', lines=True"):
        _items(tmp_path / "rows.json")


def test_a_rejected_part_names_its_columns() -> None:
    with pytest.raises(RejectedError, match="begin of 1 s and start_ms of 2 s"):
        Fields.of(["begin", "start_ms"]).part({"begin": 1, "start_ms": 2000})


def _parquet(folder: Path, seconds: float, **columns: Any) -> Path:
    sound = io.BytesIO()
    soundfile.write(sound, np.full(round(16_000 * seconds), 0.5, np.float32), 16_000, format="WAV")
    path = folder / "rows.parquet"
    rows = {name: [value] for name, value in columns.items()}
    pq.write_table(pa.table({"audio": [{"bytes": sound.getvalue(), "path": "a.wav"}], **rows}), path)
    return path


def test_a_data_set_that_holds_the_part_alone_is_held_to_its_length(tmp_path: Path) -> None:
    # As AMI and GigaSpeech have it: times of the meeting beside the sound of one utterance.
    times = {"begin_time": 30.5, "end_time": 32.0}
    settings = PrepSettings(workers=1)
    assert prep(str(_parquet(tmp_path, 1.5, text="x", **times)), tmp_path / "part", settings).utterances == 1
    whole = str(_parquet(tmp_path, 40, text="x", **times))
    with pytest.raises(DataError, match=r"1 rejected \(1 (too_long|bad_header)\)"):
        prep(whole, tmp_path / "whole", settings)
    cut = PrepSettings(workers=1, columns=Columns.parse(["offset=begin_time,end=end_time"]))
    prep(whole, tmp_path / "cut", cut)
    (row,) = open_shards(tmp_path / "cut").read([0])
    assert (row.id, row.duration_s) == ("a", 1.5)


def test_columns_of_a_data_set(tmp_path: Path) -> None:
    path = _parquet(tmp_path, 1, text="raw", clean="Clean.", who=7.0, duration=9000)
    (one,) = _kept(_items(path, "text=clean,speaker=who"))
    assert (one.text, one.speaker, one.duration) == ("Clean.", "7", None)
    assert one.extra == {"source_text": "raw", "duration": 9000}
    with pytest.raises(DataError, match="expected the column words of --columns"):
        _items(path, "text=words")
    with pytest.raises(DataError, match="row 0, column start_frame: expected columns of parts"):
        _items(_parquet(tmp_path, 1, text="x", start_frame=16_000))
    with pytest.raises(DataError, match=r"expected an end or a duration beside a start, got only start\."):
        _items(_parquet(tmp_path, 1, text="x", start=1.0))


def test_several_texts_for_one_recording_with_numbers_of_their_own_are_refused(tmp_path: Path) -> None:
    rows = [{"audio": "long.wav", "text": text, "s": n, "e": n + 1, "id": text} for n, text in enumerate("xyz")]
    path = _jsonl(tmp_path, *rows)
    refused = (
        r"rows.jsonl line 2: expected one text .*, got another than in rows.jsonl line 1, and other values in e, s"
    )
    with pytest.raises(DataError, match=refused):
        _items(path)
    assert [(one.offset, one.duration) for one in _kept(_items(path, "offset=s,end=e"))] == [(0, 1), (1, 1), (2, 1)]
    assert [one.offset for one in _kept(_items(path, "extra=s,extra=e"))] == [None] * 3
    # two people's transcripts of one recording have no times
    rows = [{"audio": "long.wav", "text": text, "by": text, "rate": 16_000, "id": text} for text in "xyz"]
    assert len(_kept(_items(_jsonl(tmp_path, *rows)))) == 3


def test_parts_that_begin_together_are_each_kept(tmp_path: Path) -> None:
    parts = [{"audio": "d/a.wav", "text": str(end), "start": 1, "end": end} for end in (2, 3, 4.5, 4.5)]
    items = _items(_jsonl(tmp_path, *parts))
    assert [one.id for one in _kept(items)] == ["a@1", "d/a.wav@1", "d/a.wav@1+3.5"]
    assert _rejected(items) == [("duplicate_id", "an earlier row has this id")]


def test_rows_as_datasets_writes_them(tmp_path: Path) -> None:
    path = _jsonl(
        tmp_path, {"audio": {"path": "a.wav", "bytes": None}, "text": "x"}, {"audio": {"url": "a"}, "text": "x"}
    )
    items = _items(path)
    assert [one.audio_name for one in _kept(items)] == ["a.wav"]
    assert _rejected(items) == [("bad_row", "a file name of type dict")]


def test_a_file_that_is_the_part_already_is_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.5, np.float32), 16_000)
    rows = [
        {"audio": "a.wav", "text": "x", "start": 30.0, "end": 31.0},
        {"audio": "a.wav", "text": "y", "duration": 0.5},
    ]
    with pytest.raises(DataError, match="2 rejected"):
        prep(str(_jsonl(tmp_path, *rows)), tmp_path / "data", PrepSettings(workers=1))
    said = [json.loads(line)["detail"] for line in (tmp_path / "data/rejected.jsonl").read_text().splitlines()]
    assert said == [
        "30.00 to 31.00 s of a recording of 1.00 s, as long as the part: if it was cut before, --columns offset=,end=",
        "1.00 s decoded, the source claims 0.50 s (what is to be cut has an offset, be it 0)",
    ]
