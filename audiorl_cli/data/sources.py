"""Where recordings and transcripts come from: a source gives utterances in its own order, again and again the same.

What a source says is not trusted: every path is confined, every text checked, and a row that cannot be used becomes a
`Rejection` in its place.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

from audiorl_cli.data.columns import AS_NAMED, Columns
from audiorl_cli.data.columns import Fields as Fields
from audiorl_cli.data.columns import checked_name as checked_name
from audiorl_cli.data.columns import seconds as seconds
from audiorl_cli.data.near_misses import looked_for
from audiorl_cli.data.readers.lines import plain_suffix
from audiorl_cli.data.rejected import RejectedError, Rejection, Skipped, SkipRule
from audiorl_cli.data.store import SCHEMES, Place, Url
from audiorl_cli.data.tar import SUFFIX, SUFFIXES, Member
from audiorl_cli.data.tree import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from audiorl_cli.data.tree import Listing, is_recording, listings, written_by_prep
from audiorl_cli.errors import DataError, UsageError

_F = TypeVar("_F", Path, Url)
SourceFormat = Literal[
    "auto",
    "librispeech",
    "libritts",
    "mls",
    "vctk",
    "ljspeech",
    "jsonl",
    "table",
    "kaldi",
    "lhotse",
    "nemo",
    "webdataset",
    "hf",
    "folder",
]

_TREES: Final = ("librispeech", "libritts", "mls", "vctk", "ljspeech", "folder")
_ON_DISK: Final = ("kaldi", "lhotse", "nemo", "webdataset", "hf")
_TABLES: Final = {
    "auto": (".csv", ".tsv", ".jsonl", ".ndjson"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "table": (".csv", ".tsv"),
}


@dataclass(frozen=True)
class Utterance:
    """One recording, or one part of one, with its transcript.

    `source`: where it stands, for people. `audio_name`: the recording as the source names it. `offset`, `duration`:
    seconds, as `decode.Extent` reads them. `channel`: the one of several that the source names, from 0. `fallback_id`:
    another id, for where `id` was made from a file name that an earlier row has too. `extra`: further columns.
    `folder`: of the table that names the recording, to look for it in where it is missing.
    """

    id: str
    audio: Place | Member | bytes
    text: str
    source: str
    audio_name: str
    speaker: str = ""
    offset: float | None = None
    duration: float | None = None
    channel: int | None = None
    fallback_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    folder: Place | None = None


Item = Utterance | Rejection
Entry = Item | Skipped


class Source(Protocol):
    """A kind of source. `items` starts afresh at every call."""

    @property
    def kind(self) -> str:
        """The name of the format, one of `SourceFormat`."""

    def items(self) -> Iterator[Entry]:
        """Yield every row in order, and a `Skipped` for files that no row stands for.

        Raises DataError where the source itself cannot be read.
        """


def open_source(
    source: str,
    format: SourceFormat = "auto",
    split: str | None = None,
    root: Place | None = None,
    columns: Columns = AS_NAMED,
) -> Source:
    """The source at a path or URL, or `hf:NAME` for a data set on the Hugging Face hub.

    With `hf:NAME:CONFIG`, and `hf:PATH:CONFIG` for one of this machine, one of its configs.

    `split` names the part of a Hugging Face data set, or one of several tables. `root` confines every path that the
    source names, symbolic links resolved. `columns` says what those of a manifest, table or data set mean. Raises
    DataError where there is no such source or its format cannot be told, UsageError for columns where there are none.
    """
    from audiorl_cli.data.readers.huggingface import HuggingFaceSource
    from audiorl_cli.data.readers.jsonl import JsonlSource
    from audiorl_cli.data.readers.kaldi import KaldiSource
    from audiorl_cli.data.readers.lhotse import LhotseSource
    from audiorl_cli.data.readers.nemo import NemoSource
    from audiorl_cli.data.readers.table import TableSource
    from audiorl_cli.data.readers.webdataset import WebDatasetSource

    if columns.given:
        opened = open_source(source, format, split, root)
        if not isinstance(opened, JsonlSource | TableSource | HuggingFaceSource | NemoSource | WebDatasetSource):
            got, fix = f"a source of format {opened.kind}", "Leave it out."
            raise UsageError("--columns", expected="a manifest, table or data set with columns", got=got, fix=fix)
        return replace(opened, columns=columns)
    path = Path(source)
    if source.startswith(SCHEMES):
        return _remote(Url(source), format, split, root)
    root = _folder_of_this_machine(root)
    if source.startswith("hf:") or (format == "hf" and not path.exists()):
        return HuggingFaceSource.named(source.removeprefix("hf:"), split, root)
    if not os.path.isfile(path) and not os.path.isdir(path):
        raise DataError(
            source,
            expected="a file or folder",
            got="a pipe or device" if os.path.exists(path) else f"nothing there: {looked_for(path, source)}",
            fix="Check SOURCE; a data set on the Hugging Face hub is written hf:NAME.",
        )
    folder = path if path.is_dir() else None
    if folder is not None and format in ("jsonl", "table"):
        path = _table_in(folder, format, split)
    kind, path = _detected(path, split) if format == "auto" else (format, path)
    if kind == "hf":
        return HuggingFaceSource(source, path, split, root)
    if kind == "jsonl":
        return JsonlSource(path, root, folder)
    if kind == "table":
        return TableSource(path, root, folder)
    if kind == "kaldi":
        return KaldiSource(path, root)
    if kind == "lhotse":
        return LhotseSource(path, root, split)
    if kind == "nemo":
        return NemoSource(path, root)
    if kind == "webdataset":
        return WebDatasetSource(path, root)
    return _tree(kind, path, root)


def _tree(kind: SourceFormat, path: Place, root: Place | None) -> Source:
    """The source of a kind that is a folder of recordings."""
    from audiorl_cli.data.readers import ljspeech
    from audiorl_cli.data.readers.folder import FolderSource
    from audiorl_cli.data.readers.librispeech import LibriSpeechSource
    from audiorl_cli.data.readers.libritts import LibriTTSSource
    from audiorl_cli.data.readers.ljspeech import LjSpeechSource
    from audiorl_cli.data.readers.mls import MlsSource
    from audiorl_cli.data.readers.vctk import VctkSource

    trees: dict[str, Callable[[Place, Place | None], Source]] = {
        "librispeech": LibriSpeechSource,
        "libritts": LibriTTSSource,
        "mls": MlsSource,
        "vctk": VctkSource,
        "ljspeech": LjSpeechSource,
    }
    if kind == "ljspeech" and path.name == ljspeech.METADATA:
        path = path.parent
    return trees.get(kind, FolderSource)(path, root)


def _remote(url: Url, format: SourceFormat, split: str | None, root: Place | None) -> Source:
    """The source at a URL: a JSONL manifest, a table, the tree of a corpus or a folder of recordings."""
    from audiorl_cli.data.readers import lhotse, nemo
    from audiorl_cli.data.readers.jsonl import JsonlSource
    from audiorl_cli.data.readers.table import TableSource

    def table(path: Url, folder: Url | None) -> Source:
        is_lines = plain_suffix(path.name) in _TABLES["jsonl"] if format == "auto" else format == "jsonl"
        return (JsonlSource if is_lines else TableSource)(path, root, folder)

    try:
        suffix = plain_suffix(url.name)
        if format in _ON_DISK:
            raise _on_disk(url, f"one of format {format}")
        if format == "auto" and (url.name.endswith(SUFFIXES) or nemo.is_manifest(url)):
            raise _on_disk(url, "tars")
        if format == "auto" and suffix == ".jsonl" and lhotse.kind_of(url) is not None:
            raise _on_disk(url, "a manifest of lhotse")
        if format in ("jsonl", "table") or (format == "auto" and suffix in (*_TABLES["jsonl"], *_TABLES["table"])):
            return table(url, None) if suffix else table(_table_in(url, format, split), url)
        if format == "auto" and (url / "manifest.jsonl").exists():
            return table(url / "manifest.jsonl", url)
        if format in _TREES:
            return _tree(format, url, root)
        kind = _corpus(url) if format == "auto" else None
        if kind is not None:
            return _tree(kind, url, root)
        beside = url.files() if format == "auto" else {}
        if any(plain_suffix(name) in _TABLES["auto"] for name in beside) and not written_by_prep(beside):
            return table(_table_in(url, "auto", split), url)
        names = [name for _, name in walk(url)] if format in ("auto", "folder") else []
    except OSError as error:
        raise DataError(str(url), expected="a source to read", got=str(error.strerror), fix="Check SOURCE.") from error
    if format == "folder" or any(map(is_recording, names)):
        return _tree("folder", url, root)
    if any(name.endswith(SUFFIXES) for name in names):
        raise _on_disk(url, "tars")
    raise DataError(
        str(url),
        expected="a JSONL manifest, CSV, TSV, tree of a corpus or folder of recordings in the object store",
        got="nothing there" if not names else "another kind",
        fix="Name one file of it, or say which with --format.",
    )


def _on_disk(url: Url, got: str) -> DataError:
    expected = "a source that is read from an object store: a JSONL manifest, table, tree or folder"
    return DataError(str(url), expected=expected, got=got, fix="Copy it to a disk.")


def _folder_of_this_machine(root: Place | None) -> Path | None:
    if isinstance(root, Url):
        raise UsageError("--root", expected="a folder, as SOURCE is on this machine", got=root, fix="Correct it.")
    return root


def _corpus(top: Place) -> SourceFormat | None:
    """The kind of the tree below `top` where that is one of a known corpus, by the names of its files."""
    from audiorl_cli.data.readers import libritts, ljspeech, mls, vctk

    for folder, name in walk(top):
        if name.lower().endswith(".trans.txt"):
            return "librispeech"
        if name.endswith((libritts.NORMALIZED, libritts.TABLE)):
            return "libritts"
        if name == mls.TRANSCRIPTS and mls.is_table(folder / name):
            return "mls"
        if folder.parent.name in vctk.RECORDINGS or (folder.parent.name == vctk.TEXTS and name.startswith("p")):
            return "vctk"
        if name == ljspeech.METADATA and folder == top and ljspeech.is_table(folder / name):
            return "ljspeech"
    return None


def _manifest(path: Path) -> SourceFormat | None:
    """The kind of a file, or of the manifests right in a folder, where it is a tar, or NeMo's or lhotse's."""
    from audiorl_cli.data.readers import lhotse, nemo

    if path.is_file():
        if path.name.lower().endswith(SUFFIXES):
            return "webdataset"
        if plain_suffix(path.name) not in (".jsonl", ".json"):
            return None
        return "nemo" if nemo.is_manifest(path) else "lhotse" if lhotse.kind_of(path) else None
    return "lhotse" if lhotse.manifests(path) else None


def _tars(folder: Path) -> SourceFormat | None:
    """The kind of a folder with tars somewhere in it."""
    from audiorl_cli.data.readers import nemo

    found: SourceFormat | None = None
    for base, name in walk(folder):
        if nemo.is_manifest(base / name):
            return "nemo"
        if name.lower().endswith(SUFFIXES):
            found = "webdataset"
    return found


def _detected(path: Path, split: str | None) -> tuple[SourceFormat, Path]:
    from audiorl_cli.data.readers import huggingface, ljspeech

    names = set(_names(path)) if path.is_dir() else set()
    kind = _manifest(path)
    if kind is not None:
        return kind, path
    if path.is_file():
        if path.name == ljspeech.METADATA and ljspeech.is_table(path):
            return "ljspeech", path
        kinds: dict[str, SourceFormat] = {
            **dict.fromkeys((".csv", ".tsv"), "table"),
            **dict.fromkeys(_TABLES["jsonl"], "jsonl"),
            **dict.fromkeys((".parquet", ".arrow"), "hf"),
        }
        kind = kinds.get(plain_suffix(path.name))
        if kind is None or (kind == "hf" and kind != kinds.get(path.suffix.lower())):
            raise _unknown(path, f"a file named *{path.suffix}")
        return kind, path
    if "manifest.jsonl" in names:
        return "jsonl", path / "manifest.jsonl"
    if "wav.scp" in names:
        return "kaldi", path
    kind = _corpus(path)
    if kind is not None:
        return kind, path
    if huggingface.is_dataset(path):
        return "hf", path
    if written_by_prep(names):
        raise _unknown(path, "a folder that prep has written already")
    if any(name.endswith((".parquet", ".arrow")) for _, name in walk(path)):
        return "hf", path
    if any(plain_suffix(name) in _TABLES["auto"] for name in names):
        return _detected(_table_in(path, "auto", split), split)
    recordings = any(is_recording(name) for _, name in walk(path))
    kind = _tars(path)
    if kind is not None and not recordings:
        return kind, path
    if kind is not None and any(name.endswith(SUFFIX) for _, name in walk(path)):  # others were unpacked, it seems
        raise _unknown(path, "both recordings and tars", "Say --format folder, or webdataset or nemo for the tars.")
    if recordings:
        return "folder", path
    raise _unknown(path, "a folder without manifest, tables or recordings")


def _table_in(folder: _F, format: Literal["auto", "jsonl", "table"], split: str | None) -> _F:
    """The one manifest or table of `folder`, or that of `split`. Raises DataError where there is none, or several."""
    tables = sorted(name for name in _names(folder) if plain_suffix(name) in _TABLES[format])
    if format != "table" and "manifest.jsonl" in tables:
        tables = ["manifest.jsonl"]
    stems = {name: name[: name.lower().rindex(plain_suffix(name))] for name in tables}
    chosen = [name for name in tables if stems[name] == split] or tables  # Common Voice has one for each split
    if len(chosen) == 1:
        return folder / chosen[0]
    fix = "Name one file of it, or choose one by its name with --split."
    raise _unknown(folder, f"several tables ({', '.join(tables[:5])})" if tables else "a folder without a table", fix)


def _names(folder: Place) -> list[str]:
    try:
        return list(folder.files()) if isinstance(folder, Url) else os.listdir(folder)
    except OSError as error:
        raise DataError(
            str(folder), expected="a folder to read", got=str(error.strerror), fix="Check SOURCE and its permissions."
        ) from error


def _unknown(path: Place, got: str, fix: str = "Name one file of it, or say which with --format.") -> DataError:
    return DataError(
        str(path),
        expected="the tree of a corpus, JSONL, CSV, TSV, Kaldi folder, Hugging Face data set or folder of recordings",
        got=got,
        fix=fix,
    )


def unique(entries: Iterable[Entry], skipped: Counter[SkipRule] | None = None) -> Iterator[Item]:
    """Yield the items with ids made unique, and add up in `skipped` the files that no item stands for.

    A made-up id falls back to another, a given one is rejected the second time.
    """
    seen: set[str] = set()
    for item in entries:
        if isinstance(item, Skipped):
            if skipped is not None:
                skipped[item.rule] += item.files
            continue
        if isinstance(item, Rejection):
            yield item
            continue
        if item.id in seen and item.fallback_id is not None:
            # Parts that begin together are told apart by their lengths.
            length = "" if item.offset is None or item.duration is None else f"+{item.duration:g}"
            taken = item.fallback_id in seen
            item = replace(item, id=f"{item.fallback_id}{length}" if taken else item.fallback_id)
        if item.id in seen:
            yield Rejection(item.id, item.source, "duplicate_id", "an earlier row has this id")
            continue
        seen.add(item.id)
        yield item


def walk(folder: Place) -> Iterator[tuple[Place, str]]:
    """Yield every file to read below `folder` as (its folder, its name): `tree.listings` without what it counts."""
    for entry in listings(folder):
        if isinstance(entry, Listing):
            yield from ((entry.folder, name) for name in entry.names)


def confined(name: str, base: Place, root: Place | None, called: str = "--root") -> Place:
    """The file that a row of a source in folder `base` names. Raises RejectedError where it may not name it.

    Relative names are taken from `base` and may not climb out of it; absolute ones, and URLs of an object store, are
    taken as written. With `root` the file must lie within `root`, which is `called` so, symbolic links resolved.
    """
    if "\0" in name or not name.strip():
        raise RejectedError("bad_row", "no file name")
    if name.startswith(SCHEMES) and "/../" not in name:
        return _rooted(Url(name), root, called)
    if "://" in name or name.rstrip().endswith("|"):
        raise RejectedError("not_a_file", "a URL or a command, which prep does not run")
    if not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] == os.pardir:
        raise RejectedError("outside_folder", "a relative path that climbs out of the source's folder")
    if isinstance(base, Url) and not os.path.isabs(name):
        return _rooted(base / os.path.normpath(name), root, called)
    return _rooted(Path(name) if isinstance(base, Url) else base / name, root, called)


def _rooted(path: Place, root: Place | None, called: str) -> Place:
    if root is None:
        return path
    if isinstance(path, Url) or isinstance(root, Url):
        inside = isinstance(path, Url) and path.startswith(f"{root}/")
    else:
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    if not inside:
        raise RejectedError("outside_folder", f"a path outside {called}")
    return path


def checked_text(value: object) -> str:
    """A transcript. Raises RejectedError for None, what is not text, and control characters."""
    if value is None:
        raise RejectedError("no_transcript", "no text")
    if not isinstance(value, str):
        raise RejectedError("bad_row", f"a text of type {type(value).__name__}")
    if not value.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r" for c in value):
        raise RejectedError("bad_text", "control characters or surrogates in the text")
    return value
