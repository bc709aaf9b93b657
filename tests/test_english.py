"""English by hand: what two right ways of writing the same speech come to, where Whisper's own had them differ."""

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from audiorl_cli import english
from audiorl_cli.text import Normaliser, normaliser

BY_HAND = [
    # ordinals, and the saint that Whisper's makes of "21 st"
    ("the twenty first of May", "the 21st of may"),
    ("the 21st", "the 21st"),
    ("the 21 st of May", "the 21st of may"),
    ("the 2nd, 3rd, 22nd and 112th", "the 2nd 3rd 22nd and 112th"),
    ("21 St. James", "21 saint james"),
    ("St. Louis", "saint louis"),
    ("11 st james", "11 saint james"),  # no ordinal
    ("5th St.", "5th street"),
    ("5th st and Main", "5th street and main"),
    ("5 Main St., Boston", "5 main street boston"),
    ("on 5 Main St", "on 5 main street"),
    # numbers
    ("two thousand twenty four", "2024"),
    ("nineteen ninety nine, 1999", "1999 1999"),
    ("1,000,000 or 1 million", "1000000 or 1000000"),
    ("one hundred and one", "101"),
    ("three point one four", "3.14"),
    ("one", "one"),
    ("1", "one"),
    ("the 1960s and the sixties", "the 1960s and the 60s"),
    ("-5 degrees", "-5 degrees"),
    ("minus five degrees", "-5 degrees"),
    ("\u22120.5", "-0.5"),
    ("2-5", "2 5"),
    ("10 %, 10% and ten percent", "10% 10% and 10%"),
    ("10:30 a.m.", "1030 am"),
    ("ten thirty AM", "1030 am"),
    ("ten oh five", "1005"),
    ("10:05", "1005"),
    # currency
    ("five dollars, $5, $5.00", "$5 $5 $5"),
    ("five dollars and fifty cents", "$5.50"),
    ("$2.5 million", "$2500000"),
    ("twenty pounds, £20, 20 £", "£20 £20 £20"),
    ("5 € and 5€ and five euros", "€5 and €5 and €5"),
    ("50¢", "¢50"),
    ("fifty cents", "¢50"),
    ("$5 €3", "$5 €3"),
    # contractions, typographic apostrophes too
    ("don't can't won't it's", "do not can not will not it is"),
    ("don\u2019t I\u02bcm he\u2019d been", "do not i am he had been"),
    ("we'll they've gonna", "we will they have going to"),
    ("Mr. Smith", "mister smith"),
    # fillers, brackets, accents, invisible characters
    ("uh, hmm [noise] (laughs) yes", "yes"),
    ("Café naïve", "cafe naive"),
    ("so\u00adft\ufeff", "soft"),
    ("", ""),
    ("...", ""),
    ("Well... yes… and no... wait...5", "well yes and no wait 5"),
    ("$ % .", ""),
    # spelling
    ("the colour of honourable neighbourhoods", "the color of honorable neighborhoods"),
    ("organised, recognising, specialisation", "organized recognizing specialization"),
    ("travelled, cancelling, marvellous, counsellors", "traveled canceling marvelous counselors"),
    ("theatres in the centre, three kilometres", "theaters in the center 3 kilometers"),
    ("a grey cheque in defence of the programme", "a gray check in defense of the program"),
    ("analysed, paralysing; analyses", "analyzed paralyzing analyzes"),
    ("manoeuvred manoeuvres", "maneuvered maneuvers"),
    ("practised licences, ploughmen, tyres, mouldy", "practiced licenses plowmen tires moldy"),
    ("a sceptical moustache; pyjamas, jewellery, aluminium", "a skeptical mustache pajamas jewelry aluminum"),
    ("catalogues: skilfully, instalment, judgement", "catalogs skilfully installment judgment"),
]


@pytest.mark.parametrize(("text", "expected"), BY_HAND)
def test_by_hand(text: str, expected: str) -> None:
    assert english.normalise(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "hour pour tour contour detour paramour glamour flour sour your",
        "wise rise promise exercise advertise surprise organism realist criticism",
        "called rolled controlled compelled hello shelling cancellation excellent jelly",
        "here mere there were acre ogre lucre massacre",
        "fence hence evidence science greyhound",
    ],
)
def test_no_other_word_is_spelt_anew(text: str) -> None:
    assert english.normalise(text) == text


def test_of_real_transcripts_it_makes_what_whispers_own_does(speech: Path) -> None:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    table = resources.files("whisper_normalizer").joinpath("normalizers/english.json")
    whispers = EnglishTextNormalizer(json.loads(table.read_text(encoding="utf-8")))
    lines = (speech / "wer_golden" / "test-clean.ref.tsv").read_text(encoding="utf-8").splitlines()
    texts = [line.partition("\t")[2] for line in lines]
    assert [english.normalise(text) for text in texts] == [whispers(text) for text in texts]
    without = EnglishTextNormalizer({})
    assert sum(without(text) != english.normalise(text) for text in texts) == 78  # as the table says


def test_the_digest_changes_with_the_source_it_runs() -> None:
    ours = normaliser("english")
    assert len(english.source_digest()) == 64
    other = Normaliser(ours.name, ours.version, ours.rules, ours.function, lambda: "another release")
    assert other.digest != ours.digest


def test_nothing_heavy_is_loaded_until_english_is_read() -> None:
    code = """
import sys
from audiorl_cli.text import normaliser
normaliser("basic")("a")
assert "transformers" not in sys.modules
assert normaliser("english")("It's the 21 st") == "it is the 21st"
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
