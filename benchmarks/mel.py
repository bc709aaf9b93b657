"""Log-mel clips a second: ours against transformers' `WhisperFeatureExtractor`, on one 12 s clip in a 30 s window.

    python benchmarks/mel.py [RECORDING]

RECORDING: any file that prep reads, of 12 s or more; noise where none is given (the work is the same). JSON out.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from transformers import WhisperFeatureExtractor

from audiorl_cli.core import CLIP_SECONDS, MEL_BINS, SAMPLE_RATE
from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.mel import log_mel

_SECONDS = 12.0
_REPEATS = 30


def clips_per_second(function: Callable[[], object]) -> float:
    """Calls a second, by the median of `_REPEATS` calls after one to warm up."""
    function()
    took = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        function()
        took.append(time.perf_counter() - started)
    return 1.0 / float(np.median(took))


def main() -> None:
    """Measure both on the same samples, and how far they are apart."""
    if len(sys.argv) > 1:
        samples = decode(Path(sys.argv[1]), "mix", Extent(0.0, _SECONDS, CLIP_SECONDS)).samples
    else:
        samples = np.random.default_rng(0).normal(0, 0.1, round(_SECONDS * SAMPLE_RATE)).astype(np.float32)
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS)

    def whisper() -> np.ndarray:
        features = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np", return_attention_mask=True)
        return np.asarray(features["input_features"][0])

    ours, theirs = clips_per_second(lambda: log_mel(samples)), clips_per_second(whisper)
    report = {
        "audio_seconds": _SECONDS,
        "window_seconds": CLIP_SECONDS,
        "audiorl_clips_per_second": round(ours, 1),
        "whisper_clips_per_second": round(theirs, 1),
        "speedup": round(ours / theirs, 2),
        "largest_difference": float(np.abs(log_mel(samples).features - whisper()).max()),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
