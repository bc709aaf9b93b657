"""Utterance ids: one rule for prep, which names the rows of shards, and for score, which matches texts by their ids."""

import math
import re
import unicodedata
from pathlib import PurePosixPath
from typing import Final

from audiorl_cli.data.tree import is_recording

ID_LENGTH: Final = 1000  # characters
_WHOLE_FLOAT: Final = re.compile(r"-?(0|[1-9][0-9]*)\.0")
_EXACT_FLOAT: Final = 2.0**53  # above it, floats do not hold every whole number


def utterance_id(value: object) -> str | None:
    """Return the id that `value` stands for, None where it stands for none (None, NaN, blank text).

    7, "7", 7.0 and "7.0" (what pandas makes of a column of whole numbers with gaps) are one id; "007" is another. Text
    is taken without the white space around it, in Unicode's form NFC, as file names are decomposed on some systems.
    Raises ValueError, which says what `value` is, for other types, control characters and more than 1000 characters.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"of type {type(value).__name__}")
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) <= _EXACT_FLOAT  # false for infinities
        if not whole and not (math.isfinite(value) and abs(value) < _EXACT_FLOAT):
            raise ValueError(f"of {value}, a float that holds no exact number")
        value = int(value) if whole else value
    name = unicodedata.normalize("NFC", str(value).strip())
    if _WHOLE_FLOAT.fullmatch(name):
        name = name.removesuffix(".0")
    kinds = set() if name.isprintable() else {*map(unicodedata.category, name)}
    if "Cs" in kinds:
        raise ValueError("that is not UTF-8")
    if len(name) > ID_LENGTH or "Cc" in kinds:
        raise ValueError(f"with control characters or more than {ID_LENGTH} characters")
    return name or None


def id_of_recording(name: str, offset: float | None = None) -> str | None:
    """Return the id of a row that gives none: the stem of its file, and "@SECONDS" for a part of it.

    Both kinds of slashes divide folders. Raises ValueError as `utterance_id`.
    """
    stem = PurePosixPath(name.replace("\\", "/")).stem
    return utterance_id(f"{stem}{part(offset)}")


def part(offset: float | None) -> str:
    """Return what tells parts of a recording apart in its id, to the microsecond: "@2.5"; nothing for all of it."""
    return "" if offset is None else f"@{offset:.6f}".rstrip("0").rstrip(".")


def bare_id(id: str) -> str:
    """Return `id` without folders, the suffix of a recording and "@0": "a/u1.wav" is "u1", "84.121" stays.

    For matching the ids of two files of which one has them so; only where they still differ from one another.
    """
    name = id.replace("\\", "/").rsplit("/", 1)[-1].removesuffix("@0")
    return name.rpartition(".")[0] if is_recording(name) and not name.startswith(".") else name
