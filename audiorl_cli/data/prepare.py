"""One utterance -> one row of a shard, or its rejection: what a worker does."""

from dataclasses import dataclass

import numpy as np

from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.mel import log_mel
from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.shards import FeatureDtype, Row
from audiorl_cli.data.sources import Item, Utterance


@dataclass(frozen=True)
class Preparation:
    """What every utterance is put through. `frames`: of the window; seconds bound the clip from both sides."""

    dtype: FeatureDtype
    frames: int
    min_seconds: float
    max_seconds: float
    channel: str

    def __call__(self, item: Item) -> Row | Rejection:
        """The row of an utterance with features in the final dtype, or why there is none."""
        if isinstance(item, Rejection):
            return item
        try:
            return self._row(item)
        except RejectedError as error:
            return Rejection(item.id, item.source, error.reason, error.detail)

    def _row(self, utterance: Utterance) -> Row:
        extent = Extent(utterance.offset, utterance.duration, self.max_seconds)
        clip = decode(utterance.audio, self.channel, extent)
        if clip.seconds < self.min_seconds:
            raise RejectedError("too_short", f"{clip.seconds:.4f} s")
        if utterance.text.strip() and not clip.samples.any():
            raise RejectedError("silent", f"{clip.seconds:.2f} s of zeros under a transcript")
        with np.errstate(over="ignore", invalid="ignore"):
            mel = log_mel(clip.samples, self.frames)
            features = mel.features.astype(self.dtype)
        if not np.isfinite(features).all():
            raise RejectedError("non_finite", "samples too large for the features")
        return Row(
            id=utterance.id,
            text=utterance.text,
            speaker=utterance.speaker,
            duration_s=round(clip.seconds, 6),
            num_frames=mel.num_frames,
            features=features,
            extra=utterance.extra,
        )
