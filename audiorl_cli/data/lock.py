"""One command at a time writes into a folder: it holds the folder's lock, and the lock says who that is.

The system releases a lock (flock) when its process ends, however it ends. A file system without locks has files that
are made by one process only (O_EXCL) instead; there the lock of a process that is gone is passed over on its own host.
"""

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from audiorl_cli.errors import DataError

LOCK: Final = ".lock"
_OWNER: Final = ".owner"  # added to the lock's name where there is no flock
_NO_FLOCK: Final = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})  # Lustre without -o flock, some NFS
_COMMAND_LENGTH: Final = 200


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock. `since`: when it took it, in UTC."""

    pid: int
    host: str
    since: str
    command: str

    @classmethod
    def this(cls) -> "Holder":
        """This process, from now on."""
        program = Path(sys.argv[0]).name.replace("__main__.py", "audiorl")  # of `python -m audiorl_cli`
        command = shlex.join([program, *sys.argv[1:]])[:_COMMAND_LENGTH]
        return cls(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), command)

    @classmethod
    def parse(cls, content: bytes) -> "Holder | None":
        """What `dump` wrote; None where it is not there, or not yet."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None

    def dump(self) -> bytes:
        """The holder as a line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended: a process of another host never is."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def __str__(self) -> str:
        return f"`{self.command}` (process {self.pid} on {self.host}, since {self.since})"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold `folder`, which is made if it is missing, against every other command that writes into it.

    Raises DataError where another process holds it, named, and where the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(str(folder), error) from error
    with lock_file(folder / LOCK, str(folder)):
        yield


@contextmanager
def lock_file(path: Path, item: str) -> Iterator[None]:
    """Hold the lock at `path`, in a folder that exists, for what people know as `item`. Raises as `lock_folder`."""
    owner = path.with_name(path.name + _OWNER)
    descriptor, exclusive = -1, False
    try:
        try:
            descriptor = _flocked(path, item)
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            path, exclusive = owner, True
            descriptor = _created(owner, item)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, Holder.this().dump(), 0)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
            if exclusive:
                path.unlink(missing_ok=True)
        raise _not_writable(item, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _flocked(path: Path, item: str) -> int:
    """A descriptor that holds the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A command that ended since takes the file with it: a lock on it would keep nobody out.
            if path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        except BlockingIOError as error:
            holder = Holder.parse(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            raise _held(item, holder, "Wait for it to end, or give another --out.") from error
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _created(path: Path, item: str) -> int:
    """A descriptor of a file that only one process can have made."""
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError as error:
            try:
                holder = Holder.parse(path.read_bytes())
            except FileNotFoundError:
                continue
            if holder is None or not holder.ended:
                fix = f"Wait for it to end; if it was killed, delete {path} (this file system has no locks)."
                raise _held(item, holder, fix) from error
            path.unlink(missing_ok=True)


def _held(item: str, holder: Holder | None, fix: str) -> DataError:
    got = f"{holder or 'another one'} at work in it"
    return DataError(item, expected="no other command that writes there", got=got, fix=fix)


def _not_writable(item: str, error: OSError) -> DataError:
    return DataError(item, expected="a folder to write to", got=str(error.strerror), fix="Choose another --out.")
