"""VCTK trees: `wav48_silence_trimmed/SPEAKER/ID_mic1.flac` (or `wav48/SPEAKER/ID.wav`) and `txt/SPEAKER/ID.txt`.

Each utterance was recorded by two microphones. The first is read, another where it is missing, and the column
`microphone` says which; the others are counted. Source: https://doi.org/10.7488/ds/2645
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from audiorl_cli.data.readers.folder import read_transcript
from audiorl_cli.data.readers.lines import read_lines
from audiorl_cli.data.rejected import RejectedError, Rejection, Skipped
from audiorl_cli.data.sources import Entry, Utterance, checked_name, checked_text, confined
from audiorl_cli.data.store import Place, below
from audiorl_cli.data.tree import Listing, is_recording, is_text, listings, preferred, skipped, stem_of

RECORDINGS: Final = ("wav48_silence_trimmed", "wav48")
TEXTS: Final = "txt"
_SPEAKERS: Final = "speaker-info.txt"
_MICROPHONE: Final = re.compile(r"(?P<id>.+)_(?P<microphone>mic\d+)")


@dataclass
class _Parts:
    """What belongs to one utterance: the folder of its recordings, and their names by microphone; its transcript."""

    folder: Place | None = None
    microphones: dict[str, list[str]] = field(default_factory=dict)
    text: Place | None = None


@dataclass(frozen=True)
class VctkSource:
    """The tree at `path`, in order of the utterances' names."""

    path: Place
    root: Place | None = None
    kind: str = "vctk"

    def items(self) -> Iterator[Entry]:
        """Yield one item for each utterance, and count the other files."""
        found: dict[str, _Parts] = {}
        speakers: dict[str, Mapping[str, str]] = {}
        for entry in listings(self.path):
            if not isinstance(entry, Listing):
                yield entry
                continue
            for name in entry.names:
                if is_recording(name):
                    match = _MICROPHONE.fullmatch(stem_of(name))
                    identity, microphone = match.group("id", "microphone") if match else (stem_of(name), "")
                    parts = found.setdefault(identity, _Parts())
                    parts.folder = entry.folder
                    parts.microphones.setdefault(microphone, []).append(name)
                elif is_text(name) and entry.folder.parent.name == TEXTS:
                    found.setdefault(stem_of(name), _Parts()).text = entry.folder / name
                elif name == _SPEAKERS:
                    speakers |= _speakers(entry.folder / name)
                else:
                    yield skipped(name)
        for identity in sorted(found):
            yield from self._utterance(identity, found[identity], speakers)

    def _utterance(
        self, identity: str, parts: _Parts, speakers: Mapping[str, Mapping[str, str]]
    ) -> Iterator[Utterance | Rejection | Skipped]:
        if parts.folder is None:
            assert parts.text is not None
            where = below(parts.text, self.path)
            yield Rejection(identity[:100], where, "missing", f"no recording {identity}_mic1.*")
            return
        microphone, *others = sorted(parts.microphones)
        first, same = preferred(parts.microphones[microphone])
        where = below(parts.folder / first, self.path)
        speaker = parts.folder.name
        try:
            text = (
                None if parts.text is None else read_transcript(confined(parts.text.name, parts.text.parent, self.root))
            )
            if text is None:
                raise RejectedError("no_transcript", f"no {TEXTS}/{speaker}/{identity}.txt")
            yield Utterance(
                id=checked_name(identity, "an id"),
                audio=confined(first, parts.folder, self.root),
                text=checked_text(text),
                source=where,
                audio_name=where,
                speaker=checked_name(speaker, "a speaker"),
                extra={"microphone": microphone, **speakers.get(speaker, {})},
            )
        except RejectedError as error:
            yield Rejection(identity[:100], where, error.reason, error.detail)
        for name in same:
            at = below(parts.folder / name, self.path)
            yield Rejection(identity[:100], at, "duplicate_recording", f"{first} has the same transcript")
        for other in others:
            yield Skipped("other_microphone", len(parts.microphones[other]))


def _speakers(path: Place) -> dict[str, Mapping[str, str]]:
    """Return age, gender and accent by speaker. A line has id, age, gender, accent; the id may lack its "p"."""
    found: dict[str, Mapping[str, str]] = {}
    for line in read_lines(path):
        words = [] if isinstance(line, Rejection) else line.text.split()
        if len(words) >= 4 and words[1].isdigit():
            about = dict(zip(("age", "gender", "accent"), words[1:], strict=False))
            found[words[0] if words[0][0].isalpha() else f"p{words[0]}"] = about
    return found
