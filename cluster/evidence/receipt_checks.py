"""The checks of receipts by `status --verify`: their chain, their records, their signatures, and that they agree with the
log. Nothing is written."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ...partitioning.storage import Store
from ..layout import receipt_name, receipt_of, receipt_page_name, signature_name
from ..log.records import iso
from ..output.ledger import Ledger
from ..output.tickets import Ticket
from ..reporting.software import software
from .lake import LAKE_PARTS
from .receipt import COUNTS, canonical
from .receipt_page import receipt_page
from .signing import fingerprint, verifies

AGAIN = "Run `unlearnrec residue --request {}` again"
RESTORE = "Restore it from a backup"


def by_request(names: Iterable[str]) -> dict[str, list[int]]:
    """The numbers of the receipt states among these names of files, ascending, by request id."""
    found: dict[str, list[int]] = {}
    for one in filter(None, map(receipt_of, names)):
        found.setdefault(one[0], []).append(one[1])
    return {request_id: sorted(numbers) for request_id, numbers in found.items()}


def check_receipt(
    store: Store,
    ledger: Ledger,
    digests: Mapping[int, str],
    ticket: Ticket,
    numbers: Collection[int],
    keys: Collection[bytes],
) -> tuple[bool, str]:
    """Check all states of a receipt; returns (whether they are as they were written, a sentence about it).

    Args:
        digests: the SHA-256 of the log's records that are there, by number.
        ticket: the request.
        numbers: the states that are there, as `by_request` returns them.
        keys: the public keys that count. If there are none, a signature is checked with the key that the receipt names.

    Raises:
        InputError: a receipt is signed, and cryptography is not installed.
    """
    request_id, previous, signers = ticket.request_id, None, list[str | None]()
    fixed = ledger.receipts.get(request_id)
    last = max([*numbers, fixed["number"] if fixed else 0])
    document: dict[str, Any] = {}
    # From the first state on, because each must name the SHA-256 of the one before it.
    for number in range(1, last + 1):
        place = receipt_name(request_id, number)
        try:
            data = store.read(place)
        except FileNotFoundError:
            return False, f"{place} is missing, though a later state or the log names it. {RESTORE}"
        try:
            document = json.loads(data)
            whole = canonical(document) == data and document["previous"] == previous
            wrong = _contradictions(document, ledger, digests, ticket, number)
            signer = document["signer"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return False, f"{place} is no receipt ({type(error).__name__}). {RESTORE}"
        if not whole:
            return False, f"{place} was changed: it does not continue the state before. {RESTORE}"
        if wrong:
            return False, f"{place} contradicts the log: {', '.join(wrong)}. {RESTORE}"
        previous = store.sha256(data)
        if fixed is not None and fixed["number"] == number and fixed["sha256"] != previous:
            return False, f"{place} was changed: its SHA-256 is not the one of {fixed['file']}. {RESTORE}"
        if signer is not None and (problem := _unsigned(store, place, data, signer, keys)) is not None:
            return False, problem
        signers.append(None if signer is None else signer["fingerprint"])
    if last > 1 and (fixed is None or fixed["number"] < last):
        return (
            False,
            f"{receipt_name(request_id, last)} is not in the log: who wrote it ended. {AGAIN.format(request_id)}",
        )
    if document["software"] == software() and not _has_page(store, request_id, receipt_page(document, previous or "")):
        return False, f"{receipt_page_name(request_id)} is not the page of its state {last}. {AGAIN.format(request_id)}"
    states = "1 state" if last == 1 else f"{last} states, each of which continues the one before"
    return True, f"{states}; {_signed(signers, keys)}"


def _contradictions(
    document: Mapping[str, Any], ledger: Ledger, digests: Mapping[int, str], ticket: Ticket, number: int
) -> list[str]:
    """The names of what a state of a receipt says otherwise than the log."""
    answer, found = ticket.answer or {}, document["parts"]["model"]["found"]
    pairs: dict[str, tuple[Any, Any]] = {
        "request_id": (document["request_id"], ticket.request_id),
        "number": (document["number"], number),
        "accepted": (document["accepted"], iso(ticket.accepted_at)),
        "commitment": (document["commitment"], ticket.commitment),
        "version": (found["version"], answer.get("version")),
        "status": (found["status"], ticket.state.value),
    }
    pairs |= {name: (found.get(name), answer.get(name)) for name in COUNTS}
    if "evidence_sha256" in found:
        evidence = ledger.evidence.get(ticket.request_id, {})
        pairs["evidence"] = found["evidence_sha256"], evidence.get("sha256")
        pairs["evidence_failed"] = found["evidence_failed"], list(evidence.get("evidence_failed", ()))
    closed = document["closed_by"]
    # A record that was removed from the log after a checkpoint cannot be compared any more.
    if closed is not None and closed["number"] >= min(digests):
        pairs["closed_by"] = closed["sha256"], digests.get(closed["number"])
    if number == 1:  # no record has its SHA-256, so it may not say more than the log says
        seen = {name: document["parts"][name]["seen_at"] for name in LAKE_PARTS}
        pairs |= {name: (moment, None) for name, moment in seen.items()}
    return [name for name, (told, logged) in pairs.items() if told != logged]


def _unsigned(store: Store, place: str, data: bytes, signer: Mapping[str, Any], keys: Collection[bytes]) -> str | None:
    """What is wrong with the signature of a receipt's state, as a sentence; None if it is right.

    place, data: the state's file and its bytes. signer: what the state says about its key. keys: as `check_receipt`.
    """
    name = signature_name(place, store.sha256(data))
    public = base64.b64decode(signer["public_key"])
    try:
        signature = store.read(name)
    except FileNotFoundError:
        return f"{place} says that it is signed, and {name} is missing. {RESTORE}"
    if signer["fingerprint"] != fingerprint(public) or not verifies(public, signature, data):
        return f"{name} is not a signature of {place} by the key that it names. {RESTORE}"
    if keys and public not in keys:
        return (
            f"{place} is signed by {fingerprint(public)}, which is neither evidence.signing_key nor among "
            "evidence.public_keys. If that key is yours, name its public key there"
        )
    return None


def _signed(signers: Collection[str | None], keys: Collection[bytes]) -> str:
    """Who signed a receipt, as a phrase. signers: for each state the fingerprint of its key, None if it is not signed."""
    known = sorted({signer for signer in signers if signer is not None})
    unsigned = sum(signer is None for signer in signers)
    if not known:
        return "not signed"
    text = f"signed by {', '.join(known)}"
    if not keys:
        text += " (no key is configured: compare this fingerprint with what the key's owner says)"
    return text + (f"; {unsigned} of them not signed" if unsigned else "")


def _has_page(store: Store, request_id: str, page: str) -> bool:
    """Whether the stored page of a receipt is this one."""
    try:
        return store.read(receipt_page_name(request_id)) == page.encode()
    except FileNotFoundError:
        return False
