"""Parquet files made of finished pages: Arrow reads from them what it reads from a file of its own."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audiorl_cli.data.pages import join, page

NESTED = {"float16": pa.list_(pa.list_(pa.float16())), "float32": pa.list_(pa.list_(pa.float32()))}


def _windows(rows: int, mels: int, frames: int, dtype: str) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.normal(size=(mels, frames)).astype(dtype) for _ in range(rows)]


def _file(windows: list[np.ndarray], dtype: str, rows_per_group: int) -> tuple[bytes, pa.Table]:
    ids = pa.array([f"utterance {n}" if n % 3 else None for n in range(len(windows))])
    schema = pa.schema([("id", pa.string()), ("window", NESTED[dtype])], metadata={"key": "value"})
    nulls = pa.Table.from_arrays([ids, pa.nulls(len(windows), NESTED[dtype])], schema=schema)
    values = pa.array([list(window) for window in windows], NESTED[dtype])
    pages = [page(window) for window in windows]
    return join(nulls, pages, rows_per_group), pa.Table.from_arrays([ids, values], schema=schema)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(128, 300), (1, 1), (3, 1), (1, 5)])
@pytest.mark.parametrize("rows_per_group", [1, 2, 10])
def test_arrow_reads_the_values_back(dtype: str, shape: tuple[int, int], rows_per_group: int) -> None:
    content, table = _file(_windows(5, *shape, dtype), dtype, rows_per_group)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    expected = pq.read_table(pa.BufferReader(sink.getvalue()))
    found = pq.read_table(pa.BufferReader(content))
    assert found.equals(expected, check_metadata=True)


def test_the_layout_is_that_of_a_file_of_arrow() -> None:
    content, expected = _file(_windows(5, 4, 50, "float16"), "float16", 2)
    sink = pa.BufferOutputStream()
    pq.write_table(expected, sink, row_group_size=2, compression="zstd", use_dictionary=False, write_statistics=False)
    ours = pq.read_metadata(pa.BufferReader(content))
    theirs = pq.read_metadata(pa.BufferReader(sink.getvalue()))
    assert (ours.num_rows, ours.num_row_groups, ours.num_columns) == (5, 3, 2)
    position = 4  # the magic; then chunk after chunk, without gaps
    for number in range(3):
        group, like = ours.row_group(number), theirs.row_group(number)
        assert group.num_rows == like.num_rows
        for column in range(2):
            chunk, other = group.column(column), like.column(column)
            assert chunk.data_page_offset == position
            position += chunk.total_compressed_size
            assert (chunk.num_values, chunk.path_in_schema) == (other.num_values, other.path_in_schema)
        assert group.total_byte_size == sum(group.column(c).total_uncompressed_size for c in range(2))
        assert group.column(1).compression == "ZSTD"
    assert len(content) == position + ours.serialized_size + 8


def test_a_page_depends_on_the_values_alone() -> None:
    window = _windows(1, 128, 50, "float16")[0]
    wider = np.zeros((128, 90), np.float16)
    wider[:, 20:70] = window
    assert page(wider[:, 20:70]) == page(window)


def test_with_checksums_no_flipped_bit_of_a_page_gives_other_values() -> None:
    content, table = _file(_windows(5, 16, 30, "float16"), "float16", 2)
    pages = len(content) - int.from_bytes(content[-8:-4], "little") - 8  # then the footer
    found = 0
    for bit in random.Random(0).sample(range(32, 8 * pages), 200):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            read = pq.ParquetFile(pa.BufferReader(bytes(damaged)), page_checksum_verification=True).read()
        except (OSError, pa.ArrowInvalid):
            found += 1
        else:  # a bit of a page's header that nothing is read by
            assert read.equals(table)
    assert found > 180
