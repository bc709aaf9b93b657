"""Advantages by hand, eager and jitted, and what must hold of each: order, residue, groups with nothing to teach."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiorl_cli.rl import advantages
from audiorl_cli.rl.advantages import (
    bnpo,
    dr_grpo,
    gfpo,
    grpo,
    has_signal,
    most_efficient,
    overlong,
    shortest,
    spread,
    teaches,
)

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]
REWARDS = jnp.array([[1.0, 0.0, 0.0, 1.0], [0.25, 0.5, 0.75, 1.0], [0.5, 0.5, 0.5, 0.5]])
LENGTHS = jnp.array([[4, 2, 3, 9], [8, 7, 6, 5], [3, 3, 3, 3]])

EVERY = [grpo, dr_grpo, bnpo, lambda rewards: gfpo(rewards, shortest(LENGTHS, 3))]


@pytest.fixture(params=["eager", "jitted"])
def compiled(request: pytest.FixtureRequest) -> Compile:
    return jax.jit if request.param == "jitted" else lambda function: function


def test_grpo_by_hand(compiled: Compile) -> None:
    found = compiled(grpo)(REWARDS)
    assert found.dtype == jnp.float32
    expected = [
        [0.99980004, -0.99980004, -0.99980004, 0.99980004],  # 0.5 / (0.5 + 0.0001)
        [-1.3411610, -0.4470537, 0.4470537, 1.3411610],  # 0.375 and 0.125 over 0.2795085 (population) + 0.0001
        [0.0, 0.0, 0.0, 0.0],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_dr_grpo_by_hand(compiled: Compile) -> None:
    expected = [[0.5, -0.5, -0.5, 0.5], [-0.375, -0.125, 0.125, 0.375], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(compiled(dr_grpo)(REWARDS), expected, rtol=1e-6)


def test_bnpo_by_hand_under_a_density_of_two_and_two(compiled: Compile) -> None:
    # p = 0.5 -+ sqrt(1 / 56): variance of the sample 1 / 28, a = b = (0.25 * 28 - 1) / 2 = 3, alpha = beta = 2;
    # Beta(2, 2) is 6 p (1 - p) = 6 (1 / 4 - 1 / 56) = 39 / 28 at both. 0.3 * 28 / 39 = 0.2153846.
    rewards = jnp.array([[0.0663694, 0.6663694], [0.9336306, 0.3336306]])
    expected = [[-0.2153846, 0.2153846], [0.2153846, -0.2153846]]
    np.testing.assert_allclose(compiled(bnpo)(rewards), expected, rtol=1e-5)


def test_bnpo_by_hand_under_a_density_of_two_and_three(compiled: Compile) -> None:
    # p = 1 / 3 + (-1, 0, 1) / sqrt(45): m = 1 / 3, v = 1 / 45, a = 3, b = 6. Beta(2, 3) is 12 p (1 - p)^2:
    # 1.4713588, 1.7777778 and 1.5508634; the rewards are 0.1 below and above p.
    rewards = jnp.array([[0.0842621, 0.2842621], [0.2333333, 0.4333333], [0.3824045, 0.5824045]])
    expected = [[-0.0679645, 0.0679645], [-0.05625, 0.05625], [-0.0644802, 0.0644802]]
    np.testing.assert_allclose(compiled(bnpo)(rewards), expected, rtol=1e-5)


def test_bnpo_is_reinforce_with_a_baseline_where_nothing_is_known_of_the_means(compiled: Compile) -> None:
    one = compiled(bnpo)(jnp.array([[1.0, 0.5]]))
    np.testing.assert_allclose(one, [[0.25, -0.25]], rtol=1e-6)
    # m = 0.5, v = 0.405 > m (1 - m): a and b would be negative
    apart = compiled(bnpo)(jnp.array([[0.0, 0.1], [0.9, 1.0]]))
    np.testing.assert_allclose(apart, [[-0.05, 0.05], [-0.05, 0.05]], rtol=1e-5)


def test_bnpo_stays_finite_for_equal_means_and_for_means_of_0_and_1(compiled: Compile) -> None:
    equal = compiled(bnpo)(jnp.array([[0.0, 1.0], [1.0, 0.0]]))
    # variance 1e-4: a = b = 1249.5, alpha = beta = 417.5, whose density at 0.5 is 23.04906
    np.testing.assert_allclose(equal, [[-0.0216929, 0.0216929], [0.0216929, -0.0216929]], rtol=1e-3)
    ends = compiled(bnpo)(jnp.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.6], [0.4, 0.5], [0.6, 0.5]]))
    assert jnp.isfinite(ends).all()
    assert (ends[:2] == 0).all()
    # a mean next to an end has next to no density; the authors' bound on its weight holds
    low = jnp.array([[0.0, 2e-6], [0.5, 0.5001], [0.5, 0.5001], [0.5, 0.5001], [0.5, 0.5001]])
    assert float(jnp.abs(compiled(bnpo)(low)[0]).max()) <= 1.0


def test_gfpo_by_hand(compiled: Compile) -> None:
    rewards = jnp.array([[1.0, 0.0, 0.5, 0.25], [0.5, 0.5, 1.0, 0.0]])
    kept = jnp.array([[True, True, False, True], [True, True, False, False]])
    # mean 1.25 / 3, deviation sqrt(0.5416667 / 3) = 0.4249183; of the second group equals are kept
    expected = [[1.3724900, -0.9803500, 0.0, -0.3921400], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(compiled(gfpo)(rewards, kept), expected, rtol=1e-5)


def test_gfpo_gives_zero_where_what_it_keeps_differs_by_residue_alone(compiled: Compile) -> None:
    third = np.float32(1 - 1 / 3)
    rewards = jnp.array([[third, np.nextafter(third, np.float32(1)), 0.0]])
    assert spread(rewards).tolist() == [True]
    assert (compiled(gfpo)(rewards, jnp.array([[True, True, False]])) == 0).all()


def test_gfpo_keeping_all_is_grpo() -> None:
    np.testing.assert_allclose(gfpo(REWARDS, jnp.ones_like(REWARDS, bool)), grpo(REWARDS), rtol=1e-6)


def test_what_gfpo_keeps_by_hand(compiled: Compile) -> None:
    lengths = jnp.array([[4, 2, 3, 2], [5, 5, 5, 5]])
    short = compiled(lambda lengths: shortest(lengths, 2))(lengths)
    assert short.tolist() == [[False, True, False, True], [True, True, False, False]]
    rewards = jnp.array([[1.0, 0.25, 0.9, 0.5], [0.2, 0.8, 0.4, 0.8]])  # a token: 0.25, 0.125, 0.3, 0.25
    efficient = compiled(lambda rewards, lengths: most_efficient(rewards, lengths, 2))(rewards, lengths)
    assert efficient.tolist() == [[True, False, True, False], [False, True, False, True]]
    assert most_efficient(jnp.array([[0.5, 1.0]]), jnp.array([[0, 1]]), 1).tolist() == [[False, True]]


def test_overlong_by_hand(compiled: Compile) -> None:
    lengths = jnp.array([[1, 12, 13, 14], [16, 18, 20, 21]])
    found = compiled(lambda lengths: overlong(lengths, max_tokens=20, buffer=8))(lengths)
    assert found.dtype == jnp.float32
    assert found.tolist() == [[0.0, 0.0, -0.125, -0.25], [-0.5, -0.75, -1.0, -1.0]]


def test_spread_and_teaches_by_hand(compiled: Compile) -> None:
    rewards = jnp.array([[0.5, 0.5], [0.5, 0.5000005], [0.5, 0.500002], [-3.0, 3.0], [100.0, 100.00001]])
    assert compiled(spread)(rewards).tolist() == [False, False, True, True, False]
    assert compiled(teaches)(jnp.array([[0.0, 0.0], [0.0, -1e-9]])).tolist() == [False, True]
    kept_equals = gfpo(jnp.array([[1.0, 1.0, 0.0]]), jnp.array([[True, True, False]]))
    assert teaches(kept_equals).tolist() == [False]


def test_a_group_has_signal_where_rewards_differ_and_the_loss_takes_a_completion(compiled: Compile) -> None:
    rewards = jnp.array([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    in_loss = jnp.array([[False, True], [False, False], [True, True]])
    assert compiled(has_signal)(rewards, in_loss).tolist() == [True, False, False]


@pytest.mark.parametrize("weight", [1.0, 10.0, 30.0])
@pytest.mark.parametrize("function", EVERY)
def test_equal_rewards_but_for_residue_get_exactly_zero(
    function: Callable[..., Any], weight: float, compiled: Compile
) -> None:
    third = np.float32(weight) * np.float32(1 - 1 / 3)
    rewards = np.full((3, 4), third)
    rewards[0] = [third, np.nextafter(third, np.float32(0)), third, np.nextafter(third, np.float32(99))]
    assert rewards[0].min() < third < rewards[0].max()
    found = compiled(function)(jnp.asarray(rewards))
    assert (found == 0).all()
    assert not spread(jnp.asarray(rewards)).any()


@pytest.mark.parametrize("function", EVERY)
def test_a_group_with_nothing_to_teach_gets_zero_and_leaves_the_others_finite(function: Callable[..., Any]) -> None:
    found = function(REWARDS)
    assert teaches(found).tolist() == [True, True, False]
    assert jnp.isfinite(found).all()


@pytest.mark.parametrize("function", [grpo, dr_grpo, bnpo])
def test_permuting_a_group_permutes_its_advantages(function: Callable[..., Any]) -> None:
    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(function(REWARDS[:, order]), function(REWARDS)[:, order], rtol=1e-5)


def test_permuting_a_group_permutes_what_gfpo_keeps() -> None:
    order, lengths = jnp.array([2, 0, 3, 1]), LENGTHS[:2]  # no two of a length
    before = gfpo(REWARDS[:2], shortest(lengths, 3))
    after = gfpo(REWARDS[:2, order], shortest(lengths[:, order], 3))
    np.testing.assert_allclose(after, before[:, order], rtol=1e-5)
    assert (float(before[0, 3]), float(before[1, 0])) == (0.0, 0.0)  # the longest


@pytest.mark.parametrize("function", [grpo, dr_grpo])
def test_groups_do_not_know_each_other(function: Callable[..., Any]) -> None:
    np.testing.assert_allclose(function(REWARDS[1:2]), function(REWARDS)[1:2], rtol=1e-6)


def test_the_density_of_bnpo_is_that_of_the_whole_batch() -> None:
    alone, together = bnpo(REWARDS[:1]), bnpo(REWARDS)[:1]
    assert float(jnp.abs(alone - together).max()) > 0.1


def test_a_wider_spread_is_what_the_deviation_takes_away() -> None:
    half = 0.5 * REWARDS
    np.testing.assert_allclose(grpo(half), grpo(REWARDS), rtol=1e-3)
    np.testing.assert_allclose(dr_grpo(half), 0.5 * dr_grpo(REWARDS), rtol=1e-6)


def test_the_threshold_is_far_below_two_word_counts() -> None:
    # one wrong word more, of a hundred thousand
    assert advantages.ZERO_SPREAD < 1 / 100_000
    assert spread(jnp.array([[1 - 1 / 100_000, 1.0]])).tolist() == [True]
