"""Checkpoints in from every place and form, and out again with nothing lost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from flax import nnx
from huggingface_hub import constants
from reference import WEIGHTS, Tensors, copied
from safetensors.numpy import load_file, save_file
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration, WhisperFeatureExtractor

from audiorl_cli.bridge import checkpoint
from audiorl_cli.bridge.reference import with_windows
from audiorl_cli.errors import ModelError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    reference.thinker(folder)
    return folder


@pytest.fixture(scope="module")
def values(written: Path) -> dict[Any, np.ndarray]:
    return parameters(checkpoint.load(str(written)).model)


def parameters(model: Any) -> dict[Any, np.ndarray]:
    leaves = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {path: np.asarray(leaf.get_value()) for path, leaf in leaves}


def assert_same(first: dict[Any, np.ndarray], second: dict[Any, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for path, value in first.items():
        np.testing.assert_array_equal(value, second[path], err_msg=str(path))


def test_the_tiny_model_is_small_whole_and_the_same_each_time() -> None:
    first, second = checkpoint.load("tiny"), checkpoint.load("tiny")
    assert_same(parameters(first.model), parameters(second.model))
    assert 400_000 < sum(value.size for value in parameters(first.model).values()) < 900_000
    assert first.config.text_config.vocab_size == len(first.tokenizer)
    assert first.config.eos_token_id == [first.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert first.config.pad_token_id == first.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert first.source == "tiny"


def test_nothing_is_lost_between_loading_and_saving(written: Path, tmp_path: Path) -> None:
    checkpoint.save(checkpoint.load(str(written)), tmp_path / "model")
    before, after = load_file(written / WEIGHTS), load_file(tmp_path / "model" / WEIGHTS)
    assert "audio_tower.layers.0.self_attn.k_proj.bias" in after
    assert_same(before, after)


@pytest.mark.parametrize("shard_bytes", [10**9, 300_000], ids=["one file", "several files"])
def test_transformers_makes_the_same_of_what_was_saved(written: Path, tmp_path: Path, shard_bytes: int) -> None:
    folder = tmp_path / "model"
    checkpoint.save(checkpoint.load(str(written)), folder, shard_bytes=shard_bytes)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard_bytes < 10**9)
    models = []
    for source in (written, folder):
        model, report = Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained(source, output_loading_info=True)
        assert not any(report.values()), report
        models.append(with_windows(model.eval()))
    clip, audio = reference.mel(101), models[0].config.audio_token_id
    prompt = [4, 8, *[audio] * 14, 15, 16]
    first, second = (reference.logits(model, prompt, clip) for model in models)
    np.testing.assert_array_equal(first, second)
    assert models[1].generation_config.eos_token_id is not None
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    assert (extractor.feature_size, extractor.nb_max_frames) == (128, 3000)
    again = checkpoint.load(str(folder))
    assert again.tokenizer.chat_template == checkpoint.load("tiny").tokenizer.chat_template
    assert_same(parameters(again.model), parameters(checkpoint.load(str(written)).model))


def test_a_saved_model_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    tiny = checkpoint.load("tiny")
    checkpoint.save(tiny, tmp_path / "model")
    checkpoint.save(tiny, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("keep me")
    with pytest.raises(ModelError, match="other files"):
        checkpoint.save(tiny, tmp_path / "notes")
    assert (tmp_path / "notes" / "diary.txt").read_text() == "keep me"


def test_a_whole_omni_in_several_files_gives_its_thinker(
    written: Path, tmp_path: Path, values: dict[Any, np.ndarray]
) -> None:
    def whole(tensors: Tensors) -> Tensors:
        return {f"thinker.{name}": value for name, value in tensors.items()}

    folder = copied(written, tmp_path / "omni", whole)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    tensors["talker.model.norm.weight"] = tensors["code2wav.decoder.0.bias"] = np.ones(3, np.float32)
    names = sorted(tensors)
    weight_map = {name: f"part-{index % 3}.safetensors" for index, name in enumerate(names)}
    for part in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == part}, folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    thinker = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_omni_moe", "thinker_config": thinker}))
    assert_same(parameters(checkpoint.load(str(folder)).model), values)

    (folder / "part-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"got no part-1\.safetensors"):
        checkpoint.load(str(folder))


def test_experts_may_stand_together_in_one_tensor(written: Path, tmp_path: Path, values: dict[Any, np.ndarray]) -> None:
    def fused(tensors: Tensors) -> Tensors:
        kept = {name: value for name, value in tensors.items() if ".experts." not in name}
        for layer in range(2):
            stem = f"model.layers.{layer}.mlp.experts"
            stacked = {
                kind: np.stack([tensors[f"{stem}.{expert}.{kind}.weight"] for expert in range(4)])
                for kind in ("gate_proj", "up_proj", "down_proj")
            }
            kept[f"{stem}.gate_up_proj"] = np.concatenate([stacked["gate_proj"], stacked["up_proj"]], axis=1)
            kept[f"{stem}.down_proj"] = stacked["down_proj"]
        return kept

    assert_same(parameters(checkpoint.load(str(copied(written, tmp_path / "fused", fused))).model), values)


def test_missing_unexpected_and_misshaped_tensors_are_named(written: Path, tmp_path: Path) -> None:
    def missing(tensors: Tensors) -> Tensors:
        return {name: value for name, value in tensors.items() if not name.startswith("audio_tower.conv2d2")}

    with pytest.raises(ModelError, match=r"2 missing: audio_tower.conv2d2.bias, audio_tower.conv2d2.weight"):
        checkpoint.load(str(copied(written, tmp_path / "missing", missing)))
    extra = copied(
        written, tmp_path / "unexpected", lambda tensors: tensors | {"audio_tower.odd.bias": np.ones(2, np.float32)}
    )
    with pytest.raises(ModelError, match=r"1 unexpected: audio_tower\.odd\.bias"):
        checkpoint.load(str(extra))
    wrong = copied(
        written, tmp_path / "misshaped", lambda tensors: tensors | {"audio_tower.proj2.bias": np.ones(5, np.float32)}
    )
    with pytest.raises(ModelError, match=r"audio_tower\.proj2\.bias: expected shape \[128\], got \[5\]"):
        checkpoint.load(str(wrong))


def test_a_run_is_loaded_by_its_folder(written: Path, tmp_path: Path, values: dict[Any, np.ndarray]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("")
    with pytest.raises(ModelError, match="a finished RUN"):
        checkpoint.load(str(run))
    checkpoint.save(checkpoint.load(str(written)), run / "model")
    assert_same(parameters(checkpoint.load(str(run)).model), values)


def test_an_abstract_checkpoint_reads_no_weights(written: Path, tmp_path: Path, values: dict[Any, np.ndarray]) -> None:
    folder = copied(written, tmp_path / "shapes")
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="safetensors files of a checkpoint, got none"):
        checkpoint.load(str(folder))
    model = checkpoint.abstract(str(folder)).model
    shapes = {path: leaf.get_value().shape for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert shapes == {path: value.shape for path, value in values.items()}


def test_parameters_take_the_dtype_that_was_asked_for(written: Path) -> None:
    loaded = checkpoint.load(str(written), dtype="bfloat16")
    assert {str(value.dtype) for value in parameters(loaded.model).values()} == {"bfloat16"}
    assert loaded.config.text_config.kvdtype == loaded.model.dtype


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        checkpoint.load(str(tmp_path / "nowhere" / "at" / "all"))
    with pytest.raises(ModelError, match=r"got one without config\.json"):
        checkpoint.load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="qwen3_omni_moe_thinker, got 'llama'"):
        checkpoint.load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_omni_moe_thinker"}')
    with pytest.raises(ModelError, match=r"expected tokenizer\.json"):
        checkpoint.load(str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="nobody/nothing-of-the-kind: expected a local folder, or a model the hub"):
        checkpoint.load("nobody/nothing-of-the-kind")
