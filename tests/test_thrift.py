"""Thrift's compact protocol: what Arrow writes is read, and written back byte for byte."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audiorl_cli.data.thrift import BINARY, I64, LIST, STRUCT, Field, integers, read_struct, varint, write_struct


def test_varints_are_groups_of_seven_bits() -> None:
    assert [varint(n) for n in (0, 1, 127, 128, 300)] == [b"\x00", b"\x01", b"\x7f", b"\x80\x01", b"\xac\x02"]


def test_integers_are_zigzag_and_fields_follow_by_their_distance() -> None:
    # field 1 = -1, field 3 = 150: headers 1 << 4 | 5 and 2 << 4 | 5, zigzag 1 and 300
    assert write_struct(integers({1: -1, 3: 150})) == b"\x15\x01\x25\xac\x02\x00"


def test_structs_come_back() -> None:
    inner = integers({1: 2**31 - 1, 40: -(2**31)})
    struct = {
        2: Field(I64, -(2**63)),
        3: Field(LIST, (BINARY, [b"x" * n for n in range(20)])),
        4: Field(1, None),
        5: Field(2, None),
        900: Field(LIST, (STRUCT, [inner, {}])),
    }
    data = write_struct(struct)
    assert read_struct(b"before" + data + b"after", 6) == (struct, 6 + len(data))


def test_a_footer_of_arrow_comes_back() -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"a": list(range(50)), "b": [0.5, None] * 25, "c": [[True], []] * 25, "d": ["é"] * 50})
    pq.write_table(table, sink, row_group_size=2)
    data = sink.getvalue().to_pybytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    struct, end = read_struct(footer)
    assert end == len(footer)
    assert struct[3].value == 50
    assert write_struct(struct) == footer


def test_a_type_that_parquet_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="got 11"):
        read_struct(b"\x1b\x00")
