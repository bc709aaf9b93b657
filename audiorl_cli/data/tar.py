"""Files within tars, read where they lie: a tar is listed once, and nothing of it is unpacked to a folder."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from audiorl_cli.data.readers.lines import regular
from audiorl_cli.data.rejected import RejectedError, Rejection, Skipped
from audiorl_cli.data.store import Stat
from audiorl_cli.data.tree import is_recording, is_text
from audiorl_cli.errors import DataError

SUFFIX: Final = ".tar"
SUFFIXES: Final = (SUFFIX, ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MAGIC: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Member:
    """The file `path` of the tar `archive`: `size` bytes from byte `offset` on."""

    archive: Path
    path: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def stat(self) -> Stat:
        """Return its size, and when its tar was written. Raises OSError."""
        return Stat(self.size, os.stat(self.archive).st_mtime_ns)

    def read_bytes(self) -> bytes:
        """Return its content. Raises as `blocks`."""
        return b"".join(self.blocks())

    def blocks(self) -> Iterator[bytes]:
        """Yield its content, some of it at a time. Raises OSError, and RejectedError where the tar ends before it."""
        with open(self.archive, "rb") as tar:
            tar.seek(self.offset)
            left = self.size
            while block := tar.read(min(left, _BLOCK)):
                yield block
                left -= len(block)
        if left:
            raise RejectedError("truncated", f"{self.archive.name} ends within {self.path}"[:200])


def members(archive: Path) -> Iterator[Member | Rejection | Skipped]:
    """Yield the files of a tar in their order, then why it cannot be read to its end where it cannot.

    Hidden recordings and transcripts (`._a.wav`, which macOS adds) are counted. Raises DataError for what is no tar, or
    a compressed one, in which nothing can be read in place.
    """
    found: dict[str, Member] = {}
    try:
        with open(archive, "rb", opener=regular) as file:
            head = file.read(_BLOCK)
            packed = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
            if packed is not None:
                raise _unusable(archive, f"one compressed by {packed}", "Decompress it: files are read where they lie.")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (entry := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # it would remember them all
                    if not entry.isdir():
                        yield _member(archive, entry, found)
                end = tar.offset
            yield from _rest(archive, file, end)
    except (tarfile.TarError, EOFError, ValueError) as error:
        if not found:
            raise _unusable(archive, f"{error}"[:100], "Check the file.") from error
        yield Rejection("", archive.name, "truncated", f"the tar cannot be read to its end: {error}"[:200])
    except OSError as error:
        raise _unusable(archive, str(error.strerror), "Check SOURCE and its permissions.") from error


def _member(archive: Path, entry: tarfile.TarInfo, found: dict[str, Member]) -> Member | Rejection | Skipped:
    path = os.path.normpath(entry.name).lstrip("/")
    if "/." in f"/{path}":
        return Skipped("hidden_file" if is_recording(path) or is_text(path) else "other_file")
    if entry.islnk() and os.path.normpath(entry.linkname).lstrip("/") in found:  # the same file under another name
        twin = found[os.path.normpath(entry.linkname).lstrip("/")]
        return Member(archive, path, twin.offset, twin.size)
    if path in found:
        return Rejection("", f"{archive.name}/{path}", "duplicate_id", "the tar has an earlier file of this name")
    if not entry.isreg() or entry.issparse():
        detail = "a sparse file in a tar" if entry.issparse() else "a link or device in a tar"
        return Rejection(PurePosixPath(path).stem[:100], f"{archive.name}/{path}", "not_a_file", detail)
    found[path] = Member(archive, path, entry.offset_data, entry.size)
    return found[path]


def _rest(archive: Path, file: BinaryIO, end: int) -> Iterator[Rejection]:
    """Yield why files may be missing that follow byte `end`, where the tar seems to end: all must be zeros from there.

    The library takes a damaged header for the end, and does not look for a second tar behind a first one.
    """
    file.seek(end)
    while block := file.read(_BLOCK):
        if block.count(0) < len(block):
            detail = f"data behind what seems to be the end of the tar, at byte {end}: damaged, or two tars in one"
            yield Rejection("", archive.name, "corrupt", detail)
            return


def _unusable(archive: Path, got: str, fix: str) -> DataError:
    return DataError(str(archive), expected="a tar to read", got=got, fix=fix)
