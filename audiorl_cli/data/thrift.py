"""Thrift's compact protocol, as Parquet writes its footers and page headers in it: bytes <-> plain Python values.

A struct is a dict from field number to (type, value), in the order of the bytes; what is read is written back the
same. Source: the Thrift compact protocol specification.
"""

from typing import Any, Final, NamedTuple

BOOLS: Final = (2, 1)  # of a field, the type is the value: false, true
BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = 3, 4, 5, 6, 7, 8, 9, 10, 12
_INTEGERS: Final = frozenset({I16, I32, I64})
_DOUBLE_BYTES: Final = 8
_LONG_LIST: Final = 15  # a list's header has four bits for its length; this value says that a varint follows

Struct = dict[int, "Field"]


class Field(NamedTuple):
    """A value and the type that it has in the bytes. A list's value is (type of its items, items)."""

    type: int
    value: Any


def integers(values: dict[int, int]) -> Struct:
    """A struct of 32-bit integers."""
    return {number: Field(I32, value) for number, value in values.items()}


def read_struct(data: bytes, start: int = 0) -> tuple[Struct, int]:
    """The struct at `start`, and where it ends. Raises ValueError for a type that Parquet does not use."""
    struct: Struct = {}
    number, position = 0, start
    while head := data[position]:
        kind, delta = head & 0x0F, head >> 4
        position += 1
        if delta:
            number += delta
        else:
            number, position = _read_integer(data, position)
        if kind in BOOLS:
            struct[number] = Field(kind, None)
        else:
            value, position = _read(data, position, kind)
            struct[number] = Field(kind, value)
    return struct, position + 1


def write_struct(struct: Struct) -> bytes:
    """The bytes of a struct."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


def varint(value: int) -> bytes:
    """A number >= 0 in groups of seven bits, the lowest first."""
    out = bytearray()
    _write_varint(out, value)
    return bytes(out)


def _read(data: bytes, position: int, kind: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _read_integer(data, position)
    if kind == STRUCT:
        return read_struct(data, position)
    if kind == BINARY:
        length, position = _read_varint(data, position)
        return data[position : position + length], position + length
    if kind in (LIST, SET):
        item, length = data[position] & 0x0F, data[position] >> 4
        position += 1
        if length == _LONG_LIST:
            length, position = _read_varint(data, position)
        items = []
        for _ in range(length):
            value, position = _read(data, position, item)
            items.append(value)
        return (item, items), position
    if kind == DOUBLE:
        return data[position : position + _DOUBLE_BYTES], position + _DOUBLE_BYTES
    if kind in (BYTE, *BOOLS):  # within a list a bool is a byte
        return data[position], position + 1
    raise ValueError(f"Thrift: expected a type of Parquet's, got {kind}")


def _read_integer(data: bytes, position: int) -> tuple[int, int]:
    value, position = _read_varint(data, position)
    return value >> 1 ^ -(value & 1), position


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value, position, shift = data[position], position + 1, 7
    if value < 0x80:
        return value, position
    value &= 0x7F
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _write_struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for number, (kind, value) in struct.items():
        if 0 < number - last < 16:
            out.append(number - last << 4 | kind)
        else:
            out.append(kind)
            _write_integer(out, number)
        last = number
        if kind not in BOOLS:
            _write(out, kind, value)
    out.append(0)


def _write(out: bytearray, kind: int, value: Any) -> None:
    if kind in _INTEGERS:
        _write_integer(out, value)
    elif kind == STRUCT:
        _write_struct(out, value)
    elif kind == BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind in (LIST, SET):
        item, items = value
        out.append(min(len(items), _LONG_LIST) << 4 | item)
        if len(items) >= _LONG_LIST:
            _write_varint(out, len(items))
        for each in items:
            _write(out, item, each)
    elif kind == DOUBLE:
        out += value
    else:
        out.append(value)


def _write_integer(out: bytearray, value: int) -> None:
    _write_varint(out, value << 1 ^ value >> 63)


def _write_varint(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
