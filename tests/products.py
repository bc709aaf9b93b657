"""The matrix products of a traced program, and the precision they ask for."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
KINDS = ("dot_general", "ragged_dot_general", "ragged_dot", "conv_general_dilated")


def products(program: Any) -> Iterator[Any]:
    """Every matrix product of a traced program, those inside its loops, branches and calls included."""
    for operation in program.eqns:
        if operation.primitive.name in KINDS:
            yield operation
        for parameter in operation.params.values():
            for inner in parameter if isinstance(parameter, list | tuple) else [parameter]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)


def loose(operations: Iterable[Any]) -> list[str]:
    """Those of another precision than the highest."""
    return [str(one) for one in operations if one.params["precision"] != HIGHEST]
