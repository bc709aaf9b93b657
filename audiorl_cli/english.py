"""English as the Open ASR leaderboard compares it: Whisper's normaliser, as transformers has it, its faults mended.

Whisper's reads numbers, currency and ordinals ("twenty first" is "21st", "five dollars" "$5"), writes contractions out,
and drops fillers, accents, punctuation and what stands in brackets. `MENDS` puts right what made it count a right
transcript as wrong. Its other readings stay, odd ones too ("John's" is "john is", "one two" is "12"): both sides get
them.

Whisper's own table of British spellings, some 1,700 words, comes with its checkpoints and with no package. `SPELLINGS`
are fewer: families of words, each with its stems named, so that no other word is touched. Figures are therefore near
the leaderboard's, and the same as no other normaliser's.
Source: Radford et al. 2022, https://arxiv.org/abs/2212.04356, appendix C; https://huggingface.co/spaces/hf-audio/open_asr_leaderboard
"""

import functools
import hashlib
import inspect
import re
import unicodedata
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

_OUR: Final = (
    "arb|ard|arm|behavi|cand|clam|col|demean|endeav|enam|fav|ferv|flav|harb|hon|hum|lab|neighb|od|parl|ranc|rig|rum|sav|"
    "savi|splend|succ|tum|val|vap|vig"
)
_ISE: Final = (
    "apolog|author|capital|categor|central|character|civil|colon|critic|custom|digit|emphas|equal|familiar|final|general|"
    "global|hospital|hypnot|ideal|immun|industrial|jeopard|legal|liberal|local|material|maxim|memor|minim|mobil|modern|"
    "monopol|national|natural|neutral|normal|optim|organ|patron|penal|personal|popular|priorit|privat|public|random|"
    "rational|real|recogn|revolution|scrutin|social|special|stabil|standard|steril|summar|symbol|sympath|synchron|terror|"
    "theor|util|victim|visual|vital"
)
_DOUBLED: Final = (
    "cancel|channel|counsel|dial|duel|equal|fuel|grovel|jewel|label|level|marvel|model|panel|pencil|quarrel|rival|shovel|"
    "shrivel|signal|swivel|total|towel|travel|tunnel|unravel"
)
# British -> American, in what Whisper's normaliser leaves.
SPELLINGS: Final[tuple[tuple[str, str], ...]] = (
    (
        rf"\b((?:dis|mis|un|re|be)?(?:{_OUR}))our"
        r"(?=(?:s|ed|er|ers|ing|ings|ful|fully|less|able|ably|ite|ites|al|ally|y|ies|ly|hood|hoods|some)?\b)",
        r"\1or",
    ),
    (rf"\b((?:un|re|dis|de)?(?:{_ISE})i)s(?=(?:e|ed|es|er|ers|ing|able|ation|ations|ational)\b)", r"\1z"),
    (r"\b(anal|catal|paral)ys(?=(?:e|ed|er|ers|ing)\b)", r"\1yz"),  # "analyses" is American too
    (rf"\b({_DOUBLED})l(?=(?:ed|er|ers|ing|ings|or|ors|ous|ously)\b)", r"\1"),
    (
        r"\b((?:kilo|centi|milli)?met|(?:milli)?lit|calib|cent|fib|lust|meag|sab|somb|spect|theat)re(?=s?\b)",
        r"\1er",
    ),
    (r"\b(def|off|pret)ence(?=s?\b)", r"\1ense"),
    (r"\blicence(?=s?\b)", "license"),
    (r"\bpractis(?=(?:e|es|ed|ing)\b)", "practic"),
    (r"\bgrey(?=(?:s|ed|er|ing|ish)?\b)", "gray"),
    (r"\bcheque(?=s?\b)", "check"),
    (r"\bprogramme(?=s?\b)", "program"),
    (r"\bplough(?=(?:s|ed|ing|man|men)?\b)", "plow"),
    (r"\btyre(?=s?\b)", "tire"),
    (r"\bmould(?=(?:s|y|ed|ing)?\b)", "mold"),
    (r"\bmoustache(?=[sd]?\b)", "mustache"),
    (r"\bsceptic(?=(?:s|al|ally|ism)?\b)", "skeptic"),
    (r"\b(cata|ana)logue(?=s?\b)", r"\1log"),
    (r"\b(skil|wil)ful(?=(?:ly|ness)?\b)", r"\1lful"),
    (r"\b(enrol|fulfil|instal)(?=(?:s|ment|ments)?\b)", r"\1l"),
    (r"\b(acknowledg|judg)ement(?=s?\b)", r"\1ment"),
    (r"\bmanoeuvre(?=s?\b)", "maneuver"),
    (r"\bmanoeuvr(?=(?:ed|ing)\b)", "maneuver"),
    (r"\bpyjamas\b", "pajamas"),
    (r"\bjewellery\b", "jewelry"),
    (r"\baluminium\b", "aluminum"),
)


def normalise(text: str) -> str:
    """English text as it is compared: see above. It need not settle: what it makes of its own output may be another."""
    # Invisible characters would stay in words, or part them.
    text = "".join(character for character in text.lower() if unicodedata.category(character) != "Cf")
    for pattern, instead in MENDS:
        text = re.sub(pattern, instead, text)
    text = _whisper()(text)
    for pattern, instead in SPELLINGS:
        text = re.sub(pattern, instead, text)
    # What is left of a sign without a number is no word.
    return " ".join(word for word in text.split() if any(map(str.isalnum, word)))


def source_digest() -> str:
    """The sha256 (hex) of the source of Whisper's normaliser: what another release of transformers may change."""
    return hashlib.sha256(inspect.getsource(_module()).encode()).hexdigest()


def _module() -> Any:
    from transformers.models.whisper import english_normalizer  # takes two seconds, and few need it

    return english_normalizer


@functools.cache
def _whisper() -> Any:
    return _module().EnglishTextNormalizer({})
