"""What chose the weights of a model: a step of a run, and the validation set that it did best on.

It stands beside the weights, so that it goes wherever they go: a WER on recordings that chose the model is the lowest
of several, and lower than the same model's on others is likely to be.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from audiorl_cli.errors import ModelError

FILE: Final = "audiorl_selection.json"
VERSION: Final = 1


@dataclass(frozen=True)
class Selection:
    """The model is `step` of the `steps` that a run of the command `by` took.

    With a validation set it is the one of the lowest WER, `wer`, of `measured` steps; `data` is the set's name, as it
    was given, `digest` that of its shards, `rows` its utterances. Without one it is the last step, and these are empty.
    """

    by: str
    step: int
    steps: int
    data: str = ""
    digest: str = ""
    rows: int = 0
    wer: float | None = None
    measured: int = 0

    def __str__(self) -> str:
        """Return it as a phrase for people."""
        step = f"step {self.step} of {self.steps} of {self.by}"
        if self.wer is None:
            return f"{step}, the last: no validation set chose it"
        return (
            f"{step}, chosen by the lowest WER ({100 * self.wer:.2f} %) of {self.measured} measured on the validation "
            f"set {self.data} ({self.rows} utterances, digest {self.digest[:16]})"
        )


@dataclass(frozen=True)
class StoredSelection(Selection):
    """A selection as it stands beside the weights. `recordings`: a digest of what each utterance of the set sounds like
    (`data.leakage.audio_digest`), by which its recordings are known in other shards.
    """

    recordings: tuple[str, ...] = ()


def encode(selections: Sequence[StoredSelection]) -> bytes:
    """Return the content of FILE. `selections`: of the runs that made the model, the last one last."""
    return (json.dumps({"version": VERSION, "selections": [asdict(one) for one in selections]}) + "\n").encode()


def decode(files: Mapping[str, bytes], model: str) -> tuple[StoredSelection, ...]:
    """Return what `encode` was given; nothing of a `model` whose `files` have no such file.

    Raises ModelError for one that cannot be read.
    """
    if FILE not in files:
        return ()
    try:
        table: dict[str, Any] = json.loads(files[FILE])
        if table["version"] != VERSION:
            raise ValueError(f"version {table['version']!r}")
        return tuple(StoredSelection(**{**one, "recordings": tuple(one["recordings"])}) for one in table["selections"])
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{model}: {FILE}",
            expected=f"what chose the model, in version {VERSION}",
            got=str(error),
            fix="Export the model again, or delete the file.",
        ) from error
