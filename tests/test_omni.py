"""A whole Omni, as transformers writes it: its thinker goes in, the whole comes out with nothing else touched."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from safetensors import safe_open
from tones import small_config, tone_shards
from transformers import Qwen3OmniMoeForConditionalGeneration

from audiorl_cli.bridge import checkpoint
from audiorl_cli.bridge.reference import with_windows
from audiorl_cli.errors import ModelError
from audiorl_cli.rl.warmstart import warmstart

PROMPT = [4, 8, *[954] * 14, 15, 16]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("omni")
    reference.omni(folder)
    (folder / "merges.txt").write_text("#version: 0.2\nÄ b\n", encoding="utf-8")
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "feature_size": 128}')
    return folder


def tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            yield from ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118


def logits(folder: Path) -> Any:
    model, report = Qwen3OmniMoeForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return reference.logits(with_windows(model.thinker.eval()), PROMPT, reference.mel(101))


def test_nothing_is_lost_of_it(whole: Path, tmp_path: Path) -> None:
    assert len(list(whole.glob("*.safetensors"))) > 1
    loaded = checkpoint.load(str(whole), dtype="bfloat16")
    assert loaded.config.audio_token_id == PROMPT[2]
    checkpoint.save(loaded, tmp_path / "model", export="omni", shard_bytes=500_000)
    before, after = dict(tensors(whole)), dict(tensors(tmp_path / "model"))
    assert before.keys() == after.keys()
    assert {name.split(".")[0] for name in after} == {"thinker", "talker", "code2wav"}
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert np.array_equal(tensor.view(np.uint16), after[name].view(np.uint16)), name
    for path in whole.iterdir():
        if path.suffix != ".safetensors" and path.name not in ("config.json", "model.safetensors.index.json"):
            assert (tmp_path / "model" / path.name).read_bytes() == path.read_bytes()
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "qwen3_omni_moe"
    np.testing.assert_array_equal(logits(tmp_path / "model"), logits(whole))


def test_a_run_puts_its_thinker_into_it_and_tells_of_itself(whole: Path, tmp_path: Path) -> None:
    data, out = tone_shards(tmp_path / "tones"), tmp_path / "run"
    config = small_config("train.export=omni", "warmstart.steps=1", "train.save_every=1", "train.dtype=bfloat16")
    result = warmstart(config, data, str(whole), out, on_step=lambda _: None)
    assert result.model == out / "model"
    before, after = dict(tensors(whole)), dict(tensors(out / "model"))
    changed = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"thinker"}
    assert np.isfinite(logits(out / "model")).all()
    card = (out / "model" / "README.md").read_text()
    assert "base_model" not in card  # a folder of this machine is no model of the hub
    for told in (str(whole), "steps | 1 |", "6 utterances", "Qwen3OmniMoeForConditionalGeneration", "batch_size = 2"):
        assert told in card
    # What came out is what the next run goes in with.
    assert checkpoint.abstract(str(out)).omni == out / "model"


def test_a_thinker_by_itself_becomes_no_omni(tmp_path: Path) -> None:
    data = tone_shards(tmp_path / "tones")
    with pytest.raises(
        ModelError, match=r'tiny: expected a whole Qwen3-Omni, for train\.export = "omni", got a thinker'
    ):
        warmstart(small_config("train.export=omni"), data, "tiny", tmp_path / "run", on_step=lambda _: None)
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()
