"""A file that is not there: the path that was looked for, and the file that was probably meant."""

import json
import os
from pathlib import Path

import pytest
from objects import BUCKET, serving

from audiorl_cli.data.near_misses import looked_for
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.sources import Utterance, open_source
from audiorl_cli.data.store import Url
from audiorl_cli.errors import DataError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A table's folder: clips beside it, below it, and in the folder above."""
    for name in ("set/clips/Take1.wav", "set/clips/caf\u00e9 1.flac", "set/clips/b.mp3 ", "set/noext", "above.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("written", "meant", "why"),
    [
        ("clips/take1.wav", "set/clips/Take1.wav", "in another case"),
        ("CLIPS/take1.wav", "set/clips/Take1.wav", "in another case"),
        ("clips/cafe\u0301 1.flac", "set/clips/caf\u00e9 1.flac", "in another form of Unicode (NFC, NFD)"),
        ("clips/Take1.mp3", "set/clips/Take1.wav", "with another suffix"),
        ("clips/Take1", "set/clips/Take1.wav", "with a suffix"),
        ("clips/b.mp3", "set/clips/b.mp3 ", "without the white space"),
        ("clips\\Take1.wav", "set/clips/Take1.wav", "with slashes for back slashes"),
        ("C:\\clips\\take1.wav", "set/clips/Take1.wav", "with slashes for back slashes"),
        ("clips/caf%C3%A9%201.flac", "set/clips/caf\u00e9 1.flac", "with its % signs decoded"),
        ("set/clips/Take1.wav", "set/clips/Take1.wav", "from {top}; names count from the table's folder"),
        ("above.wav", "above.wav", "from {top}; names count from the table's folder"),
    ],
)
def test_near_misses(base: Path, written: str, meant: str, why: str) -> None:
    top = base.parent
    expected = f"{base / written}; there is {top / meant}, {why.format(top=top)}"
    assert looked_for(base / written, written) == expected


def test_the_working_directory_is_no_base(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base / "clips")
    why = "from the working directory; names count from the table's folder"
    assert looked_for(base / "Take1.wav", "Take1.wav") == f"{base}/Take1.wav; there is {base}/clips/Take1.wav, {why}"


@pytest.mark.parametrize(
    "written", ["/home/bob/set/clips/Take1.wav", "D:\\bob\\clips\\Take1.wav", "old/clips/Take1.wav"]
)
def test_a_table_that_was_moved(base: Path, written: str) -> None:
    path = Path(written) if written.startswith("/") else base / written
    assert looked_for(path, written, base) == f"{path}; there is {base}/clips/Take1.wav, in the table's folder"


def test_what_is_nowhere_near(base: Path) -> None:
    assert looked_for(base / "x.wav", "x.wav") == str(base / "x.wav")
    assert looked_for(base / "a/b/x.wav", "a/b/x.wav") == f"{base}/a/b/x.wav; the folder {base}/a is not there"
    (base / "dead.wav").symlink_to("gone.wav")
    said = f"{base}/dead.wav is a link to gone.wav, which is not there"
    assert looked_for(base / "dead.wav", "dead.wav") == said


def test_prep_says_where_it_looked(base: Path) -> None:
    path, names = base / "rows.jsonl", ("clips/take1.wav", "gone.wav", "/bob/noext")
    path.write_text("".join(json.dumps({"audio": name, "text": "x"}) + "\n" for name in names))
    with pytest.raises(DataError, match="3 rejected"):
        prep(str(path), base / "data", PrepSettings(workers=1))
    rejected = [json.loads(line)["detail"] for line in (base / "data/rejected.jsonl").read_text().splitlines()]
    assert rejected == [
        f"no such file: {base}/clips/take1.wav; there is {base}/clips/Take1.wav, in another case",
        f"no such file: {base}/gone.wav",
        f"no such file: /bob/noext; there is {base}/noext, in the table's folder",
    ]


def test_a_source_that_is_not_there_is_named_in_full(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    with pytest.raises(DataError, match=rf"Set: expected a file or folder, got nothing there: {base.parent}/Set"):
        open_source("Set")


def test_objects_have_near_misses_too() -> None:
    with serving():
        url = Url(f"s3://{BUCKET}/near")
        (url / "Take1.wav").write_bytes(b"x")
        assert looked_for(url / "take1.wav") == f"{url}/take1.wav; there is {url}/Take1.wav, in another case"
        assert looked_for(url / "gone/a.wav") == f"{url}/gone/a.wav"


def test_names_that_no_system_takes(base: Path) -> None:
    name = os.fsdecode(b"\xff.wav")
    assert looked_for(base / name, name) == f"{base}/{name}"
    long = "a" * 300
    assert looked_for(base / long, long) == f"{base}/{long}"
    (base / "rows.csv").write_text(f"audio,text\n{long},x\n")
    (one,) = open_source(str(base / "rows.csv")).items()
    assert isinstance(one, Utterance)
    with pytest.raises(DataError, match="got nothing there"):
        open_source(long)
