"""bfloat16: as close to float32 as transformers is to itself."""

from pathlib import Path

import numpy as np
import reference
import torch
from test_thinker import compiled, inputs

from audiorl_cli.bridge import checkpoint
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.reference import with_windows
from audiorl_cli.config import PromptConfig

LENGTHS = (300, 20, 101, 733, 1567)


def test_in_bfloat16_logits_are_as_far_from_float32_as_those_of_transformers(tmp_path: Path) -> None:
    exact = reference.thinker(tmp_path)
    rounded = with_windows(type(exact).from_pretrained(tmp_path, dtype=torch.bfloat16).eval())
    clips = [reference.mel(length, seed) for seed, length in enumerate(LENGTHS)]
    ours = checkpoint.load(str(tmp_path), dtype="bfloat16")
    prompter = Prompter(ours.tokenizer, PromptConfig())
    prompts = [prompter.ids(length) for length in LENGTHS]
    ids, mask = reference.left_padded(prompts, pad=0)
    got = compiled(ours.model)(**inputs(ids, mask, *reference.batch(clips, 1600)))
    assert str(got.dtype) == "float32"  # which is what a product of bfloat16 is summed up in
    off: list[tuple[float, float]] = []
    for row, (prompt, clip) in enumerate(zip(prompts, clips, strict=True)):
        expected = reference.logits(exact, prompt, clip)
        theirs = reference.logits(rounded, prompt, clip)
        mine = got[row, -len(prompt) :].astype(np.float32)
        off.append((np.abs(theirs - expected).mean(), np.abs(mine - expected).mean()))
    theirs_off, ours_off = np.mean(off, axis=0)
    assert theirs_off > 1e-3  # bfloat16 it was
    assert ours_off < 1.25 * theirs_off
