"""Recordings read again: sample for sample what the features were made of, or in a few words why there is none."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.recordings import SOURCE, recordings
from audiorl_cli.data.shards import Shards, open_shards

ROWS = 3
SETTINGS = PrepSettings(clip_seconds=1.0, workers=1)


def _noise(seed: int, seconds: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(16_000 * seconds)).astype(np.float32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source and shards: the first row is a whole file, the others one second each of a longer one."""
    folder = tmp_path_factory.mktemp("prepared")
    source = folder / "source"
    source.mkdir()
    soundfile.write(source / "short.wav", _noise(0, 0.5), 16_000, subtype="FLOAT")
    soundfile.write(source / "long.wav", _noise(1, 4.0), 16_000, subtype="FLOAT")
    rows = [
        {"id": "whole", "audio": "short.wav", "text": "one"},
        {"id": "first", "audio": "long.wav", "text": "two", "offset": 0, "duration": 1},
        {"id": "third", "audio": "long.wav", "text": "three", "offset": 2, "duration": 1},
    ]
    (source / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prep(str(source), folder / "data", SETTINGS)
    return folder


@pytest.fixture
def shards(prepared: Path, tmp_path: Path) -> Shards:
    """A copy of both, in `tmp_path / "all"`."""
    return open_shards(shutil.copytree(prepared, tmp_path / "all") / "data")


def _read(shards: Shards) -> dict[str, object]:
    return dict(recordings(shards, shards.read(range(shards.rows))))


def test_a_recording_is_what_was_heard_cut_to_its_part(shards: Shards) -> None:
    found = recordings(shards, shards.read([0, 2]))
    assert found.keys() == {"whole", "third"}
    for name, expected in (("whole", _noise(0, 0.5)), ("third", _noise(1, 4.0)[32_000:48_000])):
        np.testing.assert_array_equal(found[name], expected)


def test_shards_and_source_may_be_moved_together(shards: Shards, tmp_path: Path) -> None:
    assert json.loads((shards.folder / SOURCE).read_bytes())["source"] == "../source"
    shutil.move(tmp_path / "all", tmp_path / "elsewhere")
    found = _read(open_shards(tmp_path / "elsewhere" / "data"))
    assert all(isinstance(one, np.ndarray) for one in found.values())


def test_where_the_source_is_not_there_it_is_said(shards: Shards, tmp_path: Path) -> None:
    shutil.move(tmp_path / "all" / "source", tmp_path / "gone")
    said = _read(shards)["whole"]
    assert isinstance(said, str)
    assert said.endswith("source: nothing there")
    prep(str(tmp_path / "gone"), shards.folder, SETTINGS)  # all done: it only looks
    assert isinstance(_read(shards)["whole"], np.ndarray)


def test_another_recording_is_never_taken_for_it(shards: Shards, tmp_path: Path) -> None:
    source = tmp_path / "all" / "source"
    soundfile.write(source / "short.wav", _noise(2, 0.5), 16_000)
    long = _noise(1, 4.0)
    soundfile.write(source / "long.wav", np.concatenate([long[16_000:], long[:16_000]]), 16_000)
    assert {*_read(shards).values()} == {"its source has another recording now"}
    soundfile.write(source / "short.wav", _noise(0, 0.9), 16_000)
    (source / "long.wav").write_bytes(b"RIFF")
    found = _read(shards)
    assert found["whole"] == "its source has another recording now"
    assert str(found["first"]).startswith(("corrupt", "not_audio", "truncated", "empty"))


def test_a_row_that_the_source_has_no_more_is_said(shards: Shards, tmp_path: Path) -> None:
    manifest = tmp_path / "all" / "source" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().splitlines()[1] + "\n")
    found = _read(shards)
    assert isinstance(found.pop("first"), np.ndarray)
    assert {*found.values()} == {"its source has no such row any more"}
    manifest.write_text("")
    assert {*_read(shards).values()} == {"its source has no such row any more"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"source": "hf:some/speech", "split": null, "root": null}', "hf:some/speech: a data set on the hub, not"),
        ('{"source": 3, "split": null, "root": null}', "source.json: nothing that says where the recordings are"),
        ("[]", "source.json: nothing that says"),
        ("not json", "source.json: nothing that says"),
        (None, "source.json: nothing that says"),
    ],
)
def test_where_nothing_says_where_it_is_nothing_is_fetched(
    shards: Shards, tmp_path: Path, content: str | None, said: str
) -> None:
    path = tmp_path / "all" / "data" / SOURCE
    path.unlink() if content is None else path.write_text(content)
    found = _read(shards)
    assert len(found) == ROWS
    for one in found.values():
        assert said in str(one)
