"""The whole line on spoken digits: speech, shards, checks, a warm start, GRPO, and scores before and after.

Each step is a command of the CLI, shown as a user would type it; nothing happens here that a user could not do.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from audiorl_cli import config as configs
from audiorl_cli.config import RunConfig
from audiorl_cli.data.lock import lock_folder
from audiorl_cli.data.shards import write_whole
from audiorl_cli.data.speech import Speech, SpeechSettings, digit_sequences, synthesise
from audiorl_cli.errors import ConfigError

CLIP_SECONDS = 3.0


@dataclass(frozen=True)
class Step:
    """One command of the line: why it is run, and its words after `audiorl`."""

    why: str
    words: tuple[str, ...]

    @property
    def line(self) -> str:
        """The command as a user would type it."""
        return shlex.join(("audiorl", *self.words))


def settings(seed: int, *, recorded: bool = False, quick: bool = False) -> RunConfig:
    """The demo's config: `demo.toml` of this package with `seed`; `quick` cuts it to a few steps.

    `recorded`: supervision ends sooner. Once a model knows its four speakers well, GRPO has little left to gain on the
    fifth.
    """
    overrides = [f"seed={seed}"]
    if recorded:
        overrides += ["warmstart.stop_accuracy=0.8"]
    if quick:
        overrides += ["warmstart.steps=4", "train.steps=2", "train.batch_size=4", "rollout.group_size=2"]
        overrides += ["optimizer.warmup_steps=0"]
    with resources.as_file(resources.files("audiorl_cli") / "demo.toml") as path:
        return configs.load(path, overrides)


def steps(out: Path) -> list[Step]:
    """The commands, in order, on speech in `out/speech` and the config in `out/demo.toml`."""

    def prep(part: str) -> tuple[str, ...]:
        speech, shards = out / "speech" / part, out / "shards" / part
        return "prep", str(speech), "--out", str(shards), "--clip-seconds", f"{CLIP_SECONDS:g}"

    config = ("--config", str(out / "demo.toml"))
    train, heldout = (("--data", str(out / "shards" / part)) for part in ("train", "heldout"))
    before, after = str(out / "reports" / "warmstart"), str(out / "reports" / "run")
    start, run = str(out / "warmstart"), str(out / "run")
    return [
        Step("Recordings to log-mel shards: the speakers to learn from.", prep("train")),
        Step("The speakers that no training ever hears.", prep("heldout")),
        Step("Proof that these shards reach the model whole.", ("check-batch", *config, *train, "--model", "tiny")),
        Step(
            "Reinforcement improves what sometimes succeeds; a random model never does. Supervised steps first, few "
            "enough that much is left to learn. (More of them would do better here than GRPO: it earns its cost where "
            "supervision has run out.)",
            ("warmstart", *config, *train, "--model", "tiny", "--out", start),
        ),
        Step("How well it hears unknown speakers now.", ("eval", start, *heldout, "--out", before)),
        Step(
            "GRPO: of each utterance a group of transcripts is sampled; those with fewer word errors than the group's "
            "mean become more likely.",
            ("train", *config, *train, "--model", start, "--out", run),
        ),
        Step("And afterwards.", ("eval", run, *heldout, "--out", after, "--baseline", before)),
    ]


def run(
    out: Path,
    speech: Path | None,
    *,
    seed: int,
    quick: bool,
    command: Callable[[Sequence[str]], int],
    say: Callable[[str], None],
) -> int:
    """Run the demo in `out`, on the recorded digits in `speech` or on synthetic ones; returns the last exit code.

    `command` runs one command of the CLI and returns its exit code: the first that is not 0 ends the demo. Run again,
    it goes on where it was. Raises ConfigError where `out` holds a demo of other settings,
    DataError where another command writes there.
    """
    with lock_folder(out):
        return _run(out, speech, seed=seed, quick=quick, command=command, say=say)


def _run(
    out: Path,
    speech: Path | None,
    *,
    seed: int,
    quick: bool,
    command: Callable[[Sequence[str]], int],
    say: Callable[[str], None],
) -> int:
    _write_config(out, settings(seed, recorded=speech is not None, quick=quick))
    rows = (48, 8) if quick else (2400 if speech else 1200, 100)
    make = SpeechSettings(train=rows[0], heldout=rows[1], seed=seed)
    if not all((out / "speech" / part / "manifest.jsonl").exists() for part in ("train", "heldout")):
        made = digit_sequences(speech, out / "speech", make) if speech else synthesise(out / "speech", make)
        say(_spoken(made, speech))
    for step in steps(out):
        say(f"\n{step.why}\n$ {step.line}")
        code = command(step.words)
        if code:
            return code
    say(f"\nAll of it is in {out}: speech, shards, warmstart, run, reports.")
    return 0


def _write_config(out: Path, config: RunConfig) -> None:
    path, text = out / "demo.toml", configs.dump(config)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(
            str(path), expected="the settings of this demo", got="others", fix="Choose another --out, or remove it."
        )
    write_whole(path, text.encode())


def _spoken(made: Speech, speech: Path | None) -> str:
    kind = f"joined from the recordings in {speech}" if speech else "spoken by espeak-ng"
    parts = (made.train, made.heldout)
    sizes = [f"{p.utterances} utterances of {len(p.speakers)} speakers ({p.seconds / 60:.1f} min)" for p in parts]
    return f"Sequences of digits {kind}: {sizes[0]} to learn from; held out {sizes[1]}."
