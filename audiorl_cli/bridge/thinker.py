"""The Qwen3-Omni thinker that hears: EasyDeL's, with what stands in the way of audio training mended by subclasses.

The stock classes are in `easydel/modules/qwen3_omni_moe/modeling_qwen3_omni_moe.py`; each mend names what it stands
for. Audio and text only: for them the three rotary axes of the model are equal, so plain positions are exact.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from easydel.caching import TransformerCache
from easydel.infra.factory import TaskType, register_module
from easydel.infra.modeling_outputs import MoeCausalLMOutput, VLMCausalLMOutput
from easydel.layers import ColumnParallelLinear
from easydel.modules.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoeThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerTextModel,
)
from easydel.modules.qwen3_omni_moe.qwen3_omni_moe_configuration import Qwen3OmniMoeThinkerConfig
from eformer import common_types
from ejkernel.types import MaskInfo
from flax import nnx
from jaxtyping import Array, Float, Int
from transformers import GenerationConfig

from audiorl_cli.bridge.experts import EXPERT_RULES, Experts
from audiorl_cli.bridge.head import head_and_inputs, logits
from audiorl_cli.bridge.tower import AudioTower


class Rotary(nnx.Module):
    """Rotary positions computed in float32 from the positions themselves.

    Stands for `easydel/layers/rotary`, which bakes a table of `max_position_embeddings` rows into every layer, and for
    `get_basic_frequencies` (`easydel/infra/base_config.py`), whose table is bfloat16 whatever the model is.
    """

    def __init__(self, head_dim: int, base: float) -> None:
        self.head_dim, self.base = head_dim, base

    def __call__(
        self,
        positions: Int[Array, "batch tokens"],
        query: Float[Array, "batch tokens heads width"],
        key: Float[Array, "batch tokens kv_heads width"],
        offsets: None = None,
        frequencies: None = None,
    ) -> tuple[Float[Array, "batch tokens heads width"], Float[Array, "batch tokens kv_heads width"]]:
        """Query and key, rotated; `offsets` and `frequencies` belong to EasyDeL's interface and are not used."""
        rates = self.base ** (-jnp.arange(0, self.head_dim, 2, dtype=jnp.float32) / self.head_dim)
        angles = positions[..., None].astype(jnp.float32) * rates
        angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
        return _rotated(query, angles), _rotated(key, angles)


def _rotated(states: Any, angles: Any) -> Any:
    first, second = jnp.split(states, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return states * jnp.cos(angles).astype(states.dtype) + turned * jnp.sin(angles).astype(states.dtype)


def precise(precision: jax.lax.PrecisionLike) -> AbstractContextManager[None]:
    """Products traced within are of this `precision` where they ask for none, as those of EasyDeL's attention."""
    named = None if precision is None else str(precision).lower()
    context: AbstractContextManager[None] = jax.default_matmul_precision(named)
    return context


class AudioTextModel(Qwen3OmniMoeThinkerTextModel):
    """The decoder, in one dtype and one precision throughout, its KV cache written back."""

    def __init__(
        self, config: Any, dtype: Any, param_dtype: Any, precision: jax.lax.PrecisionLike = None, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config, dtype=dtype, param_dtype=param_dtype, precision=precision, rngs=rngs)
        for layer in self.layers:
            layer.self_attn.rotary = Rotary(config.head_dim, config.rope_theta)
            if layer.is_moe:
                layer.mlp = Experts(config, dtype, param_dtype, precision, rngs=rngs)

    def __call__(
        self,
        input_ids: Int[Array, "batch tokens"] | None = None,
        inputs_embeds: Float[Array, "batch tokens width"] | None = None,
        attention_mask: Int[Array, "batch tokens"] | None = None,
        mask_info: MaskInfo | None = None,
        position_ids: Int[Array, "batch tokens"] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_router_logits: bool | None = None,
        mode: Any = None,
        past_key_values: TransformerCache | None = None,
        cache_metadata: Any = None,
    ) -> VLMCausalLMOutput:
        """EasyDeL's decoder call; the cache in the result holds the keys and values of this call (the stock one's
        does not), and positions follow `attention_mask`, so that padding on the left moves nothing.
        """
        config = self.config
        if output_router_logits is None:
            output_router_logits = config.output_router_logits
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = positions(attention_mask)
        mask_info = MaskInfo.dynamic_init(
            mask_info=mask_info, input_ids=input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask
        )
        if position_ids is None:
            position_ids = mask_info.q_position_ids
        if mode is None:
            decodes = inputs_embeds.shape[1] == 1 and past_key_values is not None
            mode = common_types.MODE_DECODE if decodes else common_types.MODE_TRAIN

        hidden, views = inputs_embeds, []
        hidden_states, attentions, router_logits = [], [], []
        for index, layer in enumerate(self.layers):
            hidden_states.append(hidden)
            with precise(self.precision):
                outputs = layer(
                    hidden_states=hidden,
                    mask_info=mask_info,
                    position_ids=position_ids,
                    mode=mode,
                    cache_view=None if past_key_values is None else past_key_values.views[index],
                    cache_metadata=cache_metadata,
                    output_attentions=bool(output_attentions),
                    output_router_logits=output_router_logits,
                )
            hidden = outputs.hidden_states
            views.append(outputs.cache_view)
            attentions.append(outputs.attention_weight)
            if outputs.router_logits is not None:
                router_logits.append(outputs.router_logits)
        hidden = self.norm(hidden)
        hidden_states.append(hidden)
        return VLMCausalLMOutput(
            last_hidden_state=hidden,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            router_logits=tuple(router_logits) if output_router_logits else None,
            past_key_values=None if past_key_values is None else past_key_values.replace(views=views),
        )


@register_module(TaskType.ANY_TO_ANY, config=Qwen3OmniMoeThinkerConfig, model_type="qwen3_omni_moe_thinker")
class AudioThinker(Qwen3OmniMoeThinkerForConditionalGeneration):
    """`audio_tower`, `model`, `lm_head` (absent where the embedding is tied) and `visual`, named as in transformers.

    Registered in place of the stock class, so that EasyDeL's states are restored into this one. `visual` is the stock
    vision tower: it is never run, and is held so that a saved checkpoint is whole. Call it under `with model.mesh:`.
    """

    # Otherwise generation adds three rows of positions and `rope_deltas`, which the forward does not take.
    _uses_mrope = False

    def __init__(
        self,
        config: Qwen3OmniMoeThinkerConfig,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(config, dtype=dtype, param_dtype=param_dtype, precision=precision, rngs=rngs)
        made = {"dtype": dtype, "param_dtype": param_dtype, "precision": precision, "rngs": rngs}
        self.model = AudioTextModel(config.text_config, **made)
        self.audio_tower = AudioTower(config.audio_config, **made)
        # The stock head is flax's, which EasyDeL's own chunked log-probabilities cannot call.
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else ColumnParallelLinear(config.text_config.hidden_size, self.vocab_size, use_bias=False, **made)
        )
        # `generate` of a model built from a config raises without one.
        self.generation_config = GenerationConfig(
            eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, do_sample=False
        )

    @classmethod
    def lazy_init(cls, **kwargs: Any) -> "AudioThinker":
        """The model without values, from the arguments of the constructor; `rngs` draws nothing.

        Stands for `EasyDeLBaseModule.lazy_init`, which traces a count of every draw: minutes for a model of 30B.
        """
        model: AudioThinker = nnx.eval_shape(lambda rngs: cls(**{**kwargs, "rngs": rngs}), still_rngs())
        return model

    def resolve_shardings_automatically(self, **how: Any) -> tuple[tuple[str, Any], ...]:
        """EasyDeL's rules of where a mesh puts parameters and what an optimizer keeps of them, experts mended."""
        return *EXPERT_RULES, *super().resolve_shardings_automatically(**how)

    @property
    def media_token_ids(self) -> tuple[int, ...]:
        """Ids that stand for audio, images and video in a prompt; generation never samples them."""
        return self.config.audio_token_id, self.config.image_token_id, self.config.video_token_id

    def compute_embedding(
        self,
        input_ids: Int[Array, "batch tokens"],
        *,
        inputs_embeds: Float[Array, "batch tokens width"] | None = None,
        attention_mask: Int[Array, "batch tokens"] | None = None,
        input_features: Float[Array, "batch mels frames"] | None = None,
        feature_attention_mask: Int[Array, "batch frames"] | None = None,
        audio: Float[Array, "batch vectors width"] | None = None,
        **_: Any,
    ) -> Float[Array, "batch tokens width"]:
        """Token embeddings, with the audio of each row in place of its placeholders.

        `audio`: what the tower makes of `input_features`, where it is at hand; they are then not heard again.
        The k-th placeholder of a row takes the k-th vector of that row's audio. A row has as many placeholders in its
        prompt as vectors: any beyond them was sampled, stays a token, and changes nothing elsewhere (the stock merge
        counts over the flattened batch, and cannot take more than one row).
        """
        embeddings = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        clips = input_features if audio is None else audio
        if clips is None:
            return embeddings
        if clips.shape[0] != input_ids.shape[0]:
            raise ValueError(f"expected one clip a row: {input_ids.shape[0]} rows, {clips.shape[0]} clips")
        if audio is None:
            audio = self.audio_tower(clips, feature_attention_mask)
        if feature_attention_mask is None:
            heard = jnp.full(input_ids.shape[:1], audio.shape[1])
        else:
            heard = self.audio_tower.vectors(feature_attention_mask.astype(jnp.int32).sum(axis=-1))
        placeholder = input_ids == self.config.audio_token_id
        if attention_mask is not None:
            placeholder &= attention_mask.astype(bool)
        place = jnp.cumsum(placeholder, axis=-1) - 1
        taken = placeholder & (place < heard[:, None])
        vectors = jnp.take_along_axis(audio, jnp.clip(place, 0, audio.shape[1] - 1)[..., None], axis=1)
        return jnp.where(taken[..., None], vectors.astype(embeddings.dtype), embeddings)

    def __call__(
        self,
        input_ids: Int[Array, "batch tokens"] | None = None,
        inputs_embeds: Float[Array, "batch tokens width"] | None = None,
        attention_mask: Int[Array, "batch tokens"] | None = None,
        mask_info: MaskInfo | None = None,
        position_ids: Int[Array, "batch tokens"] | None = None,
        input_features: Float[Array, "batch mels frames"] | None = None,
        feature_attention_mask: Int[Array, "batch frames"] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_router_logits: bool | None = None,
        mode: Any = None,
        past_key_values: TransformerCache | None = None,
        cache_metadata: Any = None,
        apply_lm_head: bool = True,
    ) -> MoeCausalLMOutput:
        """Logits [batch, tokens, vocabulary], float32 (None unless `apply_lm_head`), and hidden states of the thinker.

        `attention_mask` is 1 on the tokens that count, padding may be on either side; `feature_attention_mask` is 1 on
        the valid frames of each clip. Raises ValueError without tokens, or for clips that are not one a row.
        """
        if input_features is not None or inputs_embeds is None:
            if input_ids is None:
                raise ValueError("expected input_ids, or inputs_embeds without input_features")
            inputs_embeds = self.compute_embedding(
                input_ids,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                input_features=input_features,
                feature_attention_mask=feature_attention_mask,
            )
        outputs = self.model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            mask_info=mask_info,
            position_ids=position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            output_router_logits=output_router_logits,
            mode=mode,
            past_key_values=past_key_values,
            cache_metadata=cache_metadata,
        )
        return MoeCausalLMOutput(
            logits=self.apply_lm_head(outputs.last_hidden_state) if apply_lm_head else None,
            hidden_states=outputs.hidden_states,
            last_hidden_state=outputs.last_hidden_state,
            attentions=outputs.attentions,
            past_key_values=outputs.past_key_values,
            router_logits=outputs.router_logits,
        )

    def make_lm_head_fn(self) -> Callable[[Array], Array]:
        """Hidden states -> logits, safe to call in any traced loop."""

        def head(hidden: Array) -> Array:
            return logits(*head_and_inputs(self, hidden), self.precision)

        return head

    def apply_lm_head(self, hidden_states: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens vocab"]:
        """Logits of `hidden_states`, float32."""
        return self.make_lm_head_fn()(hidden_states)

    def prepare_inputs_for_generation(
        self,
        input_ids: Int[Array, "batch tokens"],
        max_length: int,
        pad_token_id: int,
        starts: Int[Array, " batch"] | None = None,
        attention_mask: Int[Array, "batch tokens"] | None = None,
        input_features: Float[Array, "batch mels frames"] | None = None,
        feature_attention_mask: Int[Array, "batch frames"] | None = None,
    ) -> dict[str, Any]:
        """The keyword arguments of the first decoding call: cache, mask, positions, and the audio."""
        inputs: dict[str, Any] = self.model.prepare_inputs_for_generation(
            input_ids, max_length, pad_token_id, starts=starts, attention_mask=attention_mask
        )
        if input_features is not None:
            inputs["input_features"] = input_features
        if feature_attention_mask is not None:
            inputs["feature_attention_mask"] = feature_attention_mask
        return inputs

    def update_inputs_for_generation(self, model_outputs: Any, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments of the next decoding call: the audio is in the cache by then, and is dropped."""
        model_kwargs = self.model.update_inputs_for_generation(model_outputs, model_kwargs)
        return {name: value for name, value in model_kwargs.items() if name not in _AUDIO}

    def _call_generation_model_step(self, model: Any, running_token: Any, call_kwargs: dict[str, Any]) -> Any:
        outputs = super()._call_generation_model_step(model, running_token, call_kwargs)
        return outputs.replace(logits=without_media(outputs.logits, self.media_token_ids))


class _StillStream(nnx.RngStream):
    """Gives the same key each time: enough for shapes."""

    def __call__(self) -> Array:
        key: Array = self.key[...]
        return key


def still_rngs() -> nnx.Rngs:
    """Random streams that draw nothing, for a model without values."""
    rngs = nnx.Rngs(0)
    rngs.default = _StillStream(0, tag="default")
    return rngs


_AUDIO = ("input_features", "feature_attention_mask")


def positions(attention_mask: Int[Array, "batch tokens"]) -> Int[Array, "batch tokens"]:
    """Positions that count only the tokens of `attention_mask`: 0 at the first of them, 0 on padding before it."""
    return jnp.maximum(jnp.cumsum(attention_mask.astype(jnp.int32), axis=-1) - 1, 0)


def without_media(logits: Float[Array, "... vocab"], media: tuple[int, ...]) -> Float[Array, "... vocab"]:
    """Logits under which no placeholder of audio, image or video is ever drawn."""
    return logits.at[..., jnp.asarray(media, jnp.int32)].set(-jnp.inf)
