"""Whatever is behind the standard streams, a command ends with its result or with one line, never with a traceback."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from tones import tone_shards

AUDIORL = f"{sys.executable} -m audiorl_cli"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "r").write_text("zwei wörter da\n", encoding="utf-8")
    (tmp_path / "h").write_text("zwei wort da\n", encoding="utf-8")
    return tmp_path


def shell(command: str, folder: Path, **variables: str) -> tuple[int, str, str]:
    done = subprocess.run(
        ["bash", "-c", command.replace("audiorl", AUDIORL)],
        capture_output=True,
        cwd=folder,
        env=ENVIRONMENT | variables,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("more", ["", " --json"])
@pytest.mark.parametrize(
    ("redirected", "code", "line"),
    [
        (">&-", 2, "error standard output: expected a file, a pipe or a terminal for the result, got none"),
        (">/dev/full", 1, "error standard output: expected to read and write, got No space left on device."),
    ],
)
def test_a_result_that_cannot_be_written_is_one_line(
    texts: Path, redirected: str, code: int, line: str, more: str
) -> None:
    found, out, err = shell(f"audiorl score r h{more} {redirected}", texts)
    assert (found, out) == (code, "")
    [only] = err.splitlines()
    assert only.startswith(line)


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", "<&-"])
def test_without_standard_error_or_input_the_result_is_the_same(texts: Path, redirected: str) -> None:
    expected = shell("audiorl score r h", texts)
    assert shell(f"audiorl score r h {redirected}", texts) == expected
    assert expected[0] == 0
    code, out, err = shell(f"audiorl score none h {redirected}", texts)
    assert (code, out, len(err.splitlines())) == (1, "", redirected == "<&-")


def test_a_file_is_not_opened_as_a_stream_that_is_closed(tmp_path: Path) -> None:
    """What a library prints would go into it."""
    source = tone_shards(tmp_path, rows=2).parent / "source"
    words = f"audiorl prep {source} --clip-seconds 1 --workers 1 --out"
    assert shell(f"{words} {tmp_path}/closed <&- 2>&-", tmp_path)[0] == 0
    shards = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir() if path.name != "source.json"}
    assert {name: (tmp_path / "closed" / name).read_bytes() for name in shards} == shards


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_encoding_lacks_is_escaped(texts: Path, encoding: str) -> None:
    (texts / "h").write_text("zwei wört → da\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "audiorl_cli", "score", "r", "h"],
        capture_output=True,
        cwd=texts,
        env=ENVIRONMENT | {"PYTHONIOENCODING": encoding},
        check=True,
    )
    assert b"\\u2192" in done.stdout
    assert ("w\\xf6rt" if encoding == "ascii" else "wört").encode(encoding) in done.stdout
    assert done.stderr == b""


def test_a_reader_that_goes_is_no_traceback(texts: Path) -> None:
    assert shell("audiorl score r h | true", texts) == (0, "", "")
    assert shell("audiorl score r h --json | true", texts) == (0, "", "")


@pytest.mark.parametrize("columns", ["80", "1", "0"])
def test_a_terminal_of_any_width_shows_bar_and_result(tmp_path: Path, columns: str) -> None:
    source = tone_shards(tmp_path, rows=2).parent / "source"
    words = ["prep", str(source), "--out", str(tmp_path / "data"), "--clip-seconds", "1", "--workers", "1"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "audiorl_cli", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=ENVIRONMENT | {"COLUMNS": columns, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # how the end of a terminal is told
            pass
        os.close(ours)
    assert process.returncode == 0
    assert b"2 utterances" in shown.replace(b"\r\n", b" ")
