"""The command line, ended by a signal at a moment that no other load on the machine moves.

`python killed.py NAME SIGNAL WORDS...` runs `audiorl WORDS...` and sends itself SIGNAL when it gives a file its NAME.
"""

import os
import signal
import sys
from typing import Any

NAME, SIGNAL, *WORDS = sys.argv[1:]


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "os.rename" and str(arguments[1]).endswith(NAME):
        os.kill(os.getpid(), int(SIGNAL))


signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background is started without it
sys.addaudithook(watch)
sys.argv = ["audiorl", *WORDS]

from audiorl_cli.cli import main  # noqa: E402 - after sys.argv

main()
