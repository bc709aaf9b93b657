"""Text alone: a file of references and a file of hypotheses -> error rates."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from audiorl_cli.data.utterance_ids import bare_id
from audiorl_cli.errors import DataError
from audiorl_cli.evaluate import transcript_files
from audiorl_cli.evaluate.bootstrap import BOOTSTRAP, Bootstrap
from audiorl_cli.evaluate.line_ids import first_words
from audiorl_cli.evaluate.metrics import Rates, rates_of
from audiorl_cli.evaluate.transcript_files import FileFormat, TranscriptFile
from audiorl_cli.evaluate.utterance import reading
from audiorl_cli.text import normaliser


@dataclass(frozen=True)
class Score(Rates):
    """The rates of a corpus, and the normaliser they were counted with; intervals are by utterance.

    `layouts`: what the files of references and of hypotheses were taken for, None where there were no files.
    """

    normaliser: str
    normaliser_version: int
    normaliser_digest: str
    layouts: tuple[str, str] | None = None


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
    format: FileFormat = "auto",
) -> Score:
    """Error rates of a file against another, utterances matched by id, plain lines by their number.

    Raises DataError for a file that cannot be read, one without a transcript, and an id missing from either.
    """
    expected, found = transcript_files.read_both(references, hypotheses, format)
    if not expected.texts:
        raise DataError(str(references), expected="transcripts", got="none", fix="Give a file that holds some.")
    if expected.field and (expected.path, expected.field) == (found.path, found.field):
        raise DataError(
            str(references),
            expected="a text of its own for each side",
            got=f"{expected.field} for both",
            fix="Name the recogniser's texts hypothesis or pred_text, or give another file.",
        )
    texts = _matched(expected, found)
    result = score([*expected.texts.values()], [texts[one] for one in expected.texts], normaliser_name, replicates)
    doubt = " (--format kaldi if the first words, all different and the same in both files, are ids)"
    return replace(result, layouts=(expected.layout, found.layout + doubt * _may_have_ids(expected, found)))


def _may_have_ids(expected: TranscriptFile, found: TranscriptFile) -> bool:
    """Return whether plain lines begin with words that could be ids for all that can be seen."""
    words, others = (first_words([*file.texts.values()]) for file in (expected, found))
    return expected.kind == "plain lines" and words == others and len(words) == len({*words}) > 1


def _matched(expected: TranscriptFile, found: TranscriptFile) -> dict[str, str]:
    """Return the texts of `found` by the ids of `expected`. Raises DataError where one has other ids."""
    if "plain lines" in (expected.kind, found.kind) and expected.kind != found.kind:
        raise DataError(
            str(found.path),
            expected=f"{expected.kind}, as {expected.path} holds",
            got=found.kind,
            fix="Give both files ids, or neither; --format names the layout where it was taken for another.",
        )
    texts = _renamed(expected, found)
    if found.kind == "ctm" and expected.texts.keys() & texts.keys():
        texts = {**dict.fromkeys(expected.texts, ""), **texts}  # nothing was recognised where a ctm has no words
    missing = [one for one in expected.texts if one not in texts]
    if missing:
        raise DataError(
            f"{found.path}: {_named(found, missing[0])}",
            expected=f"one for each of the {len(expected.texts)} in {expected.path}",
            got=f"{len(missing)} missing{_nearest(missing[0], texts)}",
            fix="Add it; the text may be empty.",
        )
    extra = [one for one in texts if one not in expected.texts]
    if extra:
        raise DataError(
            f"{found.path}: {_named(found, extra[0])}",
            expected=f"only what {expected.path} has ({len(expected.texts)})",
            got=f"{len(extra)} more",
            fix="Remove it, or add its reference.",
        )
    return texts


def _renamed(expected: TranscriptFile, found: TranscriptFile) -> dict[str, str]:
    """Return the texts of `found`, with ids as `expected` has them where folders and suffixes differ."""
    ours, theirs = ({bare_id(one): one for one in file.texts} for file in (expected, found))
    alike = len(ours) == len(expected.texts) and len(theirs) == len(found.texts)
    if not alike or len(ours.keys() & theirs.keys()) <= len(expected.texts.keys() & found.texts.keys()):
        return found.texts
    return {ours.get(bare, one): found.texts[one] for bare, one in theirs.items()}


def _nearest(missing: str, texts: Mapping[str, str]) -> str:
    near = next((one for one in texts if one.casefold() == missing.casefold()), None)
    return "" if near is None else f", though there is {near}"


def _named(file: TranscriptFile, identity: str) -> str:
    return f"line {identity}" if file.kind == "plain lines" else f"id {identity}"
