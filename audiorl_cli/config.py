"""What a run is made of: frozen dataclasses, read from TOML, bounds checked where they are built.

Flags of the command line carry paths and modes; every hyper-parameter lives here, under one name. The resolved
config is saved with the run, and reading it back gives an equal one.
"""

import codecs
import dataclasses
import math
import re
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

from audiorl_cli.errors import ConfigError
from audiorl_cli.errors import check as _check
from audiorl_cli.loss_config import LossConfig as LossConfig
from audiorl_cli.reward_config import RewardConfig as RewardConfig

Dtype = Literal["float32", "bfloat16"]
Export = Literal["thinker", "omni"]


@dataclass(frozen=True)
class PromptConfig:
    """The conversation each recording is put into; the checkpoint's own chat template renders it."""

    system: str = ""
    instruction: str = "Transcribe the audio into text."


@dataclass(frozen=True)
class RolloutConfig:
    """Sampling of the group of completions of each prompt. `top_k` 0, `top_p` 1.0 and `min_p` 0.0 mean off.

    `rounds`: how often a step may sample at most, to replace groups without spread by those of other rows (DAPO's
    dynamic sampling); 1 means that it takes what comes. No row is sampled twice in a step: it samples no further where
    fewer than `train.batch_size` rows are left.
    """

    group_size: int = 8
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    rounds: int = 1

    def __post_init__(self) -> None:
        _check("rollout.group_size", self.group_size >= 2, ">= 2 (a group of one has no advantage)", self.group_size)
        _check("rollout.max_new_tokens", self.max_new_tokens >= 1, ">= 1", self.max_new_tokens)
        _check("rollout.temperature", self.temperature > 0, "> 0 (greedy groups have no spread)", self.temperature)
        _check("rollout.top_k", self.top_k >= 0, ">= 0", self.top_k)
        _check("rollout.top_p", 0 < self.top_p <= 1, "in (0, 1]", self.top_p)
        _check("rollout.min_p", 0 <= self.min_p < 1, "in [0, 1)", self.min_p)
        _check("rollout.rounds", self.rounds >= 1, ">= 1", self.rounds)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW under a schedule, which is over updates: `loss.iterations` of them a step.

    `warmup_steps`: updates over which the rate rises, counted within the run's. `weight_decay` is decoupled, and of
    matrices alone: norms and biases do not decay. `beta1`, `beta2`: decay rates of the mean and of the mean square of
    the gradient; `epsilon` is added to the root of the latter.
    """

    learning_rate: float = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _check("optimizer.learning_rate", self.learning_rate > 0, "> 0", self.learning_rate)
        _check("optimizer.warmup_steps", self.warmup_steps >= 0, ">= 0", self.warmup_steps)
        _check("optimizer.weight_decay", self.weight_decay >= 0, ">= 0", self.weight_decay)
        _check("optimizer.clip_norm", self.clip_norm > 0, "> 0", self.clip_norm)
        for name in ("beta1", "beta2"):
            _check(f"optimizer.{name}", 0 <= getattr(self, name) < 1, "in [0, 1)", getattr(self, name))
        # float32 holds no square of a gradient below 1e-19, and a smaller epsilon would blow such a one up.
        _check("optimizer.epsilon", 1e-16 <= self.epsilon <= 1, "in [1e-16, 1]", self.epsilon)


@dataclass(frozen=True)
class MemoryConfig:
    """How much of a step `engine = "audiorl"` holds at once; 0 means all. No result depends on it but by rounding.

    `prompts` of the batch, `completions` of each prompt and `vocabulary` entries a token are taken at a time.
    `recompute`: the backward pass works each layer out again rather than keep what the forward pass made.
    """

    prompts: int = 0
    completions: int = 0
    vocabulary: int = 0
    recompute: bool = False

    def __post_init__(self) -> None:
        for name in ("prompts", "completions", "vocabulary"):
            _check(f"memory.{name}", getattr(self, name) >= 0, ">= 0", getattr(self, name))


@dataclass(frozen=True)
class TrainConfig:
    """`batch_size`: prompts a step, each with `rollout.group_size` completions. `steps` may span many epochs.

    `on_nonfinite`: what follows a loss or gradient that is no finite number, of which nothing is learnt and whose batch
    is kept in RUN/nonfinite: the run stops, or skips it and takes the next.
    `master_weights`: with `dtype` bfloat16, weights are kept, updated and saved in float32, and what is computed is
    computed with their bfloat16 copy. Else small updates of bfloat16 weights are lost to rounding.
    `export`: what RUN/model holds, the thinker by itself or the whole Omni it came from, its other parts as they were.
    """

    steps: int = 100
    batch_size: int = 8
    freeze_audio_tower: bool = True
    dtype: Dtype = "float32"
    master_weights: bool = False
    save_every: int = 50
    keep: int = 2
    samples_per_step: int = 2
    on_nonfinite: Literal["stop", "skip"] = "stop"
    export: Export = "thinker"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "keep"):
            _check(f"train.{name}", getattr(self, name) >= 1, ">= 1", getattr(self, name))
        _check("train.samples_per_step", self.samples_per_step >= 0, ">= 0", self.samples_per_step)
        wide = self.master_weights and self.dtype == "float32"
        _check("train.master_weights", not wide, "false with dtype float32, which needs none", True)


@dataclass(frozen=True)
class WarmstartConfig:
    """Supervised steps before any reinforcement: cross-entropy on the transcripts. Their rate is constant; AdamW is
    otherwise that of [optimizer].

    `stop_accuracy`: they end early, at the first batch of whose tokens this share was foretold right; 0 means off.
    """

    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 1e-3
    freeze_audio_tower: bool = False
    stop_accuracy: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            _check(f"warmstart.{name}", getattr(self, name) >= 1, ">= 1", getattr(self, name))
        _check("warmstart.learning_rate", self.learning_rate > 0, "> 0", self.learning_rate)
        _check("warmstart.stop_accuracy", 0 <= self.stop_accuracy <= 1, "in [0, 1]", self.stop_accuracy)


@dataclass(frozen=True)
class ValidationConfig:
    """How often a run transcribes the held-out shards of `--validation`: before its first step, `every` so many steps
    and after its last. RUN/model is then the step of the lowest word error rate.

    `patience`: the run ends after so many of them in a row that were no better than the best; 0 means never.
    """

    every: int = 50
    patience: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        _check("validation.every", self.every >= 1, ">= 1", self.every)
        _check("validation.patience", self.patience >= 0, ">= 0", self.patience)
        _check("validation.batch_size", self.batch_size >= 1, ">= 1", self.batch_size)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: with a `rank`, they learn and nothing else does; 0 means off.

    A weight W [out, in] acts as W + `alpha` / `rank` * B A, as in PEFT. `modules`: a regular expression for the whole
    names, those of transformers, of the linear modules that take an adapter; those of a frozen tower never do.
    """

    rank: int = 0
    alpha: float = 32.0
    modules: str = r"model\.layers\.\d+\.self_attn\.[qkvo]_proj"

    def __post_init__(self) -> None:
        _check("lora.rank", self.rank >= 0, ">= 0", self.rank)
        _check("lora.alpha", self.alpha > 0, "> 0", self.alpha)
        if not self.rank:
            for name in ("alpha", "modules"):
                value = getattr(self, name)
                _check(f"lora.{name}", value == getattr(LoraConfig, name), "lora.rank > 0 with it", value)
        try:
            re.compile(self.modules)
        except re.error as error:
            _check("lora.modules", False, f"a regular expression ({error})", self.modules)


@dataclass(frozen=True)
class MeshConfig:
    """How many devices divide what (bridge/mesh.py); -1 takes what is left. One device leaves every axis at 1.

    `data`: rows of a batch. `fsdp`: rows, and parameters too. `expert`: rows, and a layer's experts. `tensor`: heads,
    and the units of an expert. `sequence`, of EasyDeL's axes, divides nothing here and is 1.
    """

    data: int = 1
    fsdp: int = -1
    expert: int = 1
    tensor: int = 1
    sequence: int = 1

    def __post_init__(self) -> None:
        _check(
            "mesh.sequence",
            self.sequence == 1,
            "1 (no program here divides the tokens of a row, so that all its devices would do the same work)",
            self.sequence,
        )
        axes = dataclasses.asdict(self)
        for name, size in axes.items():
            _check(f"mesh.{name}", size >= 1 or size == -1, ">= 1, or -1 for what is left", size)
        _check("mesh", list(axes.values()).count(-1) <= 1, "at most one axis of -1", axes)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run but its paths."""

    engine: Literal["audiorl", "easydel"] = "audiorl"
    seed: int = 0
    prompt: PromptConfig = field(default_factory=PromptConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    warmstart: WarmstartConfig = field(default_factory=WarmstartConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        loss, rollout = self.loss, self.rollout
        group, most = rollout.group_size, rollout.max_new_tokens
        _check("loss.gfpo_keep", loss.gfpo_keep <= group, f"<= rollout.group_size ({group})", loss.gfpo_keep)
        _check(
            "loss.overlong_buffer",
            loss.overlong_buffer <= most,
            f"<= rollout.max_new_tokens ({most})",
            loss.overlong_buffer,
        )
        for name, whole in (("prompts", self.train.batch_size), ("completions", group)):
            part = getattr(self.memory, name)
            _check(f"memory.{name}", not part or whole % part == 0, f"a divisor of {whole}, or 0", part)
        twice = self.train.master_weights and self.lora.rank > 0
        _check("train.master_weights", not twice, "false with lora.rank, whose adapters are float32 anyway", True)
        if self.engine == "easydel":
            _check_easydel(self)
        least, most_earned = self.reward.range
        if loss.kind == "bnpo":
            # The mean of a group is a point of a Beta density.
            _check_unpenalised(self, "kind bnpo")
            _check(
                "reward.weights",
                least >= 0 and most_earned <= 1,
                ">= 0, with a sum of at most 1, without penalties and functions of yours, for kind bnpo (rewards in "
                "[0, 1])",
                self.reward.weights,
            )
        if loss.gfpo_metric == "efficiency":
            # Of two rewards below 0 the longer completion has the higher reward a token.
            _check_unpenalised(self, "gfpo_metric efficiency")
            _check(
                "reward.weights",
                least >= 0,
                ">= 0, without penalties and functions of yours, for loss.gfpo_metric efficiency (a reward below 0 is "
                "the better, a token, the longer the completion)",
                self.reward.weights,
            )


def _check_unpenalised(config: "RunConfig", who: str) -> None:
    """Refuses what takes from the reward where `who` needs rewards of at least 0."""
    loss = config.loss
    _check("loss.overlong_buffer", loss.overlong_buffer == 0, f"0 for {who}", loss.overlong_buffer)
    _check("loss.kl_estimator", loss.kl_estimator != "k1", f"one that leaves the reward alone, for {who}", "k1")


def _check_easydel(config: "RunConfig") -> None:
    """Refuses what EasyDeL's trainer would ignore, or take for another thing."""
    loss, where = config.loss, 'with engine = "easydel"'
    _check("loss.kind", loss.kind != "bnpo", f"another kind {where}, whose bnpo is not the paper's", loss.kind)
    _check("loss.kind", loss.kind in ("grpo", "dr_grpo", "dapo"), f"one of grpo, dr_grpo, dapo {where}", loss.kind)
    _check("loss.iterations", loss.iterations == 1, f"1 {where}", loss.iterations)
    for name in ("delta", "overlong_buffer"):
        _check(f"loss.{name}", getattr(loss, name) == 0, f"0 {where}", getattr(loss, name))
    _check("loss.kl_estimator", loss.kl_estimator == "k3", f"k3 {where}", loss.kl_estimator)
    _check("loss.mask_truncated", not loss.mask_truncated, f"false {where}", True)
    _check("loss.sampler_correction", loss.sampler_correction == "none", f"none {where}", loss.sampler_correction)
    _check("rollout.min_p", config.rollout.min_p == 0, f"0 {where}", config.rollout.min_p)
    _check("rollout.rounds", config.rollout.rounds == 1, f"1 {where}", config.rollout.rounds)
    _check("train.master_weights", not config.train.master_weights, f"false {where}", True)
    _check("memory", config.memory == MemoryConfig(), f"nothing {where}", config.memory)


def load(path: Path | None, overrides: list[str] | None = None) -> RunConfig:
    """The config in `path` (all defaults where None), with `a.b=value` overrides applied.

    Raises ConfigError for an unreadable file, an unknown key, a wrong type or a value out of bounds.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(_text(path))
        except OSError as error:
            raise ConfigError(
                str(path), expected="a TOML file", got=str(error.strerror), fix="Check --config."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(str(path), expected="valid TOML", got=str(error), fix="Correct the file.") from error
    for override in overrides or []:
        _override(table, override)
    return from_table(table)


def _text(path: Path) -> str:
    """The text of a file; editors of Windows begin it with a byte order mark, which TOML does not know."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(str(path), expected="UTF-8", got="UTF-16", fix="Save the file as UTF-8.")
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def of_run(folder: Path) -> Path | None:
    """The config of the run that is in `folder`; None where none is (a hub id, a plain Hugging Face folder)."""
    path = folder / "config.toml"
    return path if path.is_file() else None


def from_table(table: dict[str, Any]) -> RunConfig:
    """A RunConfig from nested tables. Raises ConfigError as `load` does."""
    return typing.cast(RunConfig, _build(RunConfig, table, ""))


def dump(config: RunConfig) -> str:
    """The config as TOML; `load` of it gives an equal config."""
    return tomli_w.dumps(dataclasses.asdict(config))


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"--set {override}", expected="a.b=value", got=override, fix="Write --set rollout.group_size=4."
        )
    try:
        document = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        document = {}
    # A bare word on the command line is a string, and so is a text of several lines that happen to be TOML.
    parsed: object = document["value"] if list(document) == ["value"] else value
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"--set {override}", expected=f"a section named {parent}", got="a value", fix="Check the key."
            )
    table[leaf] = parsed


def _build(kind: type[Any], table: object, where: str) -> object:
    if not isinstance(table, dict):
        name = where.rstrip(".")
        raise ConfigError(name, expected="a section", got=repr(table), fix=f"Write it as [{name}] in the TOML file.")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        item = f"{where}{unknown[0]}"
        raise ConfigError(item, expected=f"one of {', '.join(hints)}", got="an unknown key", fix="Remove or rename it.")
    return kind(**{name: _value(hints[name], value, f"{where}{name}") for name, value in table.items()})


def _value(hint: Any, value: object, where: str) -> object:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type[Any], hint), value, f"{where}.")
    if typing.get_origin(hint) is Literal:
        _check(where, value in typing.get_args(hint), f"one of {', '.join(map(str, typing.get_args(hint)))}", value)
        return value
    if typing.get_origin(hint) is dict:
        _check(where, isinstance(value, dict), "a table of numbers", value)
        table = typing.cast(dict[str, object], value)
        return {name: _value(float, number, f"{where}.{name}") for name, number in table.items()}
    if typing.get_origin(hint) is tuple:
        _check(where, isinstance(value, list), "a list of texts", value)
        return tuple(_value(str, text, where) for text in typing.cast(list[object], value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _check(where, not isinstance(value, float) or math.isfinite(value), "a finite number", value)
    _check(where, isinstance(value, hint) and isinstance(value, bool) == (hint is bool), hint.__name__, value)
    return value
