"""The log-probs that reference and policy are scored with, through EasyDeL's trainer, against transformers'."""

from pathlib import Path

import numpy as np
import reference
from easydel.trainers.training_utils import normalize_generation_model_kwargs
from tones import small_config, tone_shards

from audiorl_cli.bridge import checkpoint
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.data.shards import open_shards
from audiorl_cli.rl.easydel_engine import AudioGRPOTrainer
from audiorl_cli.rl.judge import Judge

COMPLETIONS = ([5, 9, 300, 12, 7, 41, 8, 2], [17, 3, 250], [600])


def test_log_probs_of_completions_are_those_of_transformers_for_each_alone(tmp_path: Path) -> None:
    theirs = reference.thinker(tmp_path / "model")
    shards = open_shards(tone_shards(tmp_path / "tones"))
    loaded = checkpoint.load(str(tmp_path / "model"))
    config = small_config()
    prompter = Prompter(loaded.tokenizer, config.prompt)
    rows = shards.read(range(len(COMPLETIONS)))
    prompts = [prompter.ids(row.num_frames) for row in rows]
    ids, mask = reference.left_padded(prompts, pad=0)
    trainer = AudioGRPOTrainer(config, loaded, Judge(config.reward, shards.texts(), shards.column("id")), ids.shape[1])
    width = config.rollout.max_new_tokens
    completions = np.stack([np.pad(tokens, (0, width - len(tokens))) for tokens in COMPLETIONS])
    counted = np.stack([np.arange(width) < len(tokens) for tokens in COMPLETIONS])
    clips = [row.features[:, : row.num_frames].astype(np.float32) for row in rows]
    features, frames = reference.batch(clips, shards.clip_frames)
    with trainer.mesh:
        got = np.asarray(
            trainer.compute_refmodel_logps(
                trainer.ref_state.graphstate,
                trainer.ref_state.graphother,
                np.concatenate([ids, completions], axis=1),
                np.concatenate([mask, counted], axis=1).astype(np.int32),
                normalize_generation_model_kwargs({"input_features": features, "feature_attention_mask": frames}),
            )
        )
    assert got.shape == counted.shape
    for row, (prompt, completion, clip) in enumerate(zip(prompts, COMPLETIONS, clips, strict=True)):
        logits = reference.logits(theirs, [*prompt, *completion], clip)[len(prompt) - 1 : -1].astype(np.float64)
        chances = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected = chances[np.arange(len(completion)), completion]
        np.testing.assert_allclose(got[row, : len(completion)], expected, atol=1e-3, rtol=0)
