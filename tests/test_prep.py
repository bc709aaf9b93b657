"""The pipeline on real recordings: the same bytes whatever happens to the run, a reason for whatever is left out."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tones import tone_shards

from audiorl_cli.data.mel import log_mel
from audiorl_cli.data.prep import PrepSettings, PrepSummary, Progress, prep
from audiorl_cli.data.prepare import Batch, Preparation
from audiorl_cli.data.rejected import REASONS
from audiorl_cli.data.shards import Row, open_shards, pack
from audiorl_cli.errors import DataError, UsageError

SETTINGS = PrepSettings(clip_seconds=3.0, rows_per_shard=16)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def digits(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 digits, with rejections among them, at the start, and at the end."""
    folder = tmp_path_factory.mktemp("digits")
    lines = (speech / "digits/manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[::40]][:60]
    for number, row in enumerate(rows):
        row["audio"] = str(speech / "digits" / row["audio"])
        row["mixed"] = number if number % 2 else str(number)
    nothing = {"audio": "nonsuch.wav", "text": "x"}
    silent = {"audio": "silent.wav", "text": "words"}
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    rows = [nothing, *rows[:30], silent, *rows[30:], {"audio": "silent.wav", "text": "", "id": "none"}, nothing]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def undisturbed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrepSummary]:
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    return out, prep(str(digits), out, SETTINGS)


def test_what_is_kept_and_what_is_not(undisturbed: tuple[Path, PrepSummary], digits: Path) -> None:
    out, summary = undisturbed
    assert (summary.utterances, summary.shards, summary.resumed) == (61, 4, 0)
    assert summary.rejected == {"missing": 2, "silent": 1}
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(row["source"], row["reason"]) for row in rejected] == [
        ("manifest.jsonl line 1", "missing"),
        ("manifest.jsonl line 32", "silent"),
        ("manifest.jsonl line 64", "missing"),
    ]
    assert set(summary.rejected) <= set(REASONS)
    shards = open_shards(out)
    source = [json.loads(line) for line in (digits / "manifest.jsonl").read_text().splitlines()]
    assert shards.texts() == [row["text"] for row in source if "nonsuch" not in row["audio"] and row["text"] != "words"]
    assert summary.hours == pytest.approx(sum(shards.column("duration_s")) / 3600)
    assert shards.manifest["totals"]["rejected"] == summary.rejected
    shard_names = {f"data-{number:05d}.parquet" for number in range(4)}
    assert set(_files(out)) == {"manifest.json", "rejected.jsonl", "source.json", *shard_names}


def test_rows_are_the_features_of_their_recordings(undisturbed: tuple[Path, PrepSummary]) -> None:
    shards = open_shards(undisturbed[0])
    assert (shards.clip_frames, shards.dtype) == (300, "float16")
    row = shards.read([60])[0]  # one second of silence
    assert (row.id, row.text, row.num_frames, row.duration_s) == ("none", "", 100, 1.0)
    expected = log_mel(np.zeros(16_000, np.float32), 300).features
    assert np.array_equal(row.features, expected)
    for other in shards.read(range(60)):
        assert other.num_frames == -(-round(other.duration_s * 16_000) // 160)


def test_mixed_columns_have_one_type_for_all_shards(undisturbed: tuple[Path, PrepSummary]) -> None:
    shards = open_shards(undisturbed[0])
    columns = {column["name"]: column["type"] for column in shards.manifest["columns"]}
    assert columns["mixed"] == "json"
    assert columns["sample_rate"] == "int64"
    assert columns["lang"] == "string"
    assert shards.column("mixed")[:2] == ['"0"', "1"]


def test_the_bytes_do_not_depend_on_the_number_of_workers(
    undisturbed: tuple[Path, PrepSummary], digits: Path, tmp_path: Path
) -> None:
    for workers in (1, 3):
        settings = PrepSettings(clip_seconds=3.0, rows_per_shard=16, workers=workers)
        prep(str(digits), tmp_path / str(workers), settings)
        assert _files(tmp_path / str(workers)) == _files(undisturbed[0])


def test_no_path_of_the_machine_and_no_date_in_the_manifest(undisturbed: tuple[Path, PrepSummary]) -> None:
    text = (undisturbed[0] / "manifest.json").read_text()
    assert str(Path.home()) not in text
    assert str(undisturbed[0].parent) not in text
    assert time.strftime("%Y-") not in text


@pytest.mark.parametrize("killer", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_was(
    undisturbed: tuple[Path, PrepSummary], digits: Path, tmp_path: Path, killer: signal.Signals
) -> None:
    out = tmp_path / "data"
    words = ["prep", digits, "--out", out, "--clip-seconds", "3", "--rows-per-shard", "16", "--workers", "1"]
    killed = [Path(__file__).with_name("killed.py"), "data-00001.parquet", int(killer), *words]
    done = subprocess.run([sys.executable, *map(str, killed)], capture_output=True, text=True)
    assert done.returncode == {signal.SIGINT: 130}.get(killer, -killer), done.stderr
    assert not (out / "manifest.json").exists()
    written = (out / "data-00000.parquet").stat().st_mtime_ns
    summary = prep(str(digits), out, SETTINGS)
    assert summary.resumed >= 16
    assert (out / "data-00000.parquet").stat().st_mtime_ns == written
    assert _files(out) == _files(undisturbed[0])


def test_a_shard_that_was_damaged_meanwhile_is_made_again(
    undisturbed: tuple[Path, PrepSummary], digits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    with pytest.raises(KeyboardInterrupt):
        prep(str(digits), out, SETTINGS, _interrupt_at(50))
    damaged = out / "data-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (out / ".data-00003.parquet.tmp").write_bytes(b"half")
    watcher = _Interrupt(-1)
    summary = prep(str(digits), out, SETTINGS, watcher)
    assert 16 <= summary.resumed < 32
    heard = open_shards(out).column("duration_s")[16:]  # the first shard's were heard by the first run
    assert watcher.seen[-1].audio_seconds == pytest.approx(sum(heard))
    assert _files(out) == _files(undisturbed[0])


def _interrupt_at(done: int) -> "_Interrupt":
    return _Interrupt(done)


class _Interrupt:
    def __init__(self, done: int) -> None:
        self.done = done
        self.seen: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)
        if progress.done == self.done:
            raise KeyboardInterrupt


def test_a_finished_run_is_not_done_again(undisturbed: tuple[Path, PrepSummary], digits: Path) -> None:
    before = _files(undisturbed[0])
    summary = prep(str(digits), undisturbed[0], SETTINGS)
    assert (summary.utterances, summary.resumed, summary.hours_per_second) == (61, 64, 0.0)
    assert _files(undisturbed[0]) == before


def test_other_settings_and_another_source_are_refused_by_name(
    undisturbed: tuple[Path, PrepSummary], digits: Path, speech: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"dtype of the data in .*expected 'float16', got 'float32'"):
        prep(str(digits), undisturbed[0], PrepSettings(clip_seconds=3.0, rows_per_shard=16, dtype="float32"))
    with pytest.raises(DataError, match=r"source of the data in .* got another one, or one that has changed since"):
        prep(str(speech / "librispeech_misc"), undisturbed[0], SETTINGS)
    with pytest.raises(DataError, match=r"clip_seconds of the data in .*expected 3.0, got 2.0"):
        prep(str(digits), undisturbed[0], PrepSettings(clip_seconds=2.0, max_seconds=2.0, rows_per_shard=16))
    out = tmp_path / "data"
    with pytest.raises(KeyboardInterrupt):
        prep(str(digits), out, SETTINGS, _interrupt_at(40))
    with pytest.raises(DataError, match="channel of the data in"):
        prep(str(digits), out, PrepSettings(clip_seconds=3.0, rows_per_shard=16, channel="left"))


def test_a_recording_that_was_written_anew_while_a_run_was_down_is_seen(tmp_path: Path) -> None:
    source, out = tone_shards(tmp_path, rows=5).parent / "source", tmp_path / "data"
    settings = PrepSettings(clip_seconds=1.0, rows_per_shard=2, workers=1)
    with pytest.raises(KeyboardInterrupt):
        prep(str(source), out, settings, _interrupt_at(4))
    samples, rate = soundfile.read(source / "tone0.wav")
    soundfile.write(source / "tone0.wav", samples[::-1], rate)  # as long as it was
    with pytest.raises(DataError, match=r"written of the data in .* got some that were written since it was begun"):
        prep(str(source), out, settings)
    shutil.rmtree(out)
    prep(str(source), out, settings)
    shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile)  # with times of its own
    assert prep(str(tmp_path / "copy"), out, settings).resumed == 5


def test_a_shard_that_cannot_be_written_is_said_by_the_worker(tmp_path: Path) -> None:
    row = Row("a", "text", "speaker", 1.0, 100, np.zeros((128, 300), np.float16))
    batch = Batch(tmp_path / "nonsuch" / "data-00000.parquet", [pack(row, "float16")], [], "float16")
    result = Preparation("float16", 300, 0.1, 3.0, "mix")(batch)
    assert isinstance(result, DataError)
    assert str(result).startswith(f"{batch.path}: expected to write it, got No such file or directory.")


def test_shards_that_are_not_ours_are_left_alone(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "data-00000.parquet").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"expected no shards without a manifest, got data-00000.parquet"):
        prep(str(digits), tmp_path, SETTINGS)
    assert (tmp_path / "data-00000.parquet").read_bytes() == b"precious"


def test_progress_counts_every_row(digits: Path, tmp_path: Path) -> None:
    watcher = _Interrupt(-1)
    prep(str(digits), tmp_path / "data", SETTINGS, watcher)
    assert [progress.done for progress in watcher.seen] == list(range(1, 65))
    last = watcher.seen[-1]
    assert (last.total, last.kept, last.rejected) == (64, 61, 3)


def test_strict_stops_at_the_first_rejected_row(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest.jsonl line 1 .*missing"):
        prep(str(digits), tmp_path / "data", PrepSettings(clip_seconds=3.0, strict=True))


def test_nothing_kept_is_an_error_and_says_why(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"audio": "a.wav", "text": "x"}\n{"audio": "b.wav", "text": "x"}\n')
    found = (
        r"2 rejected \(2 missing\), the first in manifest.jsonl line 1: no such file: .*/a.wav\. See .*/rejected.jsonl"
    )
    with pytest.raises(DataError, match=found):
        prep(str(path), tmp_path / "data")
    assert len((tmp_path / "data/rejected.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "data/manifest.json").exists()


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match=r"got an empty source. Check SOURCE"):
        prep(str(tmp_path / "empty.jsonl"), tmp_path / "data")


def test_two_runs_cannot_write_to_one_folder(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    out.mkdir()
    with open(out / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=f"{out}: expected no other command .* got another one at work in it"):
            prep(str(digits), out, SETTINGS)
    assert prep(str(digits), out, SETTINGS).utterances == 61


def test_a_finished_folder_that_was_damaged_is_not_called_done(
    undisturbed: tuple[Path, PrepSummary], digits: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(undisturbed[0], tmp_path / "data")
    (out / "data-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"data-00002.parquet: expected a file of the manifest, got No such file"):
        prep(str(digits), out, SETTINGS)
    manifest = out / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"channel": "mix"', b'"channel": "mIx"'))
    with pytest.raises(DataError, match=r"manifest.json: expected the bytes that prep wrote"):
        prep(str(digits), out, SETTINGS)


def test_real_recordings_with_broken_ones_among_them(speech: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (speech / "broken/manifest.jsonl").read_text().splitlines()]
    manifest = tmp_path / "manifest.jsonl"
    with manifest.open("w") as file:
        for row in rows:
            audio = str(speech / "broken" / row["audio"])
            file.write(json.dumps({"audio": audio, "text": "la la", "id": row["audio"]}) + "\n")
    summary = prep(str(manifest), tmp_path / "data")
    assert summary.rejected == {
        "bad_header": 1,
        "corrupt": 2,
        "empty": 3,
        "not_audio": 1,
        "silent": 1,
        "too_short": 1,
        "truncated": 5,
    }
    assert summary.utterances == len(rows) - 14


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"clip_seconds": 0.0}, "--clip-seconds"),
        ({"clip_seconds": 2.9999}, "--clip-seconds"),
        ({"clip_seconds": float("nan")}, "--clip-seconds"),
        ({"clip_seconds": float("inf")}, "--clip-seconds"),
        ({"clip_seconds": 301.0}, "--clip-seconds"),
        ({"max_seconds": float("nan")}, "--max-seconds"),
        ({"max_seconds": 31.0}, "--max-seconds"),
        ({"min_seconds": 5.0, "max_seconds": 4.0}, "--min-seconds"),
        ({"channel": "centre"}, "--channel"),
        ({"rows_per_shard": 0}, "--rows-per-shard"),
        ({"workers": -1}, "--workers"),
        ({"dtype": "bfloat16"}, "--dtype"),
        ({"format": "nonsuch"}, "--format"),
    ],
)
def test_settings_out_of_bounds(settings: dict[str, object], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        PrepSettings(**settings)  # type: ignore[arg-type]
