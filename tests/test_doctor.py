"""What doctor reports of a sound machine, and of one on which things are missing."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from audiorl_cli import core
from audiorl_cli.bridge import doctor

REPORT = """
import dataclasses, json, sys
from audiorl_cli.bridge.doctor import examine
before = {name.split(".")[0] for name in sys.modules}
assert not before & {"jax", "easydel", "torch", "transformers"}, before
json.dump(dataclasses.asdict(examine()), sys.stdout)
"""


@pytest.fixture(scope="module")
def report() -> doctor.DoctorReport:
    return doctor.examine()


@pytest.fixture(scope="module")
def crippled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report where two dependencies do not import, EasyDeL is empty, and there is neither a TPU nor a home."""
    folder = tmp_path_factory.mktemp("shadows")
    (folder / "PIL.py").write_text("raise ImportError('no pillow today')")
    (folder / "soundfile.py").write_text("raise OSError('cannot load library libsndfile.so')")
    (folder / "easydel").mkdir()
    (folder / "easydel" / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "tpu", "HOME": "/proc/none"}
    environment.pop("AUDIORL_CACHE", None)
    run = subprocess.run([sys.executable, "-c", REPORT], capture_output=True, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def test_this_machine_is_sound(report: doctor.DoctorReport) -> None:
    assert report.problems == ()
    assert report.python == platform.python_version()
    assert all(package.verdict == "ok" for package in report.packages)


def test_every_dependency_is_looked_at_and_no_extra(report: doctor.DoctorReport) -> None:
    declared = [line for line in metadata.requires("audiorl") or [] if "extra ==" not in line]
    assert [f"{package.name}{package.needed}" for package in report.packages] == declared
    assert {"easydel", "torch", "pillow"} <= {package.name for package in report.packages}
    assert all(package.found == metadata.version(package.name) for package in report.packages)


def test_the_host_and_the_devices_are_described(report: doctor.DoctorReport) -> None:
    import jax

    assert [(device.id, device.platform) for device in report.devices] == [(d.id, d.platform) for d in jax.devices()]
    assert 0 < report.machine.free_bytes < report.machine.memory_bytes
    assert 1 <= report.machine.cores <= (os.cpu_count() or 1)


def test_the_patch_is_described(report: doctor.DoctorReport) -> None:
    assert report.patch is not None
    assert (report.patch.needed, report.patch.applied, report.patch.took_hold) == (True, True, True)
    assert [(item.module, item.name) for item in report.patch.lists] == list(core.EASYDEL_KEY_SETS)


def test_a_dependency_that_does_not_import_is_reported_with_the_fix(crippled: dict[str, Any]) -> None:
    verdicts = {package["name"]: package["verdict"] for package in crippled["packages"]}
    assert verdicts["pillow"] == "does not import: no pillow today"
    assert verdicts["soundfile"] == "does not import: cannot load library libsndfile.so"
    assert verdicts["numpy"] == "ok"
    problems = {problem["item"]: problem for problem in crippled["problems"]}
    assert problems["pillow"]["fix"].startswith("Run pip install 'pillow>=")
    assert problems["easydel"]["got"].startswith("does not import: No module named 'easydel.modules'")


def test_without_easydels_lists_there_is_no_patch_but_a_problem(crippled: dict[str, Any]) -> None:
    assert crippled["patch"] is None
    problem = next(p for p in crippled["problems"] if p["item"] == "easydel.trainers.training_utils")
    assert "No module named 'easydel.trainers'" in problem["got"]
    assert "Install easydel==0.3.0" in problem["fix"]


def test_a_home_that_cannot_be_written_to_is_reported_and_the_rest_is_looked_at(crippled: dict[str, Any]) -> None:
    problem = next(p for p in crippled["problems"] if p["item"] == "/proc/none/.cache")
    assert "a folder to write to" in problem["expected"]
    assert "AUDIORL_CACHE" in problem["fix"]
    verdicts = {package["name"]: package["verdict"] for package in crippled["packages"]}
    assert [verdicts[name] for name in ("librosa", "numba", "huggingface-hub")] == ["ok"] * 3


def test_a_backend_that_does_not_start_is_reported(crippled: dict[str, Any]) -> None:
    assert crippled["devices"] == []
    [problem] = [p for p in crippled["problems"] if p["item"] == "devices"]
    assert "tpu" in problem["got"]
    assert "JAX_PLATFORMS" in problem["fix"]


def test_a_wrong_version_and_a_missing_package_are_reported() -> None:
    assert doctor._package("numpy", "==1.0").verdict == f"{metadata.version('numpy')} is installed"
    missing = doctor._package("no-such-distribution", ">=1")
    assert (missing.found, missing.verdict) == (None, "not installed")


def test_a_local_build_counts_as_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "1.26.0+cpu")
    assert doctor._package("numpy", "==1.26.0").verdict == "ok"


def test_a_python_out_of_range_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[doctor.Problem] = []
    doctor._check_python(">=3.11,<3.14", problems)
    assert problems == []
    monkeypatch.setattr(platform, "python_version", lambda: "3.14.1")
    doctor._check_python(">=3.11,<3.14", problems)
    assert [(problem.item, problem.got) for problem in problems] == [("python", "3.14.1")]


def test_the_memory_of_a_container_is_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(doctor, "_CGROUP_LIMIT", limit)
    host = doctor.machine().memory_bytes
    limit.write_text("max\n")
    assert doctor.machine().memory_bytes == host
    limit.write_text("1048576\n")
    assert doctor.machine().memory_bytes == doctor.machine().free_bytes == 1048576
    limit.with_name("memory.stat").write_text("anon 40960\nfile 999424\nshmem 4096\n")
    assert doctor.machine().free_bytes == 1048576 - 40960 - 4096  # files give way


def test_what_the_page_cache_holds_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_CGROUP_LIMIT", tmp_path / "absent")
    monkeypatch.setattr(doctor, "_MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemFree: 1024 kB\nMemAvailable: 3072 kB\nHugePages_Total: 0\n")
    assert doctor.machine().free_bytes == 3 * 1024**2
