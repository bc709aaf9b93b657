"""The devices of a run as a mesh: what its axes divide, and which meshes cannot work.

`dp`, `fsdp` and `ep` divide the rows of a batch; `fsdp` the parameters too, which are brought together where they are
used; `ep` the experts of a layer; `tp` the heads of attention, the width of experts and feed-forward blocks.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from audiorl_cli.config import MeshConfig
from audiorl_cli.errors import ConfigError

AXES: Final = ("dp", "fsdp", "ep", "tp", "sp")
"""EasyDeL's names of the axes of `MeshConfig`, in their order there."""
ROWS: Final = ("fsdp", "dp", "ep")
"""The axes that divide the rows of a batch, the slowest first: EasyDeL's order, to which it does not add ep."""
HEADS: Final = "tp"
"""The axis that divides heads, of attention and of what is kept of a token."""

# They have no types.
Spec: Any = PartitionSpec
_hold: Any = jax.lax.with_sharding_constraint
Tree = TypeVar("Tree")


def axis_dims(mesh: MeshConfig, devices: int) -> tuple[int, int, int, int, int]:
    """Sizes of AXES on so many devices; one device leaves every axis at 1.

    Raises ConfigError where they do not multiply to the devices.
    """
    sizes = [mesh.data, mesh.fsdp, mesh.expert, mesh.tensor, mesh.sequence]
    if devices == 1:
        return 1, 1, 1, 1, 1
    fixed = math.prod(size for size in sizes if size != -1)
    if devices % fixed if -1 in sizes else fixed != devices:
        raise ConfigError(
            "mesh",
            expected=f"axis sizes that multiply to {devices} devices",
            got=f"data {mesh.data}, fsdp {mesh.fsdp}, expert {mesh.expert}, tensor {mesh.tensor}",
            fix="Correct [mesh] in the TOML file.",
        )
    data, fsdp, expert, tensor, sequence = (devices // fixed if size == -1 else size for size in sizes)
    return data, fsdp, expert, tensor, sequence


def demand_divisible(mesh: MeshConfig, thinker: dict[str, Any], devices: int) -> tuple[int, int, int, int, int]:
    """`axis_dims`, if they divide a model of the config `thinker` (transformers' keys).

    Raises ConfigError where an axis would divide what has to lie on one device.
    """
    sizes = axis_dims(mesh, devices)
    text, audio = thinker["text_config"], thinker["audio_config"]
    divided = (
        ("tensor", "attention heads of the audio tower", audio["encoder_attention_heads"]),
        ("tensor", "attention heads of the decoder", text["num_attention_heads"]),
        ("tensor", "key and value heads of the decoder", text["num_key_value_heads"]),
        ("tensor", "units of an expert", text["moe_intermediate_size"]),
        ("expert", "experts of a layer", text["num_experts"]),
    )
    for name, what, count in divided:
        size = sizes[AXES.index("tp" if name == "tensor" else "ep")]
        if count % size:
            counts = [each for other, _, each in divided if other == name]
            able = [each for each in range(1, min(counts) + 1) if not any(every % each for every in counts)]
            raise ConfigError(
                f"mesh.{name}",
                expected=f"a divisor of the {count} {what}, none of which can be divided",
                got=str(size),
                fix=f"This model takes {', '.join(map(str, able))}.",
            )
    return sizes


def mesh_of(dims: Sequence[int], devices: Sequence[Any]) -> Mesh:
    """A mesh of these devices, which need not be of this machine."""
    return Mesh(create_device_mesh(dims, devices, allow_split_physical_axes=True), AXES)


def demand_rows(mesh: MeshConfig, *, devices: int | None = None, **rows: int) -> None:
    """Raises ConfigError where so many `devices`, or those of this machine, cannot divide as many `rows` as a key,
    `a__b` for a.b, says.

    A batch that learns is not filled up: its losses are means over what is in it.
    """
    data, fsdp, expert, _, _ = axis_dims(mesh, devices or jax.device_count())
    shards = data * fsdp * expert
    for name, count in rows.items():
        if count % shards:
            raise ConfigError(
                name.replace("__", "."),
                expected=f"a multiple of {shards}: data {data} x fsdp {fsdp} x expert {expert} divide a batch",
                got=str(count),
                fix=f"Set it to {-(-count // shards) * shards}, or have mesh.tensor take devices.",
            )


def platform(mesh: Mesh) -> str:
    """What its devices are: cpu, gpu or tpu; those of another machine too."""
    kind: str = mesh.devices.flat[0].platform
    return kind


def batch_shards(mesh: Mesh) -> int:
    """Among how many devices the rows of a batch are divided."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def own_rows(mesh: Mesh, rows: int) -> list[int]:
    """Which of so many rows of a batch lie on devices of this process."""
    each = rows // batch_shards(mesh)
    return [shard * each + place for shard in own_shards(mesh) for place in range(each)]


def own_shards(mesh: Mesh) -> list[int]:
    """Which of `batch_shards` are on devices of this process."""
    there = by_rows(mesh).addressable_devices_indices_map((batch_shards(mesh),)).values()
    return sorted({index[0].start or 0 for index in there if index is not None})


def by_rows(mesh: Mesh) -> NamedSharding:
    """Rows divided among devices, all else of an array whole."""
    return NamedSharding(mesh, Spec(ROWS))


def everywhere(mesh: Mesh) -> NamedSharding:
    """An array whole on every device."""
    return NamedSharding(mesh, Spec())


def placed(mesh: Mesh, tree: Tree) -> Tree:
    """The arrays of `tree` on the devices, the rows of each divided among them.

    Of numpy's arrays a process has its `own_rows` alone.
    """
    if jax.process_count() == 1:
        on_devices: Tree = jax.device_put(tree, by_rows(mesh))
        return on_devices

    def place(leaf: Any) -> Any:
        return _of_own_rows(mesh, leaf) if isinstance(leaf, np.ndarray) else jax.device_put(leaf, by_rows(mesh))

    placed: Tree = jax.tree_util.tree_map(place, tree)
    return placed


def _of_own_rows(mesh: Mesh, rows: np.ndarray) -> Any:
    here = own_shards(mesh)
    each = len(rows) // len(here)

    def part(index: Any) -> np.ndarray:
        first = here.index((index[0].start or 0) // each) * each
        return rows[first : first + each]

    shape = (each * batch_shards(mesh), *rows.shape[1:])
    return jax.make_array_from_callback(shape, by_rows(mesh), part)


def kept(mesh: Mesh, tree: Tree, *rest: str) -> Tree:
    """`tree`, inside a compiled program, its arrays divided by rows, and by `rest` behind them.

    XLA would choose for itself otherwise. One device has nothing to choose, and its program stays what it is.
    """
    if mesh.size == 1:
        return tree
    held: Tree = _hold(tree, NamedSharding(mesh, Spec(ROWS, *rest)))
    return held
