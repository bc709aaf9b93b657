"""Mutated recordings through `prep`: `python benchmarks/fuzz.py ../shared/speech --files 5000`.

Every mutant is a real recording that was cut short, cut up, flipped, overwritten or glued to another, from a seed. Told
are the reasons of those that were rejected, those that cost a worker its life, and those that were shortened in
silence: kept, with less of the sound than the recording they were cut from, although its format says how much there is.
"""

import argparse
import itertools
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from audiorl_cli.data import shards
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.rejected import REASONS

_AT_ONCE: Final = 250  # files: their shards lie on the disk until they were looked at
_SLACK: Final = 0.02  # seconds: what a lossy codec may lose at its ends
# Frames without a count of them: what was cut off them cannot be known. In MP3 it can be within two frames, by its tag.
UNCLAIMED: Final = frozenset({".aac", ".mp3"})


def cut(data: bytearray, chance: random.Random, _: bytes) -> None:
    """Keep a part from the beginning on."""
    del data[chance.randrange(len(data)) :]


def hole(data: bytearray, chance: random.Random, _: bytes) -> None:
    """Take a part out of the middle."""
    start = chance.randrange(len(data))
    del data[start : start + chance.randint(1, 5000)]


def flip(data: bytearray, chance: random.Random, _: bytes) -> None:
    """Flip some bits anywhere."""
    for _number in range(chance.choice([1, 1, 10, 1000])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def head(data: bytearray, chance: random.Random, _: bytes) -> None:
    """Overwrite bytes of the header, where lengths, rates and sizes stand, with what breaks parsers."""
    for _number in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(data), 120))
        value = chance.choice([b"\0", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80"])
        data[at : at + len(value)] = value


def noise(data: bytearray, chance: random.Random, _: bytes) -> None:
    """Overwrite a part with random bytes."""
    at = chance.randrange(len(data))
    length = min(len(data) - at, chance.randint(1, 2000))
    data[at : at + length] = chance.randbytes(length)


def repeat(data: bytearray, chance: random.Random, _: bytes) -> None:
    """Say a part twice."""
    at = chance.randrange(len(data))
    data[at:at] = data[at : at + chance.randint(1, 5000)]


def graft(data: bytearray, chance: random.Random, other: bytes) -> None:
    """Go on as another file does."""
    at = chance.randrange(len(data))
    data[at:] = other[chance.randrange(max(1, len(other))) :]


Mutation = Callable[[bytearray, random.Random, bytes], None]
MUTATIONS: Final[tuple[Mutation, ...]] = (cut, hole, flip, head, noise, repeat, graft)


@dataclass(frozen=True)
class Mutant:
    """A file made from another. `lost`: a part of the sound is certainly gone."""

    name: str
    parent: Path
    content: bytes
    mutation: str

    @property
    def lost(self) -> bool:
        """Whether bytes were taken away and none put in their place."""
        return self.mutation in ("cut", "hole")


@dataclass
class Outcome:
    """What became of the mutants."""

    files: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    decoder_failed: list[str] = field(default_factory=list)
    shortened: list[str] = field(default_factory=list)


def recordings(speech: Path) -> list[Path]:
    """What is mutated: every kind of file, broken ones too, and no more than two of a kind elsewhere."""
    several = [*sorted((speech / "librispeech").rglob("*.flac"))[:2], *sorted((speech / "digits").rglob("*.wav"))[:2]]
    folders = ("formats", "broken", "longform", "librispeech_misc")
    files = [path for name in folders for path in sorted((speech / name).iterdir()) if path.suffix != ".jsonl"]
    return [path for path in [*files, *several] if path.stat().st_size]


def mutants(files: list[Path], number: int, seed: int) -> Iterator[Mutant]:
    """So many mutants, the same for the same seed: kinds of files and of mutations take turns."""
    chance = random.Random(seed)
    contents = {path: path.read_bytes() for path in files}
    for count in range(number):
        parent = files[count % len(files)]
        mutation = MUTATIONS[count // len(files) % len(MUTATIONS)]
        content = bytearray(contents[parent])
        mutation(content, chance, contents[chance.choice(files)])
        yield Mutant(f"{count:06d}{parent.suffix}", parent, bytes(content), mutation.__name__)


def run(files: list[Path], number: int, seed: int, workers: int) -> Outcome:
    """Prepare mutants of `files`, some hundred at once, and look at what was kept.

    Raises AssertionError where a mutant is neither kept nor rejected for a documented reason, or where what was kept
    is not finite or not as long as it says.
    """
    whole = _seconds(files, workers)
    outcome = Outcome()
    waiting = mutants(files, number, seed)
    while some := list(itertools.islice(waiting, _AT_ONCE)):
        with tempfile.TemporaryDirectory() as folder:
            for mutant in some:
                (Path(folder) / mutant.name).write_bytes(mutant.content)
            kept, reasons = _prepared(Path(folder), [mutant.name for mutant in some], workers)
        for mutant in some:
            outcome.files += 1
            told = f"seed {seed}, {mutant.name}: {mutant.mutation} of {mutant.parent.name}"
            if mutant.name in reasons:
                assert mutant.name not in kept, told
                assert reasons[mutant.name] in REASONS, told
                outcome.rejected[reasons[mutant.name]] += 1
                if reasons[mutant.name] == "decoder_failed":
                    outcome.decoder_failed.append(told)
                continue
            outcome.kept[mutant.mutation] += 1
            seconds, before = kept[mutant.name], whole.get(mutant.parent)
            claimed = mutant.lost and mutant.parent.suffix not in UNCLAIMED
            if claimed and before is not None and seconds < before - _SLACK:
                outcome.shortened.append(f"{told}, {seconds:.3f} s of {before:.3f} s")
    return outcome


def _seconds(files: list[Path], workers: int) -> dict[Path, float]:
    """How long the recordings are that are kept when nothing was done to them."""
    with tempfile.TemporaryDirectory() as folder:
        names = {f"{count:06d}{path.suffix}": path for count, path in enumerate(files)}
        for name, path in names.items():
            (Path(folder) / name).write_bytes(path.read_bytes())
        kept, _ = _prepared(Path(folder), list(names), workers)
    return {names[name]: seconds for name, seconds in kept.items()}


def _prepared(folder: Path, names: list[str], workers: int) -> tuple[dict[str, float], dict[str, str]]:
    """The seconds of the files that `prep` keeps, and the reasons for the others, by name."""
    rows = [json.dumps({"id": name, "audio": name, "text": "one"}) for name in names]
    (folder / "manifest.jsonl").write_text("\n".join(rows))
    settings = PrepSettings(workers=workers, timeout_seconds=20.0, rows_per_shard=32)
    prep(str(folder / "manifest.jsonl"), folder / "out", settings)
    data = shards.open_shards(folder / "out")
    kept = {}
    for row in (row for record in data.records for rows in data.groups(record) for row in rows):
        assert np.isfinite(row.features).all(), row.id
        assert 0 < row.num_frames <= data.clip_frames, row.id
        kept[row.id] = row.duration_s
    lines = (folder / "out" / "rejected.jsonl").read_text().splitlines()
    reasons = {line["id"]: line["reason"] for line in map(json.loads, lines)}
    assert sorted([*kept, *reasons]) == sorted(names)
    return kept, reasons


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    words = parser.parse_args()
    started = time.monotonic()
    outcome = run(recordings(words.speech), words.files, words.seed, words.workers)
    told: dict[str, Any] = {
        "files": outcome.files,
        "kept": dict(outcome.kept),
        "rejected": dict(outcome.rejected.most_common()),
        "decoder_failed": outcome.decoder_failed,
        "shortened": outcome.shortened,
        "peak_worker_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10,
        "seconds": round(time.monotonic() - started, 1),
    }
    json.dump(told, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
