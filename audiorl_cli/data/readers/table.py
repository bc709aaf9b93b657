"""CSV and TSV tables with a header line, as Common Voice has them (`path`, `sentence`, recordings in `clips/`)."""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from audiorl_cli.data.readers.lines import Line, read_lines
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Fields, Item, claimed_id, utterance
from audiorl_cli.errors import DataError


@dataclass(frozen=True)
class TableSource:
    """The table at `path`: tabs divide a `.tsv`, where quotation marks mean nothing; commas divide any other."""

    path: Path
    root: Path | None = None
    kind: str = "table"

    def items(self) -> Iterator[Item]:
        """One item a row below the header. Raises DataError where the header lacks recording or transcript."""
        feed = _Feed(read_lines(self.path))
        rows = self._rows(feed)
        header = next(rows, [])
        fields = Fields.of(header)
        if fields.audio is None or fields.text is None or len(set(header)) < len(header):
            raise DataError(
                f"{self.path} line 1",
                expected="a header with path and sentence (or audio and text), each name once",
                got=", ".join(header)[:200] or "nothing",
                fix="Add a header line, or give another --format.",
            )
        for row in rows:
            yield from feed.drain()
            where = f"{self.path.name} line {feed.number}"
            if len(row) != len(header):
                yield Rejection("", where, "bad_row", f"{len(row)} columns where the header has {len(header)}")
                continue
            named = dict(zip(header, row, strict=True))
            try:
                yield utterance(named, where, self.path.parent, self.root, "clips")
            except RejectedError as error:
                yield Rejection(claimed_id(named), where, error.reason, error.detail)
        yield from feed.drain()

    def _rows(self, feed: "_Feed") -> Iterator[list[str]]:
        if self.path.suffix.lower() == ".tsv":
            yield from (line.split("\t") for line in feed)
            return
        reader = csv.reader(feed, strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                feed.problems.append(Rejection("", f"{self.path.name} line {feed.number}", "bad_row", str(error)))
                continue
            yield row


@dataclass
class _Feed:
    """Lines for the csv module, which takes text alone: rejected ones are kept aside until they are drained."""

    lines: Iterator[Line | Rejection]
    number: int = 1
    problems: deque[Rejection] = field(default_factory=deque)

    def __iter__(self) -> Iterator[str]:
        for line in self.lines:
            if isinstance(line, Rejection):
                self.problems.append(line)
                continue
            self.number = line.number
            yield line.text

    def drain(self) -> Iterator[Rejection]:
        while self.problems:
            yield self.problems.popleft()
