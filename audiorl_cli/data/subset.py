"""A subset of the rows of shards: a file of JSON lines, each with the id of a row, and whatever else it tells of it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from audiorl_cli.data.readers.lines import read_lines
from audiorl_cli.data.rejected import Rejection
from audiorl_cli.data.shards import Shards, write_whole
from audiorl_cli.errors import DataError


def subset(shards: Shards, path: Path) -> Shards:
    """The rows of `shards` that the lines of `path` name. Raises DataError for a line or an id that is none."""
    ids = []
    for line in read_lines(path):
        if isinstance(line, Rejection):
            raise _bad(line.source, line.detail)
        try:
            told = json.loads(line.text)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict) or not isinstance(told.get("id"), str):
            raise _bad(f"{path} line {line.number}", repr(line.text[:80]))
        ids.append(told["id"])
    return shards.only(ids)


def write_subset(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `rows`, each with its "id". Raises DataError where `path` cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(str(path), expected="a file to write", got=str(error.strerror), fix="Name another.") from error
    write_whole(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


def _bad(item: str, got: str) -> DataError:
    return DataError(item, expected='an object with an "id"', got=got, fix="Write it with audiorl forecast.")
