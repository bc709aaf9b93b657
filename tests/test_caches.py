"""A machine without a folder to write to is told of by that folder and a variable; its recordings are not blamed."""

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiorl_cli import caches
from audiorl_cli.errors import InstallError

NOWHERE = "/proc/none"  # where not even root can make a folder
VARIABLES = ("AUDIORL_CACHE", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "AWS_CONFIG_FILE", "USER")


@pytest.fixture(autouse=True)
def installed_for_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that the test may change, packages that nobody may write to, and a home that is none."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(caches, "_packages_writable", lambda: False)
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ["HOME"] = NOWHERE


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that is in no table of users, and has no HOME."""
    del os.environ["HOME"]

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_the_folder_and_the_variable_are_named() -> None:
    for prepare in (caches.prepare_numba, caches.prepare):
        with pytest.raises(InstallError, match=rf"^{NOWHERE}/.cache: expected a folder to write to.*Set AUDIORL_CACHE"):
            prepare()
    assert not {*VARIABLES} & {*os.environ}


@pytest.mark.parametrize("variable", ["AUDIORL_CACHE", "NUMBA_CACHE_DIR"])
def test_a_folder_that_was_named_and_cannot_be_used_is_named_again(variable: str) -> None:
    os.environ[variable] = f"{NOWHERE}/cache"
    with pytest.raises(InstallError, match=rf"^{NOWHERE}/cache: expected a folder to write to \({variable}\)"):
        caches.prepare()


def test_a_folder_for_numba_is_enough_for_prep(tmp_path: Path) -> None:
    os.environ["NUMBA_CACHE_DIR"] = str(tmp_path)
    caches.prepare_numba()
    with pytest.raises(InstallError, match="AUDIORL_CACHE"):
        caches.prepare()


def test_our_cache_stands_in_for_a_home_whose_credentials_are_still_found(tmp_path: Path) -> None:
    home, own = tmp_path / "home", tmp_path / "own"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "config").touch()
    (home / ".cache").touch()  # nothing can be made below it
    os.environ |= {"HOME": str(home), "AUDIORL_CACHE": str(own)}
    caches.prepare()
    assert os.environ["HOME"] == str(own)
    assert Path(os.environ["NUMBA_CACHE_DIR"]).is_relative_to(own)
    assert Path(os.environ["XDG_CACHE_HOME"]).is_relative_to(own)
    assert os.environ["AWS_CONFIG_FILE"] == str(home / ".aws" / "config")
    assert caches.folder() == own


def test_a_home_that_can_be_written_to_is_left_alone(tmp_path: Path) -> None:
    os.environ["HOME"] = str(tmp_path)
    before = dict(os.environ)
    caches.prepare()
    assert {name: os.environ.get(name) for name in (*VARIABLES, "HOME")} == {
        name: before.get(name) for name in (*VARIABLES, "HOME")
    }


def test_a_user_without_a_name_or_a_home_needs_one_variable(unnamed: None, tmp_path: Path) -> None:
    for call in (caches.prepare, caches.folder):
        with pytest.raises(InstallError, match=r"HOME is not set and the user is not .*AUDIORL_CACHE"):
            call()
    os.environ["AUDIORL_CACHE"] = str(tmp_path)
    caches.prepare()
    assert os.environ["USER"] == f"uid{os.getuid()}"
    assert os.environ["HOME"] == str(tmp_path)


def test_no_folder_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [NOWHERE])
    with pytest.raises(InstallError, match=r"temporary files: expected a folder with room to write to \(TMPDIR"):
        caches.prepare_numba()


def test_prep_ends_in_one_line_and_rejects_nothing(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    soundfile.write(source / "tone.wav", 0.3 * np.sin(np.arange(8_000)), 16_000)
    (source / "tone.txt").write_text("one")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HOME": NOWHERE}
    command = [sys.executable, "-m", "audiorl_cli", "prep", str(source), "--out", str(out), "--clip-seconds", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment | {"NUMBA_CACHE_DIR": NOWHERE}, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error {NOWHERE}: expected a folder to write to (NUMBA_CACHE_DIR)")
    assert not out.exists()
