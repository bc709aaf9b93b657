"""A GRPO step, ours against what a user would else write: transformers on PyTorch, on the same checkpoint and rows.

    python benchmarks/torch_grpo.py [--prompts 2] [--group 8] [--tokens 32] [--steps 3]
        [--size small|large] [--dtype float32|bfloat16]

The plain way, as TRL's GRPO trainer goes about it: every prompt and clip repeated for each completion, `generate`, then
a forward pass of the reference, one of the policy with its gradient (the tower frozen, as ours), and AdamW. 30 s of
audio a prompt, completions that only their limit ends; steps of one and of the other in turn, medians after two of each
to warm up. JSON out; there is no limit to these ratios. On a GPU, where there is one: then give
XLA_PYTHON_CLIENT_PREALLOCATE=false, or JAX takes most of its memory beforehand.
"""

import argparse
import json
import statistics
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

from audiorl_cli.bridge import quiet

quiet.silence()

import bench_model  # noqa: E402
import jax  # noqa: E402
import torch  # noqa: E402

from audiorl_cli import config as configs  # noqa: E402
from audiorl_cli.bridge import checkpoint, reference  # noqa: E402
from audiorl_cli.bridge.rows import stacked  # noqa: E402
from audiorl_cli.core import CLIP_SECONDS  # noqa: E402
from audiorl_cli.data.shards import open_shards  # noqa: E402
from audiorl_cli.rl.engine import AudioEngine  # noqa: E402

_WARM_UP: Final = 2
_PARTS: Final = ("rollout", "update")
_COLUMNS: Final = ("input_ids", "attention_mask", "feature_attention_mask", "input_features")  # as of `Prompts`


def main() -> None:
    """Take steps both ways, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    config = configs.load(
        None,
        [
            "reward.weights={cer = 1.0}",
            f"rollout.group_size={arguments.group}",
            f"rollout.max_new_tokens={arguments.tokens}",
            f"train.batch_size={arguments.prompts}",
            f"train.dtype={arguments.dtype}",
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        size = bench_model.LARGE if arguments.size == "large" else bench_model.SMALL
        bench_model.write(model, size, arguments.dtype)
        shards = open_shards(bench_model.shards(Path(folder), [CLIP_SECONDS] * arguments.prompts))
        engine = AudioEngine(config, checkpoint.load(str(model), dtype=arguments.dtype), shards)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        plain = Plain(reference.load(model).to(device, getattr(torch, arguments.dtype)), config)
        numbers = list(range(arguments.prompts))
        rows = shards.read(numbers)
        columns = {
            name: torch.tensor(column, device=device)
            for name, column in zip(_COLUMNS, stacked(rows, numbers, engine._prompter, engine._length), strict=True)
        }
        columns["input_features"] = columns["input_features"].to(getattr(torch, arguments.dtype))
        ours: list[tuple[float, float]] = []
        theirs: list[tuple[float, float]] = []
        for _ in range(_WARM_UP + arguments.steps):
            metrics = engine.update(numbers, rows)[0]
            ours.append((metrics.rollout_s, metrics.update_s))
            theirs.append(plain.step(columns))
    seconds = {name: _medians(steps[_WARM_UP:]) for name, steps in (("audiorl", ours), ("torch", theirs))}
    found = {
        "prompts": arguments.prompts,
        "group": arguments.group,
        "audio_seconds": 30,
        "new_tokens": arguments.tokens,
        "device": jax.devices()[0].device_kind,
        "size": arguments.size,
        "dtype": arguments.dtype,
        "torch_threads": torch.get_num_threads(),
        "seconds": seconds,
        "ratio": {part: round(seconds["torch"][part] / seconds["audiorl"][part], 2) for part in seconds["torch"]},
    }
    print(json.dumps(found, indent=2))


class Plain:
    """GRPO on a transformers model, its tower frozen."""

    def __init__(self, model: Any, config: configs.RunConfig) -> None:
        self._config, self._reference, self._model = config, deepcopy(model).requires_grad_(False), model
        model.audio_tower.requires_grad_(False)
        model.visual.requires_grad_(False)
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(learnt, lr=config.optimizer.learning_rate, weight_decay=0.0)

    def step(self, columns: dict[str, torch.Tensor]) -> tuple[float, float]:
        """Seconds of the rollout and of the update."""
        rollout, loss = self._config.rollout, self._config.loss
        columns = {name: column.repeat_interleave(rollout.group_size, 0) for name, column in columns.items()}
        began = _now()
        with torch.no_grad():
            sequences = self._model.generate(
                **columns, max_new_tokens=rollout.max_new_tokens, do_sample=True, top_k=0, top_p=1.0
            )
        sampled = _now()
        completions = sequences[:, columns["input_ids"].shape[1] :]
        # what the tokens earn costs next to nothing: any rewards with spread do
        rewards = (completions % 7).float().mean(dim=1).reshape(-1, rollout.group_size)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        with torch.no_grad():
            wanted = self._log_probs(self._reference, columns, sequences, completions)
        new = self._log_probs(self._model, columns, sequences, completions)
        surrogate = (new - new.detach()).exp() * advantages.reshape(-1, 1)
        divergence = (wanted - new).exp() - (wanted - new) - 1
        (loss.beta * divergence - surrogate).mean().backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.optimizer.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return sampled - began, _now() - sampled

    def _log_probs(self, model: Any, columns: Any, sequences: torch.Tensor, completions: torch.Tensor) -> torch.Tensor:
        mask = torch.cat([columns["attention_mask"], torch.ones_like(completions)], dim=1)
        inputs = columns | {"input_ids": sequences, "attention_mask": mask}
        logits = model(**inputs, use_cache=False).logits[:, -completions.shape[1] - 1 : -1]
        chosen: torch.Tensor = logits.log_softmax(-1).gather(-1, completions[..., None])[..., 0]
        return chosen


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _medians(steps: list[tuple[float, float]]) -> dict[str, float]:
    parts = [statistics.median(times) for times in zip(*steps, strict=True)]
    return dict(zip(_PARTS, (round(part, 3) for part in parts), strict=True)) | {"step": round(sum(parts), 3)}


if __name__ == "__main__":
    main()
