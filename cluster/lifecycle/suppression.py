"""The suppression list: keyed digests of what was forgotten, so that `ingest` does not bring it back (docs/commit.md).

The entries of the list are numbered files under `suppression/`, which never change. Where two entries name the same user,
item, pair or range, the later one counts. The key comes from the environment and is never stored under `output`: somebody
who has only the output can neither read the list nor try ids against it. The list is pseudonymous data, kept on purpose.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.storage import Store
from ..layout import SUPPRESSION, suppression_name
from ..requests.digests import KINDS, Digests, no_digests
from ..requests.row_filter import RowFilter

ENVIRONMENT = "UNLEARNREC_SUPPRESSION_KEY"
SHORTEST = 16
"""The smallest number of bytes that the key may have."""
FORGOTTEN, LIFTED = "forgotten", "lifted"


def environment_key() -> bytes | None:
    """The key of the list from the environment; None where the variable is not set.

    Raises:
        InputError: the key is too short.
    """
    key = os.fsencode(os.environ.get(ENVIRONMENT, ""))
    if key and len(key) < SHORTEST:
        raise InputError(
            f"{ENVIRONMENT} has {len(key)} bytes, at least {SHORTEST} are needed: whoever guesses it can try ids against "
            "the suppression list. Make one with `openssl rand -hex 32`, and keep it outside `output`"
        )
    return key or None


def open_list(store: Store) -> SuppressionList | None:
    """The list under the key from the environment, which may be empty; None where there is no key.

    Raises:
        InputError: as `environment_key` and `SuppressionList`.
    """
    key = environment_key()
    return None if key is None else SuppressionList(store, key)


def row_filter(store: Store, time_unit: str | None = None) -> RowFilter | None:
    """The filter of rows that `ingest` has to leave out; None where nothing is on the list. time_unit: as `RowFilter`.

    Raises:
        InputError: there is a list, but no key; or as `open_list`.
    """
    suppression = open_list(store)
    if not store.list(SUPPRESSION):
        return None
    if suppression is None:
        raise InputError(
            f"{store.root_uri} has a suppression list, and {ENVIRONMENT} is not set: without its key, forgotten data that "
            "the table still has would come back. Set it to the key that the list was made with"
        )
    listed, _ = suppression.state()
    return RowFilter(suppression.key, listed, time_unit) if any(listed.values()) else None


class SuppressionList:
    """The list of one output, under its key."""

    def __init__(self, store: Store, key: bytes) -> None:
        """Open the list of an output; nothing is written.

        Raises:
            InputError: the list that is there was made with another key.
        """
        self.key, self._store = key, store
        # A digest of nothing but the key: it shows whether two entries were made with one key.
        self._check = hmac.digest(key, b"check\0", "sha256").hex()
        if names := store.list(SUPPRESSION):
            self._read(names[-1])

    def append(self, kind: str, named: Digests, missing: Digests | None = None, requests: Sequence[str] = ()) -> None:
        """Put what these digests name on the list (kind FORGOTTEN), or take it off (kind LIFTED).

        missing: the digests of what the graph did not have. requests: the ids of the requests that name it.

        Raises:
            InputError: a file of the list is missing.
        """
        content: dict[str, Any] = {"format": 1, "check": self._check, "kind": kind}
        content |= _texts(named)
        if kind == FORGOTTEN:
            content |= {"missing": _texts(missing or no_digests()), "requests": list(requests)}
        data = json.dumps(content).encode()
        taken = 0
        # The next number is the number of files that are there, plus one. If its name is taken, and there are no more files
        # at the next look, a file before it is missing.
        while (number := len(self._store.list(SUPPRESSION)) + 1) != taken:
            # On S3 two writers of the same content may both succeed under one number. One entry is enough for both.
            try:
                self._store.create(suppression_name(number), data)
                return
            except FileExistsError:
                taken = number
        raise InputError(
            f"{self._store.root_uri}/{suppression_name(taken)} is there, but a file before it is missing: the suppression "
            "list has a gap. Restore the file from a backup"
        )

    def state(self) -> tuple[Digests, Digests]:
        """(what is on the list, what was on it and was taken off).

        Raises:
            InputError: a file is missing, unreadable, or was made with another key.
        """
        listed, lifted = no_digests(), no_digests()
        for content in self._entries():
            target, other = (listed, lifted) if content["kind"] == FORGOTTEN else (lifted, listed)
            for kind, found in _digests(content).items():
                target[kind] |= found
                other[kind] -= found
        return listed, lifted

    def removed(self, without: Collection[str]) -> Digests:
        """What requests removed and was not taken off the list since.

        Batches with a request of `without` are left out, since an entry does not say which request of its batch named what.

        Raises:
            InputError: as `state`.
        """
        removed = no_digests()
        for content in self._entries():
            for kind, found in _digests(content).items():
                if content["kind"] == LIFTED:
                    removed[kind] -= found
                elif set(without).isdisjoint(content.get("requests", ())):
                    removed[kind] |= found - _digests(content.get("missing", {}))[kind]
        return removed

    def of_request(self, request_id: str) -> tuple[Digests, int] | None:
        """(what a request names, the number of requests that name it together); None where no entry names the request.

        Requests that were carried out together share an entry, which does not say which of them named what.

        Raises:
            InputError: as `state`.
        """
        named, requests = no_digests(), set[str]()
        for content in self._entries():
            if content["kind"] == FORGOTTEN and request_id in content.get("requests", ()):
                requests |= set(content["requests"])
                for kind, found in _digests(content).items():
                    named[kind] |= found
        return (named, len(requests)) if requests else None

    def _entries(self) -> Iterator[dict[str, Any]]:
        """The contents of all entries, in order. Raises InputError where a file is missing."""
        for number, name in enumerate(self._store.list(SUPPRESSION), start=1):
            if name != suppression_name(number):
                raise InputError(
                    f"{self._store.root_uri}/{suppression_name(number)} is missing, but {name} is there: the suppression "
                    "list has a gap, and what was forgotten could come back. Restore the file from a backup"
                )
            yield self._read(name)

    def _read(self, name: str) -> dict[str, Any]:
        """The content of one file. Raises InputError where it is damaged or was made with another key."""
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


def _texts(digests: Digests) -> dict[str, list[str]]:
    """The digests as JSON can hold them, in hexadecimal."""
    return {kind: sorted(digest.hex() for digest in digests[kind]) for kind in KINDS if kind in digests}


def _digests(content: dict[str, Any]) -> Digests:
    """The inverse of `_texts`; kinds that are absent are empty."""
    return {kind: {bytes.fromhex(text) for text in content.get(kind, ())} for kind in KINDS}
