"""Text alone: a file of references and a file of hypotheses -> error rates."""

from dataclasses import dataclass
from pathlib import Path

from audiorl_cli.errors import DataError
from audiorl_cli.evaluate import transcript_files
from audiorl_cli.evaluate.bootstrap import BOOTSTRAP, Bootstrap
from audiorl_cli.evaluate.metrics import Rates, rates_of
from audiorl_cli.evaluate.transcript_files import HYPOTHESIS_FIELDS, REFERENCE_FIELDS, TranscriptFile
from audiorl_cli.evaluate.utterance import reading
from audiorl_cli.text import normaliser


@dataclass(frozen=True)
class Score(Rates):
    """The rates of a corpus, and the normaliser they were counted with; intervals are by utterance."""

    normaliser: str
    normaliser_version: int
    normaliser_digest: str


def score(
    references: list[str],
    hypotheses: list[str],
    normaliser_name: str = "none",
    replicates: int = BOOTSTRAP.replicates,
) -> Score:
    """Error rates of `hypotheses` against the reference at the same place, both normalised.

    Raises ValueError for lists of different lengths, ConfigError for an unknown normaliser.
    """
    normalise = normaliser(normaliser_name)
    readings = [reading(normalise, *pair) for pair in zip(references, hypotheses, strict=True)]
    return Score(
        **vars(rates_of(readings, Bootstrap(replicates))),
        normaliser=normalise.name,
        normaliser_version=normalise.version,
        normaliser_digest=normalise.digest,
    )


def score_files(
    references: Path,
    hypotheses: Path,
    normaliser_name: str = "none",
    replicates: int = BOOTSTRAP.replicates,
) -> Score:
    """Error rates of a file against another, utterances matched by id, plain lines by their number.

    Raises DataError for a file that cannot be read, one without a transcript, and an id missing from either.
    """
    expected = transcript_files.read(references, REFERENCE_FIELDS)
    found = transcript_files.read(hypotheses, HYPOTHESIS_FIELDS)
    if not expected.texts:
        raise DataError(str(references), expected="transcripts", got="none", fix="Give a file that holds some.")
    _check_same_ids(expected, found)
    texts = list(expected.texts.values()), [found.texts[one] for one in expected.texts]
    return score(*texts, normaliser_name, replicates)


def _check_same_ids(expected: TranscriptFile, found: TranscriptFile) -> None:
    if "plain lines" in (expected.kind, found.kind) and expected.kind != found.kind:
        raise DataError(
            str(found.path),
            expected=f"{expected.kind}, as {expected.path} holds",
            got=found.kind,
            fix="Give both files ids, or neither.",
        )
    missing = [one for one in expected.texts if one not in found.texts]
    if missing:
        raise DataError(
            f"{found.path}: {_named(found, missing[0])}",
            expected=f"one for each of the {len(expected.texts)} in {expected.path}",
            got=f"{len(missing)} missing",
            fix="Add it; the text may be empty.",
        )
    extra = [one for one in found.texts if one not in expected.texts]
    if extra:
        raise DataError(
            f"{found.path}: {_named(found, extra[0])}",
            expected=f"only what {expected.path} has ({len(expected.texts)})",
            got=f"{len(extra)} more",
            fix="Remove it, or add its reference.",
        )


def _named(file: TranscriptFile, identity: str) -> str:
    return f"line {identity}" if file.kind == "plain lines" else f"id {identity}"
