"""Prompt rows: the columns that EasyDeL's trainer takes, from real recordings, built one by one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audiorl_cli import core
from audiorl_cli.bridge.prompt import Prompter, tiny_tokenizer
from audiorl_cli.bridge.rows import faults, prompt_row, prompt_rows
from audiorl_cli.config import PromptConfig
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.errors import DataError

LONGEST = 39 + 16  # tokens: 3 s of audio, and the words around it


@pytest.fixture(scope="module")
def shards(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Five spoken digits in windows of 3 s, two to a shard."""
    lines = (speech / "digits" / "manifest.jsonl").read_text().splitlines()[::500]
    source = tmp_path_factory.mktemp("digits") / "digits.jsonl"
    entries = [json.loads(line) for line in lines]
    source.write_text(
        "".join(
            json.dumps({"id": f"digit-{n}", "audio": str(speech / "digits" / e["audio"]), "text": e["text"]}) + "\n"
            for n, e in enumerate(entries)
        )
    )
    out = tmp_path_factory.mktemp("shards")
    prep(str(source), out, PrepSettings(clip_seconds=3.0, rows_per_shard=2, workers=1, root=speech))
    return open_shards(out)


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(tiny_tokenizer(), PromptConfig())


def test_a_prompt_row_is_what_the_trainer_takes(shards: Shards, prompter: Prompter) -> None:
    row = shards.read([3])[0]
    made = prompt_row(row, 3, prompter, LONGEST)
    ids = prompter.ids(row.num_frames)
    padding = LONGEST - len(ids)
    assert padding > 0
    assert {key: (value.shape, str(value.dtype)) for key, value in made.items()} == {
        "input_ids": ((LONGEST,), "int32"),
        "attention_mask": ((LONGEST,), "int32"),
        "input_features": ((128, 300), "float32"),
        "feature_attention_mask": ((300,), "int32"),
        "utterance": ((), "int32"),
    }
    assert made["input_ids"].tolist() == [prompter.pad_token_id] * padding + ids
    assert made["attention_mask"].tolist() == [0] * padding + [1] * len(ids)
    assert np.array_equal(made["input_features"], row.features)
    assert made["feature_attention_mask"].tolist() == [1] * row.num_frames + [0] * (300 - row.num_frames)
    assert int(made["utterance"]) == 3


def test_the_rows_of_all_shards_stand_in_order(shards: Shards, prompter: Prompter) -> None:
    rows = prompt_rows(shards, prompter, LONGEST)
    assert len(rows) == shards.rows == 5
    assert [int(row["utterance"]) for row in rows] == [0, 1, 2, 3, 4]
    assert np.array_equal(rows[4]["input_features"], shards.read([4])[0].features)


def test_an_order_may_repeat_rows_and_is_kept(shards: Shards, prompter: Prompter) -> None:
    order = np.asarray([4, 0, 4, 2])
    rows = prompt_rows(shards, prompter, LONGEST, order=order.tolist())
    assert [int(row["utterance"]) for row in rows] == [4, 0, 4, 2]
    with pytest.raises(IndexError):
        rows[4]


def test_easydel_takes_them_as_they_are(shards: Shards, prompter: Prompter) -> None:
    from easydel.data.sources.hf_wrapper import wrap_hf_dataset

    source = wrap_hf_dataset(prompt_rows(shards, prompter, LONGEST, order=[1, 3]))
    assert len(source) == 2
    assert [int(row["utterance"]) for row in source.open_shard(source.shard_names[0])] == [1, 3]


def test_a_row_that_the_model_could_not_hear_whole_is_an_error(shards: Shards, prompter: Prompter) -> None:
    row = shards.read([2])[0]
    assert faults(row, 300, prompter, LONGEST) == []
    length = prompter.length(row.num_frames)
    prompt_row(row, 2, prompter, length)
    with pytest.raises(DataError, match=rf"row 2, digit-2: prompt: expected at most {length - 1} tokens, got {length}"):
        prompt_row(row, 2, prompter, length - 1)
    with pytest.raises(DataError, match=r"row 2, digit-2: num_frames: expected 1 to 300, got 0"):
        prompt_row(replace(row, num_frames=0), 2, prompter, LONGEST)


@pytest.mark.parametrize("seconds", [-0.01, 0.0, 0.01])
def test_the_duration_may_be_a_frame_off(shards: Shards, prompter: Prompter, seconds: float) -> None:
    """The last frame of a clip is seldom whole."""
    row = shards.read([2])[0]
    moved = replace(row, duration_s=row.num_frames / core.FRAMES_PER_SECOND + seconds)
    assert faults(moved, 300, prompter, LONGEST) == []
    assert len(faults(replace(moved, duration_s=moved.duration_s + 3 * (seconds or 0.01)), 300, prompter, LONGEST)) == 1


def test_a_clip_that_fills_the_window_is_sound(speech: Path, tmp_path: Path, prompter: Prompter) -> None:
    """No padding is left behind it, or less than a frame reaches."""
    import soundfile

    samples, rate = soundfile.read(speech / "librispeech" / "test-other-mini/1688/142285/1688-142285-0000.flac")
    assert rate == core.SAMPLE_RATE
    lengths = [48_000, 47_999, 47_840, 47_800, 47_500]  # samples, of a window of 48,000
    lines = []
    for length in lengths:
        soundfile.write(tmp_path / f"{length}.wav", samples[:length], rate)
        lines.append(json.dumps({"id": str(length), "audio": f"{length}.wav", "text": "THERE'S IRON"}))
    (tmp_path / "clips.jsonl").write_text("\n".join(lines) + "\n")
    prep(str(tmp_path / "clips.jsonl"), tmp_path / "out", PrepSettings(clip_seconds=3.0, workers=1))
    rows = open_shards(tmp_path / "out").read(range(len(lengths)))
    assert [row.num_frames for row in rows] == [300, 300, 299, 299, 297]
    for row in rows:
        assert faults(row, 300, prompter, LONGEST) == [], row.id
