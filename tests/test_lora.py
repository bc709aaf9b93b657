"""LoRA: its equation, what it learns and leaves alone, and what transformers and PEFT make of what is saved."""

import dataclasses
import gc
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch
from easydel.layers import ColumnParallelLinear
from flax import nnx
from safetensors.numpy import load_file
from tones import small_config, tone_shards
from transformers import Qwen3OmniMoeForConditionalGeneration

from audiorl_cli.bridge import checkpoint, generate, lora
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.reference import load as theirs
from audiorl_cli.config import LoraConfig, PromptConfig
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.errors import ConfigError, ModelError
from audiorl_cli.rl import snapshot
from audiorl_cli.rl.easydel_engine import EasyDeLEngine
from audiorl_cli.rl.metrics import StepMetrics
from audiorl_cli.rl.run import RunResult, train
from audiorl_cli.rl.warmstart import WarmstartEngine

RANK, ALPHA = 3, 4.0
EVERY = r"lm_head|audio_tower\..*|model\.layers\.\d+\.self_attn\..*"
CONFIG = small_config("lora.rank=2", "train.save_every=1", "train.keep=4", "train.steps=3")
FRAMES = 101


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random thinker with an untied head and a dense layer."""
    folder = tmp_path_factory.mktemp("base")
    reference.thinker(folder, tie_word_embeddings=False, text_config={"mlp_only_layers": [1]})
    return folder


@pytest.fixture(scope="module")
def loaded(base: Path) -> Checkpoint:
    return checkpoint.load(str(base))


@pytest.fixture(scope="module")
def learnt(loaded: Checkpoint) -> Checkpoint:
    """Adapters that matter on every linear module there is."""
    model = lora.adapted(loaded.model, LoraConfig(RANK, ALPHA, EVERY), seed=0, frozen=("visual",))
    generator = np.random.default_rng(0)
    for adapter in lora.adapters(model).values():
        adapter.lora_b[...] = jnp.asarray(0.3 * generator.standard_normal(adapter.lora_b.shape), jnp.float32)
    return dataclasses.replace(loaded, model=model)


@pytest.fixture(scope="module")
def saved(learnt: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves of `learnt`: `model` and `adapter`."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoint.save_adapter(learnt, folder / "adapter")
    checkpoint.save(learnt, folder / "model")
    return folder


@pytest.fixture(scope="module")
def prompt(loaded: Checkpoint) -> list[int]:
    return [*Prompter(loaded.tokenizer, PromptConfig()).ids(FRAMES), 8, 41]


def inputs(prompt: list[int]) -> dict[str, Any]:
    ids = np.asarray([prompt], np.int32)
    features, heard = reference.batch([reference.mel(FRAMES)], FRAMES)
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "input_features": features,
        "feature_attention_mask": heard,
    }


def logits(model: Any, prompt: list[int]) -> np.ndarray:
    """Our logits [tokens, vocabulary] of one prompt with a clip."""
    return np.asarray(_logits(*nnx.split(model), inputs(prompt))[0])


@partial(jax.jit, static_argnums=0)
def _logits(graph: Any, state: Any, inputs: Any) -> Any:
    model = nnx.merge(graph, state)
    with model.mesh:
        return model(**inputs).logits


def pefts(folder: Path) -> dict[str, np.ndarray]:
    """alpha / r B A of each module, as PEFT's files of `folder` say it: module -> change of its weight [out, in]."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    stem = "base_model.model.{}.lora_{}.weight"
    modules = config["target_modules"]
    assert set(tensors) == {stem.format(module, part) for module in modules for part in "AB"}
    scale = config["lora_alpha"] / config["r"]
    return {module: scale * tensors[stem.format(module, "B")] @ tensors[stem.format(module, "A")] for module in modules}


def parameters(model: Any) -> dict[Any, np.ndarray]:
    """The parameters of a model but for its adapters, as they are named without them."""
    leaves = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {
        tuple(part for part in path if part != "base_module"): np.asarray(leaf.get_value())
        for path, leaf in leaves
        if path[-1] not in ("lora_a", "lora_b")
    }


def same(first: dict[Any, np.ndarray], second: dict[Any, np.ndarray]) -> bool:
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("call", ["__call__", "native_forward"])
def test_the_equation_by_hand(compiled: bool, call: str) -> None:
    layer = ColumnParallelLinear(2, 3, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.asarray([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
    layer.bias[...] = jnp.asarray([100.0, 200.0, 300.0])
    adapter = lora.Adapter(layer, rank=2, alpha=3.0, rngs=nnx.Rngs(0))
    adapter.lora_a[...] = jnp.asarray([[1.0, 0.0], [2.0, 1.0]])
    adapter.lora_b[...] = jnp.asarray([[1.0, 0.0, -1.0], [0.0, 2.0, 0.5]])
    run: Callable[[Any], Any] = getattr(adapter, call)
    # x W = [1, 2, 4]; x A = [5, 2]; x A B = [5, 4, -4], times 3 / 2.
    np.testing.assert_array_equal((jax.jit(run) if compiled else run)(jnp.asarray([1.0, 2.0])), [108.5, 208.0, 298.0])
    # A B = [[1, 0, -1], [2, 2, -1.5]]
    np.testing.assert_array_equal(adapter.merged_kernel(), [[2.5, 0.0, 0.5], [3.0, 4.0, -1.25]])


def test_it_begins_as_the_base_model_and_from_its_seed(loaded: Checkpoint, prompt: list[int]) -> None:
    settings = LoraConfig(RANK, ALPHA, EVERY)
    first, again, other = (lora.adapted(loaded.model, settings, seed, ("visual",)) for seed in (1, 1, 2))
    np.testing.assert_allclose(logits(first, prompt), logits(loaded.model, prompt), rtol=0, atol=1e-5)  # two programs
    assert not lora.adapters(loaded.model)
    drawn = [np.asarray(adapter.lora_a[...]) for adapter in lora.adapters(first).values()]
    for a, b, adapter in zip(drawn, lora.adapters(again).values(), lora.adapters(other).values(), strict=True):
        np.testing.assert_array_equal(a, b.lora_a[...])
        assert (a != adapter.lora_a[...]).all()
        bound = a.shape[0] ** -0.5  # torch's, of a linear layer
        assert 0.9 * bound < np.abs(a).max() <= bound
    assert len({a.tobytes() for a in drawn}) == len(drawn)


def test_every_module_that_can_take_one_is_a_linear_module_of_transformers(base: Path, learnt: Checkpoint) -> None:
    linear = {
        name
        for name, module in theirs(base).named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("visual.") and ".mlp." not in name
    }
    assert set(lora.adapters(learnt.model)) == linear


def test_the_attention_of_the_decoder_takes_them_unless_told_otherwise(loaded: Checkpoint) -> None:
    found = lora.adapters(lora.adapted(loaded.model, LoraConfig(rank=1), 0, ()))
    assert set(found) == {f"model.layers.{layer}.self_attn.{kind}_proj" for layer in (0, 1) for kind in "qkvo"}


@pytest.mark.parametrize(
    ("modules", "frozen", "message"),
    [
        ("q_proj", (), r"whole names.*got none\. There are .*model\.layers\.N\.self_attn\.q_proj, "),
        (r"model\..*", (), r"got model\.layers\.0\.mlp\.experts\.\w+_proj, of the experts, which EasyDeL holds fused"),
        (r".*\.gate", (), r"got model\.layers\.0\.mlp\.gate, of a feed-forward block, whose adapters PEFT does not"),
        (r".*\.1\.mlp\.up_proj", (), r"got model\.layers\.1\.mlp\.up_proj, of a feed-forward block"),
        (r"audio_tower\..*", ("audio_tower",), r"got none\. There are (?!.*audio_tower)"),
    ],
)
def test_what_can_take_none_is_refused_by_name(
    loaded: Checkpoint, modules: str, frozen: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"lora\.modules = .*{message}"):
        lora.adapted(loaded.model, LoraConfig(RANK, ALPHA, modules), 0, frozen)


def test_transformers_gives_the_same_logits_with_the_adapter_added_and_with_it_merged(
    base: Path, saved: Path, learnt: Checkpoint, prompt: list[int]
) -> None:
    with_adapter = theirs(base)
    clip, bare = reference.mel(FRAMES), reference.logits(with_adapter, prompt, reference.mel(FRAMES))
    with torch.no_grad():
        for module, change in pefts(saved / "adapter").items():
            with_adapter.get_submodule(module).weight += torch.tensor(change)
    expected = reference.logits(with_adapter, prompt, clip)
    assert np.abs(expected - bare).max() > 1
    ours = logits(learnt.model, prompt)
    for got in (ours, reference.logits(theirs(saved / "model"), prompt, clip)):
        np.testing.assert_allclose(got, expected, atol=1e-4, rtol=0)


def test_a_merged_model_is_the_base_and_its_adapter_and_nothing_else(base: Path, saved: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (base, saved / "model"))
    changes = {f"{module}.weight": change for module, change in pefts(saved / "adapter").items()}
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_allclose(after[name], tensor + changes.get(name, 0), atol=1e-6, rtol=0)
        assert np.array_equal(after[name], tensor) == (name not in changes)


def test_peft_loads_what_is_saved(base: Path, saved: Path, learnt: Checkpoint, prompt: list[int]) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is no part of the environment: the layout is tested without it")
    model = peft.PeftModel.from_pretrained(theirs(base), saved / "adapter")
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.base_model_name_or_path) == (RANK, ALPHA, str(base))
    clip = reference.mel(FRAMES)
    np.testing.assert_allclose(reference.logits(model, prompt, clip), logits(learnt.model, prompt), atol=1e-4, rtol=0)
    merged = reference.logits(model.merge_and_unload(), prompt, clip)
    np.testing.assert_allclose(merged, reference.logits(theirs(saved / "model"), prompt, clip), atol=1e-4, rtol=0)


def test_the_adapter_of_a_whole_omni_fits_it(tmp_path: Path) -> None:
    reference.omni(tmp_path / "base")
    whole = checkpoint.load(str(tmp_path / "base"))
    model = lora.adapted(whole.model, LoraConfig(rank=1), 0, ("visual",))
    for adapter in lora.adapters(model).values():
        adapter.lora_b[...] = jnp.ones_like(adapter.lora_b[...])
    checkpoint.save_adapter(dataclasses.replace(whole, model=model), tmp_path / "adapter", export="omni")
    checkpoint.save(dataclasses.replace(whole, model=model), tmp_path / "model", export="omni")
    before, after = (
        Qwen3OmniMoeForConditionalGeneration.from_pretrained(tmp_path / name, dtype=torch.float32)
        for name in ("base", "model")
    )
    changes = pefts(tmp_path / "adapter")
    for name, module in before.named_modules():
        if isinstance(module, torch.nn.Linear):
            changed = module.weight.detach().numpy() + changes.get(name, 0)
            np.testing.assert_allclose(after.get_submodule(name).weight.detach(), changed, atol=1e-6, rtol=0)
    assert changes.keys() <= dict(before.named_modules()).keys()


def test_generation_goes_through_the_adapters(loaded: Checkpoint, learnt: Checkpoint, prompt: list[int]) -> None:
    (said,) = generate.transcribe(learnt, [Prompts(**inputs(prompt))], 1)
    assert said == [logits(learnt.model, prompt)[-1].argmax()]
    assert said != [logits(loaded.model, prompt)[-1].argmax()]


def test_adapters_of_a_bfloat16_model_are_float32_and_merge_into_bfloat16(base: Path) -> None:
    model = lora.adapted(checkpoint.load(str(base), dtype="bfloat16").model, LoraConfig(rank=1), 0, ())
    (first, *_) = lora.adapters(model).values()
    assert {first.lora_a.dtype, first.lora_b.dtype} == {jnp.dtype(jnp.float32)}
    assert first(jnp.ones((1, first.in_features), jnp.bfloat16)).dtype == jnp.bfloat16
    first.lora_b[...] = jnp.ones_like(first.lora_b[...])
    values = parameters(lora.merged(model))
    assert {str(value.dtype) for value in values.values()} == {"bfloat16"}
    assert not same(values, parameters(model))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_shards(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def shards(data: Path) -> Shards:
    return open_shards(data)


def embeddings() -> int:
    """How many arrays are in memory that could be the tiny model's token embedding."""
    gc.collect()
    table = checkpoint.abstract("tiny").model.model.embed_tokens.embedding
    return sum(array.shape == table.shape for array in jax.live_arrays())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", [WarmstartEngine, EasyDeLEngine])
def test_training_moves_the_adapters_alone_and_holds_one_base(kind: Any, shards: Shards) -> None:
    others = embeddings()
    engine = kind(CONFIG, checkpoint.load("tiny"), shards)
    before = jax.device_get(engine.arrays())
    for _ in range(2):  # A moves once B is not zero
        engine.update([0, 1], shards.read([0, 1]))
    assert embeddings() - others == 1
    after = jax.device_get(engine.arrays())
    counters = {name for name in before if name.split("/")[-1] in ("count", "step")}
    learning = [name for name in before if name.split("/")[0] in ("graphstate", "opt_state") and name not in counters]
    assert {name.split("/")[-2] for name in learning} == {"lora_a", "lora_b"}
    assert all((before[name] != after[name]).any() for name in learning)
    assert set(before) - set(learning) == {"base", *counters}
    assert "step" in counters
    assert np.array_equal(before["base"], after["base"])
    assert same(parameters(engine.checkpoint().model), parameters(checkpoint.load("tiny").model))
    with pytest.raises(ModelError, match="the weights under adapters, to be those that the run began with"):
        engine.restore({**before, "base": before["base"] + np.uint32(1)})
    if isinstance(engine, EasyDeLEngine):
        reference_model = lora.merged(engine._trainer.ref_state.model)
        assert same(parameters(reference_model), parameters(checkpoint.load("tiny").model))


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train(CONFIG, data, "tiny", tmp_path_factory.mktemp("runs") / "straight", on_step=lambda _: None)


def test_a_run_leaves_its_adapter_and_the_merged_model(straight: RunResult) -> None:
    arrays = snapshot.load(straight.out / "checkpoints" / "step-3").arrays
    changes = pefts(straight.out / "adapter")
    assert "adapters (rank 2), merged here" in (straight.out / "model" / "README.md").read_text()
    tiny = parameters(checkpoint.load("tiny").model)
    for path, values in parameters(checkpoint.load(str(straight.out)).model).items():
        module = ".".join(map(str, path[:-1]))
        if path[-1] != "kernel" or module not in changes:
            np.testing.assert_array_equal(values, tiny[path])
            continue
        stem = f"graphstate/{module.replace('.', '/')}"
        a, b = (arrays[f"{stem}/lora_{part}/value"] for part in "ab")
        np.testing.assert_allclose(changes[module].T, CONFIG.lora.alpha / 2 * a @ b, atol=1e-7)
        np.testing.assert_allclose(values, tiny[path] + changes[module].T, atol=1e-6)
        assert not np.array_equal(values, tiny[path])


def test_a_run_goes_on_bit_for_bit(straight: RunResult, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight.out, out)
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "checkpoints" / "step-3")

    def unfinished(metrics: StepMetrics) -> None:
        assert not (out / "adapter").exists()

    resumed = train(CONFIG, data, "tiny", out, on_step=unfinished)
    assert (resumed.began_at, resumed.steps) == (2, 3)
    for file in ("model/model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        assert (out / file).read_bytes() == (straight.out / file).read_bytes(), file
    first, second = (snapshot.load(run / "checkpoints" / "step-3").arrays for run in (straight.out, out))
    assert same(dict(first), dict(second))


def test_an_adapter_names_the_model_it_was_learnt_on(straight: RunResult, learnt: Checkpoint, tmp_path: Path) -> None:
    def named(source: str) -> str | None:
        checkpoint.save_adapter(dataclasses.replace(learnt, source=source), tmp_path / "adapter")
        found: str | None = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
        return found

    assert named("tiny") is None
    assert named(str(straight.out)) == named(str(straight.out / "model")) == str(straight.out / "model")
    assert named("Qwen/Qwen3-Omni-30B-A3B-Instruct") == "Qwen/Qwen3-Omni-30B-A3B-Instruct"
