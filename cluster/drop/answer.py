"""The answer to a batch: files of `Id,Status` in the form that DROP takes, and a table of what became of each row."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from collections.abc import Mapping, Sequence

import pyarrow as pa

from ...partitioning.errors import InputError
from ...partitioning.storage import Store, canonical_uri
from ..output.session import Session
from .batch import Batch, Item
from .codes import Decision

HEADER = "Id,Status"
_SUFFIX = re.compile(r"[A-Za-z0-9]{1,10}")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time that all entries of a ZIP have, so that the same codes always give the same bytes."""

RESULTS = pa.schema(
    {
        "file": pa.string(),
        "row": pa.int64(),
        "result": pa.string(),
        "code": pa.int64(),
        "request_id": pa.string(),
        "reason": pa.string(),
    }
)
"""The columns of the table of results. It has a line for each work item and each malformed row. Rows count from 1 in their
file. It names no work item, hash or user."""


Line = tuple[str, int, str, int | None, str | None, str]
"""A line of the table of results: the values of the columns of RESULTS."""


class AnswerFile:
    """The file that `--out` names, local or s3://: a .zip with a file for each list, or a .csv with all rows."""

    def __init__(self, session: Session, uri: str, batch: str, suffix: str | None) -> None:
        """Check the place, so that a wrong one is reported before the work.

        batch: the place of the batch. suffix: text that is put into the names of the files in the ZIP, because DROP does not
        take the same name twice for one download; None for none.

        Raises:
            InputError: the name has another ending; the place is in the output or is that of the batch; the suffix has other
                characters than letters and digits; or the folder cannot be written.
        """
        self._ending = posixpath.splitext(uri)[1].lower()
        if self._ending not in (".zip", ".csv"):
            raise InputError(f"--out {uri}: the name must end with .zip (a file for each list) or .csv (all in one)")
        if suffix is not None and not _SUFFIX.fullmatch(suffix):
            raise InputError(f"--suffix {suffix!r}: use 1 to 10 letters and digits, such as part02")
        session.refuse_own("--out", uri)
        if canonical_uri(uri) == canonical_uri(batch):
            raise InputError(f"--out {uri} is the batch itself. Choose another name")
        folder, self._name = posixpath.split(uri)
        self._suffix = f"_{suffix}" if suffix else ""
        self._store = Store(folder or ".", session.options)
        self._store.check()

    def write(self, batch: Batch, decisions: Mapping[str, Decision]) -> None:
        """Write the codes, complete or not at all. decisions: by work item. Items without a code are left out."""
        by_file: dict[str, list[str]] = {name: [] for name in batch.files}
        for item in batch.items:
            code = decisions[item.work_item].code
            if code is not None:
                by_file[item.file].append(f"{item.work_item},{int(code)}")
        data = (
            self._zip(by_file) if self._ending == ".zip" else _csv([line for name in by_file for line in by_file[name]])
        )
        self._store.write(self._name, data)

    def _zip(self, by_file: Mapping[str, Sequence[str]]) -> bytes:
        """A ZIP with a CSV file for each list that has a line."""
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, lines in by_file.items():
                if lines:  # DROP asks for no answer to an empty list
                    entry = zipfile.ZipInfo(f"{name[: -len('.csv')]}{self._suffix}.csv", _EPOCH)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, _csv(lines))
        return sink.getvalue()


def _csv(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in (HEADER, *lines)).encode()


def result_table(batch: Batch, decisions: Mapping[str, Decision], request_ids: Mapping[str, str]) -> pa.Table:
    """The table of what became of each row, with the columns of RESULTS, in the order of the batch.

    decisions, request_ids: by work item.
    """
    lines: list[Line] = [(row.file, row.row, "malformed", None, None, row.why) for row in batch.malformed]
    lines += [_line(item, decisions[item.work_item], request_ids.get(item.work_item)) for item in batch.items]
    order = {name: place for place, name in enumerate(batch.files)}
    lines.sort(key=lambda line: (order.get(line[0], len(order)), line[1]))
    columns = list(zip(*lines, strict=True)) or [()] * len(RESULTS)
    return pa.table(
        [pa.array(values, kind) for values, kind in zip(columns, RESULTS.types, strict=True)], schema=RESULTS
    )


def _line(item: Item, decision: Decision, request_id: str | None) -> Line:
    code = None if decision.code is None else int(decision.code)
    return item.file, item.row, decision.result, code, request_id, decision.reason or ""
