"""Shard rows -> prompt rows, the columns that EasyDeL's collators and trainer take, built one by one on request."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Shaped

from audiorl_cli import core
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.data.shards import Row, Shards
from audiorl_cli.errors import DataError

UTTERANCE: Final = "utterance"
"""Column: the row's number in its shards, by which a reward function finds the transcript."""

# An STFT frame reaches half its window past its centre: so many frames behind the last valid one may hold audio.
_REACH: Final = -(-(core.N_FFT // 2) // core.HOP_LENGTH)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row: the thing, what was expected, what was found, what to do."""

    item: str
    expected: str
    got: str
    fix: str


class PromptRows:
    """Prompt rows of the numbers in `order`, read from the shards one at a time: a sequence for EasyDeL's trainer.

    The trainer takes a sequence's rows from first to last and shuffles nothing, so that the order is decided here.
    """

    def __init__(self, shards: Shards, prompter: Prompter, max_prompt_length: int, order: Sequence[int]) -> None:
        self.shards, self.prompter, self.max_prompt_length, self.order = shards, prompter, max_prompt_length, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> dict[str, Any]:
        number = int(self.order[place])
        return prompt_row(self.shards.read([number])[0], number, self.prompter, self.max_prompt_length)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[place] for place in range(len(self)))


def prompt_rows(
    shards: Shards, prompter: Prompter, max_prompt_length: int, order: Sequence[int] | None = None
) -> PromptRows:
    """The prompt rows of `shards` in `order` (row numbers, which may repeat; from first to last unless given).

    No features are held: each row is read and checked when it is asked for, and raises as `prompt_row` does.
    """
    return PromptRows(shards, prompter, max_prompt_length, range(shards.rows) if order is None else order)


def prompt_row(row: Row, number: int, prompter: Prompter, max_prompt_length: int) -> dict[str, Any]:
    """One row as columns: `input_ids`, `attention_mask` int32 [max_prompt_length], padded on the left;
    `input_features` float32 [128, frames]; `feature_attention_mask` int32 [frames]; `utterance` int32 [].

    Raises DataError for a row that the model could not hear whole (see `faults`).
    """
    for fault in faults(row, row.features.shape[-1], prompter, max_prompt_length):
        raise DataError(f"row {number}, {fault.item}", expected=fault.expected, got=fault.got, fix=fault.fix)
    return columns(row, number, prompter, max_prompt_length)


def stacked(
    rows: Sequence[Row], numbers: Sequence[int], prompter: Prompter, max_prompt_length: int
) -> list[Shaped[np.ndarray, "rows ..."]]:
    """The columns of `prompt_row` of rows of these numbers, each as one array, in the order of `decoder.Prompts`."""
    found = [prompt_row(row, number, prompter, max_prompt_length) for row, number in zip(rows, numbers, strict=True)]
    names = ("input_ids", "attention_mask", core.FEATURE_ATTENTION_MASK, core.INPUT_FEATURES)
    return [np.stack([columns[name] for columns in found]) for name in names]


def columns(row: Row, number: int, prompter: Prompter, max_prompt_length: int) -> dict[str, Any]:
    """The columns of `prompt_row`, whatever is wrong with the row: a prompt that is too long loses its beginning, as
    EasyDeL would cut it, and a row without valid frames or features has no audio columns.
    """
    frames = row.features.shape[-1]
    ids = np.asarray(prompter.ids(max(row.num_frames, 1))[-max_prompt_length:], np.int32)
    padding = max_prompt_length - len(ids)
    prompt: dict[str, Any] = {
        "input_ids": np.pad(ids, (padding, 0), constant_values=prompter.pad_token_id),
        "attention_mask": np.pad(np.ones_like(ids), (padding, 0)),
        UTTERANCE: np.asarray(number, np.int32),
    }
    if row.num_frames >= 1 and frames:
        prompt[core.INPUT_FEATURES] = row.features.astype(np.float32)
        prompt[core.FEATURE_ATTENTION_MASK] = (np.arange(frames) < row.num_frames).astype(np.int32)
    return prompt


def faults(row: Row, clip_frames: int, prompter: Prompter, max_prompt_length: int) -> list[Fault]:
    """Everything that is wrong with a row of a window of `clip_frames` frames; empty where nothing is."""
    return [*_feature_faults(row, clip_frames), *_prompt_faults(row, prompter, max_prompt_length)]


def _feature_faults(row: Row, clip_frames: int) -> list[Fault]:
    found = []
    shape, again = row.features.shape, "Run audiorl prep again."
    if shape != (core.MEL_BINS, clip_frames):
        found.append(
            Fault(f"{row.id}: input_features", f"shape {(core.MEL_BINS, clip_frames)}", f"shape {shape}", again)
        )
    wild = int(np.count_nonzero(~np.isfinite(row.features)))
    if wild:
        found.append(Fault(f"{row.id}: input_features", "finite numbers", f"{wild} that are not", again))
    claimed = row.duration_s * core.FRAMES_PER_SECOND
    if not 1 <= row.num_frames <= clip_frames:
        found.append(Fault(f"{row.id}: num_frames", f"1 to {clip_frames}", str(row.num_frames), again))
    elif abs(row.num_frames - claimed) > 1:
        expected = f"{claimed:.0f}, as it lasts {row.duration_s:.2f} s"
        found.append(Fault(f"{row.id}: num_frames", expected, str(row.num_frames), again))
    elif not wild and _sounds(row.features[:, row.num_frames + _REACH :]):
        found.append(Fault(f"{row.id}: num_frames", "silence behind the last", f"sound behind {row.num_frames}", again))
    return found


def _sounds(frames: Float[np.ndarray, "mels frames"]) -> bool:
    # Padding is one constant a clip.
    return bool(frames.size) and bool(frames.max() > frames.min())


def _prompt_faults(row: Row, prompter: Prompter, max_prompt_length: int) -> list[Fault]:
    length = prompter.length(max(row.num_frames, 1))
    if length <= max_prompt_length:
        return []
    fix = f"Raise the maximum prompt length to {length}, or run prep with a smaller --clip-seconds."
    return [Fault(f"{row.id}: prompt", f"at most {max_prompt_length} tokens", f"{length}", fix)]
