"""A checkpoint's `config.json` -> the thinker's part of it, and from that the config EasyDeL builds the model from."""

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from easydel.modules.qwen3_omni_moe.qwen3_omni_moe_configuration import (
    Qwen3OmniMoeAudioEncoderConfig,
    Qwen3OmniMoeTextConfig,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeVisionEncoderConfig,
)
from jax.sharding import Mesh
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import (
    Qwen3OmniMoeThinkerConfig as TransformersThinkerConfig,
)

from audiorl_cli.config import Dtype, MeshConfig
from audiorl_cli.errors import ConfigError, ModelError

WHOLE_OMNI = "qwen3_omni_moe"
"""`model_type` of a checkpoint with thinker, talker and code2wav."""
DTYPES: dict[Dtype, Any] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""A name of config.py -> the dtype of parameters and computation."""


def thinker_config(config: dict[str, Any], source: str) -> dict[str, Any]:
    """The thinker's config in transformers' own canonical keys, from a thinker's `config.json` or a whole Omni's.

    Raises ModelError, naming `source`, for another kind of model or one that EasyDeL's decoder cannot express.
    """
    kind = config.get("model_type")
    thinker = config.get("thinker_config") if kind == WHOLE_OMNI else config
    if kind not in (WHOLE_OMNI, "qwen3_omni_moe_thinker") or not isinstance(thinker, dict):
        raise ModelError(
            f"{source}: config.json",
            expected="model_type qwen3_omni_moe or qwen3_omni_moe_thinker",
            got=repr(kind),
            fix="Give a Qwen3-Omni checkpoint, or the word tiny.",
        )
    canonical: dict[str, Any] = TransformersThinkerConfig(**thinker).to_dict()
    text = canonical["text_config"]
    for name, got, expected in (
        ("rope_type", text["rope_parameters"]["rope_type"], "default"),
        ("sliding_window", text.get("sliding_window"), None),
    ):
        if got != expected:
            raise ModelError(
                f"{source}: text_config.{name}",
                expected=repr(expected),
                got=repr(got),
                fix="Such a decoder is not supported.",
            )
    return canonical


def easydel_config(thinker: dict[str, Any], dtype: Dtype, mesh: MeshConfig) -> Qwen3OmniMoeThinkerConfig:
    """EasyDeL's config of `thinker` (see `thinker_config`), every part of it in `dtype` and on the mesh of `mesh`.

    Raises ConfigError for a mesh that does not fit the devices.
    """
    common = {
        # "auto" starts an autotuner that costs minutes and prints its failures; parameters are sharded all the same.
        "attn_mechanism": "vanilla",
        # Both default to bfloat16, whatever the model is.
        "attn_dtype": DTYPES[dtype],
        "kvdtype": DTYPES[dtype],
        "attn_softmax_dtype": jnp.float32,
        # The same tuner waits in the experts' grouped matrix product. On a TPU its tiling is fixed by EasyDeL.
        "moe_force_xla_gmm": jax.default_backend() != "tpu",
        # EasyDeL spreads experts over fsdp and sp too, which needs a ragged all-to-all that XLA has not for CPU.
        "fsdp_is_ep_bound": jax.default_backend() != "cpu",
        "sp_is_ep_bound": jax.default_backend() != "cpu",
        "sharding_axis_dims": axis_dims(mesh, jax.device_count()),
    }
    return _assembled(thinker, common)


def upstream_config(thinker: dict[str, Any]) -> Qwen3OmniMoeThinkerConfig:
    """EasyDeL's config of `thinker` with EasyDeL's own defaults, on the first device: what `mends.py` looks at."""
    config = _assembled(thinker, {})
    config.set_model_mesh(Mesh(np.asarray(jax.devices()[:1]).reshape((1,) * 5), config.mesh.axis_names))
    return config


def axis_dims(mesh: MeshConfig, devices: int) -> tuple[int, int, int, int, int]:
    """Sizes of EasyDeL's mesh axes (dp, fsdp, ep, tp, sp) on so many devices; one device leaves every axis at 1.

    Raises ConfigError where the sizes do not multiply to the devices, or where the devices cannot divide experts.
    """
    sizes = [mesh.data, mesh.fsdp, mesh.expert, mesh.tensor, mesh.sequence]
    if devices == 1:
        return 1, 1, 1, 1, 1
    fixed = math.prod(size for size in sizes if size != -1)
    if devices % fixed if -1 in sizes else fixed != devices:
        raise ConfigError(
            "mesh",
            expected=f"axis sizes that multiply to {devices} devices",
            got=f"data {mesh.data}, fsdp {mesh.fsdp}, expert {mesh.expert}, tensor {mesh.tensor}, "
            f"sequence {mesh.sequence}",
            fix="Correct [mesh] in the TOML file.",
        )
    if mesh.expert > 1 and jax.default_backend() == "cpu":
        raise ConfigError(
            "mesh.expert",
            expected="1 on CPU devices, for which XLA has no ragged all-to-all",
            got=str(mesh.expert),
            fix="Use mesh.data or mesh.tensor.",
        )
    data, fsdp, expert, tensor, sequence = (devices // fixed if size == -1 else size for size in sizes)
    return data, fsdp, expert, tensor, sequence


def _assembled(thinker: dict[str, Any], common: dict[str, Any]) -> Qwen3OmniMoeThinkerConfig:
    """The config of `thinker`, itself and each of its parts given what they have in `common`."""
    text = thinker["text_config"]
    config = Qwen3OmniMoeThinkerConfig(
        audio_config=_part(Qwen3OmniMoeAudioEncoderConfig, thinker["audio_config"], common),
        vision_config=_part(Qwen3OmniMoeVisionEncoderConfig, thinker["vision_config"], common),
        text_config=_part(
            Qwen3OmniMoeTextConfig,
            # Without its mrope sections: plain positions are exact for audio and text.
            {**text, "rope_theta": text["rope_parameters"]["rope_theta"], "rope_scaling": None},
            common,
        ),
        tie_word_embeddings=bool(thinker["tie_word_embeddings"]),
        **_known(Qwen3OmniMoeThinkerConfig, thinker, without=("audio_config", "vision_config", "text_config")),
        **common,
    )
    config.set_model_mesh(config.mesh)
    return config


def _known(kind: type[Any], values: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    names = inspect.signature(kind.__init__).parameters
    return {name: value for name, value in values.items() if name in names and name not in without}


def _part(kind: type[Any], values: dict[str, Any], common: dict[str, Any]) -> Any:
    return kind(**_known(kind, values), **common)
