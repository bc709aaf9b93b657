"""Spoken digits for evidence.py: sequences of a speaker's recordings, with noise at a stated ratio, without words."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float64

from audiorl_cli.data.speech import DIGITS, SpeechSettings, joined

CLEAN, NOTHING = "clean", "noise alone"
SNRS = (10, 0, -5)  # dB
WORST, QUIETEST, LOUDEST = -5.0, 0.01, 0.1  # dB; of full scale, root mean square


def sequences(
    speech: Path, out: Path, speakers: Sequence[str], count: int, seed: int, half: int | None = None
) -> Iterator[dict[str, Any]]:
    """The manifest rows of `count` digit sequences in `out`; `half` 0 or 1: of every second take alone.

    Those of several speakers are to learn from, and are varied in speed.
    """
    view = out / "view"
    view.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (speech / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    takes: dict[tuple[str, str], int] = {}
    kept = []
    for row in rows:
        key = row["speaker"], row["text"]
        takes[key] = takes.get(key, -1) + 1
        if half is None or takes[key] % 2 == half:
            kept.append(row | {"audio": str((speech / row["audio"]).resolve())})
    write(view, kept)
    part = joined(view, out, speakers, count, SpeechSettings(seed=seed), varied=len(speakers) > 1)
    for line in (part.folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def noisy(folder: Path, rows: Sequence[dict[str, Any]], out: Path, seed: int, each: bool) -> list[dict[str, Any]]:
    """`rows` in white noise, and noise alone: rows with a column `condition`.

    `each`: every row once in each condition, to test on. Else each once, at a ratio from -5 to 20 dB, and a row of
    noise alone for every five, to learn from.
    """
    chance, made = np.random.default_rng(seed), []
    (out / "audio").mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        samples, rate = soundfile.read(folder / row["audio"])
        for snr in (None, *SNRS) if each else (chance.uniform(WORST, 20),):
            name = CLEAN if snr is None else f"{snr:g} dB" if each else "noise"
            heard = samples if snr is None else _with_noise(samples, snr, chance)
            made.append(_written(out, f"{row['id']}-{name.replace(' ', '')}", row, heard, rate, row["text"], name))
        if each or number % 5 == 0:
            alone = chance.standard_normal(len(samples)) * chance.uniform(QUIETEST, LOUDEST)
            made.append(_written(out, f"{row['id']}-nothing", row, alone, rate, "", NOTHING))
    return made


def checked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`rows` without their words: of the digits said, only how many there are and their sum."""
    return [
        row | {"text": "", "count": len(row["text"].split()), "total": sum(map(DIGITS.index, row["text"].split()))}
        for row in rows
    ]


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows as the manifest of `folder`."""
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "manifest.jsonl").write_text(lines, encoding="utf-8")


def _with_noise(
    samples: Float64[np.ndarray, " n"], snr: float, chance: np.random.Generator
) -> Float64[np.ndarray, " n"]:
    """`samples` and white noise, their mean powers 10^(`snr` / 10) apart, as loud together as the samples were."""
    noise = chance.standard_normal(len(samples))
    noise *= np.sqrt(np.mean(samples**2) / np.mean(noise**2) / 10 ** (snr / 10))
    mixed = samples + noise
    level: Float64[np.ndarray, " n"] = mixed * np.max(np.abs(samples)) / np.max(np.abs(mixed))
    return level


def _written(
    out: Path, name: str, row: dict[str, Any], samples: Float64[np.ndarray, " n"], rate: int, text: str, condition: str
) -> dict[str, Any]:
    soundfile.write(out / "audio" / f"{name}.wav", samples, rate, subtype="PCM_16")
    return row | {"id": name, "audio": f"audio/{name}.wav", "text": text, "condition": condition}
