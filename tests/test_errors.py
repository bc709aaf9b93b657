"""Errors are one printable line, carry an exit code, and survive a process pool."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from audiorl_cli import errors
from audiorl_cli.errors import AudioRLError, DataError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AudioRLError)]


def test_the_line_says_item_expected_got_and_fix() -> None:
    error = DataError("manifest.jsonl line 3", expected="a path", got="nothing", fix="Add one.")
    assert str(error) == "manifest.jsonl line 3: expected a path, got nothing. Add one."


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\nb", "\r", "\x00", "\u202e", "\x9b31m", "\ud800", "\u2028"])
def test_no_control_character_reaches_a_terminal(hostile: str) -> None:
    line = str(DataError(hostile, expected=hostile, got=hostile, fix=hostile))
    assert line.isprintable()
    assert hostile not in line
    assert "\\" in line  # escaped, not dropped


def test_letters_of_any_script_stay() -> None:
    assert str(DataError("café 音声", expected="ё", got="ش", fix="ok")) == "café 音声: expected ё, got ش. ok"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_survives_pickling(kind: type[AudioRLError]) -> None:
    error = kind("a\n", expected="b", got="c", fix="d")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == str(error)
    assert (back.item, back.expected, back.got, back.fix, back.exit_code) == ("a\n", "b", "c", "d", kind.exit_code)


def _fail() -> None:
    raise DataError("clip", expected="audio", got="text", fix="Remove it.")


def test_a_worker_process_can_raise_one() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(DataError, match="clip: expected audio, got text"),
    ):
        pool.submit(_fail).result()


def test_exit_codes() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS}
    assert codes.pop("UsageError") == 2
    assert set(codes.values()) == {1}
