"""The tiny model as it starts: what it hears reaches its encoder."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tones import tone_shards

from audiorl_cli.bridge import checkpoint
from audiorl_cli.data.shards import open_shards

SINE_RMS = 0.5**0.5  # of the positions: sines and cosines of amplitude 1


def test_the_audio_is_not_drowned_by_the_positions_that_are_added_to_it(tmp_path: Path) -> None:
    tower = checkpoint.load("tiny").model.audio_tower
    row = open_shards(tone_shards(tmp_path, rows=2)).read([1])[0]
    heard, silence = (
        np.asarray(tower._convolve(jnp.asarray(features[None]), jnp.array([100])))
        for features in (row.features, np.full_like(row.features, row.features.min()))
    )
    assert np.sqrt(np.mean(np.square(heard - silence))) > 0.5 * SINE_RMS
