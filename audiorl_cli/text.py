"""Named, versioned text normalisers. Two figures are comparable only where their normalisers' digests are equal.

A normaliser decides what counts as an error before any word is counted. Its digest covers its name, its version and
the rules below, and goes into every run config and report.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from audiorl_cli.errors import ConfigError

# What people and keyboards write for an apostrophe. Replaced before NFKC, which would turn the acute accent
# into a space and a combining mark.
_APOSTROPHES: Final = "\u2018\u2019\u02bc\u00b4\u0060\uff07"
# Joiners change how letters are read in Persian and the Indic scripts: the only invisible characters kept.
_JOINERS: Final = "\u200c\u200d"
_WORD_BREAKS: Final = "\u200b"  # the zero width space stands between words in Khmer, Thai and Lao
# First letters of Unicode general categories that become a space: punctuation, symbols, separators. Marks stay:
# in most scripts of South Asia they are the vowels.
_SPACED: Final = "PSZ"
_OUTER_APOSTROPHE: Final = re.compile(r"(?<![^\s'])'|'(?![^\s'])")


@dataclass(frozen=True)
class Normaliser:
    """A function of one text, with what identifies it: `rules` are in the digest, so a changed rule shows."""

    name: str
    version: int
    rules: tuple[str, ...]
    function: Callable[[str], str]

    @property
    def digest(self) -> str:
        """The sha256 (hex) over name, version and rules."""
        identity = json.dumps([self.name, self.version, self.rules])
        return hashlib.sha256(identity.encode()).hexdigest()

    def __call__(self, text: str) -> str:
        """The text as it is compared."""
        return self.function(text)


def normaliser(name: str) -> Normaliser:
    """The normaliser called `name`. Raises ConfigError, naming those there are, for any other name.

    `none` strips surrounding whitespace and changes nothing else.
    `basic` serves any script: NFKC, lower case, punctuation and symbols to spaces except an apostrophe inside a word
    (written in any of the usual ways), invisible characters dropped, whitespace collapsed. Letters keep their accents,
    and numbers are not read: "3.5" becomes "3 5".
    """
    if name not in NORMALISERS:
        raise ConfigError(
            "normaliser", expected=f"one of {', '.join(NORMALISERS)}", got=repr(name), fix="Name one of these."
        )
    return NORMALISERS[name]


class _Characters(dict[int, str]):
    """What `basic` makes of each code point, worked out when first met; for str.translate."""

    def __missing__(self, point: int) -> str:
        character = chr(point)
        category = unicodedata.category(character)
        if character == "'" or character in _JOINERS:
            kept = character
        elif character in _APOSTROPHES:
            kept = "'"
        elif character in _WORD_BREAKS or category[0] in _SPACED or category == "Cc":
            kept = " "
        else:
            kept = "" if category == "Cf" else character
        self[point] = kept
        return kept


_characters: Final = _Characters()


def _basic(text: str) -> str:
    text = unicodedata.normalize("NFKC", text.translate(_characters))
    # Lower-casing can decompose, and NFKC can bring punctuation out of ligatures and enclosed letters.
    text = unicodedata.normalize("NFKC", text.lower()).translate(_characters)
    return " ".join(_OUTER_APOSTROPHE.sub(" ", text).split())


NORMALISERS: Final[dict[str, Normaliser]] = {
    known.name: known
    for known in (
        Normaliser("none", 1, ("strip",), str.strip),
        Normaliser(
            "basic",
            1,
            (f"'={_APOSTROPHES}", f"keep={_JOINERS}", f"space={_WORD_BREAKS}", f"space={_SPACED},Cc", "NFKC", "lower"),
            _basic,
        ),
    )
}
