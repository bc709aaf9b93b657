"""Log-mel clips a core-second: ours against transformers' `WhisperFeatureExtractor`, in a window of 30 s.

    python benchmarks/mel.py [RECORDING]

RECORDING: any file that prep reads, repeated to the length that is wanted; noise where none is given (the work is the
same). Both have one thread and take turns; what counts is the processor's time, which other programs on the machine
disturb less than the clock's. The extractor is as transformers gives it where torch is installed (`torch.stft`); the
numpy path that it takes without torch is measured beside it. JSON out: the median of the ratios turn by turn, beside
the limit that it is to reach.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# before the libraries are loaded, which read them once
os.environ.update({f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")})

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from audiorl_cli.core import CLIP_SECONDS, MEL_BINS, SAMPLE_RATE
from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.mel import log_mel

LIMITS = {12.0: 8.0, 30.0: 3.0}  # seconds of audio -> times as fast as the extractor
TURNS = 40
NUMPY_TURNS = 5  # it is slow


def turns(functions: dict[str, Callable[[], object]], count: int) -> dict[str, np.ndarray]:
    """Processor seconds of each call, the functions taking turns `count` times after one to warm up."""
    took: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(count + 1):
        for name, function in functions.items():
            started = time.process_time()
            function()
            if turn:
                took[name].append(time.process_time() - started)
    return {name: np.array(seconds) for name, seconds in took.items()}


def measure(samples: np.ndarray) -> dict[str, object]:
    """Ours and theirs on the same samples, and how far the features are apart."""
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS)
    by_numpy = WhisperFeatureExtractor(feature_size=MEL_BINS)
    by_numpy._torch_extract_fbank_features = by_numpy._np_extract_fbank_features

    def whisper(extractor: WhisperFeatureExtractor) -> np.ndarray:
        features = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np", return_attention_mask=True)
        return np.asarray(features["input_features"][0])

    took = turns({"audiorl": lambda: log_mel(samples), "whisper": lambda: whisper(extractor)}, TURNS)
    slow = turns({"whisper": lambda: whisper(by_numpy)}, NUMPY_TURNS)
    seconds = len(samples) / SAMPLE_RATE
    speedup = float(np.median(took["whisper"] / took["audiorl"]))
    over_numpy = float(np.median(slow["whisper"]) / np.median(took["audiorl"]))
    return {
        "audio_seconds": seconds,
        "audiorl_clips_per_core_second": round(1 / float(np.median(took["audiorl"])), 1),
        "whisper_clips_per_core_second": round(1 / float(np.median(took["whisper"])), 1),
        "limit_at_least": LIMITS[seconds],
        "speedup": {"value": round(speedup, 2), "met": speedup >= LIMITS[seconds]},
        "speedup_over_its_numpy_path": {"value": round(over_numpy, 2), "met": over_numpy >= LIMITS[seconds]},
        "largest_difference": float(np.abs(log_mel(samples).features - whisper(extractor)).max()),
    }


def main() -> None:
    """Measure clips of each length."""
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        recording = decode(Path(sys.argv[1]), "mix", Extent(0.0, None, CLIP_SECONDS)).samples
    else:
        recording = np.random.default_rng(0).normal(0, 0.1, round(CLIP_SECONDS * SAMPLE_RATE)).astype(np.float32)
    clips = [measure(np.resize(recording, round(seconds * SAMPLE_RATE))) for seconds in LIMITS]
    report = {"window_seconds": CLIP_SECONDS, "load_average": os.getloadavg()[0], "clips": clips}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
