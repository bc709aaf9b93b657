"""Held-out data while a run learns: how well its steps transcribe what they never learn from, and which does best."""

import time
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np

from audiorl_cli.bridge import hosts
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.selection import StoredSelection
from audiorl_cli.bridge.transcription import transcripts
from audiorl_cli.config import RunConfig
from audiorl_cli.data.leakage import audio_digest
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.data.store import Place
from audiorl_cli.errors import DataError, UsageError
from audiorl_cli.rl.metrics import Validation
from audiorl_cli.text import normaliser
from audiorl_cli.wer import ErrorCounts, count_words


def held_out(validation: Place | None, shards: Shards) -> Shards | None:
    """The shards in `validation`. Raises DataError where they are none or have no rows, UsageError for `shards`."""
    if validation is None:
        return None
    found = open_shards(validation)
    if not found.rows:
        raise DataError(str(validation), expected="rows to transcribe", got="none", fix="Run audiorl prep again.")
    if found.digest == shards.digest:
        raise UsageError(
            "--validation",
            expected="other recordings than those of --data",
            got="the same",
            fix="Name shards of speakers that the run does not learn from.",
        )
    return found


class Validator:
    """Transcribes the rows of `shards` as `audiorl eval` does with the config of the run."""

    def __init__(self, config: RunConfig, shards: Shards) -> None:
        self._config, self._shards = config, shards
        self._normalise = normaliser(config.reward.normaliser)

    def __call__(self, checkpoint: Checkpoint, step: int) -> Validation:
        """How well `checkpoint` does, which has had `step` updates. Raises DataError for a row it cannot hear whole."""
        began = time.perf_counter()
        numbers, told = [], []
        prompter, settings = Prompter(checkpoint.tokenizer, self._config.prompt), self._config.validation
        for batch in transcripts(
            checkpoint,
            self._shards,
            prompter,
            batch_size=settings.batch_size,
            max_new_tokens=self._config.rollout.max_new_tokens,
        ):
            numbers += [one.number for one in batch]
            told += [
                (one.cut, *astuple(count_words(self._normalise(one.row.text), self._normalise(one.text))))
                for one in batch
            ]
        cut, *kinds = hosts.gathered(numbers, np.asarray(told, np.float64), self._shards.rows).sum(axis=0)
        counts = ErrorCounts(*map(int, kinds))
        words = max(counts.reference_length, 1)
        return Validation(
            step=step,
            wer=counts.rate,
            substitutions=counts.substitutions / words,
            insertions=counts.insertions / words,
            deletions=counts.deletions / words,
            truncated_share=cut / self._shards.rows,
            transcribe_s=time.perf_counter() - began,
            data=self._shards.digest,
            normaliser=self._normalise.digest,
        )

    def selection(self, by: str, seen: Sequence[Validation], steps: int) -> StoredSelection:
        """The choice of the best of `seen` by a run of the command `by` that took `steps`. Reads every row."""
        chosen, rows = min(seen, key=lambda one: one.wer), range(self._shards.rows)
        return StoredSelection(
            by,
            chosen.step,
            steps,
            data=str(self._shards.folder),
            digest=self._shards.digest,
            rows=self._shards.rows,
            wer=chosen.wer,
            measured=len(seen),
            recordings=tuple(audio_digest(self._shards.read([number])[0]) for number in rows),
        )

    def like(self, validations: Sequence[Validation]) -> list[Validation]:
        """Those that were measured on the same data with the same normaliser: others say nothing of these."""
        digests = self._shards.digest, self._normalise.digest
        return [one for one in validations if (one.data, one.normaliser) == digests]


def best(validations: Sequence[Validation]) -> Validation | None:
    """The one of the fewest errors, of several the first; None of none."""
    return min(validations, key=lambda one: one.wer, default=None)


def fruitless(validations: Sequence[Validation]) -> int:
    """How many came after the best."""
    found = best(validations)
    return len(validations) - 1 - validations.index(found) if found else 0
