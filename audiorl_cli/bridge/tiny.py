"""The built-in tiny model: a whole Qwen3-Omni thinker of 0.8 million parameters, for CPUs, tests and the demo."""

from typing import Any, Final

import numpy as np
from transformers import PreTrainedTokenizerBase

from audiorl_cli import core
from audiorl_cli.bridge.tokenizer import MEDIA_TOKENS
from audiorl_cli.bridge.weights import ParameterPath, Source

SEED: Final = 0
HIDDEN: Final = 128
BEFORE_POSITIONS: Final = frozenset(("conv2d1", "conv2d2", "conv2d3", "conv_out"))


def tiny_config(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The tiny model's `config.json`, in transformers' keys, over the vocabulary of `tokenizer`."""
    token = {name: tokenizer.convert_tokens_to_ids(text) for name, text in MEDIA_TOKENS.items()}
    return {
        "model_type": "qwen3_omni_moe_thinker",
        "architectures": ["Qwen3OmniMoeThinkerForConditionalGeneration"],
        "tie_word_embeddings": True,
        "audio_token_id": token["audio_token"],
        "image_token_id": token["image_token"],
        "video_token_id": token["video_token"],
        "audio_start_token_id": token["audio_bos_token"],
        "vision_start_token_id": token["vision_bos_token"],
        "vision_end_token_id": token["vision_eos_token"],
        "user_token_id": tokenizer.convert_tokens_to_ids("user"),
        "audio_config": {
            "num_mel_bins": core.MEL_BINS,
            "d_model": HIDDEN,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 2 * HIDDEN,
            "downsample_hidden_size": 16,
            "output_dim": HIDDEN,
            "n_window": core.CHUNK_FRAMES // 2,
            "n_window_infer": 8 * core.CHUNK_FRAMES,
        },
        "vision_config": {
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "patch_size": 4,
            "num_position_embeddings": 16,
            "out_hidden_size": HIDDEN,
            "deepstack_visual_indexes": [],
        },
        "text_config": {
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "moe_intermediate_size": 64,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [8, 4, 4],
                "mrope_interleaved": True,
            },
        },
    }


def tiny_values() -> Source:
    """The tiny model's initial values, always the same.

    Kernels are scaled by what goes into them, embeddings are small, norms one, biases zero.
    The kernels that stand before the tower's positions are twice that: three GELUs leave the audio a twentieth as loud
    as the positions added to it, and learning to listen would take that much longer.
    """
    generator = np.random.default_rng(SEED)

    def value(path: ParameterPath, shape: tuple[int, ...]) -> np.ndarray:
        if path[-1] == "bias":
            return np.zeros(shape, np.float32)
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        fan_in = shape[1] if "experts" in path else int(np.prod(shape[:-1]))
        gain = 2.0 if BEFORE_POSITIONS.intersection(path) else 1.0
        scale = 0.02 if path[-1] == "embedding" else gain * fan_in**-0.5
        return generator.standard_normal(shape, np.float32) * np.float32(scale)

    return value
