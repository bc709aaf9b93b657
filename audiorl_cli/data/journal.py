"""What a run of prep has finished, written down shard by shard, so that a killed run can go on where it was."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from audiorl_cli.data import store_journal
from audiorl_cli.data.manifest import FileRecord, digest_of
from audiorl_cli.data.rejected import Rejection
from audiorl_cli.data.store import Place, Url
from audiorl_cli.errors import DataError

JOURNAL: Final = ".progress.jsonl"


@dataclass(frozen=True)
class Finished:
    """A shard that is on disk. `next`: number of the first item after it; `seconds`: audio in it.

    `rejections`: those among its items, in order.
    """

    shard: FileRecord
    next: int
    seconds: float
    rejections: Sequence[Rejection]


def load(out: Place, identity: Mapping[str, Any]) -> list[Finished]:
    """The shards that an earlier run of the same `identity` finished in `out`, up to the first that is not intact.

    Raises DataError where the earlier run had another source or other settings, naming what differs.
    """
    entries = _entries(out)
    if len(entries) < 2:
        return []  # no shard was finished: nothing would be lost
    refuse_other(out, entries[0], identity)
    finished = []
    listed = out.files() if isinstance(out, Url) else {}
    for entry in entries[1:]:
        shard = FileRecord(**entry["shard"])
        if isinstance(out, Url):
            # An object is put whole, so its size tells it; its bytes are looked at by whoever reads them.
            whole = shard.file in listed and listed[shard.file].st_size == shard.bytes
        else:
            whole = digest_of(out / shard.file) == shard.sha256
        if not whole:
            break
        rejections = [Rejection(**rejection) for rejection in entry["rejections"]]
        finished.append(Finished(shard, entry["next"], entry["seconds"], rejections))
    return finished


def _entries(out: Place) -> list[dict[str, Any]]:
    if isinstance(out, Url):
        try:
            return store_journal.entries(out)
        except OSError as error:
            raise DataError(
                str(out), expected="a store to write to", got=str(error.strerror), fix="Check the store and --out."
            ) from error
    try:
        lines = (out / JOURNAL).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    entries = []
    for line in lines[:-1]:  # what follows the last line break was cut off by the end of its run
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def begin(out: Place, identity: Mapping[str, Any], finished: Sequence[Finished]) -> None:
    """Start the journal anew with what is `finished` already."""
    if isinstance(out, Url):
        with _writing(out):
            store_journal.begin(out, identity, [_entry(entry) for entry in finished])
        return
    temporary = out / f"{JOURNAL}.tmp"
    with _writing(out), open(temporary, "wb") as file:
        for entry in (identity, *map(_entry, finished)):
            file.write(json.dumps(entry).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        os.replace(temporary, out / JOURNAL)


def append(out: Place, number: int, entry: Finished) -> None:
    """Write down one more finished shard, `number` of them from 0."""
    if isinstance(out, Url):
        with _writing(out):
            store_journal.append(out, number, _entry(entry))
        return
    with _writing(out), open(out / JOURNAL, "ab") as file:
        file.write(json.dumps(_entry(entry)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def exists(out: Place) -> bool:
    """Whether a run was begun in `out` and not ended."""
    return store_journal.exists(out) if isinstance(out, Url) else (out / JOURNAL).exists()


def end(out: Place) -> None:
    """Remove the journal of a run that is done."""
    if isinstance(out, Url):
        with _writing(out):
            store_journal.end(out)
    else:
        (out / JOURNAL).unlink(missing_ok=True)


def refuse_other(out: Place, found: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise DataError where `out` was made from another source or with other settings than `identity` says."""
    # What other entries follow from comes first: columns from the source, frames from the seconds of a clip.
    last = ("columns", "clip_frames", "written")
    for name in sorted({*found, *identity}, key=lambda name: (name in last, name)):
        if found.get(name) == identity.get(name):
            continue
        if name in ("source", "columns"):
            expected, got = "the source that it was made from", "another one, or one that has changed since"
        elif name == "written":
            expected, got = "the recordings that it was made from", "some that were written since it was begun"
        else:
            expected, got = repr(found.get(name)), repr(identity.get(name))
        raise DataError(
            f"{name} of the data in {out}", expected=expected, got=got, fix="Give another --out, or delete that folder."
        )


def _entry(finished: Finished) -> dict[str, Any]:
    return dataclasses.asdict(finished)


@contextmanager
def _writing(out: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            str(out if isinstance(out, Url) else out / JOURNAL),
            expected="to write it",
            got=str(error.strerror),
            fix="Check the store, run again." if isinstance(out, Url) else "Free disk space, run again.",
        ) from error
