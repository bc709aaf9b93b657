"""The audio keys in EasyDeL, through EasyDeL's own functions: stock in a fresh process, patched in this one."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from audiorl_cli import core
from audiorl_cli.bridge import keys
from audiorl_cli.errors import InstallError

TRAINING = "easydel.trainers.training_utils"
UTILS = "easydel.trainers.utils"

# Three frames and three prompt tokens, so that mel time could be taken for token time.
STOCK = """
import json, sys
import numpy as np
from easydel.trainers import prompt_transforms, training_utils, utils
audio = {"input_features": np.ones((4, 3), np.float32), "feature_attention_mask": np.ones(3, np.int32)}
deaf = {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1]}
batch = utils.GRPODataCollatorTFDS(max_prompt_length=8, pad_token_id=0)
single = utils.GRPODataCollatorGrain(max_prompt_length=8, pad_token_id=0)
shapes = lambda b: {k: list(v.shape) for k, v in b.items()}
json.dump({
    "extracted": sorted(training_utils.extract_generation_model_kwargs(audio)),
    "normalised": sorted(set(audio) & set(training_utils.normalize_generation_model_kwargs(audio))),
    "purified": sorted(prompt_transforms.purify_example({**deaf, **audio})),
    "batch": shapes(batch([{**deaf, **audio}] * 2)),
    "single": shapes(single({**deaf, **audio})),
    "some rows": shapes(batch([{**deaf, **audio}, deaf])),
    "order": list(training_utils.GENERATION_MODEL_INPUT_KEYS),
}, sys.stdout)
"""


@pytest.fixture(scope="module")
def stock() -> dict[str, Any]:
    """What the functions of an unpatched EasyDeL do with audio."""
    run = subprocess.run([sys.executable, "-c", STOCK], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def report() -> keys.PatchReport:
    return keys.apply()


@pytest.fixture(scope="module")
def training(report: keys.PatchReport) -> ModuleType:
    return importlib.import_module(TRAINING)


@pytest.fixture(scope="module")
def utils(report: keys.PatchReport) -> ModuleType:
    return importlib.import_module(UTILS)


def audio(rows: tuple[int, ...] = ()) -> dict[str, Any]:
    """Audio of three frames with four mel bins, every value its own."""
    features = np.arange(np.prod([*rows, 12]), dtype=np.float32).reshape(*rows, 4, 3)
    return {"input_features": features, "feature_attention_mask": np.ones((*rows, 3), np.int32)}


def row(**columns: Any) -> dict[str, Any]:
    return {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], **columns}


def test_stock_easydel_drops_audio_without_an_error(stock: dict[str, Any]) -> None:
    assert stock["extracted"] == stock["normalised"] == []
    assert stock["purified"] == ["attention_mask", "input_ids"]


def test_stock_collators_pass_audio_unless_a_row_lacks_it(stock: dict[str, Any]) -> None:
    """Pull request 260 says that they left-pad mel time; only the loss in a mixed batch reproduces."""
    assert stock["batch"]["input_features"] == [2, 4, 3]
    assert stock["single"]["input_features"] == [4, 3]
    assert stock["some rows"] == {"input_ids": [2, 8], "attention_mask": [2, 8]}


def test_the_report_names_each_list_and_every_module_that_holds_it(report: keys.PatchReport) -> None:
    assert (report.needed, report.applied, report.took_hold) == (True, True, True)
    assert [(item.module, item.name) for item in report.lists] == list(core.EASYDEL_KEY_SETS)
    for item in report.lists:
        assert item.had == ()
        assert item.added == ("feature_attention_mask", "input_features")
        assert item.took_hold
    holders = {item.name: item.holders for item in report.lists}
    assert holders["GENERATION_MODEL_INPUT_KEYS"] == ("easydel.trainers.base_trainer", TRAINING, UTILS)
    assert holders["FLATTENABLE_MULTIMODAL_KEYS"] == (UTILS,)
    for module in ("easydel.trainers.base_trainer", UTILS, TRAINING):
        assert vars(importlib.import_module(module))["GENERATION_MODEL_INPUT_KEYS"][-2:] == item.added


def test_each_list_keeps_its_type_and_order(report: keys.PatchReport, stock: dict[str, Any]) -> None:
    kinds = {name: type(vars(importlib.import_module(module))[name]) for module, name in core.EASYDEL_KEY_SETS}
    assert kinds == {
        "GENERATION_MODEL_INPUT_KEYS": tuple,
        "GROUPED_MULTIMODAL_MODEL_INPUT_KEYS": frozenset,
        "FLATTENABLE_MULTIMODAL_KEYS": frozenset,
        "_TOKENIZED_FIELDS": set,
    }
    now = importlib.import_module(TRAINING).GENERATION_MODEL_INPUT_KEYS
    assert list(now) == [*stock["order"], "feature_attention_mask", "input_features"]


def test_a_second_call_changes_nothing(report: keys.PatchReport) -> None:
    before = {where: id(vars(importlib.import_module(where[0]))[where[1]]) for where in core.EASYDEL_KEY_SETS}
    assert keys.apply() == report
    assert keys.applied()
    assert before == {where: id(vars(importlib.import_module(where[0]))[where[1]]) for where in core.EASYDEL_KEY_SETS}


def test_audio_is_in_no_list_that_treats_it_as_tokens_or_shares_it(utils: ModuleType, training: ModuleType) -> None:
    assert not core.AUDIO_KEYS & utils.PROMPT_ALIGNED_LEFT_PAD_KEYS
    assert not core.AUDIO_KEYS & training.SHARED_GENERATION_MODEL_INPUT_KEYS
    assert not core.AUDIO_KEYS & training.PROMPT_ONLY_SCORING_MODEL_INPUT_KEYS
    assert not core.AUDIO_KEYS & training.PROMPT_SCORING_EXTENSION_KEYS


def test_normalised_arguments_have_a_place_for_audio(training: ModuleType) -> None:
    assert {key: training.normalize_generation_model_kwargs(None)[key] for key in core.AUDIO_KEYS} == {
        "input_features": None,
        "feature_attention_mask": None,
    }
    batch = audio((2,))
    normalised = training.normalize_generation_model_kwargs({**batch, "utterance": np.arange(2)})
    assert normalised["input_features"] is batch["input_features"]
    assert "utterance" not in normalised
    assert training.compact_generation_model_kwargs(normalised).keys() == core.AUDIO_KEYS


def test_extracted_arguments_are_the_audio_of_the_batch(training: ModuleType) -> None:
    batch = audio((2,))
    found = training.extract_generation_model_kwargs({**batch, "input_ids": np.ones((2, 8)), "utterance": np.arange(2)})
    assert found.keys() == core.AUDIO_KEYS
    assert all(found[key] is batch[key] for key in core.AUDIO_KEYS)


def test_a_model_that_does_not_take_audio_does_not_get_it(training: ModuleType) -> None:
    from easydel.modules.llama import LlamaForCausalLM
    from easydel.modules.qwen3_omni_moe import Qwen3OmniMoeThinkerForConditionalGeneration

    batch = audio((2,))

    def extracted(model: Any) -> set[str]:
        return set(training.extract_generation_model_kwargs(batch, model_callable=model))

    assert extracted(LlamaForCausalLM.__call__) == set()
    # Its signature has no mask: the stock thinker would hear the padding of every clip.
    assert extracted(Qwen3OmniMoeThinkerForConditionalGeneration.__call__) == {"input_features"}
    assert extracted(lambda input_ids, input_features, feature_attention_mask: None) == core.AUDIO_KEYS


def test_scoring_keeps_audio_whole_and_repeats_it_with_its_prompt(training: ModuleType) -> None:
    batch = audio((2,))
    prepared = training.prepare_generation_model_kwargs_for_call(batch, prompt_length=3, target_sequence_length=9)
    assert all(np.array_equal(prepared[key], batch[key]) for key in core.AUDIO_KEYS)
    assert training.strip_prompt_only_scoring_model_kwargs(batch).keys() == core.AUDIO_KEYS
    training.validate_prompt_aligned_generation_model_kwargs(batch, prompt_batch_size=2)
    repeated = training.repeat_prompt_aligned_model_value(batch["input_features"], 3, prompt_batch_size=2)
    assert np.array_equal(repeated, batch["input_features"][[0, 0, 0, 1, 1, 1]])


def test_the_batch_collator_stacks_audio_and_pads_only_tokens(utils: ModuleType) -> None:
    rows = [row(**audio()), row(**{key: value + 1 for key, value in audio().items()})]
    batch = utils.GRPODataCollatorTFDS(max_prompt_length=8, pad_token_id=0)(rows)
    assert batch["input_ids"].shape == (2, 8)
    for key in core.AUDIO_KEYS:
        assert np.array_equal(batch[key], np.stack([rows[0][key], rows[1][key]]))
    assert batch["feature_attention_mask"].dtype == np.int32


def test_the_single_example_collator_leaves_audio_as_it_is(utils: ModuleType) -> None:
    single = utils.GRPODataCollatorGrain(max_prompt_length=8, pad_token_id=0)(row(**audio()))
    assert single["input_ids"].shape == (8,)
    for key, value in audio().items():
        assert np.array_equal(single[key], value)


@pytest.mark.parametrize("missing", sorted(core.AUDIO_KEYS))
@pytest.mark.parametrize("as_none", [True, False])
def test_a_batch_in_which_only_some_rows_carry_audio_is_refused(utils: ModuleType, missing: str, as_none: bool) -> None:
    deaf = row(**audio())
    if as_none:
        deaf[missing] = None
    else:
        del deaf[missing]
    collate = utils.GRPODataCollatorTFDS(max_prompt_length=8, pad_token_id=0)
    for rows in ([row(**audio()), deaf], [deaf, row(**audio())]):
        with pytest.raises(ValueError, match=f"mixed presence for `{missing}`"):
            collate(rows)


def test_rows_not_yet_tokenised_keep_their_audio(report: keys.PatchReport) -> None:
    from easydel.trainers.prompt_transforms import purify_example

    assert purify_example(row(**audio(), text="one")).keys() == {"input_ids", "attention_mask", *core.AUDIO_KEYS}


def test_a_module_imported_later_gets_the_patched_lists(
    report: keys.PatchReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import easydel.trainers

    source = "\n".join(f"from {module} import {name}" for module, name in core.EASYDEL_KEY_SETS)
    (tmp_path / "imported_later.py").write_text(source)
    monkeypatch.setattr(easydel.trainers, "__path__", [*easydel.trainers.__path__, str(tmp_path)])
    later = importlib.import_module("easydel.trainers.imported_later")
    try:
        for (_, name), wanted in core.EASYDEL_KEY_SETS.items():
            assert wanted <= set(vars(later)[name])
        assert "easydel.trainers.imported_later" in keys.apply().lists[0].holders
    finally:
        del sys.modules["easydel.trainers.imported_later"]


def test_a_trainer_imported_later_extracts_audio(report: keys.PatchReport, monkeypatch: pytest.MonkeyPatch) -> None:
    from easydel.utils.registery import Registry

    name = "easydel.trainers.group_filtered_policy_optimization.gfpo_trainer"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(Registry._registry["trainer"], "gfpo")  # it refuses a second registration
    later = importlib.import_module(name)
    extract = later.GFPOTrainer._preprocess_batch_input.__globals__["extract_generation_model_kwargs"]
    assert extract(audio((2,))).keys() == core.AUDIO_KEYS


def test_nothing_is_done_where_upstream_has_the_keys(report: keys.PatchReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_added", {})  # as if the keys that stand there now were upstream's
    assert not keys.applied()
    upstream = keys.apply()
    assert (upstream.needed, upstream.applied, upstream.took_hold) == (False, False, True)
    assert all(item.had == ("feature_attention_mask", "input_features") and item.added == () for item in upstream.lists)


def test_a_module_with_a_copy_of_its_own_is_rebound(report: keys.PatchReport, monkeypatch: pytest.MonkeyPatch) -> None:
    import easydel.trainers.metrics as holder

    monkeypatch.setattr(holder, "GENERATION_MODEL_INPUT_KEYS", ["pixel_values"], raising=False)
    assert not keys.examine().lists[0].took_hold
    assert keys.apply().took_hold
    assert holder.GENERATION_MODEL_INPUT_KEYS == ["pixel_values", "feature_attention_mask", "input_features"]


@pytest.mark.parametrize(("module", "name"), core.EASYDEL_KEY_SETS)
def test_a_list_that_moved_is_an_error(
    report: keys.PatchReport, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.delattr(importlib.import_module(module), name)
    with pytest.raises(InstallError, match=rf"{module}\.{name}: expected a tuple, list or set .* got no such name"):
        keys.apply()


def test_a_list_of_another_type_is_an_error(training: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "GENERATION_MODEL_INPUT_KEYS", {"pixel_values": None})
    with pytest.raises(InstallError, match="got dict"):
        keys.apply()


@pytest.mark.parametrize(
    ("module", "function", "name"),
    [
        (TRAINING, "extract_generation_model_kwargs", "GENERATION_MODEL_INPUT_KEYS"),
        (TRAINING, "prepare_generation_model_kwargs_for_call", "GROUPED_MULTIMODAL_MODEL_INPUT_KEYS"),
        (UTILS, "GRPODataCollatorGrain", "FLATTENABLE_MULTIMODAL_KEYS"),
        (UTILS, "GRPODataCollatorTFDS", "FLATTENABLE_MULTIMODAL_KEYS"),
        ("easydel.trainers.prompt_transforms", "purify_example", "_TOKENIZED_FIELDS"),
    ],
)
def test_a_function_that_moved_is_an_error(
    report: keys.PatchReport, monkeypatch: pytest.MonkeyPatch, module: str, function: str, name: str
) -> None:
    monkeypatch.delattr(importlib.import_module(module), function)
    with pytest.raises(InstallError, match=f"the functions that read {name}: .*{function}"):
        keys.apply()


@pytest.mark.parametrize("name", ["GENERATION_MODEL_INPUT_KEYS", "_TOKENIZED_FIELDS"])
def test_a_list_that_is_no_longer_read_is_an_error(
    report: keys.PatchReport, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The keys are listed, and the function drops them all the same."""
    module, function = {
        "GENERATION_MODEL_INPUT_KEYS": (TRAINING, "extract_generation_model_kwargs"),
        "_TOKENIZED_FIELDS": ("easydel.trainers.prompt_transforms", "purify_example"),
    }[name]
    monkeypatch.setattr(importlib.import_module(module), function, lambda *args, **kwargs: {})
    with pytest.raises(InstallError, match=f"{name}: expected .* to reach the model"):
        keys.apply()


def test_an_audio_key_among_the_prompt_aligned_is_an_error(utils: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, core.PROMPT_ALIGNED[1], frozenset({"position_ids", "input_features"}))
    with pytest.raises(InstallError, match=r"expected no audio key .* got input_features"):
        keys.apply()


def test_without_easydel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, TRAINING, None)  # what Python does for a module that cannot be imported
    with pytest.raises(InstallError, match=r"easydel.trainers.training_utils: .* Install easydel==0\.3\.0"):
        keys.examine()
