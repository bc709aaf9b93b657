"""LoRA adapters: put on EasyDeL's linear layers, merged into the weights they adapt, written as PEFT writes them.

Of a model that holds an `nnx.LoRAParam`, EasyDeL's state takes these alone for its parameters
(`EasyDeLBaseModule.graphstate_type`): only adapters have a gradient, an optimizer state and a place in a snapshot.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from easydel.layers import ParallelLinear, ParallelMoELinear, eLoRA
from easydel.utils.traversals import iter_module_search, set_module_from_path
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from safetensors.numpy import save_file

from audiorl_cli.bridge import hosts
from audiorl_cli.config import LoraConfig
from audiorl_cli.errors import ConfigError

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"

ModulePath = tuple[str | int, ...]

_initial_a: Final = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PEFT's initial A: uniform within 1 / sqrt(in), where flax's own is within sqrt(6 / in)."""


class Adapter(eLoRA):
    """y = x W + alpha / rank * x A B around a linear layer W [in, out]; A [in, rank] is random and B [rank, out] zero.

    EasyDeL's own (`easydel/layers/linears/_lora.py:62` and `:94`) knows no alpha and drops the layer's precision. A and
    B are float32, as PEFT has them, whatever the layer is: bfloat16 would lose the optimizer's steps. Source: Hu et al.
    2021, arXiv:2106.09685.
    """

    def __init__(self, base: ParallelLinear, rank: int, alpha: float, rngs: nnx.Rngs) -> None:
        super().__init__(
            base.in_features,
            rank,
            base.out_features,
            base_module=base,
            dtype=base.dtype,
            param_dtype=jnp.float32,
            a_initializer=_initial_a,
            rngs=rngs,
        )
        self.rank, self.alpha, self.precision = rank, alpha, base.precision

    def __call__(self, x: Float[Array, "... inner"], *args: Any, **kwargs: Any) -> Float[Array, "... outer"]:
        """The layer's output with the adapter's; further arguments are the layer's."""
        outputs: Array = self.base_module(x, *args, **kwargs) + self._change(x)
        return outputs

    def native_forward(self, inputs: Float[Array, "... inner"], *, w: Any = None) -> Float[Array, "... outer"]:
        """The same, safe to call in any traced loop."""
        outputs: Array = self.base_module.native_forward(inputs=inputs, w=w) + self._change(inputs)
        return outputs

    def merged_kernel(self) -> Float[Array, "inner outer"]:
        """W + alpha / rank * A B, summed in float32, in the dtype of W."""
        kernel = self.base_module.kernel[...]
        product = jnp.matmul(self.lora_a[...], self.lora_b[...], precision=jax.lax.Precision.HIGHEST)
        merged: Array = (kernel.astype(jnp.float32) + self.alpha / self.rank * product).astype(kernel.dtype)
        return merged

    def _change(self, x: Float[Array, "... inner"]) -> Float[Array, "... outer"]:
        x, a, b = self.promote_dtype((x, self.lora_a[...], self.lora_b[...]), dtype=self.dtype)
        inner = jnp.matmul(x, a, precision=self.precision)
        return self.alpha / self.rank * jnp.matmul(inner, b, precision=self.precision)


def adapted(model: Any, lora: LoraConfig, seed: int, frozen: Collection[str]) -> Any:
    """`model` with an adapter on each linear layer that `lora` names; `model` itself where the rank is 0.

    A is drawn from `seed`. Parts of the model in `frozen` (`audio_tower`) take none. Raises ConfigError for an
    expression that names no such layer, or one that can take no adapter.
    """
    if lora.rank == 0:
        return model
    model = _copy(model)
    layers = _chosen(model, re.compile(lora.modules), frozen)
    rngs, whole = nnx.Rngs(seed), NamedSharding(model.mesh, PartitionSpec())  # type: ignore[no-untyped-call]
    for path, layer in layers:
        adapter = Adapter(layer, lora.rank, lora.alpha, rngs)
        for matrix in (adapter.lora_a, adapter.lora_b):
            matrix[...] = hosts.put(matrix[...], whole)
        set_module_from_path(model, path, adapter)
    return model


def adapters(model: Any) -> dict[str, Adapter]:
    """The adapters of `model`, each under transformers' name of the module it adapts."""
    return {_name(path): adapter for path, adapter in iter_module_search(model, Adapter)}


def merged(model: Any) -> Any:
    """`model` with every adapter merged into its layer and gone; `model` itself where there is none."""
    if not adapters(model):
        return model
    model = _copy(model)
    for path, adapter in list(iter_module_search(model, Adapter)):
        layer = adapter.base_module
        layer.kernel = nnx.Param(adapter.merged_kernel())
        set_module_from_path(model, path, layer)
    return model


def save(model: Any, folder: Path, *, base: str | None, prefix: str) -> None:
    """Writes the adapters of `model` into `folder` as PEFT does.

    `base` is where their base model is to be found, `prefix` (ending in a dot) where the thinker stands in it.
    """
    found = {f"{prefix}{name}": adapter for name, adapter in adapters(model).items()}
    first = next(iter(found.values()))  # all are of one rank and one alpha
    tensors = {}
    for name, adapter in found.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = _transposed(adapter.lora_a[...])
        tensors[f"base_model.model.{name}.lora_B.weight"] = _transposed(adapter.lora_b[...])
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "target_modules": sorted(found),
        "r": first.rank,
        "lora_alpha": int(first.alpha) if first.alpha == int(first.alpha) else first.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _chosen(model: Any, pattern: re.Pattern[str], frozen: Collection[str]) -> list[tuple[ModulePath, ParallelLinear]]:
    """The layers whose whole name `pattern` matches, all of them able to take an adapter and none of them frozen."""
    able, unable = [], {}
    for path, layer in iter_module_search(model, (ParallelLinear, ParallelMoELinear)):
        if path[0] in frozen:
            continue
        if isinstance(layer, ParallelMoELinear):
            # Its kernel goes into one product over all experts, past any module that could be wrapped.
            unable[_name(path)] = "the experts, which EasyDeL holds fused"
        elif "mlp" in path:
            # Routers and layers without experts: by their names PEFT 0.21 takes them for experts of transformers 4.
            unable[_name(path)] = "a feed-forward block, whose adapters PEFT does not find again"
        else:
            able.append((path, layer))
    refused = next((f"{name}, of {why}" for name, why in unable.items() if pattern.fullmatch(name)), None)
    chosen = [(path, layer) for path, layer in able if pattern.fullmatch(_name(path))]
    if refused or not chosen:
        kinds = dict.fromkeys(re.sub(r"\d+", "N", _name(path)) for path, _ in able)
        raise ConfigError(
            f"lora.modules = '{pattern.pattern}'",
            expected="to match whole names of modules that can take an adapter",
            got=refused or "none",
            fix=f"There are {', '.join(kinds)}.",
        )
    return chosen


def _copy(model: Any) -> Any:
    """The same arrays under new modules, so that those of `model` stay as they are."""
    return nnx.merge(*nnx.split(model))


def _name(path: ModulePath) -> str:
    return ".".join(map(str, path))


def _transposed(kernel: Array) -> Float[np.ndarray, "outer inner"]:
    """A kernel as torch holds it, on the host."""
    return np.ascontiguousarray(np.asarray(jax.device_get(kernel)).T)
