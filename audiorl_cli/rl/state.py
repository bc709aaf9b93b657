"""What an update changes in an EasyDeL state, as a flat table of named arrays on the host, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from audiorl_cli.errors import ModelError


def changing(state: Any) -> dict[str, Any]:
    """The fields of `state` that an update replaces."""
    return {"step": jnp.asarray(state.step), "graphstate": state.graphstate, "opt_state": state.opt_state}


def named(tree: Any) -> dict[str, np.ndarray]:
    """Every array of `tree` on the host, under its path."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): np.asarray(jax.device_get(leaf)) for path, leaf in flat}


def restored(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """`tree` with its arrays replaced by those of `arrays`, each placed as the one it replaces.

    Raises ModelError where names, shapes or dtypes are not those of `tree`.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
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
    placed = [jax.device_put(arrays[_name(path)], leaf.sharding) for path, leaf in flat]
    return jax.tree_util.tree_unflatten(structure, placed)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
