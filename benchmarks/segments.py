"""Parts of a long M4A: what each costs by how far from the beginning it lies, and all of them together.

    python benchmarks/segments.py [--hours 2] [--parts 100]

Noise in AAC is written to a temporary folder. Parts of 5 s at even distances are decoded in the order of their time,
and in a random order in another process. JSON out: processor seconds of the dearest part, of the median one and of all,
beside those of one pass over the recording by FFmpeg alone.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from audiorl_cli.data.decode import Extent, decode

_RATE: Final = 44_100
_SECONDS: Final = 5.0
_ORDERS: Final = ("in_order", "shuffled")


def synthesise(path: Path, hours: float) -> None:
    """Write stereo noise, a minute again and again."""
    minute = (3000 * np.random.default_rng(0).standard_normal((2, 60 * _RATE))).astype(np.int16)
    with av.open(str(path), "w", format="ipod") as container:
        stream: Any = container.add_stream("aac", rate=_RATE, layout="stereo")
        resampler = av.AudioResampler("fltp", "stereo", _RATE, 1024)
        for number in range(round(60 * hours)):
            frame = av.AudioFrame.from_ndarray(minute.T.reshape(1, -1).copy(), format="s16", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = _RATE, number * 60 * _RATE, Fraction(1, _RATE)
            for one in resampler.resample(frame):
                container.mux(stream.encode(one))
        container.mux(stream.encode(None))


def one_pass(path: Path) -> float:
    """Processor seconds of decoding all, and doing nothing with it."""
    started = time.process_time()
    with av.open(str(path)) as container:
        for _ in container.decode(audio=0):
            pass
    return time.process_time() - started


def parts(path: Path, hours: float, count: int, order: str) -> dict[str, float]:
    """Processor seconds of the parts."""
    starts = [number * (3600 * hours - _SECONDS) / (count - 1) for number in range(count)]
    took = []
    for start in starts if order == _ORDERS[0] else random.Random(0).sample(starts, count):
        started = time.process_time()
        decode(path, "mix", Extent(start, _SECONDS))
        took.append(time.process_time() - started)
    return {"all": round(sum(took), 2), "median": round(float(np.median(took)), 4), "dearest": round(max(took), 2)}


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--parts", type=int, default=100)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.run:
        print(json.dumps(parts(Path(words.run[0]), words.hours, words.parts, words.run[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.m4a"
        synthesise(path, words.hours)
        found: dict[str, Any] = {"hours": words.hours, "parts": words.parts, "one_pass": round(one_pass(path), 2)}
        for order in _ORDERS:
            command = [sys.executable, __file__, "--hours", str(words.hours), "--parts", str(words.parts)]
            done = subprocess.run([*command, "--run", str(path), order], capture_output=True, text=True, check=True)
            found[order] = json.loads(done.stdout)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
