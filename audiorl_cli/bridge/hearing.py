"""Whether a model hears: how likely each reference is under its own audio, under silence, under another row's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Verdict = Literal["hears", "not yet", "deaf"]

RESIDUE: Final = 1e-5  # nats; two runs of one program on inputs of one shape differ by less, whatever the audio
MARGIN: Final = 0.1  # nats a token; by luck the built-in random model has 0.07 on 4 rows, a model that hears over 1
SHARE: Final = 0.75  # of the rows; more than so many are won by chance in one draw of sixteen or fewer


@dataclass(frozen=True)
class RowHearing:
    """A row: the log-prob of its reference, whose end counts among its `tokens`, in nats a token.

    `own`: under its own audio; `silence`: as many frames of digital silence; `another`: the audio of row `other`.
    `change`: the most that the log-prob of any one token differs between own audio and silence, in nats.
    """

    id: str
    other: str
    tokens: int
    own: float
    silence: float
    another: float
    change: float


@dataclass(frozen=True)
class Gain:
    """What its own audio is worth: `rows` whose reference it makes more likely, by `nats` a token on average."""

    rows: int
    nats: float

    def decided(self, rows: int) -> bool:
        """Whether it is more than luck among so many `rows`."""
        return self.nats >= MARGIN and self.rows > SHARE * rows


@dataclass(frozen=True)
class Hearing:
    """The verdict (see `judged`), and what it rests on."""

    verdict: Verdict
    over_silence: Gain
    over_another: Gain
    rows: tuple[RowHearing, ...]


def judged(rows: Sequence[RowHearing]) -> Hearing:
    """The verdict on `rows`.

    "deaf": no token of any reference is more or less likely for the audio than for silence, by RESIDUE. No weights that
    training gives do that: the audio is lost on its way to the logits. (Another row's audio would not show it: it also
    moves the tokens behind it.)
    "hears": against silence and against another's audio alike, its own makes the reference more likely in more than
    SHARE of the rows, and by MARGIN a token on average. Another's is what tells words from the mere sound of a voice.
    "not yet": audio reaches the logits and does not, or not decidedly, speak for the reference. A random model is so,
    and rightly: this is no fault.
    """
    over_silence = _gain([row.own - row.silence for row in rows])
    over_another = _gain([row.own - row.another for row in rows])
    verdict: Verdict = "not yet"
    if max(row.change for row in rows) <= RESIDUE:
        verdict = "deaf"
    elif over_silence.decided(len(rows)) and over_another.decided(len(rows)):
        verdict = "hears"
    return Hearing(verdict, over_silence, over_another, tuple(rows))


def _gain(differences: Sequence[float]) -> Gain:
    return Gain(sum(difference > 0 for difference in differences), float(np.mean(differences)))
