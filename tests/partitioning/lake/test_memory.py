"""Memory is bounded by a batch and not by the table, whatever its format: 5 million rows in a process of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from iceberg_tables import add_deletes, catalog, position_deletes, root

from unlearnrec.partitioning.lake import open_table
from unlearnrec.partitioning.storage import AWS

ROWS, PARTS = 5_000_000, 5
SCHEMA = pa.schema(
    [("user_id", pa.int64()), ("item_id", pa.string()), ("ts", pa.timestamp("us")), ("more", pa.string())]
)

READER = """
import re, sys
from unlearnrec.partitioning.lake import read_table
from unlearnrec.partitioning.storage import AWS

rows = bytes_read = 0
for batch in read_table(sys.argv[1], ("user_id", "item_id"), AWS, time="ts"):
    rows += batch.num_rows
    bytes_read += batch.nbytes
peak = int(re.search(r"VmHWM:\\s+([0-9]+) kB", open("/proc/self/status").read())[1]) << 10
print(rows, bytes_read, peak)
"""


def part(k: int) -> pa.Table:
    rng, rows = np.random.default_rng(k), ROWS // PARTS
    items = pa.array(rng.integers(0, 10**9, rows)).cast(pa.string())
    times = pa.array(rng.integers(0, 10**15, rows)).cast(pa.timestamp("us"))
    return pa.Table.from_arrays([pa.array(rng.integers(0, 10**6, rows)), items, times, items], schema=SCHEMA)


def parts(count: int) -> Iterator[pa.RecordBatch]:
    for k in range(count):
        yield from part(k).to_batches()


def parquet(folder: Path, count: int) -> str:
    folder.mkdir()
    with pq.ParquetWriter(folder / "a.parquet", SCHEMA) as writer:
        for batch in parts(count):
            writer.write_batch(batch)
    return str(folder)


def delta(folder: Path, count: int) -> str:
    write_deltalake(str(folder), pa.RecordBatchReader.from_batches(SCHEMA, parts(count)))
    return str(folder)


def iceberg(folder: Path, count: int) -> str:
    """With every tenth row deleted by position: such positions are held."""
    table = catalog(folder).create_table("shop.events", SCHEMA, properties={"format-version": "2"})
    for k in range(count):
        table.append(part(k))
    files = [file.uri for file in open_table(str(root(table)), AWS).files]
    gone = [(f"file://{file}", row) for file in files for row in range(0, ROWS // PARTS, 10)]
    add_deletes(table, [position_deletes(table, "deletes.parquet", gone)])
    return str(root(table))


def csv(folder: Path, count: int) -> str:
    folder.mkdir()
    with pyarrow.csv.CSVWriter(folder / "a.csv", SCHEMA) as writer:
        for batch in parts(count):
            writer.write_batch(batch)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("make", [parquet, delta, iceberg, csv])
def test_the_peak_does_not_grow_with_the_table(tmp_path: Path, make: Callable[[Path, int], str]) -> None:
    """From 1 to 5 million rows: with its imports and buffers either costs about the same."""
    measured = []
    for count in (1, PARTS):
        uri = make(tmp_path / str(count), count)
        done = subprocess.run([sys.executable, "-c", READER, uri], capture_output=True, text=True, check=True)
        measured.append(tuple(map(int, done.stdout.split())))
    (_, small_bytes, small_peak), (rows, bytes_read, peak) = measured
    print(
        f"{make.__name__}: {bytes_read - small_bytes >> 20} MiB more rows, peak {small_peak >> 20} and {peak >> 20} MiB"
    )
    assert rows == (ROWS * 9 // 10 if make is iceberg else ROWS)
    # Allocators keep some of what was freed: measured were 10 to 40 MiB. What held the rows would cost all of them.
    assert peak - small_peak < (bytes_read - small_bytes) * 2 / 3
