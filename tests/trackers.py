"""What TensorBoard and Weights & Biases were told of a run, read back from their files."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

# A .wandb file: 7 bytes, then the log format of LevelDB, whose blocks count from the start of the file
# (https://github.com/google/leveldb/blob/main/doc/log_format.md), each record of it one protobuf message.
_MARK, _BLOCK, _HEAD, _WHOLE, _LAST = 7, 32_768, 7, 1, 4


@dataclass(frozen=True)
class Session:
    """One opening of a run at Weights & Biases: what was logged at each step, and how it ended."""

    id: str
    project: str
    name: str
    steps: dict[int, dict[str, float]]
    exit_code: int


def tensorboard_shows(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Each scalar that TensorBoard shows of the run: (step, value), in order."""
    shown = EventAccumulator(str(run / "tensorboard")).Reload()
    return {tag: [(event.step, event.value) for event in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


def wandb_holds(run: Path) -> list[Session]:
    """The sessions of the run that Weights & Biases kept offline, oldest first."""
    wandb.teardown()  # as the end of a process does: until then a file may lack its end
    return [_session(path) for path in sorted((run / "wandb").glob("offline-run-*/*.wandb"))]


def _session(path: Path) -> Session:
    records = list(_records(path.read_bytes()))
    begun = next(record.run for record in records if record.HasField("run"))
    ended = next(record.exit for record in records if record.HasField("exit"))
    steps = {}
    for record in records:
        if record.HasField("history"):
            items = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            steps[record.history.step.num] = {name: value for name, value in items.items() if not name.startswith("_")}
    return Session(begun.run_id, begun.project, begun.display_name, steps, ended.exit_code)


def _records(content: bytes) -> Iterator[Any]:
    place, parts = _MARK, b""
    while place + _HEAD <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _HEAD:  # too little for a head: the rest of the block is padding
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + _HEAD : place + _HEAD + length]
        place += _HEAD + length
        if kind in (_WHOLE, _LAST):
            yield wandb_internal_pb2.Record.FromString(parts)  # type: ignore[attr-defined] # made at its import
            parts = b""
