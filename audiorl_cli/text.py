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
_APOSTROPHES: Final = "\u2018\u2019\u201b\u2032\u02bb\u02bc\u00b4\u0060\uff07\u05f3\u055a"
_JOINERS: Final = "\u200c\u200d"
# Joiners are spelling in few places; everywhere else they choose a picture, as in an emoji of several people. Between
# letters of cursive scripts the non-joiner parts a word (Persian); beside a virama either one decides how a cluster is
# written and read in the scripts of India. Close to Unicode Standard Annex 31, contexts A1, A2 and B.
_CURSIVE: Final = r"[\p{scx=Arab}\p{scx=Syrc}\p{scx=Mong}\p{scx=Nkoo}\p{scx=Adlm}\p{scx=Rohg}]"
_JOINER: Final = regex.compile(
    rf"((?<={_CURSIVE}\p{{M}}*)\u200C(?=[{_JOINERS}]*{_CURSIVE})|(?<=\p{{ccc=9}})\u200C(?=\p{{L}})"
    rf"|(?<=\p{{ccc=9}})\u200D|(?<=\p{{L}})[{_JOINERS}](?=\p{{ccc=9}}))[{_JOINERS}]*|[{_JOINERS}]"
)
# The zero width space stands between words in Khmer, Thai and Lao; the fillers of Hangul are seen as blanks.
_WORD_BREAKS: Final = "\u200b\u3164\uffa0"
# First letters of Unicode general categories that become a space: punctuation, symbols, separators. Marks stay:
# in most scripts of South Asia they are the vowels.
_SPACED: Final = "PSZ"
# Symbols that NFKC would write as letters, and nobody says.
_SILENT: Final = "\u2122\u2120"
# What is not seen, or chooses a picture of the character before it (variation selectors, a keycap), or only stretches a
# word to fill its line (the kashida of Arabic and N'Ko).
_PICTURE: Final = regex.compile(r"\p{Default_Ignorable_Code_Point}|\p{Me}|[\u0640\u07FA]")
_OUTER_APOSTROPHE: Final = re.compile(r"(?<![^\s'])'|'(?![^\s'])")
# Marks with no letter to stand on.
_BARE_MARKS: Final = regex.compile(r"(?<![^\s'])\p{M}+")
# What lower-casing leaves of the Turkish capital: its dot, on a letter that has one.
_DOTTED: Final = regex.compile(r"(?<=i\p{M}*)\u0307")
# Casefolding writes the sigma that ends a word as one within it.
_FINAL_SIGMA: Final = regex.compile(r"(?<=\p{L}\p{M}*)σ(?![\p{L}\p{M}\p{N}'])")
# What transcribers put in brackets is no speech: [laughter], <unk>, (inaudible).
_BRACKETED: Final = re.compile(r"[\[［【][^\]］】]*[\]］】]|[<＜][^>＞]*[>＞]|[(（][^)）]*[)）]")
# A character of the scripts that write no word, with its marks: Han, kana (the long vowel sign too), Hangul.
_CJK: Final = regex.compile(r"(?!\p{M})[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Hang}]\p{M}*")
_BESIDE_CJK: Final = regex.compile(rf" (?={_CJK.pattern})|(?<={_CJK.pattern}) ")


@dataclass(frozen=True)
class Normaliser:
    """A function of one text, with what identifies it: `rules` are in the digest, so a changed rule shows.

    `source`: what gives the digest of others' code that it runs, "" where there is none. `characters`: what makes of a
    normalised text the characters that CER counts.
    """

    name: str
    version: int
    rules: tuple[str, ...]
    function: Callable[[str], str]
    source: Callable[[], str] = str
    characters: Callable[[str], str] = str

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
    `basic` serves any script: NFKC, casefolding, punctuation and symbols to spaces except an apostrophe inside a word
    (written in any of the usual ways), invisible characters dropped but for joiners where they are spelling (Persian,
    the scripts of India), whitespace collapsed. Letters keep their accents, and numbers are not read: "3.5" becomes
    "3 5". What differs in case alone is equal: "STRASSE" and "Straße", "İstanbul" and "istanbul". The language is not
    known, so that "I" is "i", and the Turkish dotless "ı" is another letter.
    `english` reads numbers, writes contractions out and spells as Americans do, as the Open ASR leaderboard counts it,
    with mends (english.py says which).
    `cjk` is `basic` with every character of Han, kana and Hangul a word of its own, so that WER is the error rate in
    characters, of Latin in words (the mixed error rate). CER counts no space beside such a character, written or not:
    of these scripts it is that WER, and Latin words count by the letter. Scripts are not turned into one another.
    `multilingual` is what Whisper compares languages other than English by: `basic` without what stands in brackets,
    an apostrophe parting words as in "l homme". Whisper's own puts spaces for vowel signs as well, and so breaks the
    words of Hindi or Thai to pieces; here they stay. Nor does it fold "ß" or drop joiners.
    """
    if name not in NORMALISERS:
        raise ConfigError(
            "normaliser", expected=f"one of {', '.join(NORMALISERS)}", got=repr(name), fix="Name one of these."
        )
    return NORMALISERS[name]


class _Characters(dict[int, str]):
    """What `basic` makes of each code point, worked out when first met; for str.translate."""

    def __missing__(self, point: int) -> str:
        self[point] = kept = self._kept(chr(point))
        return kept

    def _kept(self, character: str) -> str:
        category, written = unicodedata.category(character), unicodedata.normalize("NFKC", character)
        if character in _APOSTROPHES:
            return "'"
        if character == "'" or character in _JOINERS:
            return character
        if character in _WORD_BREAKS or category == "Cc":
            return " "
        if category == "Cf" or _PICTURE.fullmatch(character):
            return ""
        if "\u2044" in written[1:]:  # a fraction is no more digits of the number before it: "3½" is "3 1 2"
            return " " + written.replace("\u2044", " ") + " "
        if written[0] == " " and (category == "Lo" or character in "\u309b\u309c"):
            return written[1:]  # marks of Arabic and kana as they are written alone, which NFKC has stand on a space
        if category[0] in _SPACED:
            # Units, numbers and words in one character: "㎏" is "kg", "㈱" is "株".
            said = character not in _SILENT and any(map(str.isalnum, written))
            return written.translate(self) if said else " "
        return character


_characters: Final = _Characters()


def _basic(text: str) -> str:
    # Decomposed first: casefolding does not see every capital in composed letters.
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFC", text).translate(_characters)).casefold()
    # NFKC and casefolding can bring punctuation out of ligatures and enclosed letters.
    text = unicodedata.normalize("NFKC", text).translate(_characters)
    for pattern, instead in ((_DOTTED, ""), (_JOINER, r"\1"), (_BARE_MARKS, ""), (_FINAL_SIGMA, "ς")):
        text = pattern.sub(instead, text)
    text = unicodedata.normalize("NFC", text)
    return " ".join(_OUTER_APOSTROPHE.sub(" ", text).split())


def _cjk(text: str) -> str:
    return " ".join(_CJK.sub(r" \g<0> ", _basic(text)).split())


def _without_spaces_of_cjk(text: str) -> str:
    return str(_BESIDE_CJK.sub("", text))


def _multilingual(text: str) -> str:
    return " ".join(_basic(_BRACKETED.sub("", text)).replace("'", " ").split())


_BASIC_RULES: Final = (
    f"'={_APOSTROPHES}",
    f"keep={_JOINER.pattern}",
    f"space={_WORD_BREAKS}",
    f"space={_SPACED},Cc",
    f"space={_SILENT}",
    f"drop=Cf|{_PICTURE.pattern}",
    "space=fraction",
    "mark=space mark",
    "NFKC",
    "casefold",
    f"drop={_DOTTED.pattern}",
    f"drop={_BARE_MARKS.pattern}",
    f"ς={_FINAL_SIGMA.pattern}",
)

NORMALISERS: Final[dict[str, Normaliser]] = {
    known.name: known
    for known in (
        Normaliser("none", 1, ("strip",), str.strip),
        Normaliser("basic", 3, _BASIC_RULES, _basic),
        Normaliser(
            "english",
            3,
            english.RULES,
            english.normalise,
            english.source_digest,
        ),
        Normaliser(
            "cjk",
            2,
            (*_BASIC_RULES, f"word={_CJK.pattern}", f"characters={_BESIDE_CJK.pattern}"),
            _cjk,
            characters=_without_spaces_of_cjk,
        ),
        Normaliser("multilingual", 2, (*_BASIC_RULES, f"drop={_BRACKETED.pattern}", "space='"), _multilingual),
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
