"""Hugging Face data sets, from the hub or from disk. Their audio is left undecoded: our own decoder reads the bytes."""

import csv
import itertools
import json
import logging
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np

from audiorl_cli.data.columns import AS_NAMED, Columns
from audiorl_cli.data.readers.lines import opened
from audiorl_cli.data.rejected import RejectedError, Rejection, Skipped
from audiorl_cli.data.sources import (
    AUDIO_SUFFIXES,
    Entry,
    Fields,
    Utterance,
    checked_name,
    checked_text,
    confined,
    walk,
)
from audiorl_cli.data.store import Place, below
from audiorl_cli.data.tree import is_recording
from audiorl_cli.errors import DataError

_BUILDERS: Final = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"}
_RATE_KEYS: Final = ("sampling_rate", "sample_rate", "sr")
# How samples in a column are written down as WAV, by their type; of wider integers nobody knows the full scale.
_STORED: Final = {"int16": "<i2", "int32": "<i4", **dict.fromkeys(("float16", "float32", "float64"), "<f4")}
_WAV_BYTES: Final = 1 << 31
_CHANNELS_MAX: Final = 32
_TEXT_TYPES: Final = ("string", "large_string", "string_view", "null")
_ZIP: Final = "zip://"
_ZIPPED_BYTES: Final = 1 << 30  # of one recording: what unpacks to more is none
_AT_ONCE: Final = 16  # rows of Parquet that are in memory at a time
_LOOKED_AT: Final = 100  # rows that tell the types of the columns, where the files do not
_METADATA: Final = frozenset({"metadata.csv", "metadata.jsonl"})
_CONFIGURED: Final = frozenset({"configs:", "dataset_info:"})
_CARD_LINES: Final = 10_000
_HEADER_BYTES: Final = 1 << 18


@dataclass(frozen=True)
class _Layout:
    """What the columns of a data set mean.

    `audio`: the column of the recordings, `name`: of their files' names, where bytes stand without one, `rate`: of
    their sample rate, where they are plain samples of type `samples`. `labels`: the texts that the numbers of a text
    column stand for. `hidden`: columns that are not kept. `cuts`: whether columns of a part cut the recordings that
    rows hold themselves, which mostly are the part already. `names_all`: whether rows name files, and no other split
    has rows that do.
    """

    audio: str
    name: str | None
    fields: Fields
    rate: str | None
    samples: str
    labels: tuple[str, ...]
    hidden: frozenset[str]
    cuts: bool
    names_all: bool = False


@dataclass(frozen=True)
class HuggingFaceSource:
    """`name` on the hub, or the folder or file `path`; `config` where it has several. `split`: train, test...

    A data set from the hub can name files of its own only, or such as were unpacked from fetched archives, never others
    on this machine. Nothing that it carries is run as code.
    """

    name: str
    path: Path | None = None
    split: str | None = None
    root: Path | None = None
    config: str | None = None
    columns: Columns = AS_NAMED
    kind: str = "hf"

    @classmethod
    def named(cls, name: str, split: str | None, root: Path | None) -> "HuggingFaceSource":
        """The data set that "NAME" or "NAME:CONFIG" means: a folder or file of this machine, else one on the hub."""
        place, config = split_name(name)
        path = Path(place)
        return cls(place, path if path.exists() else None, split, root, config)

    def items(self) -> Iterator[Entry]:
        """One item a row, then the recordings of the folder that no row names.

        Raises DataError where the data set cannot be loaded or lacks recordings or transcripts.
        """
        with _Faults(self):
            data, layout, files = self._load()
            rows = iter(data)
        seen: set[str] = set()
        with closing(_Archives()) as archives:
            for number in itertools.count():
                with _Faults(self):
                    row = next(rows, None)
                if row is None:
                    break
                where = f"row {number}"
                try:
                    content, name = self._sound(row, layout)
                    seen.add(os.path.abspath(name if self.path is None else self._base / name))
                    if content is None and name.startswith(_ZIP):
                        content, name = archives.read(name, self._file)
                    yield self._utterance(row, where, number, content, name, layout)
                except RejectedError as error:
                    yield Rejection(str(row.get(layout.fields.id or "") or "")[:100], where, error.reason, error.detail)
        for file in sorted(file for file in files if os.path.abspath(file) not in seen):
            assert self.path is not None
            yield Rejection(Path(file).stem[:100], below(Path(file), self.path), "no_transcript", "no row in metadata")
        if layout.names_all and self.path is not None and self.path.is_dir():
            for folder, name in walk(self.path):
                if is_recording(name) and os.path.abspath(folder / name) not in seen:
                    yield Skipped("unlisted")

    @property
    def _base(self) -> Path:
        """The folder from which names of files are taken, for a data set of this machine."""
        assert self.path is not None
        return self.path if self.path.is_dir() else self.path.parent

    def _utterance(
        self, row: Mapping[str, Any], where: str, number: int, content: bytes | None, name: str, layout: _Layout
    ) -> Utterance:
        fields = layout.fields
        fields.check(row, where)
        identity = checked_name(row[fields.id] if fields.id else None, "an id")
        text = row[fields.text] if fields.text else None
        if layout.labels and isinstance(text, int):
            text = layout.labels[text] if 0 <= text < len(layout.labels) else None
        stem = Path(name).stem or f"{number:08d}"
        offset, duration = fields.part(row)
        if content is not None and not layout.cuts:
            offset = None  # of a longer recording, which the row's own was cut from: its duration must be that
        return Utterance(
            id=identity or checked_name(stem, "an id"),
            audio=content if content is not None else self._file(name),
            text=checked_text(text),
            source=where,
            audio_name=self._audio_name(name),
            speaker=checked_name(row[fields.speaker] if fields.speaker else None, "a speaker"),
            offset=offset,
            duration=duration,
            channel=fields.channel_of(row),
            fallback_id=None if identity else f"{stem}@row{number}",
            extra={
                name: _plain(value)
                for name, value in fields.extra(row, layout.hidden).items()
                if not _carries_bytes(value)
            },
        )

    def _audio_name(self, name: str) -> str:
        # A hub's cache lies elsewhere on every machine; the file's own name does not.
        path = Path(name)
        inside = self.path is not None and path.is_absolute() and path.is_relative_to(self.path)
        return below(path, self.path) if inside and self.path is not None else path.name

    def _sound(self, row: Mapping[str, Any], layout: _Layout) -> tuple[bytes | None, str]:
        """The recording's content, None where it is in a file, and its name, empty where it has none."""
        value = row[layout.audio]
        rate = row.get(layout.rate) if layout.rate else None
        beside = row.get(layout.name) if layout.name else None
        name = beside if isinstance(beside, str) else ""
        if isinstance(value, Mapping):
            name, rate = value.get("path") or name, next((value[key] for key in _RATE_KEYS if key in value), rate)
            value = next((value[key] for key in ("bytes", "array", "path") if value.get(key) is not None), None)
        if value is None:
            raise RejectedError("missing", "neither bytes nor a path")
        if isinstance(value, str):
            return None, value
        if isinstance(value, bytes | bytearray):
            return bytes(value), name
        return _wav(value, rate, layout.samples), name

    def _file(self, name: str) -> Place:
        if self.path is not None:
            return confined(name, self._base, self.root)
        from datasets import config
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.file_download import repo_folder_name

        unpacked = Path(config.EXTRACTED_DATASETS_PATH)
        own = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=self.name, repo_type="dataset")
        if Path(os.path.realpath(name)).is_relative_to(os.path.realpath(unpacked)):
            own = unpacked
        path = confined(name, own, own, "the data set's own files")
        return path if self.root is None else confined(name, own, self.root)

    def _load(self) -> tuple[Any, _Layout, list[str]]:
        """The rows, what their columns mean, and the recordings that each should have a row for."""
        import datasets

        datasets.disable_progress_bars()  # the command shows its own
        datasets.logging.set_verbosity(logging.CRITICAL)  # each error is logged before it is raised
        # huggingface_hub: a line for each of five attempts to reach the hub, before the one error that says it all
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        # The library's own asks for torchcodec to store a path or bytes that it is given, which needs no codec.
        datasets.Audio.encode_example = _stored
        splits, files = self._splits(datasets)
        split = self.split or (next(iter(splits)) if len(splits) == 1 else None)
        if split is None:
            raise DataError(self.name, expected="one split", got=", ".join(splits), fix="Choose one with --split.")
        if split not in splits:
            raise ValueError(f"no split {split!r}, only {', '.join(splits)}")
        data = splits[split]
        if isinstance(data, datasets.Dataset):
            data = data.to_iterable_dataset()
        features = data.features or datasets.Dataset.from_list(list(data.take(_LOOKED_AT))).features
        layout = self._layout(features, datasets)
        named = features[layout.audio]
        layout = replace(layout, names_all=len(splits) == 1 and getattr(named, "dtype", "") in _TEXT_TYPES)
        paths = files.get(split, ()) if isinstance(features[layout.audio], datasets.Audio) else ()
        return (data.decode(False) if data.features else data), layout, [str(path) for path in paths]

    def _splits(self, datasets: Any) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """The parts of the data set, and of each the recordings among its files."""
        if self.path is None or (self.split is not None and {*"[+"} & {*self.split}):
            where, options = self._builder()
            data = datasets.load_dataset(where, self.config, split=self.split, **options)
            return ({self.split: data} if self.split else dict(data)), {}
        if any((self.path / marker).exists() for marker in ("state.json", "dataset_dict.json")):
            data = datasets.load_from_disk(str(self.path))
            return (dict(data) if isinstance(data, datasets.DatasetDict) else {self.split or "train": data}), {}
        where, options = self._builder()
        builder = datasets.load_dataset_builder(where, self.config, **options)
        files = {
            str(split): [file for file in found if Path(file).suffix.lower() in AUDIO_SUFFIXES]
            for split, found in (builder.config.data_files or {}).items()
        }
        if hasattr(builder.config, "batch_size"):  # else as many as a row group of Parquet has: all of a file, or none
            builder.config.batch_size = _AT_ONCE
        # Streamed, what is on this disk is not copied into a cache, and memory stays bounded.
        return {str(split): data for split, data in builder.as_streaming_dataset().items()}, files

    def _builder(self) -> tuple[str, dict[str, Any]]:
        if self.path is None:
            return self.name, {}
        if self.path.is_dir():
            return str(self.path), {}
        kind = _BUILDERS.get(self.path.suffix.lower())
        if kind is None:
            raise ValueError(f"a file named *{self.path.suffix}")
        return kind, {"data_files": {"train": str(self.path)}}

    def _layout(self, features: Mapping[str, Any], datasets: Any) -> _Layout:
        """What the columns mean. Raises DataError where recordings or transcripts are in none, or in several."""
        stored = [name for name, feature in features.items() if _holds_recordings(feature, datasets)]
        sounds = [name for name in stored if isinstance(features[name], datasets.Audio)]
        rate = next((key for key in _RATE_KEYS if key in features), None)
        self.columns.require(features, self.name)
        named = self.columns.fields(features).audio
        if "audio" not in dict(self.columns.given) and (sounds or named not in ("audio", "audio_filepath")):
            # other names leave a doubt
            named = Fields.of(sounds or stored or features).audio
        lists = [name for name, feature in features.items() if _sample_type(feature, datasets)] if rate else []
        sure = [one for one in (sounds, stored, lists) if len(one) == 1]
        audio = named or (sure[0][0] if sure else None)
        listed = ", ".join(features)
        if audio is None:
            raise self._lacks("one audio column", ", ".join(stored) or listed)
        samples = _sample_type(features[audio], datasets)
        if audio not in stored and not samples and getattr(features[audio], "dtype", "") not in _TEXT_TYPES:
            expected = f"bytes, samples or names of files in column {audio}"
            raise self._lacks(expected, str(features[audio])[:100])
        if samples and samples not in _STORED:
            raise self._lacks("samples as floats, int16 or int32", f"{samples} in column {audio}")
        if samples and rate is None and not isinstance(features[audio], dict):
            raise self._lacks(f"a column sampling_rate beside the samples in column {audio}", listed)
        fields = self.columns.fields([name for name in features if name != audio and name not in stored])
        name = fields.audio if audio in stored else None
        if fields.text is None:
            raise self._lacks("a column text", listed)
        feature = features[fields.text]
        labels = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()
        if not labels and getattr(feature, "dtype", "") not in _TEXT_TYPES:
            raise self._lacks(f"one text in each row of column {fields.text}", str(feature)[:100])
        hidden = {*stored, audio} | ({rate} if samples and rate else set())
        said = {meaning for meaning, _ in self.columns.given}
        fields = replace(fields, audio=audio)
        if not fields.offset and "duration" not in said:
            fields = replace(fields, duration=())  # of whatever unit: no claim
        elif fields.offset and not fields.end and not fields.duration and "offset" not in (*said, *fields.offset):
            raise self._lacks("an end or a duration beside a start", f"only {fields.offset[0]}")
        cuts = bool(said & {"offset", "end"}) or "offset" in fields.offset
        return _Layout(audio, name, fields, rate, samples, labels, frozenset(hidden), cuts)

    def _lacks(self, expected: str, got: str) -> DataError:
        return DataError(
            self.name, expected=expected, got=got, fix="Choose another data set, or name its columns with --columns."
        )


class _Archives:
    """Zip files that a data set names recordings in, as `zip://NAME::ARCHIVE`; the last one stays open."""

    def __init__(self) -> None:
        self._name = ""
        self._open: zipfile.ZipFile | None = None

    def read(self, name: str, find: Callable[[str], Place]) -> tuple[bytes, str]:
        """A recording's bytes, and its name in its archive, which `find` finds. Raises RejectedError."""
        inner, _, outer = name.removeprefix(_ZIP).partition("::")
        try:
            if self._open is None or self._name != outer:
                self.close()
                self._open, self._name = zipfile.ZipFile(str(find(outer))), outer
            if self._open.getinfo(inner).file_size > _ZIPPED_BYTES:
                raise RejectedError("too_long", f"more than {_ZIPPED_BYTES} bytes in an archive")
            return self._open.read(inner), inner
        except KeyError as error:
            raise RejectedError("missing", "no such file in the archive") from error
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise RejectedError("unreadable", f"the archive: {error}"[:200]) from error

    def close(self) -> None:
        if self._open is not None:
            self._open.close()


class _Faults:
    """A context in which an error of the `datasets` library, or of what it reads with, becomes one line."""

    def __init__(self, source: HuggingFaceSource) -> None:
        self._source = source

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, _faults()) or isinstance(error, DataError):
            return
        on_hub = self._source.path is None
        fix = "Check its name, --split and the network." if on_hub else "Check SOURCE and --split."
        if "Config name is missing" in str(error):
            fix = f"Name one: hf:{self._source.name}:CONFIG."
        name = self._source.name if self._source.config is None else f"{self._source.name}:{self._source.config}"
        raise DataError(name, expected="a data set that loads", got=_said(error), fix=fix) from error


def _faults() -> tuple[type[Exception], ...]:
    import datasets
    import httpx
    import pyarrow
    import yaml

    return (
        *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, EOFError),
        *(datasets.exceptions.DatasetsError, pyarrow.ArrowException, httpx.HTTPError, yaml.YAMLError),
    )


def _said(error: BaseException) -> str:
    """What an error says, and what it comes from, in one line."""
    said = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split("Example of usage")[0].split()).rstrip(".")
        if not text.startswith("An error occurred"):  # which the library wraps around what happened
            said.append(text or type(cause).__name__)
        cause = cause.__cause__
    return ": ".join(dict.fromkeys((said or [type(error).__name__])[:: max(1, len(said) - 1)]))[:300]


def is_dataset(folder: Path) -> bool:
    """Whether a folder is a data set that says so itself: saved, described by its README.md, or with metadata files."""
    names = {entry.name for entry in folder.iterdir()}
    if "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= names:
        return True
    if "README.md" in names and _CONFIGURED & {line.rstrip() for line in _front_matter(folder / "README.md")}:
        return True
    # In the folder itself a metadata file is a table like any other.
    return any(base != folder and name in _METADATA and _names_files(base / name) for base, name in walk(folder))


def _front_matter(readme: Path) -> list[str]:
    """The lines of YAML that a data set's card begins with."""
    with open(readme, encoding="utf-8", errors="replace") as file:
        if file.readline().rstrip() != "---":
            return []
        return list(itertools.takewhile(lambda line: line.rstrip() != "---", itertools.islice(file, _CARD_LINES)))


def _names_files(metadata: Place) -> bool:
    """Whether a metadata file has a column file_name, as audio folders have it."""
    try:
        with opened(metadata) as file:
            line = file.readline(_HEADER_BYTES).decode("utf-8-sig")
        names = json.loads(line) if metadata.suffix == ".jsonl" else next(csv.reader([line]), [])
    except (OSError, ValueError):
        return False
    return any(isinstance(name, str) and name.endswith("file_name") for name in names)


def split_name(name: str) -> tuple[str, str | None]:
    """A data set's name or path, and the config behind its last colon."""
    if os.path.exists(name):
        return name, None
    place, _, config = name.rpartition(":") if ":" in name else (name, "", "")
    return place, config or None


def _stored(self: Any, value: Any) -> dict[str, Any]:
    """What an Audio column stores for `value`, as `datasets.Audio.encode_example` has it."""
    if isinstance(value, str | os.PathLike):
        return {"bytes": None, "path": os.fspath(value)}
    if isinstance(value, Mapping):
        if "array" in value:
            array = np.asarray(value["array"])
            return {"bytes": _wav(array, value.get("sampling_rate"), str(array.dtype)), "path": None}
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    return {"bytes": None if value is None else bytes(value), "path": None}


def _holds_recordings(feature: Any, datasets: Any) -> bool:
    """Whether a column is of recordings by its type: an Audio, bytes, or what an Audio is once it is stored."""
    if isinstance(feature, dict):
        return "bytes" in feature or ("array" in feature and any(key in feature for key in _RATE_KEYS))
    return isinstance(feature, datasets.Audio) or getattr(feature, "dtype", "") in (
        "binary",
        "large_binary",
        "binary_view",
    )


def _sample_type(feature: Any, datasets: Any) -> str:
    """The type of the samples in a column of lists of numbers, or of lists of them, one a channel; else empty."""
    if isinstance(feature, dict):
        feature = feature.get("array")
    if isinstance(feature, datasets.Array2D):
        return str(feature.dtype)
    for _ in range(2):
        inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else None)
        if inner is None:
            return ""
        if isinstance(inner, datasets.Value):
            return str(inner.dtype) if inner.dtype.startswith(("int", "uint", "float")) else ""
        feature = inner
    return ""


def _wav(samples: Any, rate: object, kind: str) -> bytes:
    """Samples, one row a channel where there are several, as a WAV file. Raises RejectedError."""
    try:
        array = np.asarray(samples, dtype=kind or None)
    except (TypeError, ValueError, OverflowError) as error:
        raise RejectedError("bad_row", "samples that are no array of numbers") from error
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1 << 32 or rate != int(rate):
        raise RejectedError("bad_header", f"a sampling rate of {rate!r}"[:100])
    stored = _STORED.get(str(array.dtype))
    if array.ndim not in (1, 2) or (array.ndim == 2 and len(array) > _CHANNELS_MAX) or stored is None:
        raise RejectedError("bad_row", f"samples of shape {array.shape} and type {array.dtype}")
    if array.nbytes > _WAV_BYTES:
        raise RejectedError("too_long", f"{array.nbytes} bytes of samples")
    if not array.size:
        raise RejectedError("empty", "no samples")
    # libsndfile would write down when it wrote, and the same samples would be other bytes every second.
    little = np.ascontiguousarray(array.T, dtype=stored)
    tag, channels, width = (3 if stored[1] == "f" else 1), 1 if array.ndim == 1 else len(array), little.itemsize
    form = struct.pack("<HHIIHH", tag, channels, int(rate), int(rate) * channels * width, channels * width, 8 * width)
    content = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", little.nbytes)
    return b"RIFF" + struct.pack("<I", len(content) + little.nbytes) + content + little.tobytes()


def _carries_bytes(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_carries_bytes, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_carries_bytes, value))
    return isinstance(value, bytes | bytearray)


def _plain(value: Any) -> Any:
    """A value as JSON has it: dates and times in ISO 8601, decimals as text, time spans in seconds."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(one) for one in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, Decimal) else value
