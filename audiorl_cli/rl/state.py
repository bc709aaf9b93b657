"""What an update changes in an EasyDeL state, as a flat table of named arrays on the host, and back."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from audiorl_cli.bridge import hosts
from audiorl_cli.errors import ModelError

_BASE: Final = "base"


def taken(state: Any, reference: Any = None) -> dict[str, Array | np.ndarray]:
    """Every array of `state` that an update changes, where it is, by its path; and one to know by what none changes:
    the base under adapters, and the parameters of the `reference` model.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(changing(state))
    return {_name(path): leaf for path, leaf in flat} | _base(state, reference)


def given_back(state: Any, arrays: Mapping[str, np.ndarray], reference: Any = None) -> Any:
    """`state` as it was when `taken` gave `arrays`.

    Raises ModelError where they are of another model or optimizer, or were learnt on another base or `reference`.
    """
    base = _base(state, reference).get(_BASE, ())
    if not hosts.from_first(lambda: np.array_equal(arrays.get(_BASE, ()), base)):
        raise ModelError(
            "checkpoint",
            expected="the reference model, and the weights under adapters, to be those that the run began with",
            got="others",
            fix="Resume with the model that the run began with.",
        )
    learnt = {name: array for name, array in arrays.items() if name != _BASE}
    return state.replace(**restored(changing(state), learnt))


def at_step(state: Any, step: int) -> Any:
    """`state`, counted as one of so many updates."""
    return state.replace(**restored({"step": jnp.asarray(state.step)}, {"step": np.asarray(step, state.step.dtype)}))


def changing(state: Any) -> dict[str, Any]:
    """The fields of `state` that an update replaces."""
    return {"step": jnp.asarray(state.step), "graphstate": state.graphstate, "opt_state": state.opt_state}


def named(tree: Any) -> dict[str, np.ndarray]:
    """Every array of `tree` on the host, under its path."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): np.asarray(jax.device_get(leaf)) for path, leaf in flat}


def restored(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """`tree` with its arrays replaced by those that the first process has in `arrays`, each placed as the old one.

    Raises ModelError where names, shapes or dtypes are not those of `tree`.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    hosts.from_first(lambda: _demand_like(flat, arrays))
    placed = [hosts.put_from_first(arrays.get(_name(path)), leaf) for path, leaf in flat]
    return jax.tree_util.tree_unflatten(structure, placed)


def _demand_like(flat: Sequence[tuple[Any, Any]], arrays: Mapping[str, np.ndarray]) -> None:
    expected = {_name(path): (leaf.shape, str(leaf.dtype)) for path, leaf in flat}
    found = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ModelError(
            f"checkpoint: {wrong[0]}",
            expected=str(expected.get(wrong[0], "no such array")),
            got=str(found.get(wrong[0], "none")),
            fix="Resume with the model that the run began with.",
        )


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _base(state: Any, reference: Any) -> dict[str, np.ndarray]:
    """The bits of each parameter that no update changes, summed: exact, whatever the order."""
    base = [var.get_value() for _, var in nnx.to_flat_state(state.graphother) if isinstance(var, nnx.Param)]
    base += jax.tree_util.tree_leaves(reference)
    sums = jax.device_get([_bits(array).sum() for array in base])
    return {_BASE: np.asarray(sums, np.uint32)} if base else {}


def _bits(array: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * array.itemsize}")).astype(jnp.uint32)
