"""Tripwires: each rule trips on what it is for, once, and on nothing that a healthy run does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from audiorl_cli.rl.tripwires import RULES, WINDOW, Tripwires

HEALTHY: dict[str, Any] = {
    "completion_tokens_mean": 20.0,
    "sample_wer": 0.15,
    "sample_deletions": 0.03,
    "sample_insertions": 0.01,
    "truncated_share": 0.05,
    "kl": 0.2,
    "entropy": 1.0,
    "zero_spread_share": 0.3,
    "sampler_difference_mean": 0.003,
    "sampler_difference_max": 0.1,
    "sampler_kl": 0.0,
}


def _kinds(later: dict[str, Any], steps: int = 2 * WINDOW) -> list[tuple[int, str]]:
    """What is suspected, and when, where a healthy run of 40 steps goes on for some with `later` numbers."""
    wires = Tripwires()
    log = [HEALTHY] * (2 * WINDOW) + [{**HEALTHY, **later}] * steps
    return [(one.step, one.kind) for number, step in enumerate(log, 1) for one in wires.check({"step": number, **step})]


@pytest.mark.parametrize(
    ("later", "kind", "step"),
    [
        # The mean of twenty steps falls below 10 tokens at the first step where (20 - n) * 20 + n * 5 < 200: n = 14.
        # That something is lost by it shows at once.
        ({"completion_tokens_mean": 5.0, "sample_wer": 0.75}, "length collapse", 54),
        # (20 - n) * 20 + n * 40 > 600: n = 11.
        ({"completion_tokens_mean": 40.0}, "growing length", 51),
        # (20 - n) * 0.03 + n * 0.13 > 20 * 0.06: n = 7.
        ({"sample_deletions": 0.13}, "growing deletions", 47),
        # (20 - n) * 0.01 + n * 0.109 > 20 * 0.03: n = 5.
        ({"sample_insertions": 0.109}, "growing insertions", 45),
        # (20 - n) * 0.05 + n * 0.55 > 20 * 0.25: n = 9.
        ({"truncated_share": 0.55}, "endless repetition", 49),
        # (20 - n) * 0.2 + n * 3.0 > 20: n = 6, where the window before it still has a mean of 0.2.
        ({"kl": 3.0}, "KL runaway", 46),
        ({"entropy": 0.0}, "entropy collapse", 59),
        # (20 - n) * 0.003 + n * 0.2 > 20 * 0.013: n = 2.
        ({"sampler_difference_mean": 0.2}, "sampler mismatch", 42),
        # (20 - n) * 0.1 + n * 4 > 20 * 1.1: n = 6.
        ({"sampler_difference_max": 4.0}, "sampler mismatch", 46),
        # n * 0.05 > 20 * 0.01: n = 5.
        ({"sampler_kl": 0.05}, "sampler mismatch", 45),
        ({"zero_spread_share": 1.0}, "nothing to learn", 58),
    ],
)
def test_each_rule_trips_once_where_its_mean_does(later: dict[str, Any], kind: str, step: int) -> None:
    assert _kinds(later) == [(step, kind)]


def test_every_rule_is_among_those() -> None:
    assert [rule.kind for rule in RULES] == [
        "length collapse",
        "growing length",
        "growing deletions",
        "growing insertions",
        "endless repetition",
        "KL runaway",
        "entropy collapse",
        "sampler mismatch",
        "nothing to learn",
    ]


def test_a_healthy_run_and_one_that_tells_little_trip_nothing() -> None:
    assert _kinds({"completion_tokens_mean": 15.0, "sample_deletions": 0.01, "kl": 0.5, "entropy": 0.4}) == []
    assert _kinds({"kl": None, "entropy": None, "sample_deletions": None}) == []
    assert _kinds(dict.fromkeys(HEALTHY)) == []


def _learning(first: dict[str, float], last: dict[str, float]) -> list[str]:
    """What is suspected of a run that goes in a straight line from the one to the other in 100 steps, and stays."""
    wires, told = Tripwires(), []
    for number in range(1, 201):
        done = min(number / 100, 1.0)
        step = {name: (1 - done) * first[name] + done * last[name] for name in first}
        told += [one.kind for one in wires.check({"step": number, **HEALTHY, **step})]
    return told


def _errors(tokens: float, wer: float, insertions: float, deletions: float) -> dict[str, float]:
    return {
        "completion_tokens_mean": tokens,
        "sample_wer": wer,
        "sample_insertions": insertions,
        "sample_deletions": deletions,
    }


@pytest.mark.parametrize(
    ("first", "last"),
    [
        # "The audio says: ..." is dropped, and was word errors, or was stripped before they were counted.
        (_errors(20, 0.6, 0.45, 0.03), _errors(8, 0.12, 0.01, 0.03)),
        (_errors(20, 0.15, 0.01, 0.03), _errors(8, 0.15, 0.01, 0.03)),
        (_errors(20, 0.15, 0.01, 0.03), _errors(8, 0.13, 0.01, 0.04)),
        # It began by saying next to nothing, or by babbling.
        (_errors(5, 0.9, 0.0, 0.8), _errors(20, 0.15, 0.03, 0.03)),
        (_errors(60, 1.5, 0.9, 0.005), _errors(25, 0.2, 0.02, 0.05)),
    ],
)
def test_a_model_that_gets_better_raises_nothing(first: dict[str, float], last: dict[str, float]) -> None:
    assert _learning(first, last) == []


@pytest.mark.parametrize(
    ("first", "last", "kinds"),
    [
        # Fewer errors, for what is hard is skipped; fewer errors, and most of those left are inventions.
        (_errors(20, 0.23, 0.01, 0.03), _errors(18, 0.15, 0.01, 0.1), ["growing deletions"]),
        (_errors(20, 0.4, 0.02, 0.03), _errors(22, 0.18, 0.12, 0.03), ["growing insertions"]),
        (_errors(20, 0.15, 0.01, 0.03), _errors(6, 0.7, 0.01, 0.65), ["growing deletions", "length collapse"]),
        (_errors(20, 0.15, 0.01, 0.03), _errors(50, 1.4, 1.3, 0.03), ["growing insertions", "growing length"]),
        # Talk around the transcript that is stripped before errors are counted.
        (_errors(20, 0.15, 0.01, 0.03), _errors(40, 0.15, 0.01, 0.03), ["growing length"]),
    ],
)
def test_a_model_that_gets_worse_raises_what_it_does(
    first: dict[str, float], last: dict[str, float], kinds: list[str]
) -> None:
    assert _learning(first, last) == kinds


def test_the_run_in_the_readme_raises_nothing() -> None:
    """The demo: what is told of six of its 240 steps, in straight lines between them, with noise."""
    at = [1, 12, 24, 216, 228, 240]
    told = {
        "reward_mean": [0.611, 0.618, 0.662, 0.938, 0.917, 0.912],
        "sample_wer": [0.4044, 0.4022, 0.367, 0.0651, 0.0959, 0.0911],
        "kl": [0.0, 0.1598, 0.1834, 0.4805, 0.5273, 0.3644],
        "zero_spread_share": [0.0, 0.0, 0.125, 0.375, 0.375, 0.3125],
        "completion_tokens_mean": [4.3, 3.9, 4.0, 4.0, 3.8, 4.1],
    }
    wires, random = Tripwires(), np.random.default_rng(0)
    for step in range(1, 241):
        noise = np.exp(0.2 * random.standard_normal(len(told)))
        numbers = {name: float(np.interp(step, at, values)) for name, values in told.items()}
        noisy = {name: value * factor for (name, value), factor in zip(numbers.items(), noise, strict=True)}
        errors = {f"sample_{kind}": noisy["sample_wer"] / 3 for kind in ("insertions", "deletions", "substitutions")}
        assert wires.check({"step": step, **noisy, **errors, "truncated_share": 0.0, "entropy": 0.5}) == []


def _of_kl(curve: Callable[[int], float], noise: float, steps: int = 400) -> list[tuple[int, str]]:
    wires, random, told = Tripwires(), np.random.default_rng(0), []
    for number in range(1, steps + 1):
        kl = curve(number) * np.exp(noise * random.standard_normal())
        told += [(one.step, one.kind) for one in wires.check({"step": number, **HEALTHY, "kl": kl})]
    return told


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("doubling", [15, 25, 40, 80])
def test_a_kl_that_doubles_and_doubles_is_seen_soon_after_it_is_above_1(doubling: int, noise: float) -> None:
    above = round(doubling * np.log2(1 / 0.01))
    told = _of_kl(lambda step: 0.01 * 2 ** (step / doubling), noise, above + 60)
    assert [kind for _, kind in told[:1]] == ["KL runaway"]
    assert above - 10 < told[0][0] < above + 25


def test_a_kl_that_is_told_of_now_and_then_is_seen_all_the_same() -> None:
    wires, told = Tripwires(), []
    for step in range(1, 400):
        kl = None if 150 <= step < 180 or step % 3 == 0 else 0.01 * 2 ** (step / 40)
        told += [one.kind for one in wires.check({"step": step, **HEALTHY, "kl": kl})]
    assert told == ["KL runaway"]
    # One of which nearly every batch has none, and one batch has much, is no climb but a jump.
    assert [kind for _, kind in _of_kl(lambda step: 60.0 if step == 100 else 0.0, 0.0)] == ["KL runaway"]


def test_a_kl_that_grows_in_a_line_is_seen_when_it_is_large() -> None:
    ((step, kind),) = _of_kl(lambda step: 0.01 * step, 0.0, 300)
    assert kind == "KL runaway"
    assert 200 < step < 220


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize(
    "curve",
    [
        lambda step: 0.5 * (1 - np.exp(-step / 50)),
        lambda step: 2.0 * (1 - np.exp(-step / 100)),
        lambda step: 1.0 / (1 + np.exp(-(step - 150) / 30)),
        lambda step: 0.05 * np.sqrt(step),
        lambda step: 1.5 * step / 400,
        lambda step: 0.8 * (step / 400) ** 2,
        lambda step: 1.5,
        lambda step: 0.75 + 0.25 * np.sin(step / 40),
        lambda step: 0.06 if step < 60 else 0.25 if step < 250 else 0.55,
        lambda step: 0.5 if step != 200 else 15.0,  # one batch
    ],
)
def test_a_kl_that_levels_off_raises_nothing(curve: Callable[[int], float], noise: float) -> None:
    assert _of_kl(curve, noise) == []


def test_what_is_gone_and_comes_back_is_told_again() -> None:
    wires, told = Tripwires(), []
    shares = [0.3] * 40 + [1.0] * 20 + [0.3] * 20 + [1.0] * 20
    for number, share in enumerate(shares, 1):
        told += wires.check({"step": number, "zero_spread_share": share})
    assert [one.step for one in told] == [58, 98]


def test_a_resumed_run_is_told_what_it_would_have_been() -> None:
    log = [{"step": number, **HEALTHY, "kl": 0.2 if number < 44 else 3.0} for number in range(1, 61)]
    wires = Tripwires(log[:45])
    assert [one.step for step in log[45:] for one in wires.check(step)] == [49]
    wires = Tripwires(log[:50])
    assert [one for step in log[50:] for one in wires.check(step)] == []
