"""Rows that an Iceberg snapshot deletes by position: in Parquet files of positions, or in deletion vectors."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ..errors import InputError
from . import parquet
from .deleted import DeletedRows, Positions, compact


def deleted_rows(uri: str, io: Any, tasks: Sequence[Any]) -> dict[str, DeletedRows]:
    """{path of a data file: its deleted rows}. Each delete file is read once; all positions are held.

    Which deletes apply to a data file stands in its task: a delete file may name files that are newer than itself.

    Raises:
        InputError: a delete file is unreadable.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    formats: dict[str, str] = {}
    for task in tasks:
        for delete in task.delete_files:
            wanted[delete.file_path].add(task.file.file_path)
            formats[delete.file_path] = str(getattr(delete.file_format, "value", delete.file_format)).upper()
    positions: dict[str, list[Positions]] = defaultdict(list)
    for path, targets in wanted.items():
        read = _vectors if formats[path] == "PUFFIN" else _positions
        try:
            for target, found in read(io, path, targets):
                positions[target].append(compact(found))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise InputError(
                f"{uri}: its delete file {path} cannot be read, so which rows are alive cannot be told: {error}. Mend the "
                "table"
            ) from error
    return {path: DeletedRows(positions.pop(path)) for path in list(positions)}


def filesystem_of(io: Any, path: str) -> tuple[pafs.FileSystem, str]:
    """The file system of pyiceberg's that reads a path, and the path in it."""
    scheme, netloc, inner = io.parse_location(path)
    return io.fs_by_scheme(scheme, netloc), inner


def _positions(io: Any, path: str, targets: set[str]) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    filesystem, inner = filesystem_of(io, path)
    with filesystem.open_input_file(inner) as source:
        # Paths as a dictionary: each is long, and stands once for every row.
        file = pq.ParquetFile(source, pre_buffer=False, buffer_size=parquet.BUFFER_BYTES, read_dictionary=["file_path"])
        for batch in file.iter_batches(parquet.BATCH_ROWS, columns=["file_path", "pos"]):
            paths, rows = batch.column("file_path"), batch.column("pos").cast(pa.int64())
            for code, target in enumerate(paths.dictionary.to_pylist()):
                if target in targets:
                    yield target, rows.filter(pc.equal(paths.indices, code)).to_numpy()


def _vectors(io: Any, path: str, targets: set[str]) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
    from pyiceberg.table.puffin import PuffinFile

    filesystem, inner = filesystem_of(io, path)
    with filesystem.open_input_stream(inner) as stream:
        vectors = deletion_vectors_from_puffin_file(PuffinFile(stream.read()))
    for vector in vectors:
        if vector.referenced_data_file in targets:
            yield vector.referenced_data_file, vector.to_vector().to_numpy().astype(np.int64)
