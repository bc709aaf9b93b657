"""Every mend is needed by the installed EasyDeL, and what stands in its place is rid of the fault."""

import os
import subprocess
import sys
from functools import reduce
from importlib import import_module
from pathlib import Path

import easydel
import pytest

from audiorl_cli.bridge import checkpoint, mends
from audiorl_cli.bridge.mends import MENDS, Mend, Thinker


@pytest.fixture(scope="module")
def ours() -> Thinker:
    return checkpoint.abstract("tiny").model


@pytest.mark.parametrize("mend", MENDS, ids=lambda mend: mend.name)
def test_upstream_has_the_fault_and_ours_has_not(mend: Mend, ours: Thinker) -> None:
    assert mend.probe(mends.upstream_thinker()), "upstream has mended it: delete the mend"
    assert not mend.probe(ours)


@pytest.mark.parametrize("mend", MENDS, ids=lambda mend: mend.name)
def test_what_stands_for_it_is_there(mend: Mend) -> None:
    module, *names = mend.stands.split(".")
    assert callable(reduce(getattr, names, import_module(f"audiorl_cli.bridge.{module}")))


def test_a_report_names_file_and_line_of_the_installed_source() -> None:
    report = {one.name: one for one in mends.examine()}
    assert len(report) == len(MENDS)
    assert all(one.needed for one in report.values())
    for name, line in {"merge": "def merge_multimodal_embeddings(", "cache": "    def __call__("}.items():
        file, number = report[name].upstream.split(":")
        source = Path(easydel.__path__[0], file).read_text(encoding="utf-8").splitlines()
        assert source[int(number) - 1] == line


def test_a_machine_of_many_devices_is_examined_as_one_of_one() -> None:
    program = "from audiorl_cli.bridge import mends; print(sum(one.needed for one in mends.examine()))"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert run.stdout.splitlines()[-1:] == [str(len(MENDS))], run.stderr
