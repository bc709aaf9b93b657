"""The manifest of a folder of shards: it vouches for every other file there, and for itself."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in `folder`. Raises DataError where it is missing, of another format, or not as prep wrote it."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
    except FileNotFoundError as error:
        raise not_shards(folder, "no such file") from error
    except (OSError, ValueError) as error:
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


def check_size(folder: Path, record: FileRecord) -> None:
    """Raise DataError where the file is missing or of another size."""
    path = folder / record.file
    try:
        size = path.stat().st_size
    except OSError as error:
        got = str(error.strerror)
        raise DataError(str(path), expected="a file of the manifest", got=got, fix=COPY_AGAIN) from error
    if size != record.bytes:
        raise DataError(str(path), expected=f"{record.bytes} bytes", got=str(size), fix=COPY_AGAIN)


def check_bytes(folder: Path, record: FileRecord, more: str = "") -> None:
    """Raise DataError where the file cannot be read or its bytes are others; `more` comes before the fix."""
    path = folder / record.file
    found = digest_of(path)
    if found != record.sha256:
        expected, got = (
            f"a sha256 beginning {record.sha256[:16]}",
            found[:16] if found else "a file that cannot be read",
        )
        raise DataError(str(path), expected=expected, got=got, fix=f"{more}{COPY_AGAIN}")


def digest_of(path: Path) -> str | None:
    """The sha256 of a file, None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def not_shards(folder: Path, got: str) -> DataError:
    """What to say of a folder without a manifest that can be read."""
    return DataError(
        str(folder / MANIFEST),
        expected="the manifest of a shard folder",
        got=got,
        fix="Give a folder that audiorl prep has finished.",
    )
