"""Where libraries keep what they compile and download: a folder that can be written to, or one line that says so.

numba, EasyDeL's ejkernel, matplotlib and huggingface_hub each want a folder of their own below ~/.cache, and some fail
at import without it. A container's user may have no home, nor a name: then AUDIORL_CACHE stands in for it.
"""

import os
import pwd
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from audiorl_cli.errors import InstallError

_OWN: Final = "AUDIORL_CACHE"
_XDG: Final = "XDG_CACHE_HOME"
_NUMBA: Final = "NUMBA_CACHE_DIR"
# What is read from a home, not written: it is still found there when another folder stands in for it.
_OF_HOME: Final = {
    "AWS_SHARED_CREDENTIALS_FILE": ".aws/credentials",
    "AWS_CONFIG_FILE": ".aws/config",
    "GOOGLE_APPLICATION_CREDENTIALS": ".config/gcloud/application_default_credentials.json",
    "HF_TOKEN_PATH": ".cache/huggingface/token",
    "NETRC": ".netrc",
}


def folder() -> Path:
    """Where this machine keeps what comes from object stores: AUDIORL_CACHE, else `audiorl` in the user's cache.

    Raises InstallError where neither is named and the user has no home.
    """
    own, shared = os.environ.get(_OWN), os.environ.get(_XDG)
    if own or shared:
        return Path(own) if own else Path(str(shared)) / "audiorl"
    home = _home()
    if home is None:
        raise _refused("the user's home", "none: HOME is not set and the user is not in /etc/passwd")
    return home / ".cache" / "audiorl"


def prepare_numba() -> None:
    """Let numba find a folder for compiled code, in this process and its children. Call it before numba is imported.

    numba takes NUMBA_CACHE_DIR, else the folders of the packages themselves, else the user's cache. Raises InstallError
    where none can be written to and AUDIORL_CACHE names no other, and where there is no folder for temporary files.
    """
    _prepare_temporary()
    told = os.environ.get(_NUMBA)
    if told:
        _demand_writable(Path(told), _NUMBA)
    elif not _packages_writable():
        shared, home = os.environ.get(_XDG), _home()
        usual = Path(shared) if shared else home / ".cache" if home else None
        if usual is None or _obstacle(usual):
            os.environ[_NUMBA] = str(_own(usual) / "numba")


def prepare() -> None:
    """Let every library find a folder to write to, in this process and its children. Call it before they are imported.

    Raises as `prepare_numba`, and where the home cannot be written to: EasyDeL's libraries look nowhere else.
    """
    prepare_numba()
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # torch asks for the name of the user
        os.environ.setdefault("USER", f"uid{os.getuid()}")
    home, shared = _home(), os.environ.get(_XDG)
    usual = home / ".cache" if home else None
    if usual is not None and not _obstacle(usual) and (not shared or not _obstacle(Path(shared))):
        return
    stand_in(_own(Path(shared) if shared and usual and not _obstacle(usual) else usual))


def stand_in(base: Path) -> None:
    """Let `base` stand in for the home of the user, in this process and its children."""
    home = _home()
    for name, file in _OF_HOME.items():
        if home is not None and os.access(home / file, os.R_OK):
            os.environ.setdefault(name, str(home / file))
    os.environ |= {"HOME": str(base), _XDG: str(base / ".cache"), _NUMBA: str(base / "numba")}


def _own(usual: Path | None) -> Path:
    """AUDIORL_CACHE, in the place of the `usual` folder that cannot be written to. Raises InstallError without it."""
    own = os.environ.get(_OWN)
    if own:
        _demand_writable(Path(own), _OWN)
        return Path(own).absolute()
    if usual is None:
        raise _refused("the user's home", "none: HOME is not set and the user is not in /etc/passwd")
    raise _refused(str(usual), _obstacle(usual) or "one that could not be")


def _demand_writable(path: Path, variable: str) -> None:
    obstacle = _obstacle(path)
    if obstacle:
        raise InstallError(
            str(path),
            expected=f"a folder to write to ({variable})",
            got=obstacle,
            fix=f"Set {variable} to another one, or free disk space.",
        )


def _refused(item: str, got: str) -> InstallError:
    return InstallError(
        item,
        expected="a folder to write to, for what libraries compile",
        got=got,
        fix=f"Set {_OWN} (or HOME) to a folder that can be written to; NUMBA_CACHE_DIR is enough for prep.",
    )


def _prepare_temporary() -> None:
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise InstallError(
            "temporary files",
            expected="a folder with room to write to (TMPDIR, else /tmp)",
            got="none",
            fix="Set TMPDIR to one, or free disk space.",
        ) from error


def _packages_writable() -> bool:
    """Whether numba may keep code beside the sources of its two users."""
    librosa = find_spec("librosa")
    places = [Path(__file__).parent / "data"]
    places += [Path(place) for place in (librosa.submodule_search_locations or [])] if librosa else []
    return all(os.access(place, os.W_OK) for place in places)


def _obstacle(path: Path) -> str:
    """Why nothing can be written into `path`, which is made if it is missing; "" where something can."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path, buffering=0) as file:
            file.write(bytes(4096))
    except OSError as error:
        return str(error.strerror)
    return ""


def _home() -> Path | None:
    """The user's home; None for one that is in no table of users and has no HOME."""
    try:
        return Path.home()
    except RuntimeError:
        return None
