"""Worker processes: order is kept, and a task that kills or stalls two workers costs that task alone."""

import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from audiorl_cli.data.workers import Failure, Hand, ordered
from audiorl_cli.errors import InstallError


def square(number: int) -> int:
    """What the workers run: some numbers crash, stall or exhaust their process."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 5:
        time.sleep(60)
    if number == 7:
        raise ValueError("seven")
    if number == 9:
        return len(bytearray(8 << 30))
    if number % 2:
        time.sleep(0.01)
    return number * number


def test_results_come_in_order_and_failures_cost_one_task() -> None:
    results = dict(ordered(square, iter(range(40)), 2, 3.0))
    assert list(results) == list(range(40))
    failed = {number: result.detail for number, result in results.items() if isinstance(result, Failure)}
    assert set(failed) == {3, 5, 7, 9}
    assert failed[3] == "the decoder crashed: exit code -11"
    assert failed[5] == "the decoder took too long"
    assert failed[7] == "the decoder crashed: ValueError: seven"
    assert failed[9] == "the decoder ran out of memory"
    assert all(results[number] == number * number for number in results if number not in failed)


def once(path: Path) -> str:
    """Takes its worker down, or away, when it is called for the first time."""
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL if path.suffix == ".kill" else signal.SIGSTOP)
    return path.stem


def test_a_task_whose_worker_was_taken_away_is_done_by_another(tmp_path: Path) -> None:
    tasks = [tmp_path / name for name in ("a.kill", "b.kill", "c.stop", "d.kill")]
    assert [result for _, result in ordered(once, iter(tasks), 1, 5.0)] == ["a", "b", "c", "d"]


def killed(path: Path) -> str:
    """Its worker is ended from outside, as by a system without memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return path.stem


def test_a_system_that_ends_workers_is_to_blame_and_no_task(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"expected to be left at work, got SIGKILL"):
        list(ordered(killed, iter([tmp_path]), 1, 5.0))


class Starting:
    """What workers run that first need something of the machine."""

    def start(self) -> None:
        raise RuntimeError("no locator available for file 'librosa/notation.py'")

    def __call__(self, number: int) -> int:
        return number


def test_what_keeps_workers_from_starting_is_no_fault_of_a_task() -> None:
    with pytest.raises(InstallError, match=r"worker process: expected to start, got RuntimeError: no locator"):
        list(ordered(Starting(), iter(range(3)), 2, 5.0))


def test_too_few_open_files_are_one_line() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)  # the lowest number that is: the limit is on numbers, and other tests may have left gaps
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, before[1]))
    try:
        with pytest.raises(InstallError, match=r"expected to start, got Too many open files\. .*fewer --workers"):
            list(ordered(square, iter(range(3)), 4, 5.0))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_tasks_are_not_drawn_far_ahead() -> None:
    drawn = []

    def tasks() -> Iterator[int]:
        for number in range(0, 400, 2):
            drawn.append(number)
            yield number

    for count, _ in enumerate(ordered(square, tasks(), 2, 30.0), 1):
        assert len(drawn) <= count + 64
        if count == 20:
            break


def test_an_urgent_task_is_the_next_result() -> None:
    urgent: deque[int] = deque()
    seen = []
    for number, result in ordered(square, iter(range(0, 200, 2)), 2, 30.0, urgent):
        seen.append((number, result))
        if number in (20, 198):
            urgent.extend([1000 + number, 2000 + number])
    expected = list(range(0, 200, 2))
    expected[11:11] = [1020, 2020]
    assert seen == [(number, number * number) for number in [*expected, 1198, 2198]]


def test_the_tasks_behind_one_that_kills_its_worker_are_done() -> None:
    tasks = [3, 2, 4, 3, 3, 6, 8]
    results = [result for _, result in ordered(square, iter(tasks), 1, 30.0)]
    assert [result for result in results if not isinstance(result, Failure)] == [4, 16, 36, 64]
    assert [isinstance(result, Failure) for result in results] == [number == 3 for number in tasks]


def test_tasks_and_results_larger_than_a_pipe_pass_each_other() -> None:
    tasks = [bytes(8 << 20)] * 6
    assert [result for _, result in ordered(bytes.upper, iter(tasks), 2, 30.0)] == tasks


def pid(number: int) -> int:
    """The process that is at work; 3 ends it."""
    return square(number) and os.getpid()


def test_a_hand_is_one_process_from_call_to_call_until_a_task_ends_it() -> None:
    hand = Hand(pid, 30.0)
    first, second, third = hand([1, 2]), hand([4]), hand([6, 3, 8])
    assert {*first, *second, third[0]} == {first[0]}
    assert third[1] == Failure("the decoder crashed: exit code -11")
    assert third[2] == hand([10])[0] != first[0]
    assert hand([]) == []
    hand.stop()


def test_no_task_gives_no_result() -> None:
    assert list(ordered(square, iter(()), 1, 3.0)) == []


def test_workers_that_cannot_start_are_an_error_not_a_rejection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])  # where a fresh interpreter would look for us
    monkeypatch.setattr(sys, "executable", sys._base_executable)  # type: ignore[attr-defined]
    with pytest.raises(InstallError, match=r"expected to start, got .*audiorl_cli"):
        list(ordered(square, iter(range(3)), 1, 3.0))
