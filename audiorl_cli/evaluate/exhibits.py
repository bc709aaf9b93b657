"""What there is to see and hear of a row: its mel picture as the model heard it, and its recording where that is."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import soundfile
from jaxtyping import Float

from audiorl_cli.core import FRAMES_PER_SECOND, SAMPLE_RATE
from audiorl_cli.data.recordings import Samples, recordings
from audiorl_cli.data.shards import Row, Shards

AUDIO_BYTES: Final = 8_000_000
"""So much audio a page holds: a mail takes it. 20 clips of 30 s come near to it."""
_COLUMNS: Final = 900  # of a picture: no screen shows more of them
_SHADES: Final = 64
_LOUD: Final = 0.5  # of the way from a clip's lowest feature to its highest


@dataclass(frozen=True)
class Exhibit:
    """`picture`: PNG, low bands at the bottom, `seen` what it shows. `audio`: FLAC, empty where `silent` says why."""

    picture: bytes
    seen: str
    audio: bytes
    silent: str


def exhibits(shards: Shards, numbers: Sequence[int]) -> dict[str, Exhibit]:
    """The exhibits of the rows with these numbers, by their ids.

    Recordings are taken in this order as long as they come to `AUDIO_BYTES` at most.
    """
    rows = shards.read(numbers)
    heard = recordings(shards, rows)
    shown, left = {}, AUDIO_BYTES
    for row in rows:
        recording = heard[row.id]
        audio, silent = (b"", recording) if isinstance(recording, str) else (_flac(recording), "")
        if len(audio) > left:
            audio, silent = b"", f"this page holds {AUDIO_BYTES // 1_000_000} MB of audio already"
        left -= len(audio)
        valid = row.features[:, : row.num_frames]
        shown[row.id] = Exhibit(_png(valid), _seen(row, valid), audio, silent)
    return shown


def _flac(samples: Samples) -> bytes:
    """Lossless, of the length it has, and played by every browser; louder than full scale is cut."""
    with io.BytesIO() as file:
        soundfile.write(file, np.clip(samples, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        return file.getvalue()


def _png(features: Float[np.ndarray, "mels frames"]) -> bytes:
    import matplotlib
    from PIL import Image

    frames = features.shape[1]
    if frames > _COLUMNS:  # the loudest of neighbours: what is short stays to be seen
        edges = np.linspace(0, frames, _COLUMNS, endpoint=False).astype(int)
        features = np.maximum.reduceat(features, edges, axis=1)
    low, high = float(features.min()), float(features.max())
    shades = np.round((features - low) / max(high - low, 1e-6) * (_SHADES - 1)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(shades[::-1]), "P")
    colours = matplotlib.colormaps["magma"](np.linspace(0, 1, _SHADES), bytes=True)[:, :3]
    image.putpalette(colours.tobytes())
    with io.BytesIO() as file:
        image.save(file, "PNG", optimize=True)
        return file.getvalue()


def _seen(row: Row, features: Float[np.ndarray, "mels frames"]) -> str:
    """The picture in words: its axes, and from where to where there is anything to hear."""
    what = f"Log-mel picture of {row.duration_s:.2f} seconds, low frequencies at the bottom"
    loudest = features.max(axis=0)
    low, high = features.min(), features.max()
    if high - low < 1e-6:
        return f"{what}: nothing but silence."
    [loud] = np.nonzero(loudest > low + _LOUD * (high - low))
    first, last = loud[0] / FRAMES_PER_SECOND, (loud[-1] + 1) / FRAMES_PER_SECOND
    return f"{what}; sound from {first:.2f} to {min(last, row.duration_s):.2f} seconds."
