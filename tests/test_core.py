"""The audio contract: token counts by hand and against transformers, and key sets that contain what they must."""

import ast
import inspect

import pytest

from audiorl_cli import core
from audiorl_cli.core import AUDIO_KEYS, EASYDEL_KEY_SETS, audio_tokens, clip_frames

BY_HAND = [(0, 0), (1, 1), (8, 1), (9, 2), (50, 7), (99, 13), (100, 13), (101, 14), (200, 26), (800, 104), (3000, 390)]


@pytest.mark.parametrize(("frames", "tokens"), BY_HAND)
def test_audio_tokens_by_hand(frames: int, tokens: int) -> None:
    assert audio_tokens(frames) == tokens


def test_audio_tokens_are_those_of_the_released_processor() -> None:
    torch = pytest.importorskip("torch")
    from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import _get_feat_extract_output_lengths

    frames = torch.arange(1, core.CLIP_FRAMES + 1)
    assert [audio_tokens(n) for n in frames.tolist()] == _get_feat_extract_output_lengths(frames).tolist()


def test_negative_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="expected >= 0, got -1"):
        audio_tokens(-1)


def test_frames_of_a_window() -> None:
    assert core.CLIP_FRAMES == 3000
    assert (clip_frames(30.0), clip_frames(3.0), clip_frames(0.07), clip_frames(2.3)) == (3000, 300, 7, 230)


def test_audio_keys_are_in_every_list() -> None:
    assert {"input_features", "feature_attention_mask"} == AUDIO_KEYS
    assert [name for _, name in EASYDEL_KEY_SETS] == [
        "GENERATION_MODEL_INPUT_KEYS",
        "GROUPED_MULTIMODAL_MODEL_INPUT_KEYS",
        "FLATTENABLE_MULTIMODAL_KEYS",
        "_TOKENIZED_FIELDS",
    ]
    assert all(keys == AUDIO_KEYS for keys in EASYDEL_KEY_SETS.values())
    assert core.PROMPT_ALIGNED not in EASYDEL_KEY_SETS


def test_an_inconsistent_edit_does_not_survive_an_import() -> None:
    source = inspect.getsource(core)
    for right, wrong in (("HOP_LENGTH: Final = 160", "HOP_LENGTH: Final = 320"), ("PER_CHUNK: Final = 13", "= 12")):
        edited = source.replace(right, wrong if ":" in wrong else f"PER_CHUNK: Final {wrong}")
        assert edited != source
        with pytest.raises(AssertionError, match="390"):
            exec(compile(ast.parse(edited), "core.py", "exec"), {})
