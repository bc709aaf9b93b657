"""JSONL manifests: one object a line, as NeMo and the folders of recordings with a `manifest.jsonl` have them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from audiorl_cli.data.readers.lines import read_lines
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Entry, Item, claimed_id, named, utterance
from audiorl_cli.data.store import Place
from audiorl_cli.data.tree import unlisted


@dataclass(frozen=True)
class JsonlSource:
    """The manifest at `path`; relative names of recordings are taken from its folder.

    `folder`: the source as a user named it, in which recordings that no row names are counted.
    """

    path: Place
    root: Place | None = None
    folder: Place | None = None
    kind: str = "jsonl"

    def items(self) -> Iterator[Entry]:
        """One item a line, then the files that no line names."""
        found: set[str] = set()
        yield from self._rows(found)
        if self.folder is not None:
            yield from unlisted(self.folder, found, self.path)

    def _rows(self, found: set[str]) -> Iterator[Item]:
        for line in read_lines(self.path):
            if isinstance(line, Rejection):
                yield line
                continue
            where = f"{self.path.name} line {line.number}"
            row: object = None
            try:
                row = json.loads(line.text, parse_constant=_refuse_constant)
                if not isinstance(row, dict):
                    raise RejectedError("bad_row", f"JSON of type {type(row).__name__}, not an object")
                if self.folder is not None:
                    found.update(named(row, self.path.parent))
                yield utterance(row, where, self.path.parent, self.root)
            except RejectedError as error:
                yield Rejection(claimed_id(row), where, error.reason, error.detail)
            except (ValueError, RecursionError):
                yield Rejection("", where, "bad_row", "not JSON")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
