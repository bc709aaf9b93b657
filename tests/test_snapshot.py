import shutil
from collections.abc import Callable
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


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["arrays.safetensors", "snapshot.json"])
def test_no_flipped_bit_passes(tmp_path: Path, name: str) -> None:
    folder = snapshot.save(tmp_path, 7, {"step": np.asarray(7, np.int32)}, keep=1)
    path = folder / name
    for bit in range(8 * path.stat().st_size):
        flip(path, bit)
        with pytest.raises(ModelError, match=r"step-7: expected the checkpoint as it was written"):
            snapshot.load(folder)
        flip(path, bit)
    assert snapshot.load(folder).step == 7


@pytest.mark.parametrize("damage", ["flip", "cut", "state", "missing", "empty", "other", "version", "unreadable"])
def test_damage_is_found_and_the_last_good_one_named(tmp_path: Path, damage: str) -> None:
    snapshot.save(tmp_path, 1, ARRAYS, keep=2)
    folder = snapshot.save(tmp_path, 2, ARRAYS, keep=2)
    arrays, state = folder / "arrays.safetensors", folder / "snapshot.json"
    if damage == "flip":
        flip(arrays, 8 * arrays.stat().st_size - 70)
    elif damage == "cut":
        arrays.write_bytes(arrays.read_bytes()[:-1])
    elif damage == "state":
        state.write_text("{")
    elif damage == "version":
        state.write_text(state.read_text().replace('"version": 1', '"version": 2'))
    elif damage == "other":  # a good one, under another name
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "checkpoints" / "step-1", folder)
    elif damage == "unreadable":  # to anybody, root included
        arrays.unlink()
        arrays.mkdir()
    else:
        arrays.unlink()
        if damage == "empty":
            state.unlink()
    with pytest.raises(ModelError, match=r"step-2.*go on from step-1"):
        snapshot.newest(tmp_path)
    (tmp_path / "checkpoints" / "step-1" / "snapshot.json").unlink()
    with pytest.raises(ModelError, match="no good one"):
        snapshot.newest(tmp_path)


def test_a_folder_of_checkpoints_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(ModelError, match=r"checkpoints: expected a folder to read, got Not a directory"):
        snapshot.newest(tmp_path)


def test_a_kill_leaves_no_half_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off where the bytes of the old one are to go, and taken up again: what is left over goes with the next."""
    snapshot.save(tmp_path, 1, ARRAYS, keep=1)

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        snapshot.save(tmp_path, 2, ARRAYS, keep=1)
    monkeypatch.undo()
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert sorted(names) == [".step-1.tmp", "step-2"]
    snapshot.save(tmp_path, 3, ARRAYS, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-3"]


def test_a_full_disk_keeps_the_last_good_one(tmp_path: Path, small_files: Callable[[int], None]) -> None:
    snapshot.save(tmp_path, 1, ARRAYS, keep=1)
    small_files(100)
    with pytest.raises(ModelError, match=r"step-2: expected to write it, got File too large. Free disk space"):
        snapshot.save(tmp_path, 2, ARRAYS, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-1"]
    assert snapshot.newest(tmp_path) is not None
