"""CSV and TSV tables with a header line, as Common Voice has them (`path`, `sentence`, recordings in `clips/`)."""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from audiorl_cli.data.columns import AS_NAMED, Columns
from audiorl_cli.data.readers.lines import Line, plain_suffix, read_lines
from audiorl_cli.data.readers.rows import Rows
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Entry, Item
from audiorl_cli.data.store import Place
from audiorl_cli.data.tree import unlisted
from audiorl_cli.errors import DataError

_CLIPS: Final = "clips"
_DIVIDERS: Final = (";", "\t", "|")  # of a table whose header has no comma


@dataclass(frozen=True)
class TableSource:
    """The table at `path`: tabs divide a `.tsv`, where quotation marks mean nothing; commas divide any other.

    Where the header of another has no comma, semicolons, tabs or bars divide it.

    An empty cell is a missing value. `folder`: the source as a user named it, in which recordings that no row names are
    counted.
    """

    path: Place
    root: Place | None = None
    folder: Place | None = None
    columns: Columns = AS_NAMED
    kind: str = "table"

    def items(self) -> Iterator[Entry]:
        """One item a row below the header, then the files that no row names.

        Raises DataError where the header lacks recording or transcript.
        """
        found: set[str] = set()
        yield from self._items(found)
        if self.folder is not None:
            yield from unlisted(self.folder, found, self.path)

    def _items(self, found: set[str]) -> Iterator[Item]:
        feed = _Feed(read_lines(self.path))
        table = self._rows(feed)
        header = [name.strip() for name in next(table, [])]
        if feed.problems:
            raise DataError(
                f"{self.path} line 1",
                expected="a header in UTF-8",
                got=feed.problems[0].detail,
                fix="Convert the table to UTF-8.",
            )
        if header:
            self.columns.require(header, f"{self.path} line 1")
        fields = self.columns.fields(header)
        if fields.audio is None or fields.text is None or len(set(header)) < len(header):
            raise DataError(
                f"{self.path} line 1",
                expected="a header with path and sentence (or audio and text), each name once",
                got=", ".join(header)[:200] or "nothing",
                fix="Name them with --columns audio=NAME,text=NAME, add a header, or give another --format.",
            )
        rows = Rows(self.columns, self.path.parent, self.root, _CLIPS, typed=False)
        for row in table:
            yield from feed.drain()
            where = f"{self.path.name} line {feed.first}"
            if len(row) != len(header):
                yield Rejection("", where, "bad_row", f"{len(row)} columns where the header has {len(header)}")
                continue
            cells = dict(zip(header, row, strict=True))
            if self.folder is not None:
                found.update(rows.paths(cells))
            try:
                yield rows.utterance(cells, where)
            except RejectedError as error:
                yield Rejection(rows.claimed_id(cells), where, error.reason, error.detail)
        yield from feed.drain()

    def _rows(self, feed: "_Feed") -> Iterator[list[str]]:
        if plain_suffix(self.path.name) == ".tsv":
            for line in feed:
                yield line.rstrip("\n").split("\t")
                feed.row.clear()
            return
        header = next(feed, "")
        others = [] if "," in header else [one for one in _DIVIDERS if one in header]
        feed.again.extend(feed.row)
        feed.row.clear()
        reader = csv.reader(feed, delimiter=others[0] if len(others) == 1 else ",", strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                where, last = f"{self.path.name} line {feed.first}", feed.row[-1].number
                feed.problems.append(Rejection("", where, "bad_row", f"{error} at line {last}"))
                # A quotation mark that nothing closes swallows the lines below: it must cost its own row alone.
                feed.again.extendleft(reversed(feed.row[1:]))
            else:
                yield row
            feed.row.clear()


@dataclass
class _Feed(Iterator[str]):
    """Lines for the csv module, which takes text alone: rejected ones are kept aside until they are drained.

    `row`: the lines of the row that is being read, which its reader clears. `again`: lines to give once more.
    """

    lines: Iterator[Line | Rejection]
    row: list[Line] = field(default_factory=list)
    again: deque[Line] = field(default_factory=deque)
    problems: deque[Rejection] = field(default_factory=deque)

    @property
    def first(self) -> int:
        """The number of the line that the row begins in."""
        return self.row[0].number

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else next(self.lines)
        while isinstance(line, Rejection):
            self.problems.append(line)
            line = next(self.lines)
        self.row.append(line)
        return f"{line.text}\n"  # the line break is part of the text within quotation marks

    def drain(self) -> Iterator[Rejection]:
        while self.problems:
            yield self.problems.popleft()
