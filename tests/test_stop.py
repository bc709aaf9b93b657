import os
import signal

import pytest

from audiorl_cli.rl.stop import StopRequested


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_acts(number: signal.Signals) -> None:
    caught: list[int] = []
    told: list[str] = []
    before = signal.signal(number, lambda signum, frame: caught.append(signum))
    try:
        with StopRequested(lambda: told.append("asked")) as stop:
            assert not stop.asked
            os.kill(os.getpid(), number)
            assert stop.asked
            assert told == ["asked"]
            assert caught == []
            os.kill(os.getpid(), number)
            assert caught == [number]
            assert told == ["asked"]
        os.kill(os.getpid(), number)
        assert caught == [number, number]
    finally:
        signal.signal(number, before)
