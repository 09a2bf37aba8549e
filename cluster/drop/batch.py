"""Reads a batch of DROP as it is downloaded: a ZIP of CSV files with hashed identifiers. Says which rows mean nothing.

The format is that of the DROP Data Broker API 1.2.0; docs/drop.md says where each fact about it was found. No message holds
the id of a work item or a hash: messages name rows by file and number.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Literal

import pyarrow as pa

from ...partitioning.errors import InputError
from ...partitioning.storage import StorageOptions, filesystem_for

ListType = Literal["NDZ", "Email", "Phone", "MAID", "NameVIN", "CTVID"]
LISTS: tuple[ListType, ...] = ("NDZ", "Email", "Phone", "MAID", "NameVIN", "CTVID")
REMOVED = "Removed"
"""The name of a file that is no list: it holds the ids of work items of earlier batches that their consumers took back."""

_FILE = re.compile(
    rf"(?:\d{{8}}_\d{{4}}_)?({'|'.join((*LISTS, REMOVED))})(?:_[A-Za-z0-9]{{1,10}})?\.csv", re.IGNORECASE
)
_BY_NAME = {name.lower(): name for name in (*LISTS, REMOVED)}
_WORK_ITEM = re.compile(r"[A-Za-z0-9]{12}")
_HASH = re.compile(r"[A-Za-z0-9+/]{43}=")
_COLUMNS = ("ID", "Hash")


@dataclass(frozen=True)
class Item:
    """A work item: one row of a list.

    list: one of LISTS. file: the name of the file. row: its number in the file, from 1, without the header.
    """

    list: str
    file: str
    row: int
    work_item: str = field(repr=False)
    digest: bytes = field(repr=False)
    """The 32 bytes of its hash."""


@dataclass(frozen=True)
class Malformed:
    """A row that means nothing, and the reason why."""

    file: str
    row: int
    why: str


@dataclass(frozen=True)
class Batch:
    """What a download holds: work items, the ids of work items that were taken back, and rows that mean nothing."""

    items: Sequence[Item]
    removed: Sequence[str] = field(repr=False)
    malformed: Sequence[Malformed]
    files: Sequence[str]
    """The names of the files that are lists, in the order of the ZIP."""


def read_batch(uri: str, options: StorageOptions) -> Batch:
    """Read a batch: a ZIP, or one of its CSV files; local or s3://.

    If a work item has two hashes, or stands in two lists, all of its rows are malformed. If the same row stands twice, it
    counts once.

    Raises:
        InputError: the batch cannot be read, or holds a file that is none of DROP's.
    """
    items: list[Item] = []
    removed: list[str] = []
    malformed: list[Malformed] = []
    files: list[str] = []
    for name, stream in _entries(uri, options):
        kind = _kind(uri, name)
        if kind != REMOVED:
            files.append(name)
        with _readable(f"{uri}: {name}"):
            for row, fields in _rows(uri, name, stream):
                work_item, text = fields
                if not _WORK_ITEM.fullmatch(work_item):
                    malformed.append(Malformed(name, row, "its ID is not one of 12 letters and digits"))
                elif kind == REMOVED:
                    removed.append(work_item)
                elif not _HASH.fullmatch(text):
                    malformed.append(Malformed(name, row, "its Hash is not a SHA-256 in Base64, 44 characters"))
                else:
                    items.append(Item(kind, name, row, work_item, base64.b64decode(text)))
    items, more = _distinct(items)
    malformed = sorted([*malformed, *more], key=lambda one: (one.file, one.row))
    return Batch(items, list(dict.fromkeys(removed)), malformed, files)


def _distinct(items: Sequence[Item]) -> tuple[list[Item], list[Malformed]]:
    """(the items, each once, the rows of work items whose rows contradict each other)."""
    by_id: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_id[item.work_item].append(item)
    kept: list[Item] = []
    malformed: list[Malformed] = []
    for same in by_id.values():
        if len({(item.list, item.digest) for item in same}) == 1:
            kept.append(same[0])
        else:
            why = "its ID stands in another row with another hash or in another list"
            malformed += [Malformed(item.file, item.row, why) for item in same]
    return kept, malformed


def _kind(uri: str, name: str) -> str:
    """The list that a file is, or REMOVED, by its name. Raises InputError for another name."""
    found = _FILE.fullmatch(name)
    if not found:
        raise InputError(
            f"--in {uri}: {name!r} is no file of DROP. They are called YYYYMMDD_BROKER_LIST.csv, where LIST is "
            f"{', '.join(LISTS)} or {REMOVED}: give the ZIP as it was downloaded"
        )
    return _BY_NAME[found[1].lower()]


def _entries(uri: str, options: StorageOptions) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, content) of each file of the batch. A content can be read until the next one is asked for."""
    filesystem, path = filesystem_for(uri, options)
    with _readable(uri), filesystem.open_input_file(path) as stream:
        if path.lower().endswith(".csv"):
            yield path.rpartition("/")[2], stream
            return
        with zipfile.ZipFile(stream) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names):
                raise InputError(f"--in {uri}: two of its files have one name. Download it again")
            if not names:
                raise InputError(f"--in {uri}: it holds no file. Download it again")
            for entry in entries:
                with archive.open(entry) as inner:
                    yield entry.filename, inner


def _rows(uri: str, name: str, stream: IO[bytes]) -> Iterator[tuple[int, tuple[str, str]]]:
    """(number, (ID, Hash)) of each row that is not blank. A field that is missing is ""."""
    reader = csv.reader(io.TextIOWrapper(io.BufferedReader(_Unclosed(stream)), encoding="utf-8-sig", newline=""))
    header = [text.strip().lower() for text in next(reader, [])]
    missing = [column for column in _COLUMNS if header.count(column.lower()) != 1]
    if missing:
        raise InputError(f"--in {uri}: {name} has no column {missing[0]}, or two. Its first line must be ID,Hash")
    places = [header.index(column.lower()) for column in _COLUMNS]
    for row, fields in enumerate(reader, start=1):
        if fields:
            work_item, text = (fields[place].strip() if place < len(fields) else "" for place in places)
            yield row, (work_item, text)


class _Unclosed(io.RawIOBase):
    """A view of a stream of bytes. When a text wrapper around it is closed, the stream itself stays open."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _readable(place: str) -> Iterator[None]:
    """Turn errors of reading `place` into InputError. The texts of most errors are left out, because some of them quote what
    could not be read."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"--in {place}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"--in {place}: is not text in UTF-8. Download it again") from None
    except csv.Error:
        raise InputError(f"--in {place}: is no readable CSV. Download it again") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, pa.ArrowInvalid) as error:
        raise InputError(
            f"--in {place}: is no readable ZIP ({type(error).__name__}). Give the file as DROP sent it, or one of its "
            "CSV files"
        ) from None
    except OSError as error:
        raise InputError(f"--in {place}: cannot be read ({error})") from error
