"""Rewards of the user's own: found, given what they name, and refused in one line where that cannot be."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tones import small_config, tone_shards

from audiorl_cli.config import RewardConfig
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.errors import ConfigError
from audiorl_cli.rl import custom
from audiorl_cli.rl.judge import Judge
from audiorl_cli.rl.run import train

Write = Callable[[str], str]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return open_shards(tone_shards(tmp_path_factory.mktemp("tones")))


def judge(name: str, shards: Shards, normaliser: str = "basic") -> Judge:
    return Judge.of(RewardConfig({name: 1.0}, normaliser, boilerplate="strip"), shards)


def test_a_function_gets_the_texts_it_names(module: Write) -> None:
    asked = "completion, *, normalised_completion, reference, normalised_reference"
    name = module(f"def f({asked}):\n    global got\n    got = {{**locals()}}\n    return 0.25")
    config = RewardConfig({name: 2.0}, boilerplate="strip")
    assert Judge(config, ["One, two!"], ["a"])([0], ["Transcript: One"]).rewards.tolist() == [[0.5]]
    assert sys.modules[name.removesuffix(":f")].got == {
        "completion": "Transcript: One",
        "normalised_completion": "one",
        "reference": "One, two!",
        "normalised_reference": "one two",
    }


def test_a_function_gets_the_columns_it_names(module: Write, shards: Shards) -> None:
    name = module("def f(id, duration_s, num_frames, none='here'): return duration_s * (id != '') * (none == 'here')")
    rows = shards.read([0, 2])
    verdict = judge(name, shards)([0, 2], ["a", "b", "c", "d"])
    assert verdict.rewards.tolist() == [[row.duration_s] * 2 for row in rows]


def test_a_column_is_given_where_a_default_stands_too(module: Write, shards: Shards) -> None:
    name = module("def f(duration_s=-1.0): return duration_s")
    assert judge(name, shards)([1], ["a"]).rewards.tolist() == [[shards.column("duration_s")[1]]]


REFUSED = [
    (
        "def f(completion, mood): return 0",
        r"parameter 'mood' of reward \w+:f: expected one of .*duration_s.*, got no su",
    ),
    (
        "def f(input_features): return 0",
        "parameter 'input_features' of reward .*: expected one of reference, completio",
    ),
    ("def f(*texts): return 0", r"reward \w+:f: expected parameters that can be given by name, got \*texts"),
    ("def f(text, /): return 0", r"reward \w+:f: expected parameters that can be given by name"),
    ("def g(): return 0", r"reward \w+:f: expected a function f in .*own_rewards_\d+\.py, got none"),
    ("f = 0.5", r"reward \w+:f: expected a function f in .*, got 0\.5"),
    ("import no_such_package", r"reward \w+:f: expected a module .*, got No module named 'no_such_package'"),
]


@pytest.mark.parametrize(("source", "message"), REFUSED)
def test_what_cannot_be_is_refused_in_one_line(module: Write, shards: Shards, source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        judge(module(source), shards)
    assert "\n" not in str(raised.value)


def test_a_module_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"reward no\.such:f: expected a module no\.such .*, got No module named 'no'"
    ):
        custom.load("no.such:f")


def test_what_else_a_module_raises_is_the_users_to_see(module: Write) -> None:
    with pytest.raises(ZeroDivisionError):
        custom.load(module("1 / 0"))


def test_a_run_refuses_before_it_writes_or_loads_anything(module: Write, shards: Shards, tmp_path: Path) -> None:
    out = tmp_path / "run"
    name = module("def f(completion, mood): return 0")
    config = small_config(f'reward.weights={{"{name}" = 1.0}}')
    with pytest.raises(ConfigError, match="parameter 'mood'"):
        train(config, shards.folder, "no/such/model", out, on_step=lambda metrics: None)
    assert not out.exists()


def test_the_working_folder_is_looked_in_last(module: Write, tmp_path: Path) -> None:
    module("")
    (tmp_path / "jiwer.py").write_text("def f(): return 1\n")
    code = "from audiorl_cli.rl import custom; custom.load('jiwer:f')"
    there = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, env=there)
    assert "expected a function f in" in done.stderr
    assert str(tmp_path / "jiwer.py") not in done.stderr


def test_a_run_knows_the_code_of_its_reward(module: Write, shards: Shards, tmp_path: Path) -> None:
    name = module("def f(): return 0.0")
    config = small_config(f'reward.weights={{"{name}" = 1.0}}', "train.steps=1")
    out = tmp_path / "run"
    train(config, shards.folder, "tiny", out, on_step=lambda _: None)
    train(config, shards.folder, "tiny", out, on_step=lambda _: None)
    file = Path(sys.modules[name.removesuffix(":f")].__file__ or "")
    file.write_text("def f(): return 1.0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"rewards was '[0-9a-f]{64}' and is '[0-9a-f]{64}'"):
        train(config, shards.folder, "tiny", out, on_step=lambda _: None)
    assert custom.digest(["wer", name]) == custom.digest([name]) != custom.digest(["wer"]) == ""
