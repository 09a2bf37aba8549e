"""The suppression list: keyed digests of what was forgotten, so that `ingest` does not bring it back (docs/commit.md).

Under `suppression/` lie numbered files that never change; of two about one user, item or pair the later one counts. The
key comes from the environment and is never under `output`: who has the output alone can neither read the list nor try
ids against it. It is pseudonymous data, kept on purpose.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..partitioning.errors import InputError
from ..partitioning.graph import Encoder, parse_integers
from ..partitioning.storage import Store
from .config import Config
from .requests import Id, Request, parse_request
from .session import Session

ENVIRONMENT = "UNLEARNREC_SUPPRESSION_KEY"
SHORTEST = 16
"""Bytes of the key."""
FOLDER = "suppression"
FORGOTTEN, LIFTED = "forgotten", "lifted"
KINDS = ("users", "items", "pairs")

Digests = dict[str, set[bytes]]
"""By kind: HMAC-SHA256, 32 bytes each."""


def environment_key() -> bytes | None:
    """The key; None where the variable is not set.

    Raises:
        InputError: it is too short.
    """
    key = os.fsencode(os.environ.get(ENVIRONMENT, ""))
    if key and len(key) < SHORTEST:
        raise InputError(
            f"{ENVIRONMENT} has {len(key)} bytes, at least {SHORTEST} are needed: whoever guesses it can try ids against "
            "the suppression list. Make one with `openssl rand -hex 32`, and keep it outside `output`"
        )
    return key or None


def open_list(store: Store) -> SuppressionList | None:
    """The list under the key of the environment, which may still be empty; None where there is no key.

    Raises:
        InputError: as `environment_key` and `SuppressionList`.
    """
    key = environment_key()
    return None if key is None else SuppressionList(store, key)


def row_filter(store: Store) -> RowFilter | None:
    """What `ingest` has to leave out; None where nothing is on the list.

    Raises:
        InputError: there is a list, but no key; or as `open_list`.
    """
    suppression = open_list(store)
    if not store.list(FOLDER):
        return None
    if suppression is None:
        raise InputError(
            f"{store.root_uri} has a suppression list, and {ENVIRONMENT} is not set: without its key, forgotten data that "
            "the table still has would come back. Set it to the key that the list was made with"
        )
    listed, _ = suppression.state()
    return RowFilter(suppression.key, listed) if any(listed.values()) else None


class SuppressionList:
    """The list of one output, under its key."""

    def __init__(self, store: Store, key: bytes) -> None:
        """Raises:
        InputError: the list that is there was made with another key.
        """
        self.key, self._store = key, store
        self._check = hmac.digest(key, b"check\0", "sha256").hex()
        if names := store.list(FOLDER):
            self._read(names[-1])

    def append(self, kind: str, named: Digests) -> None:
        """Put them on the list (FORGOTTEN), or off it (LIFTED)."""
        content: dict[str, Any] = {"format": 1, "check": self._check, "kind": kind}
        content |= {name: sorted(digest.hex() for digest in named[name]) for name in KINDS}
        data = json.dumps(content).encode()
        while True:
            # Two writers of the same content may take one number on S3: that is one entry, and enough.
            try:
                self._store.create(_name(len(self._store.list(FOLDER)) + 1), data)
                return
            except FileExistsError:
                continue

    def state(self) -> tuple[Digests, Digests]:
        """(what is on the list, what was on it and was lifted).

        Raises:
            InputError: a file is missing, unreadable, or was made with another key.
        """
        listed: Digests = {kind: set() for kind in KINDS}
        lifted: Digests = {kind: set() for kind in KINDS}
        for number, name in enumerate(self._store.list(FOLDER), start=1):
            if name != _name(number):
                raise InputError(
                    f"{self._store.root_uri}/{_name(number)} is missing, but {name} is there: the suppression list has a "
                    "gap, and what was forgotten could come back. Restore the file from a backup"
                )
            content = self._read(name)
            target, other = (listed, lifted) if content["kind"] == FORGOTTEN else (lifted, listed)
            for kind in KINDS:
                found = {bytes.fromhex(text) for text in content[kind]}
                target[kind] |= found
                other[kind] -= found
        return listed, lifted

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._store.read(name))
            same = hmac.compare_digest(content["check"], self._check)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._store.root_uri}/{name} is no entry of the suppression list ({error!r}). Restore it from a backup"
            ) from error
        if not same:
            raise InputError(
                f"{self._store.root_uri}/{name} was made with another key than {ENVIRONMENT} holds. Set it to the key "
                "that the suppression list was made with"
            )
        return content


def digests_of(key: bytes, request: Request, id_types: Mapping[str, str]) -> Digests:
    """What a request names. id_types: {"user", "item"} of the graph, since "017" means 17 where ids are integers."""
    pairs = [[pair[side] for pair in request.interactions] for side in (0, 1)]
    users, items = _texts(request.users, id_types["user"]), _texts(request.items, id_types["item"])
    pair_users, pair_items = _texts(pairs[0], id_types["user"]), _texts(pairs[1], id_types["item"])
    return {
        "users": {_one(key, b"user\0", user) for user in users},
        "items": {_one(key, b"item\0", item) for item in items},
        "pairs": {_pair(key, user, item) for user, item in zip(pair_users, pair_items, strict=True)},
    }


class RowFilter:
    """Says which rows of a table name something on a list. Each distinct id is hashed once, and pairs only if there are
    any on it: each distinct pair of a call then."""

    def __init__(self, key: bytes, listed: Digests) -> None:
        self._key, self._pairs = key, listed["pairs"]
        self._sides = [_Side(key, b"user\0", listed["users"]), _Side(key, b"item\0", listed["items"])]

    def __call__(self, users: pa.Array, items: pa.Array) -> npt.NDArray[np.bool_]:
        """bool [n] for the rows users [n], items [n], int64 or string."""
        named = np.zeros(len(users), dtype=bool)
        codes = []
        for side, ids in zip(self._sides, (users, items), strict=True):
            if side.wanted or self._pairs:
                codes.append(side.codes(ids))
                named |= side.listed[codes[-1]]
        if self._pairs:
            pairs, row = np.unique((codes[0] << 32) | codes[1], return_inverse=True)
            texts = (
                side.texts(code) for side, code in zip(self._sides, (pairs >> 32, pairs & 0xFFFFFFFF), strict=True)
            )
            hits = [_pair(self._key, user, item) in self._pairs for user, item in zip(*texts, strict=True)]
            named |= np.array(hits, dtype=bool)[row.reshape(-1)]
        return named


class _Side:
    """The distinct ids of a side as they appear, and which are listed: bool by code."""

    def __init__(self, key: bytes, domain: bytes, wanted: set[bytes]) -> None:
        self._key, self._domain, self.wanted = key, domain, wanted
        self._encoder, self.listed = Encoder(), np.empty(0, dtype=bool)

    def codes(self, ids: pa.Array) -> npt.NDArray[np.int64]:
        codes = self._encoder.encode(ids)
        new = self._encoder.known.slice(len(self.listed)).to_pylist()
        hits = [bool(self.wanted) and _one(self._key, self._domain, str(x)) in self.wanted for x in new]
        self.listed = np.concatenate([self.listed, np.array(hits, dtype=bool)])
        return codes

    def texts(self, codes: npt.NDArray[np.int64]) -> list[str]:
        return [str(x) for x in self._encoder.known.take(pa.array(codes)).to_pylist()]


def lift(
    config: Config, *, users: str | None = None, items: str | None = None, interactions: str | None = None
) -> dict[str, Any]:
    """Take what these name off the list: for renewed consent. The next `ingest` lets it in again.

    It lifts what was put there under the same name: the interactions of a user who is listed stay out with the user.

    Raises:
        InputError: bad ids or files, or as `open_list`; no key is set.
    """
    session = Session(config)
    suppression = open_list(session.store)
    if suppression is None:
        raise InputError(f"lift: {ENVIRONMENT} is not set. Set it to the key that the suppression list was made with")
    request = parse_request(users, items, interactions, None, None, session.options)
    named = digests_of(suppression.key, request, session.id_types())
    listed, _ = suppression.state()
    lifted = {kind: named[kind] & listed[kind] for kind in KINDS}
    count = sum(map(len, lifted.values()))
    if count:
        suppression.append(LIFTED, lifted)
    return {"lifted": count, "not_listed": sum(map(len, named.values())) - count}


def _name(number: int) -> str:
    return f"{FOLDER}/{number:09d}.json"


def _texts(ids: Sequence[Id], id_type: str) -> list[str]:
    texts = [str(x) for x in ids]
    if id_type != "int64":
        return texts
    parsed = parse_integers(pa.array(texts, pa.string())).to_pylist()
    return [text if number is None else str(number) for text, number in zip(texts, parsed, strict=True)]


def _one(key: bytes, domain: bytes, text: str) -> bytes:
    return hmac.digest(key, domain + text.encode(), "sha256")


def _pair(key: bytes, user: str, item: str) -> bytes:
    parts = (user.encode(), item.encode())
    return hmac.digest(key, b"pair\0" + b"".join(len(x).to_bytes(8, "big") + x for x in parts), "sha256")
