"""Speech for the demo: reproducible, no speaker on both sides, and every sequence says what its transcript says."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import soundfile

from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.espeak import check_voices
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.speech import DIGITS, Speech, SpeechSettings, digit_sequences, synthesise
from audiorl_cli.errors import DataError, UsageError

SETTINGS = SpeechSettings(train=48, heldout=8)


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Speech]:
    out = tmp_path_factory.mktemp("synthetic")
    return out, synthesise(out, SETTINGS)


def _check(speech: Speech) -> None:
    assert not set(speech.train.speakers) & set(speech.heldout.speakers)
    for part, count in ((speech.train, 48), (speech.heldout, 8)):
        rows = _rows(part.folder)
        assert len(rows) == part.utterances == count
        assert len({row["id"] for row in rows}) == count
        for row in rows:
            words = row["text"].split()
            assert set(words) <= set(DIGITS)
            assert 0.2 * len(words) < row["duration"] <= 3.0
            clip = decode(part.folder / row["audio"], "mix", Extent(None, row["duration"], 3.0))
            assert abs(clip.samples).max() > 0.01


def test_synthetic_speech(synthetic: tuple[Path, Speech]) -> None:
    _, speech = synthetic
    _check(speech)
    assert len(speech.train.speakers) == 12
    assert len(speech.heldout.speakers) == 2
    assert {len(row["text"].split()) for row in _rows(speech.train.folder)} == {2, 3, 4}


def test_synthetic_speech_is_the_same_in_another_process(synthetic: tuple[Path, Speech], tmp_path: Path) -> None:
    synthesise(tmp_path, SETTINGS)
    assert _bytes(tmp_path) == _bytes(synthetic[0])


def test_another_seed_gives_other_sequences(synthetic: tuple[Path, Speech], tmp_path: Path) -> None:
    other = synthesise(tmp_path, SpeechSettings(train=48, heldout=8, seed=1))
    assert [row["text"] for row in _rows(other.train.folder)] != [
        row["text"] for row in _rows(synthetic[1].train.folder)
    ]


def test_longer_words_take_longer(synthetic: tuple[Path, Speech]) -> None:
    rows = _rows(synthetic[1].train.folder)
    mean = {n: [row["duration"] for row in rows if len(row["text"].split()) == n] for n in (2, 4)}
    assert sum(mean[4]) / len(mean[4]) > 1.4 * sum(mean[2]) / len(mean[2])


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(DataError, match="nonsuch"):
        check_voices(["en+nonsuch"])


def test_synthetic_speech_goes_through_prep_whole(synthetic: tuple[Path, Speech], tmp_path: Path) -> None:
    summary = prep(str(synthetic[1].heldout.folder), tmp_path / "data", PrepSettings(clip_seconds=3.0, strict=True))
    assert summary.utterances == 8


def test_recorded_digits_are_joined(speech: Path, tmp_path: Path) -> None:
    made = digit_sequences(speech / "digits", tmp_path, SETTINGS)
    _check(made)
    assert made.heldout.speakers == ("theo",)
    assert made.train.speakers == ("george", "jackson", "lucas", "nicolas")
    again = digit_sequences(speech / "digits", tmp_path / "again", SETTINGS)
    assert _bytes(again.train.folder) == _bytes(made.train.folder)


def test_every_recording_is_used_about_equally(speech: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    chosen = []
    for row in _rows(speech / "digits"):
        if row["speaker"] in ("george", "theo") and row["audio"].endswith("_7.wav"):
            samples, rate = soundfile.read(speech / "digits" / row["audio"], dtype="int16")
            name = Path(row["audio"]).name
            soundfile.write(small / name, samples, rate)
            chosen.append({"audio": name, "text": row["text"], "speaker": row["speaker"]})
    (small / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    made = digit_sequences(small, tmp_path / "out", SpeechSettings(train=100, heldout=10))
    used = Counter(word for row in _rows(made.train.folder) for word in row["text"].split())
    assert set(used) == set(DIGITS)
    assert max(used.values()) - min(used.values()) <= 1


def test_recordings_are_brought_to_one_level_and_those_to_learn_from_vary_in_speed(
    speech: Path, tmp_path: Path
) -> None:
    recorded = {round(row["duration"], 4) for row in _rows(speech / "digits")}
    made = digit_sequences(speech / "digits", tmp_path, SpeechSettings(train=40, heldout=20, digits=(1, 1)))
    for part in (made.train, made.heldout):
        for row in _rows(part.folder):
            samples, _ = soundfile.read(part.folder / row["audio"])
            assert abs(samples).max() == pytest.approx(0.7, abs=1e-4)
    assert {row["duration"] for row in _rows(made.heldout.folder)} <= recorded
    assert not {row["duration"] for row in _rows(made.train.folder)} <= recorded


def test_a_faster_recording_is_shorter_by_as_much(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SpeechSettings(train=8, heldout=1, digits=(1, 1))
    seconds = {}
    for speed in (1.0, 1.25):
        monkeypatch.setattr("audiorl_cli.data.speech._SPEEDS", (speed, speed))
        made = digit_sequences(speech / "digits", tmp_path / str(speed), settings)
        seconds[speed] = [row["duration"] for row in _rows(made.train.folder)]
    assert seconds[1.25] == pytest.approx([length / 1.25 for length in seconds[1.0]], abs=1e-3)


def test_one_speaker_cannot_be_held_out(speech: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nobody"):
        digit_sequences(speech / "digits", tmp_path, SpeechSettings(train=4, heldout=4, heldout_speaker="nobody"))
    with pytest.raises(UsageError):
        SpeechSettings(digits=(3, 2))
