"""What all of prep costs on FLAC: against decoding the same files alone, with more workers, and in memory.

    python benchmarks/prep.py [FOLDER] [--clips 256] [--rounds 3] [--workers 2]

FOLDER: of FLAC at 16 kHz and up to 30 s, taken as often as needed; speech-like noise, 12 s each, where none is given.
Every round decodes `--clips` files with `soundfile.read` in one thread, then runs prep on as many and on four times as
many utterances, with one worker and with `--workers`, each in a process of its own. A clip's time is the difference of
the two sizes over the clips between them, so that starting processes does not count. JSON out: medians of the rounds'
ratios, each beside the limit that it is to keep.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from audiorl_cli.core import CLIP_SECONDS, SAMPLE_RATE
from audiorl_cli.data.decode import Extent, decode

TIMES = 4  # as many utterances in the larger source
SYNTHETIC = 32  # files
SYNTHETIC_SECONDS = 12.0
SYLLABLE = 2000  # samples
LIMITS = {"prep_over_decoding": 1.7, "speedup_by_workers": 0.85, "memory_growth": 1.1}


def synthesise(folder: Path) -> None:
    """Noise with the spectral tilt, the syllables and the pauses of speech: FLAC packs it about as well."""
    generator = np.random.default_rng(0)
    count = round(SYNTHETIC_SECONDS * SAMPLE_RATE)
    tilt = 1.0 / np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 300.0)
    for number in range(SYNTHETIC):
        noise = np.fft.irfft(np.fft.rfft(generator.normal(size=count)) * tilt, count)
        syllables = np.interp(np.arange(count), np.arange(0, count, SYLLABLE), generator.random(count // SYLLABLE))
        voiced = noise / np.abs(noise).max() * syllables**2
        soundfile.write(folder / f"{number}.flac", 0.5 * voiced, SAMPLE_RATE, subtype="PCM_16")


def source(folder: Path, files: list[Path], clips: int) -> Path:
    """A source of `clips` utterances over `files`."""
    path = folder / f"{clips}.jsonl"
    rows = ({"audio": str(files[n % len(files)]), "text": "some words", "id": f"utt-{n}"} for n in range(clips))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def run(manifest: Path, out: Path, workers: int) -> None:
    """Be one run of prep, and print what it took."""
    from audiorl_cli.data.prep import PrepSettings, prep

    started = time.perf_counter()
    prep(str(manifest), out, PrepSettings(workers=workers))
    seconds = time.perf_counter() - started
    parent, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    took = {
        "seconds": seconds,
        "parent_cpu": parent.ru_utime + parent.ru_stime,
        "workers_cpu": children.ru_utime + children.ru_stime,
        "parent_kib": parent.ru_maxrss,
        "worker_kib": children.ru_maxrss,  # the largest of them
    }
    print(json.dumps(took))


def measured(manifest: Path, workers: int) -> dict[str, float]:
    """What one run of prep took, in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--run", str(manifest), "--out", f"{out}/data", "--workers", str(workers)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    took: dict[str, float] = json.loads(done.stdout)
    return took


def seconds(function: Callable[[Path], object], files: list[Path]) -> float:
    """Of the clock, for each file."""
    started = time.perf_counter()
    for file in files:
        function(file)
    return (time.perf_counter() - started) / len(files)


def one_round(files: list[Path], manifests: tuple[Path, Path], clips: int, workers: int) -> dict[str, float]:
    """Every ratio, once."""
    small, large = manifests
    chosen = [files[number % len(files)] for number in range(clips)]
    plain = seconds(lambda file: soundfile.read(file, dtype="float32"), chosen)
    checked = seconds(lambda file: decode(file, "mix", Extent()), chosen)
    one = [measured(manifest, 1) for manifest in (small, large)]
    many = [measured(manifest, workers) for manifest in (small, large)]

    def each(runs: list[dict[str, float]], name: str) -> float:
        return (runs[1][name] - runs[0][name]) / (clips * (TIMES - 1))

    clip, faster = each(one, "seconds"), each(many, "seconds")
    parent, at_work = each(one, "parent_cpu"), each(one, "workers_cpu")
    memory = [sum(max(r[i][name] for r in (one, many)) for name in ("parent_kib", "worker_kib")) for i in (0, 1)]
    return {
        "prep_over_decoding": clip / plain,
        "speedup_by_workers": clip / faster,
        "memory_growth": memory[1] / memory[0],
        "prep_over_checked_decoding": clip / checked,
        "processor_time_over_decoding": (parent + at_work) / plain,
        "parent_share_of_processor_time": parent / (parent + at_work),
        "decoding_ms": 1000 * plain,
        "prep_ms": 1000 * clip,
        "start_seconds": one[0]["seconds"] - clip * clips,
        "parent_mib": one[1]["parent_kib"] / 1024,
        "worker_mib": one[1]["worker_kib"] / 1024,
    }


def main() -> None:
    """Measure, or be one of the runs that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, arguments.out, arguments.workers)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.folder is None:
            synthesise(folder)
        found = sorted((arguments.folder or folder).resolve().rglob("*.flac"))
        durations = {path: soundfile.info(path).duration for path in found}
        files = [path for path in found if durations[path] <= CLIP_SECONDS]
        manifests = source(folder, files, arguments.clips), source(folder, files, arguments.clips * TIMES)
        rounds = [one_round(files, manifests, arguments.clips, arguments.workers) for _ in range(arguments.rounds)]
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    limits: dict[str, Any] = LIMITS | {"speedup_by_workers": LIMITS["speedup_by_workers"] * arguments.workers}
    report: dict[str, Any] = {
        "clips": [arguments.clips, arguments.clips * TIMES],
        "audio_seconds_each": round(statistics.mean(durations[path] for path in files), 2),
        "workers": arguments.workers,
        "processors": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }
    for name, value in medians.items():
        report[name] = round(value, 3)
        if name in limits:
            least = name == "speedup_by_workers"
            report[name] = {
                "value": round(value, 3),
                "limit_at_least" if least else "limit_at_most": limits[name],
                "met": value >= limits[name] if least else value <= limits[name],
                "rounds": [round(each[name], 3) for each in rounds],
            }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
