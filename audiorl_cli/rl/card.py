"""The model card of a run: what was trained, from what, on what, and how to load it."""

from collections.abc import Sequence
from importlib import metadata

from huggingface_hub import ModelCardData

from audiorl_cli import __version__
from audiorl_cli import config as configs
from audiorl_cli.bridge.checkpoint import is_hub_id
from audiorl_cli.bridge.selection import Selection
from audiorl_cli.config import RunConfig
from audiorl_cli.data.shards import Shards
from audiorl_cli.rl.folder import Origin

_HOW = {
    "train": "reinforcement ({loss}) with rewards from transcripts: {rewards}, "
    "normaliser {normaliser} (digest `{digest}`)",
    "warmstart": "supervision: cross-entropy on the transcripts",
}
_CLASS = {
    "thinker": "Qwen3OmniMoeThinkerForConditionalGeneration",
    "omni": "Qwen3OmniMoeForConditionalGeneration",
}


def card(config: RunConfig, origin: Origin, shards: Shards, steps: int, selections: Sequence[Selection]) -> str:
    """Markdown for the `README.md` of the model that `origin` has become after `steps` steps on `shards`.

    `selections`: what chose it, after what chose the model that it began with.
    """
    data = ModelCardData(
        base_model=origin.model if is_hub_id(origin.model) else None,
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=["audiorl", "qwen3_omni_moe"],
    )
    how = _HOW[origin.kind].format(
        loss=config.loss.kind,
        rewards=", ".join(f"{weight:g} {name}" for name, weight in config.reward.weights.items()),
        normaliser=config.reward.normaliser,
        digest=origin.normaliser,
    )
    if config.lora.rank:
        how += f"; low-rank adapters (rank {config.lora.rank}), merged here"
    kind = _CLASS[config.train.export]
    return f"""---
{data.to_yaml()}
---

# {origin.model}, trained by audiorl

| | |
|---|---|
| began as | `{origin.model}` |
| trained by | {how} |
| steps | {steps} |
{_chosen(selections)}
| on | {shards.rows} utterances, {shards.manifest["totals"]["hours"]:.3f} h, shards of digest `{shards.digest}` |
| made with | audiorl {__version__}, easydel {metadata.version("easydel")}, jax {metadata.version("jax")} |

```python
from transformers import {kind}

model = {kind}.from_pretrained("this folder")
```

The prompts it was trained with are those of its chat template; system prompt, instruction and every other setting:

```toml
{configs.dump(config)}```
"""


def _chosen(selections: Sequence[Selection]) -> str:
    """The rows of the table that say what chose the model."""
    *before, last = (str(one).replace("|", r"\|") for one in selections)
    rows = [f"| which step | {last} |", *(f"| it began with | {one} |" for one in before)]
    if any(one.wer is not None for one in selections):
        rows.append(
            "| WER there | a selected minimum, and optimistic: that on other recordings is likely to be higher |"
        )
    return "\n".join(rows)
