"""Completions over a prompt that is read once, against rows that each hold prompt and completion."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from audiorl_cli.bridge import checkpoint, decoder
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.config import PromptConfig

LENGTHS = (300, 20, 101)
GROUP, TOKENS = 4, 6
# Largest difference of hidden states of about 6: float32 sums in another order.
CLOSE = 2e-5


@pytest.fixture(scope="module", params=[{"num_experts": 4}, {"num_experts": 0}], ids=["experts", "dense"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("decoder")
    layers = [] if request.param["num_experts"] else [0, 1]
    reference.thinker(folder, tie_word_embeddings=False, text_config={"mlp_only_layers": layers})
    return checkpoint.load(str(folder))


@pytest.fixture(scope="module")
def prompts(loaded: Checkpoint) -> Prompts:
    prompter = Prompter(loaded.tokenizer, PromptConfig())
    ids, mask = reference.left_padded([prompter.ids(length) for length in LENGTHS], pad=0)
    features, frames = reference.batch([reference.mel(length, seed) for seed, length in enumerate(LENGTHS)], 300)
    return Prompts(*(jnp.asarray(array) for array in (ids, mask, frames, features)))


@pytest.fixture(scope="module")
def tokens() -> Any:
    return jnp.asarray(np.random.default_rng(0).integers(10, 200, (len(LENGTHS), GROUP, TOKENS)), jnp.int32)


def under(loaded: Checkpoint, function: Any, *arguments: Any) -> Any:
    """`function` of the model and `arguments`, compiled."""
    graph, state = nnx.split(loaded.model)

    @jax.jit
    def call(state: Any, *arguments: Any) -> Any:
        model = nnx.merge(graph, state)
        with model.mesh:
            return function(model, *arguments)

    return call(state, *arguments)


def foretold(model: Any, prompts: Prompts, tokens: Any) -> Any:
    return decoder.foretell(model, decoder.prefill(model, prompts), tokens)


def decoded(model: Any, prompts: Prompts, tokens: Any) -> Any:
    prefix = decoder.prefill(model, prompts)
    written = decoder.empty(prefix, GROUP, TOKENS - 1)
    hidden = [jnp.broadcast_to(prefix.last[:, None], (len(tokens), GROUP, prefix.last.shape[-1]))]
    for place in range(TOKENS - 1):
        step, written = decoder.decode(model, prefix, written, tokens[..., place], jnp.asarray(place))
        hidden.append(step)
    return jnp.stack(hidden, axis=2)


def plain(model: Any, prompts: Prompts, tokens: Any) -> Any:
    """EasyDeL's call on every completion with its own copy of prompt and clip."""
    ids, mask, frames, features, _ = jax.tree_util.tree_map(lambda array: jnp.repeat(array, GROUP, axis=0), prompts)
    tokens = tokens.reshape(-1, TOKENS)
    hidden = model(
        input_ids=jnp.concatenate([ids, tokens], axis=1),
        attention_mask=jnp.concatenate([mask, jnp.ones_like(tokens)], axis=1),
        input_features=features,
        feature_attention_mask=frames,
        apply_lm_head=False,
    ).last_hidden_state
    return hidden[:, -TOKENS - 1 : -1].reshape(len(prompts.input_ids), GROUP, TOKENS, -1)


@pytest.mark.parametrize("shared", [foretold, decoded])
@pytest.mark.parametrize("block", [128, 16])  # all of a prompt at a time; whole blocks and a rest
def test_a_shared_prompt_foretells_what_a_copied_one_does(
    loaded: Checkpoint, prompts: Prompts, tokens: Any, shared: Any, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "_BLOCK", block)
    assert 16 < prompts.input_ids.shape[1] < 128
    expected = under(loaded, plain, prompts, tokens)
    assert float(jnp.abs(expected).max()) > 3.0
    np.testing.assert_allclose(under(loaded, shared, prompts, tokens), expected, rtol=0, atol=CLOSE)


def test_completions_do_not_see_one_another(loaded: Checkpoint, prompts: Prompts, tokens: Any) -> None:
    before = under(loaded, foretold, prompts, tokens)
    other = under(loaded, foretold, prompts, tokens.at[:, 0].add(1))
    np.testing.assert_allclose(other[:, 1:], before[:, 1:], rtol=0, atol=CLOSE)
    assert float(jnp.abs(other[:, 0, 1:] - before[:, 0, 1:]).max()) > 0.1


def test_no_token_sees_the_ones_behind_it(loaded: Checkpoint, prompts: Prompts, tokens: Any) -> None:
    before = under(loaded, foretold, prompts, tokens)
    other = under(loaded, foretold, prompts, tokens.at[..., 3].add(1))
    np.testing.assert_allclose(other[:, :, :4], before[:, :, :4], rtol=0, atol=CLOSE)
    assert float(jnp.abs(other[:, :, 4] - before[:, :, 4]).max()) > 0.1


def test_more_padding_moves_nothing(loaded: Checkpoint, prompts: Prompts, tokens: Any) -> None:
    left = ((0, 0), (7, 0))
    padded = prompts._replace(
        input_ids=jnp.pad(prompts.input_ids, left, constant_values=5),
        attention_mask=jnp.pad(prompts.attention_mask, left),
    )
    expected = under(loaded, foretold, prompts, tokens)
    np.testing.assert_allclose(under(loaded, foretold, padded, tokens), expected, rtol=0, atol=CLOSE)

    def later(model: Any, prompts: Prompts, tokens: Any) -> Any:
        prefix = decoder.prefill(model, prompts)
        longer = decoder.padded(prefix, prefix.attended.shape[1] + 9)
        assert longer.layers[0].keys.shape[3] == longer.attended.shape[1] == prompts.input_ids.shape[1] + 9
        return decoder.foretell(model, longer, tokens)

    np.testing.assert_allclose(under(loaded, later, prompts, tokens), expected, rtol=0, atol=CLOSE)


def test_a_clip_heard_before_is_as_good_as_one_heard_now(loaded: Checkpoint, prompts: Prompts, tokens: Any) -> None:
    heard = under(loaded, lambda model, p: model.audio_tower(p.input_features, p.feature_attention_mask), prompts)
    again = prompts._replace(input_features=None, audio=heard)
    expected = under(loaded, foretold, prompts, tokens)
    np.testing.assert_allclose(under(loaded, foretold, again, tokens), expected, rtol=0, atol=CLOSE)
    deaf = prompts._replace(input_features=None, audio=jnp.zeros_like(heard))
    assert float(jnp.abs(under(loaded, foretold, deaf, tokens) - expected).max()) > 0.1


def test_a_completion_of_one_token_is_foretold_by_its_prompt_alone(
    loaded: Checkpoint, prompts: Prompts, tokens: Any
) -> None:
    expected = under(loaded, foretold, prompts, tokens)[:, :, :1]
    np.testing.assert_allclose(under(loaded, foretold, prompts, tokens[..., :1]), expected, rtol=0, atol=CLOSE)
