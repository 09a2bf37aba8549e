"""Deletion requests as people write them, in one canonical form. `matching.py` says what they mean in a graph."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.lake import open_table, read_ids
from ...partitioning.storage import StorageOptions
from ..layout import REQUEST_ID
from .rows import INTERACTIONS, ITEMS, KINDS, RANGES, USERS, Row, read_rows
from .times import Bound

Id = int | str
Range = tuple[Id, Id | None, Bound | None, Bound | None]
"""(user, item, since, until): the events of the user in [since, until), with this item only, or with all items where `item`
is None. A bound that is None leaves the range open at that end."""


@dataclass(frozen=True)
class Tally:
    """How many rows a request was written with.

    repeats: the number of rows of an entry, by its position; an entry that is not in it has one row. invalid: the number of
    rows that mean nothing.
    """

    repeats: Mapping[int, int] = field(default_factory=dict)
    invalid: int = 0

    def document(self) -> dict[str, Any]:
        """The JSON object that is kept beside the content; {} where every entry has one row and no row is invalid."""
        repeats = {"repeats": sorted(self.repeats.items())} if self.repeats else {}
        return repeats | ({"invalid": self.invalid} if self.invalid else {})

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Tally:
        """The tally that a JSON object holds. It is the inverse of `document`."""
        return cls(dict(document.get("repeats", ())), document.get("invalid", 0))


@dataclass(frozen=True)
class Request:
    """What is to be forgotten, by external id, in canonical form: sorted, and everything once.

    Its entries are its users, items, interactions and ranges, in this order. The position of an entry counts through all
    four, from 0.
    """

    request_id: str
    users: tuple[Id, ...]
    items: tuple[Id, ...]
    interactions: tuple[tuple[Id, Id], ...]
    ranges: tuple[Range, ...] = ()
    tally: Tally = field(default=Tally(), compare=False)
    rows: tuple[Row, ...] = field(default=(), compare=False, repr=False)
    """The rows of the file that it was read from, in order; () where it was not read from a file."""

    def body(self) -> bytes:
        """The content as canonical JSON, without the id."""
        return _body(self.users, self.items, self.interactions, self.ranges)

    @property
    def empty(self) -> bool:
        """Whether it was written without any entry, valid or not."""
        return not (self.users or self.items or self.interactions or self.ranges or self.tally.invalid)

    def entries(self) -> Iterator[tuple[str, Any]]:
        """(kind, what it names) of each entry, in order of position."""
        for kind in KINDS:
            yield from ((kind, value) for value in getattr(self, kind))


def parse_request(
    users: str | None,
    items: str | None,
    interactions: str | None,
    requests: str | None,
    request_id: str | None,
    options: StorageOptions,
    key: bytes = b"",
) -> Request:
    """Read the options of `forget`.

    Args:
        users, items: "ID,ID,..." or a file (Parquet or CSV) with the column `user_id` or `item_id`. Nothing is trimmed: a
            space is a part of an id.
        interactions: a file with both columns.
        requests: a file as `rows.read_rows` takes it.
        request_id: up to 128 letters, digits, `.`, `_` or `-`, the first no `.`; None derives it from the content.
        key: the secret under which the id is derived, so that nobody can find the content from the id by trying.
        options: how to reach S3.

    Raises:
        InputError: a file is unreadable or lacks a column, nothing is named (a file of requests may have no rows), or the
            request id has other characters.
    """
    check_request_id(request_id)
    named: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    rows: list[Row] = []
    for value, kind in ((users, USERS), (items, ITEMS)):
        if value is not None:
            named[kind] += _ids(f"--{kind}", value, COLUMN_OF[kind], options)
    if interactions is not None:
        table = read_ids(interactions, ("user_id", "item_id"), options)
        named[INTERACTIONS] += zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)
    if requests is not None:
        rows = read_rows(requests, options)
        for row in rows:
            if not isinstance(row, str):
                named[row[0]].append(row[1])
    if requests is None and not any(named.values()):
        given = ", ".join(x for x in (users, items, interactions) if x) or "the request"
        raise InputError(f"{given}: names no user, item or interaction. Give at least one")
    return make_request(named[USERS], named[ITEMS], named[INTERACTIONS], request_id, key, named[RANGES], tuple(rows))


def make_request(
    users: Iterable[Id],
    items: Iterable[Id],
    interactions: Iterable[tuple[Id, Id]],
    request_id: str | None,
    key: bytes,
    ranges: Iterable[Range] = (),
    rows: tuple[Row, ...] = (),
) -> Request:
    """The request for what is named, in canonical form.

    request_id: None derives the id from the content under `key`. rows: those of the file that it was read from; the texts
    among them count as invalid.
    """
    counts = [Counter(map(_canonical, values)) for values in (users, items, interactions, ranges)]
    # Ranges are sorted by their JSON, because texts, numbers and None cannot be compared with each other.
    content = [
        tuple(sorted(count, key=json.dumps if kind == RANGES else None))
        for kind, count in zip(KINDS, counts, strict=True)
    ]
    times = [count[entry] for entries, count in zip(content, counts, strict=True) for entry in entries]
    tally = Tally({p: n for p, n in enumerate(times) if n > 1}, sum(isinstance(row, str) for row in rows))
    body = _body(*content)
    request_id = request_id or derived_id(body, key)
    return Request(request_id, content[0], content[1], content[2], content[3], tally, rows)


def read_request(request_id: str, body: bytes, tally: Tally | None = None) -> Request:
    """The request with this id whose `Request.body` is `body`."""
    content = json.loads(body)
    pairs, ranges = (tuple(map(tuple, content.get(kind, ()))) for kind in (INTERACTIONS, RANGES))
    return Request(request_id, tuple(content["users"]), tuple(content["items"]), pairs, ranges, tally or Tally())


def check_request_id(request_id: str | None) -> None:
    """Raise InputError for an id with characters that a request id must not have; None, for no id, is accepted."""
    if request_id is not None and not REQUEST_ID.fullmatch(request_id):
        raise InputError(
            f"--request-id {request_id!r}: use 1 to 128 letters, digits, '.', '_' or '-', the first no '.'"
        )


def tombstone(body: bytes, key: bytes) -> dict[str, Any]:
    """The JSON object that `purge` leaves in the place of a request's content.

    It holds a keyed digest of the content, with which the same content can be told from another one. key: the secret of
    derived request ids (`Session.request_key`).
    """
    return {"purged": True, "digest": hmac.new(key, b"purged\0" + body, hashlib.sha256).hexdigest()[:32]}


def is_purged(content: Any) -> bool:
    """Whether this is what a purge of this release, or of an earlier one, left in the place of a request's content."""
    return isinstance(content, dict) and content.get("purged") is True


def tombstone_sizes() -> frozenset[int]:
    """The sizes in bytes of what a purge leaves, in an earlier release and in this one.

    A content is longer, because of its salt. So a purged content can be told by its size, and need not be read.
    """
    return frozenset(len(json.dumps(left)) for left in ({"purged": True}, tombstone(b"", b"")))


def is_same(content: Mapping[str, Any], request: Request, key: bytes) -> bool:
    """Whether this is the stored content of the request, or can be shown to be what a purge left of it.

    An earlier release left nothing that could show it, except where the request's id is derived from the content.
    """
    body = request.body()
    if not is_purged(content):
        return bool(content["body"] == body.decode())
    if "digest" in content:
        return hmac.compare_digest(content["digest"], tombstone(body, key)["digest"])
    return bool(re.fullmatch(rf"{derived_id(body, key)}(-[0-9]+)?", request.request_id))


def derived_id(body: bytes, key: bytes) -> str:
    """The id of a request that came without one, derived from its content under `key`."""
    return f"req-{hmac.new(key, body, hashlib.sha256).hexdigest()[:16]}"


def commitment(body: bytes, salt: str) -> str:
    """HMAC-SHA256 of a request's content, in hexadecimal, under a salt that is kept beside the content.

    The log keeps it: it fixes the content, and does not tell the ids.
    """
    return hmac.new(salt.encode(), body, hashlib.sha256).hexdigest()


TABLES = (".parquet", ".pq", ".parq", ".csv")
OTHER_FILES = (".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".gz", ".zip", ".xls", ".xlsx", ".avro", ".orc")
"""Values of `--users` and `--items` with these endings are meant as files, not as ids."""


def _ids(option: str, value: str, column: str, options: StorageOptions) -> list[Id]:
    """The ids of `--users` or `--items`, each exactly as it was written: " a" and "a" are two ids."""
    if not is_place(value):
        return [part for part in value.split(",") if part.strip()]
    check_place(option.removeprefix("--"), value, options)
    if value.lower().endswith(OTHER_FILES) and os.path.isfile(value):
        raise InputError(
            f"{option} {value}: it takes Parquet (.parquet) or CSV (.csv) with the column {column}. JSON lines can be given "
            "to --requests"
        )
    ids: list[Id] = read_ids(value, column, options)[column].to_pylist()
    return ids


def check_place(option: str, value: str, options: StorageOptions) -> None:
    """Raise InputError if the value of an option (`users`, `items`, `interactions`, `requests`, `without`) is meant as a
    local file or folder that is not there."""
    if "://" in value or _exists(value):
        return
    if option not in COLUMN_OF:
        open_table(value, options)  # raises, with the path as it was looked for
    elif is_place(value):
        raise InputError(
            f"--{option} {value}: no such file. Check the name; an id that looks like a file name can be given in a CSV or "
            f"Parquet file with the column {COLUMN_OF[option]}"
        )


COLUMN_OF = {USERS: "user_id", ITEMS: "item_id"}
"""The column of the files of `--users` and of `--items`."""


def is_place(value: str) -> bool:
    """Whether a value of `--users` or `--items` is a file or folder; else it is a list of ids.

    A mistyped file name must not be taken for an id: the request would name nobody, and seem to have been carried out.
    """
    if "://" in value or _exists(value) or value.lower().endswith(TABLES):
        return True
    return "," not in value and (value.lower().endswith(OTHER_FILES) or os.path.isdir(os.path.dirname(value)))


def _exists(value: str) -> bool:
    """Whether there is such a file or folder; what follows a ? may select a state of the table there."""
    return os.path.exists(value) or ("?" in value and os.path.exists(value.rpartition("?")[0] or "?"))


def _canonical(value: Any) -> Any:
    """An entry with its ids as text: "17" on the command line and 17 in a file are one id."""
    if not isinstance(value, tuple):
        return str(value)
    ids = tuple(None if x is None else str(x) for x in value[:2])
    return (*ids, *value[2:])


def _body(users: Any, items: Any, interactions: Any, ranges: Any) -> bytes:
    """The canonical JSON of a content. A request without ranges has no key for them."""
    content = {"users": users, "items": items, "interactions": interactions} | ({"ranges": ranges} if ranges else {})
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
