"""Several channels -> one."""

from typing import Final

import numpy as np
from jaxtyping import Float, Float32

from audiorl_cli.data.rejected import RejectedError

Block = Float32[np.ndarray, "samples channels"]

# The energy of the sum of channels over the sum of their energies is 1 where they have nothing in common (one of them
# silent, another speaker on each), the number of channels where they are equal, (1 - g)^2 / (1 + g^2) where the second
# is the first times -g. Below a tenth, mixing loses 10 dB more than it would of independent sounds: for two channels of
# equal energy that is a correlation below -0.9, and g from 0.63 to 1.59.
_CANCELLED: Final = 0.1
_CANCELLED_SHARE: Final = 0.1  # of a clip's energy that may be lost so
_WINDOW_SECONDS: Final = 1.0  # the mean of each is left out: a constant offset is no sound


def chosen(block: Float[np.ndarray, "samples channels"], channel: str, width: int) -> Block:
    """Return what of a decoder's block the `channel` is made of: all channels for "mix", `width` of them if not 0.

    Where the number of channels changes within a recording, "mix" takes the mean of the block, once for each channel.
    Raises RejectedError for a channel that is not there.
    """
    if channel == "mix":
        if width in (0, block.shape[1]):
            return np.ascontiguousarray(block, np.float32)
        return np.repeat(_mean(block)[:, None], width, axis=1)
    named = {"left": 0, "right": 1}.get(channel)
    number = int(channel) if named is None else named
    if number >= block.shape[1]:
        raise RejectedError("bad_channel", f"channel {channel} of {block.shape[1]}")
    return np.ascontiguousarray(block[:, number : number + 1], np.float32)


def mono(samples: Block, rate: int) -> Float32[np.ndarray, " samples"]:
    """Return the mean of the channels of a clip of `rate` Hz. Raises RejectedError where they cancel each other out."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    mixed = _mean(samples)
    share = _cancelled_share(samples, mixed, round(_WINDOW_SECONDS * rate))
    if share > _CANCELLED_SHARE:
        raise RejectedError(
            "out_of_phase",
            f"mixing {samples.shape[1]} channels cancels {share:.0%} of the sound: one is inverted. Choose one "
            "with --channel left",
        )
    return mixed


def _mean(samples: Float[np.ndarray, "samples channels"]) -> Float32[np.ndarray, " samples"]:
    with np.errstate(over="ignore", invalid="ignore"):  # samples that are not finite are rejected by name later
        mean: Float32[np.ndarray, " samples"] = samples.mean(axis=1, dtype=np.float32)
    return mean


def _cancelled_share(samples: Block, mixed: Float32[np.ndarray, " samples"], window: int) -> float:
    """Return the share of the channels' energy that lies in windows in which their sum has next to none."""
    starts = np.arange(0, len(samples), window)
    counts = np.diff(np.append(starts, len(samples)))[:, None]

    def energy(values: Block) -> Float[np.ndarray, " windows"]:
        wide = values.astype(np.float64)
        sums = np.add.reduceat(wide, starts)
        variance = np.add.reduceat(np.square(wide, out=wide), starts) - sums**2 / counts
        total: Float[np.ndarray, " windows"] = np.maximum(variance, 0).sum(axis=1)
        return total

    with np.errstate(over="ignore", invalid="ignore"):
        each, summed = energy(samples), energy(mixed[:, None]) * samples.shape[1] ** 2
        lost = each[summed < _CANCELLED * each].sum()
        return float(lost / each.sum()) if each.sum() > 0 else 0.0
