"""What is said of a file that is not there: where it was looked for, and what is there under nearly its name."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote

from audiorl_cli.data.store import Place, Url

_PARENTS: Final = 4  # folders above a table that a name is tried from
_DRIVE: Final = re.compile(r"^[A-Za-z]:(?=[\\/])")


def looked_for(path: Place, written: str = "", folder: Place | None = None) -> str:
    """Return the absolute path of a file that is not there, and the first near miss there is.

    `written`: the name that led to `path`, as its source in `folder` has it. Near misses: another case, form of Unicode
    or suffix, none or white space in a name, back slashes, %20, ~, a name that counts from another folder, and an
    absolute one of another machine.
    """
    if isinstance(path, Url):
        near = _alike(path.name, _objects(path.parent))
        return str(path) + (f"; there is {path.parent / near[0]}, {near[1]}" if near else "")
    full = os.path.abspath(path)
    if os.path.islink(full):
        return f"{full} is a link to {os.readlink(full)}, which is not there"
    near = next(_near_misses(full, written, folder if isinstance(folder, Path) else None), None)
    return full + (f"; there is {near[0]}, {near[1]}" if near else _first_absent(full))


def _near_misses(full: str, written: str, folder: Path | None) -> Iterator[tuple[str, str]]:
    """Paths that are there, and what sets each apart from what was looked for."""
    found = _resembling(full)
    if found:
        yield found
    base = full[: -len(written)] if written and full.endswith(written) else os.path.dirname(full)
    for name, why in (
        (_DRIVE.sub("", written).replace("\\", "/"), "with slashes for back slashes"),
        (unquote(written), "with its % signs decoded"),
        (os.path.expanduser(written), "with ~ expanded"),
    ):
        if name != written:
            for one in (name, name.lstrip("/")):
                path = os.path.normpath(os.path.join(base, one))
                found = (path, why) if os.path.isfile(path) else _resembling(path)
                if found:
                    yield found[0], why
    parts = PurePosixPath(_DRIVE.sub("", written).replace("\\", "/")).parts
    for length in range(min(len(parts) - 1, _PARENTS), 0, -1):
        if folder is not None and os.path.isfile(folder.joinpath(*parts[-length:])):
            yield os.path.abspath(folder.joinpath(*parts[-length:])), "in the table's folder"
    if not written or os.path.isabs(written):
        return
    if os.path.isfile(written):
        yield os.path.abspath(written), "from the working directory; names count from the table's folder"
    above = Path(base)
    for _ in range(_PARENTS):
        above = above.parent
        if os.path.isfile(above / written):
            yield str(above / written), f"from {above}; names count from the table's folder"


def _resembling(full: str) -> tuple[str, str] | None:
    """The file that nearly has the path `full`, and what sets it apart."""
    here, why = Path("/"), ""
    for name in PurePosixPath(full).parts[1:]:
        if not os.path.lexists(here / name):
            found = _alike(name, _names(here))
            if found is None:
                return None
            name, why = found
        here /= name
    return (str(here), why) if why and os.path.isfile(here) else None


@dataclass(frozen=True)
class _Names:
    """The names in a folder by their form NFC, by `_plain`, and by their stems."""

    forms: dict[str, str]
    plain: dict[str, str]
    stems: dict[str, str]

    @classmethod
    def of(cls, names: Iterable[str]) -> "_Names":
        forms: dict[str, str] = {}
        plain: dict[str, str] = {}
        stems: dict[str, str] = {}
        for name in sorted(names):
            forms.setdefault(unicodedata.normalize("NFC", name), name)
            plain.setdefault(_plain(name), name)
            if PurePosixPath(name).suffix:
                stems.setdefault(_plain(PurePosixPath(name).stem), name)
        return cls(forms, plain, stems)


def _alike(name: str, there: _Names) -> tuple[str, str] | None:
    """The one of the names `there` that is nearest to `name`, and what sets it apart."""
    path, form = PurePosixPath(name), unicodedata.normalize("NFC", name)
    if form in there.forms:
        return there.forms[form], "in another form of Unicode (NFC, NFD)"
    if (found := there.plain.get(_plain(name))) is not None:
        spaced = found.strip() != found or name.strip() != name
        return found, "without the white space" if spaced else "in another case"
    for stem, why in ((_plain(name), "with a suffix"), (_plain(path.stem), "with another suffix")):
        if stem in there.stems:
            return there.stems[stem], why
    return None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


def _first_absent(full: str) -> str:
    """The folder above `full` that is not there either, as the end of a sentence."""
    for parent in reversed(Path(full).parents):
        if not os.path.exists(parent):
            return f"; the folder {parent} is not there"
    return ""


@lru_cache(maxsize=16)  # many rows name files of one folder that is not where they say
def _names(folder: Path) -> _Names:
    try:
        return _Names.of(os.listdir(folder))
    except OSError:
        return _Names.of(())


@lru_cache(maxsize=16)
def _objects(folder: Url) -> _Names:
    try:
        return _Names.of(folder.files())
    except OSError:
        return _Names.of(())
