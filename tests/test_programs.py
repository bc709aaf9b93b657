"""What is compiled, read before it is: the precision of every matrix product; and losses at a ratio of one."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from products import loose, products
from tones import small_config, tone_shards

from audiorl_cli.bridge import checkpoint, experts, forward
from audiorl_cli.bridge.weights import abstract_state
from audiorl_cli.config import RunConfig
from audiorl_cli.data.shards import open_shards
from audiorl_cli.rl.engine import AudioEngine
from audiorl_cli.rl.optimizer import adamw, frozen_modules
from audiorl_cli.rl.programs import Programs, abstract_programs
from audiorl_cli.rl.update import Groups, Sums
from audiorl_cli.rl.warmstart import _updater

CHUNK = 97  # of the vocabulary: nothing else is so wide
FREE = "train.freeze_audio_tower"
ADAPTED = 'lora={rank = 2, modules = "lm_head|model.layers.0.self_attn.q_proj"}'


def traced(config: RunConfig, dtype: Any = "float32", prompt_tokens: int = 30) -> dict[str, list[Any]]:
    """The products of each program of a run of the built-in model."""
    made = abstract_programs(config, checkpoint.abstract("tiny", dtype=dtype), prompt_tokens, 100)
    return {name: list(products(program.trace(*given).jaxpr)) for name, (program, given) in made.items()}


ROUTES = {
    "dense": ("gpu", [], 30),
    "grouped": ("tpu", [f"{FREE}=false", f"memory={{prompts = 1, completions = 2, vocabulary = {CHUNK}}}"], 30),
    "tiled": ("cpu", ["train.batch_size=16", ADAPTED, "memory.recompute=true"], 200),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_product_of_float32_is_of_float32(monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    backend, settings, tokens = ROUTES[route]
    monkeypatch.setattr(experts, "platform", lambda _: backend)
    used: list[str] = []

    def watched(name: str) -> Any:
        function = getattr(experts, name)

        def call(*given: Any) -> Any:
            used.append(name)
            return function(*given)

        return call

    for name in ("_by_all", "_by_group", "tiled"):
        monkeypatch.setattr(experts, name, watched(name))
    programs = traced(small_config(*settings), prompt_tokens=tokens)
    assert {"dense": "_by_all", "grouped": "_by_group", "tiled": "tiled"}[route] in used
    assert set(programs) - {"hear"} == {"sample", "score", "update"}
    for name, operations in programs.items():
        assert len(operations) > 5
        assert loose(operations) == [], name


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_so_are_those_of_easydels_forward_pass(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Which supervised steps and `check-batch --prove` take; on a CPU no product of float32 is of less."""
    monkeypatch.setattr(experts, "platform", lambda _: backend)
    model = checkpoint.abstract("tiny").model
    shape: Any = jax.ShapeDtypeStruct
    ids, targets = shape((2, 30), jnp.int32), shape((2, 5), jnp.int32)
    audio = {"input_features": shape((2, 128, 100), jnp.float32), "feature_attention_mask": shape((2, 100), jnp.int32)}
    state = abstract_state(model, adamw(small_config().optimizer, 4, frozen_modules()))
    batch = {"input_ids": ids, "attention_mask": ids, **audio}
    graph, values = nnx.split(model)
    passed = forward._pass.trace(graph, values, shape((2, 35), jnp.int32), shape((2, 35), jnp.int32), audio, targets)
    learnt = jax.jit(_updater(frozen_modules())).trace(state, batch, targets, targets)
    for program in (passed, learnt):
        operations = list(products(program.jaxpr))
        assert len(operations) > 30
        assert loose(operations) == []


@pytest.mark.parametrize("settings", [[], [ADAPTED, f"memory.vocabulary={CHUNK}"]], ids=["whole", "adapted, in chunks"])
def test_logits_of_bfloat16_come_in_float32(settings: list[str]) -> None:
    programs = traced(small_config(*settings), "bfloat16")
    vocabulary = checkpoint.abstract("tiny").config.text_config.vocab_size
    for name in ("sample", "score", "update"):
        logits = [
            one
            for one in programs[name]
            if one.outvars[0].aval.shape[-1] in (vocabulary, CHUNK)
            and all(given.aval.dtype == jnp.bfloat16 for given in one.invars)
        ]
        assert len(logits) >= (2 if name == "sample" else 1)
        assert {str(one.outvars[0].aval.dtype) for one in logits} == {"float32"}


KINDS = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo", "gfpo")
PAPERS = {"gspo": ["loss.epsilon=3e-4", "loss.epsilon_high=4e-4"], "gfpo": ["loss.gfpo_keep=2"]}


def groups_of(count: int = 5) -> tuple[Any, Groups]:
    """Log-probs of a bfloat16 policy, and completions that a sampler drew with a thousandth's difference from it."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, count + 1, (3, 4, 1))
    mask = jnp.asarray(np.arange(count) < lengths)
    new = jnp.asarray(np.log(draw.uniform(0.05, 0.95, mask.shape)), jnp.float32)
    sampler = jnp.asarray(new + draw.normal(0, 3e-3, mask.shape), jnp.float32)
    advantages = jnp.asarray(draw.normal(size=(3, 4)), jnp.float32)
    tokens = jnp.zeros(mask.shape, jnp.int32)
    weights = mask / (12.0 * mask.sum(axis=-1, keepdims=True))  # the mean that the papers of grpo and gspo take
    return new, Groups(tokens, mask, mask, sampler, None, None, advantages, weights)


def learnt(config: RunConfig, groups: Groups, new: Any, first: bool = True) -> tuple[Sums, Any]:
    """The sums of the loss, and its gradient in the log-probs."""
    of = Programs(config, None, None, frozen_modules()).loss

    def loss(new: Any) -> Any:
        sums = of(new, jnp.zeros_like(new), groups, first)
        return sums.loss, sums

    gradient, sums = jax.grad(loss, has_aux=True)(new)
    return sums, gradient


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_update_is_at_a_ratio_of_one_whatever_the_sampler_says(kind: str) -> None:
    new, groups = groups_of()
    config = small_config(f"loss.kind={kind}", "loss.beta=0", *PAPERS.get(kind, []))
    sums, gradient = learnt(config, groups, new)
    assert float(sums.clipped) == 0
    # - sum of r A w, r = 1 and of gradient 1 a token; GSPO's r is of the mean over tokens, whose weights are alike.
    expected = -groups.advantages[..., None] * groups.weights
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)
    if kind != "cispo":
        assert float(sums.loss) == pytest.approx(float(expected.sum()), rel=1e-5)
    # So it is where further ones follow, for which the log-probs of the first are the old ones.
    several = groups._replace(old=groups.sampler)
    same, _ = learnt(config, several, new)
    assert (float(same.clipped), float(same.loss)) == (0, float(sums.loss))
    later, moved = learnt(config, several._replace(old=new), new - 0.01, first=False)
    np.testing.assert_allclose(float(later.sampler.total), float(sums.sampler.total), rtol=1e-6)
    assert not np.allclose(moved, expected, rtol=1e-4)


def test_terms_and_kl_are_weighed_by_policy_over_sampler() -> None:
    new, groups = groups_of()
    groups = groups._replace(sampler=new - jnp.log(jnp.asarray([0.5, 1.5, 1.0, 3.0, 0.8])), reference=new + 0.5)
    plain, weighed, masked = (
        learnt(small_config("loss.beta=0.5", *settings), groups, new)
        for settings in (
            [],
            ["loss.sampler_correction=token"],
            ["loss.sampler_correction=token", "loss.sampler_outliers=mask"],
        )
    )
    np.testing.assert_allclose(weighed[1], plain[1] * jnp.asarray([0.5, 1.5, 1.0, 2.0, 0.8]), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(masked[1], plain[1] * jnp.asarray([0.5, 1.5, 1.0, 0.0, 0.8]), rtol=1e-4, atol=1e-7)
    of_fourth = float(groups.mask[..., 3].sum())
    assert (float(plain[0].outliers), float(weighed[0].outliers)) == (0, of_fourth)
    apart = np.abs(np.log([0.5, 1.5, 1.0, 3.0, 0.8])) * np.asarray(groups.mask)
    assert float(plain[0].sampler.total) == pytest.approx(apart.sum(), rel=1e-4)
    assert float(plain[0].sampler.largest) == pytest.approx(np.log(3), rel=1e-4)


def test_in_bfloat16_gspo_at_its_papers_clip_holds_nothing_back_on_policy(tmp_path: Path) -> None:
    """The sampler's log-probs lie further from the policy's than that clip is wide; two updates, in parts."""
    config = small_config(
        "train.dtype=bfloat16",
        "loss.kind=gspo",
        "loss.iterations=2",
        "memory={prompts = 1, completions = 2}",
        "train.on_nonfinite=skip",
        *PAPERS["gspo"],
    )
    shards = open_shards(tone_shards(tmp_path))
    engine = AudioEngine(config, checkpoint.load("tiny", dtype="bfloat16"), shards)
    pool, *_ = engine._pool([0, 1], shards.read([0, 1]))
    groups = engine._groups(pool)
    parameters = jax.tree_util.tree_map(jnp.copy, engine._parameters())
    _, (sums, _), log_probs = engine._update(engine._state, pool.prompts, groups, True)
    mask = np.asarray(groups.mask)
    means = np.abs((np.asarray(groups.sampler) - np.asarray(log_probs)) * mask).sum(axis=-1) / mask.sum(axis=-1)
    assert (means > 4e-4).mean() > 0.5
    assert float(sums.clipped) == 0
    assert float(sums.sampler.largest) == pytest.approx(np.abs(np.asarray(groups.sampler - log_probs))[mask].max())
    scored = engine._score(*parameters, pool.prompts, groups.tokens)
    assert np.abs(np.asarray(scored - log_probs))[mask].max() < 1e-3  # the parts are where they belong
