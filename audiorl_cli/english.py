"""English as the Open ASR leaderboard compares it: Whisper's normaliser, as transformers has it, its faults mended.

Whisper's reads numbers, currency and ordinals ("twenty first" is "21st", "five dollars" "$5"), writes contractions out,
and drops fillers, accents, punctuation and what stands in brackets. `MENDS` puts right what made it count a right
transcript as wrong. Its other readings stay, odd ones too ("John's" is "john is", "one two" is "12"): both sides get
them.

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
from importlib import resources
from typing import Any, Final

# What is written instead of what, in lower case, before Whisper's normaliser sees it.
MENDS: Final[tuple[tuple[str, str], ...]] = (
    ("[\u2018\u2019\u02bc\u00b4\u0060\uff07]", "'"),  # with any but the plain one, "it’s" became "it s"
    (r"\.{2,}|\u2026", " "),  # "wait...5" became "wait .5"
    (r"(?<=1)(?<!11)\s+st\b(?!\.)", "st"),  # "21 st" became "21 saint"
    (r"(?<=\d(?:st|nd|rd|th))\s+st\b\.?", " street"),  # a saint has a name after it
    (r"(?<=\w)\s+st\b\.?(?=\s*(?:[,;:!?]|$))", " street"),
    (r"(?<!\S)[-\u2212](?=\d)", "minus "),  # the sign was lost, the word was not
    (r"(?<=\d)\s+%", "%"),  # "10 %" became "10"
    (r"(\d+(?:[.,]\d+)*)\s?([$€£¢])(?!\d)", r"\2\1"),  # "5 €" is "€5", as "five euros"
    (r"(?<![\d:])(\d{1,2}):(?!00)(\d\d)(?![\d:])", r"\1\2"),  # "10:30" is "1030", as "ten thirty"
    (r"\b([ap])\.\s?m\b\.?", r"\1m"),  # "a.m." is "am"
)


def normalise(text: str) -> str:
    """English text as it is compared: see above. It need not settle: what it makes of its own output may be another."""
    # Invisible characters would stay in words, or part them.
    text = "".join(character for character in text.lower() if unicodedata.category(character) != "Cf")
    for pattern, instead in MENDS:
        text = re.sub(pattern, instead, text)
    text = _whisper()(text)
    # What is left of a sign without a number is no word.
    return " ".join(word for word in text.split() if any(map(str.isalnum, word)))


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
    return _module().EnglishTextNormalizer(json.loads(_spellings()))
