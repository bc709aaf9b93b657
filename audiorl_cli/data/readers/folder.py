"""Folders of recordings, each with its transcript in a `.txt` of the same name beside it."""

import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from audiorl_cli.data.readers.lines import opened
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Entry, Utterance, checked_name, checked_text, confined
from audiorl_cli.data.store import Place, below
from audiorl_cli.data.tree import (
    Listing,
    is_about,
    is_recording,
    is_text,
    listings,
    may_be_recording,
    preferred,
    skipped,
    stem_of,
)

_TEXT_BYTES: Final = 1 << 18
_NEAR: Final = 3  # names that a rejection shows


@dataclass(frozen=True)
class FolderSource:
    """The folder at `path` with all folders below it, in order of the names.

    What has a transcript of its name beside it is taken for a recording whatever its suffix: decoding shows.
    """

    path: Place
    root: Place | None = None
    kind: str = "folder"

    def items(self) -> Iterator[Entry]:
        """One item a recording, one a transcript without a recording, and what else was counted."""
        for entry in listings(self.path):
            if isinstance(entry, Listing):
                yield from self._items(entry)
            else:
                yield entry

    def _items(self, listing: Listing) -> Iterator[Entry]:
        pairs = _Pairs.of(listing.names)
        texts = {*pairs.texts.values()}
        for name in listing.names:
            stem, where = stem_of(name), below(listing.folder / name, self.path)
            if name in texts and (stem in pairs.recordings or not is_about(name)):
                if stem not in pairs.recordings:
                    yield Rejection(stem[:100], where, "missing", f"no recording {stem}.*{pairs.near(name)}")
            elif name not in pairs.recordings.get(stem, ()):
                yield skipped(name)
            elif stem not in pairs.texts:
                yield Rejection(stem[:100], where, "no_transcript", f"no {stem}.txt{pairs.near(name)}")
            elif name != (first := preferred(pairs.recordings[stem])[0]):
                yield Rejection(stem[:100], where, "duplicate_recording", f"{first} has the same transcript")
            else:
                yield self._item(listing.folder, name, pairs.texts[stem], where)

    def _item(self, folder: Place, name: str, transcript: str, where: str) -> Utterance | Rejection:
        try:
            return Utterance(
                id=checked_name(PurePosixPath(name).stem, "an id"),
                audio=confined(name, folder, self.root),
                text=checked_text(read_transcript(confined(transcript, folder, self.root))),
                source=where,
                audio_name=where,
                fallback_id=checked_name(where, "an id"),
            )
        except RejectedError as error:
            return Rejection(PurePosixPath(name).stem[:100], where, error.reason, error.detail)


@dataclass(frozen=True)
class _Pairs:
    """The transcripts of a folder by stem, and its recordings, of which several may have one stem.

    `alike`: the names by what they begin with before any of their points, in lower case.
    """

    texts: Mapping[str, str]
    recordings: Mapping[str, Sequence[str]]
    alike: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, names: Sequence[str]) -> "_Pairs":
        texts: dict[str, str] = {}
        for name in sorted(filter(is_text, names), key=lambda name: not name.endswith(".txt")):
            texts.setdefault(stem_of(name), name)
        recordings: dict[str, list[str]] = {}
        others: dict[str, list[str]] = {}
        for name in names:
            if is_recording(name):
                recordings.setdefault(stem_of(name), []).append(name)
            elif may_be_recording(name) and not is_about(texts.get(stem_of(name), "README.txt")):
                others.setdefault(stem_of(name), []).append(name)
        alike: dict[str, list[str]] = {}
        for name in names:
            first, *rest = unicodedata.normalize("NFC", name).casefold().split(".")
            for start in itertools.accumulate(rest[:-1], "{}.{}".format, initial=first):
                alike.setdefault(start, []).append(name)
        return cls(texts, others | recordings, alike)

    def near(self, name: str) -> str:
        """Return what stands in the folder under nearly the same name, as the end of a sentence."""
        near = [one for one in self.alike.get(stem_of(name).casefold(), ()) if one != name]
        return f"; there is {', '.join(near[:_NEAR])}" if near else ""


def read_transcript(path: Place) -> str | None:
    """Return the text in a file, None where there is no such file. Raises RejectedError."""
    try:
        with opened(path) as file:
            raw = file.read(_TEXT_BYTES + 1)
        if len(raw) > _TEXT_BYTES:
            raise RejectedError("bad_row", f"a transcript longer than {_TEXT_BYTES} bytes")
        return raw.decode("utf-8-sig").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise RejectedError("bad_row", "a transcript that is not UTF-8") from error
    except OSError as error:
        raise RejectedError("unreadable", f"the transcript: {error.strerror}") from error
