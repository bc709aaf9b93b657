"""One utterance -> one row of a shard, or its rejection; rows -> a shard on disk: what a worker does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from audiorl_cli.core import HOP_LENGTH
from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.manifest import FileRecord, recorded
from audiorl_cli.data.mel import log_mel
from audiorl_cli.data.near_misses import looked_for
from audiorl_cli.data.pages import page
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.shards import Column, FeatureDtype, PackedRow, StagedShard, shard_bytes, stage_shard
from audiorl_cli.data.sources import Item, Utterance
from audiorl_cli.data.store import Place
from audiorl_cli.data.tar import Member
from audiorl_cli.errors import DataError


@dataclass(frozen=True)
class Held:
    """A row that stays on the cluster where it was made: number `index` of the list that `rows` refers to."""

    duration_s: float
    rows: Any
    index: int


R = TypeVar("R", bound=PackedRow | Held, covariant=True)


@dataclass(frozen=True)
class Batch(Generic[R]):
    """The rows of the shard that is to stand at `path`."""

    path: Place
    rows: Sequence[R]
    columns: Sequence[Column]
    dtype: FeatureDtype

    def content(self: "Batch[PackedRow]") -> tuple[FileRecord, bytes]:
        """The bytes of the shard, and what the manifest says of them."""
        content = shard_bytes(self.rows, self.columns, self.dtype)
        return recorded(self.path.name, len(self.rows), content), content

    def stage(self: "Batch[PackedRow]") -> StagedShard:
        """Write the shard under a temporary name."""
        return stage_shard(self.path, *self.content())


@dataclass(frozen=True)
class Preparation:
    """What every utterance is put through. `frames`: of the window; seconds bound the clip from both sides."""

    dtype: FeatureDtype
    frames: int
    min_seconds: float
    max_seconds: float
    channel: str

    def start(self) -> None:
        """Compile the arithmetic, in a worker that starts: what keeps it from that is no recording's fault."""
        log_mel(np.zeros(HOP_LENGTH, np.float32), self.frames, self.dtype)

    def __call__(self, task: Item | Batch[PackedRow]) -> PackedRow | Rejection | StagedShard | DataError:
        """An utterance's row, or why there is none; a batch's shard, or why there is none.

        DataError: what it was to be read from or written to has failed, and is not to blame on the recording.
        """
        if isinstance(task, Rejection):
            return task
        try:
            return task.stage() if isinstance(task, Batch) else self._row(task)
        except DataError as error:
            return error
        except RejectedError as error:
            assert not isinstance(task, Batch)
            detail = error.detail
            if error.reason == "missing" and not isinstance(task.audio, bytes | Member):
                detail = f"{detail}: {looked_for(task.audio, task.audio_name, task.folder)}"
            return Rejection(task.id, task.source, error.reason, detail)

    def _row(self, utterance: Utterance) -> PackedRow:
        extent = Extent(utterance.offset, utterance.duration, self.max_seconds)
        channel = self.channel if utterance.channel is None else str(utterance.channel)
        clip = decode(utterance.audio, channel, extent)
        if clip.seconds < self.min_seconds:
            raise RejectedError("too_short", f"{clip.seconds:.4f} s")
        if utterance.text.strip() and not clip.samples.any():
            raise RejectedError("silent", f"{clip.seconds:.2f} s of zeros under a transcript")
        with np.errstate(over="ignore", invalid="ignore"):
            mel = log_mel(clip.samples, self.frames, self.dtype)
        if not np.isfinite(mel.features[0, 0]):  # then none is
            raise RejectedError("non_finite", "samples too large for the features")
        return PackedRow(
            id=utterance.id,
            text=utterance.text,
            speaker=utterance.speaker,
            duration_s=round(clip.seconds, 6),
            num_frames=mel.num_frames,
            frames=self.frames,
            page=page(mel.features),
            extra=utterance.extra,
        )
