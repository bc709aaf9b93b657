"""What `audiorl check-batch --prove` finds with the weights: whether a model hears, and as transformers does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import jax
import numpy as np
from flax import nnx

from audiorl_cli.bridge import checkpoint as checkpoints
from audiorl_cli.bridge import reference
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.collate import OK, BatchReport, Finding, disagreements, drawn
from audiorl_cli.bridge.doctor import machine
from audiorl_cli.bridge.forward import Forward, Passed
from audiorl_cli.bridge.hearing import RESIDUE, Hearing, RowHearing, judged
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.rows import faults
from audiorl_cli.config import MeshConfig, PromptConfig
from audiorl_cli.data.mel import SILENCE
from audiorl_cli.data.shards import Row, Shards
from audiorl_cli.errors import DataError, ModelError

Output = Literal["logits", "audio tower"]
Other = Literal["transformers", "each clip alone"]

LIMITS: Final[dict[Output, float]] = {"logits": 1e-3, "audio tower": 1e-4}
"""Largest absolute differences that rounding explains in float32, on values of size one to thirty."""

_OURS: Final = "This is a fault of audiorl's that training would build on: report it with the model's config.json."
_STOCK: Final = "Stock EasyDeL drops audio: let audiorl patch it (leave out --unpatched)."
_WEIGHTS: Final = "transformers finds the same: the weights are at fault, above all those of audio_tower."


@dataclass(frozen=True)
class Agreement:
    """An output of the model against what it is with `other`, on all rows: the largest absolute difference.

    `worst`: the row it is in. The verdict is "ok" where it is within `limit`.
    """

    output: Output
    other: Other
    difference: float
    limit: float
    worst: str
    verdict: str


@dataclass(frozen=True)
class Proof:
    """What was found with the weights. `skipped`: why transformers was not asked; None where it was."""

    hearing: Hearing
    agreements: tuple[Agreement, ...]
    skipped: str | None


def proved(
    report: BatchReport,
    shards: Shards,
    described: Checkpoint,
    prompt_config: PromptConfig,
    *,
    rows: int = 4,
    seed: int = 0,
    mesh: MeshConfig | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> BatchReport:
    """`report` with the proof on `rows` rows, drawn as its batches are, and with what the proof finds.

    Loads the weights of `described` (see `checkpoint.abstract`) in float32. Where the model or one of those rows is at
    fault there is no proof, and the findings say how. Raises DataError for shards without two different transcripts;
    ModelError as `checkpoint.load` does, and for weights that do not give finite numbers.
    """
    prompter = Prompter(described.tokenizer, prompt_config)
    order = drawn(shards, seed)
    subjects = shards.read(order[:rows])
    others = [_other(shards, order[place + 1 :] + order[:place], row.text) for place, row in enumerate(subjects)]
    if not subjects:
        raise DataError(str(shards.folder), expected="rows to prove it on", got="none", fix="Run audiorl prep again.")
    found = [
        Finding(f"proof, {fault.item}", fault.expected, fault.got, fault.fix)
        for row in {row.id: row for row in (*subjects, *others)}.values()
        for fault in faults(row, shards.clip_frames, prompter, prompter.length(shards.clip_frames))
    ]
    if found or disagreements(described, prompter, shards.clip_frames):
        return replace(report, findings=(*report.findings, *found))
    on_stage("loading the weights")
    loaded = checkpoints.load(described.source, mesh=mesh)
    proof = prove(loaded, prompter, subjects, others, on_stage)
    found = findings(proof, loaded.source, patched=report.patched)
    return replace(report, proof=proof, findings=(*report.findings, *found))


def prove(
    loaded: Checkpoint,
    prompter: Prompter,
    rows: Sequence[Row],
    others: Sequence[Row],
    on_stage: Callable[[str], None] = lambda _: None,
) -> Proof:
    """The proof on `rows`, each of which has a row of another transcript in `others`."""
    forward = Forward(loaded, prompter, rows, [*rows, *others])
    on_stage("references under their own audio")
    own = forward(rows)
    on_stage("references under silence and under another's audio")
    silence = forward([replace(row, features=np.full_like(row.features, SILENCE)) for row in rows])
    another = forward(others)
    hearing = judged(list(_heard(rows, others, forward.counted, own, silence, another)))
    on_stage("each clip alone")
    tower = forward.vectors(own.input_features, own.feature_attention_mask)
    alone = [
        forward.vectors(own.input_features[place : place + 1], own.feature_attention_mask[place : place + 1])[0]
        for place in range(len(rows))
    ]
    agreements = [_agreement("audio tower", "each clip alone", rows, list(map(_apart, tower, alone)))]
    parameters = sum(int(leaf.size) for leaf in jax.tree.leaves(nnx.state(loaded.model, nnx.Param)))
    skipped = reference.lack(parameters, machine().free_bytes)
    if skipped is None:
        agreements = [*_parity(loaded, forward, own, tower, rows, on_stage), *agreements]
    return Proof(hearing, tuple(agreements), skipped)


def findings(proof: Proof, source: str, *, patched: bool) -> list[Finding]:
    """What in `proof` is at fault: a deaf model, outputs that do not agree. A model that is "not yet" is none."""
    found = []
    same = all(one.verdict == OK for one in proof.agreements) and proof.skipped is None
    if proof.hearing.verdict == "deaf":
        fix = _STOCK if not patched else _WEIGHTS if same else _OURS
        got = f"none that changes by {RESIDUE:g} nats between the audio and silence"
        found.append(Finding(f"{source}: hearing", "tokens more or less likely for the audio", got, fix))
    for one in proof.agreements:
        if one.verdict != OK:
            where = f"{source}: {one.output} against {one.other}, {one.worst}"
            found.append(
                Finding(where, f"within {one.limit:g}", f"{one.difference:.2g} apart", _OURS if patched else _STOCK)
            )
    return found


def _other(shards: Shards, order: Sequence[int], text: str) -> Row:
    """The first row of `order` with another transcript than `text`: of the same one the audio would be no other's."""
    for number in order:
        row = shards.read([number])[0]
        if row.text != text:
            return row
    raise DataError(
        str(shards.folder),
        expected="rows of two different transcripts",
        got=f"{text!r} alone",
        fix="Prove the model on more recordings.",
    )


def _heard(
    rows: Sequence[Row], others: Sequence[Row], counted: np.ndarray, own: Passed, silence: Passed, another: Passed
) -> Iterator[RowHearing]:
    for place, (row, other) in enumerate(zip(rows, others, strict=True)):
        tokens = counted[place].astype(bool)
        of_own, of_silence, of_another = (run.log_probs[place, tokens].astype(float) for run in (own, silence, another))
        yield RowHearing(
            id=row.id,
            other=other.id,
            tokens=int(tokens.sum()),
            own=_finite(row, of_own.mean()),
            silence=_finite(row, of_silence.mean()),
            another=_finite(row, of_another.mean()),
            change=_finite(row, np.abs(of_own - of_silence).max()),
        )


def _parity(
    loaded: Checkpoint,
    forward: Forward,
    own: Passed,
    tower: np.ndarray,
    rows: Sequence[Row],
    on_stage: Callable[[str], None],
) -> Iterator[Agreement]:
    """Logits of every token of prompt and reference, and the tower's vectors, against transformers'."""
    on_stage("transformers: loading the weights")
    with _folder(loaded) as folder:
        theirs = reference.load(folder)
    logits, vectors = [], []
    for place in range(len(rows)):
        on_stage(f"transformers: row {place + 1} of {len(rows)}")
        valid = own.attention_mask[place].astype(bool)
        audio = own.input_features[place], own.feature_attention_mask[place]
        logits.append(
            _apart(
                forward.logits(own.hidden[place])[valid],
                reference.logits(theirs, own.input_ids[place, valid], *audio),
            )
        )
        heard = reference.vectors(theirs, *audio)
        vectors.append(_apart(tower[place, : len(heard)], heard))
    yield _agreement("logits", "transformers", rows, logits)
    yield _agreement("audio tower", "transformers", rows, vectors)


@contextmanager
def _folder(loaded: Checkpoint) -> Iterator[Path]:
    """Where transformers can read the model: the folder it was loaded from, the built-in one written out."""
    folder = checkpoints.folder_of(loaded.source)
    if folder is not None:
        yield folder
        return
    with TemporaryDirectory() as temporary:
        checkpoints.save(loaded, Path(temporary) / loaded.source)
        yield Path(temporary) / loaded.source


def _agreement(output: Output, other: Other, rows: Sequence[Row], apart: Sequence[float]) -> Agreement:
    worst = int(np.argmax(apart))
    difference, limit = _finite(rows[worst], apart[worst]), LIMITS[output]
    return Agreement(output, other, difference, limit, rows[worst].id, OK if difference <= limit else "too far apart")


def _apart(one: Any, other: Any) -> float:
    return float(np.abs(one - other).max())


def _finite(row: Row, number: float) -> float:
    if not np.isfinite(number):
        raise ModelError(
            f"{row.id} through the model", expected="finite numbers", got=str(number), fix="Its weights are not sound."
        )
    return float(number)
