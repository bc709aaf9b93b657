"""The model that speed is measured on: a random thinker in the released one's proportions, large enough that its
arithmetic and not the calls around it take the time.

`SMALL`, for a CPU: 48 million parameters, 26 million of the decoder's active for a token (4 experts, 2 chosen), 5
million in the audio tower. `LARGE`, for a GPU: the released one's widths and 8 of its 48 layers, 32 of its 128 experts.
The tokenizer is the tiny model's, filled up with words. Nothing ends a completion but its limit.

    python benchmarks/bench_model.py FOLDER
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
import torch
from transformers import (
    PreTrainedTokenizerBase,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig

from audiorl_cli import core
from audiorl_cli.bridge.tiny import tiny_config
from audiorl_cli.bridge.tokenizer import SPECIAL_TOKENS, tiny_tokenizer
from audiorl_cli.data.prep import PrepSettings, prep

SEED: Final = 0


@dataclass(frozen=True)
class Size:
    """Numbers of a thinker: `chosen` of its experts for each token; `convolution`: channels before the tower."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    chosen: int
    expert_width: int
    tower_width: int
    tower_layers: int
    tower_heads: int
    convolution: int

    @property
    def active(self) -> int:
        """The decoder's parameters that multiply each token, the head's left out."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        experts = 3 * self.hidden * self.expert_width * self.chosen + self.hidden * self.experts
        return self.layers * (attention + experts)

    @property
    def head(self) -> int:
        """The parameters that multiply each token that is drawn or scored besides."""
        return self.hidden * self.vocabulary


SMALL: Final = Size(8192, 512, 8, 16, 2, 64, 4, 2, 512, 256, 6, 4, 64)
LARGE: Final = Size(32768, 2048, 8, 32, 4, 128, 32, 8, 768, 1280, 8, 20, 480)


def write(folder: Path, size: Size = SMALL, dtype: str = "float32") -> None:
    """Write config, weights and tokenizer in Hugging Face layout; always the same on the same kind of device."""
    tokenizer = _tokenizer(size)
    silent = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:
        model = Qwen3OmniMoeThinkerForConditionalGeneration(Qwen3OmniMoeThinkerConfig(**config(size)))
    generator = torch.Generator(device).manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, device=device)
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
    model.to(getattr(torch, dtype)).save_pretrained(folder)
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


def config(size: Size, layers: int = 0) -> dict[str, Any]:
    """The tiny model's `config.json` with the numbers of `size`; or with so many layers."""
    config = tiny_config(_tokenizer(size))
    config["tie_word_embeddings"] = False
    config["audio_config"] |= {
        "d_model": size.tower_width,
        "encoder_layers": size.tower_layers,
        "encoder_attention_heads": size.tower_heads,
        "encoder_ffn_dim": 4 * size.tower_width,
        "downsample_hidden_size": size.convolution,
        "output_dim": size.hidden,
    }
    config["vision_config"] |= {"out_hidden_size": size.hidden}
    config["text_config"] |= {
        "hidden_size": size.hidden,
        "intermediate_size": 3 * size.hidden,
        "num_hidden_layers": layers or size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        "moe_intermediate_size": size.expert_width,
        "num_experts": size.experts,
        "num_experts_per_tok": size.chosen,
        "tie_word_embeddings": False,
    }
    config["text_config"]["rope_parameters"] |= {"mrope_section": [size.head_dim // 4, *[size.head_dim // 8] * 2]}
    return config


def _tokenizer(size: Size) -> PreTrainedTokenizerBase:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f" w{number}" for number in range(size.vocabulary - len(tokenizer))])
    return tokenizer


if __name__ == "__main__":
    write(Path(sys.argv[1]))
