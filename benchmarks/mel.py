"""Log-mel clips a core-second: ours against transformers' `WhisperFeatureExtractor`, in a window of 30 s.

    python benchmarks/mel.py [RECORDING]

RECORDING: any file that prep reads, repeated to the length that is wanted; noise where none is given (the work is the
same). Ours runs in one thread, as in prep's workers. The extractor is measured three times: as it comes, in a process
of its own, where it takes a thread a processor and more processor time for it; held to one thread, as those have it
who know of that; and by the numpy path that it takes where torch is not installed. What counts is the processor's time,
which other programs on the machine disturb less than the clock's. JSON out, ratios beside the limit that they are to
reach.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Final

_AS_IT_COMES: Final = "--as-it-comes"  # what the process of the extractor is started with
_GIVEN: Final = dict(os.environ)
if _AS_IT_COMES not in sys.argv:  # before the libraries are loaded, which read them once
    os.environ.update({f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")})

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import WhisperFeatureExtractor  # noqa: E402

from audiorl_cli.core import CLIP_SECONDS, MEL_BINS, SAMPLE_RATE  # noqa: E402
from audiorl_cli.data.decode import Extent, decode  # noqa: E402
from audiorl_cli.data.mel import log_mel  # noqa: E402

_LIMITS: Final = {12.0: 8.0, 30.0: 3.0}  # seconds of audio -> times as fast as the extractor
_TURNS: Final = 40
_FEW_TURNS: Final = 8  # of what is slow


def cost(function: Callable[[], object], count: int) -> float:
    """Processor seconds of a call: the median of `count` after one to warm up."""
    function()
    took = []
    for _ in range(count):
        started = time.process_time()
        function()
        took.append(time.process_time() - started)
    return float(np.median(took))


@cache
def extractor(*, by_numpy: bool) -> WhisperFeatureExtractor:
    """The extractor, by torch or by the path that it takes without."""
    made = WhisperFeatureExtractor(feature_size=MEL_BINS)
    if by_numpy:
        made._torch_extract_fbank_features = made._np_extract_fbank_features
    return made


def whisper(samples: np.ndarray, *, by_numpy: bool = False) -> np.ndarray:
    """The extractor's features of `samples`."""
    features = extractor(by_numpy=by_numpy)(
        samples, sampling_rate=SAMPLE_RATE, return_tensors="np", return_attention_mask=True
    )
    return np.asarray(features["input_features"][0])


def as_it_comes() -> dict[float, float]:
    """Processor seconds of the extractor, for each length of clip, in a process that sets no threads."""
    command = [sys.executable, __file__, _AS_IT_COMES, *sys.argv[1:]]
    out = subprocess.run(command, env=_GIVEN, check=True, capture_output=True, text=True).stdout
    return {float(seconds): found for seconds, found in json.loads(out).items()}


def measure(samples: np.ndarray, default: float) -> dict[str, object]:
    """Ours and theirs on the same samples, and how far the features are apart."""
    seconds = len(samples) / SAMPLE_RATE
    ours = cost(lambda: log_mel(samples), _TURNS)
    theirs = {
        "as_it_comes": default,
        "held_to_one_thread": cost(lambda: whisper(samples), _TURNS),
        "without_torch": cost(lambda: whisper(samples, by_numpy=True), _FEW_TURNS),
    }
    return {
        "audio_seconds": seconds,
        "audiorl_ms": round(1000 * ours, 2),
        "whisper_ms": {name: round(1000 * found, 2) for name, found in theirs.items()},
        "ratio": {name: round(found / ours, 1) for name, found in theirs.items()},
        "limit_at_least": _LIMITS[seconds],
        "largest_difference": float(np.abs(log_mel(samples).features - whisper(samples)).max()),
    }


def main() -> None:
    """Measure clips of each length."""
    paths = [word for word in sys.argv[1:] if word != _AS_IT_COMES]
    if paths:
        recording = decode(Path(paths[0]), "mix", Extent(0.0, None, CLIP_SECONDS)).samples
    else:
        recording = np.random.default_rng(0).normal(0, 0.1, round(CLIP_SECONDS * SAMPLE_RATE)).astype(np.float32)
    clips = {seconds: np.resize(recording, round(seconds * SAMPLE_RATE)) for seconds in _LIMITS}
    if _AS_IT_COMES in sys.argv:
        print(json.dumps({seconds: cost(partial(whisper, clip), _FEW_TURNS) for seconds, clip in clips.items()}))
        return
    torch.set_num_threads(1)
    default = as_it_comes()
    found = [measure(clip, default[seconds]) for seconds, clip in clips.items()]
    print(json.dumps({"window_seconds": CLIP_SECONDS, "load_average": os.getloadavg()[0], "clips": found}, indent=2))


if __name__ == "__main__":
    main()
