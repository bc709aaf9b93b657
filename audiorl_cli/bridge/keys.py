"""Puts core's audio key sets into EasyDeL, and proves through EasyDeL's own functions that they took hold.

EasyDeL 0.3.0 lists by name which columns of a batch reach its models, and no list names audio: rollouts and losses run
deaf without an error. The lists are imported by name from module to module, so each holds a reference of its own.
Importing one `easydel.trainers` module loads all of them; `apply` therefore rebinds the list where it is defined, which
is where modules imported later take it from, and in every EasyDeL module loaded so far.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Final, cast

import jax
import numpy as np

from audiorl_cli import core
from audiorl_cli.errors import InstallError

Names = tuple[str, ...] | list[str] | set[str] | frozenset[str]

FIX: Final = "Install easydel==0.3.0, the release this project was verified against."


@dataclass(frozen=True)
class ListReport:
    """One of EasyDeL's lists: `had` before us, `added` by us, in which modules (`holders`), whether it `took_hold`."""

    module: str
    name: core.KeySet
    had: tuple[str, ...]
    added: tuple[str, ...]
    holders: tuple[str, ...]
    took_hold: bool


@dataclass(frozen=True)
class PatchReport:
    """All of EasyDeL's lists. `needed`: upstream lacked a key; `applied`: we put one in; `took_hold`: all work."""

    lists: tuple[ListReport, ...]
    needed: bool
    applied: bool
    took_hold: bool


# What this process has put into each list: upstream's own keys must stay apart from ours in the report.
_added: dict[tuple[str, core.KeySet], frozenset[str]] = {}


def applied() -> bool:
    """Whether `apply` has run in this process; nothing undoes it."""
    return bool(_added)


def apply() -> PatchReport:
    """Put `core.EASYDEL_KEY_SETS` into EasyDeL, once for the process; a second call changes nothing.

    Call it before a trainer is built: functions compiled earlier keep the lists they were traced with. Starts no JAX
    backend. Raises InstallError where EasyDeL cannot be imported, or has moved, renamed or retyped a list or one of the
    functions that read it, so that the keys would not take hold.
    """
    lists = {where: _names(*where) for where in core.EASYDEL_KEY_SETS}  # all are there before any is touched
    for where, keys in core.EASYDEL_KEY_SETS.items():
        listed = lists[where]
        _added[where] = _added.get(where, frozenset()) | (keys - set(listed))
        replacement = _with(listed, keys)
        for module, attribute in _holders(where[1], listed):
            held = vars(module)[attribute]
            setattr(module, attribute, replacement if held is listed else _with(held, keys))
    report = examine()
    for item in report.lists:
        if not item.took_hold:
            raise InstallError(
                f"{item.module}.{item.name}",
                expected=f"{', '.join(sorted(core.AUDIO_KEYS))} to reach the model once listed",
                got="EasyDeL's own functions drop or change them",
                fix=FIX,
            )
    return report


def examine() -> PatchReport:
    """What EasyDeL's lists hold now, and whether its functions keep the audio keys; changes nothing.

    Raises InstallError as `apply` does, but for keys that do not take hold.
    """
    aligned = core.AUDIO_KEYS.intersection(_names(*core.PROMPT_ALIGNED))
    if aligned:
        raise InstallError(
            ".".join(core.PROMPT_ALIGNED),
            expected="no audio key (mel time is not token time)",
            got=", ".join(sorted(aligned)),
            fix=FIX,
        )
    lists = []
    for (module, name), keys in core.EASYDEL_KEY_SETS.items():
        listed, ours = _names(module, name), _added.get((module, name), frozenset())
        holders = _holders(name, listed)
        held = all(keys <= set(vars(holder)[attribute]) for holder, attribute in holders)
        lists.append(
            ListReport(
                module=module,
                name=name,
                had=tuple(sorted(keys.intersection(listed) - ours)),
                added=tuple(sorted(ours)),
                holders=tuple(sorted(holder.__name__ for holder, _ in holders)),
                took_hold=held and _reach_the_model(name, keys),
            )
        )
    return PatchReport(
        lists=tuple(lists),
        needed=any(not core.EASYDEL_KEY_SETS[item.module, item.name] <= set(item.had) for item in lists),
        applied=any(item.added for item in lists),
        took_hold=all(item.took_hold for item in lists),
    )


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise InstallError(name, expected="a module that can be imported", got=str(error), fix=FIX) from error


def _names(module: str, name: str) -> Names:
    listed = vars(_module(module)).get(name)
    if type(listed) not in (tuple, list, set, frozenset):
        raise InstallError(
            f"{module}.{name}",
            expected="a tuple, list or set of column names",
            got="no such name" if listed is None else type(listed).__name__,
            fix=FIX,
        )
    return cast(Names, listed)


def _with(listed: Names, keys: frozenset[str]) -> Names:
    """`listed` and the `keys` it lacks, of the same type, its own order first; mutable lists are changed in place."""
    missing = sorted(keys - set(listed))
    if isinstance(listed, set):
        listed.update(missing)
    elif isinstance(listed, list):
        listed.extend(missing)
    elif isinstance(listed, tuple):
        return (*listed, *missing) if missing else listed
    elif missing:
        return listed.union(missing)
    return listed


def _holders(name: str, listed: Names) -> list[tuple[ModuleType, str]]:
    """(module, attribute) of every loaded EasyDeL module that holds the list, under its own name or another."""
    modules = [module for path, module in list(sys.modules.items()) if path.split(".")[0] == "easydel"]
    return [
        (module, attribute)
        for module in modules
        for attribute, value in list(vars(module).items())
        if value is listed or attribute == name
    ]


def _reach_the_model(name: core.KeySet, keys: frozenset[str]) -> bool:
    """Whether EasyDeL's functions that read this list let `keys` through unchanged."""
    try:
        return _PROBES[name](keys)
    except (AttributeError, TypeError) as error:
        raise InstallError(
            f"the functions that read {name}", expected="those of EasyDeL 0.3.0", got=str(error), fix=FIX
        ) from error


def _generation(keys: frozenset[str]) -> bool:
    training = _module("easydel.trainers.training_utils")
    batch = {key: np.ones((2, 4, 3), np.float32) for key in keys}
    deaf = training.extract_generation_model_kwargs(batch, model_callable=lambda input_ids: input_ids)
    heard = training.extract_generation_model_kwargs({**batch, "reference": np.ones(2)})
    return not deaf and _same(heard, batch) and keys <= set(training.normalize_generation_model_kwargs(None))


def _grouped(keys: frozenset[str]) -> bool:
    training = _module("easydel.trainers.training_utils")
    batch = {key: np.ones((2, 4, 3), np.float32) for key in keys}
    return _same(
        training.prepare_generation_model_kwargs_for_call(batch, prompt_length=3, target_sequence_length=9), batch
    )


def _flattenable(keys: frozenset[str]) -> bool:
    # Three frames and a prompt of three tokens: a collator that took mel time for token time would pad to eight.
    utils = _module("easydel.trainers.utils")
    audio = {key: np.ones((4, 3), np.float32) for key in keys}
    row = {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], **audio}
    single = utils.GRPODataCollatorGrain(max_prompt_length=8, pad_token_id=0)(row)
    # Traced, not run: this must not start a backend before a pod's processes have found one another.
    batch = jax.eval_shape(lambda: utils.GRPODataCollatorTFDS(max_prompt_length=8, pad_token_id=0)([row, row]))
    return _same({key: single.get(key) for key in keys}, audio) and all(batch[key].shape == (2, 4, 3) for key in keys)


def _tokenized(keys: frozenset[str]) -> bool:
    row = {key: np.ones((4, 3), np.float32) for key in keys}
    return _same(_module("easydel.trainers.prompt_transforms").purify_example({**row, "text": "one"}), row)


def _same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in expected)


_PROBES: Final[dict[core.KeySet, Callable[[frozenset[str]], bool]]] = {
    "GENERATION_MODEL_INPUT_KEYS": _generation,
    "GROUPED_MULTIMODAL_MODEL_INPUT_KEYS": _grouped,
    "FLATTENABLE_MULTIMODAL_KEYS": _flattenable,
    "_TOKENIZED_FIELDS": _tokenized,
}
