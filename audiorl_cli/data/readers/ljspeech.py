"""LJSpeech trees: `metadata.csv` without a header (ID|text|normalised text, no quotation) beside `wavs/ID.wav`.

The normalised text is the transcript where there is one, and the column `text_original` keeps the other. Source:
https://keithito.com/LJ-Speech-Dataset/
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from audiorl_cli.data.readers.lines import Line, read_lines
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Entry, Fields, Utterance, checked_name, checked_text, confined, walk
from audiorl_cli.data.store import Place, below
from audiorl_cli.data.tree import is_recording, preferred, stem_of, unlisted
from audiorl_cli.errors import DataError

METADATA: Final = "metadata.csv"
_COLUMNS: Final = (2, 3)


def is_table(path: Place) -> bool:
    """Return whether a metadata.csv is of this kind: two or three columns, divided by bars, below no header."""
    try:
        first = next(read_lines(path), None)
    except DataError:
        return False
    cells = first.text.split("|") if isinstance(first, Line) else []
    fields = Fields.of(cell.strip().lower() for cell in cells)
    return len(cells) in _COLUMNS and fields.audio is None and fields.text is None


@dataclass(frozen=True)
class LjSpeechSource:
    """The tree at `path`, in the order of its table."""

    path: Place
    root: Place | None = None
    kind: str = "ljspeech"

    def items(self) -> Iterator[Entry]:
        """Yield one item a line of the table, then count the files that none names."""
        found: dict[str, list[str]] = {}
        for folder, name in walk(self.path):
            if is_recording(name):
                found.setdefault(stem_of(name), []).append(below(folder / name, self.path))
        used: set[str] = set()
        table = self.path / METADATA
        for line in read_lines(table):
            if isinstance(line, Rejection):
                yield line
                continue
            cells, where = [cell.strip() for cell in line.text.split("|")], f"{METADATA} line {line.number}"
            try:
                if len(cells) not in _COLUMNS:
                    raise RejectedError("bad_row", f"{len(cells)} columns, not ID|text or ID|text|normalised text")
                # The id may be written as the name of its file.
                identity = stem_of(cells[0] if is_recording(cells[0]) else f"{cells[0]}.wav")
                names = found.get(identity, [])
                if not names:
                    raise RejectedError("missing", f"no recording {identity}.*")
                first, others = preferred(names)
                used.update(str(self.path / name) for name in names)
                yield Utterance(
                    id=checked_name(PurePosixPath(identity).name, "an id"),
                    audio=confined(first, self.path, self.root),
                    text=checked_text(cells[-1] or cells[1]),
                    source=where,
                    audio_name=first,
                    extra={"text_original": cells[1]} if len(cells) == len(("id", "text", "normalised")) else {},
                )
                for other in others:
                    yield Rejection(identity[:100], other, "duplicate_recording", f"{first} is read")
            except RejectedError as error:
                yield Rejection(cells[0][:100], where, error.reason, error.detail)
        yield from unlisted(self.path, used, table)
