"""The shard format: what is written is read back, by us and by `datasets`, and damage is noticed."""

import dataclasses
import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from audiorl_cli.data.manifest import VERSION, sealed
from audiorl_cli.data.shards import Column, Row, Shards, open_shards, pack, write_shard
from audiorl_cli.errors import DataError

FRAMES = 50
COLUMNS = [Column("dialect", "string"), Column("age", "int64"), Column("notes", "json")]


def _row(number: int) -> Row:
    features = np.random.default_rng(number).normal(size=(128, FRAMES)).astype(np.float16)
    extra = {"dialect": "cockney", "age": number, "notes": {"mood": [number, None]}} if number % 2 else {"age": None}
    return Row(f"utt-{number}", f"text {number} ü", f"speaker {number % 3}", number / 10, number + 1, features, extra)


ROWS = [_row(number) for number in range(45)]
PACKED = [pack(row, "float16") for row in ROWS]


def _write(folder: Path, sizes: tuple[int, ...] = (20, 20, 5)) -> Path:
    folder.mkdir()
    records, start = [], 0
    for number, size in enumerate(sizes):
        path = folder / f"data-{number:05d}.parquet"
        records.append(write_shard(path, PACKED[start : start + size], COLUMNS, "float16"))
        start += size
    manifest = {
        "format": "audiorl-shards",
        "version": VERSION,
        "features": {"clip_frames": FRAMES, "dtype": "float16"},
        "shards": [dataclasses.asdict(record) for record in records],
    }
    (folder / "manifest.json").write_bytes(sealed(manifest))
    return folder


def _reseal(folder: Path, **changed: object) -> None:
    path = folder / "manifest.json"
    path.write_bytes(sealed(json.loads(path.read_text()) | changed))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return open_shards(_write(tmp_path_factory.mktemp("shards") / "data"))


def _same(found: Row, expected: Row) -> None:
    assert found.features.dtype == np.float32
    assert np.array_equal(found.features, expected.features.astype(np.float32))
    for name in ("id", "text", "speaker", "duration_s", "num_frames"):
        assert getattr(found, name) == getattr(expected, name)


def test_rows_come_back_in_any_order_and_more_than_once(shards: Shards) -> None:
    indices = [44, 0, 19, 20, 0, 21, 39, 40]
    for found, index in zip(shards.read(indices), indices, strict=True):
        _same(found, ROWS[index])


def test_iterate_gives_every_row_once_in_order(shards: Shards) -> None:
    batches = list(shards.iterate(7))
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 7, 7, 3]
    assert [row.id for batch in batches for row in batch] == [row.id for row in ROWS]


def test_extra_columns_keep_their_types(shards: Shards) -> None:
    one, two = shards.read([1, 2])
    assert one.extra == {"dialect": "cockney", "age": 1, "notes": '{"mood": [1, null]}'}
    assert two.extra == {"dialect": None, "age": None, "notes": None}


def test_texts_and_columns(shards: Shards) -> None:
    assert shards.rows == 45
    assert shards.clip_frames == FRAMES
    assert shards.texts() == [row.text for row in ROWS]
    assert shards.column("age")[:3] == [None, 1, None]
    with pytest.raises(DataError, match="no such column"):
        shards.column("nonsuch")


def test_a_row_beyond_the_last_is_an_index_error(shards: Shards) -> None:
    for index in (45, -1):
        with pytest.raises(IndexError):
            shards.read([index])


def test_datasets_gives_the_windows_back(shards: Shards, tmp_path: Path) -> None:
    files = [str(path) for path in shards.paths]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert loaded.features["input_features"] == datasets.Array2D((128, FRAMES), "float16")
    assert loaded.features["num_frames"] == datasets.Value("int32")
    for index in (0, 21, 44):
        row = loaded.with_format("numpy")[index]
        assert row["id"] == ROWS[index].id
        assert np.array_equal(row["input_features"], ROWS[index].features)


def test_shards_open_after_datasets_has_registered_its_types(shards: Shards, tmp_path: Path) -> None:
    # test_datasets_... above imports the library, which changes what Arrow makes of the column
    fresh = open_shards(_write(tmp_path / "data"))
    _same(fresh.read([30])[0], ROWS[30])
    assert fresh.digest == shards.digest


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    one = write_shard(tmp_path / "a.parquet", PACKED[:9], COLUMNS, "float16")
    two = write_shard(tmp_path / "b.parquet", PACKED[:9], COLUMNS, "float16")
    other = write_shard(tmp_path / "c.parquet", PACKED[1:10], COLUMNS, "float16")
    assert (one.sha256, one.bytes) == (two.sha256, two.bytes)
    assert one.sha256 != other.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "c.parquet"]


def test_float32_is_kept_exactly(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, features=row.features.astype(np.float32) + 1e-5) for row in ROWS[:3]]
    record = write_shard(tmp_path / "data-00000.parquet", [pack(row, "float32") for row in rows], COLUMNS, "float32")
    features = {"clip_frames": FRAMES, "dtype": "float32"}
    shards = [dataclasses.asdict(record)]
    manifest = {"format": "audiorl-shards", "version": VERSION, "features": features, "shards": shards}
    (tmp_path / "manifest.json").write_bytes(sealed(manifest))
    assert np.array_equal(open_shards(tmp_path).read([2])[0].features, rows[2].features)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: (data / "manifest.json").unlink(), "no such file"),
        (lambda data: (data / "manifest.json").write_text("[]"), "another kind of file"),
        (lambda data: (data / "manifest.json").write_text("{"), "the manifest of a shard folder"),
        (lambda data: (data / "manifest.json").write_text('{"format": "audiorl-shards"}'), "version 2, got None"),
        (lambda data: _reseal(data, shards=[{}]), "got a manifest without .*arguments"),
        (lambda data: (data / "data-00001.parquet").unlink(), "No such file"),
        (lambda data: (data / "data-00001.parquet").write_bytes(b"PAR1"), "got 4"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, damage: object, message: str) -> None:
    data = _write(tmp_path / "data")
    assert callable(damage)
    damage(data)
    with pytest.raises(DataError, match=message):
        open_shards(data)


def test_a_flipped_bit_is_found_before_a_row_of_its_shard_is_used(tmp_path: Path) -> None:
    data = _write(tmp_path / "data")
    path = data / "data-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)
    damaged = open_shards(data)
    _same(damaged.read([19])[0], ROWS[19])  # of the shard before it
    for use in (lambda: damaged.read([20]), damaged.texts):
        with pytest.raises(DataError, match=rf"^{path}: expected a sha256 beginning .* audiorl prep --verify {data} "):
            use()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    data = _write(tmp_path / "data")
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps(manifest | {"version": 3}))
    with pytest.raises(DataError, match="format version 2, got 3"):
        open_shards(data)
