"""Tripwires: each rule trips on what it is for, once, and on nothing that a healthy run does."""

from typing import Any

import pytest

from audiorl_cli.rl.tripwires import RULES, WINDOW, Tripwires

HEALTHY: dict[str, Any] = {
    "completion_tokens_mean": 20.0,
    "sample_deletions": 0.03,
    "truncated_share": 0.05,
    "kl": 0.2,
    "entropy": 1.0,
    "zero_spread_share": 0.3,
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
        ({"completion_tokens_mean": 5.0}, "length collapse", 54),
        # (20 - n) * 0.03 + n * 0.13 > 20 * 0.06: n = 7.
        ({"sample_deletions": 0.13}, "growing deletions", 47),
        # (20 - n) * 0.05 + n * 0.55 > 20 * 0.25: n = 9.
        ({"truncated_share": 0.55}, "endless repetition", 49),
        # (20 - n) * 0.2 + n * 3.0 > 20: n = 6, where the window before it still has a mean of 0.2.
        ({"kl": 3.0}, "KL runaway", 46),
        ({"entropy": 0.0}, "entropy collapse", 59),
        ({"zero_spread_share": 1.0}, "nothing to learn", 58),
    ],
)
def test_each_rule_trips_once_where_its_mean_does(later: dict[str, Any], kind: str, step: int) -> None:
    assert _kinds(later) == [(step, kind)]


def test_every_rule_is_among_those() -> None:
    assert [rule.kind for rule in RULES] == [
        "length collapse",
        "growing deletions",
        "endless repetition",
        "KL runaway",
        "entropy collapse",
        "nothing to learn",
    ]


def test_a_healthy_run_and_one_that_tells_little_trip_nothing() -> None:
    assert _kinds({"completion_tokens_mean": 15.0, "sample_deletions": 0.01, "kl": 0.5, "entropy": 0.4}) == []
    assert _kinds({"kl": None, "entropy": None, "sample_deletions": None}) == []


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
