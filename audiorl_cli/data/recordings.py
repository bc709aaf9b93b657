"""The recordings behind shards: where prep read them, and those of a few rows once more, sample for sample.

Shards hold features alone. What is read again is held to them: no recording passes for one that it is not.
"""

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from audiorl_cli.data.columns import AS_NAMED, Columns
from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.mel import log_mel
from audiorl_cli.data.readers.huggingface import split_name
from audiorl_cli.data.rejected import RejectedError
from audiorl_cli.data.shards import Row, Shards, write_whole
from audiorl_cli.data.sources import Utterance, open_source, unique
from audiorl_cli.data.store import SCHEMES, Place, Url, place
from audiorl_cli.errors import DataError

SOURCE: Final = "source.json"
_HUB: Final = "hf:"
_ALIKE: Final = 0.01  # of features in [-1.5, 1.5]: float16 rounds by a tenth of it

Samples = Float32[np.ndarray, " samples"]


def note(out: Place, source: str, split: str | None, root: Place | None, columns: Columns) -> None:
    """Write down where the rows of `out` come from: paths from `out` on, so that both may be moved together.

    What is in an object store, or was read into one, has its whole path. The manifest does not vouch for it, and only
    `recordings` reads it. Raises DataError where it cannot be written.
    """
    path = out / SOURCE
    here = source.startswith(SCHEMES) or os.path.exists(source)
    path_of, config = split_name(source.removeprefix(_HUB))
    if here:
        origin = _from(out, source)
    elif os.path.exists(path_of):
        origin = f"{_HUB}{_from(out, path_of)}" + (f":{config}" if config else "")
    else:
        origin = f"{_HUB}{source.removeprefix(_HUB)}"
    told: dict[str, Any] = {"source": origin, "split": split, "root": None if root is None else _from(out, str(root))}
    if columns.given:
        told["columns"] = columns.options()
    content = f"{json.dumps(told, indent=2)}\n".encode()
    if not path.exists() or path.read_bytes() != content:
        write_whole(path, content)


def recordings(shards: Shards, rows: Sequence[Row]) -> dict[str, Samples | str]:
    """The recording of each of `rows` by its id, float32 mono at 16 kHz, or why there is none, in a few words.

    Where the source is a data set on the hub nothing is fetched for this.
    """
    wanted = {row.id: row for row in rows}
    found: dict[str, Samples | str] = {}
    why = "its source has no such row any more"
    try:
        utterances = _utterances(shards)
        while wanted and (one := next(utterances, None)):
            if one.id in wanted:
                found[one.id] = _heard(one, wanted.pop(one.id), shards)
    except DataError as error:
        why = f"{error.item}: {error.got}"
    except OSError as error:  # a folder that may not be read, a disk that is gone: no reason to lose a report
        why = str(error)
    return found | dict.fromkeys(wanted, why)


def _from(out: Place, path: str) -> str:
    if path.startswith(SCHEMES):
        return path
    return os.path.realpath(path) if isinstance(out, Url) else os.path.relpath(os.path.realpath(path), out.resolve())


def _at(folder: Place, path: str) -> str:
    if isinstance(folder, Url) or path.startswith(SCHEMES):
        return path
    return os.path.relpath(os.path.realpath(folder / path))


def _utterances(shards: Shards) -> Iterator[Utterance]:
    path = shards.folder / SOURCE
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
        split, root = told["split"], told["root"] and place(_at(shards.folder, told["root"]))
        source = told["source"] if told["source"].startswith(_HUB) else _at(shards.folder, told["source"])
        columns = Columns.parse(told["columns"]) if "columns" in told else AS_NAMED
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _absent(str(path), "nothing that says where the recordings are") from error
    if source.startswith(_HUB):
        name, _, config = source.removeprefix(_HUB).partition(":")
        if os.path.exists(_at(shards.folder, name)):
            source = f"{_HUB}{_at(shards.folder, name)}" + (f":{config}" if config else "")
        else:
            raise _absent(source, "a data set on the hub, not fetched for this")
    elif not source.startswith(SCHEMES) and not os.path.exists(source):
        raise _absent(source, "nothing there")
    opened = open_source(source, shards.manifest["source"]["format"], split, root, columns)
    return (one for one in unique(opened.items()) if isinstance(one, Utterance))


def _absent(item: str, got: str) -> DataError:
    return DataError(item, expected="the recordings that prep read", got=got, fix="Run audiorl prep again.")


def _heard(one: Utterance, row: Row, shards: Shards) -> Samples | str:
    settings = shards.manifest["features"]
    try:
        channel = settings["channel"] if one.channel is None else str(one.channel)
        clip = decode(one.audio, channel, Extent(one.offset, one.duration, settings["max_seconds"]))
    except RejectedError as error:
        return f"{error.reason}: {error.detail}"
    if len(clip.samples) > row.features.shape[1] * settings["hop_length"]:
        return "its source has another recording now"
    mel = log_mel(clip.samples, row.features.shape[1], shards.dtype)
    if mel.num_frames != row.num_frames or not np.allclose(mel.features, row.features, rtol=0, atol=_ALIKE):
        return "its source has another recording now"
    return clip.samples
