"""The thinker's parameters between EasyDeL's names and layouts and transformers' safetensors, one tensor at a time.

transformers writes one tensor an expert; some checkpoints hold all experts of a layer in one. Both are read, the
first is written.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from easydel.infra.utils import sanitize_partition_spec_for_shape
from eformer.escale import match_partition_rules
from flax import nnx
from jax.sharding import NamedSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from audiorl_cli.bridge import hosts
from audiorl_cli.bridge.mesh import everywhere
from audiorl_cli.errors import ModelError

ParameterPath = tuple[str | int, ...]
Source = Callable[[ParameterPath, tuple[int, ...]], np.ndarray]
"""A parameter's path and shape in EasyDeL -> its values in EasyDeL's layout."""

_Shape: Any = jax.ShapeDtypeStruct  # it has no types

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
"""Tensors beyond this many bytes go to a further file, as transformers does."""

THINKER = "thinker."
_OTHER_PARTS = ("talker.", "code2wav.")  # speech synthesis: a whole Omni checkpoint holds it, the thinker has none


def filled(lazy_model: Any, source: Source) -> Any:
    """`lazy_model` (from `lazy_init`) with every parameter taken from `source`, put straight onto its mesh.

    One parameter is on the host at a time.
    """
    graph, state = nnx.split(lazy_model)
    place, leaves = shardings(lazy_model), []
    for path, variable in nnx.to_flat_state(state):
        abstract = variable.get_value()
        if isinstance(variable, nnx.Param):
            values = source(path, abstract.shape).astype(abstract.dtype)
            variable = variable.replace(hosts.put(values, place(path, abstract)))
        elif isinstance(variable, nnx.RngKey):  # of dropout layers, which the thinker runs at rate 0
            variable = variable.replace(jax.random.key(0))
        else:
            variable = variable.replace(jnp.zeros(abstract.shape, abstract.dtype))
        leaves.append((path, variable))
    return nnx.merge(graph, nnx.from_flat_state(leaves))


def shardings(model: Any) -> Callable[[ParameterPath, Any], NamedSharding]:
    """Where EasyDeL's own rules put a parameter, by path and shape; an axis that does not divide is left whole."""
    rules = model._get_partition_rules(None)  # a walk over the whole model: once

    def place(path: ParameterPath, abstract: Any) -> NamedSharding:
        name = "/".join(str(part) for part in path)
        spec = match_partition_rules(rules=rules, tree={name: abstract})[name]
        return NamedSharding(model.mesh, sanitize_partition_spec_for_shape(spec, tuple(abstract.shape), model.mesh))

    return place


def ready(model: Any) -> Any:
    """`model` to compute with: one whose parameters are kept in another dtype than it computes in, with a copy of them
    in that; any other itself."""
    if model.param_dtype == model.dtype:
        return model
    graph, parameters, others = nnx.split(model, nnx.Param, ...)
    lowered = jax.tree_util.tree_map(lambda leaf: leaf.astype(model.dtype), parameters)
    return nnx.merge(graph, lowered, others)


def abstract_state(model: Any, tx: Any) -> Any:
    """EasyDeL's state of `model` and the optimizer `tx`, as its `init_tx` and `shard_state` make it: shapes alone, each
    with its place on the mesh."""
    graph, values = nnx.split(model)
    # EasyDeL's makes up values for what has none and is no parameter: with LoRA, that is the whole model.
    state, place = jax.eval_shape(lambda values: nnx.merge(graph, values).to_state(), values), shardings(model)
    opt_state, step = jax.eval_shape(tx.init, state.graphstate), _Shape((), jnp.int32)
    flat, structure = jax.tree_util.tree_flatten_with_path(state.replace(tx=tx, opt_state=opt_state, step=step))
    leaves = []
    for path, leaf in flat:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        leaves.append(_Shape(leaf.shape, leaf.dtype, sharding=place(tuple(name.split("/")), leaf)))
    return jax.tree_util.tree_unflatten(structure, leaves)


def trained(model: Any, tx: Any) -> Any:
    """EasyDeL's state of `model` and the optimizer `tx`, on the mesh of the model."""
    state = model.to_state().init_tx(tx)
    if not hosts.several():
        return state.shard_state()
    # Its `shard_state` cannot place what a process made by itself (counters, keys) on the devices of others; what is
    # divided, parameters and moments, is in its place already.
    whole = everywhere(model.mesh)

    def place(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        if not leaf.is_fully_addressable:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)))
        return hosts.put(np.asarray(leaf), whole)

    return jax.tree_util.tree_map(place, state)


class Tensors:
    """The thinker's tensors in the safetensors files of a Hugging Face folder, read when asked for.

    A context manager. Raises ModelError where a file is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._stack = folder, ExitStack()
        self._files: dict[str, Any] = {}  # the thinker's tensor name -> the open file that holds it
        self._prefix = ""
        self._used: set[str] = set()

    def __enter__(self) -> "Tensors":
        names: dict[str, Any] = {}
        for path in _files(self.folder):
            try:
                file = self._stack.enter_context(safe_open(path, framework="numpy"))
            except (OSError, SafetensorError) as error:
                raise ModelError(
                    str(path), expected="a safetensors file", got=str(error), fix="Copy or download it again."
                ) from error
            names.update(dict.fromkeys(file.keys(), file))
        if any(name.startswith(THINKER) for name in names):
            self._prefix = THINKER
            names = {name: file for name, file in names.items() if not name.startswith(_OTHER_PARTS)}
        self._files = {name.removeprefix(self._prefix): file for name, file in names.items()}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, path: ParameterPath, shape: tuple[int, ...]) -> np.ndarray:
        """The parameter at `path`, in EasyDeL's layout (a `Source`)."""
        if "experts" not in path:
            tensor = self._read(tensor_name(path), _torch_shape(path, shape))
            return tensor.transpose(np.argsort(_axes(path, len(shape))))
        fused, start = _fused(path)
        if fused in self._files:
            experts, inner, outer = shape
            both = 2 * outer if fused.endswith("gate_up_proj") else outer
            whole = self._read(fused, (experts, both, inner))
            return whole[:, start * outer : (start + 1) * outer].swapaxes(1, 2)
        return np.stack([self._read(tensor_name(path, expert), (shape[2], shape[1])).T for expert in range(shape[0])])

    def refuse_leftovers(self, allowed: Iterable[str] = ()) -> None:
        """Raises ModelError naming tensors that no parameter has asked for, but those `allowed`."""
        left = sorted(set(self._files) - self._used - set(allowed))
        if left:
            raise ModelError(
                str(self.folder),
                expected="tensors of the thinker only",
                got=f"{len(left)} unexpected: {_some(left)}",
                fix="The weights and config.json do not belong together.",
            )

    def require(self, names: Iterable[str]) -> None:
        """Raises ModelError naming every one of `names` that the files lack."""
        missing = sorted(set(names) - set(self._files))
        if missing:
            raise ModelError(
                str(self.folder),
                expected="every tensor of the thinker",
                got=f"{len(missing)} missing: {_some(missing)}",
                fix="Complete the download; the weights and config.json may not belong together.",
            )

    def needed(self, path: ParameterPath, shape: tuple[int, ...]) -> list[str]:
        """Names of the tensors that make the parameter at `path`, in the form the files use."""
        if "experts" not in path:
            return [tensor_name(path)]
        fused, _ = _fused(path)
        return [fused] if fused in self._files else [tensor_name(path, expert) for expert in range(shape[0])]

    def _read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in self._files:
            self.require([name])
        file, full = self._files[name], self._prefix + name
        got = tuple(file.get_slice(full).get_shape())
        if got != shape:
            raise ModelError(
                f"{self.folder}: {full}",
                expected=f"shape {list(shape)}",
                got=f"{list(got)}",
                fix="The weights and config.json do not belong together.",
            )
        self._used.add(name)
        tensor: np.ndarray = file.get_tensor(full)
        return tensor


def load(lazy_model: Any, folder: Path) -> Any:
    """`lazy_model` with the weights in `folder`.

    Raises ModelError naming every missing or unexpected tensor, or the first of another shape.
    """
    parameters = [
        (path, variable.get_value().shape) for path, variable in nnx.to_flat_state(nnx.state(lazy_model, nnx.Param))
    ]
    with Tensors(folder) as tensors:
        tensors.require(name for path, shape in parameters for name in tensors.needed(path, shape))
        model = filled(lazy_model, tensors)
        # A tied head may be written out all the same; the embedding is what is read.
        tensors.refuse_leftovers(["lm_head.weight"] if lazy_model.config.tie_word_embeddings else [])
    return model


def save(model: Any, folder: Path, shard_bytes: int = SHARD_BYTES, *, omni: Path | None = None) -> None:
    """Writes the parameters of `model` into `folder` as transformers would: safetensors files, an index if several.

    `omni`: the folder of the whole Omni that `model` is the thinker of; its other parts (talker, code2wav) are written
    too, bit for bit, and the files are those of a whole Omni. No more than one file is on the host at a time.
    """
    parts: list[list[str]] = []
    pending: dict[str, np.ndarray] = {}
    sizes = [0]

    def write() -> None:
        save_file(pending, folder / _part(len(parts)), metadata={"format": "pt"})
        parts.append(list(pending))
        pending.clear()
        sizes.append(0)

    for name, tensor in _whole_omni(model, omni) if omni else _tensors(model):
        if pending and sizes[-1] + tensor.nbytes > shard_bytes:
            write()
        pending[name] = tensor
        sizes[-1] += tensor.nbytes
    write()
    count = len(parts)
    titles = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    titles = titles if count > 1 else ["model.safetensors"]
    for number, title in enumerate(titles):
        (folder / _part(number)).rename(folder / title)
    if count > 1:
        weight_map = {name: title for title, names in zip(titles, parts, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def give(model: Any) -> None:
    """Take part, in a process that does not write, in the `save` of the one that does."""
    for _ in _tensors(model):
        pass


def tensor_name(path: ParameterPath, expert: int | None = None) -> str:
    """transformers' name of the parameter at EasyDeL's `path` (of one expert of it)."""
    parts = [str(part) for part in path]
    if parts[-1] in ("kernel", "scale", "embedding"):
        parts[-1] = "weight"
    if expert is not None:
        parts.insert(parts.index("experts") + 1, str(expert))
    return ".".join(parts)


def _axes(path: ParameterPath, rank: int) -> tuple[int, ...]:
    """Axes of EasyDeL's array at `path` in torch's order: of a kernel [..., in, out] it is [out, in, ...]."""
    if path[-1] == "kernel" and rank > 1:
        return rank - 1, rank - 2, *range(rank - 2)
    return tuple(range(rank))


def _torch_shape(path: ParameterPath, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _axes(path, len(shape)))


def _fused(path: ParameterPath) -> tuple[str, int]:
    """Name of the tensor that holds a whole layer's experts, and which part of its rows is this parameter."""
    name = tensor_name(path).removesuffix(".weight")
    together = re.sub(r"\.(gate|up)_proj$", ".gate_up_proj", name)
    return together, int(name.endswith(".up_proj"))


def _part(number: int) -> str:
    """A file's name while it is not known how many there will be."""
    return f"part-{number}.safetensors"


def _tensors(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """One tensor after another, on the host, under transformers' name and in its layout."""
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        array = hosts.whole_of_first(variable.get_value())
        if "experts" in path:
            for expert in range(array.shape[0]):
                yield tensor_name(path, expert), np.ascontiguousarray(array[expert].T)
        else:
            yield tensor_name(path), np.ascontiguousarray(array.transpose(_axes(path, array.ndim)))


def _whole_omni(model: Any, omni: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of `model` as a whole Omni names them, then those of the other parts in the folder `omni`."""
    for name, tensor in _tensors(model):
        yield f"{THINKER}{name}", tensor
    for path in _files(omni):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - a file of safetensors is no mapping
                if name.startswith(_OTHER_PARTS):
                    yield name, file.get_tensor(name)


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / name for name in named]
    else:
        files = sorted(folder.glob("*.safetensors"))
    absent = [path.name for path in files if not path.is_file()]
    if absent or not files:
        raise ModelError(
            str(folder),
            expected="the safetensors files of a checkpoint",
            got=f"no {_some(absent)}" if absent else "none",
            fix="Complete the download, or convert the checkpoint to safetensors.",
        )
    return files


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
