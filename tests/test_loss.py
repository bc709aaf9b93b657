"""Losses by hand, eager and jitted: ratios, clips and their gradients, weights, and what holds of every kind.

Log-probs are given as logarithms of round probabilities, so that ratios are round.
"""

import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from audiorl_cli.config import LossConfig
from audiorl_cli.rl import loss
from audiorl_cli.rl.loss import LOSSES

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]
KINDS = list(LOSSES)

MASK = jnp.array([[True, True, True, True], [True, True, False, False], [False, False, False, False]])
OLD = jnp.log(jnp.array([[0.5, 0.4, 0.2, 0.1], [0.25, 0.5, 0.9, 0.9], [0.5, 0.5, 0.5, 0.5]]))
NEW = jnp.log(jnp.array([[0.75, 0.44, 0.2, 0.05], [0.75, 0.25, 0.3, 0.1], [0.1, 0.9, 0.1, 0.9]]))
RATIOS = [[1.5, 1.1, 1.0, 0.5], [3.0, 0.5, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]


@pytest.fixture(params=["eager", "jitted"])
def compiled(request: pytest.FixtureRequest) -> Compile:
    return jax.jit if request.param == "jitted" else lambda function: function


def config(kind: str, **changes: Any) -> LossConfig:
    return LossConfig(kind=typing.cast(Any, kind), gfpo_keep=2 if kind == "gfpo" else 0, **changes)


def whole(kind: str, settings: LossConfig, batch: dict[str, Any]) -> Float[Array, ""]:
    """The loss of a batch, as an engine takes it."""
    values, _ = LOSSES[kind].terms(batch["new"], batch["old"], batch["advantage"], batch["mask"], settings)
    divergence = loss.kl_k3(batch["new"], batch["reference"], batch["mask"])
    return loss.total(values, divergence, batch["weights"], settings.beta)


def test_ratios_by_hand(compiled: Compile) -> None:
    found = compiled(loss.ratio)(NEW, OLD, MASK)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, RATIOS, rtol=1e-6)
    # (1.5 * 1.1 * 1 * 0.5) ^ (1/4) = 0.825 ^ (1/4), (3 * 0.5) ^ (1/2); nothing of the third
    np.testing.assert_allclose(compiled(loss.sequence_ratio)(NEW, OLD, MASK), [0.9530451, 1.2247449, 1.0], rtol=1e-6)


def test_kl_by_hand(compiled: Compile) -> None:
    reference = jnp.log(jnp.array([[0.75, 0.22, 0.4, 0.05], [0.25, 0.5, 0.3, 0.9], [0.5, 0.5, 0.5, 0.5]]))
    # reference / new: 1, 1/2, 2, 1; 1/3, 2. 1/2 + log 2 - 1, 2 - log 2 - 1; 1/3 + log 3 - 1
    expected = [[0.0, 0.1931472, 0.3068528, 0.0], [0.4319456, 0.3068528, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(compiled(loss.kl_k3)(NEW, reference, MASK), expected, atol=1e-6)


# A policy over three tokens, drawn from an older one, beside a reference; every token is drawn once, and weighed.
THETA = jnp.array([0.3, -0.5, 0.9])
REFERENCE = jax.nn.log_softmax(jnp.array([-0.8, 0.4, 0.1]))
OLDER = jax.nn.log_softmax(jnp.array([0.9, 0.2, -0.3]))
EACH = jnp.arange(3)


def divergence(first: Any, second: Any) -> Any:
    """KL(first || second) from their logarithms."""
    return (jnp.exp(first) * (first - second)).sum()


def expected_gradient(estimator: Any, drawn_from: Any) -> Any:
    """The gradient in THETA, in the mean over tokens that `drawn_from` draws."""

    def mean(theta: Any) -> Any:
        new = jax.nn.log_softmax(theta)[EACH][:, None]
        values = loss.kl(estimator, new, drawn_from[EACH][:, None], REFERENCE[EACH][:, None], jnp.ones_like(new, bool))
        return (jnp.exp(drawn_from)[EACH] * values[:, 0]).sum()

    return jax.grad(mean)(THETA)


def exact(which: str) -> Any:
    """The gradient of KL(policy || reference), or of KL(reference || policy)."""

    def of(theta: Any) -> Any:
        new = jax.nn.log_softmax(theta)
        return divergence(new, REFERENCE) if which == "policy" else divergence(REFERENCE, new)

    return jax.grad(of)(THETA)


@pytest.mark.parametrize(
    ("estimator", "on_policy", "off_policy"),
    [("k1", None, None), ("k2", "policy", None), ("k3", "reference", None), ("unbiased", "policy", "policy")],
)
def test_the_expected_gradient_of_each_kl_estimator(
    estimator: str, on_policy: str | None, off_policy: str | None
) -> None:
    policy = jax.nn.log_softmax(THETA)
    assert float(jnp.abs(exact("policy") - exact("reference")).max()) > 0.05  # two things to tell apart
    for drawn_from, which in ((policy, on_policy), (OLDER, off_policy)):
        found = expected_gradient(estimator, jax.lax.stop_gradient(drawn_from))
        if estimator == "k1":
            np.testing.assert_array_equal(found, 0.0)  # the reward has it
            continue
        for other in ("policy", "reference"):
            agree = np.allclose(found, exact(other), atol=1e-6)
            assert agree is (other == which), (other, found, exact(other))


def test_the_kl_penalty_of_a_reward_has_the_gradient_of_whole_completions() -> None:
    """Two tokens, the second's distribution after each first one: its KL counts for the first as well."""
    reference = jax.nn.log_softmax(jnp.array([[-0.8, 0.4, 0.1], [0.2, 0.0, 0.5], [1.0, 0.0, -1.0]]))
    start, parameters = REFERENCE, (THETA, jnp.array([[0.1, 0.2, 0.3], [1.0, -1.0, 0.5], [0.0, 2.0, 0.0]]))
    pairs = jnp.array([(first, second) for first in range(3) for second in range(3)])

    def log_probs(parameters: Any) -> Any:
        first, second = map(jax.nn.log_softmax, parameters)
        return jnp.stack([first[pairs[:, 0]], second[pairs[:, 0], pairs[:, 1]]], axis=1)

    theirs = jnp.stack([start[pairs[:, 0]], reference[pairs[:, 0], pairs[:, 1]]], axis=1)
    mask = jnp.ones_like(theirs, bool)
    drawn = jax.lax.stop_gradient(log_probs(parameters))
    penalty, weights = loss.kl_penalty(drawn, theirs, mask), jnp.exp(drawn.sum(axis=1))
    # REINFORCE with the penalty for a reward to be made small.
    found = jax.grad(lambda parameters: (weights * penalty * log_probs(parameters).sum(axis=1)).sum())(parameters)

    def whole_kl(parameters: Any) -> Any:
        new = log_probs(parameters)
        return (jnp.exp(new.sum(axis=1)) * (new - theirs).sum(axis=1)).sum()

    for part, expected in zip(found, jax.grad(whole_kl)(parameters), strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-6)
    np.testing.assert_allclose((weights * penalty).sum(), whole_kl(parameters), rtol=1e-6)
    # In the padding nothing counts.
    assert loss.kl_penalty(drawn, theirs, mask.at[:, 1].set(False)).tolist() == (drawn - theirs)[:, 0].tolist()


def test_kl_estimates_by_hand(compiled: Compile) -> None:
    mask = jnp.array([[True, True, False]])
    new, reference = jnp.log(jnp.array([[0.5, 0.25, 0.1]])), jnp.log(jnp.array([[0.25, 0.5, 0.9]]))
    old = jnp.log(jnp.array([[0.25, 0.5, 0.9]]))
    half = np.log(2.0) ** 2 / 2
    k3 = [0.5 + np.log(2.0) - 1, 2 - np.log(2.0) - 1]
    for estimator, expected in (
        ("k1", [0.0, 0.0, 0.0]),
        ("k2", [half, half, 0.0]),
        ("k3", [*k3, 0.0]),
        ("unbiased", [2 * k3[0], k3[1] / 2, 0.0]),
    ):
        found = compiled(lambda *each, name=estimator: loss.kl(name, *each))(new, old, reference, mask)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, [expected], rtol=1e-5, err_msg=estimator)


# ratio, advantage, min(r A, clip(r, 0.8, 1.3) A), d / d log(new), clipped
PPO = [
    (1.0, 2.0, 2.0, 2.0, False),
    (1.25, 2.0, 2.5, 2.5, False),  # 1.3 above, not 1.2: clip-higher
    (1.5, 2.0, 2.6, 0.0, True),
    (0.5, 2.0, 1.0, 1.0, False),
    (1.0, -2.0, -2.0, -2.0, False),
    (1.5, -2.0, -3.0, -3.0, False),  # EasyDeL's maximum: -2.6, and no gradient
    (0.5, -2.0, -1.6, 0.0, True),  # EasyDeL's maximum: -1.0, and a gradient of -1.0
    (5.0, -2.0, -10.0, -10.0, False),
    (5.0, 0.0, 0.0, 0.0, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "value", "slope", "clipped"), PPO)
def test_ppo_by_hand(
    ratio: float, advantage: float, value: float, slope: float, clipped: bool, compiled: Compile
) -> None:
    def term(log_new: Any) -> Any:
        return loss.ppo(jnp.exp(log_new), jnp.float32(advantage), 0.2, 0.3)

    at = jnp.log(jnp.float32(ratio))
    assert float(compiled(term)(at)) == pytest.approx(value, rel=1e-6)
    assert float(compiled(jax.grad(term))(at)) == pytest.approx(slope, rel=1e-6)
    assert bool(loss.ppo_clipped(jnp.float32(ratio), jnp.float32(advantage), 0.2, 0.3)) is clipped


@pytest.mark.parametrize(("ratio", "advantage", "value", "slope", "clipped"), PPO)
def test_a_cap_bounds_negative_advantages_and_changes_nothing_else(
    ratio: float, advantage: float, value: float, slope: float, clipped: bool, compiled: Compile
) -> None:
    if ratio == 5.0 and advantage < 0:
        value, slope, clipped = -8.0, 0.0, True

    def term(log_new: Any) -> Any:
        return loss.two_sided(jnp.exp(log_new), jnp.float32(advantage), 0.2, 0.3, 4.0)

    at = jnp.log(jnp.float32(ratio))
    assert float(compiled(term)(at)) == pytest.approx(value, rel=1e-6)
    assert float(compiled(jax.grad(term))(at)) == pytest.approx(slope, rel=1e-6)
    assert bool(loss.two_sided_clipped(jnp.float32(ratio), jnp.float32(advantage), 0.2, 0.3, 4.0)) is clipped


# ratio, its weight in [0.8, 1.3], clipped; new is 0.25 and log(0.25) = -1.3862944
CISPO = [(1.0, 1.0, False), (1.2, 1.2, False), (2.0, 1.3, True), (0.5, 0.8, True)]


@pytest.mark.parametrize(("ratio", "weight", "clipped"), CISPO)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo_by_hand_has_a_gradient_where_it_is_clipped(
    ratio: float, weight: float, clipped: bool, advantage: float, compiled: Compile
) -> None:
    old = jnp.log(jnp.float32(0.25 / ratio))

    def term(new: Any) -> Any:
        return loss.cispo(new, jnp.exp(new - old), jnp.float32(advantage), 0.2, 0.3)

    new = jnp.log(jnp.float32(0.25))
    assert float(compiled(term)(new)) == pytest.approx(weight * advantage * -1.3862944, rel=1e-6)
    assert float(compiled(jax.grad(term))(new)) == pytest.approx(weight * advantage, rel=1e-6)
    assert bool(loss.cispo_clipped(jnp.float32(ratio), 0.2, 0.3)) is clipped


# kind -> weight of each token of the completions of 4 and of 2 tokens, of three with at most 5 tokens each
WEIGHTS = {
    "grpo": (1 / 12, 1 / 6),
    "gspo": (1 / 12, 1 / 6),
    "dapo": (1 / 6, 1 / 6),
    "cispo": (1 / 6, 1 / 6),
    "gfpo": (1 / 6, 1 / 6),
    "dr_grpo": (1 / 15, 1 / 15),
    "bnpo": (1 / 3, 1 / 3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_each_kind_by_hand(kind: str, compiled: Compile) -> None:
    found = compiled(lambda mask: LOSSES[kind].weights(mask, 5))(MASK)
    first, second = WEIGHTS[kind]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [[first] * 4, [second, second, 0.0, 0.0], [0.0] * 4], rtol=1e-6)


def test_nothing_to_learn_from_weighs_nothing() -> None:
    nothing = jnp.zeros((2, 3), bool)
    for kind in KINDS:
        assert (LOSSES[kind].weights(nothing, 3) == 0).all(), kind


def test_total_by_hand(compiled: Compile) -> None:
    terms, divergence = jnp.array([[1.0, -2.0], [0.5, 9.0]]), jnp.array([[0.5, 1.0], [0.25, 9.0]])
    weights = jnp.array([[0.25, 0.25], [0.5, 0.0]])
    # 0.25 (1 - 0.05) + 0.25 (-2 - 0.1) + 0.5 (0.5 - 0.025) = 0.2375 - 0.525 + 0.2375
    found = compiled(lambda terms, divergence, weights: loss.total(terms, divergence, weights, 0.1))(
        terms, divergence, weights
    )
    assert float(found) == pytest.approx(0.05, rel=1e-5)


ADVANTAGE = jnp.array([2.0, -1.0, 3.0])

# kind -> values of the two completions with tokens, clipped; epsilon 0.2 and epsilon_high 0.3
CLIP = ([[2.6, 2.2, 2.0, 1.0], [-3.0, -0.8]], [[True, False, False, False], [False, True]])
TERMS = {
    "grpo": CLIP,
    "bnpo": CLIP,
    "dr_grpo": CLIP,
    "dapo": CLIP,
    "gfpo": CLIP,
    # 1.3, 1.1, 1, 0.8 and 1.3, 0.8 times A times the logarithms of 0.75, 0.44, 0.2, 0.05 and 0.75, 0.25
    "cispo": (
        [[-0.7479734, -1.8061563, -3.2188758, -4.7931716], [0.3739867, 1.1090355]],
        [[True, False, False, True], [True, True]],
    ),
    # 2 * 0.9530451, -1 * 1.2247449: within [0.8, 1.3]
    "gspo": ([[1.9060902] * 4, [-1.2247449] * 2], [[False] * 4, [False] * 2]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_terms_of_each_kind_by_hand(kind: str, compiled: Compile) -> None:
    settings = config(kind, epsilon=0.2, epsilon_high=0.3)
    terms = compiled(lambda new, old: LOSSES[kind].terms(new, old, ADVANTAGE, MASK, settings))
    values, clipped = terms(NEW, OLD)
    assert values.shape == clipped.shape == MASK.shape
    assert values.dtype == jnp.float32
    expected, held = TERMS[kind]
    for row in (0, 1):
        np.testing.assert_allclose(values[row][MASK[row]], expected[row], rtol=1e-5)
        assert clipped[row][MASK[row]].tolist() == held[row]
    assert not clipped[~MASK].any()


def test_the_config_says_how_far_the_ratio_may_go() -> None:
    old, new = jnp.zeros((1, 2)), jnp.log(jnp.array([[1.25, 8.0]]))
    for_all = jnp.ones((1, 2), bool)

    def terms(advantage: float, **changes: float) -> list[float]:
        return list(LOSSES["grpo"].terms(new, old, jnp.array([advantage]), for_all, config("grpo", **changes))[0][0])

    assert terms(1.0, epsilon=0.1) == pytest.approx([1.1, 1.1])
    assert terms(1.0, epsilon=0.1, epsilon_high=0.28) == pytest.approx([1.25, 1.28])
    assert terms(-1.0) == pytest.approx([-1.25, -8.0])
    assert terms(-1.0, delta=4.0) == pytest.approx([-1.25, -4.0])


def test_gspo_clips_whole_completions() -> None:
    settings = config("gspo", epsilon=0.1, epsilon_high=0.1)
    values, clipped = LOSSES["gspo"].terms(NEW, OLD, jnp.array([2.0, 1.0, 1.0]), MASK, settings)
    assert clipped.tolist() == [[False] * 4, [True, True, False, False], [False] * 4]
    np.testing.assert_allclose(values[1], 1.1, rtol=1e-6)  # the ratio is 1.2247449
    assert LOSSES["gspo"].weights(MASK, 4)[1].sum() == pytest.approx(1 / 3)


def test_the_gradient_of_gspo_is_the_same_on_each_token(compiled: Compile) -> None:
    weights = LOSSES["gspo"].weights(MASK, 4)

    def objective(new: Any) -> Any:
        values, _ = LOSSES["gspo"].terms(new, OLD, ADVANTAGE, MASK, config("gspo"))
        return (values * weights).sum()

    # s A / tokens / completions: 0.9530451 * 2 / 12; 1.2247449 is within 1 + 0.2 for no positive advantage, -1 here
    expected = [[0.1588409] * 4, [-0.2041241, -0.2041241, 0.0, 0.0], [0.0] * 4]
    np.testing.assert_allclose(compiled(jax.grad(objective))(NEW), expected, rtol=1e-5)


def batch_of(kind: str, seed: int = 0) -> dict[str, Any]:
    """A made-up rollout: 3 prompts, the third with nothing to teach, with 4 completions of up to 5 tokens each."""
    draw = np.random.default_rng(seed)
    rewards = jnp.asarray(draw.uniform(size=(3, 4)), jnp.float32).at[2].set(0.5)
    lengths = jnp.asarray(draw.permuted(np.tile(np.arange(2, 6), (3, 1)), axis=1))
    advantages = LOSSES[kind].advantages(rewards, lengths, config(kind))
    mask = (jnp.arange(5) < lengths.reshape(-1, 1)) & (jnp.arange(12) < 8)[:, None]
    old, moved, reference = (jnp.asarray(draw.normal(size=(12, 5)), jnp.float32) for _ in range(3))
    return {
        "new": old - 2 + 0.3 * moved,
        "old": old - 2,
        "reference": old - 2 + 0.3 * reference,
        "advantage": advantages.ravel(),
        "mask": mask,
        "weights": LOSSES[kind].weights(mask, 5),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_add_up_to_the_batch(kind: str, compiled: Compile) -> None:
    batch, settings = batch_of(kind), config(kind)

    @compiled
    def both(new: Any, batch: Any) -> Any:
        return jax.value_and_grad(lambda new: whole(kind, settings, {**batch, "new": new}))(new)

    value, gradient = both(batch["new"], batch)
    assert float(jnp.abs(gradient).max()) > 0
    parts = [jax.tree_util.tree_map(lambda array, at=at: array[at : at + 3], batch) for at in (0, 3, 6, 9)]
    found = [both(part["new"], part) for part in parts]
    np.testing.assert_allclose(sum(part for part, _ in found), value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jnp.concatenate([part for _, part in found]), gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rubbish", [0.0, 50.0, -1e9, -np.inf])
def test_padding_adds_nothing_whatever_stands_there(kind: str, rubbish: float) -> None:
    batch, settings = batch_of(kind), config(kind)
    filled = {
        **batch,
        "new": jnp.where(batch["mask"], batch["new"], rubbish),
        "reference": jnp.where(batch["mask"], batch["reference"], 0.5 * rubbish),
    }
    value, gradient = jax.value_and_grad(lambda new: whole(kind, settings, {**filled, "new": new}))(filled["new"])
    assert float(value) == pytest.approx(float(whole(kind, settings, batch)), rel=1e-6)
    assert (gradient[~batch["mask"]] == 0).all()
    assert jnp.isfinite(gradient).all()
    wider = {name: jnp.pad(array, ((0, 0), (0, 2))) if array.ndim == 2 else array for name, array in batch.items()}
    wider["weights"] = LOSSES[kind].weights(wider["mask"], 5)
    assert float(whole(kind, settings, wider)) == pytest.approx(float(value), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_at_a_ratio_of_1_the_gradient_is_the_advantage_and_nothing_is_clipped(kind: str) -> None:
    batch, settings = batch_of(kind), config(kind)
    mask, advantage = batch["mask"], batch["advantage"]

    def objective(new: Any) -> Any:
        return (LOSSES[kind].terms(new, batch["old"], advantage, mask, settings)[0] * batch["weights"]).sum()

    expected = advantage[:, None] * batch["weights"]
    np.testing.assert_allclose(jax.grad(objective)(batch["old"]), expected, rtol=1e-5, atol=1e-8)
    assert not LOSSES[kind].terms(batch["old"], batch["old"], advantage, mask, settings).clipped.any()


@pytest.mark.parametrize("kind", KINDS)
def test_completions_masked_out_do_not_move_the_others_against_each_other(kind: str) -> None:
    mask = batch_of(kind)["mask"]
    fewer = LOSSES[kind].weights(mask[:8], 5)
    ratio = {"dapo": 1.0, "cispo": 1.0, "gfpo": 1.0}.get(kind, 8 / 12)  # a mean over tokens does not count them
    np.testing.assert_allclose(LOSSES[kind].weights(mask, 5)[:8], ratio * fewer, rtol=1e-6)


def test_each_kind_of_the_config_is_a_loss() -> None:
    assert set(KINDS) == set(typing.get_args(typing.get_type_hints(LossConfig)["kind"]))


def test_advantages_of_each_kind_are_those_of_its_paper() -> None:
    rewards, lengths = jnp.array([[1.0, 0.0, 0.5], [0.25, 0.0, 0.25]]), jnp.array([[3, 1, 2], [3, 5, 9]])

    def first(kind: str, **changes: Any) -> list[float]:
        return list(LOSSES[kind].advantages(rewards, lengths, LossConfig(kind=typing.cast(Any, kind), **changes))[0])

    for kind in ("grpo", "dapo", "cispo", "gspo"):
        assert first(kind) == pytest.approx([1.2244449, -1.2244449, 0.0], abs=1e-6)  # 0.5 / (sqrt(1 / 6) + 0.0001)
    assert first("dr_grpo") == [0.5, -0.5, 0.0]
    # means 1/2 and 1/6, m = 1/3, v = 1/18: alpha = 4/3, beta = 5/3, of density 0.5 / B(4/3, 5/3) at 1/2;
    # B(4/3, 5/3) = 0.8929795 * 0.9027453 / 2
    assert first("bnpo") == pytest.approx([0.4030665, -0.4030665, 0.0], abs=1e-5)
    assert first("gfpo", gfpo_keep=2) == pytest.approx([0.0, -0.9996001, 0.9996001], abs=1e-6)
    efficient = first("gfpo", gfpo_keep=2, gfpo_metric="efficiency")
    assert efficient == pytest.approx([0.9996001, 0.0, -0.9996001], abs=1e-6)
