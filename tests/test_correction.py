"""Importance weights of the policy over the sampler, by hand; their means, counted out over every completion."""

import dataclasses
import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from audiorl_cli import config as configs
from audiorl_cli.config import LossConfig, RunConfig
from audiorl_cli.errors import ConfigError
from audiorl_cli.rl.correction import Correction, correction, difference
from audiorl_cli.rl.notice import notices

# Two completions of three tokens and of two; behind the second stands what must not count.
POLICY = np.log([[0.5, 0.2, 0.3], [0.9, 0.1, np.inf]])
SAMPLER = np.log([[0.25, 0.4, 0.3], [0.3, 0.1, 0.5]])
MASK = np.asarray([[True, True, True], [True, True, False]])


def weighed(**settings: object) -> Correction:
    config = dataclasses.replace(LossConfig(), **settings)  # type: ignore[arg-type]
    return correction(jnp.asarray(POLICY), jnp.asarray(SAMPLER), jnp.asarray(MASK), config)


def test_weights_of_tokens() -> None:
    found = weighed(sampler_correction="token", sampler_cap=10.0)
    np.testing.assert_allclose(found.weights, [[2.0, 0.5, 1.0], [3.0, 1.0, 1.0]], rtol=1e-6)
    assert not found.outliers.any()


def test_weights_above_the_cap_are_cut_to_it_or_left_out() -> None:
    cut = weighed(sampler_correction="token", sampler_cap=1.5)
    np.testing.assert_allclose(cut.weights, [[1.5, 0.5, 1.0], [1.5, 1.0, 1.0]], rtol=1e-6)
    masked = weighed(sampler_correction="token", sampler_cap=1.5, sampler_outliers="mask")
    np.testing.assert_allclose(masked.weights, [[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]], rtol=1e-6)
    for found in (cut, masked):
        np.testing.assert_array_equal(found.outliers, [[True, False, False], [True, False, False]])


def test_a_weight_of_a_completion_is_the_product_of_those_of_its_tokens() -> None:
    found = weighed(sampler_correction="sequence", sampler_cap=10.0)
    np.testing.assert_allclose(found.weights, [[1.0, 1.0, 1.0], [3.0, 3.0, 1.0]], rtol=1e-6)  # 2 x 0.5 x 1; 3 x 1
    masked = weighed(sampler_correction="sequence", sampler_outliers="mask")
    np.testing.assert_allclose(masked.weights, [[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]], rtol=1e-6)


def test_without_a_correction_every_weight_is_one() -> None:
    found = weighed()
    np.testing.assert_array_equal(found.weights, np.ones((2, 3)))
    assert not found.outliers.any()


@pytest.mark.parametrize(("outliers", "expected"), [("truncate", 2.0), ("mask", 0.0)])
def test_a_weight_beyond_all_numbers_is_an_outlier(outliers: str, expected: float) -> None:
    config = dataclasses.replace(
        LossConfig(),
        sampler_correction="sequence",
        sampler_outliers=outliers,  # type: ignore[arg-type]
    )
    found = correction(jnp.zeros((1, 2)), jnp.full((1, 2), -900.0), jnp.ones((1, 2), bool), config)
    np.testing.assert_array_equal(found.weights, [[expected, expected]])


def test_differences_are_of_the_tokens_drawn() -> None:
    found = difference(jnp.asarray(POLICY), jnp.asarray(SAMPLER), jnp.asarray(MASK))
    # log 2, log 2, 0; log 3, 0
    assert float(found.total) == pytest.approx(2 * math.log(2) + math.log(3), rel=1e-6)
    assert float(found.largest) == pytest.approx(math.log(3), rel=1e-6)
    assert float(found.kl) == pytest.approx(-math.log(3), rel=1e-6)  # -log 2 + log 2 + 0; -log 3


# All completions of two tokens out of three, the chances of the second being those behind the first.
FIRST, SECOND = np.asarray([0.6, 0.3, 0.1]), np.asarray([[0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])
ALL = np.asarray(list(itertools.product(range(3), range(3))))


def log_probs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of every completion, token by token."""
    with np.errstate(divide="ignore"):
        found: np.ndarray = np.log(np.stack([first[ALL[:, 0]], second[ALL[:, 0], ALL[:, 1]]], axis=1))
    return found


def mean(sampler: np.ndarray, values: np.ndarray, kind: str) -> float:
    """What `values` [completions, tokens] come to on average, weighed and drawn from `sampler`."""
    config = LossConfig(sampler_correction=kind, sampler_cap=2.0 if kind == "none" else 1e6)  # type: ignore[arg-type]
    drawn = np.isfinite(sampler).all(axis=1)
    policy = log_probs(FIRST, SECOND)[drawn]
    weights = correction(jnp.asarray(policy), jnp.asarray(sampler[drawn]), jnp.ones_like(policy, bool), config).weights
    return float((np.exp(sampler[drawn].sum(axis=1)) * (np.asarray(weights) * values[drawn]).sum(axis=1)).sum())


def test_weighed_by_completions_the_mean_is_the_policys() -> None:
    values = np.random.default_rng(0).normal(size=(9, 2))
    expected = (np.exp(log_probs(FIRST, SECOND).sum(axis=1)) * values.sum(axis=1)).sum()
    flat = log_probs(np.full(3, 1 / 3), np.full((3, 3), 1 / 3))
    assert mean(flat, values, "sequence") == pytest.approx(expected, rel=1e-5)
    assert mean(flat, values, "none") != pytest.approx(expected, rel=0.1)


def test_what_the_sampler_leaves_out_no_weight_brings_back() -> None:
    """A sampler that draws the likelier two of three: the mean is over the completions that it can draw."""
    values = np.random.default_rng(1).normal(size=(9, 2))
    cut_first, cut_second = FIRST * [1, 1, 0], SECOND * (SECOND.min(axis=1, keepdims=True) < SECOND)
    cut = log_probs(cut_first / cut_first.sum(), cut_second / cut_second.sum(axis=1, keepdims=True))
    there = np.isfinite(cut).all(axis=1)
    expected = (np.exp(log_probs(FIRST, SECOND).sum(axis=1)) * values.sum(axis=1))[there].sum()
    assert mean(cut, values, "sequence") == pytest.approx(expected, rel=1e-5)
    # Of such a sampler k1 has the mean KL(sampler || policy) = - log of what it leaves; k3 would not.
    policy = np.log(FIRST)
    with np.errstate(divide="ignore"):
        sampler = np.log(cut_first / cut_first.sum())
    one = jnp.ones((1, 1), bool)
    found = [difference(jnp.asarray([[policy[token]]]), jnp.asarray([[sampler[token]]]), one).kl for token in (0, 1)]
    assert float(np.dot(np.exp(sampler[:2]), np.asarray(found))) == pytest.approx(-math.log(0.9), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["loss.sampler_correction=token", "loss.sampler_cap=0.5"],
            r"loss\.sampler_cap: expected a finite number >= 1",
        ),
        (["loss.sampler_correction=token", "loss.sampler_cap=inf"], r"loss\.sampler_cap"),
        (["loss.sampler_cap=3.0"], r'loss\.sampler_cap: expected 2\.0 with loss\.sampler_correction = "none"'),
        (["loss.sampler_outliers=mask"], r"loss\.sampler_outliers"),
        (["engine=easydel", "loss.sampler_correction=token"], r'loss\.sampler_correction: .*engine = "easydel"'),
    ],
)
def test_what_would_be_ignored_is_refused(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configs.load(None, settings)


def lines(*settings: str, rows: int = 100) -> tuple[str, ...]:
    return notices(configs.load(None, list(settings)), rows)


def test_what_the_sampler_leaves_out_is_told_where_nothing_weighs_it() -> None:
    assert notices(RunConfig(), 100) == ()
    (line,) = lines("rollout.top_k=50", "rollout.top_p=0.9")
    assert line.startswith("rollout.top_k = 50, rollout.top_p = 0.9: tokens that it leaves out are never sampled")
    assert "loss.sampler_correction" in line
    assert lines("rollout.min_p=0.1", "loss.sampler_correction=token") == ()
    (line,) = lines("rollout.top_k=50", "engine=easydel")
    assert "sampler_correction" not in line  # which it does not have


def test_rounds_that_the_data_has_no_rows_for_are_told() -> None:
    assert lines("rollout.rounds=4", "train.batch_size=8", rows=32) == ()
    (line,) = lines("rollout.rounds=4", "train.batch_size=8", rows=31)
    assert "31 rows in batches of 8 are sampled 3 times at most" in line
    (line,) = lines("rollout.rounds=2", "train.batch_size=8", rows=9)
    assert "sampled once at most" in line
