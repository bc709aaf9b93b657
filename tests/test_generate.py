"""Greedy transcripts against transformers', with a cache and without, and through EasyDeL's own `generate`."""

import dataclasses
from typing import Any, cast

import jax
import numpy as np
import pytest
import reference
from flax import nnx
from transformers import GenerationConfig

from audiorl_cli.bridge import checkpoint, generate
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.config import PromptConfig

Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
LENGTHS = (300, 20, 101, 250)  # the last one of silence
NEW = 64


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("generate")
    model = reference.thinker(folder, tie_word_embeddings=False)  # tied, it repeats itself
    model.folder = folder
    return model


@pytest.fixture(scope="module")
def loaded(theirs: Any) -> Checkpoint:
    return checkpoint.load(str(theirs.folder))


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    heard = [reference.mel(length, seed) for seed, length in enumerate(LENGTHS[:-1])]
    return [*heard, reference.silence(LENGTHS[-1])]


@pytest.fixture(scope="module")
def prompts(loaded: Checkpoint) -> list[list[int]]:
    prompter = Prompter(loaded.tokenizer, PromptConfig())
    return [prompter.ids(length) for length in LENGTHS]


@pytest.fixture(scope="module")
def batch(prompts: list[list[int]], clips: list[np.ndarray]) -> Batch:
    return *reference.left_padded(prompts, pad=0), *reference.batch(clips, 300)


@pytest.fixture(scope="module")
def greedy(loaded: Checkpoint, batch: Batch) -> list[list[int]]:
    return generate.transcribe(loaded, [asked(batch)], NEW)


def asked(batch: Batch) -> Prompts:
    """A batch as `transcribe` takes it."""
    ids, mask, features, valid = batch
    return Prompts(ids, mask, valid, features)


def test_greedy_tokens_are_those_of_transformers_for_each_row_alone(
    theirs: Any, loaded: Checkpoint, prompts: list[list[int]], clips: list[np.ndarray], greedy: list[list[int]]
) -> None:
    never, ends = loaded.model.media_token_ids, loaded.config.eos_token_id
    expected = [
        reference.greedy(theirs, prompt, clip, NEW, never, ends) for prompt, clip in zip(prompts, clips, strict=True)
    ]
    assert greedy == expected
    assert len({tuple(row) for row in greedy}) == len(greedy)
    assert all(len(set(row)) > 3 for row in greedy)


def test_decoding_without_a_cache_gives_the_same_tokens(
    loaded: Checkpoint, batch: Batch, greedy: list[list[int]]
) -> None:
    graph, state = nnx.split(loaded.model)

    @jax.jit
    def likeliest(state: Any, ids: Any, mask: Any) -> Any:
        model = nnx.merge(graph, state)
        with model.mesh:
            logits = model(ids, attention_mask=mask, input_features=batch[2], feature_attention_mask=batch[3]).logits
        return logits.at[..., np.asarray(model.media_token_ids)].set(-np.inf).argmax(-1)

    ids, mask = (np.pad(array, ((0, 0), (0, NEW))) for array in batch[:2])
    for place in range(batch[0].shape[1], ids.shape[1]):
        ids[:, place], mask[:, place] = np.asarray(likeliest(state, ids, mask))[:, place - 1], 1
    uncached = [generate.cut(row[-NEW:].tolist(), loaded.config.eos_token_id) for row in ids]
    assert uncached == greedy


def test_a_completion_stops_before_its_end_token(loaded: Checkpoint, batch: Batch, greedy: list[list[int]]) -> None:
    end = greedy[0][5]
    model = nnx.merge(*nnx.split(loaded.model))
    model.generation_config = GenerationConfig(eos_token_id=[end], pad_token_id=loaded.config.pad_token_id)
    stopped = generate.transcribe(dataclasses.replace(loaded, model=model), [asked(batch)], NEW)
    assert stopped == [generate.cut(row, [end]) for row in greedy]
    assert len(stopped[0]) < len(greedy[0])


def sampled(loaded: Checkpoint, batch: Batch, **settings: Any) -> np.ndarray:
    """What EasyDeL's `generate` draws, as its trainer calls it: inside a compiled function, all arrays by name."""
    graph, state = nnx.split(loaded.model)
    names = ("input_ids", "attention_mask", "input_features", "feature_attention_mask")

    @jax.jit
    def draw(state: Any, arrays: dict[str, Any]) -> Any:
        model = nnx.merge(graph, state)
        with model.mesh:
            return model.generate(**arrays, prng_key=jax.random.key(1), do_sample=True, **settings).sequences

    return np.asarray(draw(state, dict(zip(names, batch, strict=True))))[:, batch[0].shape[1] :]


def test_sampling_draws_anything_but_placeholders(loaded: Checkpoint, batch: Batch) -> None:
    # So hot that every token is as likely: 4,800 draws of about a thousand tokens.
    drawn = sampled(loaded, batch, temperature=1e4, num_return_sequences=8, max_new_tokens=200, eos_token_id=-1)
    assert drawn.shape == (8 * len(LENGTHS), 200)
    assert len(np.unique(drawn)) > 900
    assert not np.isin(drawn, loaded.model.media_token_ids).any()


def test_returned_sequences_follow_their_prompt(loaded: Checkpoint, batch: Batch, greedy: list[list[int]]) -> None:
    drawn = sampled(loaded, batch, temperature=1e-4, num_return_sequences=2, max_new_tokens=NEW)
    rows = [generate.cut(row.tolist(), loaded.config.eos_token_id) for row in drawn]
    assert rows == [row for row in greedy for _ in range(2)]


def test_parts_of_other_lengths_are_written_together_as_each_alone(
    loaded: Checkpoint, batch: Batch, greedy: list[list[int]]
) -> None:
    ids, mask, features, valid = batch
    written = cast(Any, generate._greedy)
    start = ids.shape[1] - int(mask[1].sum())  # of the shortest, which has no need of the padding
    short = Prompts(ids[1:2, start:], mask[1:2, start:], valid[1:2, :100], features[1:2, :, :100])
    others = np.array([0, 2, 3])
    rest = Prompts(ids[others], mask[others], valid[others], features[others])
    expected = [greedy[0], greedy[2], greedy[3], greedy[1]]
    assert generate.transcribe(loaded, [rest, short], NEW) == expected
    compiled = written._cache_size()
    assert generate.transcribe(loaded, [short, short], NEW, at_once=2, longest=200) == [greedy[1]] * 2
    assert generate.transcribe(loaded, [short], NEW, at_once=2, longest=200) == [greedy[1]]
    assert written._cache_size() - compiled == 1  # the missing part is filled up


@pytest.mark.parametrize(
    ("rows", "shards", "expected"), [(1, 1, 1), (3, 1, 4), (8, 1, 8), (9, 1, 16), (17, 1, 24), (3, 8, 8), (2, 3, 6)]
)
def test_batches_share_compiled_programs_and_divide_among_devices(rows: int, shards: int, expected: int) -> None:
    assert generate.batch_rows(rows, shards) == expected


def test_cut_keeps_what_stands_before_the_first_end() -> None:
    assert generate.cut([4, 5, 9, 6, 9], [9, 8]) == [4, 5]
    assert generate.cut([4, 5], [9]) == [4, 5]
    assert generate.cut([9], [9]) == []
