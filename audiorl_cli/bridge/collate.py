"""Rows -> batches through EasyDeL's GRPO collators, and on to the model's shapes: what `audiorl check-batch` finds.

A batch is collated twice, as EasyDeL does: whole (its TFDS path) and one example at a time (its Grain path, the
default). No weights are read and nothing is computed with them: the model is evaluated on shapes alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import jax
import numpy as np
from easydel.trainers.training_utils import extract_generation_model_kwargs
from easydel.trainers.utils import GRPODataCollatorGrain, GRPODataCollatorTFDS
from flax import nnx

from audiorl_cli import core
from audiorl_cli.bridge import keys
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.rows import UTTERANCE, columns, faults
from audiorl_cli.config import PromptConfig
from audiorl_cli.data.shards import Row, Shards
from audiorl_cli.errors import UsageError

if TYPE_CHECKING:
    from audiorl_cli.bridge.prove import Proof

Stage = Literal["batch collator", "single-example collator", "arguments of the model", "model"]

Shape = tuple[tuple[int, ...], str]

OK: Final = "ok"
ABSENT: Final = "-"
"""Shape and dtype of a column that is not there."""

_TOKENS: Final = ("input_ids", "attention_mask")
_OTHER_MODEL: Final = "Give a Qwen3-Omni checkpoint with its own tokenizer."
_FIXES: Final[dict[Stage, str]] = {
    "single-example collator": "Each row must carry audio of one window: see the findings on its rows.",
    "batch collator": "All rows of a batch must carry audio of one window: see the findings on its rows.",
    "arguments of the model": "Stock EasyDeL drops audio here: let audiorl patch it (leave out --unpatched).",
    "model": "It must get the columns above, and be a Qwen3-Omni thinker.",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, what was expected, what was found, what to do."""

    where: str
    expected: str
    got: str
    fix: str


@dataclass(frozen=True)
class Column:
    """One array at one stage: its shape and dtype, what they should be, and the verdict, "ok" or what is wrong."""

    stage: Stage
    key: str
    shape: str
    dtype: str
    expected: str
    verdict: str


@dataclass(frozen=True)
class RowCheck:
    """One row of a batch: its valid frames, the audio tokens they take, the placeholders in its collated prompt."""

    number: int
    id: str
    valid_frames: int
    tokens_expected: int
    placeholders: int
    verdict: str


@dataclass(frozen=True)
class BatchCheck:
    """One batch: its rows, and its columns at every stage on the way into the model."""

    number: int
    rows: tuple[RowCheck, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class BatchReport:
    """What check-batch found; sound where `findings` is empty. `proof`: what `prove.proved` adds with the weights."""

    model: str
    data: str
    patched: bool
    batch_size: int
    max_prompt_length: int
    batches: tuple[BatchCheck, ...]
    findings: tuple[Finding, ...]
    proof: "Proof | None" = None


def check_batches(
    shards: Shards,
    checkpoint: Checkpoint,
    prompt_config: PromptConfig,
    batch_size: int,
    batches: int,
    max_prompt_length: int | None = None,
    patched: bool = True,
    seed: int = 0,
) -> BatchReport:
    """Draw `batches` batches of `batch_size` rows from `shards`, no row twice, and take them into the model's shapes.

    `checkpoint` may be abstract. `max_prompt_length` is in tokens, the longest prompt of the window unless given.
    `patched=False` shows what stock EasyDeL does with the same rows. Reports everything it finds; raises UsageError for
    `patched=False` in a process that has patched EasyDeL, ModelError for a checkpoint without a usable template,
    InstallError as `keys.apply` does.
    """
    if patched:
        keys.apply()
    elif keys.applied():
        raise UsageError(
            "--unpatched", expected="an unpatched EasyDeL", got="a patched one", fix="Run it in a process of its own."
        )
    prompter = Prompter(checkpoint.tokenizer, prompt_config)
    length = prompter.length(shards.clip_frames) if max_prompt_length is None else max_prompt_length
    order = drawn(shards, seed)[: batches * batch_size]
    checker = BatchChecker(checkpoint, prompter, length, shards.clip_frames)
    checks = []
    for number, start in enumerate(range(0, len(order), batch_size)):
        numbers = order[start : start + batch_size]
        checks.append(checker.check(number, numbers, shards.read(numbers)))
    return BatchReport(
        model=checkpoint.source,
        data=shards.digest,
        patched=patched,
        batch_size=batch_size,
        max_prompt_length=length,
        batches=tuple(checks),
        findings=tuple(checker.findings),
    )


def drawn(shards: Shards, seed: int) -> list[int]:
    """The numbers of all rows of `shards`, in the order in which `seed` draws them."""
    numbers: list[int] = np.random.default_rng(seed).permutation(shards.rows).tolist()
    return numbers


class BatchChecker:
    """Takes one batch after another through the collators into the model, and collects the findings.

    `clip_frames`: the window every row should have; `max_prompt_length`: tokens.
    """

    def __init__(self, checkpoint: Checkpoint, prompter: Prompter, max_prompt_length: int, clip_frames: int) -> None:
        self.model, self.prompter = checkpoint.model, prompter
        self.max_prompt_length, self.clip_frames = max_prompt_length, clip_frames
        self.findings = disagreements(checkpoint, prompter, clip_frames)
        self._of_a_row: dict[str, Shape] = {
            "input_ids": ((max_prompt_length,), "int32"),
            "attention_mask": ((max_prompt_length,), "int32"),
            core.INPUT_FEATURES: ((core.MEL_BINS, clip_frames), "float32"),
            core.FEATURE_ATTENTION_MASK: ((clip_frames,), "int32"),
            UTTERANCE: ((), "int32"),
        }
        self._evaluated: dict[tuple[object, ...], dict[str, Any]] = {}

    def check(self, number: int, numbers: Sequence[int], rows: Sequence[Row]) -> BatchCheck:
        """The check of batch `number`, which holds `rows`, numbered `numbers` in their shards."""
        where = f"batch {number}"
        checked_rows, prompts = [], []
        for index, row in zip(numbers, rows, strict=True):
            prompts.append(columns(row, index, self.prompter, self.max_prompt_length))
            checked_rows.append(self._row(f"{where}, row {index}", index, row, prompts[-1]))
        checked = [*self._collated_singly(prompts), *self._collated_whole(prompts)]
        for column in checked:
            if column.verdict != OK:
                got = f"{column.dtype} {column.shape}: {column.verdict}" if column.shape != ABSENT else column.verdict
                self.findings.append(
                    Finding(f"{where}, {column.stage}, {column.key}", column.expected, got, _FIXES[column.stage])
                )
        return BatchCheck(number, tuple(checked_rows), tuple(checked))

    def _row(self, where: str, number: int, row: Row, prompt: Mapping[str, Any]) -> RowCheck:
        found = faults(row, self.clip_frames, self.prompter, self.max_prompt_length)
        self.findings += [Finding(f"{where}, {f.item}", f.expected, f.got, f.fix) for f in found]
        return RowCheck(
            number=number,
            id=row.id,
            valid_frames=row.num_frames,
            tokens_expected=core.audio_tokens(max(row.num_frames, 0)),
            placeholders=int(np.count_nonzero(prompt["input_ids"] == self.prompter.audio_token_id)),
            verdict="; ".join(f"{f.item.removeprefix(f'{row.id}: ')}: {f.got}" for f in found) or OK,
        )

    def _collated_singly(self, prompts: Sequence[Mapping[str, Any]]) -> Iterator[Column]:
        """The single-example collator on each row; a column stands for the first row in which it is wrong."""
        stage: Stage = "single-example collator"
        collator = GRPODataCollatorGrain(
            max_prompt_length=self.max_prompt_length, pad_token_id=self.prompter.pad_token_id
        )
        singles = [collator(dict(prompt)) for prompt in prompts]
        for key, expected in self._of_a_row.items():
            checked = [
                _column(stage, key, single.get(key), expected, prompt.get(key))
                for single, prompt in zip(singles, prompts, strict=True)
            ]
            wrong = [column for column in checked if column.verdict != OK]
            if wrong:
                yield replace(wrong[0], verdict=f"{wrong[0].verdict} in {len(wrong)} of {len(prompts)} rows")
            else:
                yield checked[0]

    def _collated_whole(self, prompts: Sequence[Mapping[str, Any]]) -> Iterator[Column]:
        """The batch collator, then what of its batch reaches the model, then the shapes the model makes of it."""
        collator = GRPODataCollatorTFDS(
            max_prompt_length=self.max_prompt_length, pad_token_id=self.prompter.pad_token_id
        )
        try:
            batch = collator([dict(prompt) for prompt in prompts])
        except (ValueError, TypeError) as error:
            yield Column(
                "batch collator", "all columns", ABSENT, ABSENT, f"{len(prompts)} rows in one batch", str(error)
            )
            return
        expected = {key: ((len(prompts), *shape), dtype) for key, (shape, dtype) in self._of_a_row.items()}
        for key, shape in expected.items():
            values = [prompt[key] for prompt in prompts if key in prompt]
            alike = len({value.shape for value in values}) == 1 and len(values) == len(prompts)
            yield _column("batch collator", key, batch.get(key), shape, np.stack(values) if alike else None)
        arguments = extract_generation_model_kwargs(batch, model_callable=self.model.__call__)
        for key in sorted(core.AUDIO_KEYS):
            yield _column("arguments of the model", key, arguments.get(key), expected[key])
        yield from self._evaluate(len(prompts), {name: batch[name] for name in _TOKENS} | arguments)

    def _evaluate(self, rows: int, inputs: Mapping[str, Any]) -> Iterator[Column]:
        config, dtype = self.model.config, str(np.dtype(self.model.dtype))
        signature = tuple((name, value.shape, str(value.dtype)) for name, value in sorted(inputs.items()))
        if signature not in self._evaluated:
            try:
                self._evaluated[signature] = _made_of(self.model, inputs)
            except (ValueError, TypeError) as error:
                yield Column("model", "all outputs", ABSENT, ABSENT, "inputs that it takes", str(error))
                return
        made = self._evaluated[signature]
        vectors = core.audio_tokens(self.clip_frames)
        tower = (rows, vectors, config.audio_config.output_dim)
        logits = (rows, self.max_prompt_length, config.text_config.vocab_size)
        yield _column("model", "audio tower", made.get("audio tower"), (tower, dtype))
        yield _column("model", "logits", made["logits"], (logits, dtype))


def _made_of(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes of the audio tower's vectors (where it is given audio) and of the logits."""
    graph, state = nnx.split(model)

    def run(state: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        merged = nnx.merge(graph, state)
        made = {"logits": merged(**inputs).logits}
        if core.INPUT_FEATURES in inputs:
            made["audio tower"] = merged.audio_tower(
                inputs[core.INPUT_FEATURES], inputs.get(core.FEATURE_ATTENTION_MASK)
            )
        return made

    with model.mesh:
        made: dict[str, Any] = jax.eval_shape(run, state, dict(inputs))
    return made


def _column(stage: Stage, key: str, array: Any, expected: Shape, given: np.ndarray | None = None) -> Column:
    """`array` against the shape it should have and, where they are given, against the values it should hold."""
    shape, dtype = expected
    wanted = f"{dtype} {list(shape)}"
    if array is None:
        return Column(stage, key, ABSENT, ABSENT, wanted, "missing")
    verdict = OK
    if tuple(array.shape) != shape:
        verdict = "another shape"
    elif str(array.dtype) != dtype:
        verdict = "another dtype"
    elif given is not None and not np.array_equal(np.asarray(array), given, equal_nan=given.dtype.kind == "f"):
        verdict = "other values than the rows have"
    return Column(stage, key, str(list(array.shape)), str(array.dtype), wanted, verdict)


def disagreements(checkpoint: Checkpoint, prompter: Prompter, clip_frames: int) -> list[Finding]:
    """Where the model and the tokenizer, or the model and this project's audio contract, do not agree."""
    config, tower = checkpoint.model.config, checkpoint.model.audio_tower
    frames = np.arange(1, clip_frames + 1)
    counted = np.asarray([core.audio_tokens(int(count)) for count in frames])
    apart = np.flatnonzero(np.asarray([tower.vectors(int(count)) for count in frames]) != counted)
    vocabulary = len(checkpoint.tokenizer)
    pairs: list[tuple[str, object, object]] = []
    if config.audio_token_id != prompter.audio_token_id:
        pairs.append(("config.json, audio_token_id", prompter.audio_token_id, config.audio_token_id))
    if config.audio_config.num_mel_bins != core.MEL_BINS:
        pairs.append(("config.json, audio_config.num_mel_bins", core.MEL_BINS, config.audio_config.num_mel_bins))
    if config.text_config.vocab_size < vocabulary:
        pairs.append(("config.json, text_config.vocab_size", f">= {vocabulary}", config.text_config.vocab_size))
    if len(apart):
        first = int(apart[0])
        pairs.append(
            (f"audio tower at {frames[first]} frames", f"{counted[first]} vectors", tower.vectors(int(frames[first])))
        )
    return [Finding(f"{checkpoint.source}: {where}", str(e), str(g), _OTHER_MODEL) for where, e, g in pairs]
