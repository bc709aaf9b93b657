"""Hugging Face data sets, from the hub or from disk. Their audio is left undecoded: our own decoder reads the bytes."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiorl_cli.data.rejected import RejectedError, Rejection
from audiorl_cli.data.sources import Fields, Item, Utterance, checked_name, checked_text, confined
from audiorl_cli.data.store import Place
from audiorl_cli.errors import DataError


@dataclass(frozen=True)
class HuggingFaceSource:
    """`name` on the hub (with ":CONFIG" behind it where it has several), or the folder `path`. `split`: train, test...

    A data set from the hub can name files of its own only, or such as were unpacked from fetched archives, never others
    on this machine. Nothing that it carries is run as code.
    """

    name: str
    path: Path | None = None
    split: str | None = None
    root: Path | None = None
    kind: str = "hf"

    def items(self) -> Iterator[Item]:
        """One item a row. Raises DataError where the data set cannot be loaded or lacks recordings or transcripts."""
        data, audio = self._load()
        fields = Fields.of([name for name in data.column_names if name != audio])
        if fields.text is None:
            raise DataError(
                self.name, expected="a column text", got=", ".join(data.column_names), fix="Choose another data set."
            )
        for number, row in enumerate(data):
            where = f"row {number}"
            try:
                yield self._utterance(row, where, number, audio, fields)
            except RejectedError as error:
                yield Rejection(str(row.get("id", ""))[:100], where, error.reason, error.detail)

    def _utterance(self, row: Mapping[str, Any], where: str, number: int, audio: str, fields: Fields) -> Utterance:
        value = row[audio] if isinstance(row[audio], Mapping) else {"path": row[audio]}
        content, name = value.get("bytes"), value.get("path") or ""
        if content is None and not name:
            raise RejectedError("missing", "neither bytes nor a path")
        identity = row.get("id")
        stem = Path(name).stem or f"{number:08d}"
        speaker = row.get(fields.speaker) if fields.speaker else None
        return Utterance(
            id=checked_name(stem if identity in (None, "") else identity, "an id"),
            audio=content if content is not None else self._file(name),
            text=checked_text(row[fields.text] if fields.text else None),
            source=where,
            # A hub's cache lies elsewhere on every machine; the file's own name does not.
            audio_name=Path(name).name,
            speaker="" if speaker is None else checked_name(speaker, "a speaker"),
            fallback_id=f"{stem}@row{number}" if identity in (None, "") else None,
            extra={n: v for n, v in fields.extra(row, ("id", audio)).items() if not isinstance(v, bytes)},
        )

    def _file(self, name: str) -> Place:
        if self.path is not None:
            return confined(name, self.path if self.path.is_dir() else self.path.parent, self.root)
        from datasets import config
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.file_download import repo_folder_name

        unpacked = Path(config.EXTRACTED_DATASETS_PATH)
        own = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=self.name.partition(":")[0], repo_type="dataset")
        if Path(os.path.realpath(name)).is_relative_to(os.path.realpath(unpacked)):
            own = unpacked
        path = confined(name, own, own, "the data set's own files")
        return path if self.root is None else confined(name, own, self.root)

    def _load(self) -> tuple[Any, str]:
        """The rows, and the name of the column that holds their recordings."""
        import datasets

        datasets.disable_progress_bars()  # the command shows its own
        # huggingface_hub: a line for each of five attempts to reach the hub, before the one error that says it all
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        try:
            data = self._dataset(datasets)
        except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as error:
            got = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
            fix = "Check its name, --split and the network." if self.path is None else "Check SOURCE and --split."
            raise DataError(self.name, expected="a data set that loads", got=got[:300], fix=fix) from error
        if not isinstance(data, datasets.Dataset):
            raise DataError(
                self.name, expected="one split", got=", ".join(map(str, data)), fix="Choose one with --split."
            )
        sounds = [name for name, feature in data.features.items() if isinstance(feature, datasets.Audio)]
        for name in sounds:
            data = data.cast_column(name, datasets.Audio(decode=False))
        column = sounds[0] if sounds else Fields.of(data.column_names).audio
        if column is None:
            raise DataError(
                self.name, expected="an audio column", got=", ".join(data.column_names), fix="Choose another data set."
            )
        return data.remove_columns(sounds[1:]), column

    def _dataset(self, datasets: Any) -> Any:
        if self.path is None:
            name, _, config = self.name.partition(":")
            return datasets.load_dataset(name, config or None, split=self.split)
        if any((self.path / marker).exists() for marker in ("state.json", "dataset_dict.json")):
            data = datasets.load_from_disk(str(self.path))
            if isinstance(data, datasets.DatasetDict):
                chosen = self.split or (next(iter(data)) if len(data) == 1 else None)
                if chosen is not None and chosen not in data:
                    raise ValueError(f"no split {chosen!r}, only {', '.join(map(str, data))}")
                return data if chosen is None else data[chosen]
            return data
        if self.path.is_file():
            return datasets.load_dataset("parquet", data_files={"train": str(self.path)}, split=self.split or "train")
        loaded = datasets.load_dataset(str(self.path), split=self.split)
        return next(iter(loaded.values())) if self.split is None and len(loaded) == 1 else loaded
