"""What preparing a corpus takes on a cluster: bytes, hours, machines, money; from what prep is measured to take here.

    python benchmarks/prep_model.py FOLDER [--clips 256] [--ray] [--out URL] [--cores 16] [--core-hour 0.04] ...

FOLDER: of FLAC at 16 kHz and up to 30 s, LibriSpeech's for instance, taken as often as needed. Measured on it: bytes of
source and of shards an hour of audio, and processor seconds an hour (of two sizes, so that starting processes does not
count). With `--ray` also those of the process that begins the run, on a cluster of one processor that is started for
it and writes to `--out`, else to a folder, by way of that process. There is one such on any cluster: its time is the
floor of the run's. Everything else is assumed, is an option, and is printed beside the table. No request to a store is
priced, and nothing between regions. JSON with `--json`.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import soundfile
from prep import TIMES, measured, source

from audiorl_cli.core import CLIP_SECONDS

CORPORA = {"LibriSpeech": 1_000, "People's Speech": 30_000, "a million hours": 1_000_000}
SHARD_ROWS = 128


@dataclass(frozen=True)
class Measured:
    """Of an hour of audio: bytes, and processor seconds, of all and of the process that begins a run on a cluster."""

    source_bytes: float
    shard_bytes: float
    core_seconds: float
    driver_seconds: float | None
    clip_seconds: float


@dataclass(frozen=True)
class Assumed:
    """`busy`: the share of processors that is at work; `gigabit`: a second, of one machine; prices in dollars."""

    cores: int
    busy: float
    gigabit: float
    core_hour: float
    gigabyte_month: float
    within_hours: float


@dataclass(frozen=True)
class Estimate:
    """What one corpus takes. `bound`: what the hours are of."""

    corpus: str
    audio_hours: int
    source_tb: float
    shards_tb: float
    shards: int
    core_hours: float
    machines: int
    hours: float
    bound: str
    compute_dollars: float
    month_dollars: float


def estimate(corpus: str, audio_hours: int, found: Measured, given: Assumed) -> Estimate:
    """The machines that make it within the hours that are given, and how long they take."""
    source_bytes, shard_bytes = audio_hours * found.source_bytes, audio_hours * found.shard_bytes
    core_hours = audio_hours * found.core_seconds / 3600 / given.busy
    machines = max(1, math.ceil(core_hours / given.cores / given.within_hours))
    # Every source byte comes in once, every shard byte goes out once; rows also move once between nodes.
    moved = source_bytes + shard_bytes * (2 if machines > 1 else 1)
    bounds = {
        "processors": core_hours / given.cores / machines,
        "network": moved / (given.gigabit / 8 * 1e9) / machines / 3600,
        "first process": audio_hours * (found.driver_seconds or 0.0) / 3600,
    }
    bound = max(bounds, key=lambda name: bounds[name])
    return Estimate(
        corpus,
        audio_hours,
        source_bytes / 1e12,
        shard_bytes / 1e12,
        math.ceil(audio_hours * 3600 / found.clip_seconds / SHARD_ROWS),
        core_hours,
        machines,
        bounds[bound],
        bound,
        bounds[bound] * machines * given.cores * given.core_hour,
        shard_bytes / 1e9 * given.gigabyte_month,
    )


def measure(folder: Path, clips: int, *, ray: bool, out: str | None) -> Measured:
    """Of two runs of prep with one worker, and with `ray` of two more."""
    found = sorted(folder.resolve().rglob("*.flac"))
    durations = {path: soundfile.info(path).duration for path in found}
    files = [path for path in found if durations[path] <= CLIP_SECONDS]
    audio = sum(durations[path] for path in files)
    with tempfile.TemporaryDirectory() as temporary:
        manifests = [source(Path(temporary), files, number) for number in (clips, clips * TIMES)]
        # The hours of the clips that the larger source has more.
        hours = sum(durations[files[number % len(files)]] for number in range(clips, clips * TIMES)) / 3600
        one = [measured(manifest, 1) for manifest in manifests]
        total = [run["parent_cpu"] + run["workers_cpu"] for run in one]
        driver = _on_ray(manifests, out) if ray else None
        shards = _shard_bytes(source(Path(temporary), files, len(files)))
    return Measured(
        sum(path.stat().st_size for path in files) / (audio / 3600),
        shards / (audio / 3600),
        (total[1] - total[0]) / hours,
        (driver[1] - driver[0]) / hours if driver else None,
        audio / len(files),
    )


def _shard_bytes(manifest: Path) -> int:
    from audiorl_cli.data.prep import PrepSettings, prep
    from audiorl_cli.data.shards import open_shards

    with tempfile.TemporaryDirectory() as out:
        prep(str(manifest), Path(out), PrepSettings(workers=1))
        return sum(record.bytes for record in open_shards(Path(out)).records)


_DRIVER = """
import sys, time
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.store import place
prep(sys.argv[1], place(sys.argv[2]), PrepSettings(engine="ray"))
print(time.thread_time())  # not of Ray's own threads, which take some of every second, whatever is done in it
"""


def _on_ray(manifests: list[Path], url: str | None) -> list[float]:
    """Processor seconds of the process that begins a run, for each source."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    environment, took = {**os.environ, "RAY_ADDRESS": nodes.address}, []
    for manifest in manifests:
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-c", _DRIVER, str(manifest), f"{url or out}/{manifest.stem}"]
            took.append(float(subprocess.run(command, env=environment, capture_output=True, check=True).stdout))
    nodes.shutdown()  # type: ignore[no-untyped-call]
    return took


def main() -> None:
    """Measure, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--out", help="URL to write to with --ray")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cores", type=int, default=16, help="of a machine")
    parser.add_argument("--busy", type=float, default=0.8, help="share of processors at work")
    parser.add_argument("--gigabit", type=float, default=10.0, help="a second, of a machine")
    parser.add_argument("--core-hour", type=float, default=0.04, help="dollars")
    parser.add_argument("--gigabyte-month", type=float, default=0.023, help="dollars, of a store")
    parser.add_argument("--within-hours", type=float, default=24.0, help="what the machines are counted for")
    words = parser.parse_args()
    found = measure(words.folder, words.clips, ray=words.ray, out=words.out)
    given = Assumed(**{name: getattr(words, name) for name in Assumed.__dataclass_fields__})
    rows = [estimate(corpus, hours, found, given) for corpus, hours in CORPORA.items()]
    if words.json:
        corpora = [asdict(row) for row in rows]
        print(json.dumps({"measured": asdict(found), "assumed": asdict(given), "corpora": corpora}, indent=2))
        return
    told = ((name, value) for name, value in asdict(found).items() if value is not None)
    print("measured, an hour of audio:", ", ".join(f"{name} {value:.4g}" for name, value in told))
    print("assumed:", ", ".join(f"{name} {value:g}" for name, value in asdict(given).items()))
    print("| corpus | source | shards | core-hours | machines | hours | of | compute | a month's keeping |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.corpus}, {row.audio_hours:,} h | {row.source_tb:.3g} TB "
            f"| {row.shards_tb:.3g} TB in {row.shards:,} | "
            f"{row.core_hours:,.1f} | {row.machines} | {row.hours:,.2g} | {row.bound} | "
            f"${row.compute_dollars:,.2f} | ${row.month_dollars:,.0f} |"
        )


if __name__ == "__main__":
    main()
