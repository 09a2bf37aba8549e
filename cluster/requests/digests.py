"""Keyed digests of what requests name: they say whether two things are the same, to who has the key, and nothing else."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ...partitioning.graph import parse_integers
from .request import Id, Request
from .rows import INTERACTIONS, ITEMS, RANGES, USERS
from .times import portable

KINDS = ("users", "items", "pairs", "ranges")

Digests = dict[str, set[bytes]]
"""By kind: HMAC-SHA256, 32 bytes each. A range: 32 bytes of its user, 32 of its pair (zeros: any item), then [since, until]
as JSON, in clear: a row's time can be compared with it."""

ANY_ITEM = bytes(32)


def no_digests() -> Digests:
    """Nothing of each kind."""
    return {kind: set() for kind in KINDS}


def digests_of(key: bytes, request: Request, id_types: Mapping[str, str], time_unit: str | None = None) -> Digests:
    """What a request names, under the key.

    id_types: {"user", "item"} of the graph, since "017" means 17 where ids are integers. time_unit: of its times, so that
    numbers of a range mean the same for another table.
    """
    named = no_digests()
    for (kind, digest), *_ in entry_digests(key, request, id_types, time_unit):
        named[kind].add(digest)
    return named


def entry_digests(
    key: bytes,
    request: Request,
    id_types: Mapping[str, str],
    time_unit: str | None = None,
    covering: bool = False,
) -> list[list[tuple[str, bytes]]]:
    """(kind, digest) of each of a request's entries, as in `digests_of`; with `covering` followed by those of its user, its
    item and its interaction: once one of these is forgotten, nothing is left of the entry."""
    entries = list(request.entries())
    users = iter(_texts([x if kind == USERS else x[0] for kind, x in entries if kind != ITEMS], id_types["user"]))
    items = iter(_texts([x if kind == ITEMS else x[1] for kind, x in entries if _has_item(kind, x)], id_types["item"]))
    found = []
    for kind, value in entries:
        user = next(users) if kind != ITEMS else None
        item = next(items) if _has_item(kind, value) else None
        names = []
        if user is not None and (covering or kind == USERS):
            names.append(("users", id_digest(key, b"user\0", user)))
        if item is not None and (covering or kind == ITEMS):
            names.append(("items", id_digest(key, b"item\0", item)))
        if user is not None and item is not None and (covering or kind == INTERACTIONS):
            names.insert(0, ("pairs", pair_digest(key, user, item)))
        if kind == RANGES and user is not None:
            bounds = json.dumps([portable(bound, time_unit) for bound in value[2:]]).encode()
            pair = ANY_ITEM if item is None else pair_digest(key, user, item)
            names.insert(0, ("ranges", id_digest(key, b"user\0", user) + pair + bounds))
        found.append(names)
    return found


def _has_item(kind: str, value: Any) -> bool:
    return kind != USERS and (kind == ITEMS or value[1] is not None)


def _texts(ids: Sequence[Id], id_type: str) -> list[str]:
    texts = [str(x) for x in ids]
    if id_type != "int64":
        return texts
    parsed = parse_integers(pa.array(texts, pa.string())).to_pylist()
    return [text if number is None else str(number) for text, number in zip(texts, parsed, strict=True)]


def id_digest(key: bytes, domain: bytes, text: str) -> bytes:
    """Of a user or an item: `domain` is b"user\\0" or b"item\\0"."""
    return hmac.digest(key, domain + text.encode(), "sha256")


def pair_digest(key: bytes, user: str, item: str) -> bytes:
    """Of an interaction."""
    parts = (user.encode(), item.encode())
    return hmac.digest(key, b"pair\0" + b"".join(len(x).to_bytes(8, "big") + x for x in parts), "sha256")
