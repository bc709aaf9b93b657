"""One command at a time writes into a folder, and the second is told who the first is."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tones import tone_shards
from typer.testing import CliRunner

from audiorl_cli.cli import app
from audiorl_cli.data.lock import Holder, lock_folder
from audiorl_cli.errors import DataError

_HOLD = """
import sys
from pathlib import Path
from audiorl_cli.data.lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `folder`, until the end or its death."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_second_is_told_who_the_first_is_and_a_dead_one_is_no_obstacle(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    with holding(out) as first:
        who = rf"`-c {out}` \(process {first.pid} on {os.uname().nodename}, since 20.* UTC\)"
        with pytest.raises(DataError, match=rf"{out}: .* got {who} at work in it\. Wait"), lock_folder(out):
            pass
        assert (out / ".lock").exists()  # the refused one has not taken it away
        first.kill()
        first.wait()
        with lock_folder(out):
            pass
    assert list(out.iterdir()) == []


def test_a_lock_whose_file_went_with_its_command_keeps_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def ends_first(descriptor: int, operation: int) -> None:
        """Another command ends between the opening of its lock's file and the locking of it."""
        monkeypatch.setattr(fcntl, "flock", flock)
        (tmp_path / ".lock").unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", ends_first)
    with lock_folder(tmp_path), pytest.raises(DataError, match="at work in it"), lock_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_has_one_command_at_a_time_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    owner = tmp_path / ".lock.owner"
    told = rf"at work in it\. .* delete {owner}"
    with lock_folder(tmp_path), pytest.raises(DataError, match=told), lock_folder(tmp_path):
        pass
    assert not owner.exists()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    owner.write_bytes(Holder(ended.pid, os.uname().nodename, "yesterday", "audiorl train").dump())
    with lock_folder(tmp_path):
        pass
    owner.write_bytes(Holder(ended.pid, "another-host", "yesterday", "audiorl train").dump())
    with pytest.raises(DataError, match=r"got `audiorl train` \(process \d+ on another-host"), lock_folder(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out, got in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "below", "Not a directory")):
        with pytest.raises(DataError, match=rf"{out}: expected a folder to write to, got {got}"), lock_folder(out):
            pass
    with pytest.raises(DataError, match="expected a folder to write to"), lock_folder(Path("/proc/none")):
        pass


@pytest.mark.parametrize("command", ["prep", "warmstart", "train", "eval", "forecast", "plot", "demo"])
def test_no_command_writes_where_another_is_at_work(tmp_path: Path, command: str) -> None:
    data, out = tone_shards(tmp_path, rows=2), tmp_path / "out"
    log = tmp_path / "run" / "metrics.jsonl"
    log.parent.mkdir()
    log.write_text('{"step": 1, "loss": 1.0}\n')
    words = {
        "prep": [str(tmp_path / "source"), "--clip-seconds", "1"],
        "eval": ["tiny", "--data", str(data)],
        "plot": [str(log.parent)],
        "demo": ["--quick"],
    }.get(command, ["--data", str(data), "--model", "tiny"])
    with lock_folder(out):
        done = CliRunner().invoke(app, [command, *words, "--out", str(out)])
        assert isinstance(done.exception, DataError), done.output
        assert f"{out}: expected no other command that writes there" in str(done.exception)
        assert [path.name for path in out.iterdir()] == [".lock"]
