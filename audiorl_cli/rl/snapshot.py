"""Checkpoints of a run: every array that learning changes and the step it belongs to, whole or not at all.

A checkpoint is `RUN/checkpoints/step-N/` with `arrays.safetensors` and `snapshot.json`. The order of data and the keys
of sampling are functions of (seed, step), so the step is all that has to be kept of them.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from audiorl_cli.bridge import hosts
from audiorl_cli.errors import ModelError

CHECKPOINTS: Final = "checkpoints"
VERSION: Final = 1
_ARRAYS: Final = "arrays.safetensors"
_STATE: Final = "snapshot.json"
_NAME: Final = re.compile(r"step-(\d+)")
# safetensors.numpy cannot read bfloat16, nor write an array at a time.
_DTYPES: Final = {
    "BF16": jnp.dtype(jnp.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "BOOL": np.dtype(np.bool_),
}
_CODES: Final = {dtype: code for code, dtype in _DTYPES.items()}
_ALIGNED: Final = 8  # bytes that a header is padded to

Arrays = Mapping[str, Array | np.ndarray]


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint read back: `step` updates done, and each array under its path in the tree."""

    step: int
    arrays: Mapping[str, np.ndarray]


def save(run: Path, step: int, arrays: Arrays, *, keep: int, best: int | None = None) -> Path:
    """Write `checkpoints/step-N` of `run` and delete all but the newest `keep` and that of the `best` step.

    Returns its folder. Of several processes the first writes, and all have to call it: one array is on the host at a
    time, and it is gathered from all of them.

    It appears under its name once its bytes are on the disk; the older ones go only after that, each at once: a kill
    leaves no half of one. Raises ModelError where it cannot be written, and leaves the older ones alone.
    """
    folder = run / CHECKPOINTS / f"step-{step}"
    whole = _gathered(arrays)
    if not hosts.leads():
        for _ in whole:
            pass
        return folder
    temporary = _unnamed(folder)
    try:
        for left in folder.parent.glob(_unnamed(Path("step-*")).name):  # by a kill
            shutil.rmtree(left)
        temporary.mkdir(parents=True)
        state = _write(temporary / _ARRAYS, chain([_header(arrays)], whole), step)
        _write(temporary / _STATE, [json.dumps(state).encode()], step)
        _sync(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        _sync(folder.parent)
        for old in steps(run)[:-keep]:
            if old == best:
                continue
            going = run / CHECKPOINTS / f"step-{old}"
            shutil.rmtree(going.replace(_unnamed(going)))
    except OSError as error:
        for _ in whole:  # the other processes go on giving
            pass
        shutil.rmtree(temporary, ignore_errors=True)
        raise ModelError(
            f"checkpoint {folder}",
            expected="to write it",
            got=str(error.strerror),
            fix="Free disk space (or mend its permissions) and run again: it goes on from its newest checkpoint.",
        ) from error
    return folder


def steps(run: Path) -> list[int]:
    """The steps of which `run` has checkpoints, oldest first, damaged ones included.

    Raises ModelError where their folder cannot be read.
    """
    folder = run / CHECKPOINTS
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelError(
            str(folder), expected="a folder to read", got=str(error.strerror), fix="Mend its permissions, run again."
        ) from error
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)


def newest(run: Path) -> Snapshot | None:
    """The newest checkpoint of `run`; None where there is none.

    Raises ModelError for a damaged one, naming it and the newest good one: which of them to go on from is for a person
    to say.
    """
    found = steps(run)
    if not found:
        return None
    try:
        return of_step(run, found[-1])
    except ModelError as error:
        good = _newest_good(run, found[:-1])
        raise ModelError(
            error.item,
            expected=error.expected,
            got=error.got,
            fix=f"Delete it to go on from {good}." if good else "Delete the run to start again: it has no good one.",
        ) from error


def of_step(run: Path, step: int) -> Snapshot:
    """The checkpoint of `step` of `run`. Raises ModelError where there is none, or it is damaged."""
    return load(run / CHECKPOINTS / f"step-{step}")


def load(folder: Path) -> Snapshot:
    """Read a checkpoint `step-N`.

    Raises ModelError where a file is missing or cannot be read, or any bit of either is not as it was written.
    """
    step = int(folder.name.removeprefix("step-"))
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        content: np.ndarray = np.memmap(folder / _ARRAYS, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    found = _state(step, content.size, hashlib.sha256(content.data).hexdigest())
    if state != found:
        raise _damaged(folder, f"{found} where {_STATE} has {state}")
    length = 8 + int.from_bytes(content[:8].tobytes(), "little")
    arrays = {}
    for name, told in json.loads(content[8:length].tobytes()).items():
        first, last = told["data_offsets"]
        values = content[length + first : length + last].view(_DTYPES[told["dtype"]])
        arrays[name] = values.reshape(told["shape"])
    return Snapshot(step, arrays)


def _state(step: int, size: int, digest: str) -> dict[str, Any]:
    """What is written of a checkpoint beside its arrays: all that a reader can hold to what it finds."""
    return {"version": VERSION, "step": step, "bytes": size, "sha256": digest}


def _header(arrays: Arrays) -> bytes:
    """What a file of safetensors begins with: the place of each array behind it."""
    table, end = {}, 0
    for name in sorted(arrays):
        array = arrays[name]
        first, end = end, end + array.nbytes
        table[name] = {
            "dtype": _CODES[jnp.dtype(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [first, end],
        }
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def _gathered(arrays: Arrays) -> Iterator[bytes | memoryview]:
    """The bytes of each array, in the order of names; nothing of worth in a process that does not lead."""
    for name in sorted(arrays):
        array = np.ascontiguousarray(hosts.whole_of_first(arrays[name]))
        yield array.reshape(-1).view(np.uint8).data


def _unnamed(folder: Path) -> Path:
    """The name under which a checkpoint is none: while it is being written, and while it is being deleted."""
    return folder.with_name(f".{folder.name}.tmp")


def _newest_good(run: Path, found: list[int]) -> str | None:
    for step in reversed(found):
        try:
            of_step(run, step)
        except ModelError:
            continue
        return f"step-{step}"
    return None


def _damaged(folder: Path, got: str) -> ModelError:
    return ModelError(f"checkpoint {folder}", expected="the checkpoint as it was written", got=got, fix="Delete it.")


def _write(path: Path, parts: Iterable[bytes | memoryview], step: int) -> dict[str, Any]:
    """Write `parts` one after the other; the `_state` of what they are together."""
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return _state(step, size, digest.hexdigest())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the names must survive a power cut as the bytes do
    finally:
        os.close(descriptor)
