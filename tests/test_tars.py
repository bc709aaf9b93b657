"""Recordings in tars are read where they lie: WebDataset and NeMo, every file of every tar accounted for."""

import gzip
import io
import json
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiorl_cli.data.columns import Columns
from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.recordings import recordings
from audiorl_cli.data.rejected import Rejection, SkipRule
from audiorl_cli.data.shards import open_shards
from audiorl_cli.data.sources import Utterance, open_source, unique
from audiorl_cli.data.tar import Member, members
from audiorl_cli.errors import DataError

SETTINGS = PrepSettings(clip_seconds=1.0, workers=1)


def _flac(seed: int, seconds: float = 0.3) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(-3000, 3000, round(16_000 * seconds)).astype(np.int16)
    soundfile.write(file, noise, 16_000, format="FLAC")
    return file.getvalue()


def _tar(path: Path, files: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            raw = content.encode() if isinstance(content, str) else content
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
    return path


def _read(
    source: Path, kind: str, columns: tuple[str, ...] = ()
) -> tuple[list[Utterance], dict[str, str], dict[SkipRule, int]]:
    opened = open_source(str(source), columns=Columns.parse(columns) if columns else Columns())
    assert opened.kind == kind
    skipped: Counter[SkipRule] = Counter()
    items = list(unique(opened.items(), skipped))
    assert list(unique(opened.items())) == items
    kept = [item for item in items if isinstance(item, Utterance)]
    return kept, {item.source: item.reason for item in items if isinstance(item, Rejection)}, dict(skipped)


def _content(utterance: Utterance) -> bytes:
    assert isinstance(utterance.audio, Member)
    return utterance.audio.read_bytes()


def test_webdataset_samples(tmp_path: Path) -> None:
    sounds = [_flac(seed) for seed in range(6)]
    described = {"text": "three", "speaker": 7, "snr": 1.5, "duration": 0.3}
    files: dict[str, bytes | str] = {
        "./a/000.flac": sounds[0],
        "a/001.flac": sounds[1],
        "a/000.txt": "one\n",  # not beside its recording
        "a/001.json": json.dumps({"sentence": "two", "speaker": "anna", "start": 5.0, "end": 5.3}),
        "a/002.audio.flac": sounds[2],
        "a/002.json": json.dumps(described),
        "a/002.png": b"PNG",
        "b/000.flac": sounds[3],
        "b/000.normalized.txt": "four",
        "b/000.original.txt": "4",
        "b/000.wav": sounds[3],
        "c.1.flac": sounds[4],
        "c.1.txt": "five",
        "c.2.flac": sounds[5],
        "silent.txt": "no recording",
        "alone.flac": sounds[0],
        "._alone.flac": b"macOS",
        "broken.flac": sounds[0],
        "broken.json": "{",
        "notes.md": "about",
    }
    tar = _tar(tmp_path / "shard-000000.tar", files)
    kept, reasons, skipped = _read(tar, "webdataset")
    assert [(one.id, one.text, one.speaker, one.offset, one.extra) for one in kept] == [
        ("000", "one", "", None, {}),
        ("001", "two", "anna", None, {"start": 5.0, "end": 5.3}),  # where it was, before it was cut out
        ("002.audio", "three", "7", None, {"snr": 1.5}),
        ("shard-000000.tar/b/000.wav", "four", "", None, {}),
        ("c.1", "five", "", None, {}),
    ]
    assert [_content(one) for one in kept] == sounds[:5]
    assert reasons == {
        "shard-000000.tar/b/000.flac": "duplicate_recording",
        "shard-000000.tar/c.2.flac": "no_transcript",
        "shard-000000.tar/silent.txt": "missing",
        "shard-000000.tar/alone.flac": "no_transcript",
        "shard-000000.tar/broken.flac": "bad_row",
    }
    assert skipped == {"other_file": 2, "hidden_file": 1}


def test_a_folder_of_tars_becomes_shards_that_know_their_recordings(tmp_path: Path) -> None:
    for number in range(2):
        files: dict[str, bytes | str] = {}
        for sample in range(2):
            files |= {f"{sample:06d}.flac": _flac(2 * number + sample), f"{sample:06d}.txt": f"text {number} {sample}"}
        _tar(tmp_path / "source" / "train" / f"{number:05d}.tar", files)
    (tmp_path / "source" / "extra.flac").write_bytes(_flac(0))
    with pytest.raises(DataError, match=r"got both recordings and tars\. Say --format folder, or webdataset"):
        open_source(str(tmp_path / "source"))
    summary = prep(str(tmp_path / "source"), tmp_path / "out", replace(SETTINGS, format="webdataset"))
    assert (summary.utterances, dict(summary.rejected), dict(summary.skipped)) == (4, {}, {"unlisted": 1})
    shards = open_shards(tmp_path / "out")
    assert shards.texts() == ["text 0 0", "text 0 1", "text 1 0", "text 1 1"]
    rows = shards.read([0, 3])
    assert [row.id for row in rows] == ["000000", "00001.tar/000001.flac"]
    for row, seed in zip(rows, (0, 3), strict=True):
        expected, _ = soundfile.read(io.BytesIO(_flac(seed)), dtype="float32")
        assert np.array_equal(recordings(shards, [row])[row.id], expected)


def test_json_keys_of_samples_are_columns(tmp_path: Path) -> None:
    tar = _tar(tmp_path / "a.tar", {"x.flac": _flac(0), "x.json": json.dumps({"said": "one", "begin_at": 0.1})})
    with pytest.raises(DataError, match=r"column begin_at: .* extra=begin_at if it is no part"):
        _read(tmp_path, "webdataset")
    kept, _, _ = _read(tar, "webdataset", ("text=said", "extra=begin_at"))
    assert [(one.text, one.extra) for one in kept] == [("one", {"begin_at": 0.1})]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar"])  # by what it holds, not by its name
def test_a_compressed_tar_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    tar = _tar(tmp_path / "plain", {"x.flac": _flac(0), "x.txt": "one"})
    (tmp_path / name).write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(DataError, match=r"expected a tar to read, got one compressed by gzip\. Decompress it"):
        _read(tmp_path / name, "webdataset")


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="expected a tar to read"):
        _read(tmp_path / "a.tar", "webdataset")
    _tar(tmp_path / "b.tar", {"x.flac": _flac(0), "x.txt": "one"})
    kept, reasons, _ = _read(tmp_path, "webdataset")  # one of several: its files are missing, the others are not
    assert ([one.text for one in kept], reasons) == (["one"], {"a.tar": "unreadable"})


def _listed(tar: Path) -> tuple[list[str], list[str]]:
    found = list(members(tar))
    names = [one.path for one in found if isinstance(one, Member)]
    return names, [one.reason for one in found if isinstance(one, Rejection)]


def test_a_tar_that_breaks_off_or_goes_on_behind_its_end_is_said(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {f"{number}.flac": _flac(number) for number in range(3)}
    tar = _tar(tmp_path / "a.tar", files)
    whole = tar.read_bytes()
    found = [one for one in members(tar) if isinstance(one, Member)]
    assert _listed(tar) == (list(files), [])
    tar.write_bytes(whole[: found[2].offset + 100])  # within the last recording
    assert _listed(tar) == (list(files), ["truncated"])
    with pytest.raises(Exception, match="truncated") as caught:
        decode(found[2], "mix", Extent())
    assert caught.value.args[0] == "truncated"
    tar.write_bytes(whole[: found[1].offset - 300])  # within a header
    assert _listed(tar) == (["0.flac"], ["corrupt"])
    damaged = bytearray(whole)
    damaged[found[1].offset - 512] ^= 0xFF  # a header whose checksum is wrong: tar takes it for the end
    tar.write_bytes(damaged)
    assert _listed(tar) == (["0.flac"], ["corrupt"])
    tar.write_bytes(whole + whole)
    assert _listed(tar) == (list(files), ["corrupt"])


def test_a_second_file_of_one_name_is_said(tmp_path: Path) -> None:
    tar = _tar(tmp_path / "a.tar", {"x.flac": _flac(0), "x.txt": "one"})
    with tarfile.open(tar, "a") as more:  # as `tar --append` updates a file
        entry = tarfile.TarInfo("x.flac")
        entry.size = len(_flac(1))
        more.addfile(entry, io.BytesIO(_flac(1)))
    kept, reasons, _ = _read(tar, "webdataset")
    assert ([_content(one) for one in kept], reasons) == ([_flac(0)], {"a.tar/x.flac": "duplicate_id"})


def test_links_in_tars(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(_flac(0))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "a.flac", "a.flac")
        for kind, name in ((tarfile.LNKTYPE, "hard.flac"), (tarfile.SYMTYPE, "soft.flac")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "a.flac"
            tar.addfile(entry)
    found = {one.path: one for one in members(tmp_path / "x.tar") if isinstance(one, Member)}
    assert found["hard.flac"].read_bytes() == _flac(0)
    assert _listed(tmp_path / "x.tar") == (["a.flac", "hard.flac"], ["not_a_file"])


def test_a_part_of_a_recording_in_a_tar(tmp_path: Path) -> None:
    tar = _tar(tmp_path / "a.tar", {"pad": "x" * 700, "long.flac": _flac(0, 2.0)})
    (_, member) = members(tar)
    assert isinstance(member, Member)
    whole, _ = soundfile.read(io.BytesIO(_flac(0, 2.0)), dtype="float32")
    clip = decode(member, "mix", Extent(1.0, 0.5))
    assert np.array_equal(clip.samples, whole[16_000:24_000])


def _nemo(folder: Path, *, sharded: bool = False, version: int = 0) -> list[dict[str, object]]:
    _tar(folder / "audio_0.tar", {"long.flac": _flac(0, 2.0), "x_wav.flac": _flac(1), "unnamed.flac": _flac(9)})
    _tar(folder / "audio_1.tar", {"y.flac": _flac(2)})
    rows: list[dict[str, object]] = [
        {"audio_filepath": "long.flac", "offset": 0.0, "duration": 0.5, "text": "one", "shard_id": 0, "lang": "en"},
        {"audio_filepath": "long-sub1.flac", "offset": 0.5, "duration": 0.5, "text": "two", "shard_id": 0},
        {"audio_filepath": "x_wav.flac", "duration": 0.3, "text": "three", "shard_id": 0, "source_audio_offset": 3.0},
        {"audio_filepath": "y.flac", "duration": 0.3, "text": "four", "shard_id": 1},
        {"audio_filepath": "gone.flac", "duration": 0.3, "text": "x", "shard_id": 1},
        {"audio_filepath": "y.flac", "duration": 0.3, "text": "x", "shard_id": 7},
    ]
    lines = [json.dumps(row) for row in rows]
    if sharded:
        (folder / "sharded_manifests").mkdir()
        for shard in (0, 1):
            wanted = [line for line, row in zip(lines, rows, strict=True) if row["shard_id"] == shard]
            (folder / f"sharded_manifests/manifest_{shard}.json").write_text("\n".join(wanted))
    if version or not sharded:
        suffix = f"_version_{version}" if version else ""
        (folder / f"tarred_audio_manifest{suffix}.json").write_text("\n".join(lines))
    return rows


EXPECTED = [("long@0", "one", 0.0, 0.5), ("long-sub1@0.5", "two", 0.5, 0.5), ("x_wav", "three", None, 0.3)]
EXPECTED += [("y", "four", None, 0.3)]


def test_nemo_tars(tmp_path: Path) -> None:
    _nemo(tmp_path / "set")
    for source in (tmp_path / "set", tmp_path / "set/tarred_audio_manifest.json", tmp_path):
        kept, reasons, skipped = _read(source, "nemo")
        assert [(one.id, one.text, one.offset, one.duration) for one in kept] == EXPECTED
        assert [one.extra.get("lang") for one in kept] == ["en", None, None, None]
        assert kept[2].extra["source_audio_offset"] == 3.0  # already cut: no cut is made
        assert reasons == {
            "tarred_audio_manifest.json line 5": "missing",
            "tarred_audio_manifest.json line 6": "missing",
        }
        assert skipped == {"unlisted": 1}
    assert _content(kept[1]) == _flac(0, 2.0)
    assert prep(str(tmp_path / "set"), tmp_path / "out", SETTINGS).utterances == 4
    rows = open_shards(tmp_path / "out").read([1])
    whole, _ = soundfile.read(io.BytesIO(_flac(0, 2.0)), dtype="float32")
    (found,) = recordings(open_shards(tmp_path / "out"), rows).values()
    assert np.array_equal(found, whole[8_000:16_000])


def test_nemo_manifests_by_shard_and_by_version(tmp_path: Path) -> None:
    _nemo(tmp_path / "sharded", sharded=True)
    kept, reasons, skipped = _read(tmp_path / "sharded", "nemo")
    assert [(one.id, one.text, one.offset, one.duration) for one in kept] == EXPECTED
    assert (reasons, skipped) == ({"manifest_1.json line 2": "missing"}, {"unlisted": 1})
    _nemo(tmp_path / "both", sharded=True, version=2)
    (tmp_path / "both/tarred_audio_manifest.json").write_text('{"audio_filepath": "y.flac", "text": "old"}\n')
    kept, _, skipped = _read(tmp_path / "both", "nemo")
    assert [one.text for one in kept] == ["one", "two", "three", "four"]  # said twice, read once
    assert skipped == {"unlisted": 1, "other_transcript": 3}


def test_nemo_manifests_without_tars_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tarred_audio_manifest.json").write_text('{"audio_filepath": "y.flac", "text": "one", "shard_id": 0}\n')
    with pytest.raises(DataError, match=r"expected a manifest beside audio_N\.tar, got no audio_N\.tar"):
        _read(tmp_path, "nemo")
