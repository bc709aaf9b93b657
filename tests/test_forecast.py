"""The forecast: what the first steps of a run would draw, its totals by hand, and the rows it proposes."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tones import small_config, tone_shards

from audiorl_cli import console_learning
from audiorl_cli.bridge import checkpoint
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.rl import forecast
from audiorl_cli.rl.engine import AudioEngine
from audiorl_cli.rl.forecast import Group
from audiorl_cli.rl.order import batch_rows


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return open_shards(tone_shards(tmp_path_factory.mktemp("tones"), rows=5))


def test_the_first_batch_is_what_the_first_step_of_train_draws(shards: Shards) -> None:
    config = small_config("train.samples_per_step=2", "loss.overlong_buffer=4", "loss.beta=0")
    seen: list[tuple[int, int]] = []
    groups = forecast.sample(config, checkpoint.load("tiny"), shards, 100, lambda *told: seen.append(told))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert sorted(group.id for group in groups) == [f"tone{number}" for number in range(5)]  # each once
    engine = AudioEngine(config, checkpoint.load("tiny"), shards)
    indices = batch_rows(shards.rows, 2, seed=config.seed, step=0)
    metrics, samples = engine.update(indices, shards.read(indices))
    assert [one.completions for one in samples] == [group.completions for group in groups[:2]]
    assert [one.id for one in samples] == [group.id for group in groups[:2]]
    told = forecast.forecast(groups[:2], config, "tiny", shards)
    assert told.wer_mean == pytest.approx(metrics.sample_wer)
    assert told.completion_tokens_mean == metrics.completion_tokens_mean
    assert told.truncated_share == metrics.truncated_share
    assert told.zero_spread_share == metrics.zero_spread_share
    lessons = engine.lessons()
    assert [pytest.approx(one.rewards) for one in lessons] == [group.rewards for group in groups[:2]]


def _group(name: str, words: int, rewards: list[float], errors: list[int], tokens: list[int]) -> Group:
    ended = tuple(number < 8 for number in tokens)
    texts = tuple(str(error) for error in errors)
    differ = max(rewards) > min(rewards)
    return Group(name, "reference", words, texts, tuple(rewards), tuple(errors), tuple(tokens), ended, differ)


GROUPS = [
    _group("taught", 10, [0.9, 0.5], [1, 5], [4, 8]),
    _group("solved", 6, [1.0, 1.0], [0, 0], [3, 3]),
    _group("hopeless", 4, [0.0, 0.0], [4, 4], [2, 8]),
    _group("silence", 0, [1.0, 0.0], [0, 2], [1, 3]),
]


def test_totals_by_hand(shards: Shards) -> None:
    told = forecast.forecast(GROUPS, small_config("rollout.group_size=2", "rollout.temperature=0.7"), "tiny", shards)
    assert (told.rows, told.group_size, told.temperature) == (4, 2, 0.7)
    assert told.reward_mean == pytest.approx((0.9 + 0.5 + 2 + 0 + 1) / 8)
    assert told.reward_std == pytest.approx((0.2 + 0 + 0 + 0.5) / 4)
    assert (told.zero_spread_share, told.solved_share) == (0.5, 0.25)
    assert told.wer_mean == pytest.approx((3 + 0 + 4 + 1) / 20)
    assert told.wer_best == pytest.approx((1 + 0 + 4 + 0) / 20)
    assert (told.completion_tokens_mean, told.completion_tokens_max) == (32 / 8, 8)
    assert told.truncated_share == 0.25


def test_without_a_word_to_count_by_there_is_no_wer(
    tmp_path: Path, shards: Shards, capsys: pytest.CaptureFixture[str]
) -> None:
    wordless = [_group("silence", 0, [1.0, 0.0], [0, 2], [1, 3])]
    told = forecast.forecast(wordless, small_config("rollout.group_size=2"), "tiny", shards)
    assert (told.wer_mean, told.wer_best) == (None, None)
    forecast.write(tmp_path / "out", told, wordless)
    console_learning.forecast(told, wordless, tmp_path)
    assert "no reference has a word: there is no WER" in capsys.readouterr().out


def test_the_files_and_the_rows_that_teach(tmp_path: Path, shards: Shards) -> None:
    told = forecast.forecast(GROUPS, small_config("rollout.group_size=2"), "tiny", shards)
    forecast.write(tmp_path / "out", told, GROUPS)
    assert json.loads((tmp_path / "out/forecast.json").read_text())["wer_best"] == told.wer_best
    lines = [json.loads(line) for line in (tmp_path / "out/groups.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [group.id for group in GROUPS]
    assert lines[0]["errors"] == [1, 5]
    with Image.open(tmp_path / "out/forecast.png") as picture:
        assert picture.width > 3 * picture.height
    proposed = forecast.with_signal(GROUPS)
    assert [row["id"] for row in proposed] == ["taught", "silence"]
    assert proposed[0]["reward_std"] == pytest.approx(0.2)
    assert proposed[0]["errors_mean"] == 3
