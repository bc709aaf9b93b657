"""What is mended of EasyDeL's Qwen3-Omni: each fault, where upstream has it, what stands for it here, and a probe.

A probe tells a thinker with the fault from one without, by shapes, signatures and traced programs: no weights, nothing
computed. `examine` runs every probe on upstream's thinker: a fault that is gone there needs its mend no more, which can
then be deleted. The tests run them on ours too. Not here are the audio key sets (`keys.py` examines itself), LoRA
(`lora.py`), and `AudioThinker.lazy_init`, which is a matter of time.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import easydel
import jax
import jax.numpy as jnp
from easydel.infra.base_config import EasyDeLBaseConfig
from easydel.infra.mixins.generation import EasyGenerationMixin
from easydel.infra.modeling_outputs import MoeCausalLMOutput
from easydel.layers.moe import BaseMoeModule
from easydel.modules.qwen3_omni_moe import modeling_qwen3_omni_moe as upstream
from flax import nnx

from audiorl_cli import core
from audiorl_cli.bridge.checkpoint import TINY
from audiorl_cli.bridge.configuration import thinker_config, upstream_config
from audiorl_cli.bridge.thinker import still_rngs
from audiorl_cli.bridge.tiny import tiny_config
from audiorl_cli.bridge.tokenizer import tiny_tokenizer

Thinker = Any
"""A thinker of the tiny model's shape, float32, without values."""


@dataclass(frozen=True)
class Mend:
    """One fault of upstream's: `at` holds it, `stands` (a path in this package) is used in its place."""

    name: str
    fault: str
    at: Any
    stands: str
    probe: Callable[[Thinker], bool]


@dataclass(frozen=True)
class MendReport:
    """A fault, its file and line in the installed EasyDeL, what stands for it, whether it is still `needed`."""

    name: str
    fault: str
    upstream: str
    stands: str
    needed: bool


def examine() -> tuple[MendReport, ...]:
    """Every mend, and whether the installed EasyDeL still needs it."""
    theirs = upstream_thinker()
    return tuple(MendReport(mend.name, mend.fault, _place(mend.at), mend.stands, mend.probe(theirs)) for mend in MENDS)


@cache
def upstream_thinker() -> Thinker:
    """EasyDeL's own thinker, from a config with EasyDeL's own defaults."""
    config = upstream_config(thinker_config(tiny_config(tiny_tokenizer()), TINY))
    made = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    kind = upstream.Qwen3OmniMoeThinkerForConditionalGeneration
    return nnx.eval_shape(lambda rngs: kind(config=config, **made, rngs=rngs), still_rngs())


def _place(symbol: Any) -> str:
    root = Path(inspect.getfile(easydel)).parent
    _, line = inspect.getsourcelines(symbol)
    return f"{Path(inspect.getfile(symbol)).relative_to(root).as_posix()}:{line}"


def _traced(thinker: Thinker, run: Callable[..., Any], *shapes: tuple[tuple[int, ...], Any]) -> Any:
    """The program of `run(thinker, *arrays)`."""
    graph, state = nnx.split(thinker)

    def program(state: Any, *arrays: Any) -> Any:
        whole = nnx.merge(graph, state)
        with whole.mesh:
            return run(whole, *arrays)

    return jax.make_jaxpr(program)(state, *(jax.ShapeDtypeStruct(*shape) for shape in shapes))  # type: ignore[no-untyped-call]


def _operations(program: Any) -> Iterator[Any]:
    """Every operation of a program, those inside its loops and calls included."""
    for operation in program.eqns:
        yield operation
        for parameter in operation.params.values():
            for inner in parameter if isinstance(parameter, list | tuple) else [parameter]:
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from _operations(getattr(inner, "jaxpr", inner))


def _tower(thinker: Thinker, frames: int = core.CLIP_FRAMES) -> Any:
    def run(thinker: Thinker, features: Any) -> Any:
        heard = thinker.audio_tower(features)
        return getattr(heard, "last_hidden_state", heard)

    return _traced(thinker, run, ((1, core.MEL_BINS, frames), jnp.float32))


def _vectors(thinker: Thinker) -> bool:
    return bool(_tower(thinker).out_avals[0].shape[1] != core.audio_tokens(core.CLIP_FRAMES))


def _windows(thinker: Thinker) -> bool:
    window = core.TOKENS_PER_CHUNK * 8
    shapes = [result.aval.shape for step in _operations(_tower(thinker).jaxpr) for result in step.outvars]
    return any(len(shape) > 2 and shape[-1] == shape[-2] > window for shape in shapes)


def _axes(thinker: Thinker) -> bool:
    first = next(step for step in _operations(_tower(thinker).jaxpr) if step.primitive.name == "conv_general_dilated")
    return bool(first.invars[0].aval.shape[1] != core.MEL_BINS)


def _gelu(thinker: Thinker) -> bool:
    return any(step.primitive.name == "tanh" for step in _operations(_tower(thinker).jaxpr))


def _frame_mask(thinker: Thinker) -> bool:
    return core.FEATURE_ATTENTION_MASK not in inspect.signature(type(thinker).__call__).parameters


def _key_bias(thinker: Thinker) -> bool:
    return getattr(thinker.audio_tower.layers[0].self_attn.k_proj, "bias", None) is None


def _merge(thinker: Thinker) -> bool:
    tokens, features = ((2, 60), jnp.int32), ((2, core.MEL_BINS, 300), jnp.float32)
    try:
        _traced(thinker, lambda t, ids, heard: t.compute_embedding(ids, input_features=heard), tokens, features)
    except (TypeError, ValueError):  # shapes that do not broadcast
        return True
    return False


def _cache(thinker: Thinker) -> bool:
    kept: list[bool] = []

    def run(thinker: Thinker, ids: Any) -> Any:
        cache = thinker.init_cache(1, 8)
        outputs = thinker(ids, past_key_values=cache)
        kept.append(outputs.past_key_values.views[0] is cache.views[0])
        return outputs.logits

    _traced(thinker, run, ((1, 4), jnp.int32))
    return kept[0]


def _rope_deltas(thinker: Thinker) -> bool:
    return type(thinker)._uses_mrope and "rope_deltas" not in inspect.signature(type(thinker).__call__).parameters


def _generation_config(thinker: Thinker) -> bool:
    return getattr(thinker, "generation_config", None) is None


def _media(thinker: Thinker) -> bool:
    outputs = MoeCausalLMOutput(logits=None)
    left = thinker.update_inputs_for_generation(outputs, {"position_ids": jnp.zeros((1, 1)), core.INPUT_FEATURES: 1})
    return core.INPUT_FEATURES in left


def _placeholders(thinker: Thinker) -> bool:
    scores = jnp.zeros((1, 1, thinker.config.text_config.vocab_size))
    outputs = thinker._call_generation_model_step(lambda *_, **__: MoeCausalLMOutput(logits=scores), None, {})
    return bool(jnp.isfinite(outputs.logits[..., thinker.config.audio_token_id]).any())


def _expert_dtype(thinker: Thinker) -> bool:
    return bool(thinker.model.layers[0].mlp.dtype != jnp.float32)


def _expert_weights(thinker: Thinker) -> bool:
    return thinker.model.layers[0].mlp.moe_hooks.refine_weights_hook is None


def _rotary(thinker: Thinker) -> bool:
    states = ((1, 4, 2, thinker.config.text_config.head_dim), jnp.float32)
    table = thinker.config.text_config.get_basic_frequencies()[...]

    def run(thinker: Thinker, places: Any, query: Any, key: Any) -> Any:
        return thinker.model.layers[0].self_attn.rotary(positions=places, query=query, key=key, frequencies=table)

    program = _traced(thinker, run, ((1, 4), jnp.int32), states, states)
    return any(used.aval.dtype == jnp.bfloat16 for step in _operations(program.jaxpr) for used in step.invars)


def _tied_head(thinker: Thinker) -> bool:
    return bool(thinker.config.tie_word_embeddings) and thinker.lm_head is not None


def _head(thinker: Thinker) -> bool:
    return thinker.lm_head is not None and not hasattr(thinker.lm_head, "native_forward")


def _dtypes(thinker: Thinker) -> bool:
    config = thinker.config.text_config
    return bool(jnp.bfloat16 in (config.attn_dtype, config.kvdtype))


def _tuner(thinker: Thinker) -> bool:
    return not thinker.config.text_config.moe_force_xla_gmm


_AUDIO: Final = upstream.Qwen3OmniMoeAudioEncoder.__call__
_THINKER: Final = upstream.Qwen3OmniMoeThinkerForConditionalGeneration

MENDS: Final = (
    Mend("chunks", "convolves a clip whole: 375 vectors for 390 places", _AUDIO, "tower.AudioTower", _vectors),
    Mend("windows", "attends over the whole clip", _AUDIO, "tower.AudioTower", _windows),
    Mend("axes", "convolves (time, mel) by kernels of (mel, time)", _AUDIO, "tower.AudioTower", _axes),
    Mend("gelu", "the tanh GELU for the exact one", _AUDIO, "tower.AudioTower", _gelu),
    Mend(
        "key bias",
        "no place for the bias of the tower's keys",
        upstream.Qwen3OmniMoeAudioAttention.__init__,
        "tower.AudioTower",
        _key_bias,
    ),
    Mend("frame mask", "hears the padding of a clip", _THINKER.__call__, "thinker.AudioThinker", _frame_mask),
    Mend(
        "merge",
        "counts placeholders over the flattened batch",
        upstream.merge_multimodal_embeddings,
        "thinker.AudioThinker.compute_embedding",
        _merge,
    ),
    Mend(
        "cache",
        "gives the KV cache back as it came",
        upstream.Qwen3OmniMoeThinkerTextModel.__call__,
        "thinker.AudioTextModel",
        _cache,
    ),
    Mend(
        "rope deltas",
        "generates with an argument the model lacks",
        _THINKER.__call__,
        "thinker.AudioThinker",
        _rope_deltas,
    ),
    Mend(
        "generation config",
        "a model built from a config cannot generate",
        _THINKER.__init__,
        "thinker.AudioThinker",
        _generation_config,
    ),
    Mend(
        "media",
        "keeps the audio for every decode step",
        EasyGenerationMixin.update_inputs_for_generation,
        "thinker.AudioThinker.update_inputs_for_generation",
        _media,
    ),
    Mend(
        "placeholders",
        "samples placeholders of audio like words",
        EasyGenerationMixin._call_generation_model_step,
        "thinker.without_media",
        _placeholders,
    ),
    Mend(
        "expert dtype",
        "bfloat16 experts in a float32 model",
        BaseMoeModule.__init__,
        "thinker.AudioTextModel",
        _expert_dtype,
    ),
    Mend(
        "expert weights",
        "makes a new closure at the experts' first call",
        BaseMoeModule.moe_call,
        "thinker.AudioTextModel",
        _expert_weights,
    ),
    Mend(
        "rotary table",
        "rotary positions in bfloat16 whatever the model is",
        EasyDeLBaseConfig.get_basic_frequencies,
        "thinker.Rotary",
        _rotary,
    ),
    Mend("tied head", "a head of its own for a tied one", _THINKER.__init__, "thinker.AudioThinker", _tied_head),
    Mend("head", "its chunked log-probs cannot call the head", _THINKER.__init__, "thinker.AudioThinker", _head),
    Mend(
        "dtypes",
        "attention and cache in bfloat16 unless told",
        EasyDeLBaseConfig.__init__,
        "configuration.easydel_config",
        _dtypes,
    ),
    Mend(
        "tuner",
        "tunes the experts' product for minutes on a CPU",
        EasyDeLBaseConfig.__init__,
        "configuration.easydel_config",
        _tuner,
    ),
)
