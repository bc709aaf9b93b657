"""The examples: their configs can be read, and what they are made of is what they say."""

from pathlib import Path

import check
import numpy as np
import pytest
import recordings
import soundfile

from audiorl_cli import config as configs

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RATE = 8_000


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.toml")), ids=lambda path: path.parent.name)
def test_every_config_can_be_read(path: Path) -> None:
    assert configs.load(path) != configs.RunConfig()


@pytest.fixture
def spoken(tmp_path: Path) -> list[dict[str, object]]:
    """Six rows of a tone each."""
    (tmp_path / "audio").mkdir()
    rows: list[dict[str, object]] = []
    for number in range(6):
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
        soundfile.write(tmp_path / f"audio/{number}.wav", tone, RATE)
        rows.append({"id": f"{number}", "audio": f"audio/{number}.wav", "text": "nine zero one", "speaker": "ann"})
    return rows


def test_noise_is_as_loud_as_it_is_said_to_be(spoken: list[dict[str, object]], tmp_path: Path) -> None:
    made = recordings.noisy(tmp_path, spoken, tmp_path / "noisy", seed=0, each=True)
    assert len(made) == 6 * (1 + len(recordings.SNRS) + 1)
    tone, _ = soundfile.read(tmp_path / "audio" / "0.wav")
    for snr in recordings.SNRS:
        row = next(row for row in made if row["condition"] == f"{snr:g} dB")
        heard, _ = soundfile.read(tmp_path / "noisy" / row["audio"])
        share = heard @ tone / (tone @ tone)  # how much of the tone is left
        noise = heard - share * tone
        assert 20 * np.log10(np.std(share * tone) / np.std(noise)) == pytest.approx(snr, abs=0.3)
        assert (row["text"], row["speaker"]) == ("nine zero one", "ann")
        assert np.abs(heard).max() == pytest.approx(0.5, abs=1e-3)


def test_noise_alone_has_no_words(spoken: list[dict[str, object]], tmp_path: Path) -> None:
    made = recordings.noisy(tmp_path, spoken, tmp_path / "noisy", seed=0, each=False)
    assert [row["condition"] for row in made].count(recordings.NOTHING) == 2  # one for every five, rounded up
    assert all((row["text"] == "") == (row["condition"] == recordings.NOTHING) for row in made)
    again = recordings.noisy(tmp_path, spoken, tmp_path / "again", seed=0, each=False)
    for row in made:
        assert (tmp_path / "noisy" / row["audio"]).read_bytes() == (tmp_path / "again" / row["audio"]).read_bytes()
    assert again == made


def test_a_check_has_no_words_and_knows_what_they_add_up_to(spoken: list[dict[str, object]]) -> None:
    row = recordings.checked(spoken)[0]
    assert (row["text"], row["count"], row["total"]) == ("", 3, 10)


@pytest.mark.parametrize(
    ("completion", "worth"),
    [
        ("nine zero one", 1.0),
        ("one zero nine", 1.0),  # the order has no say
        ("five five", 0.0),  # the sum, of too few
        ("nine zero two", 0.0),
        ("nine zero one please", 0.0),
        ("", 0.0),
    ],
)
def test_what_agrees_with_a_check(completion: str, worth: float) -> None:
    assert check.agrees(completion, count=3, total=10) == worth


def test_a_half_of_a_speaker_has_every_second_take(speech: Path, tmp_path: Path) -> None:
    halves = []
    for half in (0, 1):
        out = tmp_path / f"{half}"
        rows = list(recordings.sequences(speech / "digits", out, ["theo"], 5, seed=0, half=half))
        assert len(rows) == 5
        view = (out / "view" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        halves.append({line for line in view if '"theo"' in line})
    assert len(halves[0]) == len(halves[1]) == 250
    assert not halves[0] & halves[1]
