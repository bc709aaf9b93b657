"""What the two sides of a split share and should not: audio, speakers, texts."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from audiorl_cli.data.shards import Row
from audiorl_cli.data.store import Place
from audiorl_cli.data.verify import Verification, verify
from audiorl_cli.text import normaliser

_EXAMPLES: Final = 3  # of each kind
_DIGEST_BYTES: Final = 16
_basic: Final = normaliser("basic")


@dataclass(frozen=True)
class Example:
    """The ids of two rows that share `what`: a digest of audio, a speaker, or a text."""

    what: str
    train: str
    test: str


@dataclass(frozen=True)
class Overlap:
    """Things of one kind that stand on both sides: how many, and in how many rows of the test side.

    `unknown`: rows of the test side without such a thing, of which nothing can be said. `first`: a few.
    """

    shared: int
    rows: int
    unknown: int
    first: tuple[Example, ...]


@dataclass(frozen=True)
class Leakage:
    """Two sides of a split and what they share. `leaks`: the kinds of which they may share nothing, and do."""

    train: Verification
    test: Verification
    audio: Overlap
    speaker: Overlap
    text: Overlap
    leaks: tuple[str, ...]


@dataclass
class _Side:
    """The things of one kind on one side: of each the first row that has it, and how many there are."""

    first: dict[str, str] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, id: str) -> None:
        self.first.setdefault(what, id)
        self.rows[what] += 1


def leakage(
    train: Place,
    test: Place,
    *,
    strict: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Leakage:
    """Verify both folders and compare them. Audio and speakers must be apart, with `strict` texts too.

    Audio is the same where the same samples at 16 kHz were heard: from whatever file, in whatever window. A cut, a
    gain or lossy coding makes another. Speakers are compared as written, texts as the normaliser `basic` leaves them.
    Raises DataError for a folder that is not as prep leaves it.
    """
    kinds: dict[str, Callable[[Row], str]] = {
        "audio": audio_digest,
        "speaker": lambda row: row.speaker,
        "text": lambda row: _basic(row.text),
    }

    def read(folder: Place) -> tuple[Verification, dict[str, _Side]]:
        side = {kind: _Side() for kind in kinds}

        def on_row(row: Row) -> None:
            for kind, what in kinds.items():
                side[kind].add(what(row), row.id)

        return verify(folder, on_progress, on_row), side

    (one, trained), (other, tested) = read(train), read(test)
    overlaps = {kind: _overlap(trained[kind], tested[kind]) for kind in kinds}
    leaks = tuple(kind for kind in kinds if overlaps[kind].shared and (strict or kind != "text"))
    return Leakage(one, other, **overlaps, leaks=leaks)


def _overlap(train: _Side, test: _Side) -> Overlap:
    both = [what for what in test.first if what and what in train.first]
    first = tuple(Example(what, train.first[what], test.first[what]) for what in both[:_EXAMPLES])
    return Overlap(len(both), sum(test.rows[what] for what in both), test.rows[""], first)


def audio_digest(row: Row) -> str:
    """A digest of what was heard; "" for digital silence, which is the same everywhere."""
    # The last two frames may reach beyond the audio, where the window decides what they see. (What they see decides
    # all others only where the loudest moment of a clip that fills its window is its last.)
    heard = row.features[:, : max(1, row.num_frames - 2)].astype(np.float16)  # of either dtype the same
    silent = heard.min() == heard.max()
    return "" if silent else hashlib.blake2b(heard.tobytes(), digest_size=_DIGEST_BYTES).hexdigest()
