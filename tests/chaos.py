"""A run that is killed at random moments and taken up again until it is done: `python chaos.py DATA OUT SEED KILLS`.

Every attempt is a process of its own that calls `train`, ended by a real SIGKILL. It is forked after the imports, which
take longer than all the rest, and before JAX has a backend, whose threads no fork would survive. With 0 KILLS the run
is left alone. Half the moments fall anywhere up to the first steps, half in steps and saves: most of an attempt is
tracing and compiling, where there is little to lose.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from audiorl_cli.bridge.quiet import silence

silence()

from tones import small_config  # noqa: E402 - after silence()

from audiorl_cli.config import RunConfig  # noqa: E402
from audiorl_cli.rl.run import train  # noqa: E402


def attempt(config: RunConfig, data: Path, out: Path, steps: int | None, seconds: float) -> float:
    """Train in a process of its own, killed `seconds` after it has told of so many steps (None: never).

    Returns how long it took to its end or its kill. An end of its own is an error where a kill was to come, and so is a
    status other than 0 where none was.
    """
    heard, told = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(heard)
        train(config, data, "tiny", out, on_step=lambda _: tell(told))
        os._exit(0)
    os.close(told)
    for _ in range(steps or 0):
        assert os.read(heard, 1), "it ended before it was killed"
    if steps is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(heard)
    assert status == (0 if steps is None else signal.SIGKILL), f"it ended with {status}"
    return time.monotonic() - start


def tell(pipe: int) -> None:
    os.write(pipe, b".")


def main(data: Path, out: Path, seed: int, kills: int, *overrides: str) -> None:
    """Print one JSON object: how many kills there were, and the seconds of each attempt."""
    config, chance = small_config(*overrides), random.Random(seed)
    took: list[float] = []
    for number in range(kills):
        if number % 2 == 0:
            took.append(attempt(config, data, out, 1 + chance.randrange(4), chance.uniform(0, 0.2)))
        else:
            took.append(attempt(config, data, out, 0, chance.uniform(0, min(took[::2]))))
    took.append(attempt(config, data, out, None, 0))
    sys.stdout.write(json.dumps({"kills": kills, "seconds": [round(one, 2) for one in took]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
