"""A backend that does not start is one line, in every command that uses JAX, and before anything is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tones import tone_shards

from audiorl_cli import cli
from audiorl_cli.bridge import backend
from audiorl_cli.cli_pod import _told
from audiorl_cli.errors import UsageError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_shards(tmp_path_factory.mktemp("tones"), rows=2)


FAULTS = {
    "JAX_PLATFORMS=cuda": "expected a backend that starts, got .*Unset JAX_PLATFORMS",
    "JAX_PLATFORMS=cpu,bogus": "expected a backend that starts, got .*'bogus' is not in the list",
    "XLA_FLAGS=--xla_no_such_flag=1": "expected flags that XLA knows, got Unknown flag in XLA_FLAGS: --xla_no",
    "XLA_FLAGS=no-such-file": "expected flags that XLA knows, got Could not open file",
    "JAX_ENABLE_X64=maybe": "expected settings that JAX knows, got invalid truth value 'maybe'",
}


@pytest.mark.parametrize(
    ("command", "fault"),
    [(command, "JAX_PLATFORMS=cuda") for command in ("check-batch", "warmstart", "train", "eval", "forecast")]
    + [("eval", fault) for fault in list(FAULTS)[1:]]
    + [("train", "XLA_FLAGS=--xla_no_such_flag=1"), ("train", "JAX_ENABLE_X64=maybe")],
)
def test_it_is_one_line(data: Path, tmp_path: Path, command: str, fault: str) -> None:
    name, _, value = fault.partition("=")
    words = ["eval", "tiny"] if command == "eval" else [command, "--model", "tiny"]
    words += ["--data", str(data)] + ([] if command == "check-batch" else ["--out", str(tmp_path / "out")])
    done = subprocess.run(
        [sys.executable, "-m", "audiorl_cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), name: value},
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert re.match(rf"error .*{name}.*{FAULTS[fault]}", line), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["host", "host:port", "host:0", "host:70000", ":123"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected JAX_COORDINATOR_ADDRESS=HOST:PORT"):
        _told(address, "2", "0")


def test_a_device_without_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def allocate() -> None:
        jax.numpy.zeros((1 << 24, 1 << 24)).block_until_ready()  # a petabyte

    monkeypatch.setattr(cli, "app", allocate)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error memory of the device: expected enough of it, got RESOURCE_EXHAUSTED")
    assert backend.exhausted(RuntimeError("RESOURCE_EXHAUSTED")) is None  # whoever else says so


def test_a_full_disk_anywhere_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        with open("/dev/full", "w") as file:
            file.write("text")

    monkeypatch.setattr(cli, "app", write)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
