"""What a compiled program moves on one chip, read from its text: bytes of HBM, and bytes between chips.

XLA's own count takes a loop for one turn of it, and a gather for all that it might read.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Final, NamedTuple

_ARRAY: Final = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\](\{[^}]*\})?")
_NAME: Final = re.compile(r"%([\w.\-]+)")
_HEAD: Final = re.compile(r"^(ENTRY )?%([\w.\-]+) \(")
_CALLED: Final = re.compile(r"(?:calls|to_apply|branch_computations|called_computations)=\{?((?:%[\w.\-]+(?:, )?)+)")
_LOOP: Final = re.compile(r"condition=%([\w.\-]+), body=%([\w.\-]+)")
_LISTED: Final = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED: Final = re.compile(r"replica_groups=\[\d+,(\d+)\]")
# They name what is there, or wait for what another one moves.
_FREE: Final = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all")
)
_SLICES: Final = frozenset(("dynamic-slice", "slice", "gather"))
_IN_PLACE: Final = frozenset(("dynamic-update-slice", "scatter"))


class Traffic(NamedTuple):
    """Bytes on one chip: of its HBM, read or written; and between it and others, as rings of neighbours pass them."""

    hbm: float = 0.0
    wire: float = 0.0

    def plus(self, other: "Traffic", times: float = 1.0) -> "Traffic":
        """This, and `times` the `other`."""
        return Traffic(self.hbm + times * other.hbm, self.wire + times * other.wire)


@dataclass(frozen=True)
class _Instruction:
    name: str
    kind: str  # of its result
    operation: str
    arguments: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.arguments)


@dataclass
class _Computation:
    instructions: dict[str, _Instruction] = field(default_factory=dict)

    def parameter(self, number: int) -> str:
        """The name that it has for what it is given at this place."""
        found = (one for one in self.instructions.values() if one.operation == "parameter")
        return next(one.name for one in found if int(one.arguments) == number)


_Computations = dict[str, _Computation]


def traffic(text: str, trips: int) -> Traffic:
    """What the program `text` (of `Compiled.as_text()`) moves. `trips`: turns of a loop whose end depends on data.

    An operation reads its operands and writes its result, once each, unless they lie in a chip's own fast memory; what
    is sliced or gathered is read as far as it is taken, what is updated in place written as far as it changes.
    """
    computations, entry = _parsed(text)

    @cache
    def of(name: str, fused: bool) -> Traffic:
        found, here = Traffic(), computations[name]
        for each in here.instructions.values():
            found = found.plus(Traffic(0.0 if fused else _hbm(each, here, computations), _wire(each)))
            if loop := _LOOP.search(each.rest):
                turn, last = of(loop[1], fused).plus(of(loop[2], fused)), _last(computations[loop[1]])
                found = found.plus(turn, trips if last is None else last)
            else:
                inside = fused or each.operation not in ("call", "conditional", "async-start")
                for other in _called(each):
                    found = found.plus(of(other, inside))
        return found

    return of(entry, False)


def _called(each: _Instruction) -> list[str]:
    """The computations that an operation calls, but a loop's."""
    called = _CALLED.search(each.rest)
    return _NAME.findall(called[1]) if called else []


def _last(condition: _Computation) -> int | None:
    """How often a loop turns that only counts, as those of `scan` and `map` do, from nought; None of any other."""
    root = next(each for each in condition.instructions.values() if each.root)
    if root.operation != "compare" or "direction=LT" not in root.rest:
        return None
    limits = [condition.instructions[name] for name in root.operands]
    return next((int(each.arguments) for each in limits if each.operation == "constant"), None)


def _parsed(text: str) -> tuple[_Computations, str]:
    computations: _Computations = {}
    entry, current = "", _Computation()
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = computations[head[2]] = _Computation()
            entry = head[2] if head[1] else entry
        elif line.startswith("  ") and " = " in line:
            each = _instruction(line)
            current.instructions[each.name] = each
    return computations, entry


def _instruction(line: str) -> _Instruction:
    left, right = line.strip().split(" = ", 1)
    kind = right[: _closing(right) + 1] if right.startswith("(") else right.split(" ", 1)[0]
    operation, call = right[len(kind) :].strip().split("(", 1)
    end = _closing(f"({call}")
    return _Instruction(
        left.removeprefix("ROOT ").lstrip("%"),
        kind,
        operation,
        call[: end - 1],
        call[end:],
        left.startswith("ROOT "),
    )


def _closing(text: str) -> int:
    """Where the parenthesis is closed with which `text` begins."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return place
    raise ValueError(f"a parenthesis that is not closed: {text[:80]}")


def _arrays(kind: str) -> list[tuple[float, bool]]:
    """Of each array of a type: its bytes, and whether it lies in HBM."""
    found = []
    for letters, bits, dims, layout in _ARRAY.findall(kind):
        count = 1
        for size in filter(None, dims.split(",")):
            count *= int(size)
        found.append((count * (int(bits) if bits else 8) / 8 if letters != "token" else 0.0, "S(" not in layout))
    return found


def _in_hbm(kind: str) -> float:
    return sum(size for size, here in _arrays(kind) if here)


def _hbm(each: _Instruction, here: _Computation, computations: _Computations) -> float:
    operation = each.operation
    if operation in _FREE or operation.endswith("-done"):
        return 0.0
    if operation.endswith("-start"):  # its result names source, target and a sign: one of them is in HBM, or both
        parts = _arrays(each.kind)
        return parts[1][0] * sum(here for _, here in parts[:2]) if len(parts) > 1 else 0.0
    kinds = [here.instructions[name].kind for name in each.operands if name in here.instructions]
    if operation == "fusion":
        return _of_fusion(each, kinds, computations[_called(each)[0]], computations)
    if operation in _SLICES:
        return 2 * _in_hbm(each.kind) or _moved(each)
    if operation in _IN_PLACE:
        return 2 * _in_hbm(kinds[1])
    return _in_hbm(each.kind) + sum(map(_in_hbm, kinds))


def _moved(each: _Instruction) -> float:
    return sum(size for size, _ in _arrays(each.kind))


def _of_fusion(each: _Instruction, kinds: list[str], body: _Computation, computations: _Computations) -> float:
    total = 0.0
    for number, kind in enumerate(kinds):
        whole = _in_hbm(kind)
        total += min(whole, _taken(body.parameter(number), body, computations)) if whole else 0.0
    root = next(one for one in body.instructions.values() if one.root)
    if root.operation in _IN_PLACE and _in_hbm(each.kind):
        return total + _moved(body.instructions[root.operands[1]])
    return total + _in_hbm(each.kind)


def _taken(name: str, body: _Computation, computations: _Computations) -> float:
    """How much of `name` the operations of a fusion read; infinite for all of it."""
    if body.instructions[name].root:  # handed on as it is
        return math.inf
    total = 0.0
    for user in body.instructions.values():
        for place in (place for place, operand in enumerate(user.operands) if operand == name):
            if user.operation == "bitcast":
                total += _taken(user.name, body, computations)
            elif user.operation == "fusion":
                inner = computations[_called(user)[0]]
                total += _taken(inner.parameter(place), inner, computations)
            elif user.operation in _SLICES and place == 0:
                total += _moved(user)
            elif user.operation not in _IN_PLACE or place != 0:
                return math.inf
    return total


def _wire(each: _Instruction) -> float:
    operation = each.operation.removesuffix("-start")
    if operation not in _RINGS:
        return 0.0
    sizes = [size for size, _ in _arrays(each.kind)]
    if each.operation == "all-gather-start":  # what is given, and then what comes of it
        sizes = sizes[len(sizes) // 2 :]
    elif each.operation == "collective-permute-start":  # likewise, and two signs
        sizes = sizes[1:2]
    return _RINGS[operation](sum(sizes), _members(each.rest))


def _members(rest: str) -> int:
    if listed := _LISTED.search(rest):
        return len(listed[1].split(","))
    counted = _COUNTED.search(rest)
    return int(counted[1]) if counted else 2


# By the size of what an operation leaves on each of so many chips.
_RINGS: Final[dict[str, Callable[[float, int], float]]] = {
    "all-gather": lambda size, members: size * (members - 1) / members,
    "all-reduce": lambda size, members: 2 * size * (members - 1) / members,
    "reduce-scatter": lambda size, members: size * (members - 1),
    "all-to-all": lambda size, members: size * (members - 1) / members,
    "ragged-all-to-all": lambda size, members: size * (members - 1) / members,
    "collective-permute": lambda size, members: size,
    "collective-broadcast": lambda size, members: size,
}
