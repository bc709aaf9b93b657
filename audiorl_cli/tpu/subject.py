"""A run on a slice that is not here: its programs with any number of layers, and what stays on a chip."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import jax
import numpy as np

from audiorl_cli.bridge import checkpoint as checkpoints
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.mesh import batch_shards, demand_rows
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.config import RunConfig
from audiorl_cli.rl.programs import abstract_programs
from audiorl_cli.tpu.chips import Slice, devices

Layers = tuple[int, int]
"""Of the decoder, and of the audio tower."""
Programs = dict[str, tuple[Any, tuple[Any, ...]]]
Linear = TypeVar("Linear")
"""A dataclass of numbers."""

_FEW: Final = ((1, 1), (2, 1), (1, 2))  # of which it is told what a layer weighs


@dataclass(frozen=True)
class Resident:
    """Bytes on one chip that stay through a step."""

    weights: float
    optimizer: float
    reference: float
    batch: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.optimizer + self.reference + self.batch


@dataclass(frozen=True)
class Subject:
    """A run of `config` with `model` on the slice `place`, clips of `frames`, prompts of `tokens`.

    `whole`: the checkpoint with all its layers, without values.
    """

    config: RunConfig
    model: str
    place: Slice
    frames: int
    tokens: int
    whole: Checkpoint

    @property
    def layers(self) -> Layers:
        """All that there are."""
        text, audio = self.whole.thinker["text_config"], self.whole.thinker["audio_config"]
        return text["num_hidden_layers"], audio["encoder_layers"]

    @property
    def mesh(self) -> dict[str, int]:
        """Sizes of its axes, by EasyDeL's names."""
        return dict(self.whole.model.mesh.shape)

    def programs(self, layers: Layers) -> Programs:
        """What it compiles, with so many layers."""
        return abstract_programs(
            self.config, outline(self.config, self.model, self.place, layers), self.tokens, self.frames
        )

    def resident(self) -> Resident:
        """What stays on a chip."""
        return extrapolated([(few, self._resident(few)) for few in _FEW], self.layers, (0, 1))

    def cache(self) -> float:
        """Bytes of keys and values of a chip's rows: each prompt once, each completion at its longest."""
        text, rollout = self.whole.thinker["text_config"], self.config.rollout
        kept = self.tokens + rollout.group_size * max(rollout.max_new_tokens - 1, 1)
        width = 2 * text["num_key_value_heads"] * text["head_dim"] / self.mesh["tp"]
        rows = self.config.train.batch_size / batch_shards(self.whole.model.mesh)
        size = np.dtype(self.whole.model.dtype).itemsize
        return float(rows * text["num_hidden_layers"] * kept * width * size)

    def _resident(self, layers: Layers) -> Resident:
        programs = self.programs(layers)
        state, *batch, _ = programs["update"][1]
        return Resident(
            weights=_on_a_chip((state.graphstate, state.graphother)),
            optimizer=_on_a_chip(state.opt_state),
            reference=_on_a_chip(programs["score"][1][0]) if self.config.loss.beta else 0.0,
            batch=_on_a_chip(batch),
        )


def subject(config: RunConfig, model: str, place: Slice, frames: int) -> Subject:
    """The run; `chips.prepare` comes first. Raises ConfigError for a mesh that does not fit slice, model or batch, and
    as `checkpoint.outline` does."""
    rows = {"train__batch_size": config.train.batch_size, "memory__prompts": config.memory.prompts}
    demand_rows(config.mesh, devices=place.chips, **rows)
    whole = outline(config, model, place)
    tokens = Prompter(whole.tokenizer, config.prompt).length(frames)
    return Subject(config, model, place, frames, tokens, whole)


def outline(config: RunConfig, model: str, place: Slice, layers: Layers | None = None) -> Checkpoint:
    """The checkpoint of a run on `place`, with `layers` or all."""
    return checkpoints.outline(
        model,
        dtype=config.train.dtype,
        masters=config.train.master_weights,
        mesh=config.mesh,
        devices=devices(place),
        layers=layers,
    )


def extrapolated(points: Sequence[tuple[Layers, Linear]], layers: Layers, axes: Sequence[int]) -> Linear:
    """What `points` say of few layers, of `layers`: of those that count (`axes`), each adds as much as the last."""
    first: Any = points[0][1]
    if len(points) == 1:
        return points[0][1]
    cuts = np.array([[1, *(cut[axis] for axis in axes)] for cut, _ in points], float)
    values = np.array([dataclasses.astuple(each) for _, each in points])  # type: ignore[call-overload]
    line = np.linalg.solve(cuts, values)
    found: Linear = type(first)(*(np.array([1, *(layers[axis] for axis in axes)], float) @ line).tolist())
    return found


def _on_a_chip(tree: Any) -> float:
    """Bytes on one device."""
    total = 0.0
    for leaf in jax.tree_util.tree_leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape) if getattr(leaf, "sharding", None) else leaf.shape
        total += float(np.prod(shape)) * leaf.dtype.itemsize
    return total
