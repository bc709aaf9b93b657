"""What a person who watched the curves would worry about: each suspicion is one rule over the last steps of a run.

A rule compares the mean over the last `WINDOW` steps with that over the first ones, or over those just before; the one
of the KL looks at how long its last doublings took, too. None changes a run: whoever is told of one looks at
`samples.jsonl`, and decides.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any, Final

WINDOW: Final = 20
"""Steps that are looked at together: one step's batch says little."""

SLOW_DOUBLING: Final = 12
"""Steps from which on a doubling is slow: with faster ones the mean of a window is three times that of the one before.
"""


class Window:
    """The means of consecutive steps by name, None where no step has the number; and, for the last one, `doublings`."""

    def __init__(self, steps: Sequence[Mapping[str, Any]], past: Sequence[float] = (), end: int = 0) -> None:
        """`past`: medians of the KL over the consecutive windows of the run; `end`: steps until the end of this one."""
        self._steps, self._past, self._end = steps, past, end

    def __call__(self, name: str) -> float | None:
        """The mean over those steps that have the number."""
        values = _values(self._steps, name)
        return fmean(values) if values else None

    def doublings(self) -> list[float]:
        """How many steps each of the last three doublings of the KL took, the last first; fewer where it has not
        doubled so often. Medians: one batch in which a token has become next to impossible is no climb.
        """
        now = median(_values(self._steps, "kl") or [0.0])
        if now <= 0:
            return []
        points = [(WINDOW * (number + 0.5), level) for number, level in enumerate(self._past)]
        # A window in which no group taught has no KL.
        points = [(place, level) for place, level in points if level > 0 and place + WINDOW / 2 <= self._end - WINDOW]
        points.append((self._end - WINDOW / 2, now))
        times = [points[-1][0]]
        for level in (now / 2, now / 4, now / 8):
            below = next((number for number in reversed(range(len(points))) if points[number][1] <= level), None)
            if below is None:
                break
            (place, low), (later, high) = points[below], points[below + 1]
            times.append(place + (later - place) * math.log(level / low) / math.log(high / low))
        return [late - early for late, early in pairwise(times)]


@dataclass(frozen=True)
class Suspicion:
    """What is suspected at `step`, and why: `told` is one sentence for people."""

    step: int
    kind: str
    told: str


@dataclass(frozen=True)
class _Rule:
    """`holds` gets the first, the previous and the last window of a run."""

    kind: str
    told: str
    holds: Callable[[Window, Window, Window], bool]


def _rose(first: float | None, last: float | None, *, by: float, times: float) -> bool:
    return first is not None and last is not None and last - first > by and last > times * first


def _fell(first: float | None, last: float | None, *, to: float) -> bool:
    return first is not None and last is not None and last < to * first


def _more_errors(first: Window, last: Window, kind: str, times: float = 1) -> bool:
    """Whether there are more errors of this kind than at first, and so many `times`, unless WER fell by as much and
    they are the lesser part of it: a model that began with silence inserted nothing, and one that began with noise
    deleted nothing.
    """
    before, after = first(kind), last(kind)
    if not _rose(before, after, by=_FEW, times=times):
        return False
    bettered = _rose(last("sample_wer"), first("sample_wer"), by=(after or 0.0) - (before or 0.0), times=1)
    return not (bettered and _fell(last("sample_wer"), after, to=0.5))


def _says_less(first: Window, last: Window) -> bool:
    """Whether completions are half as long as at first, and words are lost by it. Without, it was boilerplate."""
    if not _fell(first("completion_tokens_mean"), last("completion_tokens_mean"), to=0.5):
        return False
    known = last("sample_deletions") is not None and last("sample_wer") is not None
    worse = _rose(first("sample_wer"), last("sample_wer"), by=_FEW, times=1)
    return not known or worse or _more_errors(first, last, "sample_deletions")


def _says_more(first: Window, last: Window) -> bool:
    """Whether completions are half as long again as at first, and no better for it."""
    if not _rose(first("completion_tokens_mean"), last("completion_tokens_mean"), by=0, times=1.5):
        return False
    before, after = first("sample_wer"), last("sample_wer")
    better = before is not None and after is not None and before - after > _FEW
    return not better or _more_errors(first, last, "sample_insertions")


def _climbs(last: Window) -> bool:
    """Whether the KL has doubled three times and did not slow down: each doubling took hardly more steps than the one
    before. Where it grows by a constant amount a doubling takes twice as many, and more where it levels off. The former
    is no alarm until the KL is large.
    """
    level, took = last("kl") or 0.0, last.doublings()
    if len(took) < 3 or took[0] < SLOW_DOUBLING:
        return False
    longer = 2.2 if level > _KL_LARGE else 1.25
    return all(late <= longer * early for late, early in pairwise(took))


_FEW: Final = 0.02  # of the words, or of WER: less is chance
_KL_HIGH: Final = 1.0  # nats a token
_KL_LARGE: Final = 2.0

RULES: Final = (
    _Rule(
        "length collapse",
        "completions are less than half as long as they were at first, and words are missing: a reward may be paid for "
        "saying little",
        lambda first, _, last: _says_less(first, last),
    ),
    _Rule(
        "growing length",
        "completions are half as long again as they were at first, and no better for it: the model may be learning to "
        "add what nobody said; the rewards insertion and boilerplate, and loss.overlong_buffer, are against that",
        lambda first, _, last: _says_more(first, last),
    ),
    _Rule(
        "growing deletions",
        "twice as many words are left out as at first: the model may be learning to skip what is hard",
        lambda first, _, last: _more_errors(first, last, "sample_deletions", times=2),
    ),
    _Rule(
        "growing insertions",
        "twice as many words are put in that nobody said as at first: the model may be learning to guess, or to repeat",
        lambda first, _, last: _more_errors(first, last, "sample_insertions", times=2),
    ),
    _Rule(
        "endless repetition",
        "many more completions than at first run into the token limit: the model may be going in circles",
        lambda first, _, last: _rose(first("truncated_share"), last("truncated_share"), by=0.2, times=1),
    ),
    _Rule(
        "KL runaway",
        "the distance to the reference model is above 1 nat a token, and has more than tripled within forty steps or "
        "doubles again and again without slowing down: the policy may be leaving what it knew; a lower learning rate "
        "or a higher loss.beta holds it",
        lambda _, previous, last: (
            (last("kl") or 0.0) > _KL_HIGH and (_rose(previous("kl"), last("kl"), by=0, times=3) or _climbs(last))
        ),
    ),
    _Rule(
        "entropy collapse",
        "the model has become ten times as sure as it was at first: groups will soon be all alike",
        lambda first, _, last: _fell(first("entropy"), last("entropy"), to=0.1),
    ),
    _Rule(
        "sampler mismatch",
        "the log-probs of sampler and update are twice as far apart as at first: the gradient is less and less that of "
        'what was sampled; loss.sampler_correction weighs it, and train.dtype = "float32" rounds less',
        lambda first, _, last: any(
            _rose(first(f"sampler_{name}"), last(f"sampler_{name}"), by=by, times=2)
            for name, by in (("difference_mean", 0.01), ("difference_max", 1.0), ("kl", 0.01), ("clip_share", 0.01))
        ),
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
        self._kl: list[float] = []
        self._steps = 0
        for metrics in seen:
            self.check(metrics)

    def check(self, metrics: Mapping[str, Any]) -> list[Suspicion]:
        """What the numbers of one more step make a person suspect. Nothing before the first two windows are full."""
        self._steps += 1
        if len(self._first) < WINDOW:
            self._first.append(metrics)
        self._last.append(metrics)
        latest = list(self._last)
        if self._steps % WINDOW == 0:
            self._kl.append(median(_values(latest[-WINDOW:], "kl") or [0.0]))
        if len(latest) < 2 * WINDOW:
            return []
        windows = Window(self._first), Window(latest[:WINDOW]), Window(latest[WINDOW:], self._kl, self._steps)
        holds = [rule for rule in RULES if rule.holds(*windows)]
        new = [Suspicion(metrics["step"], rule.kind, rule.told) for rule in holds if rule.kind not in self._held]
        self._held = frozenset(rule.kind for rule in holds)
        return new


def _values(steps: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [step[name] for step in steps if step.get(name) is not None]
