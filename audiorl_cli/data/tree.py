"""Folders of recordings, file by file: which files are read, and under which rule the others are counted.

Nothing below a source is passed over in silence: a file becomes a row, a `Rejection`, or is counted by a `Skipped`.
"""

import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Final

from audiorl_cli.data.rejected import Rejection, Skipped, SkipRule
from audiorl_cli.data.store import Place, Url, below
from audiorl_cli.errors import DataError


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


# What FFmpeg and libsndfile take for sound, containers of film among them. Whether there is any, decoding shows.
AUDIO_SUFFIXES: Final = _words(
    ".3g2 .3ga .3gp .3gpp .aac .ac3 .adts .aif .aifc .aiff .amr .ape .asf .au .avi .avr .awb .bwf .caf .dff .dsf .eac3",
    ".ec3 .f4a .f4v .flac .flv .gsm .htk .ircam .m2a .m2ts .m4a .m4b .m4r .m4v .mka .mkv .mov .mp1 .mp2 .mp3 .mp4",
    ".mpa .mpc .mpeg .mpg .mpga .mts .nist .oga .ogg .ogm .ogv .ogx .opus .paf .pcm .ra .raw .rf64 .rm .rmvb .sd2 .sf",
    ".shn .snd .sph .spx .svx .tak .ts .tta .vob .voc .w64 .wav .wave .weba .webm .wma .wmv .wv",
)
# Of several recordings of one name the first of these is read: nothing has been lost in it.
_LOSSLESS: Final = (".wav", ".wave", ".flac", ".w64", ".rf64", ".bwf", ".aiff", ".aif", ".aifc", ".caf", ".au", ".sph")
# Transcripts, alignments and tables that no reader takes here; a recording beside them still wants its own transcript.
_OTHER_TRANSCRIPTS: Final = _words(
    ".csv .tsv .jsonl .ndjson .parquet .arrow .lab .textgrid .srt .vtt .ass .sbv .lrc .eaf .trs .stm .ctm .rttm .trn",
    ".mlf .phn .wrd .trans .transcript .ttml .elan .cha",
)
_COMPRESSED: Final = _words(".gz .bz2 .xz")
# What is never tried as a recording for having a transcript of its name beside it.
_NO_RECORDINGS: Final = _OTHER_TRANSCRIPTS | _words(
    ".txt .json .xml .md .rst .html .htm .pdf .doc .docx .rtf .png .jpg .jpeg .gif .svg .npy .npz .pt .pkl .h5 .ark",
    ".scp .zip .gz .tar .tgz .bz2 .xz .7z .py .sh .yaml .yml .toml .log .bak .tmp .part .md5 .sha256 .sha1 .db .ini",
)
# Texts about a corpus, by the first word of their names: they want no recording.
_ABOUT: Final = _words(
    "authors bibliography books changelog changes chapters citation contributors copying copyright disclaimer index",
    "info licence license notes notice readme requirements speakers versions",
)
_SYSTEM_FOLDERS: Final = frozenset(
    {"__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir", "#recycle"}
)


@dataclass(frozen=True)
class Listing:
    """One folder and the names of the files in it, sorted; hidden ones are not among them."""

    folder: Place
    names: Sequence[str]


def is_recording(name: str) -> bool:
    """Return whether a file is a recording by its name."""
    return PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES


def is_text(name: str) -> bool:
    """Return whether a file is a `.txt`."""
    return PurePosixPath(name).suffix.lower() == ".txt"


def is_about(name: str) -> bool:
    """Return whether a text that no recording stands beside is one about the corpus (README.txt, SPEAKERS.TXT)."""
    return is_text(name) and PurePosixPath(name).stem.lower().replace("-", "_").split("_")[0] in _ABOUT


def may_be_recording(name: str) -> bool:
    """Return whether a file with a transcript of its name beside it is worth decoding, whatever its suffix."""
    return PurePosixPath(name).suffix.lower() not in _NO_RECORDINGS


def stem_of(name: str) -> str:
    """Return the name without its suffix, in the form that recordings and transcripts are matched by (NFC)."""
    return unicodedata.normalize("NFC", PurePosixPath(name).stem)


def skipped(name: str) -> Skipped:
    """Return the rule that counts a file which is not read for want of a reader."""
    return Skipped("other_transcript" if _is_transcript(name) else "other_file")


def preferred(names: Iterable[str]) -> tuple[str, list[str]]:
    """Return the one of several recordings with one transcript that is read, and the others in order of their names."""

    def rank(name: str) -> tuple[int, str]:
        suffix = PurePosixPath(name).suffix.lower()
        known = len(_LOSSLESS) if suffix in AUDIO_SUFFIXES else len(_LOSSLESS) + 1
        return (_LOSSLESS.index(suffix) if suffix in _LOSSLESS else known), name

    first, *others = sorted(names, key=rank)
    return first, sorted(others)


def listings(top: Place) -> Iterator[Listing | Rejection | Skipped]:
    """Yield every folder below `top`, itself first, in an order that depends on the names alone.

    Links to folders are followed, each folder read once under one name, so that loops end: its own where it lies
    below `top`. Hidden folders, those that systems make and those that prep writes are not listed; the recordings and
    transcripts in the former are counted. A folder that may not be read, and a link to nothing, are rejected by name.
    Raises DataError where `top` itself may not be read.
    """
    yield from _objects(top) if isinstance(top, Url) else _Folders(top)


def unlisted(top: Place, named: Collection[str], table: Place) -> Iterator[Skipped]:
    """Count what looks like speech below `top` and is neither one of the paths `named` nor the `table` of the rows."""
    for entry in listings(top):
        if isinstance(entry, Rejection):
            if entry.reason == "unreadable":
                yield Skipped("unreadable_folder")
        elif isinstance(entry, Skipped):
            yield entry
        else:
            for name in entry.names:
                path = str(entry.folder / name)
                if is_recording(name):
                    if path not in named:
                        yield Skipped("unlisted")
                elif path != str(table) and path not in named and _looks_like_speech(name):
                    yield Skipped("other_transcript")


def _is_transcript(name: str) -> bool:
    path = PurePosixPath(name.lower())
    suffix = PurePosixPath(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix
    return suffix in _OTHER_TRANSCRIPTS or (suffix == ".txt" and not is_about(path.name))


def _looks_like_speech(name: str) -> bool:
    return is_recording(name) or _is_transcript(name)


def _is_hidden_folder(name: str) -> bool:
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def _visible(names: Iterable[str]) -> tuple[list[str], Iterator[Skipped]]:
    """Divide names of files into those to read, sorted, and a count of the hidden ones."""
    listed = sorted(names)
    hidden = sum(name.startswith(".") and _looks_like_speech(name) for name in listed)
    return [name for name in listed if not name.startswith(".")], _counted("hidden_file", hidden)


def _counted(rule: SkipRule, files: int) -> Iterator[Skipped]:
    if files:
        yield Skipped(rule, files)


def written_by_prep(names: Iterable[str]) -> bool:
    """Return whether a folder of files of these names is one that prep has written, or is writing."""
    found = set(names)
    return bool(found & {".progress.jsonl", ".progress"}) or found >= {"manifest.json", "rejected.jsonl"}


@dataclass(frozen=True)
class _Folders:
    """The folders below `top` on this machine."""

    top: Path

    def __iter__(self) -> Iterator[Listing | Rejection | Skipped]:
        found: dict[Path, list[Skipped] | Rejection] = {}
        seen: set[tuple[int, int]] = set()
        links = self._descend(self.top, found, seen)
        while links:
            link = links.pop(0)
            if self._is_new(link, seen):
                links += self._descend(link, found, seen)
            else:
                found[link] = [Skipped("linked_twice")]
        for folder in sorted(found, key=lambda path: path.parts):
            entry = found[folder]
            if isinstance(entry, Rejection):
                yield entry
                continue
            yield from entry
            if Skipped("linked_twice") not in entry:
                yield from self._listing(folder)

    def _is_new(self, link: Path, seen: set[tuple[int, int]]) -> bool:
        stat = os.stat(link)
        above = Path(os.path.realpath(self.top)).is_relative_to(os.path.realpath(link))
        return not above and (stat.st_dev, stat.st_ino) not in seen

    def _descend(
        self, start: Path, found: dict[Path, list[Skipped] | Rejection], seen: set[tuple[int, int]]
    ) -> list[Path]:
        """Note `start` and every folder below it in `found`, and return the links to folders among them, sorted."""
        links: list[Path] = []
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            try:
                stat = os.stat(folder)
                with os.scandir(folder) as entries:
                    listed = list(entries)
            except OSError as error:
                found[folder] = self._unreadable(folder, error)
                continue
            if (stat.st_dev, stat.st_ino) in seen:
                found[folder] = [Skipped("linked_twice")]
                continue
            if folder != self.top and written_by_prep(entry.name for entry in listed):
                continue
            seen.add((stat.st_dev, stat.st_ino))
            hidden = 0
            for entry in listed:
                if not _is_folder(entry):
                    continue
                if _is_hidden_folder(entry.name):
                    hidden += sum(_looks_like_speech(name) for _, _, names in os.walk(entry.path) for name in names)
                else:
                    (links if entry.is_symlink() else waiting).append(Path(entry.path))
            found[folder] = list(_counted("hidden_folder", hidden))
        return sorted(links)

    def _listing(self, folder: Path) -> Iterator[Listing | Rejection | Skipped]:
        try:
            with os.scandir(folder) as entries:
                files = {entry.name: entry for entry in entries if not _is_folder(entry)}
        except OSError as error:
            yield self._unreadable(folder, error)
            return
        names, hidden = _visible(files)
        yield from hidden
        dead = [name for name in names if files[name].is_symlink() and not os.path.exists(files[name].path)]
        for name in dead:
            detail = f"a link to {os.readlink(folder / name)}, which is not there"
            yield Rejection(PurePosixPath(name).stem[:100], below(folder / name, self.top), "missing", detail)
        yield Listing(folder, [name for name in names if name not in dead] if dead else names)

    def _unreadable(self, folder: Path, error: OSError) -> Rejection:
        if folder == self.top:
            raise DataError(
                str(folder),
                expected="a folder to read",
                got=str(error.strerror),
                fix="Check SOURCE and its permissions.",
            ) from error
        return Rejection("", below(folder, self.top), "unreadable", f"the folder: {error.strerror}")


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link whose target may not be looked at
        return False


def _objects(top: Url) -> Iterator[Listing | Skipped]:
    folders = [(folder, [name for _, name in files]) for folder, files in groupby(top.below(), key=lambda one: one[0])]
    ours = {folder for folder, names in folders if folder != top and written_by_prep(names)}
    ours |= {folder.parent for folder, _ in folders if folder.name == ".progress"} - {top}
    for folder, names in folders:
        parts = folder[len(top) :].split("/")
        if folder in ours or folder.parent in ours:
            continue
        if any(map(_is_hidden_folder, parts)):
            yield from _counted("hidden_folder", sum(map(_looks_like_speech, names)))
            continue
        visible, hidden = _visible(names)
        yield from hidden
        yield Listing(folder, visible)
