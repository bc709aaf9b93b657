"""Our step against EasyDeL's on the same completions; what is heard and read how often; memory that changes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tones import small_config, tone_shards

from audiorl_cli.bridge import checkpoint, decoder
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.generate import Rollout
from audiorl_cli.bridge.sampling import Drawn
from audiorl_cli.bridge.thinker import AudioThinker
from audiorl_cli.bridge.tower import AudioTower
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.errors import ModelError
from audiorl_cli.rl import easydel_engine
from audiorl_cli.rl import engine as engines
from audiorl_cli.rl.easydel_engine import EasyDeLEngine
from audiorl_cli.rl.engine import AudioEngine
from audiorl_cli.rl.judge import Verdict
from audiorl_cli.rl.metrics import StepMetrics
from audiorl_cli.wer import ErrorCounts

ROWS = [0, 1]
FROZEN = "train.freeze_audio_tower"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return open_shards(tone_shards(tmp_path_factory.mktemp("tones")))


def engine_of(shards: Shards, *overrides: str) -> AudioEngine:
    return AudioEngine(small_config(*overrides), checkpoint.load("tiny"), shards)


def steps(engine: AudioEngine | EasyDeLEngine, shards: Shards, count: int) -> list[StepMetrics]:
    return [engine.update(ROWS, shards.read(ROWS))[0] for _ in range(count)]


def apart(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> float:
    """The largest difference of any parameter."""
    names, others = ({name for name in each if name.startswith("graphstate/")} for each in (first, second))
    assert names == others
    return max(float(np.abs(first[name] - second[name]).max()) for name in names)


@pytest.mark.parametrize(
    ("kind", "tower"),
    [
        ("grpo", f"{FROZEN}=true"),
        ("grpo", f"{FROZEN}=false"),
        ("dr_grpo", f"{FROZEN}=true"),
        ("dapo", f"{FROZEN}=false"),
    ],
)
def test_a_step_is_easydels_on_the_same_completions(
    shards: Shards, kind: str, tower: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With plain descent at a rate of 1 the change of a parameter is its gradient."""
    for module in (easydel_engine, engines):
        monkeypatch.setattr(module, "adamw", lambda *_: optax.sgd(1.0))
    overrides = (f"loss.kind={kind}", tower)
    theirs = EasyDeLEngine(small_config("engine=easydel", *overrides), checkpoint.load("tiny"), shards)
    before = jax.device_get(theirs.arrays())
    drawn: dict[str, Any] = {}
    generate = theirs._trainer.generate_unified

    def remember(**inputs: Any) -> Any:
        results = generate(**inputs)
        drawn.update(tokens=results.completion_ids, mask=results.completion_mask, texts=results.text)
        return results

    monkeypatch.setattr(theirs._trainer, "generate_unified", remember)
    (their_step,) = steps(theirs, shards, 1)

    ours = engine_of(shards, *overrides)

    def same(*arguments: Any) -> Rollout:
        tokens, mask = (jnp.asarray(drawn[name]).reshape(len(ROWS), 4, -1) for name in ("tokens", "mask"))
        policy = ours._score(*ours._parameters(), arguments[2], tokens)
        return Rollout(Drawn(tokens, policy), mask.astype(bool), jnp.ones(tokens.shape[:2], bool))

    monkeypatch.setattr(ours, "_sample", same)
    (our_step,) = steps(ours, shards, 1)
    changed = apart(before, jax.device_get(theirs.arrays()))
    assert changed > 1e-3
    assert apart(jax.device_get(ours.arrays()), jax.device_get(theirs.arrays())) < 1e-4 * changed
    assert our_step.loss == pytest.approx(their_step.loss, abs=1e-6)
    assert our_step.kl == pytest.approx(their_step.kl, abs=1e-6)
    assert our_step.grad_norm == pytest.approx(their_step.grad_norm, rel=1e-4)
    assert our_step.reward_mean == their_step.reward_mean


@pytest.mark.parametrize(
    ("tower", "memory"),
    [
        (f"{FROZEN}=true", "{prompts = 1}"),
        (f"{FROZEN}=false", "{prompts = 1}"),
        (f"{FROZEN}=false", "{completions = 1}"),
        (f"{FROZEN}=false", "{vocabulary = 100}"),
        (f"{FROZEN}=false", "{recompute = true}"),
        (f"{FROZEN}=true", "{prompts = 1, completions = 2, vocabulary = 333, recompute = true}"),
        (f"{FROZEN}=false", "{prompts = 1, completions = 2, vocabulary = 333, recompute = true}"),
    ],
)
def test_what_is_held_at_once_changes_no_gradient(
    shards: Shards, whole: Mapping[str, Any], memory: str, tower: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "adamw", lambda *_: optax.sgd(1.0))
    parts = engine_of(shards, tower, f"memory={memory}")
    (step,) = steps(parts, shards, 1)
    expected, arrays, changed = whole[tower]
    assert step.loss == pytest.approx(expected.loss, abs=1e-6)
    assert step.entropy == pytest.approx(expected.entropy, rel=1e-6)
    assert step.kl == pytest.approx(expected.kl, abs=1e-6)
    assert step.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
    assert apart(jax.device_get(parts.arrays()), arrays) < 1e-4 * changed


@pytest.fixture(scope="module")
def whole(shards: Shards) -> Mapping[str, Any]:
    """One step with everything held at once: its numbers, the arrays after it, the largest change."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "adamw", lambda *_: optax.sgd(1.0))
        for tower in ("train.freeze_audio_tower=true", "train.freeze_audio_tower=false"):
            engine = engine_of(shards, tower)
            before = jax.device_get(engine.arrays())
            (step,) = steps(engine, shards, 1)
            made[tower] = step, jax.device_get(engine.arrays()), apart(before, jax.device_get(engine.arrays()))
    return made


def test_clips_are_heard_and_prompts_read_once_however_many_completions(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where the programs are traced: what stands in them outside a loop runs once a call."""
    heard: list[int] = []
    read: list[int] = []
    hear, prefill = AudioTower.__call__, decoder.prefill

    def counted_hear(self: Any, features: Any, mask: Any = None) -> Any:
        heard.append(len(features))
        return hear(self, features, mask)

    def counted_prefill(model: Any, prompts: Prompts, **how: Any) -> Any:
        read.append(len(prompts.input_ids))
        return prefill(model, prompts, **how)

    monkeypatch.setattr(AudioTower, "__call__", counted_hear)
    monkeypatch.setattr(decoder, "prefill", counted_prefill)
    frozen = engine_of(shards)
    steps(frozen, shards, 3)
    assert heard == [len(ROWS)]  # for rollout, reference and policy together
    assert read == [len(ROWS)] * 3  # rollout, reference, policy
    heard.clear()
    steps(engine_of(shards, "train.freeze_audio_tower=false"), shards, 1)
    assert heard == [len(ROWS)] * 3  # the policy's own, with its gradient, and the reference's


def test_completions_do_not_depend_on_the_rows_beside_them(shards: Shards) -> None:
    engine = engine_of(shards)
    rows = shards.read(ROWS)
    together = engine._sample(*engine._parameters(), engine._prompts(ROWS, rows), engine._state.step, 0)
    alone = engine._sample(*engine._parameters(), engine._prompts(ROWS[:1], rows[:1]), engine._state.step, 0)
    np.testing.assert_array_equal(alone.drawn.tokens, together.drawn.tokens[:1])
    np.testing.assert_allclose(alone.drawn.log_probs, together.drawn.log_probs[:1], atol=1e-5)


def test_tokens_are_drawn_at_the_log_probs_that_the_update_scores(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no placeholder is withheld, whose probability the sampler shares out."""
    monkeypatch.setattr(AudioThinker, "media_token_ids", ())
    engine = engine_of(shards, "rollout.temperature=0.7")
    prompts = engine._prompts(ROWS, shards.read(ROWS))
    drawn = engine._sample(*engine._parameters(), prompts, engine._state.step, 0)
    scored = engine._score(*engine._parameters(), prompts, drawn.drawn.tokens)
    mask = np.asarray(drawn.mask)
    assert mask.sum() > 40
    np.testing.assert_allclose(np.asarray(drawn.drawn.log_probs)[mask], np.asarray(scored)[mask], atol=1e-5)


def test_several_updates_a_rollout_move_away_from_it_until_they_are_clipped(shards: Shards) -> None:
    once, thrice = engine_of(shards), engine_of(shards, "loss.iterations=3")
    (first,), (third,) = steps(once, shards, 1), steps(thrice, shards, 1)
    assert first.clip_share == 0.0
    assert third.clip_share is not None
    assert third.clip_share > 0.1  # at so high a rate
    assert (once.step, thrice.step) == (1, 1)
    assert int(thrice._state.step) == 3
    assert apart(jax.device_get(once.arrays()), jax.device_get(thrice.arrays())) > 1e-3


@pytest.mark.parametrize("kind", ["bnpo", "cispo", "gspo", "gfpo"])
def test_every_kind_of_loss_learns(shards: Shards, kind: str) -> None:
    keep = ["loss.gfpo_keep=2"] if kind == "gfpo" else []
    engine = engine_of(shards, f"loss.kind={kind}", "loss.iterations=2", *keep)
    before = jax.device_get(engine.arrays())
    (step,) = steps(engine, shards, 1)
    assert np.isfinite(step.loss)
    assert step.grad_norm > 0
    assert apart(before, jax.device_get(engine.arrays())) > 1e-3


def test_a_group_without_spread_leaves_loss_and_kl(shards: Shards) -> None:
    engine = engine_of(shards, "reward.weights={exact = 1.0}")  # a random model earns nothing anywhere
    before = jax.device_get(engine.arrays())
    (step,) = steps(engine, shards, 1)
    assert (step.zero_spread_share, step.loss, step.grad_norm, step.kl, step.clip_share) == (1.0, 0.0, 0.0, None, None)
    assert apart(before, jax.device_get(engine.arrays())) == 0.0


def verdict(rewards: np.ndarray) -> Verdict:
    """One in which completions are empty, and earn these."""
    prompts, group = rewards.shape
    errors = ((ErrorCounts(0, 0, 0, 1),) * group,) * prompts
    return Verdict((("",) * group,) * prompts, rewards, errors, (({},) * group,) * prompts, "")


class Spread:
    """A judge by whom the groups of `flat` utterances earn one and the same, and others 0, 1, 2, 3."""

    def __init__(self, flat: Sequence[int]) -> None:
        self.flat, self.asked = flat, list[list[int]]()

    def __call__(self, utterances: Sequence[int], texts: Sequence[str]) -> Verdict:
        self.asked.append(list(utterances))
        rewards = np.asarray([[0.0] * 4 if one in self.flat else [0.0, 1.0, 2.0, 3.0] for one in utterances])
        return verdict(rewards)


def test_groups_without_spread_give_way_to_those_of_further_rows(shards: Shards) -> None:
    engine = engine_of(shards, "rollout.rounds=4")
    engine._judge = judge = Spread([0, 2, 3])  # type: ignore[assignment]
    pool, _, tallies = engine._pool(ROWS, shards.read(ROWS))
    np.testing.assert_array_equal(pool.rewards, [[0, 1, 2, 3]] * 2)
    assert len(tallies) == len(judge.asked) > 1
    assert judge.asked[0] == ROWS
    asked = [row for round_ in judge.asked for row in round_]
    assert len(set(asked)) == len(asked) == 2 * len(judge.asked)
    assert set(asked) <= set(range(6))
    # Row 1 was kept; the other is the first of the further rows with spread.
    first = next(row for later in judge.asked[1:] for row in later if row not in judge.flat)
    prompts = engine._prompts([1, first], shards.read([1, first]))
    np.testing.assert_array_equal(pool.prompts.feature_attention_mask, prompts.feature_attention_mask)
    # Heard in another batch: a sum of some hundred products, in another order on some processors.
    found, expected = np.asarray(pool.prompts.audio), np.asarray(prompts.audio)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    again, *_ = engine_pool(shards, judge.flat)
    np.testing.assert_array_equal(pool.drawn.drawn.tokens, again.drawn.drawn.tokens)


def engine_pool(shards: Shards, flat: Sequence[int]) -> Any:
    engine = engine_of(shards, "rollout.rounds=4")
    engine._judge = Spread(flat)  # type: ignore[assignment]
    return engine._pool(ROWS, shards.read(ROWS))


def test_rounds_end_where_the_data_has_no_further_rows_for_one(shards: Shards) -> None:
    engine = engine_of(shards, "rollout.rounds=9", "train.batch_size=4")
    engine._judge = judge = Spread(range(6))  # type: ignore[assignment]
    rows = [0, 1, 2, 3]
    metrics, samples = engine.update(rows, shards.read(rows))
    assert judge.asked == [rows]  # of six rows two are left
    assert (metrics.prompts_sampled, len(samples)) == (4, 2)


def test_rounds_end_and_what_has_no_spread_teaches_nothing(shards: Shards) -> None:
    engine = engine_of(shards, "rollout.rounds=3")
    engine._judge = judge = Spread(range(6))  # type: ignore[assignment]
    (step,) = steps(engine, shards, 1)
    assert len(judge.asked) == 3
    assert (step.prompts_sampled, step.zero_spread_share, step.loss) == (6, 1.0, 0.0)
    engine._judge = judge = Spread([])  # type: ignore[assignment]
    (step,) = steps(engine, shards, 1)
    assert len(judge.asked) == 1
    assert (step.prompts_sampled, step.zero_spread_share) == (2, 0.0)


def test_overlong_completions_are_punished(shards: Shards) -> None:
    engine = engine_of(shards, "loss.overlong_buffer=8")
    pool, _, (earned,) = engine._pool(ROWS, shards.read(ROWS))
    lengths = np.asarray(pool.drawn.mask).sum(axis=-1)
    # Of 8 tokens at most, all 8 are the buffer: a completion of 8 loses 1, one of 4 loses a half.
    np.testing.assert_allclose(pool.rewards, earned.rewards - lengths / 8, atol=1e-6)


def test_the_kl_may_be_in_the_reward_and_truncated_completions_out_of_the_loss(shards: Shards) -> None:
    engine = engine_of(shards, "loss.kind=dr_grpo", "loss.beta=0.5", "loss.kl_estimator=k1", "loss.mask_truncated=true")
    engine._reference = jax.tree_util.tree_map(lambda leaf: 1.1 * leaf, engine._reference)
    engine._judge = Spread([1])  # type: ignore[assignment]
    pool, *_ = engine._pool(ROWS, shards.read(ROWS))
    ended = np.array([[True, False, True, True], [True] * 4])
    groups = engine._groups(pool._replace(drawn=pool.drawn._replace(ended=jnp.asarray(ended))))
    mask, reference = np.asarray(groups.mask), np.asarray(groups.reference)
    policy = engine._score(*engine._parameters(), pool.prompts, groups.tokens)
    kl = np.where(mask, np.asarray(policy) - reference, 0.0).sum(axis=-1)
    assert np.abs(kl).min() > 1e-3
    rewards = np.arange(4) - 0.5 * kl[0]  # that of the truncated one too
    np.testing.assert_allclose(groups.advantages[0], rewards - rewards.mean(), atol=1e-5)
    np.testing.assert_array_equal(groups.advantages[1], 0.0)  # the KL alone makes no group teach
    assert groups.taught[1].sum() == 0
    np.testing.assert_array_equal(groups.taught[0], mask[0] & ended[0][:, None])
    np.testing.assert_allclose(groups.weights[0], np.asarray(groups.taught[0]) / (8 * 8), rtol=1e-6)


def test_a_step_of_truncated_completions_alone_moves_no_bit(shards: Shards) -> None:
    engine = engine_of(shards, "loss.mask_truncated=true", "rollout.max_new_tokens=1", "rollout.rounds=3")
    engine._judge = Spread([])  # type: ignore[assignment]
    before = jax.device_get(engine.arrays())
    (step,) = steps(engine, shards, 1)
    assert (step.truncated_share, step.grad_norm, step.kl, step.zero_spread_share) == (1.0, 0.0, None, 0.0)
    assert step.prompts_sampled == 6  # in search of a group that the loss would take
    assert same(jax.device_get(engine.arrays()) | counts_of(before), before)


def test_nothing_is_compiled_after_the_second_step(shards: Shards) -> None:
    compiled: list[str] = []
    engine = engine_of(shards)
    steps(engine, shards, 2)

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        steps(engine, shards, 3)
        assert compiled == []
        steps(engine_of(shards), shards, 1)
        assert compiled  # it hears of what is compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_taken_back_engine_goes_on_as_the_one_it_was_taken_from(shards: Shards) -> None:
    straight = engine_of(shards)
    steps(straight, shards, 2)
    taken = jax.device_get(straight.arrays())
    steps(straight, shards, 1)
    again = engine_of(shards)
    again.restore(taken)
    assert again.step == 2
    steps(again, shards, 1)
    assert apart(jax.device_get(straight.arrays()), jax.device_get(again.arrays())) == 0.0
    with pytest.raises(ModelError):
        again.restore({name: array for name, array in taken.items() if name != "step"})


class Wild:
    """A judge whose rewards float32 holds, and their sum it does not: their mean is infinite."""

    def __call__(self, utterances: Sequence[int], texts: Sequence[str]) -> Verdict:
        rewards = np.asarray([[0.0, 3e38, 3e38, 3e38]] * len(utterances))
        return verdict(rewards)


def same(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.parametrize("name", ["audiorl", "easydel"])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_nothing_is_learnt_of_a_loss_that_is_no_number(shards: Shards, name: str, policy: str) -> None:
    config = small_config(f"engine={name}", f"train.on_nonfinite={policy}")
    engine: Any = (AudioEngine if name == "audiorl" else EasyDeLEngine)(config, checkpoint.load("tiny"), shards)
    steps(engine, shards, 1)  # so that the optimizer has a state
    if name == "audiorl":
        engine._judge = Wild()
    else:  # its mean is taken in float64
        learnt = jax.device_get(engine.arrays())
        norm = next(path for path in learnt if path.startswith("graphstate/model/norm/"))
        engine.restore(learnt | {norm: np.full_like(learnt[norm], np.nan)})
    before = jax.device_get(engine.arrays())
    (step,) = steps(engine, shards, 1)
    assert not np.isfinite(step.loss)
    assert step.step == 2
    assert engine.step == (2 if policy == "skip" else 1)
    assert same(jax.device_get(engine.arrays()) | counts_of(before), before)


def counts_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How many updates there were: what one that changes nothing may change."""
    return {name: arrays[name] for name in ("step", "opt_state/step") if name in arrays}


def test_nothing_is_learnt_of_a_gradient_that_is_no_number(shards: Shards) -> None:
    """Rewards so large that their loss is a number and the norm of its gradient is not; each of two updates is none."""
    engine = engine_of(shards, "loss.kind=dr_grpo", "reward.weights={cer = 1e36}", "loss.iterations=2")
    before = jax.device_get(engine.arrays())
    metrics, _ = engine.update(ROWS, shards.read(ROWS))
    assert np.isfinite(metrics.loss)
    assert metrics.grad_norm == np.inf
    assert same(before, jax.device_get(engine.arrays()))
    assert engine.step == 0


@pytest.mark.parametrize("name", ["audiorl", "easydel"])
def test_a_step_without_spread_moves_no_bit_and_the_rate_is_the_logged_one(shards: Shards, name: str) -> None:
    """Without means over steps every weight with a gradient moves by the rate."""
    overrides = ("optimizer.weight_decay=0.1", "optimizer.schedule=linear", "train.on_nonfinite=skip")
    still = ("optimizer.beta1=0", "optimizer.beta2=0", "optimizer.epsilon=1e-16", "optimizer.clip_norm=1e9")
    config = small_config(f"engine={name}", *overrides, *still)
    engine: Any = (AudioEngine if name == "audiorl" else EasyDeLEngine)(config, checkpoint.load("tiny"), shards)
    holder = engine if name == "audiorl" else engine._trainer
    attribute = "_judge" if name == "audiorl" else "judge"
    logged, moved = [], []
    for judge in (Spread([]), Spread(range(6)), Wild() if name == "audiorl" else Spread(range(6)), Spread([])):
        setattr(holder, attribute, judge)
        before = jax.device_get(engine.arrays())
        (step,) = steps(engine, shards, 1)
        after = jax.device_get(engine.arrays())
        logged.append(step.learning_rate)
        moved.append(apart(before, after))
        if step.grad_norm == 0.0 or not np.isfinite(step.grad_norm):
            assert same(before | counts_of(after), after)
    assert logged == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
    assert moved[1:3] == [0.0, 0.0]
    # Decay adds a tenth of the rate, of weights that are below 1.
    assert logged[0] < moved[0] < 1.1 * logged[0]
    assert logged[3] < moved[3] < 1.1 * logged[3]


def test_what_a_step_was_to_learn_from_is_told(shards: Shards) -> None:
    engine = engine_of(shards, "rollout.rounds=4")
    engine._judge = Spread([0, 2, 3])  # type: ignore[assignment]
    engine.update(ROWS, shards.read(ROWS))
    kept, other = engine.lessons()
    assert kept.id == shards.column("id")[1]  # row 0 has no spread, and gave way to another
    assert other.id in (shards.column("id")[row] for row in (1, 4, 5))
    assert other.reference in shards.texts()
    assert len(kept.completions) == 4
    assert kept.rewards == (0.0, 1.0, 2.0, 3.0)
    # mean 1.5, deviation sqrt(1.25)
    assert kept.advantages == pytest.approx([-1.3415, -0.4472, 0.4472, 1.3415], abs=1e-3)


@pytest.mark.parametrize("beta", ["0.05", "0"])
def test_another_reference_model_is_refused(shards: Shards, beta: str) -> None:
    engine = engine_of(shards, f"loss.beta={beta}")
    arrays = jax.device_get(engine.arrays())
    if beta == "0":
        engine.restore(arrays)  # it has no say
        return
    engine._reference = jax.tree_util.tree_map(lambda leaf: leaf + 1, engine._reference)
    with pytest.raises(ModelError, match="the reference model"):
        engine.restore(arrays)


def test_a_frozen_tower_keeps_every_bit_and_a_free_one_learns(shards: Shards) -> None:
    for tower, changes in (("true", False), ("false", True)):
        engine = engine_of(shards, f"train.freeze_audio_tower={tower}")
        before = jax.device_get(engine.arrays())
        steps(engine, shards, 1)
        after = jax.device_get(engine.arrays())
        names = [name for name in before if name.startswith("graphstate/audio_tower/")]
        assert names
        assert any(not np.array_equal(before[name], after[name]) for name in names) is changes


def texts(samples: Sequence[Any]) -> list[Any]:
    return [sample.completions for sample in samples]


def test_the_same_seed_draws_the_same_and_steps_draw_differently(shards: Shards) -> None:
    rows = shards.read(ROWS)
    first, second, other = engine_of(shards), engine_of(shards), engine_of(shards, "seed=1")
    _, drawn = first.update(ROWS, rows)
    assert texts(drawn) == texts(second.update(ROWS, rows)[1])
    assert texts(drawn) != texts(other.update(ROWS, rows)[1])
    assert texts(drawn) != texts(first.update(ROWS, rows)[1])


def test_compiled_programs_are_kept_for_the_next_process() -> None:
    assert jax.config.values["jax_compilation_cache_dir"]  # EasyDeL's compiler sets it for all of JAX
