"""Named, versioned text normalisers. Two figures are comparable only where their normalisers' digests are equal.

A normaliser decides what counts as an error before any word is counted. Its digest covers its name, its version, its
rules and the source of any code of others' that it runs, and goes into every run, sample and report.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import regex

from audiorl_cli import english
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
# Variation selectors choose a picture of a character, and what encloses one (a keycap) is a picture around it.
_PICTURE: Final = regex.compile(r"[\uFE00-\uFE0F\U000E0100-\U000E01EF]|\p{Me}")
_OUTER_APOSTROPHE: Final = re.compile(r"(?<![^\s'])'|'(?![^\s'])")
# What transcribers put in brackets is no speech: [laughter], <unk>, (inaudible).
_BRACKETED: Final = re.compile(r"\[[^\]]*\]|<[^>]*>|\([^)]*\)")
# A character of the scripts that write no word, with its marks: Han, kana (the long vowel sign too), Hangul.
_CJK: Final = regex.compile(r"[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Hang}]\p{M}*")


@dataclass(frozen=True)
class Normaliser:
    """A function of one text, with what identifies it: `rules` are in the digest, so a changed rule shows.

    `source`: what gives the digest of others' code that it runs, "" where there is none.
    """

    name: str
    version: int
    rules: tuple[str, ...]
    function: Callable[[str], str]
    source: Callable[[], str] = str

    @property
    def digest(self) -> str:
        """The sha256 (hex) over name, version, rules and the source of others' code."""
        identity = json.dumps([self.name, self.version, self.rules, *filter(None, [self.source()])])
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
    `english` reads numbers, writes contractions out and spells as Americans do, as the Open ASR leaderboard counts it,
    with mends (english.py says which).
    `cjk` is `basic` with every character of Han, kana and Hangul a word of its own, so that WER is the error rate in
    characters, of Latin in words; CER counts the spaces between them too. Scripts are not turned into one another.
    `multilingual` is what Whisper compares languages other than English by: `basic` without what stands in brackets,
    an apostrophe parting words as in "l homme". Whisper's own puts spaces for vowel signs as well, and so breaks the
    words of Hindi or Thai to pieces; here they stay.
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
            kept = "" if category == "Cf" or _PICTURE.fullmatch(character) else character
        self[point] = kept
        return kept


_characters: Final = _Characters()


def _basic(text: str) -> str:
    text = unicodedata.normalize("NFKC", text.translate(_characters))
    # Lower-casing can decompose, and NFKC can bring punctuation out of ligatures and enclosed letters.
    text = unicodedata.normalize("NFKC", text.lower()).translate(_characters)
    return " ".join(_OUTER_APOSTROPHE.sub(" ", text).split())


def _cjk(text: str) -> str:
    return " ".join(_CJK.sub(r" \g<0> ", _basic(text)).split())


def _multilingual(text: str) -> str:
    return " ".join(_basic(_BRACKETED.sub("", text)).replace("'", " ").split())


_BASIC_RULES: Final = (
    f"'={_APOSTROPHES}",
    f"keep={_JOINERS}",
    f"space={_WORD_BREAKS}",
    f"space={_SPACED},Cc",
    f"drop=Cf|{_PICTURE.pattern}",
    "NFKC",
    "lower",
)

NORMALISERS: Final[dict[str, Normaliser]] = {
    known.name: known
    for known in (
        Normaliser("none", 1, ("strip",), str.strip),
        Normaliser("basic", 2, _BASIC_RULES, _basic),
        Normaliser(
            "english",
            2,
            tuple(f"{pattern}={instead}" for pattern, instead in english.MENDS),
            english.normalise,
            english.source_digest,
        ),
        Normaliser("cjk", 1, (*_BASIC_RULES, f"word={_CJK.pattern}"), _cjk),
        Normaliser("multilingual", 1, (*_BASIC_RULES, f"drop={_BRACKETED.pattern}", "space='"), _multilingual),
    )
}


def without_boilerplate(text: str, patterns: Iterable[str], reference: str = "") -> str:
    """A completion as it was decoded, less what a model says around a transcript ("The audio says: ...").

    Every match of each of `patterns` (regular expressions, in any case) is taken out, but for those that match
    `reference` too: there they are what was said.
    """
    for pattern in patterns:
        if not re.search(pattern, reference, re.IGNORECASE):
            text = re.sub(pattern, "", text, flags=re.IGNORECASE)
    return text
