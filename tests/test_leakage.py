"""prep --verify TRAIN --against TEST: what both sides of a split have is found, whatever it is called."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_cli import audiorl, one_line

from audiorl_cli.data.leakage import Example, Overlap, leakage
from audiorl_cli.data.prep import PrepSettings, prep

SECOND = np.arange(16_000) / 16_000


def _shards(folder: Path, rows: list[tuple[str, int, str, str]], settings: PrepSettings) -> Path:
    """A row is a file, the pitch of its tone (0 is silence), its speaker and its text. Tones fade, as voices do."""
    source = folder / "source"
    source.mkdir(parents=True)
    with open(source / "manifest.jsonl", "w") as manifest:
        for name, pitch, speaker, text in rows:
            tone = (0.3 - 0.2 * SECOND) * np.sin(2 * np.pi * pitch * SECOND)
            soundfile.write(source / name, np.round(tone * 32_767).astype(np.int16), 16_000)
            manifest.write(json.dumps({"audio": name, "speaker": speaker, "text": text}) + "\n")
    prep(str(source), folder / "data", settings)
    return folder / "data"


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        ("a.wav", 200, "ann", "One, two."),
        ("b.wav", 300, "bob", "three"),
        ("again.wav", 200, "bob", "ONE two"),
        ("c.wav", 0, "", ""),
    ]
    return _shards(tmp_path_factory.mktemp("train"), rows, PrepSettings(clip_seconds=1.0, dtype="float32", workers=1))


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The window that the recordings fill is longer here, and rounded."""
    rows = [
        ("other-name.flac", 200, "dan", "five"),
        ("x.wav", 400, "ann", "one two"),
        ("y.wav", 500, "ann", "six"),
        ("z.wav", 600, "Bob", "Three!"),
        ("silence.wav", 0, "", ""),
    ]
    return _shards(tmp_path_factory.mktemp("leaky"), rows, PrepSettings(clip_seconds=2.0, workers=1))


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [("p.wav", 700, "eve", "three"), ("q.wav", 800, "eve", "seven")]
    return _shards(tmp_path_factory.mktemp("apart"), rows, PrepSettings(clip_seconds=1.0, workers=1))


def test_audio_speakers_and_texts_on_both_sides_are_counted(train: Path, leaky: Path) -> None:
    found = leakage(train, leaky)
    assert (found.train.utterances, found.test.utterances) == (4, 5)
    assert (found.audio.shared, found.audio.rows, found.audio.unknown) == (1, 1, 1)
    assert [(example.train, example.test) for example in found.audio.first] == [("a", "other-name")]
    assert found.speaker == Overlap(1, 2, 1, (Example("ann", "a", "x"),))
    assert found.text == Overlap(2, 2, 1, (Example("one two", "a", "x"), Example("three", "b", "z")))
    assert found.leaks == ("audio", "speaker")


def test_texts_alone_are_a_leak_for_the_strict(train: Path, apart: Path) -> None:
    found = leakage(train, apart)
    assert found.audio == found.speaker == Overlap(0, 0, 0, ())
    assert found.text == Overlap(1, 1, 0, (Example("three", "b", "p"),))
    assert found.leaks == ()
    assert leakage(train, apart, strict=True).leaks == ("text",)


def test_the_command_tells_what_is_shared_and_exits_1(train: Path, leaky: Path, apart: Path) -> None:
    done = audiorl("prep", "--verify", train, "--against", leaky)
    assert done.returncode == 1
    assert done.stderr == ""
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["audio", "1", "1", "1"] in lines
    assert ["speaker", "1", "2", "1"] in lines
    assert ["text", "three", "b", "z"] in lines
    assert lines[-1] == ["leak:", "audio", "and", "speaker"]
    done = audiorl("prep", "--verify", train, "--against", apart)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "apart: nothing that is a leak is on both sides"
    done = audiorl("prep", "--verify", train, "--against", apart, "--strict", "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert result["leaks"] == ["text"]
    assert result["text"]["first"] == [{"what": "three", "train": "b", "test": "p"}]


def test_one_folder_is_checked_in_one_line(train: Path, tmp_path: Path) -> None:
    done = audiorl("prep", "--verify", train)
    size = (train / "data-00000.parquet").stat().st_size
    line = f"whole: {train}, every byte and row: 4 rows, 0.001 h, in 1 shard of {size / 1000:.1f} kB; 0 rejected"
    assert (done.returncode, done.stdout.splitlines()) == (0, [line])
    done = audiorl("prep", "--verify", train, "--json")
    assert (done.returncode, json.loads(done.stdout)["bytes"]) == (0, size)
    for name in ("manifest.json", "rejected.jsonl", "data-00000.parquet"):
        (tmp_path / name).write_bytes((train / name).read_bytes())
    with open(tmp_path / "data-00000.parquet", "r+b") as file:
        file.seek(size // 2)
        file.write(b"?")
    done = audiorl("prep", "--verify", tmp_path)
    assert done.returncode == 1
    assert "data-00000.parquet row " in one_line(done)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "got no SOURCE"),
        (("source",), "got no --out"),
        (("--out", "out"), "got no SOURCE"),
        (("source", "--out", "out", "--against", "test"), "got --against alone"),
        (("source", "--verify", "data"), "got SOURCE"),
        (("--verify", "data", "--out", "out"), "got --out"),
        (("--verify", "data", "--clip-seconds", "30"), "got --clip-seconds"),
        (("--verify", "data", "--strict"), "got --strict"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(words: tuple[str, ...], message: str) -> None:
    done = audiorl("prep", *words)
    assert done.returncode == 2
    assert message in one_line(done)
