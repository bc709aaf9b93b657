"""The arithmetic of a program before any compiler has seen it: products and convolutions, loops as often as they run.

XLA counts a loop once, and nothing of the kernels that it makes of products by groups.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def flops(jaxpr: Any, trips: int, grouped: float = 1.0) -> float:
    """Floating point operations of `jaxpr` (of `jit(f).trace(...)`) on all devices together, two a multiplication.

    `trips`: how often a loop runs whose end depends on data. `grouped`: which share of the rows of a product by groups
    is in one of them, the rest not multiplied: where devices divide experts, each is shown the rows of all. Of
    alternatives the dearest is counted; elementwise work, sorting and reductions are not.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        within = [flops(inner, trips, grouped) for inner in _inner(params)]
        if name in _COUNTED:
            total += _COUNTED[name](equation) * (grouped if name == "ragged_dot_general" else 1.0)
        elif name == "cond":
            total += max(within, default=0.0)
        else:
            times = params["length"] if name == "scan" else trips if name == "while" else 1
            if name == "shard_map":  # what is inside is one device's
                times = params["mesh"].size
            total += times * sum(within)
    return total


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs that an operation calls."""
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * _count(equation.outvars[0].aval.shape) * _count(left[axis] for axis in contracted)


def _product_by_groups(equation: Any) -> float:
    """Each row of the first meets one matrix, or (the gradient of the matrices) one row of the second."""
    rows = equation.invars[0].aval.shape
    return 2.0 * _count((*rows, equation.outvars[0].aval.shape[-1]))


def _convolution(equation: Any) -> float:
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    taps = _count(kernel) / _count((kernel[numbers.rhs_spec[0]],))
    return 2.0 * _count(equation.outvars[0].aval.shape) * taps


def _count(shape: Iterable[int]) -> float:
    return float(math.prod(shape))


_COUNTED = {
    "dot_general": _product,
    "ragged_dot_general": _product_by_groups,
    "conv_general_dilated": _convolution,
}
