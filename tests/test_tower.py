"""The audio tower against transformers' (see reference.py), and what padding, neighbours and windows may change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import reference
import soundfile
from flax import nnx
from transformers import WhisperFeatureExtractor

from audiorl_cli import core
from audiorl_cli.bridge import checkpoint

Tower = Callable[..., np.ndarray]

# 0.2 s, one frame less than a chunk, a chunk, one frame more, odd lengths, a window, more, the whole 30 s
LENGTHS = (20, 21, 99, 100, 101, 733, 800, 801, 1567, 3000)


def compiled(tower: Any) -> Tower:
    graph, state = nnx.split(tower)

    @jax.jit
    def run(state: Any, features: Any, mask: Any) -> Any:
        tower = nnx.merge(graph, state)
        with tower.mesh:
            return tower(features, mask)

    return lambda features, mask=None: np.asarray(run(state, features, mask))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tower")
    model = reference.thinker(folder)
    model.folder = folder
    return model


@pytest.fixture(scope="module")
def tower(theirs: Any) -> Any:
    return checkpoint.load(str(theirs.folder)).model.audio_tower


@pytest.fixture(scope="module")
def ours(tower: Any) -> Tower:
    return compiled(tower)


def test_vectors_are_the_audio_tokens_of_the_prompt_for_every_length(tower: Any) -> None:
    frames = range(core.CLIP_FRAMES + 1)
    assert [tower.vectors(length) for length in frames] == [core.audio_tokens(length) for length in frames]


def test_clips_of_all_lengths_in_one_padded_batch_are_heard_as_transformers_hears_each_alone(
    theirs: Any, ours: Tower
) -> None:
    clips = [reference.mel(length, seed) for seed, length in enumerate(LENGTHS)]
    heard = ours(*reference.batch(clips, core.CLIP_FRAMES))
    assert heard.shape == (len(clips), 390, 128)
    for clip, row in zip(clips, heard, strict=True):
        expected = reference.tower(theirs, clip)
        assert expected.shape == (core.audio_tokens(clip.shape[1]), 128)
        assert expected.std() > 0.3
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-4, rtol=0)
        assert not row[len(expected) :].any()


@pytest.mark.parametrize("frames", [20, 101, 1567])
def test_a_clip_without_padding_or_mask_is_heard_the_same(theirs: Any, ours: Tower, frames: int) -> None:
    clip = reference.mel(frames)
    np.testing.assert_allclose(ours(clip[None])[0], reference.tower(theirs, clip), atol=1e-4, rtol=0)


def test_a_recording_through_the_feature_extractor(theirs: Any, ours: Tower, speech: Path) -> None:
    samples, _ = soundfile.read(sorted((speech / "librispeech").rglob("*.flac"))[0], dtype="float32")
    features = WhisperFeatureExtractor(feature_size=128)(samples, sampling_rate=16_000, return_attention_mask=True)
    mask = np.asarray(features["attention_mask"], np.int32)
    audio = np.asarray(features["input_features"])[..., : mask.shape[1]]
    expected = reference.tower(theirs, audio[0][:, : mask.sum()])
    np.testing.assert_allclose(ours(audio, mask)[0, : len(expected)], expected, atol=1e-4, rtol=0)


def test_a_vector_hears_its_own_window_and_no_other(ours: Tower) -> None:
    clip = reference.mel(3000)
    other = clip.copy()
    other[:, 1700:1710] += 1  # in the third window of 800 frames: vectors 208 to 311
    changed = np.abs(ours(clip[None])[0] - ours(other[None])[0]).max(axis=-1) > 1e-5
    assert changed[208:312].all()
    assert not changed[:208].any()
    assert not changed[312:].any()


def test_a_row_without_audio_gives_zeros(ours: Tower) -> None:
    heard = ours(*reference.batch([reference.mel(0), reference.mel(300)], core.CLIP_FRAMES))
    assert not heard[0].any()
    assert np.isfinite(heard).all()


def test_chunks_of_another_size(tmp_path: Path) -> None:
    theirs = reference.thinker(tmp_path, audio_config={"n_window": 25, "n_window_infer": 400, "encoder_layers": 1})
    for layer in theirs.audio_tower.layers:
        # One window needs no mask, and transformers' counts 13 vectors for every 100 frames whatever a chunk is.
        layer._forward_pre_hooks.clear()
    tower = checkpoint.load(str(tmp_path)).model.audio_tower
    assert (tower.chunk_vectors, tower.window_vectors) == (7, 56)
    clip = reference.mel(330)
    heard = compiled(tower)(clip[None])
    assert heard.shape[1] == 6 * 7 + 4
    np.testing.assert_allclose(heard[0], reference.tower(theirs, clip), atol=1e-4, rtol=0)
