"""The audio tower as the released Qwen3-Omni weights expect it, with static shapes and masks for padding.

Source: `Qwen3OmniMoeAudioEncoder` of transformers, read with its attention windows; EasyDeL's own
(`easydel/modules/qwen3_omni_moe/modeling_qwen3_omni_moe.py`, class of the same name) convolves and attends over the
whole clip, takes no mask, swaps time and frequency, and has no bias on the key projection.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from easydel.layers import ColumnParallelLinear
from easydel.modules.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoeAudioEncoder,
    Qwen3OmniMoeAudioEncoderLayer,
)
from eformer import common_types
from eformer.escale import apply_logical_sharding
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

# Stands for minus infinity among attention scores: a row of padding alone then averages instead of giving NaN.
MASKED = -1e9

_gelu = partial(jax.nn.gelu, approximate=False)


class AudioTower(Qwen3OmniMoeAudioEncoder):
    """Log-mel frames -> one vector for each audio token of the prompt.

    Frames are cut into chunks of `2 * n_window` (100 in the released weights); each chunk passes three convolutions of
    stride 2 and gets its own sinusoidal positions; its vectors attend to those of the same window of `n_window_infer`
    frames (8 chunks, 104 vectors). Rows of a batch do not see one another, padded frames are not heard.
    """

    def __init__(
        self, config: Any, dtype: Any, param_dtype: Any, precision: jax.lax.PrecisionLike = None, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config, dtype=dtype, param_dtype=param_dtype, precision=precision, rngs=rngs)
        for layer in self.layers:
            # Without effect in the softmax, but the released weights hold it and it must survive a save.
            layer.self_attn.k_proj = ColumnParallelLinear(
                config.d_model,
                config.d_model,
                use_bias=True,
                dtype=dtype,
                param_dtype=param_dtype,
                precision=precision,
                rngs=rngs,
            )
        for convolution in (self.conv2d1, self.conv2d2, self.conv2d3):
            convolution.precision = precision

    @property
    def chunk_frames(self) -> int:
        """Frames of one chunk."""
        return int(2 * self.config.n_window)

    @property
    def chunk_vectors(self) -> int:
        """Vectors of one whole chunk."""
        return int(_convolved(self.chunk_frames))

    @property
    def window_vectors(self) -> int:
        """Vectors of one attention window."""
        return int(self.chunk_vectors * (self.config.n_window_infer // self.chunk_frames))

    def vectors(self, frames: Int[Array, " batch"] | int) -> Any:
        """Vectors that `frames` valid frames give; `core.audio_tokens` for chunks of 100 frames."""
        full, tail = frames // self.chunk_frames, frames % self.chunk_frames
        # _convolved(0) is 0 under floor division, as the formula needs.
        return full * self.chunk_vectors + _convolved(tail)

    def __call__(
        self,
        input_features: Float[Array, "batch mels frames"],
        feature_attention_mask: Int[Array, "batch frames"] | None = None,
    ) -> Float[Array, "batch vectors hidden"]:
        """The vectors of each row, valid ones first, zeros behind them.

        `feature_attention_mask` is 1 on the valid frames, which come first (all of them where it is None).
        `vectors` is `self.vectors(frames)`, whatever the masks hold.
        """
        batch, _, frames = input_features.shape
        if feature_attention_mask is None:
            lengths = jnp.full((batch,), frames, jnp.int32)
        else:
            lengths = feature_attention_mask.astype(jnp.int32).sum(axis=-1)
        hidden = self._convolve(input_features, lengths)
        total = int(self.vectors(frames))
        heard = jnp.arange(total) < self.vectors(lengths)[:, None]
        hidden = self._attend(hidden[:, :total], heard)
        hidden = self.proj2(self.act(self.proj1(self.ln_post(hidden))))
        vectors: Array = jnp.where(heard[..., None], hidden, 0)
        return vectors

    def _convolve(
        self, input_features: Float[Array, "batch mels frames"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch vectors width"]:
        """The chunks through the convolutions and `conv_out`, positions added, laid end to end."""
        batch, mels, frames = input_features.shape
        chunks = -(-frames // self.chunk_frames)
        width = self.chunk_frames
        valid = jnp.arange(frames) < lengths[:, None]
        audio = jnp.where(valid[:, None, :], input_features.astype(self.dtype), 0)
        audio = jnp.pad(audio, ((0, 0), (0, 0), (0, chunks * width - frames)))
        audio = audio.reshape(batch, mels, chunks, width).transpose(0, 2, 1, 3)
        hidden = audio.reshape(batch * chunks, mels, width, 1)

        # A clip shorter than a chunk is its own chunk: past its end each convolution sees its own zero padding,
        # where the tail of a longer clip sees what the one before made of zeros.
        length = jnp.repeat(jnp.where(lengths < width, lengths, width), chunks)
        for convolution in (self.conv2d1, self.conv2d2, self.conv2d3):
            length = _halved(length)
            hidden = _gelu(convolution(hidden))
            inside = jnp.arange(hidden.shape[2]) < length[:, None]
            hidden = jnp.where(inside[:, None, :, None], hidden, 0)

        _, bins, steps, channels = hidden.shape
        hidden = hidden.transpose(0, 2, 3, 1).reshape(batch, chunks, steps, channels * bins)
        hidden = self.conv_out(hidden) + jnp.asarray(_sinusoids(steps, self.d_model), self.dtype)
        return jnp.reshape(hidden, (batch, chunks * steps, self.d_model))

    def _attend(
        self, hidden: Float[Array, "batch vectors width"], heard: Bool[Array, "batch vectors"]
    ) -> Float[Array, "batch vectors width"]:
        """The transformer layers, each vector attending to the heard ones of its window."""
        batch, total, width = hidden.shape
        window = min(self.window_vectors, total)
        windows = -(-total // window)
        padding = windows * window - total
        hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0))).reshape(batch, windows, window, width)
        heard = jnp.pad(heard, ((0, 0), (0, padding))).reshape(batch, windows, 1, 1, window)
        for layer in self.layers:
            hidden = apply_logical_sharding(
                hidden.reshape(batch, windows * window, width),
                dynamic_axes=common_types.HiddenStateSharding,
                partition_manager=self.config.partition_manager,
            ).reshape(batch, windows, window, width)
            hidden = hidden + self._self_attention(layer, layer.self_attn_layer_norm(hidden), heard)
            hidden = hidden + layer.fc2(layer.act(layer.fc1(layer.final_layer_norm(hidden))))
        return hidden.reshape(batch, windows * window, width)[:, :total]

    def _self_attention(
        self,
        layer: Qwen3OmniMoeAudioEncoderLayer,
        hidden: Float[Array, "batch windows window width"],
        heard: Bool[Array, "batch windows 1 1 window"],
    ) -> Float[Array, "batch windows window width"]:
        """Softmax attention within each window, scores in float32."""
        attention = layer.self_attn
        shape = (*hidden.shape[:-1], attention.num_heads, attention.head_dim)
        query = attention.q_proj(hidden).reshape(shape) * attention.head_dim**-0.5
        key, value = attention.k_proj(hidden).reshape(shape), attention.v_proj(hidden).reshape(shape)
        scores = jnp.einsum("bwqhd,bwkhd->bwhqk", query, key, precision=self.precision).astype(jnp.float32)
        weights = jax.nn.softmax(jnp.where(heard, scores, MASKED), axis=-1).astype(value.dtype)
        mixed = jnp.einsum("bwhqk,bwkhd->bwqhd", weights, value, precision=self.precision)
        projected: Array = attention.out_proj(mixed.reshape(hidden.shape))
        return projected


def _halved(length: Any) -> Any:
    """Length after one convolution of kernel 3, stride 2, padding 1."""
    return (length - 1) // 2 + 1


def _convolved(length: Any) -> Any:
    """Length after the three convolutions."""
    return _halved(_halved(_halved(length)))


def _sinusoids(length: int, channels: int, longest: float = 10_000.0) -> Float[np.ndarray, "length channels"]:
    """Sinusoidal positions: the sines of all wavelengths, then their cosines."""
    step = np.log(longest) / (channels // 2 - 1)
    rates = np.exp(np.float32(-step) * np.arange(channels // 2, dtype=np.float32))
    angles = np.arange(length, dtype=np.float32)[:, None] * rates
    positions: np.ndarray = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return positions
