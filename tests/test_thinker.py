"""The thinker's logits against transformers', and what padding, neighbours and sampled tokens may change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from easydel.infra.factory import TaskType, registry
from flax import nnx

from audiorl_cli.bridge import checkpoint, generate
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.thinker import AudioThinker, positions, without_media
from audiorl_cli.config import PromptConfig

Forward = Callable[..., np.ndarray]
LENGTHS = (3000, 20, 733, 100, 101, 1567)


def compiled(model: Any) -> Forward:
    graph, state = nnx.split(model)

    @jax.jit
    def run(state: Any, **inputs: Any) -> Any:
        model = nnx.merge(graph, state)
        with model.mesh:
            return model(**inputs).logits

    return lambda **inputs: np.asarray(run(state, **inputs))


def inputs(ids: Any, mask: Any, features: Any, heard: Any) -> dict[str, Any]:
    return {"input_ids": ids, "attention_mask": mask, "input_features": features, "feature_attention_mask": heard}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("thinker")
    model = reference.thinker(folder)
    model.folder = folder
    return model


@pytest.fixture(scope="module")
def loaded(theirs: Any) -> Checkpoint:
    return checkpoint.load(str(theirs.folder))


@pytest.fixture(scope="module")
def ours(loaded: Checkpoint) -> Forward:
    return compiled(loaded.model)


@pytest.fixture(scope="module")
def prompter(loaded: Checkpoint) -> Prompter:
    return Prompter(loaded.tokenizer, PromptConfig())


def compare(ours: Forward, theirs: Any, prompter: Prompter, lengths: tuple[int, ...], frames: int) -> None:
    """Each row of a left-padded batch against transformers on that row alone; a completion follows each prompt.

    The last row hears silence.
    """
    clips = [*(reference.mel(length, seed) for seed, length in enumerate(lengths)), reference.silence(250)]
    prompts = [[*prompter.ids(clip.shape[1]), 7 * row + 1, 40 + row] for row, clip in enumerate(clips)]
    ids, mask = reference.left_padded(prompts, pad=0)
    got = ours(**inputs(ids, mask, *reference.batch(clips, frames)))
    for row, (prompt, clip) in enumerate(zip(prompts, clips, strict=True)):
        expected = reference.logits(theirs, prompt, clip)
        assert expected.std() > 0.3
        np.testing.assert_allclose(got[row, -len(prompt) :], expected, atol=1e-3, rtol=0)


def test_a_left_padded_batch_of_clips_of_all_lengths_gives_the_logits_of_each_alone(
    theirs: Any, ours: Forward, prompter: Prompter
) -> None:
    compare(ours, theirs, prompter, LENGTHS, 3000)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "tie_word_embeddings": False,
            "text_config": {
                "num_hidden_layers": 1,
                "norm_topk_prob": False,
                "num_experts": 6,
                "moe_intermediate_size": 32,
            },
        },
        {
            "text_config": {
                "num_hidden_layers": 3,
                "mlp_only_layers": [1],
                "num_key_value_heads": 4,
                "num_experts_per_tok": 1,
            }
        },
    ],
    ids=[
        "one layer, untied head, weights of experts as they are",
        "a dense layer, one expert a token, a key head a query head",
    ],
)
def test_other_shapes_of_decoder(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = reference.thinker(tmp_path, **changes)
    ours = checkpoint.load(str(tmp_path))
    prompter = Prompter(ours.tokenizer, PromptConfig())
    compare(compiled(ours.model), theirs, prompter, (300, 20, 101), 300)
    clips = [reference.mel(300), reference.mel(101, 1)]
    prompts = [prompter.ids(clip.shape[1]) for clip in clips]
    ids, mask = reference.left_padded(prompts, pad=0)
    features, valid = reference.batch(clips, 300)
    said = generate.transcribe(ours, [Prompts(ids, mask, valid, features)], 64)
    never, ends = ours.model.media_token_ids, ours.config.eos_token_id
    for row, (prompt, clip) in enumerate(zip(prompts, clips, strict=True)):
        assert said[row] == reference.greedy(theirs, prompt, clip, 64, never, ends)


def test_a_shorter_window_gives_the_same_numbers(ours: Forward, prompter: Prompter) -> None:
    lengths = (300, 20, 101)
    clips = [reference.mel(length, seed) for seed, length in enumerate(lengths)]
    ids, mask = reference.left_padded([prompter.ids(length) for length in lengths], pad=0)
    short, long = (ours(**inputs(ids, mask, *reference.batch(clips, frames))) for frames in (300, 3000))
    np.testing.assert_allclose(short[mask == 1], long[mask == 1], atol=2e-5, rtol=0)


def test_text_alone_needs_no_audio(theirs: Any, ours: Forward) -> None:
    prompt = [5, 9, 300, 12, 7]
    ids = np.asarray([prompt], np.int32)
    got = ours(input_ids=ids, attention_mask=np.ones_like(ids))[0]
    np.testing.assert_allclose(got, reference.logits(theirs, prompt), atol=1e-3, rtol=0)


def test_a_sampled_placeholder_stays_a_token_and_changes_no_other_row(
    loaded: Checkpoint, ours: Forward, prompter: Prompter
) -> None:
    clips = [reference.mel(101, 1), reference.mel(300, 2)]
    prompts = [[*prompter.ids(101), 5, 6, 7], [*prompter.ids(300), 8, 9, 10]]
    ids, mask = reference.left_padded(prompts, pad=0)
    audio = reference.batch(clips, 300)
    sampled = ids.copy()
    sampled[0, -2] = loaded.config.audio_token_id
    before, after = ours(**inputs(ids, mask, *audio)), ours(**inputs(sampled, mask, *audio))
    # Experts take the tokens of all rows together: on some processors the others' products are rounded otherwise.
    np.testing.assert_allclose(before[1], after[1], rtol=0, atol=1e-5)
    earlier = np.flatnonzero(mask[0])[:-2]
    np.testing.assert_allclose(before[0, earlier], after[0, earlier], rtol=0, atol=1e-5)
    assert np.abs(after[0, -2] - before[0, -2]).max() > 0.1
    graph, state = nnx.split(loaded.model)

    @jax.jit
    def embed(state: Any) -> Any:
        model = nnx.merge(graph, state)
        with model.mesh:
            return model.compute_embedding(
                jnp.asarray(sampled), input_features=audio[0], feature_attention_mask=audio[1]
            )

    embedded = np.asarray(embed(state))
    table = np.asarray(loaded.model.model.embed_tokens.embedding.get_value())
    np.testing.assert_array_equal(embedded[0, -2], table[loaded.config.audio_token_id])


def test_one_clip_a_row_or_an_error(loaded: Checkpoint) -> None:
    with pytest.raises(ValueError, match="2 rows, 1 clips"):
        loaded.model.compute_embedding(jnp.zeros((2, 4), jnp.int32), input_features=jnp.zeros((1, 128, 20)))


def test_a_float32_model_computes_in_float32_throughout(loaded: Checkpoint) -> None:
    graph, state = nnx.split(loaded.model)

    def generate(state: Any, *audio: Any) -> Any:
        model = nnx.merge(graph, state)
        with model.mesh:
            return model.generate(
                jnp.ones((1, 8), jnp.int32),
                attention_mask=jnp.ones((1, 8), jnp.int32),
                input_features=audio[0],
                feature_attention_mask=audio[1],
                max_new_tokens=2,
            ).sequences

    program = str(jax.make_jaxpr(generate)(state, *reference.batch([reference.mel(20)], 20)))
    assert "f32" in program
    assert "bf16" not in program


def test_gradients_reach_tower_and_decoder_and_leave_the_vision_tower_alone(loaded: Checkpoint) -> None:
    ids, mask = reference.left_padded([Prompter(loaded.tokenizer, PromptConfig()).ids(101)], pad=0)
    audio = reference.batch([reference.mel(101)], 101)
    graph, parameters, rest = nnx.split(loaded.model, nnx.Param, ...)

    @jax.jit
    @jax.grad
    def gradient(parameters: Any) -> Any:
        model = nnx.merge(graph, parameters, rest)
        with model.mesh:
            return jnp.square(model(**inputs(ids, mask, *audio)).logits).mean()

    for path, leaf in nnx.to_flat_state(gradient(parameters)):
        values = np.asarray(leaf.get_value())
        assert np.isfinite(values).all(), path
        # A bias on all keys alike changes no softmax; an expert or its gate may get no token of so few.
        silent = path[0] == "visual" or path[-2:] == ("k_proj", "bias")
        assert (np.abs(values).max() > 1e-6) != silent or "mlp" in path, path


def test_easydel_restores_states_into_this_class() -> None:
    assert registry.get_module_registration(TaskType.ANY_TO_ANY, "qwen3_omni_moe_thinker").module is AudioThinker


def test_positions_count_tokens_and_not_padding() -> None:
    mask = jnp.asarray([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert positions(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2]]


def test_placeholders_have_no_chance() -> None:
    assert without_media(jnp.zeros((1, 4)), (1, 3)).tolist() == [[0, -np.inf, 0, -np.inf]]
