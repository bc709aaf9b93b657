"""transformers' own thinker as the reference: random checkpoints in Hugging Face layout, and what it makes of them.

Its audio layers are given their windows, as `bridge/reference.py` says.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import Qwen3OmniMoeForConditionalGeneration, Qwen3OmniMoeThinkerForConditionalGeneration
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import (
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeThinkerConfig,
)

from audiorl_cli.bridge.reference import with_windows
from audiorl_cli.bridge.tiny import tiny_config
from audiorl_cli.bridge.tokenizer import tiny_tokenizer
from audiorl_cli.data.mel import SILENCE

CLIP_FRAMES = 3000
WEIGHTS = "model.safetensors"
Tensors = dict[str, np.ndarray]


def thinker(folder: Path, seed: int = 0, **changes: dict[str, Any] | bool) -> Any:
    """A random thinker of the tiny model's shape but for `changes`, written to `folder` with a tokenizer.

    Its weights are large enough that logits differ from position to position and experts are chosen decidedly.
    """
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    if "tie_word_embeddings" in changes:
        config["text_config"]["tie_word_embeddings"] = changes["tie_word_embeddings"]
    model = Qwen3OmniMoeThinkerForConditionalGeneration(Qwen3OmniMoeThinkerConfig(**config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight") or "ln_" in name:
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim == 1 or "embed_tokens" in name:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(1.5 * noise * parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return with_windows(model)


def omni(folder: Path) -> Any:
    """A random whole Omni in bfloat16, written to `folder` in several files as the released ones are, with a tokenizer.

    Its thinker has the tiny model's shape; talker and code2wav are as small as they can be.
    """
    tokenizer = tiny_tokenizer()
    small = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    experts = {
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "num_experts": 2,
        "num_experts_per_tok": 1,
    }
    config = Qwen3OmniMoeConfig(
        thinker_config=tiny_config(tokenizer),
        talker_config={
            "text_config": small | experts,
            "code_predictor_config": small | {"num_code_groups": 4},
            "thinker_hidden_size": 128,
            "num_code_groups": 4,
            "accept_hidden_layer": 1,
            "spatial_merge_size": 2,
            "speaker_id": {},
        },
        code2wav_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "codebook_size": 16,
            "num_quantizers": 4,
            "decoder_dim": 32,
            "upsample_rates": (2,),
            "upsampling_ratios": (2,),
        },
        enable_audio_output=True,
    )
    torch.manual_seed(0)
    model = Qwen3OmniMoeForConditionalGeneration(config).to(torch.bfloat16).eval()
    for name, parameter in model.talker.named_parameters():
        if ".experts." in name:  # transformers 5.5.4 leaves them as memory was, which may be NaN
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder, max_shard_size="600KB")
    tokenizer.save_pretrained(folder)
    return model


def copied(folder: Path, to: Path, change: Callable[[Tensors], Tensors] = dict) -> Path:
    """A copy of the checkpoint, its tensors changed."""
    to.mkdir()
    for path in folder.glob("*.json*"):
        (to / path.name).write_bytes(path.read_bytes())
    (to / "chat_template.jinja").write_bytes((folder / "chat_template.jinja").read_bytes())
    save_file(change(load_file(folder / WEIGHTS)), to / WEIGHTS)
    return to


def mel(frames: int, seed: int = 0) -> np.ndarray:
    """Features [128, frames] that look like log-mel: of unit size, each frame like the one before."""
    noise = np.random.default_rng(seed).standard_normal((128, frames + 8)).astype(np.float32)
    smooth: np.ndarray = np.stack([noise[:, shift : shift + frames] for shift in range(4)]).sum(0) / 2
    return smooth


def silence(frames: int) -> np.ndarray:
    """Features [128, frames] of a recording without a sound: one constant."""
    return np.full((128, frames), SILENCE, np.float32)


def batch(clips: list[np.ndarray], frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The clips padded to `frames` with what must not be heard, and the mask of their valid frames."""
    features = np.full((len(clips), 128, frames), 7.0, np.float32)
    mask = np.zeros((len(clips), frames), np.int32)
    for row, clip in enumerate(clips):
        features[row, :, : clip.shape[1]] = clip
        mask[row, : clip.shape[1]] = 1
    return features, mask


def left_padded(prompts: list[list[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of different lengths as ids and attention mask, padded on the left."""
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), pad, np.int32)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def tower(model: Any, clip: np.ndarray) -> np.ndarray:
    """The reference's audio vectors [vectors, hidden] of one clip alone."""
    lengths = torch.tensor([clip.shape[1]])
    with torch.no_grad():
        vectors: np.ndarray = model.audio_tower(torch.tensor(clip), feature_lens=lengths).last_hidden_state.numpy()
    return vectors


def logits(model: Any, prompt: list[int], clip: np.ndarray | None = None) -> np.ndarray:
    """The reference's logits [tokens, vocabulary] of one prompt alone, with its clip."""
    inputs = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones((1, len(prompt)), dtype=torch.long)}
    with torch.no_grad():
        result: np.ndarray = model(**inputs, **_audio(clip, model.dtype)).logits[0].float().numpy()
    return result


def greedy(
    model: Any, prompt: list[int], clip: np.ndarray, new: int, never: tuple[int, ...], ends: list[int]
) -> list[int]:
    """The reference's greedy completion of one prompt alone, without the token that ended it."""
    sequence = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
        **_audio(clip, model.dtype),
        max_new_tokens=new,
        do_sample=False,
        suppress_tokens=list(never),
        eos_token_id=ends,
        pad_token_id=0,
    )
    completion: list[int] = sequence[0, len(prompt) :].tolist()
    return completion[:-1] if completion[-1] in ends else completion


def _audio(clip: np.ndarray | None, dtype: torch.dtype) -> dict[str, Any]:
    if clip is None:
        return {}
    mask = torch.ones((1, clip.shape[1]), dtype=torch.long)
    return {"input_features": torch.tensor(clip[None]).to(dtype), "feature_attention_mask": mask}
