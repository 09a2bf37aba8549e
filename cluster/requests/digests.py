"""Keyed digests of what requests name. Whoever has the key can tell whether two things are the same, and nothing else."""

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
"""Digests by kind (KINDS). Users, items and pairs: HMAC-SHA256, 32 bytes each. Ranges: 32 bytes of the user, 32 bytes of the
pair (ANY_ITEM where the range is for any item), then [since, until] as JSON. The bounds are not hashed, because times of
rows have to be compared with them."""

ANY_ITEM = bytes(32)
"""Stands in a range for the digest of its pair, where the range names no item."""


def no_digests() -> Digests:
    """An empty set for each kind."""
    return {kind: set() for kind in KINDS}


def digests_of(key: bytes, request: Request, id_types: Mapping[str, str], time_unit: str | None = None) -> Digests:
    """The digests of what a request names, under `key`.

    id_types: "int64" or "string" for "user" and for "item", as the graph has them: "017" means 17 where ids are integers.
    time_unit: the unit of the graph's times; numbers of a range are turned into moments with it, so that they mean the same
    for another table. None where it is not known.
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
    """For each entry of a request, in order, a list of (kind, digest) that begins with the digest of the entry itself.

    With `covering` the digests of its interaction, its user and its item follow, where it names them: if one of these was
    forgotten, nothing is left of the entry. The other arguments are those of `digests_of`.
    """
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
    """Whether an entry of this kind names an item."""
    return kind != USERS and (kind == ITEMS or value[1] is not None)


def _texts(ids: Sequence[Id], id_type: str) -> list[str]:
    """The ids as the graph would write them: an integer without leading zeros, where its ids are integers."""
    texts = [str(x) for x in ids]
    if id_type != "int64":
        return texts
    parsed = parse_integers(pa.array(texts, pa.string())).to_pylist()
    return [text if number is None else str(number) for text, number in zip(texts, parsed, strict=True)]


def id_digest(key: bytes, domain: bytes, text: str) -> bytes:
    """The digest of a user or an item.

    domain: b"user\\0" or b"item\\0", so that a user and an item with the same id have different digests.
    """
    return hmac.digest(key, domain + text.encode(), "sha256")


def pair_digest(key: bytes, user: str, item: str) -> bytes:
    """The digest of an interaction."""
    # The lengths are hashed too: ("a", "bc") and ("ab", "c") are two pairs.
    parts = (user.encode(), item.encode())
    return hmac.digest(key, b"pair\0" + b"".join(len(x).to_bytes(8, "big") + x for x in parts), "sha256")
