"""Real processes of one run on this machine: `audiorl train` once a host, over JAX's own collectives.

Each has one device: with two of them gloo, which stands in for a pod's network, was seen to wait for ever.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LIMIT_S = 300


class Hosts:
    """Those of `count` processes that come (all), started with the same words."""

    def __init__(
        self, count: int, words: Sequence[object], environment: Mapping[str, str], come: Sequence[int] = ()
    ) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1"
        told = {"XLA_FLAGS": flags, "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
        # Which a test in this process may have set (bridge/quiet.py): it says that there are no others.
        before = {name: value for name, value in os.environ.items() if name != "ENABLE_DISTRIBUTED_INIT"}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "audiorl_cli", "train", *map(str, words)],
                env={**before, **told, **environment, "JAX_PROCESS_ID": str(index)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in come or range(count)
        ]

    def ended(self) -> list[tuple[int, str, str]]:
        """Of each process its exit code, what it wrote on standard output, and on standard error."""
        found = [(process.communicate(timeout=LIMIT_S), process) for process in self.processes]
        return [(process.returncode, *said) for said, process in found]

    def wait_for(self, log: Path, line: str) -> None:
        """Until `line` is in `log`, or a process has ended."""
        until = time.monotonic() + LIMIT_S
        while not (log.exists() and line in log.read_text()):
            assert time.monotonic() < until
            assert all(process.poll() is None for process in self.processes), self.ended()
            time.sleep(0.05)
