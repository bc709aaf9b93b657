"""Mutated recordings: each is kept whole or rejected for a documented reason, and none costs a worker its life."""

from pathlib import Path

import fuzz
import numpy as np
import pytest
import soundfile

from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.rejected import RejectedError


def test_mutants_of_every_kind_of_file(speech: Path) -> None:
    files = fuzz.recordings(speech)
    number = len(files) * len(fuzz.MUTATIONS)
    outcome = fuzz.run(files, number, seed=0, workers=2)
    assert sum(outcome.kept.values()) + sum(outcome.rejected.values()) == outcome.files == number
    assert outcome.decoder_failed == []
    assert outcome.shortened == []
    # A flipped bit in samples without a checksum is heard and not seen; most of what is cut short is.
    assert outcome.kept["flip"] > outcome.kept["cut"]
    assert outcome.rejected["truncated"] > len(files)


def test_the_same_seed_makes_the_same_mutants(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.sin(np.arange(8000) / 20), 16_000)
    first, again, other = ([one.content for one in fuzz.mutants([path], 50, seed)] for seed in (1, 1, 2))
    assert first == again != other
    assert path.read_bytes() not in first


def _mp3(path: Path) -> bytes:
    """Four seconds of noise as an MP3, whose first frame counts the others."""
    sound = 0.3 * np.random.default_rng(0).standard_normal(64_000)
    soundfile.write(path, sound, 16_000, format="MP3", bitrate_mode="VARIABLE")
    return path.read_bytes()


def test_an_mp3_that_lost_frames_is_truncated_where_its_tag_counts_the_frames(tmp_path: Path) -> None:
    whole = _mp3(tmp_path / "tone.mp3")
    assert decode(whole, "mix", Extent()).seconds == 4
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes(900) + whole[middle + 900 :]  # beyond 1024 decoders give up
    with pytest.raises(RejectedError, match="of 4") as rejected:
        decode(damaged, "mix", Extent())
    assert rejected.value.reason == "truncated"


def test_an_mp3_without_a_tag_is_as_long_as_it_sounds(tmp_path: Path) -> None:
    whole = _mp3(tmp_path / "tone.mp3")
    untagged = whole[whole.index(whole[:2], whole.index(b"LAME")) :]
    assert decode(untagged, "mix", Extent()).seconds == pytest.approx(4, abs=0.15)


def test_a_flac_of_unknown_length_with_a_hole_is_corrupt(speech: Path) -> None:
    whole = (speech / "formats" / "flac_subset_45_no_total_number_of_samples_set.flac").read_bytes()
    middle = len(whole) // 2
    with pytest.raises(RejectedError) as rejected:
        decode(whole[:middle] + whole[middle + 3000 :], "mix", Extent())
    assert rejected.value.reason == "corrupt"
