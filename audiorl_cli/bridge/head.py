"""The output head: hidden states -> logits, which are float32 whatever the model computes in.

A product of bfloat16 numbers is summed up in float32 anyway; rounded to bfloat16 after it, logits of 16 to 32 would be
an eighth apart, and so would their log-probs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from audiorl_cli.bridge.lora import Adapter


class Head(NamedTuple):
    """Weights of the head: its own, or the embedding's where it is tied; `up` is B of its adapter, if it has one."""

    kernel: Float[Array, "width vocab"]
    up: Float[Array, "rank vocab"] | None


class Inputs(NamedTuple):
    """Hidden states as a head takes them; `inner`: what its adapter makes of them with alpha / rank * A."""

    hidden: Float[Array, "*tokens width"]
    inner: Float[Array, "*tokens rank"] | None


def head_and_inputs(model: Any, hidden: Float[Array, "*tokens width"]) -> tuple[Head, Inputs]:
    """The head of `model`, and `hidden` as it takes them.

    An adapter is not merged: in bfloat16 the sum of W and what it has learnt would be rounded to W again.
    """
    if model.lm_head is None:
        table: Array = model.model.embed_tokens.embedding[...]
        return Head(table.T, None), Inputs(hidden, None)
    if isinstance(model.lm_head, Adapter):
        adapter = model.lm_head
        inner = _product(hidden, adapter.lora_a[...], model.precision) * (adapter.alpha / adapter.rank)
        kernel: Array = adapter.base_module.kernel[...]
        return Head(kernel, adapter.lora_b[...]), Inputs(hidden, inner.astype(hidden.dtype))
    return Head(model.lm_head.kernel[...], None), Inputs(hidden, None)


def logits(head: Head, inputs: Inputs, precision: jax.lax.PrecisionLike) -> Float[Array, "*tokens vocab"]:
    """The logits of all of the vocabulary, or of that part of it of which `head` has the columns; float32."""
    found = _product(inputs.hidden, head.kernel, precision)
    if head.up is None or inputs.inner is None:
        return found
    return found + _product(inputs.inner, head.up, precision)


def _product(rows: Array, kernel: Array, precision: jax.lax.PrecisionLike) -> Array:
    return jnp.matmul(rows, kernel.astype(rows.dtype), precision=precision, preferred_element_type=jnp.float32)
