"""A pytest plugin for `upstream.py`: writes down what became of each test; with `--patched`, our patch goes in first.

pytest -p outcomes --outcomes FILE [--patched]
"""

import dataclasses
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_ADDRESS: Final = re.compile(r"\b0x[0-9a-f]+")  # in memory: another in each process


@dataclass(frozen=True)
class Outcome:
    """What became of one test, or of a file that could not be collected.

    `kind` is pytest's own word (passed, failed, error, skipped, xfailed, xpassed); `message` and `place` (file:line)
    are those of the exception or the skip, and empty for what passed.
    """

    kind: str
    message: str = ""
    place: str = ""


@dataclass(frozen=True)
class Session:
    """One run of the tests: which EasyDeL it imported (None: none), whether with our patch, what became of each."""

    easydel: str | None
    version: str | None
    patched: bool
    collected: int
    outcomes: dict[str, Outcome]


def read(file: Path) -> Session:
    """The session that the plugin wrote to `file`."""
    told = json.loads(file.read_text(encoding="utf-8"))
    outcomes = {name: Outcome(**outcome) for name, outcome in told.pop("outcomes").items()}
    return Session(**told, outcomes=outcomes)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options of this plugin."""
    parser.addoption("--outcomes", type=Path, required=True)
    parser.addoption("--patched", action="store_true")


def pytest_configure(config: pytest.Config) -> None:
    """Patch before any test file is imported, as a program that uses audiorl does."""
    if config.getoption("--patched"):
        from audiorl_cli.bridge import keys

        keys.apply()
        import audiorl_cli.bridge.thinker  # noqa: F401 # registers it in place of EasyDeL's own
    config.pluginmanager.register(_Notes(config))


class _Notes:
    def __init__(self, config: pytest.Config) -> None:
        self.config, self.collected = config, 0
        self.outcomes: dict[str, Outcome] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self.outcomes[report.nodeid] = _outcome("error" if report.failed else "skipped", report)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Set-up, call and teardown each report: the first that did not pass counts."""
        kind = self.config.hook.pytest_report_teststatus(report=report, config=self.config)[0]
        before = self.outcomes.get(report.nodeid)
        if kind and (before is None or before.kind == "passed"):
            self.outcomes[report.nodeid] = _outcome(kind, report)

    def pytest_sessionfinish(self) -> None:
        easydel = sys.modules.get("easydel")
        session = Session(
            easydel=None if easydel is None else easydel.__file__,
            version=None if easydel is None else easydel.__version__,
            patched=_patched(),
            collected=self.collected,
            outcomes=self.outcomes,
        )
        told = json.dumps(dataclasses.asdict(session))
        self.config.getoption("--outcomes").write_text(told, encoding="utf-8")


def _outcome(kind: str, report: pytest.CollectReport | pytest.TestReport) -> Outcome:
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        message, place = crash.message, f"{crash.path}:{crash.lineno}"
    elif isinstance(report.longrepr, tuple):  # a skip
        file, line, message = report.longrepr
        place = f"{file}:{line}"
    else:
        message, place = report.longreprtext, ""
    return Outcome(kind, _ADDRESS.sub("0x...", message), place)


def _patched() -> bool:
    """Whether the keys of `bridge/keys.py` are in EasyDeL now, at the end: no test has taken them out again."""
    keys = sys.modules.get("audiorl_cli.bridge.keys")
    return keys is not None and keys.applied() and keys.examine().took_hold
