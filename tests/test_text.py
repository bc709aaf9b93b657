"""Normalisers: what they make of real spellings, that they settle, and that their digests pin them."""

import json
import unicodedata
from pathlib import Path

import pytest

from audiorl_cli.config import RewardConfig
from audiorl_cli.errors import ConfigError
from audiorl_cli.text import NORMALISERS, Normaliser, normaliser, without_boilerplate
from audiorl_cli.wer import count_words

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
    ("STRASSE Straße", "strasse strasse"),
    ("İstanbul istanbul ISTANBUL", "istanbul istanbul istanbul"),
    ("kız kiz KIZ", "kız kiz kiz"),  # the language is not known: a capital I is that of i
    ("ΟΔΥΣΣΕΥΣ Οδυσσευς, ΟΔΟΣ!", "οδυσσευς οδυσσευς οδος"),  # the sigma at the end of a word
    ("¿Qué? ¡Sí!", "qué sí"),
    ("Да, нет", "да нет"),
    ("مرحبا، بك؟", "مرحبا بك"),
    ("می\u200cخواهم", "می\u200cخواهم"),  # Persian: the joiner is spelling
    ("می\u200c\u200cخواهم\u200c", "می\u200cخواهم"),  # one is enough, and at the end of a word there is nothing to part
    ("ശ്രീ\u200d ക\u0d4d\u200d ക\u0d4d\u200cഷ", "ശ്രീ ക\u0d4d\u200d ക\u0d4d\u200cഷ"),  # beside a virama
    ("র\u200d্য", "র\u200d্য"),
    ("Auf\u200clage \u200d- a\u200db", "auflage ab"),  # in other scripts it is a matter of print
    ("ﻣﺤﻤﺪ مـحـمـد ﻻ", "محمد محمد لا"),  # forms that letters take within words; kashida
    ("م\ufe70", "م\u064b"),  # a vowel sign that NFKC would have stand on a space
    ("नमस्ते दुनिया।", "नमस्ते दुनिया"),  # vowel signs and the virama stay
    ("你好，世界。", "你好 世界"),
    ("ភាសា\u200bខ្មែរ", "ភាសា ខ្មែរ"),
    ("so\u00adft \ufeffbom\u202e", "soft bom"),
    ("bell\x07ring", "bell ring"),
    ("¨ ¸", ""),  # NFKC alone would leave bare accents behind
    ("🎉 yes 👍🏽 ❤\ufe0f 1\ufe0f\u20e3", "yes 1"),
    ("👨\u200d👩\u200d👧 and 👩🏽\u200d🚀", "and"),  # a family is one picture and no word
    ("🇺🇸 🏴\U000e0067\U000e0062\U000e007f ok", "ok"),  # flags: two letters, or a spelt region
    ("5㎏, ㎏; 10㎞²", "5kg kg 10km2"),  # a unit in one character
    ("½ 3½ 3 1/2", "1 2 3 1 2 3 1 2"),
    ("Ⅳ ① ⑴ № ℃ ㈱ ⼈", "iv 1 1 no c 株 人"),
    ("Windows™ x²", "windows x2"),
    ("a\u034fb a\u0305\u0332b", "ab a\u0332\u0305b"),  # a mark that nobody sees; marks in any order
    ("\u0301a b \u0301 '\u0301c", "a b c"),  # marks without a letter
    ("か\u309b", "が"),
    ("\u3164a\u3164", "a"),  # a blank of Hangul
    ("Hawai\u02bbi Hawai\u2018i צ\u05f3ק", "hawai'i hawai'i צ'ק"),
    ("", ""),
    ("...", ""),
]


CJK = [
    ("你好，世界。", "你 好 世 界"),
    ("我有iPhone 15 and 你", "我 有 iphone 15 and 你"),
    ("コーヒー、ｶﾞｷﾞ", "コ ー ヒ ー ガ ギ"),  # the long vowel sign is a character; half width is none of its own
    ("か\u309a", "か\u309a"),  # a mark that no composed letter has stays with its kana
    ("안녕하세요 세계", "안 녕 하 세 요 세 계"),
    ("\u1112\u1161\u11ab", "한"),  # Hangul written in parts
    ("𠮷野家", "𠮷 野 家"),  # beyond the basic plane
    ("葛\U000e0100飾", "葛 飾"),  # the shape of a character is no other character
    ("時々〆切", "時 々 〆 切"),
    ("don\u2019t, 3.5度", "don't 3 5 度"),
    ("สวัสดี नमस्ते", "สวัสดี नमस्ते"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "expected"), CJK)
def test_cjk_by_hand(text: str, expected: str) -> None:
    assert normaliser("cjk")(text) == expected


def test_cer_of_cjk_counts_no_space_beside_a_character() -> None:
    cjk = normaliser("cjk")

    def characters(text: str) -> str:
        return cjk.characters(cjk(text))

    assert characters("你 好，世界") == "你好世界"
    assert (
        characters("我 有iPhone 15 and 你") == "我有iphone 15 and你"
    )  # between Latin words they are written, and stay
    assert characters("か\u309a a か\u309a") == "か\u309aaか\u309a"
    assert normaliser("basic").characters("你 好") == "你 好"


def test_words_of_cjk_are_characters_wherever_spaces_stand() -> None:
    cjk = normaliser("cjk")
    assert count_words(cjk("你好世界"), cjk("你 好 视界")).rate == 1 / 4
    assert count_words(normaliser("basic")("你好世界"), "你 好 视界").rate == 3


# Whisper's own, but for marks, invisible characters and brackets that do not match.
MULTILINGUAL = [
    ("¿Qué? ¡Sí!", "qué sí"),
    ("L'homme, l’eau (rires) est", "l homme l eau est"),
    ("[noise] Да, <unk> нет", "да нет"),
    ("word(s)", "word"),
    ("STRASSE 3.5", "strasse 3 5"),
    ("你好，世界。", "你好 世界"),
    ("", ""),
]


def test_multilingual_drops_brackets_of_any_width() -> None:
    assert normaliser("multilingual")("好（笑）［音楽］的【拍手】 Straße") == "好的 strasse"


@pytest.mark.parametrize(("text", "expected"), MULTILINGUAL)
def test_multilingual_is_whispers_basic(text: str, expected: str) -> None:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    assert normaliser("multilingual")(text) == expected
    assert BasicTextNormalizer()(text.replace("\u2019", "'")).strip() == expected


@pytest.mark.parametrize("word", ["नमस्ते", "สวัสดี", "မြန်မာ", "வணக்கம்", "مُحَمَّد", "שָׁלוֹם"])
def test_multilingual_keeps_the_words_whispers_breaks(word: str) -> None:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    assert len(BasicTextNormalizer()(word).split()) > 1
    assert normaliser("multilingual")(word) == unicodedata.normalize("NFKC", word)


PATTERNS = RewardConfig().boilerplate_patterns
BOILERPLATE = [
    ("The audio says: hello there", "hello there"),
    ("Sure! Here is the transcription of the audio:\n\nhello: there", "hello: there"),
    ("Here's the transcript: hello", "hello"),
    ("Transcription:hello", "hello"),
    ("**Transcript:** hello", "** hello"),
    ("The speaker says the following: hello", "hello"),
    ("The recording says “hello”", "“hello”"),
    ("hello\n\nLet me know if you need anything else!\nBye.", "hello"),
    # what may well have been said
    ("the audio says hello", "the audio says hello"),
    ("The speaker of the house was blunt: no deal", "The speaker of the house was blunt: no deal"),
    ("Sure, here is the thing: go", "Sure, here is the thing: go"),
    ("hello, let me know", "hello, let me know"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "expected"), BOILERPLATE)
def test_boilerplate_by_hand(text: str, expected: str) -> None:
    assert without_boilerplate(text, PATTERNS) == expected


def test_what_the_reference_says_itself_is_no_boilerplate() -> None:
    said = "The voice says: go"
    assert without_boilerplate(said, PATTERNS, "The voice said: go") == said
    assert without_boilerplate(said, PATTERNS, "go") == "go"
    assert without_boilerplate("UM well um", [r"\bum\s*"]) == "well "


@pytest.mark.parametrize(("text", "expected"), BASIC)
def test_basic_by_hand(text: str, expected: str) -> None:
    assert normaliser("basic")(text) == expected


def test_none_strips_and_changes_nothing_else() -> None:
    assert normaliser("none")(" \tA  b,\u00a0C’s\n") == "A  b,\u00a0C’s"


# Every plane that has more than CJK ideographs; no surrogates.
POINTS = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)]


# English takes too long for this: test_english.py asks it of other texts.
@pytest.mark.parametrize("name", [name for name in NORMALISERS if name != "english"])
def test_normalising_twice_changes_nothing(name: str) -> None:
    normalise = normaliser(name)
    for start in range(0, len(POINTS), 64):
        once = normalise(" ".join(f"a{chr(point)}b {chr(point)}" for point in POINTS[start : start + 64]))
        assert normalise(once) == once, hex(POINTS[start])


def test_basic_leaves_no_punctuation_symbol_or_control_of_any_script() -> None:
    every = "".join(f"a{chr(point)}" for point in POINTS)
    left = {c for c in normaliser("basic")(every) if unicodedata.category(c)[0] in "PSC"}
    unassigned = {c for c in left if unicodedata.category(c) in ("Cn", "Co")}
    assert left - unassigned == {"'"}


# Those that Unicode's normal forms or case change, but the syllables of Hangul, and ı (see `normaliser`).
CHANGED = [
    one
    for one in map(chr, POINTS)
    if (not "가" < one < "힣" and one != "ı")
    and {unicodedata.normalize("NFKD", one), one.upper(), one.lower()} != {one}
]


@pytest.mark.parametrize("name", ["basic", "cjk"])
def test_case_and_unicodes_normal_forms_are_no_difference(name: str) -> None:
    normalise = normaliser(name)
    assert len(CHANGED) > 6000
    for one in CHANGED:
        text = f"{one}b a{one} {one}"
        same = {text, text.upper(), text.lower(), *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))}
        assert len({*map(normalise, same)}) == 1, (hex(ord(one)), same)


# A rule that changes must change the version; a digest that changes makes old reports incomparable.
DIGESTS = {
    "none": (1, "79ebc7d03a240c2e9e7271a22f1853ae9c0c773e229e739e158d958477a88b26"),
    "basic": (3, "e76149e843f4fc19471f17a623fc9c5761d487c69cc6f92dfa4b4a00d94dd545"),
    "english": (3, "0fc1d7896995b8f0c262339d5a29af38da29797d6dbd9631592da2b1c5e6ec5c"),
    "cjk": (2, "234f19e1db3821f5dd5a4d0eef6800525b6d974cb3676c52021b799ae4c5819f"),
    "multilingual": (2, "487599339d1b09e16a25e48eeab00b308faba5e816812e20ee17795ceba1788c"),
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
    with pytest.raises(ConfigError, match="one of none, basic, english, cjk, multilingual, got"):
        normaliser(name)


def test_basic_keeps_every_word_of_real_transcripts(speech: Path) -> None:
    rows = (speech / "librispeech" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(row)["text"] for row in rows]
    assert len(texts) == 50
    for text in texts:  # LibriSpeech writes upper case, apostrophes and no other punctuation
        assert normaliser("basic")(text) == text.lower()
