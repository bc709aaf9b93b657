"""One row of a report: what was said, what a model heard, and how the two are read against each other."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from audiorl_cli.evaluate.hallucination import Hallucination, hallucination
from audiorl_cli.text import Normaliser
from audiorl_cli.wer import Alignment, Chunk, ErrorCounts, align, count_characters


@dataclass(frozen=True)
class Reading:
    """A hypothesis read against its reference, both normalised, and what is counted; `_raw` is what was given, written.

    `wer` and the four counts before it are of words; characters are those that `Normaliser.characters` leaves.
    """

    reference: str
    hypothesis: str
    substitutions: int
    insertions: int
    deletions: int
    hits: int
    wer: float
    character_errors: int
    reference_characters: int
    reference_raw: str
    hypothesis_raw: str
    hallucination: Hallucination
    alignment: Alignment

    @property
    def words(self) -> ErrorCounts:
        """The word errors."""
        return ErrorCounts(self.substitutions, self.insertions, self.deletions, self.hits)


@dataclass(frozen=True)
class Utterance(Reading):
    """One row. `tokens` is the length of the completion. `columns` are those that prep kept from the source."""

    id: str
    speaker: str
    duration_s: float
    tokens: int
    at_token_limit: bool
    prompt: str
    columns: Mapping[str, Any]

    def json(self) -> dict[str, Any]:
        """The object of utterances.jsonl; a stretch of the alignment has its words joined by spaces.

        What JSON cannot write of the columns, numbers that are none and infinite ones, is there as text.
        """
        return {
            "id": self.id,
            **asdict(self),
            "columns": {name: _plain(value) for name, value in self.columns.items()},
            "alignment": [
                {"kind": one.kind, "reference": " ".join(one.reference), "hypothesis": " ".join(one.hypothesis)}
                for one in self.alignment.chunks
            ],
        }


def of_json(row: Mapping[str, Any]) -> Utterance:
    """The utterance that `Utterance.json` wrote. Raises KeyError, TypeError or AttributeError for any other object."""
    chunks = [
        Chunk(one["kind"], tuple(one["reference"].split()), tuple(one["hypothesis"].split()))
        for one in row["alignment"]
    ]
    nested = {"hallucination": Hallucination(**row["hallucination"]), "alignment": Alignment(tuple(chunks))}
    return Utterance(**{**row, **nested})


def reading(normalise: Normaliser, reference_raw: str, hypothesis_raw: str) -> Reading:
    """Both texts normalised, aligned and counted."""
    reference, hypothesis = normalise(reference_raw), normalise(hypothesis_raw)
    [alignment] = align([reference], [hypothesis])
    words = alignment.counts
    characters = count_characters(normalise.characters(reference), normalise.characters(hypothesis))
    return Reading(
        reference=reference,
        hypothesis=hypothesis,
        **asdict(words),
        wer=words.rate,
        character_errors=characters.errors,
        reference_characters=characters.reference_length,
        reference_raw=reference_raw,
        hypothesis_raw=hypothesis_raw,
        hallucination=hallucination(reference, hypothesis),
        alignment=alignment,
    )


def scored(
    normalise: Normaliser,
    *,
    id: str,
    speaker: str,
    duration_s: float,
    reference_raw: str,
    hypothesis_raw: str,
    tokens: int,
    at_token_limit: bool,
    prompt: str,
    columns: Mapping[str, Any],
) -> Utterance:
    """The utterance of a transcript, read against what was said."""
    return Utterance(
        **vars(reading(normalise, reference_raw, hypothesis_raw)),
        id=id,
        speaker=speaker,
        duration_s=duration_s,
        tokens=tokens,
        at_token_limit=at_token_limit,
        prompt=prompt,
        columns=columns,
    )


def counted_again(one: Utterance, normalise: Normaliser) -> Utterance:
    """The same transcript under another normaliser, from the raw texts."""
    return replace(one, **vars(reading(normalise, one.reference_raw, one.hypothesis_raw)))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
