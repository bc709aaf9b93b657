"""EasyDeL's GRPO trainer as we drive it: what learns, what is heard, what is random, what stops it."""

import gc
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
from tones import small_config, tone_shards

from audiorl_cli.bridge import checkpoint
from audiorl_cli.config import RunConfig
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.errors import DataError, InstallError, ModelError
from audiorl_cli.rl.easydel_engine import EasyDeLEngine
from audiorl_cli.rl.metrics import Sample, StepMetrics
from audiorl_cli.rl.rewards import weighted
from audiorl_cli.rl.state import named

Told = tuple[StepMetrics, tuple[Sample, ...]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return open_shards(tone_shards(tmp_path_factory.mktemp("tones")))


def engine_of(config: RunConfig, shards: Shards) -> EasyDeLEngine:
    return EasyDeLEngine(config, checkpoint.load("tiny"), shards)


@pytest.fixture(scope="module")
def begun(shards: Shards) -> tuple[EasyDeLEngine, Mapping[str, np.ndarray], list[Told]]:
    """An engine, its arrays before its first step, and what two steps on the same rows told."""
    engine = engine_of(small_config(), shards)
    before = jax.device_get(engine.arrays())
    return engine, before, [engine.update([0, 1], shards.read([0, 1])) for _ in range(2)]


def differs(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], part: str) -> bool:
    names = [name for name in before if name.startswith(f"graphstate/{part}/")]
    assert names
    return any(not np.array_equal(before[name], after[name]) for name in names)


def test_a_frozen_tower_keeps_every_bit_while_the_decoder_learns(begun: Any) -> None:
    engine, before, _ = begun
    after = jax.device_get(engine.arrays())
    assert differs(before, after, "model")
    assert not differs(before, after, "audio_tower")
    assert not differs(before, after, "visual")
    assert not any("audio_tower" in name for name in before if name.startswith("opt_state/"))


def test_metrics_are_those_of_the_samples(begun: Any) -> None:
    _, _, (first, second) = begun
    for number, (metrics, samples) in enumerate((first, second), start=1):
        rewards = np.array([sample.rewards for sample in samples])
        assert metrics.step == number
        assert rewards.shape == (2, 4)
        assert metrics.reward_mean == pytest.approx(rewards.mean())
        assert metrics.reward_std == pytest.approx(rewards.std(axis=1).mean())
        assert metrics.zero_spread_share == (np.ptp(rewards, axis=1) == 0).mean()
        assert metrics.learning_rate == pytest.approx(1e-2)
        assert metrics.grad_norm > 0
    assert first[0].kl == pytest.approx(0.0, abs=1e-6)  # the policy still is the reference
    assert second[0].kl is not None
    assert second[0].kl > 0


def test_each_completion_is_rewarded_against_its_own_utterance(begun: Any, shards: Shards) -> None:
    engine, _, told = begun
    score = weighted(engine.config.reward)
    for sample, text in zip(told[0][1], shards.texts(), strict=False):
        assert sample.reference == text
        expected = score([text] * 4, sample.completions)
        assert sample.rewards == pytest.approx([rewarded.total for rewarded in expected])
        assert not any("<|" in completion for completion in sample.completions)


def test_noise_is_fresh_at_every_step_and_a_function_of_seed_and_step(begun: Any, shards: Shards) -> None:
    _, before, told = begun
    again = engine_of(small_config("train.samples_per_step=1"), shards)
    again.restore(before)
    metrics, samples = again.update([0, 1], shards.read([0, 1]))
    assert len(samples) == 1
    assert samples[0] == told[0][1][0]
    assert metrics.loss == told[0][0].loss
    again.restore({**before, "step": np.asarray(1, np.int32)})  # the same model, one step later
    assert again.update([0, 1], shards.read([0, 1]))[1][0].completions != samples[0].completions


def test_nothing_is_compiled_twice(begun: Any) -> None:
    engine, _, _ = begun
    assert engine._trainer._generate._cache_size() == 1
    assert engine._trainer.sharded_training_step_function._cache_size() == 1


def test_a_step_without_spread_moves_no_bit(shards: Shards) -> None:
    engine = engine_of(small_config("reward.weights={exact = 1.0}"), shards)
    before = jax.device_get(engine.arrays())
    metrics, _ = engine.update([0, 1], shards.read([0, 1]))  # nobody guesses five words: every reward is 0
    assert (metrics.zero_spread_share, metrics.kl, metrics.grad_norm) == (1.0, None, 0.0)
    assert not any(
        differs(before, jax.device_get(engine.arrays()), part) for part in ("model", "audio_tower", "visual")
    )


def test_a_freed_tower_learns_and_no_kl_is_told_without_beta(shards: Shards) -> None:
    engine = engine_of(small_config("loss.beta=0", "train.freeze_audio_tower=false"), shards)
    before = jax.device_get(engine.arrays())
    metrics, _ = engine.update([0, 1], shards.read([0, 1]))
    assert metrics.kl is None
    assert metrics.zero_spread_share < 1
    after = jax.device_get(engine.arrays())
    assert differs(before, after, "audio_tower")
    assert not differs(before, after, "visual")


def embeddings() -> int:
    """How many arrays are in memory that could be the tiny model's token embedding."""
    gc.collect()
    table = checkpoint.abstract("tiny").model.model.embed_tokens.embedding
    return sum(array.shape == table.shape for array in jax.live_arrays())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("beta", "models"), [("0.05", 2), ("0", 1)])
def test_a_reference_is_held_only_where_it_has_a_say(shards: Shards, beta: str, models: int) -> None:
    before = embeddings()
    engine = engine_of(small_config(f"loss.beta={beta}"), shards)
    moments = 2  # of Adam
    assert embeddings() - before == models + moments
    engine.update([0, 1], shards.read([0, 1]))
    assert embeddings() - before == models + moments


def test_the_reference_is_what_training_began_from(begun: Any) -> None:
    engine, before, _ = begun
    reference = named({"graphstate": engine._trainer.ref_state.graphstate})
    assert reference.keys() == {name for name in before if name.startswith("graphstate/")}
    assert all(np.array_equal(array, before[name]) for name, array in reference.items())


@pytest.mark.parametrize("error", [TypeError, KeyboardInterrupt, ValueError])
def test_a_reward_that_raises_stops_the_step(
    begun: Any, shards: Shards, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def broken(references: list[str], completions: list[str]) -> list[float]:
        raise error("broken reward")

    engine = begun[0]
    step = engine.step
    monkeypatch.setattr(engine._trainer, "judge", broken)
    with pytest.raises(error, match="broken reward"):
        engine.update([0, 1], shards.read([0, 1]))
    assert engine.step == step
    monkeypatch.undo()
    assert engine.update([0, 1], shards.read([0, 1]))[0].step == step + 1


def test_a_row_without_audio_is_an_error(begun: Any, shards: Shards) -> None:
    engine = begun[0]
    silent = {"input_ids": np.ones((2, 4), np.int32), "attention_mask": np.ones((2, 4), np.int32)}
    with pytest.raises(DataError, match="rows without audio"):
        engine._trainer.update(silent)
    features, frames = np.zeros((2, 128, 100), np.float32), np.ones((2, 100), np.int32)
    frames[1] = 0
    with pytest.raises(DataError, match="batch row 1"):
        engine._trainer.update({**silent, "input_features": features, "feature_attention_mask": frames})


def test_a_trainer_that_loses_the_audio_is_an_error(
    begun: Any, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What EasyDeL 0.3.0 does where its lists are not patched.
    module = "easydel.trainers.group_relative_policy_optimization.grpo_trainer.extract_generation_model_kwargs"
    monkeypatch.setattr(module, lambda batch, model_callable: {})
    with pytest.raises(InstallError, match="rollout"):
        begun[0].update([0, 1], shards.read([0, 1]))


def test_arrays_go_back_where_they_came_from(begun: Any) -> None:
    engine = begun[0]
    arrays = jax.device_get(engine.arrays())
    changed = {
        name: array + 1 if name == "graphstate/model/norm/kernel/value" else array for name, array in arrays.items()
    }
    assert any(not np.array_equal(changed[name], arrays[name]) for name in arrays), sorted(arrays)[:40]
    engine.restore(changed)
    assert all(np.array_equal(changed[name], array) for name, array in jax.device_get(engine.arrays()).items())
    engine.restore(arrays)
    with pytest.raises(ModelError, match="step"):
        engine.restore({name: array for name, array in arrays.items() if name != "step"})


def test_the_trained_model_is_the_engines(begun: Any) -> None:
    engine = begun[0]
    taken = engine.checkpoint()
    assert taken.source == "tiny"
    parameters = {
        name: array for name, array in jax.device_get(engine.arrays()).items() if name.startswith("graphstate/")
    }
    leaves = jax.tree_util.tree_leaves(taken.model.to_state().graphstate)
    assert sum(leaf.size for leaf in leaves) == sum(array.size for array in parameters.values())


def test_what_a_step_was_to_learn_from_is_told(begun: Any, shards: Shards) -> None:
    engine = begun[0]
    _, samples = engine.update([0, 1], shards.read([0, 1]))
    for lesson, sample in zip(engine.lessons(), samples, strict=True):
        assert (lesson.id, lesson.reference) == (sample.id, sample.reference)
        assert (lesson.completions, lesson.rewards) == (sample.completions, sample.rewards)
        centred = np.asarray(sample.rewards) - np.mean(sample.rewards)
        assert lesson.advantages == pytest.approx(centred / (np.std(sample.rewards) + 1e-4), abs=1e-3)


def test_another_reference_model_is_refused(begun: Any) -> None:
    engine = begun[0]
    arrays = jax.device_get(engine.arrays())
    reference = engine._trainer._reference
    engine._trainer._reference = jax.tree_util.tree_map(lambda leaf: leaf + 1, reference)
    with pytest.raises(ModelError, match="the reference model"):
        engine.restore(arrays)
    engine._trainer._reference = reference
    engine.restore(arrays)
