"""The model that speed is measured on: a random thinker in the released one's proportions, large enough that its
arithmetic and not the calls around it take the time.

48 million parameters, 26 million of the decoder's active for a token (4 experts, 2 chosen), 5 million in the audio
tower; the tiny model's tokenizer, filled up to 8,192 tokens. Nothing ends a completion but its limit.

    python benchmarks/bench_model.py FOLDER
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
import torch
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration, WhisperFeatureExtractor
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig

from audiorl_cli import core
from audiorl_cli.bridge.tiny import tiny_config
from audiorl_cli.bridge.tokenizer import SPECIAL_TOKENS, tiny_tokenizer
from audiorl_cli.data.prep import PrepSettings, prep

VOCABULARY: Final = 8192
HIDDEN: Final = 512
SEED: Final = 0


def write(folder: Path) -> None:
    """Write config, weights and tokenizer in Hugging Face layout, always the same."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f" w{number}" for number in range(VOCABULARY - len(tokenizer))])
    silent = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    model = Qwen3OmniMoeThinkerForConditionalGeneration(Qwen3OmniMoeThinkerConfig(**_config(tiny_config(tokenizer))))
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight") or "ln_" in name:
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim == 1 or "embed_tokens" in name:
                parameter.copy_(0.3 * noise)
            else:  # so large that logits differ from place to place and experts are chosen decidedly
                fan_in = parameter.shape[-1] if "experts" in name else parameter[0].numel()
                parameter.copy_(1.5 * noise * fan_in**-0.5)
        model.lm_head.weight[silent] = 0.0  # among 8,192 random logits one of nought is never the largest
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=core.MEL_BINS, return_attention_mask=True).save_pretrained(folder)


def shards(folder: Path, lengths: Sequence[float]) -> Path:
    """Shards of a clip of noise of each of `lengths` (seconds), each with a text; their folder."""
    source = folder / "noise"
    source.mkdir()
    generator = np.random.default_rng(SEED)
    for row, seconds in enumerate(lengths):
        noise = generator.normal(0, 0.1, round(seconds * core.SAMPLE_RATE))
        soundfile.write(source / f"{row:04}.wav", noise, core.SAMPLE_RATE)
        (source / f"{row:04}.txt").write_text("one two three four five", encoding="utf-8")
    prep(str(source), folder / "shards", PrepSettings(workers=1))
    return folder / "shards"


def _config(config: dict[str, Any]) -> dict[str, Any]:
    """The tiny model's config with the sizes of this one."""
    width, layers = HIDDEN // 2, 6
    config["tie_word_embeddings"] = False
    config["audio_config"] |= {
        "d_model": width,
        "encoder_layers": layers,
        "encoder_ffn_dim": 4 * width,
        "downsample_hidden_size": 64,
        "output_dim": HIDDEN,
    }
    config["vision_config"] |= {"out_hidden_size": HIDDEN}
    config["text_config"] |= {
        "hidden_size": HIDDEN,
        "intermediate_size": 3 * HIDDEN,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "moe_intermediate_size": 512,
        "tie_word_embeddings": False,
    }
    config["text_config"]["rope_parameters"] |= {"mrope_section": [16, 8, 8]}
    return config


if __name__ == "__main__":
    write(Path(sys.argv[1]))
