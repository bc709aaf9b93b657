"""Spoken digit sequences for the demo: synthesised by espeak-ng, or joined from recordings of single digits.

Both leave two folders, `train` and `heldout`, each a source for prep (WAV files and a `manifest.jsonl`); no voice is in
both. The same settings give the same bytes.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
import soxr
from jaxtyping import Int16

from audiorl_cli.data.espeak import Sentence, check_voices, speak
from audiorl_cli.data.shards import write_whole
from audiorl_cli.errors import DataError, UsageError

DIGITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES: Final = (
    *("en-us+m1", "en-us+f1", "en+m2", "en+f2", "en-us+m3", "en-us+f3", "en+m4", "en+f4"),
    *("en-us+m5", "en-us+f5", "en+m6", "en-us+m8"),
)
HELDOUT_VOICES: Final = ("en-us+m7", "en+f5")
_PAUSE_SECONDS: Final = (0.04, 0.12)  # between joined recordings
_PEAK: Final = 0.7  # of full scale: recordings are of all levels, and log-mel features would tell them apart by it
_SPEEDS: Final = (0.9, 1.1)  # of the recordings to learn from: a few speakers would teach their own pitch
_RATES: Final = (120, 165)  # words a minute
_PITCHES: Final = (35, 65)


@dataclass(frozen=True)
class SpeechSettings:
    """How many utterances, of how many digits each, none longer than `max_seconds`. Raises UsageError out of bounds.

    `heldout_speaker`: of recordings, the one kept apart; the last by name where None. Synthesis has its own list.
    """

    train: int = 1200
    heldout: int = 100
    digits: tuple[int, int] = (2, 4)
    max_seconds: float = 3.0
    seed: int = 0
    heldout_speaker: str | None = None

    def __post_init__(self) -> None:
        low, high = self.digits
        if self.train < 1 or self.heldout < 1 or not 1 <= low <= high:
            raise UsageError(
                "speech",
                expected="at least one utterance in each part, and 1 <= fewest digits <= most digits",
                got=f"{self.train}, {self.heldout}, {low} to {high} digits",
                fix="Correct the settings.",
            )


@dataclass(frozen=True)
class Part:
    """A folder with `manifest.jsonl` and its WAV files. `seconds`: of all its utterances."""

    folder: Path
    utterances: int
    seconds: float
    speakers: tuple[str, ...]


@dataclass(frozen=True)
class Speech:
    """What was made: two parts without a speaker in common."""

    train: Part
    heldout: Part


def synthesise(out: Path, settings: SpeechSettings | None = None) -> Speech:
    """Digit sequences spoken by espeak-ng: twelve voices in `out/train`, two others in `out/heldout`.

    Raises DataError where a sequence is longer than `max_seconds`, InstallError where espeak-ng cannot be used.
    """
    settings = settings or SpeechSettings()
    check_voices([*VOICES, *HELDOUT_VOICES])
    return Speech(
        _synthesised(out / "train", VOICES, settings.train, settings),
        _synthesised(out / "heldout", HELDOUT_VOICES, settings.heldout, settings),
    )


def digit_sequences(speech: Path, out: Path, settings: SpeechSettings | None = None) -> Speech:
    """Digit sequences joined from the single digits in `speech` (a `manifest.jsonl` with audio, text and speaker).

    A sequence has one speaker. Every recording that leaves room for a second one is used, each about as often as the
    others. All are brought to one level; those to learn from are played faster or slower, which changes their pitch as
    well. Raises DataError for a folder without such recordings, or with fewer than two speakers.
    """
    settings = settings or SpeechSettings()
    recordings = _recordings(speech, settings.max_seconds * _SPEEDS[0] / settings.digits[0])
    speakers = sorted(recordings)
    heldout = speakers[-1] if settings.heldout_speaker is None and speakers else settings.heldout_speaker
    if len(speakers) < 2 or heldout not in speakers:
        raise DataError(
            str(speech),
            expected=f"recordings of single digits by {heldout or 'two speakers'} and at least one other",
            got=", ".join(speakers) or "none",
            fix="Check --speech.",
        )
    others = [speaker for speaker in speakers if speaker != heldout]
    return Speech(
        _joined(out / "train", recordings, others, settings.train, settings, varied=True),
        _joined(out / "heldout", recordings, [heldout], settings.heldout, settings, varied=False),
    )


def joined(
    speech: Path, out: Path, speakers: Sequence[str], count: int, settings: SpeechSettings, *, varied: bool
) -> Part:
    """`count` sequences in `out`, of these speakers in turn, of the single digits in `speech`, as `digit_sequences` has
    them: `varied` as those to learn from are, faster or slower. Raises DataError for speakers that are not there.
    """
    recordings = _recordings(speech, settings.max_seconds * _SPEEDS[0] / settings.digits[0])
    if not recordings.keys() >= {*speakers}:
        got = ", ".join(sorted(recordings)) or "none"
        raise DataError(str(speech), expected=f"recordings by {', '.join(speakers)}", got=got, fix="Check --speech.")
    return _joined(out, recordings, speakers, count, settings, varied=varied)


def _synthesised(folder: Path, voices: Sequence[str], count: int, settings: SpeechSettings) -> Part:
    _make(folder / "audio")
    chance = random.Random(f"{settings.seed} {folder.name}")
    sentences = []
    for number in range(count):
        voice = voices[number % len(voices)]
        words = chance.choices(DIGITS, k=chance.randint(*settings.digits))
        name = f"{voice.replace('+', '-')}-{number:05d}"
        file = f"audio/{name}.wav"
        sentences.append(Sentence(" ".join(words), voice, chance.randint(*_RATES), chance.randint(*_PITCHES), file))
    lengths = speak(sentences, folder)
    for sentence, seconds in zip(sentences, lengths, strict=True):
        if seconds > settings.max_seconds:
            raise DataError(
                sentence.file,
                expected=f"at most {settings.max_seconds:g} s",
                got=f"{seconds:.2f} s for {sentence.text!r}",
                fix="Ask for fewer digits or a longer clip.",
            )
    rows = [_row(s.file, s.text, s.voice, seconds) for s, seconds in zip(sentences, lengths, strict=True)]
    return _finish(folder, rows)


@dataclass(frozen=True)
class _Recording:
    """One spoken digit, 16-bit."""

    text: str
    samples: Int16[np.ndarray, " samples"]
    rate: int
    license: str


def _recordings(speech: Path, longest: float) -> dict[str, list[_Recording]]:
    """Speaker -> recordings of up to `longest` seconds, in the order of the manifest."""
    found: dict[str, list[_Recording]] = {}
    manifest = speech / "manifest.jsonl"
    try:
        for line in manifest.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            samples, rate = soundfile.read(speech / row["audio"], dtype="int16", always_2d=True)
            if row["text"] in DIGITS and len(samples) / rate + _PAUSE_SECONDS[1] <= longest:
                recording = _Recording(row["text"], samples[:, 0], rate, row.get("license", ""))
                found.setdefault(row["speaker"], []).append(recording)
    except (OSError, ValueError, KeyError, TypeError, soundfile.LibsndfileError) as error:
        raise DataError(
            str(manifest), expected="audio, text and speaker of single digits", got=str(error), fix="Check --speech."
        ) from error
    return found


def _joined(
    folder: Path,
    recordings: Mapping[str, Sequence[_Recording]],
    speakers: Sequence[str],
    count: int,
    settings: SpeechSettings,
    *,
    varied: bool,
) -> Part:
    _make(folder / "audio")
    chance = random.Random(f"{settings.seed} {folder.name}")
    decks: dict[str, list[_Recording]] = {speaker: [] for speaker in speakers}
    rows = []
    for number in range(count):
        speaker = speakers[number % len(speakers)]
        speed = chance.uniform(*_SPEEDS) if varied else 1.0
        chosen, samples = _sequence(decks[speaker], recordings[speaker], settings, chance, speed)
        samples = _at_peak(samples)
        file = f"audio/{speaker}-{number:05d}.wav"
        soundfile.write(folder / file, samples, chosen[0].rate, subtype="PCM_16")
        text = " ".join(recording.text for recording in chosen)
        rows.append(_row(file, text, speaker, len(samples) / chosen[0].rate, chosen[0].license))
    return _finish(folder, rows)


def _sequence(
    deck: list[_Recording],
    recordings: Sequence[_Recording],
    settings: SpeechSettings,
    chance: random.Random,
    speed: float,
) -> tuple[list[_Recording], Int16[np.ndarray, " samples"]]:
    """Recordings drawn from `deck`, a shuffled copy of `recordings` that is dealt out before it is shuffled again.

    Each is played `speed` times as fast.
    """
    wanted = chance.randint(*settings.digits)
    chosen: list[_Recording] = []
    pieces: list[Int16[np.ndarray, " samples"]] = []
    length = 0
    while len(chosen) < wanted:
        if not deck:
            deck.extend(recordings)
            chance.shuffle(deck)
        rate = deck[-1].rate
        pause = round(chance.uniform(*_PAUSE_SECONDS) * rate) if chosen else 0
        spoken = deck[-1].samples if speed == 1.0 else soxr.resample(deck[-1].samples, speed, 1.0)
        following = length + pause + len(spoken)
        if chosen and (following > settings.max_seconds * rate or rate != chosen[0].rate):
            break  # it opens the next sequence
        recording = deck.pop()
        chosen.append(recording)
        pieces += [np.zeros(pause, np.int16), spoken]
        length = following
    return chosen, np.concatenate(pieces)


def _at_peak(samples: Int16[np.ndarray, " samples"]) -> Int16[np.ndarray, " samples"]:
    """`samples`, the loudest of them `_PEAK` of full scale."""
    gain = _PEAK * np.iinfo(np.int16).max / max(1, int(np.abs(samples.astype(np.int32)).max()))
    scaled: Int16[np.ndarray, " samples"] = np.round(samples * gain).astype(np.int16)
    return scaled


def _row(file: str, text: str, speaker: str, seconds: float, license: str = "") -> dict[str, Any]:
    row = {"id": Path(file).stem, "audio": file, "text": text, "speaker": speaker, "duration": round(seconds, 4)}
    return row | ({"license": license} if license else {})


def _finish(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Part:
    write_whole(folder / "manifest.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    speakers = tuple(sorted({row["speaker"] for row in rows}))
    return Part(folder, len(rows), sum(row["duration"] for row in rows), speakers)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            str(folder), expected="a folder to write to", got=str(error.strerror), fix="Choose another --out."
        ) from error
