"""Deletion requests as people write them, and the dense ids that they mean."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..partitioning.errors import InputError
from ..partitioning.graph import dense_ids
from ..partitioning.lake import read_ids
from ..partitioning.storage import StorageOptions

Id = int | str
IdMap = tuple[pa.Array, npt.NDArray[np.int64], npt.NDArray[np.int16]]
"""(external ids, dense ids, owners) as `partitioning.ingest.load_ids` gives them."""

FOLDER = "requests"
TOMBSTONE = {"purged": True}
"""What `purge` leaves of a request's content."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True)
class Request:
    """What is to be forgotten, by external id; canonical: sorted, each once."""

    request_id: str
    users: tuple[Id, ...]
    items: tuple[Id, ...]
    interactions: tuple[tuple[Id, Id], ...]

    def body(self) -> bytes:
        """The content as canonical JSON, without the id."""
        return _body(self.users, self.items, self.interactions)


@dataclass(frozen=True)
class Resolved:
    """A request by dense id: users [.], items [.], pair_users, pair_items [n], all int64; `unknown` ids or pairs."""

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    pair_users: npt.NDArray[np.int64]
    pair_items: npt.NDArray[np.int64]
    unknown: int


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
        users, items: "ID,ID,..." or a file (Parquet or CSV) with the column `user_id` or `item_id`.
        interactions: a file with both columns.
        requests: a file with one or both: rows with one id mean the whole user or item.
        request_id: up to 128 letters, digits, `.`, `_`, `-`; None derives it from the content.
        key: the secret under which it is derived, so that it does not tell the content.

    Raises:
        InputError: a file is unreadable or lacks a column, nothing is named, or the request id has other characters.
    """
    check_request_id(request_id)
    named: dict[str, list[Id]] = {"user_id": [], "item_id": []}
    pairs: list[tuple[Id, Id]] = []
    for value, column in ((users, "user_id"), (items, "item_id")):
        if value is not None:
            named[column] += _ids(value, column, options)
    if interactions is not None:
        table = read_ids(interactions, ("user_id", "item_id"), options)
        pairs += zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)
    if requests is not None:
        table = read_ids(requests, None, options)
        if table.num_columns == 2:
            pairs += zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)
        else:
            named[table.column_names[0]] += table.column(0).to_pylist()
    if not (named["user_id"] or named["item_id"] or pairs):
        given = ", ".join(x for x in (users, items, interactions, requests) if x) or "the request"
        raise InputError(f"{given}: names no user, item or interaction. Give at least one")
    return make_request(named["user_id"], named["item_id"], pairs, request_id, key)


def make_request(
    users: Iterable[Id], items: Iterable[Id], interactions: Iterable[tuple[Id, Id]], request_id: str | None, key: bytes
) -> Request:
    """The request for what is named, in canonical form; without `request_id` its id is derived under `key`."""
    content = (_canonical(users), _canonical(items), _canonical(interactions))
    body = _body(*content)
    return Request(request_id or f"req-{hmac.new(key, body, hashlib.sha256).hexdigest()[:16]}", *content)


def read_request(request_id: str, body: bytes) -> Request:
    """The request whose `body()` this is."""
    content = json.loads(body)
    pairs = tuple((user, item) for user, item in content["interactions"])
    return Request(request_id, tuple(content["users"]), tuple(content["items"]), pairs)


def check_request_id(request_id: str | None) -> None:
    """Raise InputError for an id with other characters than a file name and the log can hold; None is none."""
    if request_id is not None and not REQUEST_ID.fullmatch(request_id):
        raise InputError(f"--request-id {request_id!r}: use 1 to 128 letters, digits, '.', '_' or '-'")


def content_name(request_id: str) -> str:
    """The file that holds the content of a request."""
    return f"{FOLDER}/{request_id}.json"


def commitment(body: bytes, salt: str) -> str:
    """HMAC-SHA256 of a request's content under a salt kept beside it: the log can hold it without telling the ids."""
    return hmac.new(salt.encode(), body, hashlib.sha256).hexdigest()


def resolve(request: Request, user_map: IdMap, item_map: IdMap) -> Resolved:
    """The dense ids of what a request names. Unknown users, items and pairs are counted, never an error."""
    users, items = (
        dense_ids(ids, node, [str(x) for x in wanted])
        for (ids, node, _), wanted in ((user_map, request.users), (item_map, request.items))
    )
    pair_users, pair_items = (
        dense_ids(ids, node, [str(pair[side]) for pair in request.interactions])
        for side, (ids, node, _) in enumerate((user_map, item_map))
    )
    known = (pair_users >= 0) & (pair_items >= 0)
    unknown = int((users < 0).sum() + (items < 0).sum() + (~known).sum())
    return Resolved(users[users >= 0], items[items >= 0], pair_users[known], pair_items[known], unknown)


def _ids(value: str, column: str, options: StorageOptions) -> list[Id]:
    if "://" in value or value.lower().endswith((".parquet", ".csv")) or os.path.exists(value):
        ids: list[Id] = read_ids(value, column, options)[column].to_pylist()
        return ids
    return [part.strip() for part in value.split(",") if part.strip()]


def _canonical(values: Iterable[Any]) -> tuple[Any, ...]:
    """Sorted, each once. Integers become text: "17" on the command line and 17 in a file are one id."""
    texts = {tuple(map(str, value)) if isinstance(value, tuple) else str(value) for value in values}
    return tuple(sorted(texts))


def _body(users: tuple[Id, ...], items: tuple[Id, ...], interactions: tuple[tuple[Id, Id], ...]) -> bytes:
    content = {"users": users, "items": items, "interactions": interactions}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
