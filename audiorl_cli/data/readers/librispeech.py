"""LibriSpeech trees: `SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt` beside the recordings it transcribes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from audiorl_cli.data.readers.lines import read_lines
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Entry, Utterance, checked_name, checked_text, confined
from audiorl_cli.data.store import Place, below
from audiorl_cli.data.tree import Listing, is_recording, listings, preferred, skipped, stem_of

TRANSCRIPTS: Final = ".trans.txt"


@dataclass(frozen=True)
class LibriSpeechSource:
    """The tree at `path`, at whatever depth its chapters lie. Chapters in order of their names, rows as transcribed."""

    path: Place
    root: Place | None = None
    kind: str = "librispeech"

    def items(self) -> Iterator[Entry]:
        """One item a transcript line, then the folder's recordings without a line, and what else was counted."""
        for entry in listings(self.path):
            if isinstance(entry, Listing):
                yield from self._folder(entry)
            else:
                yield entry

    def _folder(self, listing: Listing) -> Iterator[Entry]:
        found: dict[str, list[str]] = {}
        for name in filter(is_recording, listing.names):
            found.setdefault(stem_of(name), []).append(name)
        transcripts = [name for name in listing.names if name.lower().endswith(TRANSCRIPTS)]
        transcribed: set[str] = set()
        for name in transcripts:
            yield from self._chapter(listing.folder, name, found, transcribed)
        for stem, names in found.items():
            first, others = preferred(names)
            rejected = others if stem in transcribed else [first, *others]
            for name in rejected:
                where = below(listing.folder / name, self.path)
                if stem in transcribed:
                    yield Rejection(stem, where, "duplicate_recording", f"{first} has the same transcript")
                else:
                    wanted = f"line in {' or '.join(transcripts)}" if transcripts else f"*{TRANSCRIPTS} in its folder"
                    yield Rejection(stem, where, "no_transcript", f"no {wanted}")
        for name in listing.names:
            if not is_recording(name) and name not in transcripts:
                yield skipped(name)

    def _chapter(
        self, folder: Place, transcripts: str, recordings: dict[str, list[str]], transcribed: set[str]
    ) -> Iterator[Entry]:
        for line in read_lines(folder / transcripts):
            if isinstance(line, Rejection):
                yield line
                continue
            identity, _, text = line.text.strip().partition(" ")
            where = f"{transcripts} line {line.number}"
            try:
                identity = checked_name(identity, "an id")
                transcribed.add(identity)
                name = preferred(recordings[identity])[0] if identity in recordings else f"{identity}.flac"
                yield Utterance(
                    id=identity,
                    audio=confined(name, folder, self.root),
                    text=checked_text(text.strip()),
                    source=where,
                    audio_name=below(folder / name, self.path),
                    speaker=identity.split("-")[0],
                )
            except RejectedError as error:
                yield Rejection(identity[:100], where, error.reason, error.detail)
