"""A folder of this machine that stands for a prefix of an object store: a run, where what grows and is renamed cannot
be, or a model, whose files have to be read here and there.

The store is what counts: it is taken over before anything is written, and brought up to date at moments of which each
leaves it fit to go on from, whenever the next is cut off. So what no process has in use may go at any time.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from audiorl_cli import caches
from audiorl_cli.data.cache import held
from audiorl_cli.data.lock import Holder, lock_file, lock_folder
from audiorl_cli.data.store import Place, Stat, Url, place
from audiorl_cli.errors import DataError

# What makes the folder it stands in a whole one: put last of all, and without it the others are not taken over.
_VOUCHES: Final = {"checkpoints": "snapshot.json", "model": "config.json"}
# Of a folder of transformers' or of a run of ours: config, tokenizer and processor; and with them the weights.
_SMALL: Final = re.compile(r"(model/)?[^/]+\.(json|txt|jinja|toml)")
_MODEL: Final = re.compile(rf"{_SMALL.pattern}|(model/)?[^/]+\.safetensors")
_ALL: Final = re.compile(".*")
_CLAIM: Final = ".owner.json"  # which process writes there


class Mirror:
    """`folder` for `url`. Raises DataError, from each of its methods, where store or disk cannot be used."""

    def __init__(self, url: Url, kind: Literal["runs", "models"] = "runs") -> None:
        self.url = url
        self.folder = caches.folder() / kind / hashlib.sha256(url.encode()).hexdigest()[:16] / url.name
        self._known: dict[str, tuple[int, int]] = {}  # what the store has, as it is on this disk
        self._holder: bytes | None = None  # what the store says of this process, while it has claimed the place

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """While entered no other process of this machine holds the folder, and `push` writes only until one of another
        machine claims the store.

        A store has no locks that end with their process: the last to claim it has it, so a dead one is no obstacle.
        Raises DataError where a process of this machine holds it.
        """
        with _usable(self.url):
            lock = self.folder.parent.with_name(f".{self.folder.parent.name}.lock")
            lock.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(lock, str(self.url)):
            holder = Holder.this().dump()
            with _usable(self.url):
                self._object(_CLAIM).write_bytes(holder)
            self._holder = holder
            try:
                yield
            finally:
                self._holder = None
                with suppress(OSError):  # what ended it matters more, and a claim of the past hinders nobody
                    if self._object(_CLAIM).read_bytes() == holder:
                        self._object(_CLAIM).delete()

    def pull(self, wanted: re.Pattern[str] = _ALL) -> None:
        """Make the folder what the store has, of the names `wanted`; what only this machine has goes.

        What is in the folders of other mirrors goes too, unless a process has them in use.
        """
        with _usable(self.url), held(self.folder.parent):
            there = {name: stat for name, stat in self.url.all().items() if name != _CLAIM}
            vouched = {
                name: stat for name, stat in there.items() if wanted.fullmatch(name) and _is_vouched(name, there)
            }
            for name in filter(wanted.fullmatch, self._names()):
                # A copy has the time of the object, and with it says that it is the same.
                if name not in vouched or _stamp(self.folder / name) != _told(vouched[name]):
                    (self.folder / name).unlink()
                    with suppress(OSError):  # other files are in it; an empty one would pass for a damaged checkpoint
                        (self.folder / name).parent.rmdir()
            for name in sorted(vouched):
                path = self.folder / name
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    part = path.with_name(f".{path.name}.part")
                    with open(part, "wb") as file:
                        self._object(name).copy_to(file)
                    os.utime(part, ns=(vouched[name].st_mtime_ns,) * 2)
                    part.replace(path)
            self._known = {name: _stamp(self.folder / name) for name in vouched}

    def push(self) -> None:
        """Make the store what the folder is: what vouches for others after them, and what has gone at the end."""
        self._demand_claim()
        with _usable(self.url):
            here = {name: _stamp(self.folder / name) for name in self._names()}
            changed = [name for name in sorted(here, key=_turn) if self._known.get(name) != here[name]]
            for name in changed:
                with open(self.folder / name, "rb") as file:
                    self._object(name).copy_from(file)
                self._known[name] = here[name]
            for name in sorted(self._known.keys() - here.keys(), key=_turn, reverse=True):
                self._object(name).delete()
                del self._known[name]
            there = self.url.all() if changed else {}
            for name in changed:
                os.utime(self.folder / name, ns=(there[name].st_mtime_ns,) * 2)
                self._known[name] = _told(there[name])

    def forget(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _demand_claim(self) -> None:
        if self._holder is None:
            return
        found = b""
        with _usable(self.url), suppress(FileNotFoundError):
            found = self._object(_CLAIM).read_bytes()
        if found != self._holder:
            raise DataError(
                str(self.url),
                expected="no other command that writes there",
                got=f"{Holder.parse(found) or 'another one'}, which has taken it over",
                fix="Let that one go on, or end it and run this again: it goes on from what the store has.",
            )

    def _object(self, name: str) -> Url:
        return Url(f"{self.url}/{name}")

    def _names(self) -> list[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        names = [path.relative_to(self.folder).as_posix() for path in files]
        return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def local(model: str, *, weights: bool = False) -> Path:
    """The folder on this machine of a `model`: its own, or of one in a store a copy, of which `weights` come if asked.

    What is in a store is compared with the copy once in a process. Raises DataError where it cannot be read, UsageError
    for a store that is not spoken to.
    """
    named = place(model)
    return named if isinstance(named, Path) else _copied(named, weights)


@cache
def _copied(url: Url, weights: bool) -> Path:
    mirror = Mirror(url, "models")
    mirror.pull(_MODEL if weights else _SMALL)
    return mirror.folder


@contextmanager
def delivered(out: Place) -> Iterator[Path]:
    """A folder to write into, whose files are those of `out` afterwards: itself, or on the disk until it is whole.

    A folder of this machine is locked meanwhile. Raises DataError for one that another command writes into.
    """
    if isinstance(out, Path):
        with lock_folder(out):
            yield out
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)
        with _usable(out):
            for path in sorted(Path(folder).iterdir()):
                with open(path, "rb") as file:
                    (out / path.name).copy_from(file)


def _stamp(path: Path) -> tuple[int, int]:
    return _told(path.stat())


def _told(stat: Stat | os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


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
