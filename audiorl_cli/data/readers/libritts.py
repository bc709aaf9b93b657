"""LibriTTS trees: `SPEAKER/CHAPTER/ID.wav` with `ID.normalized.txt` and `ID.original.txt` beside it.

The normalised text is the transcript; the original is kept as the column `text_original`. Where a chapter has its texts
only in `*.trans.tsv` (ID, original, normalised), they are read from there. Source: https://www.openslr.org/60/
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from audiorl_cli.data.readers.folder import read_transcript
from audiorl_cli.data.readers.lines import read_lines
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Entry, Utterance, checked_name, checked_text, confined
from audiorl_cli.data.store import Place, below
from audiorl_cli.data.tree import Listing, is_recording, listings, preferred, skipped, stem_of

NORMALIZED: Final = ".normalized.txt"
ORIGINAL: Final = ".original.txt"
TABLE: Final = ".trans.tsv"


@dataclass(frozen=True)
class LibriTTSSource:
    """The tree at `path`, at whatever depth its chapters lie, in order of the names."""

    path: Place
    root: Place | None = None
    kind: str = "libritts"

    def items(self) -> Iterator[Entry]:
        """Yield one item for each recording and for each transcript without one, and count the other files."""
        for entry in listings(self.path):
            if isinstance(entry, Listing):
                yield from self._chapter(entry)
            else:
                yield entry

    def _chapter(self, listing: Listing) -> Iterator[Entry]:
        recordings: dict[str, list[str]] = {}
        for name in filter(is_recording, listing.names):
            recordings.setdefault(stem_of(name), []).append(name)
        files = {
            ending: {stem_of(name[: -len(".txt")]): name for name in listing.names if name.endswith(ending)}
            for ending in (NORMALIZED, ORIGINAL)
        }
        rows: dict[str, tuple[str, str]] = {}
        for name in listing.names:
            if name.endswith(TABLE):
                yield from self._table(listing.folder / name, rows)
            elif not is_recording(name) and not name.endswith((NORMALIZED, ORIGINAL)):
                yield skipped(name)
        for stem in sorted({*recordings, *files[NORMALIZED], *files[ORIGINAL], *rows}):
            texts = [files[ending].get(stem) for ending in (NORMALIZED, ORIGINAL)]
            if stem not in recordings:
                where = next((below(listing.folder / text, self.path) for text in texts if text), stem)
                yield Rejection(stem[:100], where, "missing", f"no recording {stem}.*")
                continue
            first, others = preferred(recordings[stem])
            for other in others:
                where = below(listing.folder / other, self.path)
                yield Rejection(stem[:100], where, "duplicate_recording", f"{first} has the same transcript")
            yield self._item(listing.folder, first, stem, texts, rows.get(stem))

    def _item(
        self, folder: Place, name: str, stem: str, texts: list[str | None], row: tuple[str, str] | None
    ) -> Utterance | Rejection:
        where = below(folder / name, self.path)
        try:
            normalized, original = (text and read_transcript(confined(text, folder, self.root)) for text in texts)
            if normalized is None and row is not None:
                original, normalized = row
            if normalized is None:
                raise RejectedError("no_transcript", f"no {stem}{NORMALIZED} beside it, nor a line in *{TABLE}")
            return Utterance(
                id=checked_name(stem, "an id"),
                audio=confined(name, folder, self.root),
                text=checked_text(normalized),
                source=where,
                audio_name=where,
                speaker=stem.split("_")[0],
                fallback_id=checked_name(where, "an id"),
                extra={"text_original": original},
            )
        except RejectedError as error:
            return Rejection(stem[:100], where, error.reason, error.detail)

    def _table(self, path: Place, rows: dict[str, tuple[str, str]]) -> Iterator[Rejection]:
        for line in read_lines(path):
            if isinstance(line, Rejection):
                yield line
                continue
            cells, where = line.text.split("\t"), f"{path.name} line {line.number}"
            if len(cells) != 3:
                yield Rejection(cells[0][:100], where, "bad_row", f"{len(cells)} columns, not ID, original, normalised")
            elif cells[0] in rows:
                yield Rejection(cells[0][:100], where, "duplicate_id", "an earlier line has this id")
            else:
                rows[stem_of(f"{cells[0]}.wav")] = (cells[1].strip(), cells[2].strip())
