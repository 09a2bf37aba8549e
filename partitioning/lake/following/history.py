"""The states of a Delta or Iceberg table one after the other, for whoever follows it.

A state has a position: the version of a Delta table, the id of a snapshot of an Iceberg table. What a commit did is in
`changes.py`; `follow.py` opens a history.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from ...errors import InputError
from ..data_file import DataFile, Table

BEFORE_ALL = -1
"""The position before the first state, in which there is no row."""


@dataclass(frozen=True)
class Commit:
    """One step of a table."""

    position: int
    """Of the state that it led to."""
    parent: int
    """Of the state before; BEFORE_ALL is the empty one."""
    removes: bool = True
    """False: no row can have been taken out."""
    adds: bool = True
    """False: no row can be new."""
    what: str = ""
    """What its log says that it was, for messages."""


class MissedChanges(InputError):
    """Some commits cannot be read any more, so nobody can tell what they deleted."""

    def __init__(self, uri: str, what: str, why: str) -> None:
        self.uri, self.what, self.why = uri, what, why
        super().__init__(
            f"{uri}: {what} cannot be read any more: {why}. What was deleted there is not known here, and nothing behind it "
            "was looked at. Name it to `unlearnrec forget` yourself, then go on with `unlearnrec watch --from-version N` "
            "(what changed after N) or `--from-now`; and keep versions longer than the time between two looks"
        )


class UnreadableFeed(Exception):
    """A change data feed cannot be read after all; the two states may still say what it would."""


class History(Protocol):
    """A table and its past, as of one moment."""

    uri: str
    table_id: str
    """Another one: another table of the same name."""
    newest: int
    """The position of the current state."""

    def commits(self, after: int, upto: int) -> Sequence[Commit]:
        """Those behind position `after`, up to and with that which led to `upto`, in order.

        Raises:
            MissedChanges: some are not in its log any more.
            InputError: `after` is no state on the way to `upto`.
        """

    def has(self, position: int) -> bool:
        """Whether this is a state of the table that its log still knows."""

    def at(self, position: int) -> Table:
        """The table in one state; without any file at BEFORE_ALL.

        Raises:
            InputError: as `open_table`.
        """

    def feed(self, commit: Commit, names: Sequence[str]) -> Iterator[tuple[bool, pa.RecordBatch]] | None:
        """(whether these rows were removed, else added; these columns of them) from the table's change data feed; None
        where it has none for this commit that can be read exactly.

        Raises:
            UnreadableFeed: a file of it cannot be read. Raised while iterating.
        """

    def name(self, position: int) -> str:
        """The state in words."""


def missing_files(files: Sequence[DataFile]) -> list[str]:
    """Those that are not there any more, in one look a filesystem."""
    missing: list[str] = []
    by_filesystem: dict[int, list[DataFile]] = {}
    for data in files:
        by_filesystem.setdefault(id(data.file.filesystem), []).append(data)
    for together in by_filesystem.values():
        found: Any = together[0].file.filesystem.get_file_info([data.file.path for data in together])
        missing += [data.uri for data, info in zip(together, found, strict=True) if info.type != pafs.FileType.File]
    return missing


def changed_files(history: History, commit: Commit) -> tuple[Table, Table]:
    """(what the commit took away, what it added) as tables of the files in which two states differ: other files, or other
    rows of them that are deleted.

    Raises:
        MissedChanges: the state before, or one of these files, is gone.
    """
    what = f"{history.name(commit.position)} ({commit.what})"
    if not history.has(commit.parent):
        raise MissedChanges(history.uri, what, f"{history.name(commit.parent)}, the state before, has expired")
    after = history.at(commit.position)
    try:
        before = history.at(commit.parent)
    except InputError as error:  # of a table of which another state could be opened
        raise MissedChanges(
            history.uri, what, f"{history.name(commit.parent)}, the state before, cannot be opened ({error})"
        ) from error
    there = [{_identity(data) for data in table.files} for table in (before, after)]
    removed = [data for data in before.files if _identity(data) not in there[1]]
    added = [data for data in after.files if _identity(data) not in there[0]]
    if gone := missing_files([*removed, *added]):
        more = f" and {len(gone) - 1} others are" if len(gone) > 1 else " is"
        raise MissedChanges(history.uri, what, f"{gone[0]}{more} gone, perhaps vacuumed")
    return replace(before, files=removed), replace(after, files=added)


def _identity(data: DataFile) -> tuple[str, bytes]:
    deleted = data.deleted
    return data.file.path, b"" if deleted is None else np.asarray(deleted.positions).tobytes()
