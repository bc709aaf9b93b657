"""transformers' own thinker as the reference, in float32 on the host: its audio vectors and logits of one row alone.

Off flash attention, transformers 5.5.4 gives its audio layers `cu_seqlens` that nothing reads, so that clips of a batch
and windows of a clip attend to one another. The weights were trained and are served with the windows: here every
layer is handed the block mask that transformers makes of `cu_seqlens` itself.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

from audiorl_cli.errors import ModelError

_GIB: Final = 1024**3


def load(folder: Path) -> Any:
    """The thinker in `folder`, as transformers itself reads it there: one of its own, or that of a whole Omni.

    Raises ModelError where it does not.
    """
    try:
        model = Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    except OSError as error:
        raise ModelError(
            str(folder),
            expected="a checkpoint that transformers reads",
            got=str(error).strip().splitlines()[0],
            fix="Name its files as transformers does, or leave out --prove.",
        ) from error
    return with_windows(model.eval())


def with_windows(model: Any) -> Any:
    """`model`, its audio layers attending within their windows."""
    tower = model.audio_tower

    def give_mask(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "attention_mask": tower._prepare_attention_mask(args[0], args[1])}

    for layer in tower.layers:
        layer.register_forward_pre_hook(give_mask, with_kwargs=True)
    return model


def vectors(
    model: Any, features: Float[np.ndarray, "mels frames"], mask: Int[np.ndarray, " frames"]
) -> Float[np.ndarray, "vectors hidden"]:
    """The audio vectors of one clip, of which `mask` is 1 on the valid frames."""
    with torch.no_grad():
        heard: np.ndarray = model.get_audio_features(**_audio(features, mask)).last_hidden_state.numpy()
    return heard


def logits(
    model: Any,
    ids: Int[np.ndarray, " tokens"],
    features: Float[np.ndarray, "mels frames"],
    mask: Int[np.ndarray, " frames"],
) -> Float[np.ndarray, "tokens vocab"]:
    """The logits of one sequence without padding, with its clip."""
    tokens = torch.tensor(ids[None], dtype=torch.long)
    with torch.no_grad():
        foretold: np.ndarray = (
            model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **_audio(features, mask)).logits[0].numpy()
        )
    return foretold


def lack(parameters: int, free_bytes: int) -> str | None:
    """Why no float32 copy of so many parameters is made where `free_bytes` of memory are free; None where it fits."""
    needed = 4 * parameters
    if needed <= free_bytes:
        return None
    return f"its float32 copy needs {needed / _GIB:.1f} GiB of memory, {free_bytes / _GIB:.1f} are free"


def _audio(features: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    return {
        "input_features": torch.tensor(features[None]),
        "feature_attention_mask": torch.tensor(mask[None], dtype=torch.long),
    }
