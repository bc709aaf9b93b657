"""What a frozen audio tower makes of each clip, kept on disk in bfloat16: later epochs and runs need not hear it.

`cache.json` names the tower and the shards by their digests; `vectors.bin` holds the vectors of each row one after the
other, and `heard.bin` a byte a row, 1 once they are there. It is filled as rows are heard.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from audiorl_cli.data.shards import Shards, write_whole
from audiorl_cli.errors import DataError

NAME: Final = "cache.json"
VERSION: Final = 1


class AudioCache:
    """The vectors of the rows of `shards` under `tower`, in `folder`.

    Whoever takes vectors from it, the first time or later, gets them rounded to bfloat16: a resumed run computes what
    an undisturbed one does. Raises DataError for a folder of another tower, of other shards, or of other files.
    """

    def __init__(self, folder: Path, tower: Any, shards: Shards) -> None:
        config, frames = tower.config, np.asarray(shards.column("num_frames"))
        self._counts = np.asarray([tower.vectors(int(count)) for count in frames])
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])
        self._width, self._longest = int(config.output_dim), int(tower.vectors(shards.clip_frames))
        identity = {"version": VERSION, "tower": digest(tower), "shards": shards.digest, "width": self._width}
        self._claim(folder, identity)
        self._vectors = self._open(folder / "vectors.bin", jnp.bfloat16, (int(self._starts[-1]), self._width))
        self._heard = self._open(folder / "heard.bin", np.uint8, (len(frames),))

    def get(self, rows: Sequence[int]) -> Float[np.ndarray, "rows vectors width"] | None:
        """The vectors of `rows`, zeros behind the valid ones, as the tower gives them; None unless all are there."""
        if not self._heard[list(rows)].all():
            return None
        found = np.zeros((len(rows), self._longest, self._width), jnp.bfloat16)
        for place, row in enumerate(rows):
            found[place, : self._counts[row]] = self._vectors[self._starts[row] : self._starts[row + 1]]
        return found

    def put(
        self, rows: Sequence[int], vectors: Float[np.ndarray, "rows vectors width"]
    ) -> Float[np.ndarray, "rows vectors width"]:
        """Keep the vectors of `rows`; they are on the disk when this returns. They come back as `get` gives them."""
        for row, of_row in zip(rows, vectors, strict=True):
            self._vectors[self._starts[row] : self._starts[row + 1]] = of_row[: self._counts[row]]
        self._vectors.flush()  # before the bytes that vouch for them
        self._heard[list(rows)] = 1
        self._heard.flush()
        return np.asarray(vectors).astype(jnp.bfloat16)

    def _claim(self, folder: Path, identity: dict[str, Any]) -> None:
        """Make `folder` this cache, or find that it is."""
        path = folder / NAME
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise self._refused(path, "the identity of an audio cache", str(error)) from error
            for name, expected in identity.items():
                if found.get(name) != expected:
                    raise self._refused(path, f"{name} {expected}", str(found.get(name)))
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise self._refused(folder, "a new folder, an empty one, or an audio cache", "other files")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, f"{json.dumps(identity, indent=2)}\n".encode())

    def _open(self, path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
        """The array in `path`, made where there is none; of zeros, which take no room on the disk until written."""
        expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if path.exists() and path.stat().st_size != expected:
            raise self._refused(path, f"{expected} bytes", f"{path.stat().st_size}")
        return np.memmap(path, dtype, "r+" if path.exists() else "w+", shape=shape)

    @staticmethod
    def _refused(path: Path, expected: str, got: str) -> DataError:
        return DataError(str(path), expected=expected, got=got, fix="Choose another --audio-cache, or delete this one.")


def digest(tower: Any) -> str:
    """The sha256 of every parameter of the tower, its name, dtype and shape."""
    found = hashlib.sha256()
    for path, variable in sorted(nnx.to_flat_state(nnx.state(tower, nnx.Param)), key=lambda entry: str(entry[0])):
        array = np.asarray(jax.device_get(variable.get_value()))
        found.update(f"{path} {array.dtype} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.hexdigest()
