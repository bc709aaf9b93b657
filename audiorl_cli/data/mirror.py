"""A folder of this machine that stands for a prefix of an object store, where what grows and is renamed cannot be.

The store is what counts: it is taken over before anything is written, and brought up to date at moments of which each
leaves it fit to go on from, whenever the next is cut off.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from audiorl_cli.data.cache import cache_folder
from audiorl_cli.data.store import Place, Stat, Url
from audiorl_cli.errors import DataError

# What makes the folder it stands in a whole one: put last of all, and without it the others are not taken over.
_VOUCHES: Final = {"checkpoints": "snapshot.json", "model": "config.json"}
_WEIGHTS: Final = ".safetensors"  # of the same size they are the same: another file holds them to their sha256


class Mirror:
    """`folder` for `url`. Raises DataError, from each of its methods, where store or disk cannot be used."""

    def __init__(self, url: Url) -> None:
        self.url = url
        self.folder = cache_folder() / "runs" / hashlib.sha256(url.encode()).hexdigest()[:16] / url.name
        self._known: dict[str, tuple[int, int]] = {}  # what the store has, as it is on this disk

    def pull(self) -> None:
        """Make the folder what the store has; what only this machine has goes."""
        with _usable(self.url):
            there = self.url.all()
            vouched = {name for name in there if _is_vouched(name, there)}
            for name in self._names():
                if name not in vouched or there[name].st_size != (self.folder / name).stat().st_size:
                    (self.folder / name).unlink()
            for name in sorted(vouched):
                path = self.folder / name
                if not (path.exists() and name.endswith(_WEIGHTS)):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with open(path, "wb") as file:
                        self._object(name).copy_to(file)
            self._known = {name: _stamp(self.folder / name) for name in vouched}

    def push(self) -> None:
        """Make the store what the folder is: what vouches for others after them, and what has gone at the end."""
        with _usable(self.url):
            here = {name: _stamp(self.folder / name) for name in self._names()}
            for name in sorted(here, key=_turn):
                if self._known.get(name) != here[name]:
                    with open(self.folder / name, "rb") as file:
                        self._object(name).copy_from(file)
                    self._known[name] = here[name]
            for name in sorted(self._known.keys() - here.keys(), key=_turn, reverse=True):
                self._object(name).delete()
                del self._known[name]

    def forget(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _object(self, name: str) -> Url:
        return Url(f"{self.url}/{name}")

    def _names(self) -> list[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        names = [path.relative_to(self.folder).as_posix() for path in files]
        return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


@contextmanager
def delivered(out: Place) -> Iterator[Path]:
    """A folder to write into, whose files are those of `out` afterwards: itself, or on the disk until it is whole."""
    if isinstance(out, Path):
        yield out
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)
        with _usable(out):
            for path in sorted(Path(folder).iterdir()):
                with open(path, "rb") as file:
                    (out / path.name).copy_from(file)


def _stamp(path: Path) -> tuple[int, int]:
    told = path.stat()
    return told.st_size, told.st_mtime_ns


def _turn(name: str) -> tuple[int, bool, str]:
    """Logs first: lines behind the newest checkpoint are dropped, and those before it could not be had again."""
    top = name.partition("/")[0]
    return (list(_VOUCHES).index(top) + 1 if top in _VOUCHES else 0), name.endswith(_VOUCHES.get(top, "//")), name


def _is_vouched(name: str, there: dict[str, Stat]) -> bool:
    folder, _, _ = name.rpartition("/")
    last = _VOUCHES.get(name.partition("/")[0])
    return last is None or f"{folder}/{last}" in there


@contextmanager
def _usable(url: Url) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            str(url),
            expected="to read and write there",
            got=f"{error.strerror or error} ({error.filename})",
            fix="Check the store, the credentials and this disk, run again: it goes on from what the store has.",
        ) from error
