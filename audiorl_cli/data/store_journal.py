"""The journal of a run of prep that writes to an object store, where nothing can be appended to: an object a shard.

No lock keeps two runs apart there, and none is needed: runs of one identity write the same bytes under the same names,
and another identity is refused by what is written down first. A run can be taken up again from any machine.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from audiorl_cli.data.store import Url

_FOLDER: Final = ".progress"
_BEGUN: Final = "begun.json"


def entries(out: Url) -> list[dict[str, Any]]:
    """The identity of an earlier run, then its finished shards, in order. Raises OSError."""
    folder = out / _FOLDER
    names = folder.files()
    if _BEGUN not in names:
        return []
    begun = json.loads((folder / _BEGUN).read_bytes())
    finished = begun["finished"]
    later = sorted(name for name in names if name != _BEGUN and _number(name) >= len(finished))
    # Shards are finished in order, but of what an earlier run had found damaged later ones may be left.
    following = [name for number, name in enumerate(later, len(finished)) if _number(name) == number]
    return [begun["identity"], *finished, *(json.loads(content) for content in folder.read_all(following))]


def begin(out: Url, identity: Mapping[str, Any], finished: Sequence[Mapping[str, Any]]) -> None:
    """Start the journal anew with what is `finished` already. Raises OSError."""
    folder = out / _FOLDER
    (folder / _BEGUN).write_bytes(json.dumps({"identity": identity, "finished": finished}).encode())


def append(out: Url, number: int, entry: Mapping[str, Any]) -> None:
    """Write down one more finished shard. Raises OSError."""
    (out / _FOLDER / f"{number:09d}.json").write_bytes(json.dumps(entry).encode())


def exists(out: Url) -> bool:
    """Whether a run was begun there and not ended."""
    return (out / _FOLDER / _BEGUN).exists()


def end(out: Url) -> None:
    """Remove the journal."""
    if (out / _FOLDER).files():
        (out / _FOLDER).remove()


def _number(name: str) -> int:
    stem = name.removesuffix(".json")
    return int(stem) if stem.isdigit() else -1
