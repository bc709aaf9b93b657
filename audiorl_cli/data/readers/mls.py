"""Multilingual LibriSpeech trees: `transcripts.txt` (ID, tab, text) beside `audio/SPEAKER/BOOK/ID.flac` or `.opus`.

`segments.txt` names parts of the books that the recordings were cut from, not of the recordings: it is not read.
Source: https://www.openslr.org/94/
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from audiorl_cli.data.readers.lines import Line, read_lines
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Entry, Utterance, checked_name, checked_text, confined
from audiorl_cli.data.store import Place, below
from audiorl_cli.data.tree import Listing, is_recording, listings, preferred, skipped, stem_of
from audiorl_cli.errors import DataError

TRANSCRIPTS: Final = "transcripts.txt"
_LINE: Final = re.compile(r"(?P<speaker>\d+)_\d+_\d+\t")


def is_table(path: Place) -> bool:
    """Return whether a file named transcripts.txt begins as one of MLS does."""
    try:
        first = next(read_lines(path), None)
    except DataError:
        return False
    return isinstance(first, Line) and _LINE.match(first.text) is not None


@dataclass(frozen=True)
class MlsSource:
    """The tree at `path`: one part (train, dev, test) or several. Rows in the order of each `transcripts.txt`."""

    path: Place
    root: Place | None = None
    kind: str = "mls"

    def items(self) -> Iterator[Entry]:
        """Yield one item a line of transcripts, then the recordings without one, and count the other files."""
        tables: list[Place] = []
        found: dict[str, list[Place]] = {}
        for entry in listings(self.path):
            if not isinstance(entry, Listing):
                yield entry
                continue
            for name in entry.names:
                if is_recording(name):
                    found.setdefault(stem_of(name), []).append(entry.folder / name)
                elif name == TRANSCRIPTS:
                    tables.append(entry.folder / name)
                else:
                    yield skipped(name)
        transcribed: set[str] = set()
        for table in tables:
            yield from self._rows(table, found, transcribed)
        for stem, paths in found.items():
            for path in paths if stem not in transcribed else ():
                detail = f"no line in {TRANSCRIPTS}"
                yield Rejection(stem[:100], below(path, self.path), "no_transcript", detail)

    def _rows(self, table: Place, found: dict[str, list[Place]], transcribed: set[str]) -> Iterator[Entry]:
        for line in read_lines(table):
            if isinstance(line, Rejection):
                yield line
                continue
            identity, tab, text = line.text.partition("\t")
            where = f"{below(table, self.path)} line {line.number}"
            try:
                if not tab:
                    raise RejectedError("bad_row", "no tab between id and text")
                identity = checked_name(identity, "an id")
                base = f"{table.parent}/"
                within = {str(path): path for path in found.get(identity, ()) if str(path).startswith(base)}
                if not within:
                    raise RejectedError("missing", f"no recording {identity}.* below the folder of {table.name}")
                transcribed.add(identity)
                first, others = preferred(within)
                yield Utterance(
                    id=identity,
                    audio=confined(below(within[first], self.path), self.path, self.root),
                    text=checked_text(text.strip()),
                    source=where,
                    audio_name=below(within[first], self.path),
                    speaker=identity.split("_")[0],
                )
                for other in others:
                    at = below(within[other], self.path)
                    yield Rejection(identity[:100], at, "duplicate_recording", f"{within[first].name} is read")
            except RejectedError as error:
                yield Rejection(identity[:100], where, error.reason, error.detail)
