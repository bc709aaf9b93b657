"""Mixing channels: what cancels is rejected, whatever else two microphones may do is mixed."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiorl_cli.data.channels import mono
from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.rejected import RejectedError

RATE = 16_000


@pytest.fixture(scope="module")
def voice(speech: Path) -> np.ndarray:
    return _read(speech / "librispeech_misc/1089-134686-0000.flac")[: 6 * RATE]


@pytest.fixture(scope="module")
def other(speech: Path) -> np.ndarray:
    return _read(speech / "librispeech_misc/61-70968-0000.flac")[: 4 * RATE]


def _read(path: Path) -> np.ndarray:
    samples: np.ndarray = soundfile.read(path, dtype="float32")[0]
    return samples


def _mixed(*channels: np.ndarray) -> np.ndarray:
    return mono(np.stack(channels, axis=1).astype(np.float32), RATE)


def _cancels(*channels: np.ndarray) -> bool:
    try:
        _mixed(*channels)
    except RejectedError as error:
        return error.reason == "out_of_phase"
    return False


# The energy that is left is (1 - g)^2 / (1 + g^2) of the sum: less than a tenth of it from g = 0.627 on.
@pytest.mark.parametrize(("gain", "cancels"), [(1.0, True), (0.9, True), (0.64, True), (0.61, False), (0.5, False)])
def test_a_second_channel_that_is_the_first_inverted(voice: np.ndarray, gain: float, cancels: bool) -> None:
    assert _cancels(voice, -gain * voice) == cancels
    assert _cancels(-gain * voice, voice) == cancels
    assert _cancels(gain * voice, voice) is False
    assert _cancels(1e-4 * voice, -1e-4 * gain * voice) == cancels


def test_noise_and_offsets_hide_nothing(voice: np.ndarray) -> None:
    noise = np.random.default_rng(0).standard_normal((2, len(voice))) * np.sqrt(np.mean(voice**2)) / 10
    assert _cancels(voice + noise[0], -voice + noise[1])
    assert _cancels(voice + 0.3, -voice + 0.3)  # their sum is an offset and nothing else
    assert not _cancels(voice + 0.3, voice - 0.3)  # the offsets cancel, the sound does not


def test_what_two_channels_may_do_is_mixed(voice: np.ndarray, other: np.ndarray, speech: Path) -> None:
    assert np.array_equal(_mixed(voice, voice), voice)
    assert np.array_equal(_mixed(voice, np.zeros_like(voice)), voice / 2)
    assert not _cancels(voice[: len(other)], -other[: len(voice)])
    for milliseconds in (0.1, 1, 3, 5, 20):
        assert not _cancels(voice, np.roll(voice, round(milliseconds * RATE / 1000)))
    assert not _cancels(np.zeros(RATE), np.zeros(RATE))
    for name in ("librispeech_misc/stereo_two_speakers.wav", "longform/jfk_44k1_stereo.flac"):
        decode(speech / name, "mix", Extent(max_seconds=120))


def test_more_than_two_channels(voice: np.ndarray) -> None:
    nothing = np.zeros_like(voice)
    assert _cancels(voice, -voice, nothing, nothing)
    assert _cancels(voice, -voice, voice, -voice)
    assert not _cancels(voice, -voice, voice, voice)  # half the energy of one is left


def test_a_part_that_cancels(voice: np.ndarray) -> None:
    for seconds, cancels in ((3, True), (6, True)):
        inverted = voice.copy()
        inverted[: seconds * RATE] *= -1
        assert _cancels(voice, inverted) == cancels
    blip = voice.copy()
    blip[: RATE // 10] *= -1
    assert not _cancels(voice, blip)


@pytest.mark.parametrize("suffix", ["wav", "ogg"])
def test_an_inverted_recording_is_rejected_and_a_channel_of_it_kept(
    voice: np.ndarray, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([voice, np.where(np.arange(len(voice)) < 3 * RATE, voice, -voice)], axis=1), RATE)
    for extent in (Extent(), Extent(3.0, 3.0)):
        with pytest.raises(RejectedError, match="--channel left") as caught:
            decode(path, "mix", extent)
        assert caught.value.reason == "out_of_phase"
    sound = decode(path, "mix", Extent(0.0, 2.9)).samples
    assert np.corrcoef(sound, voice[: len(sound)])[0, 1] > 0.9
    left, right = (decode(path, channel, Extent()).samples for channel in ("left", "right"))
    assert np.corrcoef(left, voice)[0, 1] > 0.9
    assert np.corrcoef(left[3 * RATE :], right[3 * RATE :])[0, 1] < -0.9
