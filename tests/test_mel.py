"""Log-mel features against transformers' own extractor, on real speech and at the edges of the window."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import librosa.filters
import numpy as np
import pytest
import soundfile
from transformers import WhisperFeatureExtractor

from audiorl_cli.data.mel import SILENCE, log_mel, mel_filters


@pytest.fixture(scope="module")
def extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=128)


@pytest.fixture(scope="module")
def clips(speech: Path) -> list[np.ndarray]:
    paths = sorted(speech.glob("librispeech/**/*.flac"))[::10]
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


def _agrees(extractor: WhisperFeatureExtractor, samples: np.ndarray) -> None:
    reference = extractor(samples, sampling_rate=16000, return_attention_mask=True, return_tensors="np")
    ours = log_mel(samples)
    assert ours.features.dtype == np.float32
    assert ours.num_frames == reference["attention_mask"][0].sum()
    np.testing.assert_allclose(ours.features, reference["input_features"][0], rtol=0, atol=1e-4)


def _exact(samples: np.ndarray) -> np.ndarray:
    """Log-mel in a window of 30 s, all of it in float64 (Radford et al. 2022, section 2.2)."""
    padded = np.pad(np.pad(samples.astype(np.float64), (0, 480_000 - len(samples))), 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[:-1:160]
    power = np.abs(np.fft.rfft(frames * np.hanning(401)[:-1])) ** 2
    filters = librosa.filters.mel(sr=16_000, n_fft=400, n_mels=128, dtype=np.float64)
    log = np.log10(np.maximum(filters @ power.T, 1e-10))
    features: np.ndarray = (np.maximum(log, log.max() - 8) + 4) / 4
    return features


def test_features_are_those_of_float64(clips: list[np.ndarray], speech: Path) -> None:
    time = np.arange(160_000) / 16_000
    tones = [0.9 * np.sin(2 * np.pi * hertz * time) for hertz in (50, 1000, 3999.5, 7990)]
    # The first of these was 8e-5 off when its spectrum was in float32: little above 4 kHz, under loud vowels.
    steep = soundfile.read(next(speech.rglob("2414-128291-0002.flac")), dtype="float32")[0]
    for samples in (steep, *clips, 1e-3 * clips[0], *tones, np.sign(tones[0]), 0.5 + 1e-5 * tones[1]):
        narrow = samples.astype(np.float32)
        np.testing.assert_allclose(log_mel(narrow).features, _exact(narrow), rtol=0, atol=1e-6)


def test_filters_are_those_of_the_extractor(extractor: WhisperFeatureExtractor) -> None:
    np.testing.assert_allclose(mel_filters(), extractor.mel_filters, rtol=0, atol=1e-6)


def test_real_clips_agree_padded_frames_included(extractor: WhisperFeatureExtractor, clips: list[np.ndarray]) -> None:
    for samples in clips:
        _agrees(extractor, samples)


@pytest.mark.parametrize("count", [1, 100, 199, 200, 201, 399, 400, 401, 16_000])
def test_the_mirrored_start_and_the_end_agree(
    extractor: WhisperFeatureExtractor, clips: list[np.ndarray], count: int
) -> None:
    _agrees(extractor, clips[0][20_000 : 20_000 + count])


@pytest.mark.parametrize("short_by", [0, 1, 39, 41, 120, 161, 200, 400])
def test_a_full_window_agrees_where_it_mirrors_its_end(
    extractor: WhisperFeatureExtractor, clips: list[np.ndarray], short_by: int
) -> None:
    _agrees(extractor, np.resize(clips[0], 480_000 - short_by))


def test_silence_is_one_constant() -> None:
    mel = log_mel(np.zeros(16_000, np.float32))
    assert (mel.features == -1.5).all()  # log10(1e-10) = -10, and (-10 + 4) / 4
    assert SILENCE == -1.5
    assert mel.num_frames == 100


def test_a_short_window_is_that_of_an_extractor_of_that_length(clips: list[np.ndarray]) -> None:
    samples = clips[0][:40_000]
    reference = WhisperFeatureExtractor(feature_size=128, chunk_length=3)
    expected = reference(samples, sampling_rate=16000, return_tensors="np")["input_features"][0]
    mel = log_mel(samples, 300)
    assert mel.features.shape == (128, 300)
    assert mel.num_frames == 250
    np.testing.assert_allclose(mel.features, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [0, 48_001])
def test_no_samples_and_too_many_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 48000"):
        log_mel(np.zeros(count, np.float32), 300)


def test_features_are_their_caller_s_own(clips: list[np.ndarray]) -> None:
    first = log_mel(clips[0]).features
    kept = first.copy()
    log_mel(clips[1])
    assert np.array_equal(first, kept)
    assert np.array_equal(log_mel(clips[0]).features, kept)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(log_mel, clips * 4))
    for found, samples in zip(together, clips * 4, strict=True):
        assert np.array_equal(found.features, log_mel(samples).features)


def test_a_frame_has_the_same_bits_wherever_in_the_clip_it_stands(clips: list[np.ndarray]) -> None:
    samples, shift = np.resize(clips[0], 480_000), 37  # no multiple of the lanes: each frame changes its place
    whole, part = log_mel(samples).features, log_mel(samples[shift * 160 :]).features
    loudest = whole.max()
    assert part.max() == loudest  # else another floor
    assert np.array_equal(whole[:, shift + 2 : -2], part[:, 2 : -2 - shift])


def test_a_narrower_type_is_the_rounded_one(clips: list[np.ndarray]) -> None:
    narrow = log_mel(clips[0], dtype="float16").features
    assert narrow.dtype == np.float16
    assert np.array_equal(narrow, log_mel(clips[0]).features.astype(np.float16))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_one_sample_out_of_range_leaves_no_finite_feature(bad: float) -> None:
    samples = np.zeros(16_000, np.float32)
    samples[8_000] = bad
    with np.errstate(over="ignore", invalid="ignore"):
        assert not np.isfinite(log_mel(samples).features).any()


_FULL = """
import resource, sys
import numpy as np
from audiorl_cli.data.mel import log_mel
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.stdout.write(repr(float(log_mel(np.ones(16_000, np.float32), 100).features.sum())))
"""


def test_a_full_disk_where_compiled_code_is_kept_costs_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == log_mel(np.ones(16_000, np.float32), 100).features.sum()
    assert list(tmp_path.rglob("*.nbc")) == []
