"""Whether the lines of a text file begin with an id, as Kaldi's `text` and LibriSpeech's `.trans.txt` have them.

Nothing marks such a file: "utt1 one two" may be an utterance of two words or of three. What is judged are the first
words of all lines. Where they look like ids, they are; where they have no digit and come in the same order in both
files, they are words; in between, a person has to say.
"""

import re
from collections.abc import Collection, Sequence
from typing import Final, Literal

Verdict = Literal["ids", "words", "unclear"]

_FEW: Final = 3  # lines
# Parts joined as nobody writes words: speaker_utterance, folder/file, 84-121123-0000.
_JOINED: Final = re.compile(r"[^\s_/]+[_/]\S*[^\s_/]|(?=\S*\d)[^\s.-]+(?:[.-][^\s.-]+){2,}|\S*[^\W\d_]\S*-\d{3,}")
_CODE: Final = re.compile(r"(?=\S*[^\W\d_])(?:\S*\d){4}\S*")  # BAC009S0764W0121
_PADDED: Final = re.compile(r"0\d+")  # numbers as they are written in the names of files
_DIGITS: Final = re.compile(r"\d+")


def first_words(lines: Sequence[str]) -> list[str]:
    """Return the first word of each line that is not blank."""
    return [line.split(maxsplit=1)[0] for line in lines if line.strip()]


def verdict(lines: Sequence[str]) -> Verdict:
    """Judge one file alone. No ids are there where a line before the last is blank, or most come twice."""
    words = first_words(lines)
    if not words or not all(map(str.strip, lines[: len(words)])) or 2 * len({*words}) <= len(words):
        return "words"
    codes = [bool(_JOINED.fullmatch(word) or _CODE.fullmatch(word)) for word in words]
    if all(codes):
        # One line that begins with 10-year-old is a line of text; ids of three parts have numbers in more of them.
        sure = len(words) >= _FEW or all(len(_DIGITS.findall(word)) > 1 or "_" in word for word in words)
        return "ids" if sure else "unclear"
    numbered = all(map(_DIGITS.search, words))
    # utt1, utt2: one pattern that counts; 0001, 0002: as long as one another, with zeros before.
    alike = len({_DIGITS.sub("0", word) for word in words}) == 1 and len(words) > 1
    if alike and re.search(r"[^\W\d_]", words[0]) and not words[0][0].isdigit():
        return "ids"
    if alike and len({*map(len, words)}) == 1 and any(map(_PADDED.fullmatch, words)):
        return "ids"
    return "unclear" if numbered and len({*words}) == len(words) else "words"


def of_both(one: Sequence[str], other: Sequence[str]) -> Verdict:
    """Judge two files together, neither of which has any other layout. "ids" is of both."""
    verdicts = verdict(one), verdict(other)
    words = first_words(one), first_words(other)
    if "ids" in verdicts:
        return "ids" if verdicts[0] == verdicts[1] or (known(one, words[1]) and known(other, words[0])) else "words"
    if {*words[0]} != {*words[1]} or len({*words[0]}) < len(words[0]) or len(words[0]) != len(words[1]):
        return "words"
    # The same first words, each once, on both sides. In another order they can hardly be words of transcripts.
    if words[0] != words[1] and len(words[0]) >= _FEW:
        return "unclear"
    return "unclear" if verdicts == ("unclear", "unclear") else "words"


def known(lines: Sequence[str], ids: Collection[str]) -> bool:
    """Return whether half of the lines or more begin with one of `ids`."""
    words, among = first_words(lines), {*ids}
    return bool(words) and 2 * sum(word in among for word in words) >= len(words)
