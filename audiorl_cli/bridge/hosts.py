"""What the processes of a run tell one another. Of a process by itself every function here is a plain call.

All processes call these in the same order; one that does not come is waited for until JAX gives it up.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float64

from audiorl_cli.errors import AudioRLError

Value = TypeVar("Value")


def several() -> bool:
    """Whether the run has more processes than this one."""
    count: int = jax.process_count()
    return count > 1


def leads() -> bool:
    """Whether this process is the one that writes."""
    index: int = jax.process_index()
    return index == 0


def from_first(call: Callable[[], Value]) -> Value:
    """What `call` returns in the first process, which alone makes it; in all of them. So is an AudioRLError raised."""
    if not several():
        return call()
    said: tuple[Any, AudioRLError | None] = None, None
    if leads():
        try:
            said = call(), None
        except AudioRLError as error:
            said = None, error
    content = np.frombuffer(pickle.dumps(said), np.uint8) if leads() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(content.size, np.int32)))
    sent = multihost_utils.broadcast_one_to_all(content if leads() else np.zeros(size, np.uint8))
    told: tuple[Any, AudioRLError | None] = pickle.loads(np.asarray(sent).tobytes())
    if told[1] is not None:
        raise told[1]
    value: Value = told[0]
    return value


def any_of(flag: bool) -> bool:
    """Whether it is so in any process."""
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any()) if several() else flag


def gathered(
    places: Sequence[int], values: Float64[np.ndarray, "here ..."], count: int
) -> Float64[np.ndarray, "count ..."]:
    """The rows of a table of `count`, of which this process has `values` at `places`; several may have the same."""
    table = np.zeros((count, values[0].size + 1))
    table[list(places), :-1], table[list(places), -1] = values.reshape(len(values), -1), 1
    # As bytes: JAX would round float64.
    every = multihost_utils.process_allgather(table.view(np.uint8)) if several() else table.view(np.uint8)[None]
    every = np.ascontiguousarray(every).view(np.float64)
    holder = every[..., -1].argmax(axis=0)
    return every[holder, np.arange(count), :-1].reshape(count, *values.shape[1:])


def whole(array: Array) -> np.ndarray:
    """All of a global array, on the host, in every process."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    found: np.ndarray = multihost_utils.process_allgather(array, tiled=True)
    return found


def whole_of_first(array: Array | np.ndarray) -> np.ndarray:
    """All of a global array on the host of the first process; elsewhere nothing, of the same shape and dtype."""
    if not several() or isinstance(array, np.ndarray):
        return np.asarray(jax.device_get(array))
    spec: Any = PartitionSpec
    sharding: Any = array.sharding
    everywhere = NamedSharding(sharding.mesh, spec()) if isinstance(sharding, NamedSharding) else sharding
    copy = jax.jit(_itself, out_shardings=everywhere)(array).block_until_ready()  # one whole array at a time
    return np.asarray(copy.addressable_data(0)) if leads() else np.broadcast_to(np.zeros((), array.dtype), array.shape)


def here(array: Array) -> np.ndarray:
    """The rows of a global array that this process has, in their order."""
    if array.is_fully_addressable:
        return np.asarray(array)
    parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


def put(values: np.ndarray, sharding: Any) -> Array:
    """An array that every process has, placed by `sharding`."""
    if not several():
        placed: Array = jax.device_put(values, sharding)
        return placed
    return jax.make_array_from_callback(values.shape, sharding, lambda index: np.asarray(values)[index])


def put_from_first(values: np.ndarray | None, like: Array) -> Array:
    """The array that the first process has, of the shape and dtype of `like`, and placed as it is."""
    if several():
        bits = np.zeros(like.nbytes, np.uint8) if values is None else _bits(values)
        sent = np.asarray(multihost_utils.broadcast_one_to_all(bits))
        values = np.frombuffer(sent.tobytes(), like.dtype).reshape(like.shape)
    if values is None:
        raise AssertionError("the first process has the values")
    return put(values, like.sharding)


def _itself(array: Array) -> Array:
    return array


def _bits(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
