"""A first pass over a source: how many rows it has, a digest of them, and the columns to keep with their types."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from audiorl_cli.data.rejected import Rejection, SkipRule
from audiorl_cli.data.shards import Column, ColumnType
from audiorl_cli.data.sources import Item, Source, unique
from audiorl_cli.errors import DataError

_COLUMNS_MAX: Final = 200
_INT64: Final = 1 << 63


@dataclass(frozen=True)
class Survey:
    """What a pass over the source found. `digest`: of what the rows say and what their recordings weigh.

    `written`: a digest of when the recordings were written, which a copy of the source does not share. `skipped`: how
    many of its files are not read, by rule; the digests do not know of them.
    """

    total: int
    digest: str
    written: str
    columns: tuple[Column, ...]
    skipped: Mapping[SkipRule, int]


def survey(source: Source) -> Survey:
    """Read every row of `source` once, none of the recordings in files. Raises DataError for too many columns."""
    digest, written = hashlib.sha256(source.kind.encode()), hashlib.sha256()
    kinds: dict[str, set[ColumnType]] = {}
    skipped: Counter[SkipRule] = Counter()
    total = 0
    for item in unique(source.items(), skipped):
        total += 1
        weight, when = _weight(item)
        digest.update(json.dumps(_fingerprint(item, weight), sort_keys=True, default=str).encode())
        written.update(b"%d " % when)
        if isinstance(item, Rejection):
            continue
        for name, value in item.extra.items():
            found = kinds.setdefault(name, set())
            if value is not None:
                found.add(_kind(value))
        if len(kinds) > _COLUMNS_MAX:
            raise DataError(
                item.source,
                expected=f"at most {_COLUMNS_MAX} columns in the source",
                got="more",
                fix="Remove the columns that are not needed.",
            )
    columns = tuple(Column(name, _common(kinds[name])) for name in sorted(kinds))
    return Survey(total, digest.hexdigest(), written.hexdigest(), columns, dict(sorted(skipped.items())))


def _weight(item: Item) -> tuple[object, int]:
    """What tells an item's recording from another one cheaply, and when it was written, in nanoseconds."""
    if isinstance(item, Rejection):
        return None, 0
    if isinstance(item.audio, bytes):
        return hashlib.sha256(item.audio).hexdigest(), 0
    try:
        found = item.audio.stat()
    except (OSError, ValueError):
        return None, 0
    return found.st_size, found.st_mtime_ns


def _fingerprint(item: Item, weight: object) -> list[Any]:
    """What an item says and what its recording weighs: enough to notice that a source has changed."""
    if isinstance(item, Rejection):
        return [item.id, item.source, item.reason, item.detail]
    said = [item.id, item.audio_name, item.text, item.source, item.speaker, item.offset, item.duration]
    return [*said, dict(item.extra), weight, *([] if item.channel is None else [item.channel])]


def _kind(value: object) -> ColumnType:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return "int64"
    if isinstance(value, float):
        return "float64"
    # half of a surrogate pair is text to Python, but not in UTF-8: JSON escapes it
    return "string" if isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value) else "json"


def _common(kinds: set[ColumnType]) -> ColumnType:
    """The one type that holds all values of a column, of whatever rows: decided by the whole source."""
    if not kinds:
        return "string"
    if kinds == {"int64", "float64"}:
        return "float64"
    return next(iter(kinds)) if len(kinds) == 1 else "json"
