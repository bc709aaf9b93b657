"""Windows as finished Parquet pages: a worker encodes and compresses its own, and writing a shard is joining them.

Arrow's writer takes values alone, and spends longer on the nesting levels of one 30 s window, 384,000 equal steps,
than decoding and features take together; here they are a few runs. Source: the Parquet format specification 2.11
(data pages of version 1, the RLE hybrid encoding, the footer).
"""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from audiorl_cli.data import thrift
from audiorl_cli.data.thrift import I32, I64, STRUCT, Field, Struct

CODEC: Final = "zstd"
_ZSTD: Final = 6  # its number in Parquet
_PLAIN: Final = 0
_RLE: Final = 3
# In a list of lists, all of which may be null, a value lies at depth 5; 2, 1 and 0 say what it goes on with: the inner
# list, the outer one, or neither.
_DEPTH: Final = 5
_MAGIC: Final = b"PAR1"
_TAIL_BYTES: Final = 8  # the footer's length and the magic


@dataclass(frozen=True)
class Page:
    """A window [mels, frames] as one data page. `size`: its bytes before compression, header included."""

    content: bytes
    values: int
    size: int


def page(window: Float[np.ndarray, "mels frames"]) -> Page:
    """The page that holds `window` as one value of a list of lists, in the window's own dtype."""
    levels = _levels(*window.shape)
    payload = b"".join((levels, np.ascontiguousarray(window).data.cast("B")))
    packed = pa.Codec(CODEC).compress(payload, asbytes=True)
    encoding = thrift.integers({1: window.size, 2: _PLAIN, 3: _RLE, 4: _RLE})
    checksum = int.from_bytes(zlib.crc32(packed).to_bytes(4), signed=True)
    sizes = thrift.integers({1: 0, 2: len(payload), 3: len(packed), 4: checksum})
    header = thrift.write_struct(sizes | {5: Field(STRUCT, encoding)})
    return Page(header + packed, window.size, len(header) + len(payload))


def join(table: pa.Table, pages: Sequence[Page], rows_per_group: int) -> bytes:
    """A Parquet file of `table`, whose last column is null and is replaced by `pages`, one a row."""
    sink = pa.BufferOutputStream()
    # Groups are of a few rows: nothing in them gains by compression, and a bound of two values tells little.
    pq.write_table(
        table,
        sink,
        row_group_size=rows_per_group,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_index=False,
        write_page_checksum=True,
    )
    plain = sink.getvalue().to_pybytes()
    length = int.from_bytes(plain[-_TAIL_BYTES:-4], "little")
    footer, _ = thrift.read_struct(plain[-_TAIL_BYTES - length : -_TAIL_BYTES])
    out = io.BytesIO()
    out.write(_MAGIC)
    row = 0
    for group in footer[4].value[1]:
        rows = group[3].value
        _write_group(out, group, plain, pages[row : row + rows])
        row += rows
    end = thrift.write_struct(footer)
    out.write(end + len(end).to_bytes(4, "little") + _MAGIC)
    return out.getvalue()


def _write_group(out: io.BytesIO, group: Struct, plain: bytes, pages: Sequence[Page]) -> None:
    """Write a row group and set the places and sizes that the footer gives of it."""
    start = out.tell()
    chunks = [chunk[3].value for chunk in group[1].value[1]]
    for chunk in chunks[:-1]:
        old, size = chunk[9].value, chunk[7].value
        chunk[9] = Field(I64, out.tell())
        out.write(plain[old : old + size])
    values = chunks[-1]
    values[4] = Field(I32, _ZSTD)
    values[5] = Field(I64, sum(page.values for page in pages))
    values[6] = Field(I64, sum(page.size for page in pages))
    values[7] = Field(I64, sum(len(page.content) for page in pages))
    values[9] = Field(I64, out.tell())
    for optional in (13, 16):  # counts of pages and of levels, which were those of the nulls
        values.pop(optional, None)
    for each in pages:
        out.write(each.content)
    group[2] = Field(I64, sum(chunk[6].value for chunk in chunks))
    group[5] = Field(I64, start)
    group[6] = Field(I64, out.tell() - start)


@cache
def _levels(mels: int, frames: int) -> bytes:
    """Repetition, then definition levels of a window, each with its length before it."""
    repetition = b"".join(_run(1, 1 if mel else 0) + _run(frames - 1, 2) for mel in range(mels))
    definition = _run(mels * frames, _DEPTH)
    return b"".join(len(levels).to_bytes(4, "little") + levels for levels in (repetition, definition))


def _run(count: int, level: int) -> bytes:
    return thrift.varint(count << 1) + bytes([level]) if count else b""
