"""Clips heard once for all epochs: what is kept, what is given back, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tones import small_config, tone_shards

from audiorl_cli.bridge import checkpoint
from audiorl_cli.bridge.audio_cache import AudioCache
from audiorl_cli.bridge.tower import AudioTower
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.errors import ConfigError, DataError, UsageError
from audiorl_cli.rl.engine import AudioEngine
from audiorl_cli.rl.run import train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return open_shards(tone_shards(tmp_path_factory.mktemp("tones")))


@pytest.fixture(scope="module")
def tower() -> Any:
    return checkpoint.load("tiny").model.audio_tower


def vectors(shards: Shards, tower: Any, rows: list[int]) -> np.ndarray:
    """Random vectors of `rows`, zeros behind the valid ones, as a tower gives them."""
    counts = np.asarray([tower.vectors(frames) for frames in shards.column("num_frames")])[rows]
    made = np.random.default_rng(0).normal(size=(len(rows), tower.vectors(shards.clip_frames), 128))
    return np.asarray(made * (np.arange(made.shape[1]) < counts[:, None])[..., None], np.float32)


def test_what_was_kept_comes_back_rounded_to_bfloat16(shards: Shards, tower: Any, tmp_path: Path) -> None:
    given = vectors(shards, tower, [4, 1])
    first = AudioCache(tmp_path / "cache", tower, shards)
    assert first.get([4, 1]) is None
    np.testing.assert_array_equal(first.put([4, 1], given), given.astype(jnp.bfloat16))
    assert first.get([4, 2]) is None
    again = AudioCache(tmp_path / "cache", tower, shards)
    found = again.get([1, 4])
    assert found is not None
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, given[::-1].astype(jnp.bfloat16))


def test_neighbours_stay_as_they_are(shards: Shards, tower: Any, tmp_path: Path) -> None:
    given = vectors(shards, tower, list(range(6)))
    cache = AudioCache(tmp_path / "cache", tower, shards)
    for rows in ([3], [0, 5], [1, 2, 4], [3, 0]):
        cache.put(rows, given[rows])
    np.testing.assert_array_equal(cache.get(list(range(6))), given.astype(jnp.bfloat16))


def test_it_is_as_large_as_the_valid_vectors(shards: Shards, tower: Any, tmp_path: Path) -> None:
    AudioCache(tmp_path / "cache", tower, shards)
    counts = [tower.vectors(frames) for frames in shards.column("num_frames")]
    assert (tmp_path / "cache" / "vectors.bin").stat().st_size == sum(counts) * 128 * 2


def other_tower(folder: Path, shards: Shards, tower: Any) -> None:
    changed = nnx.merge(*nnx.split(tower))
    changed.conv_out.kernel[...] = changed.conv_out.kernel[...].at[0, 0].add(1.0)
    AudioCache(folder, changed, shards)


def other_shards(folder: Path, shards: Shards, tower: Any) -> None:
    AudioCache(folder, tower, open_shards(tone_shards(folder.parent / "others", rows=5)))


def cut(folder: Path, shards: Shards, tower: Any) -> None:
    path = folder / "vectors.bin"
    path.write_bytes(path.read_bytes()[:-2])
    AudioCache(folder, tower, shards)


def garbled(folder: Path, shards: Shards, tower: Any) -> None:
    (folder / "cache.json").write_text("{")
    AudioCache(folder, tower, shards)


def foreign(folder: Path, shards: Shards, tower: Any) -> None:
    (folder / "cache.json").unlink()
    AudioCache(folder, tower, shards)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_tower, r"cache\.json: expected tower [0-9a-f]{64}, got [0-9a-f]{64}"),
        (other_shards, r"cache\.json: expected shards \w+, got \w+"),
        (cut, r"vectors\.bin: expected \d+ bytes, got \d+"),
        (garbled, r"cache\.json: expected the identity of an audio cache"),
        (foreign, r"expected a new folder, an empty one, or an audio cache, got other files"),
    ],
)
def test_another_cache_is_refused(
    shards: Shards, tower: Any, tmp_path: Path, change: Callable[..., None], expected: str
) -> None:
    AudioCache(tmp_path / "cache", tower, shards)
    with pytest.raises(DataError, match=expected):
        change(tmp_path / "cache", shards, tower)


def test_a_second_epoch_hears_nothing_and_learns_the_same(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learnt() -> tuple[dict[str, np.ndarray], list[float]]:
        engine = AudioEngine(small_config(), checkpoint.load("tiny"), shards, tmp_path / "cache")
        losses = [engine.update(rows, shards.read(rows))[0].loss for rows in ([0, 1], [2, 3], [1, 0])]
        return jax.device_get(engine.arrays()), losses

    arrays, losses = learnt()

    def deaf(*_: Any) -> None:
        raise AssertionError("a clip was heard")

    monkeypatch.setattr(AudioTower, "__call__", deaf)
    again, same = learnt()
    assert same == losses
    assert all(np.array_equal(again[name], array) for name, array in arrays.items())


def run(shards: Shards, out: Path, cache: Path | None, *overrides: str) -> None:
    config = small_config("train.steps=2", "train.save_every=1", *overrides)
    train(config, shards.folder, "tiny", out, on_step=lambda _: None, audio_cache=cache)


def test_a_run_goes_on_as_it_began_with_a_cache_or_without(shards: Shards, tmp_path: Path) -> None:
    run(shards, tmp_path / "run", tmp_path / "cache")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["audio_cache"] is True
    run(shards, tmp_path / "run", tmp_path / "moved")  # where it is changes nothing
    with pytest.raises(ConfigError, match="audio_cache was True and is False"):
        run(shards, tmp_path / "run", None)


@pytest.mark.parametrize("override", ["engine=easydel", "train.freeze_audio_tower=false"])
def test_a_tower_that_learns_has_no_cache(shards: Shards, tmp_path: Path, override: str) -> None:
    with pytest.raises(UsageError, match="--audio-cache: expected engine"):
        run(shards, tmp_path / "run", tmp_path / "cache", override)
    assert not (tmp_path / "run").exists()
