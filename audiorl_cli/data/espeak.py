"""espeak-ng through ctypes: sentences -> WAV files. Run as a process of its own, with a plan on its standard input.

The library keeps its state between calls, so that the same sentence sounds a little different the second time. A fresh
process that makes the same calls in the same order repeats itself to the bit: hence the process, and the fixed order.
"""

import ctypes
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
from jaxtyping import Int16

from audiorl_cli.data.workers import module_command, module_environment
from audiorl_cli.errors import DataError, InstallError

# speak_lib.h of espeak-ng 1.52
_SYNCHRONOUS: Final = 2
_RATE, _PITCH = 1, 3
_POSITION_CHARACTER: Final = 1
_UTF8: Final = 1
_QUIET: Final = 16  # of 32768: what lies below at either end is silence
_SEED: Final = 1  # 0 would mean the clock
_MARGIN_SECONDS: Final = 0.05  # of silence left at either end


@dataclass(frozen=True)
class Sentence:
    """`voice`: a language and a variant, "en-us+f2". `words_per_minute`; `pitch` 0 to 99. `file`: the WAV to write."""

    text: str
    voice: str
    words_per_minute: int
    pitch: int
    file: str


def speak(sentences: Sequence[Sentence], folder: Path) -> list[float]:
    """Write each sentence to its file in `folder`, in order, in a fresh process; returns their seconds.

    Raises DataError for an unknown voice, InstallError where espeak-ng cannot be used.
    """
    plan = json.dumps([asdict(sentence) for sentence in sentences])
    done = subprocess.run(
        module_command("audiorl_cli.data.espeak", str(folder.resolve())),
        input=plan,
        capture_output=True,
        text=True,
        env=module_environment(),
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise InstallError(
            "espeak-ng",
            expected="to speak",
            got=lines[-1] if lines else f"exit code {done.returncode}",
            fix="Install espeakng-loader again.",
        )
    return [float(length) for length in json.loads(done.stdout)]


def check_voices(voices: Sequence[str]) -> None:
    """Raise DataError for a voice whose variant espeak-ng lacks; it would take another one without a word."""
    import espeakng_loader

    known = {path.name for path in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()}
    for voice in voices:
        variant = voice.partition("+")[2]
        if variant and variant not in known:
            raise DataError(
                f"voice {voice}", expected=f"one of {', '.join(sorted(known))}", got=variant, fix="Choose another."
            )


class _Espeak:
    """The library, initialised once a process."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self.rate <= 0:
            raise OSError("espeak-ng does not find its data")
        self._blocks: list[Int16[np.ndarray, " samples"]] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._receive)  # the library keeps the pointer: so must we
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(_SEED))  # breathy voices are noise, seeded by the clock else

    def _receive(self, samples: Any, count: int, _events: int) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def say(self, sentence: Sentence) -> Int16[np.ndarray, " samples"]:
        """The samples of one sentence, silence at the ends trimmed."""
        self._blocks = []
        text = sentence.text.encode()
        if self._library.espeak_SetVoiceByName(sentence.voice.encode()):
            raise OSError(f"espeak-ng has no voice {sentence.voice}")
        self._library.espeak_SetParameter(_RATE, sentence.words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, sentence.pitch, 0)
        self._library.espeak_Synth(text, len(text) + 1, 0, _POSITION_CHARACTER, 0, _UTF8, None, None)
        samples: Int16[np.ndarray, " samples"] = np.concatenate(self._blocks)
        loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > _QUIET)
        margin = round(_MARGIN_SECONDS * self.rate)
        first, last = int(loud[0]), int(loud[-1])
        return samples[max(0, first - margin) : last + margin]


def _main(folder: Path) -> None:
    espeak = _Espeak()
    lengths = []
    for entry in json.load(sys.stdin):
        sentence = Sentence(**entry)
        samples = espeak.say(sentence)
        soundfile.write(folder / sentence.file, samples, espeak.rate, subtype="PCM_16")
        lengths.append(len(samples) / espeak.rate)
    sys.stdout.write(json.dumps(lengths))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
