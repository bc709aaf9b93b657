"""Parts of recordings that are decoded in order: the samples of the whole, in few passes, in little memory."""

import io
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from audiorl_cli.data import decode as decoding
from audiorl_cli.data import ffmpeg, sequential
from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.mel import log_mel
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.rejected import RejectedError
from audiorl_cli.data.shards import open_shards
from audiorl_cli.errors import DataError

RATE = 16_000
SECONDS = 90


def _aac(path: Path, form: str, seconds: float, seed: int = 0) -> Path:
    """Noise in AAC, with which FFmpeg's decoder makes other samples of a part that it begins in the middle."""
    samples = (3000 * np.random.default_rng(seed).standard_normal((1, round(seconds * RATE)))).astype(np.int16)
    with av.open(str(path), "w", format=form) as container:
        stream: Any = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        for one in av.AudioResampler("fltp", "mono", RATE, 1024).resample(frame):
            container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _aac(tmp_path_factory.mktemp("recording") / "long.m4a", "ipod", SECONDS)


@pytest.fixture(scope="module")
def whole(recording: Path) -> np.ndarray:
    return decode(recording, "mix", Extent(max_seconds=2 * SECONDS)).samples


@pytest.fixture(autouse=True)
def _nothing_is_open() -> Iterator[None]:
    yield
    decoding._close_all()


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many frames were decoded of each recording, by its name."""
    counted: Counter[str] = Counter()

    class Counting(ffmpeg.Ffmpeg):
        def __init__(self, file: io.FileIO, stream: Any, name: Path) -> None:
            super().__init__(file, stream, name)
            self.name = name.name

        def frames(self) -> Iterator[Any]:
            for frame in super().frames():
                counted[self.name] += 1
                yield frame

    monkeypatch.setattr(sequential, "Ffmpeg", Counting)
    return counted


_STARTS = [0.0, 0.5, 1.25, 3.0, 3.0, 4.0, 20.0, 21.0, 55.5, 56.0, 80.0, 84.875]
ORDERS: dict[str, Callable[[list[float]], list[float]]] = {
    "in order": lambda starts: starts,
    "backwards": lambda starts: starts[::-1],
    "shuffled": lambda starts: random.Random(0).sample(starts, len(starts)),
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_part_has_the_samples_of_the_whole_in_whatever_order(
    recording: Path, whole: np.ndarray, frames: Counter[str], order: str
) -> None:
    for start in ORDERS[order](_STARTS):
        part = decode(recording, "mix", Extent(start, 5.0, 30))
        assert np.array_equal(part.samples, whole[round(start * RATE) : round((start + 5) * RATE)]), start
        assert part.seconds == 5.0
    once = len(whole) / 1024
    assert frames["long.m4a"] <= (once + 2 if order == "in order" else 2 * once + 2)


def test_recordings_may_take_turns(tmp_path: Path, frames: Counter[str]) -> None:
    paths = [_aac(tmp_path / f"{number}.m4a", "ipod", 12.0, number) for number in range(4)]
    each = [decode(path, "mix", Extent(max_seconds=30)).samples for path in paths]
    for start in range(10):
        for path, samples in zip(paths, each, strict=True):
            part = decode(path, "mix", Extent(float(start), 2.0, 30)).samples
            assert np.array_equal(part, samples[start * RATE : (start + 2) * RATE])
    assert all(frames[path.name] <= 12 * RATE / 1024 + 2 for path in paths)


def test_the_end_of_a_recording_is_known(recording: Path, whole: np.ndarray) -> None:
    total = len(whole) / RATE
    assert np.array_equal(decode(recording, "mix", Extent(80.0, None, 30)).samples, whole[80 * RATE :])
    for extent in (Extent(80.0, 20.0, 30), Extent(total, 1.0, 30), Extent(500.0, 1.0, 30), Extent(500.0, None, 30)):
        with pytest.raises(RejectedError) as caught:
            decode(recording, "mix", extent)
        assert caught.value.reason == "bad_segment"
    with pytest.raises(RejectedError) as caught:
        decode(recording, "mix", Extent(10.0, None, 30))
    assert caught.value.reason == "too_long"
    assert np.array_equal(decode(recording, "mix", Extent(1.0, 1.0, 30)).samples, whole[RATE : 2 * RATE])


def test_damage_costs_the_parts_behind_it_alone_in_whatever_order(tmp_path: Path) -> None:
    path = _aac(tmp_path / "a.aac", "adts", 30.0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # within a frame
    for starts in ((1.0, 10.0, 14.0, 20.0), (20.0, 14.0, 1.0, 10.0)):
        found = {}
        for start in starts:
            try:
                found[start] = str(decode(path, "mix", Extent(start, 3.0, 30)).seconds)
            except RejectedError as error:
                found[start] = error.reason
        assert found == {1.0: "3.0", 10.0: "3.0", 14.0: "corrupt", 20.0: "corrupt"}
        decoding._close_all()


def test_a_recording_that_was_written_anew_is_opened_anew(tmp_path: Path) -> None:
    path = _aac(tmp_path / "a.m4a", "ipod", 6.0, 1)
    before = decode(path, "mix", Extent(1.0, 2.0, 30)).samples
    _aac(path, "ipod", 7.0, 2)
    after = decode(path, "mix", Extent(1.0, 2.0, 30)).samples
    assert not np.array_equal(before, after)
    assert np.array_equal(after, decode(path, "mix", Extent(max_seconds=30)).samples[RATE : 3 * RATE])


def test_little_of_a_recording_is_held(tmp_path: Path) -> None:
    path = _aac(tmp_path / "a.m4a", "ipod", 300.0)
    decode(path, "mix", Extent(0.0, 1.0, 30))
    tracemalloc.start()
    try:
        for start in range(0, 295, 7):
            decode(path, "mix", Extent(float(start), 3.0, 30))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20  # all of it is 19 MB
    finally:
        tracemalloc.stop()


def test_no_room_for_what_lies_further_back_is_the_disk_s_fault(
    recording: Path, small_files: Callable[[int], None]
) -> None:
    decode(recording, "mix", Extent(80.0, 1.0, 30))
    small_files(100_000)
    with pytest.raises(DataError, match="TMPDIR"):
        decode(recording, "mix", Extent(20.0, 1.0, 30))


def test_prep_makes_the_same_shards_of_segments_with_any_number_of_workers(
    recording: Path, whole: np.ndarray, tmp_path: Path
) -> None:
    starts = random.Random(1).sample([0.5 * number for number in range(160)], 60)
    source = tmp_path / "source"
    source.mkdir()
    segments = "".join(f"u{n:02d} r {start} {start + 2.5}\n" for n, start in enumerate(starts))
    (source / "segments").write_text(segments + "late r 89.0 91.5\n")
    (source / "text").write_text("".join(f"u{n:02d} word\n" for n in range(60)) + "late word\n")
    (source / "wav.scp").write_text(f"r {recording}\n")
    made = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        prep(str(source), out, PrepSettings(clip_seconds=3.0, rows_per_shard=20, format="kaldi", workers=workers))
        made.append({path.name: path.read_bytes() for path in out.iterdir() if path.name != "source.json"})
    assert made[0] == made[1]
    assert json.loads(made[0]["rejected.jsonl"])["reason"] == "bad_segment"
    rows = open_shards(tmp_path / "out1").read(range(60))
    for row, start in zip(rows, starts, strict=True):
        expected = log_mel(whole[round(start * RATE) : round((start + 2.5) * RATE)], 300, "float16").features
        assert np.array_equal(row.features, expected), row.id
