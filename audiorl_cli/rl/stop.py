"""A wish to stop: SIGTERM or Ctrl-C, answered at the next step and not in its midst."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequested:
    """While entered, the first SIGTERM or SIGINT only sets `asked` and calls `told`; a second acts as it did before.

    Outside the main thread, where Python allows no handlers, it catches nothing.
    """

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self.asked, self._told = False, told
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._give_back()
        self._told()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
