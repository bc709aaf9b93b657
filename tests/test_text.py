"""Normalisers: what they make of real spellings, that they settle, and that their digests pin them."""

import json
import unicodedata
from pathlib import Path

import pytest

from audiorl_cli.errors import ConfigError
from audiorl_cli.text import NORMALISERS, Normaliser, normaliser

BASIC = [
    ("Hello, World!", "hello world"),
    ("  two\t words\n", "two words"),
    ("don't", "don't"),
    ("don\u2019t DON\u02bcT don\u00b4t don`t don\uff07t \u2018tis", "don't don't don't don't don't tis"),
    ("the dogs' bowl, 'quoted' and rock 'n' roll", "the dogs bowl quoted and rock n roll"),
    ("a''b '' '", "a b"),
    ("well-known—or not…", "well known or not"),
    ("snake_case [noise] (laughs)", "snake case noise laughs"),
    ("$5.00 + 10%", "5 00 10"),
    ("ＦＵＬＬ　ｗｉｄｔｈ", "full width"),
    ("ﬁne", "fine"),
    ("Cafe\u0301", "café"),  # decomposed and composed are one
    ("STRASSE Straße", "strasse straße"),
    ("¿Qué? ¡Sí!", "qué sí"),
    ("Да, нет", "да нет"),
    ("مرحبا، بك؟", "مرحبا بك"),
    ("می\u200cخواهم", "می\u200cخواهم"),  # Persian: the joiner is spelling
    ("नमस्ते दुनिया।", "नमस्ते दुनिया"),  # vowel signs and the virama stay
    ("你好，世界。", "你好 世界"),
    ("ភាសា\u200bខ្មែរ", "ភាសា ខ្មែរ"),
    ("so\u00adft \ufeffbom\u202e", "soft bom"),
    ("bell\x07ring", "bell ring"),
    ("¨ ¸", ""),  # NFKC alone would leave bare accents behind
    ("🎉 yes 👍🏽", "yes"),
    ("", ""),
    ("...", ""),
]


@pytest.mark.parametrize(("text", "expected"), BASIC)
def test_basic_by_hand(text: str, expected: str) -> None:
    assert normaliser("basic")(text) == expected


def test_none_strips_and_changes_nothing_else() -> None:
    assert normaliser("none")(" \tA  b,\u00a0C’s\n") == "A  b,\u00a0C’s"


# Every plane that has more than CJK ideographs; no surrogates.
POINTS = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)]


@pytest.mark.parametrize("name", list(NORMALISERS))
def test_normalising_twice_changes_nothing(name: str) -> None:
    normalise = normaliser(name)
    for point in POINTS:
        once = normalise(f"a{chr(point)}b {chr(point)}")
        assert normalise(once) == once, hex(point)


def test_basic_leaves_no_punctuation_symbol_or_control_of_any_script() -> None:
    every = "".join(f"a{chr(point)}" for point in POINTS)
    left = {c for c in normaliser("basic")(every) if unicodedata.category(c)[0] in "PSC"}
    unassigned = {c for c in left if unicodedata.category(c) in ("Cn", "Co")}
    assert left - unassigned == {"'", "\u200c", "\u200d"}


# A rule that changes must change the version; a digest that changes makes old reports incomparable.
DIGESTS = {
    "none": (1, "79ebc7d03a240c2e9e7271a22f1853ae9c0c773e229e739e158d958477a88b26"),
    "basic": (1, "f6f74d176d37b18240a9479d02a18ff312096bf653abea79a3b9ffdd953e0436"),
}


def test_digests_are_pinned() -> None:
    assert {name: (one.version, one.digest) for name, one in NORMALISERS.items()} == DIGESTS


def test_a_digest_covers_name_version_and_rules() -> None:
    digests = {
        Normaliser(name, version, rules, str.strip).digest
        for name in ("a", "b")
        for version in (1, 2)
        for rules in (("x",), ("x", "y"), ("xy",))
    }
    assert len(digests) == 12


@pytest.mark.parametrize("name", ["english?", "Basic", "", "basic\n"])
def test_an_unknown_name_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match="one of none, basic, got"):
        normaliser(name)


def test_basic_keeps_every_word_of_real_transcripts(speech: Path) -> None:
    rows = (speech / "librispeech" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(row)["text"] for row in rows]
    assert len(texts) == 50
    for text in texts:  # LibriSpeech writes upper case, apostrophes and no other punctuation
        assert normaliser("basic")(text) == text.lower()
