"""A checkpoint's `config.json` -> the thinker's part of it, and from that the config EasyDeL builds the model from."""

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from easydel.modules.qwen3_omni_moe.qwen3_omni_moe_configuration import (
    Qwen3OmniMoeAudioEncoderConfig,
    Qwen3OmniMoeTextConfig,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeVisionEncoderConfig,
)
from eformer.escale import PartitionAxis
from jax.sharding import Mesh
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import (
    Qwen3OmniMoeThinkerConfig as TransformersThinkerConfig,
)

from audiorl_cli.bridge.mesh import AXES, ROWS, demand_divisible, mesh_of
from audiorl_cli.config import Dtype, MeshConfig
from audiorl_cli.errors import ModelError

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


def easydel_config(
    thinker: dict[str, Any], dtype: Dtype, mesh: MeshConfig, devices: Sequence[Any] | None = None
) -> Qwen3OmniMoeThinkerConfig:
    """EasyDeL's config of `thinker` (see `thinker_config`), every part of it in `dtype` and on the mesh of `mesh`.

    `devices`: those of another machine, to compile for; JAX's own otherwise. Raises ConfigError for a mesh that fits
    neither devices nor model.
    """
    used = jax.devices() if devices is None else devices
    dims = demand_divisible(mesh, thinker, len(used))
    common = {
        # "auto" starts an autotuner that costs minutes and prints its failures; parameters are sharded all the same.
        "attn_mechanism": "vanilla",
        # Both default to bfloat16, whatever the model is.
        "attn_dtype": DTYPES[dtype],
        "kvdtype": DTYPES[dtype],
        "attn_softmax_dtype": jnp.float32,
        # The same tuner waits in the experts' grouped matrix product. On a TPU its tiling is fixed by EasyDeL.
        "moe_force_xla_gmm": used[0].platform != "tpu",
        "sharding_axis_dims": dims,
        # EasyDeL's own leaves out ep, along which every device would do the same work, and divides the width between
        # layers by tp: of a row-parallel product that ends so, XLA sums wrongly (with dp, fsdp and tp of 2 or more;
        # tests/test_mesh.py has it; openxla/xla issue 40034 is like it).
        "partition_axis": PartitionAxis(batch_axis=ROWS, hidden_state_axis=None),
    }
    return _assembled(thinker, common, None if devices is None else mesh_of(dims, devices))


def upstream_config(thinker: dict[str, Any]) -> Qwen3OmniMoeThinkerConfig:
    """EasyDeL's config of `thinker` with EasyDeL's own defaults, on the first device: what `mends.py` looks at."""
    return _assembled(thinker, {}, mesh_of((1,) * len(AXES), jax.local_devices()[:1]))


def _assembled(thinker: dict[str, Any], common: dict[str, Any], mesh: Mesh | None) -> Qwen3OmniMoeThinkerConfig:
    """The config of `thinker`, itself and each of its parts given what they have in `common`, on `mesh` if given."""
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
    config.set_model_mesh(mesh or config.mesh)
    return config


def _known(kind: type[Any], values: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    names = inspect.signature(kind.__init__).parameters
    return {name: value for name, value in values.items() if name in names and name not in without}


def _part(kind: type[Any], values: dict[str, Any], common: dict[str, Any]) -> Any:
    return kind(**_known(kind, values), **common)
