"""English as the Open ASR leaderboard compares it: Whisper's normaliser, as transformers has it, its faults mended.

Whisper's reads numbers, currency and ordinals ("twenty first" is "21st", "five dollars" "$5"), writes contractions out,
and drops fillers, accents, punctuation and what stands in brackets. `MENDS` puts right what it would misread, `AFTER`
what it makes. Its other readings stay, odd ones too ("John's" is "john is"): both sides get them.
`tests/english_pairs.tsv` has pairs of texts, most of them two right ways to write the same speech, with what Whisper's
makes of each and what this makes of them.

Digits are one word however they are grouped, as Whisper's has those that are spoken: "two five three", "2, 5, 3" and
"253" are "253", "ten thirty" and "10:30" are "1030". So two numbers side by side are one word too, on both sides.

Whisper's table of British spellings, some 1,700 words, comes from the package whisper-normalizer, whose own normaliser
is not used: it makes "because" of every "cause".
Source: Radford et al. 2022, https://arxiv.org/abs/2212.04356, appendix C; https://huggingface.co/spaces/hf-audio/open_asr_leaderboard
"""

import functools
import hashlib
import inspect
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Any, Final

_MULTIPLES: Final = {"k": "thousand", "mn?": "million", "bn?": "billion", "tn?": "trillion"}
_FRACTIONS: Final = {
    "½": ("1/2", "one half"),
    "¼": ("1/4", "one quarter"),
    "¾": ("3/4", "three quarters"),
    "⅓": ("1/3", "one third"),
    "⅔": ("2/3", "two thirds"),
}
# Units as they are written behind a number; one of them, and several. Single letters may be anything, and stay.
_UNITS: Final = {
    "kg": ("kilogram", "kilograms"),
    "mg": ("milligram", "milligrams"),
    "lbs?": ("pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "(?:km/h|kmh|kph)": ("kilometer per hour", "kilometers per hour"),
    "km": ("kilometer", "kilometers"),
    "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"),
    "ml": ("milliliter", "milliliters"),
    "ft": ("foot", "feet"),
    "mph": ("mile per hour", "miles per hour"),
    "hz": ("hertz", "hertz"),
    "khz": ("kilohertz", "kilohertz"),
    "mhz": ("megahertz", "megahertz"),
    "ghz": ("gigahertz", "gigahertz"),
    "kb": ("kilobyte", "kilobytes"),
    "mb": ("megabyte", "megabytes"),
    "gb": ("gigabyte", "gigabytes"),
    "tb": ("terabyte", "terabytes"),
    "hrs?": ("hour", "hours"),
    "mins?": ("minute", "minutes"),
    "secs?": ("second", "seconds"),
}
# What is written instead of what, in lower case, before Whisper's normaliser sees it.
MENDS: Final[tuple[tuple[str, str], ...]] = (
    ("[\u2018\u2019\u02bc\u00b4\u0060\uff07]", "'"),  # with any but the plain one, "it’s" became "it s"
    (r"\.{2,}|\u2026", " "),  # "wait...5" became "wait .5"
    (r"(?<=1)(?<!11)\s+st\b(?!\.)", "st"),  # "21 st" became "21 saint"
    (r"(?<=\d(?:st|nd|rd|th))\s+st\b\.?", " street"),  # a saint has a name after it
    (r"(?<=\w)\s+st\b\.?(?=\s*(?:[,;:!?]|$))", " street"),
    (r"(?<!\S)[-\u2212](?=\d)", "minus "),  # the sign was lost, the word was not
    (r"(?<!\S)\+(?=\d)", "plus "),
    (r"(?<=\d)\s*\+\s*(?=\d)", " plus "),
    (r"(?<=\d)\s*=\s*(?=\d)", " equals "),
    (r"&amp;|&", " and "),  # "salt & pepper" became "salt pepper"
    (r"(?:#|№\s?|\bno\.\s?)(?=\d)", "number "),
    (r"(?<![\d.])(\d{1,2})\.(\d\d)(?=\s*[ap]\.?\s?m\b)", r"\1 \2"),  # "10.30 am"
    (r"\((\d+)\)", r" \1 "),  # "(555) 123" is said whole
    (r"([$€£])\s+(?=\d)", r"\1"),
    (r"(?<=[$€£])\.(?=\d)", "0."),
    (r"(?<=\d)'s\b", "s"),  # "the 80's" became "the 80 is"
    (r"\bo'clock\b", "oclock"),  # "o" is zero: "three o'clock" became "30 clock", "O'Brien" "0 brien"
    (r"\bo'(?=[a-z]{2})", "o"),
    (r"\s'n'\s|(?<=\brock) n (?=roll\b)", " and "),
    (r"(?<=\d)\s+%", "%"),  # "10 %" became "10"
    (r"(\d+(?:[.,]\d+)*)\s?([$€£¢])(?!\d)", r"\2\1"),  # "5 €" is "€5", as "five euros"
    *((rf"([$€£]\s?\d[\d.,]*)\s?{short}\b", rf"\1 {long}") for short, long in _MULTIPLES.items()),
    (r"\ba (?=(?:hundred|thousand|million|billion|trillion|dollar|euro)\b)", "one "),
    (r"(?<![\d:])0?(\d{1,2}):00(?=\s*(?:[ap]\.?\s?m|oclock)\b)", r"\1"),  # "3:00 pm" became "3 0 pm"
    (r"(?<![\d:])0?([1-9]|1[0-2]):00(?![\d:])", r"\1 oclock"),
    *((rf"(?<![\d/]){written}(?![\d/])", sign) for sign, (written, _) in _FRACTIONS.items()),
    (r"(?<=\d)(?:\s?½| and a half\b)", ".5"),  # as "three and a half"
    *((rf"(?<=\d)\s?{sign}", f" and {said}") for sign, (_, said) in _FRACTIONS.items()),
    *((sign, f" {said} ") for sign, (_, said) in _FRACTIONS.items()),
    (r"\s?(?:°\s?c\b|℃)", " degrees celsius"),
    (r"\s?(?:°\s?f\b|℉)", " degrees fahrenheit"),
    (r"\s?°", " degrees "),
    *((rf"(?<![\d.,])1[ -]?{short}\b", f"1 {one}") for short, (one, _) in _UNITS.items()),
    *((rf"(?<=\d)[ -]?{short}\b", f" {several}") for short, (_, several) in _UNITS.items()),
    (r"\bwww\.(?=\w)", "www dot "),
    (r"(?<=\w)@(?=\w)", " at "),
    (r"(?<=[a-z])\.(?=(?:com|org|net|edu|gov|io|co)\b)", " dot "),
)
# Signs that `MENDS` reads, which NFKC would write in several characters.
_KEPT: Final = "\u2018\u2019\u02bc\u00b4\u0060№℃℉" + "".join(_FRACTIONS)
_SILENT: Final = "™℠®©"
# Numbers with zeros in front, which Whisper's drops: "007" became "7". It keeps them where digits are spelt.
_ZEROS: Final = re.compile(r"(?<![\d.$€£¢])(?<!\d,)0+(?=\d)(?!0*\.\d)\d*(?!\d*\.\d)")
_DIGITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# It writes "one" for every 1 that stands alone, of "$1.50" and "1%" too, and then drops the signs.
_ONE: Final = re.compile(r"(?<=[$€£¢+.\d-])one\b|\bone(?=[.%])")
# What is written instead of what Whisper's normaliser makes.
AFTER: Final[tuple[tuple[str, str], ...]] = (
    (r"\b(\d+|one|oclock|in the) ([ap]) m\b", r"\1 \2m"),  # "ten a m"
    (r"\bcannot\b", "can not"),  # as "can't" is
    (r"(?<![\d.])\.(?=\d)", "0."),  # "point five" is ".5"
    (r"([$€£]\d+) (\d\d)(?!\S)", r"\1.\2"),  # "one dollar fifty"
    (r"\b0 k\b|\bok\b", "okay"),
    (r"\bvs\b", "versus"),
    (r"\betc\b", "et cetera"),
    (r"\bph d\b", "phd"),
    (r"\be mail", "email"),
)
# Letters that are spelt out are one word: "u s a" and "U.S.A." are "USA". "a" and "i" are words: none begins with "a"
# ("a U.S. citizen"), none of two letters with "i", and none ends with "i".
_SPELT: Final = re.compile(r"(?<!\S)(?:[b-hj-z]|i [b-hj-z](?!\S))(?: [a-z](?!\S))*(?: [a-hj-z](?!\S))")
RULES: Final = (
    *(f"{pattern}={instead}" for pattern, instead in MENDS),
    f"NFKC but {_KEPT}",
    f"drop={_SILENT}",
    f"digits={_ZEROS.pattern}",
    f"1={_ONE.pattern}",
    *(f"after {pattern}={instead}" for pattern, instead in AFTER),
    "after join numbers",
    f"after join={_SPELT.pattern}",
    "again until nothing changes",
)
_ROUNDS: Final = 5


def normalise(text: str) -> str:
    """Return English text as it is compared: see above. Normalising it again changes nothing."""
    for _ in range(_ROUNDS):  # two, but for curious texts ("u m" is the filler "um")
        before, text = text, _once(text)
        if text == before:
            break
    return text


def _once(text: str) -> str:
    if not text.isascii():
        text = "".join(map(_seen, text))
    text = " ".join(text.lower().split())  # patterns that begin with space would try every one of a long gap
    digits = re.search(r"\d", text) is not None
    for pattern, instead in MENDS:
        if digits or "\\d" not in pattern:
            text = re.sub(pattern, instead, text)
    text = _ZEROS.sub(lambda zeros: f" {' '.join(_DIGITS[int(digit)] for digit in zeros[0])} ", text)
    text = _whisper()(text)
    for pattern, instead in AFTER:
        text = re.sub(pattern, instead, text)
    # What is left of a sign without a number is no word.
    words = _joined(word for word in text.split() if any(map(str.isalnum, word)))
    return _SPELT.sub(lambda letters: letters[0].replace(" ", ""), " ".join(words))


def _seen(character: str) -> str:
    """Return a character as the patterns know it. Invisible ones would stay in words, or part them."""
    if character in _SILENT or unicodedata.category(character) == "Cf":
        return ""
    return character if character in _KEPT else unicodedata.normalize("NFKC", character)


# A number, and what is written right behind one of whole digits, and behind one with a decimal point.
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?")
_BEHIND: Final = (re.compile(r"\d.*"), re.compile(r"\d+(?:%|s|st|nd|rd|th)?"))


def _joined(words: Iterable[str]) -> list[str]:
    """Return the words, a number in digits and those right behind it as one word."""
    joined: list[str] = []
    for word in words:
        digits = "1" if word == "one" else word
        before = joined[-1] if joined else ""
        before = "1" if before == "one" else before
        if _NUMBER.fullmatch(before) and _BEHIND["." in before].fullmatch(digits):
            joined[-1] = before + digits
        else:
            joined.append(word)
    return joined


def source_digest() -> str:
    """The sha256 (hex) of Whisper's normaliser and its table: what other releases of their packages may change."""
    return hashlib.sha256(inspect.getsource(_module()).encode() + _spellings()).hexdigest()


def _module() -> Any:
    from transformers.models.whisper import english_normalizer  # takes two seconds, and few need it

    return english_normalizer


def _spellings() -> bytes:
    return resources.files("whisper_normalizer").joinpath("normalizers/english.json").read_bytes()


@functools.cache
def _whisper() -> Any:
    whole = _module().EnglishTextNormalizer(json.loads(_spellings()))
    numbers = whole.standardize_numbers
    numbers.postprocess = functools.partial(_with_ones, numbers.postprocess)
    return whole


def _with_ones(postprocess: Callable[[str], str], text: str) -> str:
    return _ONE.sub("1", postprocess(text))
