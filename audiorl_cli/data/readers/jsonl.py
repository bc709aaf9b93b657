"""JSON manifests: one object a line, as NeMo and others have them, or an array of objects, as pandas writes one."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from audiorl_cli.data.columns import AS_NAMED, Columns
from audiorl_cli.data.readers.json_array import begins_array, read_array
from audiorl_cli.data.readers.lines import read_lines
from audiorl_cli.data.readers.rows import Rows
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Entry, Item
from audiorl_cli.data.store import Place
from audiorl_cli.data.tree import unlisted
from audiorl_cli.errors import DataError


@dataclass(frozen=True)
class JsonlSource:
    """The manifest at `path`; relative names of recordings are taken from its folder.

    NaN, which Python and pandas write for a missing value, is null. `folder`: the source as a user named it, in which
    recordings that no row names are counted.
    """

    path: Place
    root: Place | None = None
    folder: Place | None = None
    columns: Columns = AS_NAMED
    kind: str = "jsonl"

    def items(self) -> Iterator[Entry]:
        """One item a row, then the files that no row names."""
        rows = Rows(self.columns, self.path.parent, self.root)
        paths: set[str] = set()
        names: set[str] = set()
        for where, row in read_rows(self.path):
            if isinstance(row, Rejection):
                yield row
                continue
            if isinstance(row, Mapping):
                names.update(row)
                if self.folder is not None:
                    paths.update(rows.paths(row))
            yield self._item(rows, row, where)
        if names:
            self.columns.require(names, str(self.path))
        if self.folder is not None:
            yield from unlisted(self.folder, paths, self.path)

    def _item(self, rows: Rows, row: object, where: str) -> Item:
        try:
            if not isinstance(row, Mapping):
                raise RejectedError("bad_row", f"JSON of type {type(row).__name__}, not an object")
            return rows.utterance(row, where)
        except RejectedError as error:
            return Rejection(rows.claimed_id(row), where, error.reason, error.detail)


def read_rows(path: Place) -> Iterator[tuple[str, Any]]:
    """Yield where each row of a manifest stands, and the row, or why it is none. Raises DataError."""
    if begins_array(path):
        for number, row in enumerate(read_array(path, loads_constant), 1):
            yield f"{path.name} row {number}", row
        return
    for line in read_lines(path):
        if isinstance(line, Rejection):
            yield line.source, line
            continue
        where = f"{path.name} line {line.number}"
        try:
            row = json.loads(line.text, parse_constant=loads_constant)
        except (ValueError, RecursionError) as error:
            said = f": {error}" if isinstance(error, json.JSONDecodeError) else ""
            row = Rejection("", where, "bad_row", f"not JSON{said}")
        if isinstance(row, dict) and row and all(isinstance(value, dict) for value in row.values()):
            raise DataError(
                f"{path}",
                expected="one object a row",
                got="one object a column or index, as pandas' to_json writes them by default",
                fix="Write it with orient='records', lines=True.",
            )
        yield where, row


def loads_constant(name: str) -> float | None:
    """Return what Python's json writes beyond JSON: NaN as None, infinities as they are."""
    return None if name == "NaN" else float(name)
