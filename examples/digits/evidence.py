"""What README.md beside this file tells, from recordings to its tables: python evidence.py --speech FOLDER --out OUT.

Each step is a command of audiorl, shown as a user would type it. Killed and run again, it goes on from where it was.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import check
import recordings
import typer

from audiorl_cli.cli import app
from audiorl_cli.evaluate import report
from audiorl_cli.evaluate.metrics import summarise
from audiorl_cli.evaluate.report import Report

HERE: Final = Path(__file__).resolve().parent
# By seed: the speaker of the test, and the one that decides when to stop. The other three are learnt from.
SPEAKERS: Final = ("george", "jackson", "lucas", "nicolas", "theo")
SECONDS: Final = 117.0  # of every arm
# What a step of each takes, in seconds: medians of 12 steps on one core of a 2.5 GHz Xeon that did nothing else. Fixed,
# so that no machine's moods decide how long an arm learns.
EACH: Final = {"supervised": 1.05, "grpo": 0.39, "dr_grpo": 0.39, "dapo": 0.80, "gspo": 0.54}
ROUNDS: Final = 3  # of self-training, transcribed anew before each
CLEAN: Final[Mapping[str, Sequence[str]]] = {
    "grpo": ('loss.kind="grpo"',),
    "dr_grpo": ('loss.kind="dr_grpo"',),
    "dapo": ('loss.kind="dapo"', "loss.beta=0.0", "loss.epsilon_high=0.28", "loss.iterations=2", "rollout.rounds=3"),
    "gspo": ('loss.kind="gspo"', "loss.beta=0.0", "loss.epsilon=3e-4", "loss.epsilon_high=4e-4", "loss.iterations=2"),
}
NOISE: Final[Mapping[str, Sequence[str]]] = {
    "grpo": (),
    "grpo, penalties": ("reward.weights={wer = 1.0, insertion = 1.0, hallucination = 1.0}",),
}


def audiorl(*words: str | Path, leaves: Path) -> None:
    """One command of the CLI, unless what it `leaves` is there."""
    typed = [str(word) for word in words]
    if not leaves.exists():
        print(f"\n$ {shlex.join(('audiorl', *typed))}", flush=True)
        code = app(typed, standalone_mode=False)
        if code or not leaves.exists():
            raise SystemExit(code or "Stopped. The same command goes on from there.")


class Seed:
    """One seed: its speakers, its folder, and what is learnt in it. The arms start from the best supervised step."""

    def __init__(self, number: int, speech: Path, out: Path) -> None:
        self.number, self.speech, self.out = number, speech, out / f"seed{number}"
        self.test, self.validation = (SPEAKERS[(number + place) % len(SPEAKERS)] for place in (0, 1))
        self.train = [one for one in SPEAKERS if one not in (self.test, self.validation)]

    def shards(self) -> None:
        """Every part of the data, as shards."""
        source, each = self.out / "speech", {}
        if not (self.out / "shards").exists():
            sizes = (("train", self.train, 2400, None), ("validation", [self.validation], 120, None))
            halves = (("test", [self.test], 300, 0), ("other-half", [self.test], 600, 1))
            for name, speakers, count, half in (*sizes, *halves):
                folder = source / name
                each[name] = list(recordings.sequences(self.speech, folder, speakers, count, self.number, half))
                recordings.write(folder, recordings.checked(each[name]) if half == 1 else each[name])
            for name, count in (("train", 2400), ("validation", 40), ("test", 100)):
                part, rows = source / f"{name}-noise", each[name][:count]
                made = recordings.noisy(source / name, rows, part, self.number, each=name != "train")
                recordings.write(part, made)
        for name in ("train", "validation", "test", "other-half", "train-noise", "validation-noise", "test-noise"):
            self.prepare(source / name)

    def prepare(self, source: Path) -> Path:
        """The shards of the recordings in `source`."""
        shards = self.out / "shards" / source.name
        audiorl("prep", source, "--out", shards, "--clip-seconds", "3", leaves=shards / "manifest.json")
        return shards

    def start(self) -> None:
        """Supervision until held-out WER improves no more."""
        self._run("warmstart", "start", "train", "tiny", [f"seed={self.number}"], "validation")

    def supervised(self, name: str, data: str, model: str, share: float = 1.0, *, held: str | None = None) -> None:
        """A run of supervision for a `share` of the time, from the run `model`."""
        steps = round(share * SECONDS / EACH["supervised"])
        sets = (f"seed={self.number}", f"warmstart.steps={steps}", "validation.patience=0")
        self._run("warmstart", name, data, self.out / "runs" / model, sets, held)

    def reinforced(
        self, name: str, data: str, sets: Sequence[str], *, kind: str = "grpo", held: str | None = None
    ) -> None:
        """A run of reinforcement from the start, its steps as long as those of `kind`."""
        fixed = (f"seed={self.number}", f"train.steps={round(SECONDS / EACH[kind])}", "validation.patience=0")
        self._run("train", name, data, self.out / "runs" / "start", [*fixed, *sets], held)

    def _run(self, kind: str, name: str, data: str, model: str | Path, sets: Sequence[str], held: str | None) -> None:
        run, shards = self.out / "runs" / name, self.out / "shards"
        options = [word for one in sets for word in ("--set", one)]
        options += ["--validation", str(shards / held)] if held else []
        config = ("--config", str(HERE / "digits.toml"))
        words = (kind, *config, *options, "--data", shards / data, "--model", model, "--out", run)
        audiorl(*words, leaves=run / "model")

    def scored(self, name: str, test: str) -> Report:
        """The report of a run on the test speaker."""
        out = self.out / "reports" / test / name
        by = ("--by", "condition") if test == "test-noise" else ()
        data = self.out / "shards" / test
        audiorl("eval", self.out / "runs" / name, "--data", data, "--out", out, *by, leaves=out / "metrics.json")
        return report.read(out)

    def clean(self) -> None:
        """From the best supervised step: reinforcement of four kinds, and as much more supervision."""
        self.start()
        for name, sets in CLEAN.items():
            self.reinforced(name, "train", sets, kind=name, held="validation")
        self.supervised("supervised", "train", "start", held="validation")

    def noise(self) -> None:
        """The same start in noise and silence."""
        for name, sets in NOISE.items():
            self.reinforced(f"noise, {name}", "train-noise", sets, held="validation-noise")
        self.supervised("noise, supervised", "train-noise", "start", held="validation-noise")

    def wordless(self) -> None:
        """The same start with recordings of the test speaker that come without words, but with a sum to check."""
        self.reinforced("check, grpo", "other-half", ('reward.weights={"check:agrees" = 1.0}',))
        model = "start"
        self.supervised("check, self-training", self._passed(model), model)
        for number in range(1, ROUNDS + 1):
            name = f"check, self-training, round {number} of {ROUNDS}"
            self.supervised(name, self._passed(model), model, 1 / ROUNDS)
            model = name

    def _passed(self, model: str) -> str:
        """Shards of those transcripts of a run that pass the check: what supervision can make of it."""
        source = self.out / "speech" / "other-half"
        heard = {one.id: one for one in self.scored(model, "other-half").utterances}
        rows = [json.loads(line) for line in (source / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
        passed = source.with_name(f"passed by {model}")
        passed.mkdir(exist_ok=True)
        kept = [
            row | {"text": text, "audio": str((source / row["audio"]).resolve())}
            for row in rows
            if check.agrees(text := heard[row["id"]].hypothesis, row["count"], row["total"])
        ]
        recordings.write(passed, kept)
        return self.prepare(passed).name


def pooled(reports: Sequence[Report]) -> Report:
    """The utterances of all seeds as one report."""
    utterances = [one for each in reports for one in each.utterances]
    seconds = sum(each.metrics.seconds for each in reports)
    first = reports[0].metrics
    found = summarise(utterances, first.conditions, seconds, first.bootstrap)
    return Report(found.metrics, found.utterances)


def table(seeds: Sequence[Seed], names: Sequence[str], test: str, condition: str | None = None) -> list[list[str]]:
    """A line a run: WER of each seed, of all with its interval, and how it compares with the start; what was put in."""
    lines, start = [], None
    for name in names:
        reports = [_of(seed.scored(name, test), condition) for seed in seeds]
        whole = pooled(reports)
        start = start or whole
        lines.append([name, *_figures(whole, start, reports)])
    return lines


def _of(found: Report, condition: str | None) -> Report:
    if condition is None:
        return found
    kept = [one for one in found.utterances if one.columns["condition"] == condition]
    again = summarise(kept, found.metrics.conditions, found.metrics.seconds, found.metrics.bootstrap)
    return Report(again.metrics, again.utterances)


def _figures(whole: Report, start: Report, reports: Sequence[Report]) -> list[str]:
    from audiorl_cli.evaluate.comparison import compare

    metrics, silent = whole.metrics, whole.metrics.hallucinations
    if silent.silent == metrics.rows:
        heard = [each.metrics.hallucinations.on_silence for each in reports]
        return [*map(str, heard), f"{silent.on_silence} of {silent.silent}", "", ""]
    words = metrics.reference_words
    interval = metrics.intervals.wer if metrics.intervals else None
    change = compare(whole, start)
    chance = change.wer_difference_interval
    return [
        *(f"{each.metrics.wer:.1%}" for each in reports),
        f"{metrics.wer:.1%}" + (f" ({interval.low:.1%} to {interval.high:.1%})" if interval else ""),
        f"{chance.low:+.1%} to {chance.high:+.1%}" if chance and whole is not start else "",
        f"{metrics.substitutions / words:.1%}, {metrics.insertions / words:.1%}, {metrics.deletions / words:.1%}",
    ]


def show(title: str, seeds: Sequence[Seed], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    heads = ["", *(f"seed {seed.number}" for seed in seeds), "all (95 %)", "against start", "S, I, D"]
    rows = [heads, ["---"] * len(heads), *lines]
    return f"\n{title}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(
    speech: Annotated[Path, typer.Option(help="Recorded single digits: manifest.jsonl with audio, text, speaker.")],
    out: Annotated[Path, typer.Option(help="Folder for everything; an unfinished one is taken up again.")],
    seeds: Annotated[str, typer.Option(help="Which of 0 to 4.")] = "0,1,2",
) -> None:
    """Everything that README.md tells, from the recordings to its tables."""
    each = [Seed(int(number), speech, out) for number in seeds.split(",")]
    for seed in each:
        seed.shards()
        seed.clean()
        seed.noise()
        seed.wordless()
    tables = [show("Test WER, clean", each, table(each, ["start", "supervised", *CLEAN], "test"))]
    noisy = ["start", "noise, supervised", *(f"noise, {name}" for name in NOISE)]
    for condition in (recordings.CLEAN, *(f"{snr:g} dB" for snr in recordings.SNRS)):
        tables.append(show(f"Test WER, {condition}", each, table(each, noisy, "test-noise", condition)))
    silent = table(each, noisy, "test-noise", recordings.NOTHING)
    tables.append(show(f"Transcripts that have words, {recordings.NOTHING}", each, silent))
    last = f"check, self-training, round {ROUNDS} of {ROUNDS}"
    checked = ["start", "supervised", "check, self-training", last, "check, grpo"]
    tables.append(show("Test WER, the speaker's other half without words", each, table(each, checked, "test")))
    (out / "tables.md").write_text("\n".join(tables) + "\n", encoding="utf-8")
    print("\n".join(tables))


if __name__ == "__main__":
    typer.run(main)
