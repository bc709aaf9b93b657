"""Folders as people have them: every file becomes a row, a rejection with a reason, or is counted under a rule."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from objects import BUCKET, serving, upload

from audiorl_cli.data import store as stores
from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.rejected import SKIP_RULES, Rejection, SkipRule
from audiorl_cli.data.sources import Item, Utterance, open_source, unique
from audiorl_cli.data.store import Url
from audiorl_cli.data.tree import Listing, is_recording, listings
from audiorl_cli.errors import DataError


def _read(source: Path | Url, **options: Any) -> tuple[list[Item], dict[SkipRule, int]]:
    skipped: Counter[SkipRule] = Counter()
    items = list(unique(open_source(str(source), **options).items(), skipped))
    assert set(skipped) <= set(SKIP_RULES)
    return items, dict(skipped)


def _ids(items: list[Item]) -> list[str]:
    return [item.id for item in items if isinstance(item, Utterance)]


def _reasons(items: list[Item]) -> dict[str, str]:
    return {item.source: item.reason for item in items if isinstance(item, Rejection)}


def _write(folder: Path, *names: str) -> None:
    """Empty files, with a word in those that are texts."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("word" if name.lower().endswith(".txt") else "")


MESS = {
    "a.wav": "",
    "a.txt": "kept",
    "b.WAV": "",
    "b.TXT": "kept",
    "c.wma": "",
    "c.txt": "kept",
    "d.amr": "",
    "d.txt": "kept",
    "e.wave": "",
    "e.txt": "kept",
    "f.mkv": "no_transcript",
    "g.unheard-of": "",
    "g.txt": "kept",
    "spk/h": "",
    "spk/h.txt": "kept",
    "i.txt": "missing",
    "j.mp3": "duplicate_recording",
    "j.wav": "",
    "j.txt": "kept",
    "k.wav": "no_transcript",
    "k.lab": "other_transcript",
    "l.srt": "other_transcript",
    "spk/old.csv.gz": "other_transcript",
    "README.txt": "other_file",
    "index_7.wav": "",  # no README: a recording stands beside it
    "index_7.txt": "kept",
    "LICENSE.txt": "other_file",
    "LICENSE": "other_file",
    "cover.png": "other_file",
    "Thumbs.db": "other_file",
    "._a.wav": "hidden_file",
    ".DS_Store": "",
    ".ipynb_checkpoints/a-checkpoint.wav": "hidden_folder",
    ".ipynb_checkpoints/a-checkpoint.txt": "hidden_folder",
    "__MACOSX/spk/._h.wav": "hidden_folder",
    "data/manifest.json": "",
    "data/rejected.jsonl": "",
    "data/data-00000.parquet": "",
}


@pytest.mark.parametrize("seed", range(20))
def test_the_files_of_random_folders_add_up(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    stems = ["a", "A", "a.b", "README", "index_1", "caf\u00e9", "cafe\u0301", "x y"]
    suffixes = [
        ".wav",
        ".WAV",
        ".mp3",
        ".mkv",
        ".txt",
        ".TXT",
        ".wav.txt",
        ".normalized.txt",
        ".lab",
        ".csv.gz",
        ".x",
        "",
    ]
    names = [f"{base}{stem}{suffix}" for base in ("", "s/", "s/t/") for stem in stems for suffix in suffixes]
    files = chosen.sample(names, 25)
    _write(tmp_path, *files)
    items, skipped = _read(tmp_path, format="folder")
    kept = len(_ids(items))
    assert 2 * kept + len(items) - kept + sum(skipped.values()) == len(files)  # a row is a recording and a transcript


@pytest.fixture(scope="module")
def bucket() -> Iterator[None]:
    with serving():
        yield


def _check_mess(source: Path | Url) -> None:
    items, skipped = _read(source)
    expected = Counter(MESS.values())
    assert len(_ids(items)) == expected["kept"]
    assert Counter(_reasons(items).values()) == {
        rule: expected[rule] for rule in ("missing", "no_transcript", "duplicate_recording")
    }
    assert skipped == {rule: expected[rule] for rule in SKIP_RULES if rule in expected}


def test_every_file_of_a_folder_is_accounted_for(tmp_path: Path) -> None:
    _write(tmp_path, *MESS)
    _check_mess(tmp_path)
    details = {item.source: item.detail for item in _read(tmp_path)[0] if isinstance(item, Rejection)}
    assert details["k.wav"] == "no k.txt; there is k.lab"
    assert details["i.txt"] == "no recording i.*"
    assert details["j.mp3"] == "j.wav has the same transcript"


def test_every_object_of_a_store_is_too(bucket: None, tmp_path: Path) -> None:
    _write(tmp_path, *MESS)
    _check_mess(upload(tmp_path, Url(f"s3://{BUCKET}/mess")))
    stores._listed_once.cache_clear()


def test_a_table_in_a_store_is_found_in_its_folder(bucket: None, tmp_path: Path) -> None:
    _write(tmp_path, "clips/a.mp3", "clips/b.mp3", ".old/c.mp3")
    (tmp_path / "train.tsv").write_text("path\tsentence\na.mp3\tword\n")
    url = upload(tmp_path, Url(f"s3://{BUCKET}/table"))
    for options in ({}, {"format": "table"}, {"split": "train"}):
        items, skipped = _read(url, **options)
        assert [item.audio for item in items if isinstance(item, Utterance)] == [url / "clips/a.mp3"]
        assert skipped == {"unlisted": 1, "hidden_folder": 1}
    (url / "dev.tsv").write_bytes(b"path\tsentence\nb.mp3\tword\n")
    assert _ids(_read(url, split="dev")[0]) == ["b"]
    with pytest.raises(DataError, match=r"got several tables \(dev.tsv, train.tsv\)\. Name one file of it, or choose"):
        open_source(url)


def test_the_lossless_one_of_several_recordings_is_read(tmp_path: Path) -> None:
    _write(tmp_path, "a.txt", "a.mp3", "a.flac", "a.opus", "b.txt", "b.mp4", "b.m4a", "c.txt", "c.xyz", "c.mp3")
    items, skipped = _read(tmp_path)
    kept = [item.audio_name for item in items if isinstance(item, Utterance)]
    assert kept == ["a.flac", "b.m4a", "c.mp3"]
    assert set(_reasons(items)) == {"a.mp3", "a.opus", "b.mp4"}
    assert skipped == {"other_file": 1}  # c.xyz: with a known kind beside it, an unknown one is not tried


def test_names_are_matched_in_whatever_form_of_unicode(tmp_path: Path) -> None:
    _write(tmp_path, "cafe\u0301.wav", "caf\u00e9.txt")
    items, _ = _read(tmp_path)
    assert _ids(items) == ["caf\u00e9"]


def test_another_case_is_said_not_guessed(tmp_path: Path) -> None:
    _write(tmp_path, "Take1.wav", "take1.txt")
    items, _ = _read(tmp_path)
    assert [item.detail for item in items if isinstance(item, Rejection)] == [
        "no Take1.txt; there is take1.txt",
        "no recording take1.*; there is Take1.wav",
    ]


def test_a_name_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).touch()
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("word")
    items, _ = _read(tmp_path)
    assert [(item.reason, item.detail) for item in items if isinstance(item, Rejection)] == [
        ("bad_row", "an id that is not UTF-8")
    ]


def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    _write(source, "own/a.wav", "own/a.txt", ".store/x/b.wav", ".store/x/b.txt")
    _write(elsewhere, "deep/c.wav", "deep/c.txt")
    links: dict[str, str | Path] = {
        "spk2": ".store/x",  # as DVC and git-annex have it
        "spk3": elsewhere,
        "spk4": elsewhere / "deep",  # read below spk3
        "again": "own",
        "own/up": "..",
        "own/self": ".",
        "root": "/",
    }
    for name, target in links.items():
        (source / name).symlink_to(target)
    (elsewhere / "back").symlink_to(source)
    (elsewhere / "deep/round").symlink_to(elsewhere)
    items, skipped = _read(source)
    assert _ids(items) == ["a", "b", "c"]
    assert [item.audio_name for item in items if isinstance(item, Utterance)][1:] == ["spk2/b.wav", "spk3/deep/c.wav"]
    assert skipped == {"hidden_folder": 2, "linked_twice": 7}


def test_many_folders_that_link_to_each_other_are_each_read_once(tmp_path: Path) -> None:
    for one in range(12):
        _write(tmp_path, f"s{one:02}/{one}.wav", f"s{one:02}/{one}.txt")
        for other in range(12):
            (tmp_path / f"s{one:02}/to{other}").symlink_to(tmp_path / f"s{other:02}")
    items, skipped = _read(tmp_path)
    assert _ids(items) == [str(one) for one in range(12)]
    assert skipped == {"linked_twice": 144}


def test_links_to_nothing_are_rejected(tmp_path: Path) -> None:
    _write(tmp_path, "a.wav", "a.txt", "b.txt")
    (tmp_path / "b.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "spk2").symlink_to("/mnt/gone")
    (tmp_path / "loop").symlink_to("loop")
    items, _ = _read(tmp_path)
    assert _ids(items) == ["a"]
    assert _reasons(items) == dict.fromkeys(("b.txt", "b.wav", "loop", "spk2"), "missing")
    assert next(item.detail for item in items if isinstance(item, Rejection) and item.id == "spk2") == (
        "a link to /mnt/gone, which is not there"
    )


def test_a_folder_that_may_not_be_read_is_rejected(tmp_path: Path) -> None:
    # Root may read everything, so that a folder whose path is too long for the system stands for it.
    _write(tmp_path, "a.wav", "a.txt")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        here, above = os.open("d" * 250, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    items, _ = _read(tmp_path)
    assert _ids(items) == ["a"]
    (refused,) = [item for item in items if isinstance(item, Rejection)]
    assert (refused.reason, refused.detail) == ("unreadable", "the folder: File name too long")
    subprocess.run(["rm", "-rf", tmp_path / ("d" * 250)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes on another user's rights, which root alone may")
def test_rights_decide_what_is_read() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        _write(folder, "open/a.wav", "open/a.txt", "closed/b.wav", "closed/b.txt")
        (folder / "closed").chmod(0o700)
        os.seteuid(65534)
        try:
            items, _ = _read(folder)
            with pytest.raises(DataError, match=r"closed: expected a folder to read, got Permission denied\. Check"):
                _read(folder / "closed")
        finally:
            os.seteuid(0)
    assert _ids(items) == ["a"]
    assert _reasons(items) == {"closed": "unreadable"}


def test_the_order_depends_on_the_names_alone(tmp_path: Path) -> None:
    _write(tmp_path, "b/x", "a-/x", "a/b/x", "a/x", "x")
    folders = [entry.folder for entry in listings(tmp_path) if isinstance(entry, Listing)]
    assert folders == [tmp_path / name for name in (".", "a", "a/b", "a-", "b")]


def test_librispeech_trees_account_for_every_file(tmp_path: Path) -> None:
    _write(tmp_path, "README.TXT", "SPEAKERS.TXT", "84/1/84-1-1.flac", "84/1/84-1-1.wav", "84/1/84-1-3.flac")
    _write(tmp_path, "84/2/84-2-1.flac", "84/1/._84-1-1.flac", "84/1/extra.txt", "84/1/84-3-1.flac")
    (tmp_path / "84/1/84-1.trans.txt").write_text("84-1-1 ONE\n84-1-2 TWO\n")
    (tmp_path / "84/1/84-3.TRANS.TXT").write_text("84-3-1 THREE\n")
    items, skipped = _read(tmp_path)
    assert _ids(items) == ["84-1-1", "84-1-2", "84-3-1"]  # 84-1-2 has no file: decoding it says so
    assert {item.source: item.detail for item in items if isinstance(item, Rejection)} == {
        "84/1/84-1-1.flac": "84-1-1.wav has the same transcript",
        "84/1/84-1-3.flac": "no line in 84-1.trans.txt or 84-3.TRANS.TXT",
        "84/2/84-2-1.flac": "no *.trans.txt in its folder",
    }
    assert skipped == {"hidden_file": 1, "other_file": 2, "other_transcript": 1}


@pytest.mark.parametrize("kind", ["manifest.jsonl", "all.tsv", "kaldi"])
def test_recordings_that_no_row_names_are_counted(tmp_path: Path, kind: str) -> None:
    _write(tmp_path, "clips/a.mp3", "clips/b.mp3", "c.wav", ".trash/d.wav")
    if kind == "kaldi":
        (tmp_path / "wav.scp").write_text("a clips/a.mp3\nr c.wav\n")
        (tmp_path / "text").write_text("a word\n")
    elif kind == "manifest.jsonl":
        rows = [{"audio": "clips/a.mp3", "text": "word"}, {"audio": "./c.wav", "text": None}]
        (tmp_path / kind).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        (tmp_path / kind).write_text("path\tsentence\na.mp3\tword\nc.wav\t\x07\n")
    items, skipped = _read(tmp_path)
    assert _ids(items) == ["a"]
    assert len(_reasons(items)) == 1
    assert skipped == {"unlisted": 1, "hidden_folder": 1}
    if kind != "kaldi":
        assert _read(tmp_path / kind)[1] == {}  # the table was named, not its folder


def test_a_kaldi_recording_without_a_segment_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("r1 a.wav\nr2 b.wav\n")
    (tmp_path / "text").write_text("u1 word\n")
    (tmp_path / "segments").write_text("u1 r1 0 1\nu2 r1 1 2\n")
    items, _ = _read(tmp_path)
    assert _ids(items) == ["u1"]
    assert _reasons(items) == {"segments line 2": "no_transcript", "wav.scp": "no_transcript"}


def test_prep_says_what_it_did_not_read(speech: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    _write(source, "a.txt", "README.txt", "._a.flac", ".git/b.wav")
    shutil.copy(speech / "librispeech_misc/1089-134691-0000.flac", source / "a.flac")
    expected = {"hidden_file": 1, "hidden_folder": 1, "other_file": 1}
    words = [sys.executable, "-m", "audiorl_cli", "prep", source, "--out", tmp_path / "data", "--workers", "1"]
    said = subprocess.run([*map(str, words)], capture_output=True, text=True, check=True).stdout
    assert "files  not read" in said
    assert f"    1  {SKIP_RULES['hidden_file']}" in said
    assert json.loads((tmp_path / "data/manifest.json").read_text())["source"]["skipped"] == expected
    shutil.copytree(tmp_path / "data", source / "data")  # what prep wrote is no part of a source
    again = prep(str(source), tmp_path / "data", PrepSettings(workers=1))
    assert (again.skipped, again.resumed) == (expected, 1)
    assert _read(source)[1] == expected


def test_an_empty_source_says_what_it_holds(tmp_path: Path) -> None:
    _write(tmp_path / "source", ".old/a.wav", "b.lab")
    with pytest.raises(DataError, match=r"got a folder without manifest, tables or recordings"):
        prep(str(tmp_path / "source"), tmp_path / "data")
    with pytest.raises(DataError, match=r"got an empty source, with 1 recordings and transcripts in hidden folders"):
        prep(str(tmp_path / "source"), tmp_path / "data", PrepSettings(format="folder"))


def test_a_real_recording_under_a_name_nobody_knows_is_read(speech: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for suffix in ("", ".xyz"):
        _write(source, f"a{suffix.strip('.')}.txt")
        shutil.copy(speech / "librispeech_misc/1089-134691-0000.flac", source / f"a{suffix.strip('.')}{suffix}")
    soundfile.write(source / "b.wav", [0.1, -0.1] * 4000, 8000)
    _write(source, "b.txt")
    assert prep(str(source), tmp_path / "data", PrepSettings(workers=1)).utterances == 3


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("avi", "pcm_s16le"), ("flv", "mp3"), ("voc", "pcm_s16le"), ("tta", "tta"), ("wv", "wavpack"), ("mka", "libopus")],
)
def test_what_is_taken_for_a_recording_is_decoded(tmp_path: Path, suffix: str, codec: str) -> None:
    path, rate = tmp_path / f"a.{suffix}", 48_000 if codec == "libopus" else 44_100
    tone = (9000 * np.sin(np.arange(rate) * 0.05)).astype(np.int16)[None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, AudioStream)
        frame = AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or None
        convert = AudioResampler(stream.codec_context.format, "mono", rate, frame_size=size)
        for one in (*convert.resample(frame), *convert.resample(None)):
            container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    assert is_recording(path.name)
    assert decode(path, "mix", Extent()).seconds == pytest.approx(1, abs=0.06)
