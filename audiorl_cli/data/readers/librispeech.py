"""LibriSpeech trees: `SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt` beside the recordings it transcribes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audiorl_cli.data.readers.lines import read_lines
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import AUDIO_SUFFIXES, Item, Utterance, checked_name, checked_text, confined, walk
from audiorl_cli.data.store import Place, Url, below


@dataclass(frozen=True)
class LibriSpeechSource:
    """The tree at `path`, at whatever depth its chapters lie. Chapters in order of their names, rows as transcribed."""

    path: Place
    root: Place | None = None
    kind: str = "librispeech"

    def items(self) -> Iterator[Item]:
        """One item a transcript line, then the chapter's recordings that have no transcript."""
        for folder, name in walk(self.path):
            if name.endswith(".trans.txt"):
                yield from self._chapter(folder, name)

    def _chapter(self, folder: Place, transcripts: str) -> Iterator[Item]:
        names = folder.files() if isinstance(folder, Url) else os.listdir(folder)
        files = sorted(name for name in names if Path(name).suffix.lower() in AUDIO_SUFFIXES)
        recordings = {Path(name).stem: name for name in files}
        for line in read_lines(folder / transcripts):
            if isinstance(line, Rejection):
                yield line
                continue
            identity, _, text = line.text.strip().partition(" ")
            where = f"{transcripts} line {line.number}"
            name = recordings.pop(identity, f"{identity}.flac")
            try:
                yield Utterance(
                    id=checked_name(identity, "an id"),
                    audio=confined(name, folder, self.root),
                    text=checked_text(text.strip()),
                    source=where,
                    audio_name=below(folder / name, self.path),
                    speaker=identity.split("-")[0],
                )
            except RejectedError as error:
                yield Rejection(identity[:100], where, error.reason, error.detail)
        for stem, name in recordings.items():
            where = below(folder / name, self.path)
            yield Rejection(stem, where, "no_transcript", f"no line in {transcripts}")
