"""Folders of recordings, each with its transcript in a `.txt` of the same name beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from audiorl_cli.data.readers.lines import opened
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import AUDIO_SUFFIXES, Item, Utterance, checked_name, checked_text, confined, walk
from audiorl_cli.data.store import Place, below

_TEXT_BYTES: Final = 1 << 18


@dataclass(frozen=True)
class FolderSource:
    """The folder at `path` with all folders below it, in order of the names."""

    path: Place
    root: Place | None = None
    kind: str = "folder"

    def items(self) -> Iterator[Item]:
        """One item a recording."""
        for folder, name in walk(self.path):
            file = folder / name
            if file.suffix.lower() not in AUDIO_SUFFIXES:
                continue
            where = below(file, self.path)
            try:
                yield Utterance(
                    id=checked_name(file.stem, "an id"),
                    audio=confined(name, folder, self.root),
                    text=checked_text(_transcript(confined(f"{file.stem}.txt", folder, self.root))),
                    source=where,
                    audio_name=where,
                    fallback_id=checked_name(where, "an id"),
                )
            except RejectedError as error:
                yield Rejection(file.stem[:100], where, error.reason, error.detail)


def _transcript(path: Place) -> str | None:
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
