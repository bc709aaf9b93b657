"""A thinker and its tokenizer: the built-in tiny one, or from a Hugging Face folder or id or a RUN; and back again."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor

from audiorl_cli import core
from audiorl_cli.bridge import hosts, lora, weights
from audiorl_cli.bridge.configuration import DTYPES, WHOLE_OMNI, easydel_config, thinker_config
from audiorl_cli.bridge.thinker import AudioThinker
from audiorl_cli.bridge.tiny import tiny_config, tiny_values
from audiorl_cli.bridge.tokenizer import END_OF_TEXT, TURN_END, has_tokenizer, pretrained_tokenizer, tiny_tokenizer
from audiorl_cli.config import Dtype, Export, MeshConfig
from audiorl_cli.data.mirror import local
from audiorl_cli.data.store import place
from audiorl_cli.errors import ModelError

TINY = "tiny"
RUN_CONFIG = "config.toml"
RUN_MODEL = "model"
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
GENERATION = "generation_config.json"
CARD = "README.md"
SMALL_FILES = ("*.json", "*.txt", "*.jinja")  # config, tokenizer and processor, as a hub repository holds them

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """A model and what belongs to it.

    `model`: the thinker; without values where it comes from `abstract`. `config`: EasyDeL's config of it.
    `thinker`: the same in transformers' keys, as `config.json` holds it. `source`: where it came from.
    `files`: name -> content of what lay beside its weights (tokenizer, processor, generation config) and goes wherever
    it goes. `omni`: the folder of the whole Omni that this is the thinker of; None of a thinker by itself.
    """

    model: AudioThinker
    tokenizer: PreTrainedTokenizerBase
    config: Any
    source: str
    thinker: dict[str, Any]
    files: dict[str, bytes]
    omni: Path | None


def load(
    model: str,
    *,
    dtype: Dtype = "float32",
    masters: bool = False,
    mesh: MeshConfig | None = None,
    devices: Sequence[Any] | None = None,
) -> Checkpoint:
    """The checkpoint `model`: "tiny", a Hugging Face folder, a RUN folder or a hub id, in `dtype` on `mesh`.

    `masters`: its parameters are float32, whatever it computes in (`weights.ready`). `devices`: those to use where they
    are not all. Weights go from their files onto the mesh one tensor at a time.
    Raises ModelError where it cannot be found, read or is not a Qwen3-Omni, ConfigError for a mesh that does not fit
    the devices or the model.
    """
    folder = folder_of(model)
    checkpoint = _described(model, folder, dtype, mesh or MeshConfig(), devices, masters=masters)
    with checkpoint.model.mesh:
        full = (
            weights.filled(checkpoint.model, tiny_values())
            if folder is None
            else weights.load(checkpoint.model, folder)
        )
    return Checkpoint(**{**vars(checkpoint), "model": full})


def abstract(
    model: str, *, dtype: Dtype = "float32", mesh: MeshConfig | None = None, devices: Sequence[Any] | None = None
) -> Checkpoint:
    """`load` without its weights: shapes and dtypes only, whatever the size. Raises as `load` does.

    `devices` may be those of another machine, which programs are compiled for.
    """
    folder = None if model == TINY else _folder(model, weights=False)
    return _described(model, folder, dtype, mesh or MeshConfig(), devices)


def outline(
    model: str,
    *,
    dtype: Dtype,
    masters: bool,
    mesh: MeshConfig,
    devices: Sequence[Any],
    layers: tuple[int, int] | None = None,
) -> Checkpoint:
    """`abstract` to make programs of, for which a folder with a `config.json` is enough: without a tokenizer beside it,
    it has the built-in one. `layers`: of the decoder and of the tower, where not all are wanted."""
    folder = None if model == TINY else _folder(model, weights=False)
    return _described(model, folder, dtype, mesh, devices, masters=masters, bare=True, layers=layers)


def folder_of(model: str) -> Path | None:
    """The local folder that `load` reads the weights of `model` from; None for the built-in one. Raises as it does."""
    return None if model == TINY else _folder(model, weights=True)


def save(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    export: Export = "thinker",
    card: str | None = None,
    shard_bytes: int = weights.SHARD_BYTES,
) -> None:
    """Writes `checkpoint` as a Hugging Face folder, with what lay beside its weights, and `card` as its README.md.

    `export`: as a thinker, which transformers loads as Qwen3OmniMoeThinkerForConditionalGeneration, or as the whole
    Omni it came from, everything but the thinker as it was. A model that stood in `folder` is replaced once the new one
    is whole. Of several processes the first writes, and
    all have to call it. Raises ModelError where `folder` holds something else, and as `demand_export` does.
    """
    demand_export(checkpoint, export)
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise ModelError(
            str(folder), expected="a new folder, or a model to replace", got="other files", fix="Give another folder."
        )
    model = lora.merged(checkpoint.model)
    if not hosts.leads():
        weights.give(model)
        return
    with _replacing(folder) as partial:
        omni = checkpoint.omni if export == "omni" else None
        weights.save(model, partial, shard_bytes, omni=omni)
        for name, content in checkpoint.files.items():
            (partial / name).write_bytes(content)
        dtype = {"dtype": str(np.dtype(checkpoint.model.param_dtype))}
        if export == "omni":
            whole = json.loads(checkpoint.files[CONFIG])
            config = {**whole, **dtype, "thinker_config": {**whole["thinker_config"], **dtype}}
        else:
            config = {**checkpoint.thinker, **dtype}
            # A whole Omni's has nothing of where its thinker ends, and transformers' `generate` would never stop.
            ends = {"eos_token_id": checkpoint.config.eos_token_id, "pad_token_id": checkpoint.config.pad_token_id}
            told = json.loads(checkpoint.files.get(GENERATION, b"{}"))
            generation = ends | {name: value for name, value in told.items() if value is not None}
            (partial / GENERATION).write_bytes(_encoded(generation))
        (partial / CONFIG).write_bytes(_encoded(config))
        if card is not None:
            (partial / CARD).write_text(card, encoding="utf-8")


def save_adapter(checkpoint: Checkpoint, folder: Path, *, export: Export = "thinker") -> None:
    """Writes the adapters of `checkpoint` as a folder that PEFT loads onto its base model; none where it has none.

    `export`: whether as those of a thinker, or of the whole Omni it came from. Raises as `demand_export` does.
    """
    demand_export(checkpoint, export)
    if lora.adapters(checkpoint.model) and hosts.leads():
        prefix = weights.THINKER if export == "omni" else ""
        with _replacing(folder) as partial:
            lora.save(checkpoint.model, partial, base=_base(checkpoint.source), prefix=prefix)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` once it is whole."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if folder.exists():
        shutil.rmtree(folder)
    partial.replace(folder)


def demand_export(checkpoint: Checkpoint, export: Export) -> None:
    """Raises ModelError where `checkpoint` cannot be saved as `export`; ask before a run, not after it."""
    if export == "omni" and checkpoint.omni is None:
        raise ModelError(
            checkpoint.source,
            expected='a whole Qwen3-Omni, for train.export = "omni"',
            got="a thinker by itself",
            fix='Give a whole one, or set train.export to "thinker".',
        )


def is_hub_id(model: str) -> bool:
    """Whether `model` names a repository of the hub, and nothing on this machine."""
    return bool(_HUB_ID.fullmatch(model)) and not Path(model).exists()


def _base(source: str) -> str | None:
    """Where a library finds the model `source`; None for the built-in one, which nobody else has."""
    if source == TINY:
        return None
    where, here = place(source), local(source)
    if (here / RUN_CONFIG).is_file():
        where, here = where / RUN_MODEL, here / RUN_MODEL
    return str(where.resolve()) if isinstance(where, Path) and where.exists() else str(where)


def _described(
    model: str,
    folder: Path | None,
    dtype: Dtype,
    mesh: MeshConfig,
    devices: Sequence[Any] | None,
    *,
    masters: bool = False,
    bare: bool = False,
    layers: tuple[int, int] | None = None,
) -> Checkpoint:
    """All of the checkpoint but the values of its parameters; `masters` as `load` says, the rest as `outline` does."""
    if folder is None:
        tokenizer: PreTrainedTokenizerBase = tiny_tokenizer()
        raw, files, generation = tiny_config(tokenizer), _written(tokenizer), {}
    else:
        raw = _json(folder / CONFIG)
        thinker_config(raw, model)  # another kind of model is refused for what it is, before its tokenizer is
        tokenizer = tiny_tokenizer() if bare and not has_tokenizer(folder) else pretrained_tokenizer(folder)
        found = {path for pattern in SMALL_FILES for path in folder.glob(pattern)} - {folder / weights.INDEX}
        files = {path.name: path.read_bytes() for path in sorted(found)}
        generation = _json(folder / GENERATION) if GENERATION in files else {}
    thinker = thinker_config(raw, model)
    if layers is not None:
        thinker["text_config"]["num_hidden_layers"], thinker["audio_config"]["encoder_layers"] = layers
    config = easydel_config(thinker, dtype, mesh, devices)
    config.eos_token_id = _ends(tokenizer, generation)
    config.pad_token_id = _id(tokenizer, END_OF_TEXT)
    lazy = AudioThinker.lazy_init(
        config=config,
        dtype=DTYPES[dtype],
        param_dtype=DTYPES["float32" if masters else dtype],
        # Accelerators multiply float32 in less unless told otherwise.
        precision=jax.lax.Precision.HIGHEST if dtype == "float32" else None,
    )
    if PREPROCESSOR not in files:
        files[PREPROCESSOR] = _encoded(_feature_extractor())
    omni = folder if raw["model_type"] == WHOLE_OMNI else None
    return Checkpoint(lazy, tokenizer, config, model, thinker, files, omni)


def _folder(model: str, *, weights: bool) -> Path:
    """The local folder of `model`: itself, the model of a RUN, or what a store or the hub has."""
    path = local(model, weights=weights)
    if (path / RUN_CONFIG).is_file():
        path = path / RUN_MODEL
        if not (path / CONFIG).is_file():
            raise ModelError(
                model,
                expected="a finished RUN, with model/",
                got="none yet",
                fix="Let audiorl train finish, or resume it.",
            )
    if (path / CONFIG).is_file():
        return path
    if not is_hub_id(model):
        raise ModelError(
            model,
            expected="tiny, a Hugging Face folder, a RUN folder or a hub id",
            got="one without config.json" if path.exists() else "no such folder",
            fix="Check --model.",
        )
    patterns = [*SMALL_FILES, "*.safetensors"] if weights else list(SMALL_FILES)
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            model,
            expected="a local folder, or a model the hub gives",
            got=str(error).strip().splitlines()[0],
            fix="Check the name and the network, or download it first and give its folder.",
        ) from error


def _ends(tokenizer: PreTrainedTokenizerBase, generation: dict[str, Any]) -> list[int]:
    """Ids that end a completion: the end of a turn, and what the checkpoint's generation config adds."""
    more = generation.get("eos_token_id") or []
    return list(dict.fromkeys([_id(tokenizer, TURN_END), *([more] if isinstance(more, int) else more)]))


def _id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(number, int) or tokenizer.convert_ids_to_tokens(number) != token:
        raise ModelError(
            "tokenizer", expected=f"a token {token}", got="none", fix="Use the tokenizer of a Qwen3-Omni checkpoint."
        )
    return number


def _written(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """The files of a tokenizer that comes from none."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _feature_extractor() -> dict[str, Any]:
    extractor: dict[str, Any] = WhisperFeatureExtractor(
        feature_size=core.MEL_BINS,
        sampling_rate=core.SAMPLE_RATE,
        hop_length=core.HOP_LENGTH,
        n_fft=core.N_FFT,
        chunk_length=round(core.CLIP_SECONDS),
        return_attention_mask=True,
    ).to_dict()
    return extractor


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(str(path), expected="a JSON file", got=str(error), fix="Copy or download it again.") from error
    if not isinstance(content, dict):
        raise ModelError(str(path), expected="a JSON object", got=type(content).__name__, fix="Download it again.")
    return content


def _encoded(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
