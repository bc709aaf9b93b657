"""The manifest of a folder of shards: it vouches for every other file there, and for itself."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from audiorl_cli.data.store import Place, Url
from audiorl_cli.errors import DataError

FORMAT: Final = "audiorl-shards"
VERSION: Final = 2
MANIFEST: Final = "manifest.json"
REJECTED: Final = "rejected.jsonl"
_DIGEST: Final = "digest"

COPY_AGAIN: Final = "Copy it again, or delete the folder and run audiorl prep again."


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says of one file beside it: name, rows, size in bytes, sha256 of the bytes."""

    file: str
    rows: int
    bytes: int
    sha256: str


def recorded(file: str, rows: int, content: bytes) -> FileRecord:
    """The record of a file that holds `content`."""
    return FileRecord(file, rows, len(content), hashlib.sha256(content).hexdigest())


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The file's bytes: there is one spelling of every manifest, and its last entry is a digest of the others."""
    entries = {name: value for name, value in manifest.items() if name != _DIGEST}
    digest = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
    return (json.dumps(entries | {_DIGEST: digest}, indent=2) + "\n").encode()


def read_manifest(folder: Place) -> dict[str, Any]:
    """The manifest in `folder`. Raises DataError where it is missing, of another format, or not as prep wrote it."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
    except FileNotFoundError as error:
        raise not_shards(folder, "no such file") from error
    except OSError as error:
        raise not_shards(folder, str(error.strerror if isinstance(path, Url) else error)) from error
    except ValueError as error:
        raise not_shards(folder, str(error)) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise not_shards(folder, "another kind of file")
    if manifest.get("version") != VERSION:
        raise DataError(
            str(path),
            expected=f"format version {VERSION}",
            got=repr(manifest.get("version")),
            fix="Run audiorl prep again with this version, into another folder.",
        )
    if content != sealed(manifest):
        raise DataError(
            str(path),
            expected="the bytes that prep wrote and sealed with their digest",
            got="other bytes",
            fix=COPY_AGAIN,
        )
    return manifest


def check_sizes(folder: Place, records: Sequence[FileRecord]) -> None:
    """Raise DataError for the first of these files that is missing or of another size."""
    listed = folder.files() if isinstance(folder, Url) else None
    for record in records:
        path = folder / record.file
        try:
            size = path.stat().st_size if listed is None else listed[record.file].st_size
        except (OSError, KeyError) as error:
            got = str(error.strerror) if isinstance(error, OSError) else "no such object"
            raise DataError(str(path), expected="a file of the manifest", got=got, fix=COPY_AGAIN) from error
        if size != record.bytes:
            raise DataError(str(path), expected=f"{record.bytes} bytes", got=str(size), fix=COPY_AGAIN)


def check_bytes(folder: Place, record: FileRecord, more: str = "") -> None:
    """Raise DataError where the file cannot be read or its bytes are others; `more` comes before the fix."""
    path = folder / record.file
    found = digest_of(path)
    if found != record.sha256:
        expected, got = (
            f"a sha256 beginning {record.sha256[:16]}",
            found[:16] if found else "a file that cannot be read",
        )
        raise DataError(str(path), expected=expected, got=got, fix=f"{more}{COPY_AGAIN}")


def digest_of(path: Place) -> str | None:
    """The sha256 of a file, None where it cannot be read."""
    try:
        with path.open() if isinstance(path, Url) else open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def not_shards(folder: Place, got: str) -> DataError:
    """What to say of a folder without a manifest that can be read."""
    return DataError(
        str(folder / MANIFEST),
        expected="the manifest of a shard folder",
        got=got,
        fix="Give a folder that audiorl prep has finished.",
    )
