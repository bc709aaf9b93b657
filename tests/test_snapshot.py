import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from audiorl_cli.errors import ModelError
from audiorl_cli.rl import snapshot

ARRAYS = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "half": np.asarray(jnp.asarray([1.5, -2.25], jnp.bfloat16)),
    "step": np.asarray(7, np.int32),
    "key": np.asarray([1, 2**32 - 1], np.uint32),
    "empty": np.zeros((0, 3), np.float32),
}


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    snapshot.save(tmp_path, 7, ARRAYS, keep=1)
    back = snapshot.newest(tmp_path)
    assert back is not None
    assert back.step == 7
    assert back.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert back.arrays[name].dtype == array.dtype
        assert back.arrays[name].shape == array.shape
        assert np.array_equal(back.arrays[name], array)


def test_the_newest_are_kept_by_number(tmp_path: Path) -> None:
    for step in (2, 9, 10, 100):
        snapshot.save(tmp_path, step, ARRAYS, keep=2)
    assert snapshot.steps(tmp_path) == [10, 100]
    assert snapshot.newest(tmp_path / "nothing") is None


def test_a_half_written_one_is_none(tmp_path: Path) -> None:
    snapshot.save(tmp_path, 1, ARRAYS, keep=2)
    (tmp_path / "checkpoints" / ".step-2.tmp").mkdir()
    assert snapshot.steps(tmp_path) == [1]
    snapshot.save(tmp_path, 2, ARRAYS, keep=2)
    assert snapshot.steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("damage", ["flip", "cut", "state", "missing"])
def test_damage_is_found_and_the_last_good_one_named(tmp_path: Path, damage: str) -> None:
    snapshot.save(tmp_path, 1, ARRAYS, keep=2)
    folder = snapshot.save(tmp_path, 2, ARRAYS, keep=2)
    arrays, state = folder / "arrays.safetensors", folder / "snapshot.json"
    content = arrays.read_bytes()
    if damage == "flip":
        arrays.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])
    elif damage == "cut":
        arrays.write_bytes(content[:-1])
    elif damage == "state":
        state.write_text("{")
    else:
        arrays.unlink()
    with pytest.raises(ModelError, match=r"step-2.*go on from step-1"):
        snapshot.newest(tmp_path)
    (tmp_path / "checkpoints" / "step-1" / "snapshot.json").unlink()
    with pytest.raises(ModelError, match="no good one"):
        snapshot.newest(tmp_path)


def test_a_full_disk_keeps_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot.save(tmp_path, 1, ARRAYS, keep=1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="No space left"):
        snapshot.save(tmp_path, 2, ARRAYS, keep=1)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-1"]
