"""prep --verify: whatever is wrong with a folder is found, and said in one line that names it."""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tones import tone_shards

from audiorl_cli.data.manifest import FileRecord, recorded, sealed
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.shards import Column, Row, open_shards, pack, write_shard
from audiorl_cli.data.verify import verify
from audiorl_cli.errors import DataError

FRAMES = 100
COLUMNS = [Column("age", "int64")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven tones and one empty file, in shards of three rows."""
    folder = tmp_path_factory.mktemp("tones")
    source = tone_shards(folder, rows=7).parent / "source"
    (source / "empty.wav").touch()
    (source / "empty.txt").write_text("nothing")
    prep(str(source), folder / "data", PrepSettings(clip_seconds=1.0, rows_per_shard=3, workers=1))
    return folder / "data"


def test_a_sound_folder_is_read_whole(prepared: Path) -> None:
    seen: list[tuple[int, int]] = []
    rows: list[Row] = []
    found = verify(prepared, lambda *counts: seen.append(counts), rows.append)
    assert (found.folder, found.utterances, found.shards, found.rejected) == (prepared, 7, 3, 1)
    assert found.bytes == sum(path.stat().st_size for path in prepared.glob("*.parquet"))
    # tone n of 7 has int(16000 * (0.5 + 0.4 * n / 7)) samples: 8000, 8914, 9828, 10742, 11657, 12571 and 13485
    assert found.hours == pytest.approx(75_197 / 16_000 / 3600, abs=1e-9)
    assert seen == [(done, 7) for done in range(1, 8)]
    assert [row.id for row in rows] == [f"tone{n}" for n in range(7)]


def test_any_flipped_bit_of_any_file_is_found(prepared: Path, tmp_path: Path) -> None:
    data = shutil.copytree(prepared, tmp_path / "data")
    chance = random.Random(0)
    for path in sorted({*data.iterdir()} - {data / "source.json"}):  # which vouches for nothing
        content = path.read_bytes()
        for bit in chance.sample(range(8 * len(content)), 40):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=f"^{path}"):
                verify(data)
        path.write_bytes(content)
    verify(data)


def test_every_byte_of_the_manifest_is_sealed(prepared: Path, tmp_path: Path) -> None:
    content = (prepared / "manifest.json").read_bytes()
    for bit in range(0, 8 * len(content), 7):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "manifest.json").write_bytes(damaged)
        with pytest.raises(DataError, match=r"manifest.json: expected"):
            open_shards(tmp_path)


def test_the_damaged_row_is_named(prepared: Path, tmp_path: Path) -> None:
    data = shutil.copytree(prepared, tmp_path / "data")
    path = data / "data-00001.parquet"
    content = bytearray(path.read_bytes())
    footer = 8 + int.from_bytes(content[-8:-4], "little")
    content[-footer - 1] ^= 1  # the last byte of the last of three windows
    path.write_bytes(content)
    digest = json.loads((data / "manifest.json").read_text())["shards"][1]["sha256"][:16]
    with pytest.raises(DataError) as caught:
        verify(data)
    assert str(caught.value).startswith(f"{path} row 1 or 2: expected a sha256 beginning {digest}, got ")
    assert str(caught.value).endswith("Copy it again, or delete the folder and run audiorl prep again.")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: (data / "data-00002.parquet").unlink(), "data-00002.parquet: expected a file of the manifest"),
        (lambda data: (data / "rejected.jsonl").unlink(), "rejected.jsonl: .*got a file that cannot be read"),
        (lambda data: (data / "data-00001.parquet").write_bytes(b""), r"data-00001.parquet: expected \d+ bytes, got 0"),
        (
            lambda data: shutil.copy(data / "data-00000.parquet", data / "data-00009.parquet"),
            "data-00009.parquet: expected no shard that the manifest does not name",
        ),
    ],
)
def test_a_missing_short_or_stray_file_is_named(
    prepared: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    data = shutil.copytree(prepared, tmp_path / "data")
    damage(data)
    with pytest.raises(DataError, match=message):
        verify(data)


def _row(number: int, **changed: object) -> Row:
    features = np.random.default_rng(number).normal(size=(128, FRAMES)).astype(np.float32)
    row = Row(f"utt-{number}", f"text {number}", "", 0.5 + number / 100, 50 + number, features, {"age": number})
    return dataclasses.replace(row, **changed)  # type: ignore[arg-type]


def _written(folder: Path, rows: list[Row], **changed: object) -> Path:
    """Two shards of `rows`, and a manifest that vouches for them: whatever is wrong was wrong when it was written."""
    records = []
    for number, part in enumerate((rows[:2], rows[2:])):
        path = folder / f"data-{number:05d}.parquet"
        records.append(write_shard(path, [pack(row, "float32") for row in part], COLUMNS, "float32"))
    return _sealed(folder, records, rows, **changed)


def _sealed(folder: Path, records: list[FileRecord], rows: list[Row], **changed: object) -> Path:
    (folder / "rejected.jsonl").write_bytes(b"")
    manifest = {
        "format": "audiorl-shards",
        "version": 2,
        "features": {"clip_frames": FRAMES, "dtype": "float32"},
        "columns": [dataclasses.asdict(column) for column in COLUMNS],
        "shards": [dataclasses.asdict(record) for record in records],
        "rejected": dataclasses.asdict(recorded("rejected.jsonl", 0, b"")),
        "totals": {"utterances": len(rows), "hours": sum(row.duration_s or 0 for row in rows) / 3600, "rejected": {}},
    }
    (folder / "manifest.json").write_bytes(sealed(manifest | changed))
    return folder


def _holed(row: Row) -> Row:
    row.features[7, 3] = np.nan
    return row


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (_row(3, text=None), r"row 1 \(id 'utt-3'\): expected id, speaker and transcript, got no text"),
        (_row(3, text="a\x00b"), r"row 1 \(id 'utt-3'\): .*got control characters"),
        (_row(3, id="utt-0"), r"row 1: expected an id of its own, got 'utt-0', which data-00000.parquet row 0 has too"),
        (_row(3, num_frames=101), r"row 1 \(id 'utt-3'\): expected num_frames of 1 to 100, got 101"),
        (_row(3, num_frames=0, duration_s=0.0), r"row 1 \(id 'utt-3'\): expected num_frames of 1 to 100, got 0"),
        (_row(3, num_frames=52), r"row 1 \(id 'utt-3'\): expected a duration of 52 frames of 10 ms, got 0.53 s"),
        (_holed(_row(3)), r"row 1 \(id 'utt-3'\): expected finite input_features, got nan in frame 3, mel bin 7"),
    ],
)
def test_a_bad_row_is_named_though_its_bytes_are_whole(tmp_path: Path, bad: Row, message: str) -> None:
    with pytest.raises(DataError, match=rf"data-00001.parquet {message}"):
        verify(_written(tmp_path, [_row(0), _row(1), _row(2), bad]))


def test_windows_of_another_length_are_found(tmp_path: Path) -> None:
    short = _row(2, features=np.zeros((128, 90), np.float32))
    message = r"data-00001.parquet row 0: expected a window of 100 frames, got lists of \['90'\] values, not 100"
    with pytest.raises(DataError, match=message):
        verify(_written(tmp_path, [_row(0), _row(1), short]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"columns": []}, "data-00000.parquet: expected column input_features list.*, got age int64"),
        ({"columns": [{"name": "age", "type": "string"}]}, "expected column age string, got age int64"),
        ({"totals": {"utterances": 5, "hours": 0.0, "rejected": {}}}, "manifest.json: expected 5 utterances"),
        ({"totals": {"utterances": 4, "hours": 1.0, "rejected": {}}}, "of 1.0 h in the shards, got 4 of 0.0005"),
        ({"totals": {"utterances": 4, "hours": 0.0, "rejected": {"silent": 1}}}, "rejected.jsonl: expected 0 lines"),
    ],
)
def test_a_manifest_that_is_sealed_and_wrong_is_found(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    rows = [_row(number) for number in range(4)]
    verify(_written(tmp_path, rows))
    with pytest.raises(DataError, match=message):
        verify(_written(tmp_path, rows, **changed))


def test_a_row_count_that_the_shard_has_not_is_found(tmp_path: Path) -> None:
    rows = [_row(number) for number in range(4)]
    shards = json.loads((_written(tmp_path, rows) / "manifest.json").read_text())["shards"]
    shards[1]["rows"] = 3
    with pytest.raises(DataError, match=r"data-00001.parquet: expected 3 rows, got 2 rows"):
        verify(_written(tmp_path, rows, shards=shards))
