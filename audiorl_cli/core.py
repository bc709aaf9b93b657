"""The shared core: the audio contract between recordings, shards, EasyDeL and the model. Standard library only.

Every rate, frame count and key set of the project is defined here, once; the rest is derived from it.
Source: the released Qwen3-Omni `preprocessor_config.json` and `Qwen3OmniMoeProcessor` of transformers.
"""

from typing import Final, Literal

# --- features: the WhisperFeatureExtractor of the released checkpoints -------------------------------------
SAMPLE_RATE: Final = 16_000  # Hz
N_FFT: Final = 400  # samples, 25 ms
HOP_LENGTH: Final = 160  # samples, 10 ms
MEL_BINS: Final = 128
CLIP_SECONDS: Final = 30.0  # the released models' window
FRAMES_PER_SECOND: Final = SAMPLE_RATE // HOP_LENGTH  # 100
CLIP_FRAMES: Final = round(CLIP_SECONDS * FRAMES_PER_SECOND)  # 3000

# --- the audio tower: chunks of 100 frames, three stride-2 convolutions each ---------------------------------
CHUNK_FRAMES: Final = 100  # frames, 2 * n_window of the released audio config
TOKENS_PER_CHUNK: Final = 13  # 100 -> 50 -> 25 -> 13


def _halved(length: int) -> int:
    """Length after one convolution of kernel 3, stride 2, padding 1."""
    return (length - 1) // 2 + 1


def audio_tokens(frames: int) -> int:
    """Audio tokens the processor puts into the prompt for `frames` valid log-mel frames (10 ms each).

    3000 -> 390. Source: `_get_feat_extract_output_lengths` of transformers' Qwen3-Omni. `frames` >= 1;
    the formula counts 0 for 0, where the processor would put no audio at all.
    """
    if frames < 0:
        raise ValueError(f"frames: expected >= 0, got {frames}")
    full, tail = divmod(frames, CHUNK_FRAMES)
    return full * TOKENS_PER_CHUNK + (_halved(_halved(_halved(tail))) if tail else 0)


def clip_frames(clip_seconds: float) -> int:
    """Frames in a window of `clip_seconds` (a whole number of 10 ms frames)."""
    return round(clip_seconds * FRAMES_PER_SECOND)


# --- the audio keys, and which of EasyDeL's lists each belongs to ---------------------------------------------
INPUT_FEATURES: Final = "input_features"  # [batch, mel_bins, frames] log-mel
FEATURE_ATTENTION_MASK: Final = "feature_attention_mask"  # [batch, frames] 1 where the frame is audio
AUDIO_KEYS: Final = frozenset({INPUT_FEATURES, FEATURE_ATTENTION_MASK})

KeySet = Literal[
    "GENERATION_MODEL_INPUT_KEYS",
    "GROUPED_MULTIMODAL_MODEL_INPUT_KEYS",
    "FLATTENABLE_MULTIMODAL_KEYS",
    "_TOKENIZED_FIELDS",
]

# (module that defines the list, name of the list) -> keys it must hold. Mel time is not token time, so no
# audio key may ever stand in PROMPT_ALIGNED_LEFT_PAD_KEYS.
EASYDEL_KEY_SETS: Final[dict[tuple[str, KeySet], frozenset[str]]] = {
    ("easydel.trainers.training_utils", "GENERATION_MODEL_INPUT_KEYS"): AUDIO_KEYS,
    ("easydel.trainers.training_utils", "GROUPED_MULTIMODAL_MODEL_INPUT_KEYS"): AUDIO_KEYS,
    ("easydel.trainers.utils", "FLATTENABLE_MULTIMODAL_KEYS"): AUDIO_KEYS,
    ("easydel.trainers.prompt_transforms", "_TOKENIZED_FIELDS"): AUDIO_KEYS,
}
PROMPT_ALIGNED: Final = ("easydel.trainers.utils", "PROMPT_ALIGNED_LEFT_PAD_KEYS")

# An inconsistent edit of the constants above must not survive an import.
if audio_tokens(CLIP_FRAMES) != 390 or audio_tokens(CHUNK_FRAMES) != TOKENS_PER_CHUNK:
    raise AssertionError("core.py: 3000 frames are 390 audio tokens, 100 frames are 13")
