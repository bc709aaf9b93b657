"""lhotse manifests as lhotse 1.33 writes them: each supervision with its part of the recording, or why not."""

import gzip
import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.recordings import recordings
from audiorl_cli.data.rejected import Rejection, SkipRule
from audiorl_cli.data.shards import open_shards
from audiorl_cli.data.sources import Utterance, open_source, unique
from audiorl_cli.data.tar import Member
from audiorl_cli.errors import DataError

NOISE = np.random.default_rng(0).integers(-3000, 3000, (32_000, 2)).astype(np.int16)


def _recording(name: str, seconds: float = 2.0, channels: int = 1, **more: object) -> dict[str, Any]:
    listed = list(range(channels))
    source = {"type": "file", "channels": listed, "source": f"{name}.wav"}
    about = {"sampling_rate": 16_000, "num_samples": round(16_000 * seconds), "duration": seconds}
    return {"id": name, "sources": [source], **about, "channel_ids": listed, **more}


def _supervision(name: str, start: float, duration: float, **more: object) -> dict[str, Any]:
    about = {"channel": 0, "text": f"text of {name}", "language": "English", "speaker": "anna"}
    return {"id": name, "recording_id": "rec", "start": start, "duration": duration, **about, **more}


def _cut(name: str, recording: object, *supervisions: object, **more: object) -> dict[str, Any]:
    cut = {"id": name, "start": 0.0, "duration": 2.0, "channel": 0, "supervisions": list(supervisions)}
    return {**cut, "recording": recording, "type": "MonoCut", **more}


def _write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def _read(source: Path, split: str | None = None) -> tuple[list[Utterance], dict[str, str], dict[SkipRule, int]]:
    opened = open_source(str(source), "auto", split)
    assert opened.kind == "lhotse"
    skipped: Counter[SkipRule] = Counter()
    items = list(unique(opened.items(), skipped))
    assert list(unique(opened.items())) == items
    kept = [item for item in items if isinstance(item, Utterance)]
    return (
        kept,
        {item.source: f"{item.reason}: {item.detail}" for item in items if isinstance(item, Rejection)},
        dict(skipped),
    )


def _part(one: Utterance) -> tuple[str, str, float | None, float | None]:
    return one.id, one.text, one.offset, one.duration


@pytest.mark.parametrize("name", ["cuts.jsonl", "x_cuts_train.jsonl.gz"])
def test_each_supervision_of_a_cut_is_an_utterance(tmp_path: Path, name: str) -> None:
    whole = _cut("whole", _recording("a"), _supervision("s", 0.0, 2.0, custom={"snr": 3.5}), custom={"source": "x"})
    trimmed = _cut("trimmed", _recording("b"), _supervision("s", 0.0, 0.5), start=1.0, duration=0.5)
    within = _cut("within", _recording("b"), _supervision("s", 0.25, 0.5), start=0.5, duration=1.0)
    several = _cut("several", _recording("b"), _supervision("s1", 0.0, 0.5), _supervision("s2", 0.5, 1.0), start=0.5)
    path = _write(tmp_path / name, whole, trimmed, within, several)
    kept, reasons, skipped = _read(path)
    assert list(map(_part, kept)) == [
        ("whole", "text of s", None, 2.0),
        ("trimmed", "text of s", 1.0, 0.5),
        ("within", "text of s", 0.75, 0.5),
        ("s1", "text of s1", 0.5, 0.5),
        ("s2", "text of s2", 1.0, 1.0),
    ]
    assert kept[0].audio == tmp_path / "a.wav"
    assert kept[0].extra == {"source": "x", "snr": 3.5, "language": "English"}
    assert kept[0].speaker == "anna"
    assert (reasons, skipped) == ({}, {})


def _transformed(name: str, **options: object) -> dict[str, Any]:
    return _recording("a", transforms=[{"name": name, "kwargs": options}])


REFUSED: list[tuple[dict[str, Any], str]] = [
    (_cut("c", _transformed("Speed", factor=1.1), _supervision("s", 0, 2)), "bad_row: a transform .*Speed.*1.1"),
    (_cut("c", _transformed("Volume", factor=2.0), _supervision("s", 0, 2)), "bad_row: a transform .*Volume"),
    (_cut("c", _transformed("Resample", target_sampling_rate=8_000), _supervision("s", 0, 2)), "bad_row: .*Resample"),
    (_cut("c", _transformed("ReverbWithImpulseResponse"), _supervision("s", 0, 2)), "bad_row: a transform"),
    ({"id": "c", "tracks": [], "type": "MixedCut"}, "bad_row: a cut that is padded, or a mix of several"),
    ({"id": "c", "duration": 1.0, "type": "PaddingCut"}, "bad_row: nothing but padding"),
    (_cut("c", None, _supervision("s", 0, 2)), "missing: a cut without a recording"),
    (_cut("c", _recording("a")), "no_transcript: a cut without supervisions"),
    (_cut("c", _recording("a"), _supervision("s", 0, 2, text=None)), "no_transcript"),
    (_cut("c", _recording("a"), _supervision("s", -1, 2)), "bad_segment: a supervision from -1 to 1 s of 2 s"),
    (_cut("c", _recording("a"), _supervision("s", 1, 2)), "bad_segment: a supervision from 1 to 3 s of 2 s"),
    (_cut("c", _recording("a"), _supervision("s", 0, 2, channel=5)), "bad_channel"),
    (
        _cut(
            "c",
            _recording("a", sources=[{"type": "command", "channels": [0], "source": "cat a |"}]),
            _supervision("s", 0, 2),
        ),
        "not_a_file: a source of type command",
    ),
    (
        _cut(
            "c",
            _recording("a", sources=[{"type": "url", "channels": [0], "source": "https://x/a"}]),
            _supervision("s", 0, 2),
        ),
        "not_a_file",
    ),
    (_cut("c", _recording("../a"), _supervision("s", 0, 2)), "outside_folder"),
    (_cut("c", _recording("a", sources=True), _supervision("s", 0, 2)), "bad_row: sources that are no list"),
    (_cut("c", _recording("a", transforms="Speed"), _supervision("s", 0, 2)), "bad_row: transforms that are no list"),
    (_cut("c", _recording("a"), _supervision("s", 10**400, 2)), "bad_segment"),
    (_cut("c", _recording("a"), _supervision("s", 0, [2])), "bad_segment"),  # type: ignore[arg-type]
    (_cut("c", _recording("a"), 7), "bad_row: a supervision that is no object"),
]


@pytest.mark.parametrize(("cut", "reason"), REFUSED)
def test_what_prep_cannot_honour_is_rejected_by_name(tmp_path: Path, cut: dict[str, Any], reason: str) -> None:
    good = _cut("good", _recording("a"), _supervision("s", 0, 2))
    kept, reasons, _ = _read(_write(tmp_path / "cuts.jsonl", good, cut, "[1]"))
    assert [one.id for one in kept] == ["good"]
    assert list(reasons) == ["cuts.jsonl line 2", "cuts.jsonl line 3"]
    assert re.match(reason, reasons["cuts.jsonl line 2"])


def test_resampling_that_prep_does_anyway_is_no_obstacle(tmp_path: Path) -> None:
    cut = _cut("c", _transformed("Resample", target_sampling_rate=16_000), _supervision("s", 0, 2))
    assert [one.id for one in _read(_write(tmp_path / "cuts.jsonl", cut))[0]] == ["c"]


def test_the_channel_of_a_supervision_is_the_one_that_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "call.wav", NOISE, 16_000)
    for channel, name in enumerate(("left", "right")):
        soundfile.write(tmp_path / f"{name}.wav", NOISE[:, channel], 16_000)
    files = [{"type": "file", "channels": [one], "source": f"{name}.wav"} for one, name in enumerate(("left", "right"))]
    cuts = [
        _cut("one", _recording("call", channels=2), _supervision("s", 0, 2, channel=1), channel=1),
        _cut(
            "part", _recording("call", channels=2), _supervision("s", 0, 1, channel=1), channel=[0, 1], type="MultiCut"
        ),
        _cut(
            "all",
            _recording("call", channels=2),
            _supervision("s", 0, 2, channel=[0, 1]),
            channel=[0, 1],
            type="MultiCut",
        ),
        _cut("files", _recording("call", channels=2, sources=files), _supervision("s", 0, 2, channel=1), channel=1),
        _cut("both", _recording("call", channels=2, sources=files), _supervision("s", 0, 2, channel=[0, 1])),
    ]
    path = _write(tmp_path / "cuts.jsonl", *cuts)
    kept, reasons, _ = _read(path)
    assert [(one.id, one.channel) for one in kept] == [("one", 1), ("part", 1), ("all", None), ("files", None)]
    assert reasons == {"cuts.jsonl line 5": "bad_channel: channels [0, 1] in several files"}
    prep(str(path), tmp_path / "out", PrepSettings(clip_seconds=2.0, workers=1))
    shards = open_shards(tmp_path / "out")
    found = {one: np.asarray(sound) for one, sound in recordings(shards, shards.read(range(4))).items()}
    right = NOISE[:, 1].astype(np.float32) / 32_768
    assert np.array_equal(found["one"], right)
    assert np.array_equal(found["part"], right[:16_000])
    assert np.array_equal(found["files"], right)
    assert np.allclose(found["all"], NOISE.mean(axis=1) / 32_768, atol=1e-6)


def test_recordings_with_supervisions(tmp_path: Path) -> None:
    _write(tmp_path / "x_recordings_dev.jsonl.gz", _recording("rec"), _recording("unsaid"), _recording("rec"))
    rows = [_supervision("s1", 0, 2), _supervision("s2", 0.5, 1), _supervision("s3", 0, 2, recording_id="gone")]
    _write(tmp_path / "x_supervisions_dev.jsonl.gz", *rows)
    (tmp_path / "rec.wav").touch()
    (tmp_path / "stray.wav").touch()
    for source in (tmp_path, tmp_path / "x_recordings_dev.jsonl.gz", tmp_path / "x_supervisions_dev.jsonl.gz"):
        kept, reasons, skipped = _read(source)
        assert list(map(_part, kept)) == [("s1", "text of s1", None, 2.0), ("s2", "text of s2", 0.5, 1.0)]
        assert reasons == {
            "x_recordings_dev.jsonl.gz line 3": "duplicate_id: an earlier row has this id",
            "x_supervisions_dev.jsonl.gz line 3": "missing: no recording gone",
            "x_recordings_dev.jsonl.gz": "no_transcript: no supervision of this recording",
        }
        assert skipped == ({"unlisted": 1} if source == tmp_path else {})
    (tmp_path / "x_supervisions_dev.jsonl.gz").rename(tmp_path / "other.jsonl.gz")
    with pytest.raises(DataError, match=r"expected supervisions beside it, got no x_supervisions_dev\.jsonl\.gz"):
        _read(tmp_path / "x_recordings_dev.jsonl.gz")


def test_one_of_several_manifests_is_chosen_by_its_name(tmp_path: Path) -> None:
    for name in ("train-clean-100", "dev"):
        _write(tmp_path / f"libri_cuts_{name}.jsonl.gz", _cut(name, _recording("a"), _supervision("s", 0, 2)))
    with pytest.raises(
        DataError, match=r"got libri_cuts_dev\.jsonl\.gz, libri_cuts_train-clean-100\.jsonl\.gz.*--split"
    ):
        _read(tmp_path)
    kept, _, skipped = _read(tmp_path, "train-clean-100")
    assert ([one.id for one in kept], skipped) == (["train-clean-100"], {"other_transcript": 1})


def test_names_are_looked_for_from_the_working_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "download").mkdir()
    (tmp_path / "download/a.wav").touch()
    monkeypatch.chdir(tmp_path)
    cut = _cut("c", _recording("download/a"), _supervision("s", 0, 2))
    ((one,), _, _) = _read(_write(tmp_path / "data/manifests/cuts.jsonl", cut))
    assert one.audio == tmp_path / "download/a.wav"


def test_shar(tmp_path: Path) -> None:
    file = io.BytesIO()
    soundfile.write(file, NOISE[:8_000, 0], 16_000, format="FLAC")
    placeholder = _recording("rec", 0.5, sources=[{"type": "shar", "channels": [0], "source": ""}])
    for shard in range(2):
        names = [f"utt{shard}{number}" for number in range(2)]
        cuts = [_cut(name, placeholder, _supervision(name, 0, 0.5), duration=0.5) for name in (*names, f"gone{shard}")]
        _write(tmp_path / f"cuts.{shard:06d}.jsonl.gz", *cuts)
        with tarfile.open(tmp_path / f"recording.{shard:06d}.tar", "w") as tar:
            for name in (*names, f"stray{shard}"):
                for suffix, content in (("flac", file.getvalue()), ("json", b"{}")):
                    entry = tarfile.TarInfo(f"{name}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    kept, reasons, skipped = _read(tmp_path)
    assert list(map(_part, kept)) == [
        (name, f"text of {name}", None, 0.5) for name in ("utt00", "utt01", "utt10", "utt11")
    ]
    assert all(isinstance(one.audio, Member) and one.audio.read_bytes() == file.getvalue() for one in kept)
    assert reasons == {f"cuts.{shard:06d}.jsonl.gz line 3": "missing: no recording in the tar" for shard in range(2)}
    assert skipped == {"unlisted": 2}
