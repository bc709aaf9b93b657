"""What a person who watched the curves would worry about: each suspicion is one rule over the last steps of a run.

A rule compares the mean over the last `WINDOW` steps with that over the first ones, or over those just before. None
changes a run: whoever is told of one looks at `samples.jsonl`, and decides.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

WINDOW: Final = 20
"""Steps that are looked at together: one step's batch says little."""

Means = Callable[[str], float | None]


@dataclass(frozen=True)
class Suspicion:
    """What is suspected at `step`, and why: `told` is one sentence for people."""

    step: int
    kind: str
    told: str


@dataclass(frozen=True)
class _Rule:
    """`holds` gets the means of the first, the previous and the last window, by name; None where a run tells none."""

    kind: str
    told: str
    holds: Callable[[Means, Means, Means], bool]


def _rose(first: float | None, last: float | None, *, by: float, times: float) -> bool:
    return first is not None and last is not None and last - first > by and last > times * first


def _fell(first: float | None, last: float | None, *, to: float) -> bool:
    return first is not None and last is not None and last < to * first


RULES: Final = (
    _Rule(
        "length collapse",
        "completions are less than half as long as they were at first: a reward may be paid for saying little",
        lambda first, _, last: _fell(first("completion_tokens_mean"), last("completion_tokens_mean"), to=0.5),
    ),
    _Rule(
        "growing deletions",
        "twice as many words are left out as at first: the model may be learning to skip what is hard",
        lambda first, _, last: _rose(first("sample_deletions"), last("sample_deletions"), by=0.02, times=2),
    ),
    _Rule(
        "endless repetition",
        "many more completions than at first run into the token limit: the model may be going in circles",
        lambda first, _, last: _rose(first("truncated_share"), last("truncated_share"), by=0.2, times=1),
    ),
    _Rule(
        "KL runaway",
        "the distance to the reference model has more than tripled within forty steps, and is above 1 nat a token: "
        "the policy may be leaving what it knew; a lower learning rate or a higher loss.beta holds it",
        lambda _, previous, last: _rose(previous("kl"), last("kl"), by=0, times=3) and (last("kl") or 0) > 1,
    ),
    _Rule(
        "entropy collapse",
        "the model has become ten times as sure as it was at first: groups will soon be all alike",
        lambda first, _, last: _fell(first("entropy"), last("entropy"), to=0.1),
    ),
    _Rule(
        "nothing to learn",
        "nine groups in ten have no spread: take harder rows (audiorl forecast --write-subset), a larger group, a "
        "higher temperature, or rollout.rounds",
        lambda _, __, last: (last("zero_spread_share") or 0) > 0.9,
    ),
)


class Tripwires:
    """The rules over a run's steps, as they come. `seen`: the steps before these, of a run that is taken up again.

    A suspicion is told when it arises, and again only after it was gone for a step.
    """

    def __init__(self, seen: Iterable[Mapping[str, Any]] = ()) -> None:
        self._first: list[Mapping[str, Any]] = []
        self._last: deque[Mapping[str, Any]] = deque(maxlen=2 * WINDOW)
        self._held: frozenset[str] = frozenset()
        for metrics in seen:
            self.check(metrics)

    def check(self, metrics: Mapping[str, Any]) -> list[Suspicion]:
        """What the numbers of one more step make a person suspect. Nothing before the first two windows are full."""
        if len(self._first) < WINDOW:
            self._first.append(metrics)
        self._last.append(metrics)
        if len(self._last) < 2 * WINDOW:
            return []
        latest = list(self._last)
        means = [_means(steps) for steps in (self._first, latest[:WINDOW], latest[WINDOW:])]
        holds = [rule for rule in RULES if rule.holds(*means)]
        new = [Suspicion(metrics["step"], rule.kind, rule.told) for rule in holds if rule.kind not in self._held]
        self._held = frozenset(rule.kind for rule in holds)
        return new


def _means(steps: list[Mapping[str, Any]]) -> Means:
    def mean(name: str) -> float | None:
        """Of the steps that tell of it."""
        told = [step[name] for step in steps if step.get(name) is not None]
        return sum(told) / len(told) if told else None

    return mean
