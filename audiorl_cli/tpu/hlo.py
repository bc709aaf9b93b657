"""What a compiled program moves on one chip, read from its text: bytes of HBM, and bytes between chips.

XLA's own count takes a loop for one turn of it, and a gather for all that it might read.
"""

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
_TRIPS: Final = re.compile(r'known_trip_count":\{"n":"(\d+)"')
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

    def users(self, name: str) -> list[_Instruction]:
        """What takes `name`, by whatever name."""
        found: list[_Instruction] = []
        for each in self.instructions.values():
            if name in each.operands:
                found += self.users(each.name) if each.operation == "bitcast" else [each]
        return found


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
                known = _TRIPS.search(each.rest)
                found = found.plus(of(loop[2], fused), int(known[1]) if known else trips)
            elif called := _CALLED.search(each.rest):
                inside = fused or each.operation not in ("call", "conditional", "async-start")
                for other in _NAME.findall(called[1]):
                    found = found.plus(of(other, inside))
        return found

    return of(entry, False)


def _parsed(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
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


def _hbm(each: _Instruction, here: _Computation, computations: dict[str, _Computation]) -> float:
    operation = each.operation
    if operation in _FREE or operation.endswith("-done"):
        return 0.0
    if operation.endswith("-start"):  # its result names source, target and a sign: one of them is in HBM, or both
        parts = _arrays(each.kind)
        return parts[1][0] * sum(here for _, here in parts[:2]) if len(parts) > 1 else 0.0
    kinds = [here.instructions[name].kind for name in each.operands if name in here.instructions]
    called = _CALLED.search(each.rest) if operation == "fusion" else None
    if called:
        return _of_fusion(each, kinds, computations[_NAME.findall(called[1])[0]])
    if operation in _SLICES:
        return 2 * _in_hbm(each.kind) or _moved(each)
    if operation in _IN_PLACE:
        return 2 * _in_hbm(kinds[1])
    return _in_hbm(each.kind) + sum(map(_in_hbm, kinds))


def _moved(each: _Instruction) -> float:
    return sum(size for size, _ in _arrays(each.kind))


def _of_fusion(each: _Instruction, kinds: list[str], body: _Computation) -> float:
    inner = list(body.instructions.values())
    parameters = {int(one.arguments): one.name for one in inner if one.operation == "parameter"}
    total = 0.0
    for number, kind in enumerate(kinds):
        whole = _in_hbm(kind)
        if whole:
            name = parameters[number]
            users = body.users(name)
            if users and all(user.operation in _SLICES for user in users):
                whole = min(whole, sum(map(_moved, users)))
            elif users and all(user.operation in _IN_PLACE and user.operands[0] == name for user in users):
                whole = 0.0
        total += whole
    root = next(one for one in inner if one.root)
    if root.operation in _IN_PLACE and _in_hbm(each.kind):
        update = body.instructions.get(root.operands[1])
        return total + (_moved(update) if update else _in_hbm(each.kind))
    return total + _in_hbm(each.kind)


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
