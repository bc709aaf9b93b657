"""What EasyDeL makes of text and vision, as JSON: a program, so that it runs with and without our patch.

    python unchanged.py FILE [--patched]

Every array is told by its dtype, its shape and a digest of its bytes. Imports nothing of audiorl unless patched.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (3, 5)  # prompt tokens of the two rows
PROMPT, SEQUENCE = 8, 16  # tokens of a padded prompt, and of a prompt with its completion
RANDOM = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


# Columns beside the tokens of two rows, by kind of batch: every column that EasyDeL's vision models take.
COLUMNS: dict[str, list[dict[str, Any]]] = {
    "text": [{"utterance": np.int32(n)} for n in LENGTHS],
    "text with columns a token": [
        {
            "position_ids": np.tile(np.arange(n), (3, 1)),
            "token_type_ids": np.ones(n, np.int32),
            "cache_position": np.arange(n),
            "decoder_position_ids": np.arange(n),
            "inputs_embeds": noise(n, 4),
        }
        for n in LENGTHS
    ],
    "one image": [
        {
            "pixel_values": noise(3, 4, 5),  # as wide as the second prompt is long
            "pixel_attention_mask": np.ones((4, n), np.int32),
            "image_sizes": np.array([4, 5]),
            "token_type_ids": np.ones(n, np.int32),
        }
        for n in LENGTHS
    ],
    "one image in patches": [
        {
            "pixel_values": noise(4, 6),
            "image_grid_thw": np.array([1, 2, 2]),
            "image_max_grid_size": np.int32(2),
            "mm_token_type_ids": np.ones(n, np.int32),
            "rope_deltas": np.array([n]),
        }
        for n in LENGTHS
    ],
    "one image or two": [
        {"pixel_values": noise(n, 3, 4, 4), "image_grid_hws": np.tile([2, 2], (n, 1))} for n in (1, 2)
    ],
    "video": [
        {
            "pixel_values_videos": noise(2, 3, 4, 4),
            "video_grid_thw": np.array([2, 2, 2]),
            "video_max_grid_size": np.int32(2),
        }
        for _ in LENGTHS
    ],
    "encoded image": [
        {
            **{f"{kind}_embeds": noise(4, 6) for kind in ("image", "video", "visual")},
            **{f"{kind}_features": noise(1, 4, 6) for kind in ("image", "video")},
            **{f"{kind}_hidden_states": noise(1, 4, 6) for kind in ("image", "video")},
            "visual_pos_masks": np.arange(PROMPT) < 2,
            "deepstack_visual_embeds": noise(2, 2, 6),
        }
        for _ in LENGTHS
    ],
    "image in some rows": [{"pixel_values": noise(3, 4, 4)}, {"pixel_values": None}],
    "as EasyDeL's own tests": [
        {
            "pixel_values": np.ones((1, 1, 1), np.float32),
            "pixel_attention_mask": np.ones(1, np.int32),
            "image_sizes": np.ones(2, np.int32),
        }
        for _ in LENGTHS
    ],
}


def told(value: Any) -> Any:
    """`value` as JSON: equal exactly where type, order, dtype, shape and every bit are."""
    if isinstance(value, Mapping):
        return [[str(key), told(item)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [told(item) for item in value]
    if hasattr(value, "shape"):
        array = np.asarray(value)
        digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        return f"{type(value).__name__} {array.dtype} {list(array.shape)} {digest}"
    return value if value is None or isinstance(value, str) else repr(value)


def attempted(call: Callable[[], Any]) -> Any:
    """What `call` returns or refuses, as JSON."""
    try:
        return told(call())
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


def functions(columns: list[dict[str, Any]]) -> dict[str, Any]:
    """What EasyDeL's functions that read the lists, and those that they feed, give for one batch."""
    import easydel as ed
    from easydel.trainers import prompt_transforms, training_utils, utils

    rows = [
        {"input_ids": list(range(3, 3 + n)), "attention_mask": [1] * n, **row}
        for n, row in zip(LENGTHS, columns, strict=True)
    ]
    batches = utils.GRPODataCollatorTFDS(max_prompt_length=PROMPT, pad_token_id=0)
    singles = utils.GRPODataCollatorGrain(max_prompt_length=PROMPT, pad_token_id=0)
    found = {
        "purified": [told(prompt_transforms.purify_example({**row, "prompt": "one"}, {"utterance"})) for row in rows],
        "single": [told(singles(row)) for row in rows],
        "batch": attempted(lambda: batches(rows)),
    }
    if isinstance(found["batch"], str):  # refused
        return found
    batch = batches(rows)
    models = {
        "any": None,
        "Llama": ed.LlamaForCausalLM.__call__,
        "Llava": ed.LlavaForConditionalGeneration.__call__,
        "Qwen2VL": ed.Qwen2VLForConditionalGeneration.__call__,
        "keyword": lambda input_ids, pixel_values=None, image_grid_thw=None: None,
    }
    for name, model in models.items():
        normalised = training_utils.normalize_generation_model_kwargs(batch, model_callable=model)
        found[f"normalised {name}"] = told(normalised)
        found[f"compact {name}"] = told(training_utils.compact_generation_model_kwargs(normalised))
        found[f"extracted {name}"] = told(training_utils.extract_generation_model_kwargs(batch, model_callable=model))
    taken = training_utils.extract_generation_model_kwargs(batch)
    scored = training_utils.strip_prompt_only_scoring_model_kwargs(taken)
    size = {"prompt_batch_size": len(rows)}
    repeated = training_utils.repeat_prompt_aligned_model_kwargs(scored, 2, **size)
    found |= {
        "stripped": told(scored),
        "validated": attempted(lambda: training_utils.validate_prompt_aligned_generation_model_kwargs(scored, **size)),
        "repeated": told(repeated),
        "sliced": told(training_utils.slice_prompt_aligned_model_kwargs(repeated, 1, 3, prompt_batch_size=4)),
    }
    for flat in (False, True):
        prepared = training_utils.prepare_generation_model_kwargs_for_call(
            taken, prompt_length=PROMPT, target_sequence_length=SEQUENCE, flatten_grouped_multimodal=flat
        )
        found["flattened" if flat else "grouped"] = told(prepared)
    return found


IMAGE = "<image>"
WORDS = ["<pad>", "<end>", IMAGE, *(f"word{number}" for number in range(61))]
TEXT_ROWS = [{"prompt": "word1 word2 word3 word4"}, {"prompt": "word5 word6 word7"}]
IMAGE_ROWS = [{"prompt": f"{IMAGE} " * 4 + row["prompt"], "pixel_values": noise(3, 28, 28)} for row in TEXT_ROWS]


def step(make: Callable[[], Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One step of EasyDeL's `GRPOTrainer.train` on text prompts: what it scored, what it measured, what it moved."""
    import easydel as ed
    import jax
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    found: dict[str, Any] = {}

    class Trainer(ed.GRPOTrainer):  # type: ignore[misc]
        def _preprocess_batch_input(self, **arguments: Any) -> Any:
            scored, metrics = super()._preprocess_batch_input(**arguments)
            found["scored"] = told(scored)
            return scored, metrics

        def on_step_end(self, state: Any, metrics: Any, step: int) -> Any:
            flat = named(metrics)
            found["metrics"] = {name: value for name, value in flat.items() if not name.endswith("_time")}
            return super().on_step_end(state=state, metrics=metrics, step=step)

    def named(tree: Any) -> dict[str, Any]:
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): told(leaf) for path, leaf in leaves}

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(sum(map(ord, text)) % 7) for text in completions]

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = make()
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=1)  # `generate` raises without one
    before = named(model.to_state().graphstate)
    trainer = Trainer(
        arguments=ed.GRPOConfig(
            save_directory=str(Path.cwd()),
            max_training_steps=1,
            total_batch_size=2,
            max_prompt_length=PROMPT,
            max_completion_length=SEQUENCE - PROMPT,
            max_length=SEQUENCE,
            num_return_sequences=4,
            learning_rate=1e-2,
            weight_decay=0.0,
            beta=0.05,
            skip_apply_chat_template=True,
            use_esurge_generation=False,
            use_wandb=False,
            report_metrics=False,
            do_last_save=False,
            save_tpu_preemption_checkpoints=False,
            track_memory=False,
        ),
        model=model,
        reward_funcs=reward,
        train_dataset=Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token=WORDS[0], eos_token=WORDS[1], padding_side="left"
        ),
    )
    state = trainer.train().state
    return {**found, "steps": int(state.step), "before": before, "after": named(state.graphstate)}


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def text_model() -> Any:
    """A tiny Qwen3."""
    import easydel as ed
    from flax import nnx

    config = ed.Qwen3Config(
        **SIZES, vocab_size=len(WORDS), num_key_value_heads=1, head_dim=16, max_position_embeddings=64
    )
    config.add_basic_configurations(attn_mechanism="vanilla")
    return ed.Qwen3ForCausalLM(config=config, rngs=nnx.Rngs(0), **dtypes())


def image_model() -> Any:
    """A tiny LLaVA: images of 28 x 28 are four patches, a placeholder each."""
    import easydel as ed
    from flax import nnx

    config = ed.LlavaConfig(
        vision_config=ed.CLIPVisionConfig(**SIZES, image_size=28, patch_size=14),
        text_config=ed.LlamaConfig(**SIZES, vocab_size=len(WORDS), num_key_value_heads=1, max_position_embeddings=64),
        image_token_id=WORDS.index(IMAGE),
    )
    for part in (config, config.text_config, config.vision_config):
        part.add_basic_configurations(attn_mechanism="vanilla")
    return ed.LlavaForConditionalGeneration(config=config, rngs=nnx.Rngs(0), **dtypes())


def dtypes() -> dict[str, Any]:
    import jax.numpy as jnp

    return {"dtype": jnp.float32, "param_dtype": jnp.float32}


def main(file: Path, patched: bool) -> None:
    if patched:
        from audiorl_cli.bridge import keys

        keys.apply()
        import audiorl_cli.bridge.thinker  # noqa: F401
    found = {
        "functions": {kind: functions(columns) for kind, columns in COLUMNS.items()},
        "text step": step(text_model, TEXT_ROWS),
        "image step": step(image_model, IMAGE_ROWS),
        "audiorl": any(name.startswith("audiorl_cli") for name in sys.modules),
    }
    file.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--patched" in sys.argv)
