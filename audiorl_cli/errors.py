"""What can go wrong, said in one line: which item, what was expected, what was found, what to do."""

import errno
from typing import Final

# What the system says of itself, not of a file: too many are open, a disk is full, a network file system is gone.
MACHINE_ERRORS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
    | {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH}
)


class AudioRLError(Exception):
    """Every failure a user can cause or mend. `cli.py` prints it on one line and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, item: str, *, expected: str, got: str, fix: str) -> None:
        self.item, self.expected, self.got, self.fix = item, expected, got, fix
        line = f"{item}: expected {expected}, got {got}. {fix}"
        # An item may carry bytes of a hostile file name; a terminal must see none of its control characters.
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not survive a process pool by default.
        return _rebuild, (type(self), self.item, self.expected, self.got, self.fix)


def _rebuild(kind: type[AudioRLError], item: str, expected: str, got: str, fix: str) -> AudioRLError:
    return kind(item, expected=expected, got=got, fix=fix)


class UsageError(AudioRLError):
    """Wrong usage of the command line: options that contradict one another, a value of the wrong form."""

    exit_code = 2


class DataError(AudioRLError):
    """A source, shard, transcript or report that cannot be used."""


class ConfigError(AudioRLError):
    """A TOML file or an override that does not describe a run."""


def check(name: str, ok: bool, expected: str, got: object) -> None:
    """Raise ConfigError of the key `name` unless `ok`."""
    if not ok:
        raise ConfigError(name, expected=expected, got=repr(got), fix="Correct the value in the TOML file or --set.")


class ModelError(AudioRLError):
    """A checkpoint that cannot be found, read or used."""


class InstallError(AudioRLError):
    """A library or device that is missing or not as expected."""
