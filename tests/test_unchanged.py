"""Text and vision through the patched EasyDeL: bit for bit what they are without the patch, in a process each."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from unchanged import COLUMNS

from audiorl_cli import core


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("patched"), "--patched")


def run(folder: Path, *options: str) -> dict[str, Any]:
    program, file = Path(__file__).with_name("unchanged.py"), folder / "found.json"
    ended = subprocess.run(
        [sys.executable, str(program), str(file), *options],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_the_two_processes_are_what_they_are_called(stock: dict[str, Any], patched: dict[str, Any]) -> None:
    assert (stock["audiorl"], patched["audiorl"]) == (False, True)


@pytest.mark.parametrize("kind", COLUMNS)
def test_functions_give_the_same(stock: dict[str, Any], patched: dict[str, Any], kind: str) -> None:
    expected, found = stock["functions"][kind], patched["functions"][kind]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("normalised"):
            # A place for each key of the list, by design; None is no leaf to JAX, and goes nowhere.
            places = [[key, None] for key in sorted(core.AUDIO_KEYS)]
            assert found[name] == [*value, *places], name
        else:
            assert found[name] == value, name


def test_every_key_of_the_lists_was_among_the_columns(stock: dict[str, Any]) -> None:
    listed = {key for key, _ in stock["functions"]["text"]["normalised any"]}
    told = {column for rows in COLUMNS.values() for row in rows for column in row}
    assert listed <= told


@pytest.mark.parametrize("kind", ["text step", "image step"])
def test_a_step_scores_measures_and_moves_the_same(stock: dict[str, Any], patched: dict[str, Any], kind: str) -> None:
    expected = stock[kind]
    assert expected["steps"] == 1
    assert "loss" in expected["metrics"]
    assert "completion_ids" in dict(expected["scored"])
    for name, value in expected.items():
        assert patched[kind][name] == value, name


def test_the_steps_learn_and_the_image_is_seen(stock: dict[str, Any]) -> None:
    def moved(kind: str) -> set[str]:
        before, after = stock[kind]["before"], stock[kind]["after"]
        assert before.keys() == after.keys()
        return {name for name in before if before[name] != after[name]}

    assert moved("text step") == stock["text step"]["before"].keys()
    assert "pixel_values" in dict(stock["image step"]["scored"])
    # Nothing but the loss moves a parameter: there is no weight decay.
    assert any("patch_embedding" in name for name in moved("image step"))
