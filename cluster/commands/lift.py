"""`lift`: take users, items or interactions off the suppression list, after somebody has consented again."""

from __future__ import annotations

from typing import Any

from ...partitioning.errors import InputError
from ..config.schema import Config
from ..lifecycle.suppression import ENVIRONMENT, LIFTED, open_list
from ..output.ingests import id_types
from ..output.session import Session
from ..requests.digests import ANY_ITEM, KINDS, digests_of
from ..requests.request import parse_request


def lift(
    config: Config, *, users: str | None = None, items: str | None = None, interactions: str | None = None
) -> dict[str, Any]:
    """Take what is named here off the suppression list. The next `ingest` then reads it again.

    Only entries of the same name are lifted: a user lifts the entry of the user and the user's time ranges, an interaction
    its own. An interaction of a user who is still on the list stays suppressed.

    Raises:
        InputError: ids or files are bad, no key is set, or as `open_list`.
    """
    session = Session(config)
    suppression = open_list(session.store)
    if suppression is None:
        raise InputError(f"lift: {ENVIRONMENT} is not set. Set it to the key that the suppression list was made with")
    request = parse_request(users, items, interactions, None, None, session.options)
    named = digests_of(suppression.key, request, id_types(session))
    listed, _ = suppression.state()
    lifted = {kind: named[kind] & listed[kind] for kind in KINDS}
    # A time range is lifted with the user or the interaction that it belongs to.
    by_name = {entry: _named_by(entry) for entry in listed["ranges"]}
    lifted["ranges"] = {entry for entry, name in by_name.items() if name in named["users"] | named["pairs"]}
    found = {name for kind in ("users", "items", "pairs") for name in lifted[kind]}
    found |= {by_name[entry] for entry in lifted["ranges"]}
    if found:
        suppression.append(LIFTED, lifted)
    return {"lifted": len(found), "not_listed": sum(map(len, named.values())) - len(found)}


def _named_by(entry: bytes) -> bytes:
    """The digest of the user or of the interaction to which a time range on the list belongs."""
    user, pair = entry[:32], entry[32:64]
    return user if pair == ANY_ITEM else pair
