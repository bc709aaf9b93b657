"""What is shown of a row: a picture with the right side up, sound that is the recording, no more than a page holds."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from audiorl_cli.core import SAMPLE_RATE
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.evaluate import exhibits as module
from audiorl_cli.evaluate.exhibits import Exhibit, exhibits

SECONDS = (1.2, 12.0, 0.5)


def _tone(hertz: float, seconds: float) -> np.ndarray:
    """Silence but for the middle half."""
    time = np.arange(round(SAMPLE_RATE * seconds)) / SAMPLE_RATE
    middle = (time > seconds / 4) & (time < seconds * 3 / 4)
    return np.asarray(0.4 * middle * np.sin(2 * np.pi * hertz * time), np.float32)


CLIPS = {
    "low": _tone(150, SECONDS[0]),
    "high": _tone(6_000, SECONDS[1]),
    "silence": np.zeros(round(SAMPLE_RATE * SECONDS[2]), np.float32),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for name, samples in CLIPS.items():
        soundfile.write(folder / f"{name}.wav", samples, SAMPLE_RATE, subtype="FLOAT")
        rows.append({"id": name, "audio": f"{name}.wav", "text": "" if name == "silence" else "la"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prep(str(folder / "manifest.jsonl"), folder / "data", PrepSettings(clip_seconds=12.0, workers=1))
    return open_shards(folder / "data")


@pytest.fixture(scope="module")
def shown(shards: Shards) -> dict[str, Exhibit]:
    return exhibits(shards, range(shards.rows))


def _picture(one: Exhibit) -> np.ndarray:
    """The brightness of every pixel."""
    return np.asarray(Image.open(io.BytesIO(one.picture)).convert("L"), np.float64)


def test_the_sound_is_the_recording(shown: dict[str, Exhibit]) -> None:
    for name, samples in CLIPS.items():
        decoded, rate = soundfile.read(io.BytesIO(shown[name].audio), dtype="float32")
        assert (rate, shown[name].silent) == (SAMPLE_RATE, "")
        np.testing.assert_allclose(decoded, samples, rtol=0, atol=1 / 2**15)


def test_low_tones_are_at_the_bottom_and_time_runs_to_the_right(shown: dict[str, Exhibit]) -> None:
    low, high = _picture(shown["low"]), _picture(shown["high"])
    assert low.shape == (128, 120)  # a frame a column, without the padding of the window
    assert high.shape == (128, 900)  # 1,200 frames, more than a screen shows
    assert low[:, 60].argmax() > 100
    assert high[:, 450].argmax() < 30
    for picture in (low, high):
        columns = picture.shape[1]
        quiet, loud = picture[:, : columns // 5], picture[:, 2 * columns // 5 : 3 * columns // 5]
        assert loud.max(axis=0).min() > 2 * quiet.max()


def test_the_picture_is_told_in_words(shown: dict[str, Exhibit]) -> None:
    assert shown["low"].seen == (
        "Log-mel picture of 1.20 seconds, low frequencies at the bottom; sound from 0.30 to 0.91 seconds."
    )
    assert shown["silence"].seen.endswith(": nothing but silence.")
    assert len({*_picture(shown["silence"]).flat}) == 1


def test_a_page_holds_so_much_sound(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {name: len(one.audio) for name, one in exhibits(shards, [0, 1, 2]).items()}
    monkeypatch.setattr(module, "AUDIO_BYTES", sizes["high"] + sizes["silence"])
    shown = exhibits(shards, [1, 0, 2])
    assert [name for name, one in shown.items() if one.audio] == ["high", "silence"]
    assert shown["low"].silent == "this page holds 0 MB of audio already"
    assert shown["low"].picture


def test_where_the_source_is_not_there_the_picture_is(shards: Shards, tmp_path: Path) -> None:
    alone = shutil.copytree(shards.folder, tmp_path / "data")  # the recordings are beside it no more
    [one] = exhibits(open_shards(alone), [0]).values()
    assert (one.audio, bool(one.picture)) == (b"", True)
    assert one.silent.endswith("manifest.jsonl: nothing there")
