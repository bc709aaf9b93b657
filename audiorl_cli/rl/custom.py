"""Rewards of the user's own: a function by `module:function`, which names as its parameters what it wants to be given.

`reference` and `completion` are the texts as prep kept and the model wrote them. `normalised_reference` and
`normalised_completion` are what the rewards of this package compare: normalised, and without boilerplate where the
config strips it. Any other parameter is a column of the shards, as they hold it: `id`, `speaker`, `duration_s`,
`num_frames`, or one that prep kept from the source. A parameter with a default keeps it where there is no such column.

The function returns a finite number, in any range. It is called once for every completion.
"""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audiorl_cli.errors import ConfigError
from audiorl_cli.reward_config import is_custom

TEXTS: Final = ("reference", "completion", "normalised_reference", "normalised_completion")


@dataclass(frozen=True)
class Custom:
    """A function of the user's under its `name`, and its parameters; those in `optional` have a default."""

    name: str
    function: Callable[..., float]
    parameters: tuple[str, ...]
    optional: frozenset[str]

    def columns(self, there: Collection[str]) -> list[str]:
        """Those of the columns `there` that it asks for. Raises ConfigError for a missing one without a default."""
        asked = [name for name in self.parameters if name not in TEXTS]
        for name in asked:
            if name not in there and name not in self.optional:
                raise ConfigError(
                    f"parameter {name!r} of reward {self.name}",
                    expected=f"one of {', '.join((*TEXTS, *there))}",
                    got="no such text or column",
                    fix="Rename the parameter, or have prep keep that column.",
                )
        return [name for name in asked if name in there]

    def __call__(self, given: Mapping[str, object]) -> float:
        """What the function makes of those of `given` that are its parameters."""
        return self.function(**{name: given[name] for name in self.parameters if name in given})


def load(name: str) -> Custom:
    """The function that `name` (module:function) stands for.

    The module is looked for where Python looks and in the working folder. Raises ConfigError where it or the function
    is not there, cannot be imported for want of another module, or takes parameters that have no names.
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: no file there stands in for an installed package
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"reward {name}",
            expected=f"a module {module_name} that can be imported, from {here} too",
            got=str(error),
            fix="Correct the name, or install what it needs.",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(
            f"reward {name}",
            expected=f"a function {function_name} in {module.__file__ or module_name}",
            got="none" if function is None else repr(function),
            fix="Correct the name.",
        )
    parameters = inspect.signature(function).parameters.values()
    for one in parameters:
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            raise ConfigError(
                f"reward {name}",
                expected="parameters that can be given by name",
                got=str(one),
                fix="Name what it wants to be given: a text or a column.",
            )
    optional = frozenset(one.name for one in parameters if one.default is not one.empty)
    return Custom(name, function, tuple(one.name for one in parameters), optional)


def digest(rewards: Iterable[str]) -> str:
    """The sha256 (hex) over the files of those `rewards` that are functions of the user's; "" where there are none.

    What these import in their turn has no part in it. Raises ConfigError as `load` does.
    """
    own = sorted(filter(is_custom, rewards))
    for name in own:
        load(name)
    files = [sys.modules[name.partition(":")[0]].__file__ for name in own]
    content = [Path(file).read_bytes() for file in files if file]
    return hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in content)).hexdigest() if own else ""
