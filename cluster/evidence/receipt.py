"""The receipt of a request: one document about the model and the lake, brought up to date by `residue --request ID`.

Each state of a receipt is a file of its own that never changes: `receipt-ID@1.json`, `@2` and so on. Each names the SHA-256
of the state before it. The first state says nothing that the log does not say, so it needs no record. Each later one has a
record `receipt` in the log. The bytes are canonical JSON. If there is a key, they get a detached signature.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.storage import Store
from ..layout import REPORTS, receipt_name, receipt_of, receipt_page_name, report_name, signature_name
from ..log.records import RECEIPT, Record, iso
from ..output.leftovers import NOTE, REQUEST, UNNAMED, leftovers
from ..output.session import Session
from ..output.tickets import State, Ticket
from ..reporting.progress import SILENT, Progress
from ..reporting.software import software
from .lake import LAKE_PARTS, PLACES, unseen
from .receipt_page import receipt_page
from .signing import Key, fingerprint, signing_key

FORMAT = 1
"""The number of this format, which each receipt has."""
PARTS = (*LAKE_PARTS, "model")
"""The names of a receipt's parts, in order."""
COUNTS = ("removed_interactions", "removed_events", "deleted_users", "deleted_items", "needs_retrain", "gate")
"""The keys of the answer in the log that the model's part repeats."""


def canonical(document: Mapping[str, Any]) -> bytes:
    """Canonical JSON: one line of UTF-8 with sorted keys and without spaces. The same document always gives the same
    bytes."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def add_first_receipt(session: Session, request_id: str, progress: Progress = SILENT) -> None:
    """Write the first state of a committed request's receipt, unless it is there. It has the model's part, and says that the
    lake was not looked at yet.

    Nothing is raised. If the receipt cannot be written, a note says why.
    """
    try:
        ticket = session.ledger(look=False).tickets[request_id]
        _remove_of_another_log(session, ticket)
        if not session.store.exists(receipt_name(request_id, 1)):
            why = f"not looked at yet; run `unlearnrec residue --request {request_id}`"
            parts = {name: unseen(why) for name in LAKE_PARTS} | {"model": model_part(session, ticket, None)}
            _write(session, ticket, parts, signing_key(session.config), [])
    except Exception as error:  # the request stays committed, whatever happens to its receipt
        why = f": {error}" if isinstance(error, InputError | OSError) else ""
        progress.note(f"request {request_id}: its receipt was not written: {type(error).__name__}{why}")


def bring_up_to_date(session: Session, ticket: Ticket, lake: Mapping[str, Any], key: Key | None) -> dict[str, Any]:
    """Write the next state of a receipt, with the given parts of the lake and the present state of the model's part.

    lake: the parts that `look_at_lake` returns. key: None: the receipt is not signed.

    Returns:
        `request_id`, `receipt` (its file), `number`, `sha256`, `page`, `signature` (its file, or None), `signed_by` (the
        fingerprint of the key, or None) and `parts`.

    Raises:
        OSError: the state cannot be written. The states before it stay as they are.
    """
    _remove_of_another_log(session, ticket)
    parts = {**lake, "model": model_part(session, ticket, leftovers(session))}
    if not numbers(session, ticket.request_id):
        # There is no first state: it could not be written, or the request removed nothing. Every chain of states begins
        # with one that says only what the log says.
        first = {name: unseen("not looked at yet") for name in LAKE_PARTS} | {
            "model": model_part(session, ticket, None)
        }
        _write(session, ticket, first, key, [])
    document, data = _write(session, ticket, parts, key, numbers(session, ticket.request_id))
    # The record (R2) comes after the file (R1), because it names the SHA-256 of the file. If a crash leaves a file without
    # a record, `status --verify` says so.
    digest = session.store.sha256(data)
    body = {"request_id": ticket.request_id, "number": document["number"], "sha256": digest}
    session.log.append(RECEIPT, body)
    name, signer = receipt_name(ticket.request_id, document["number"]), document["signer"]
    return {
        **body,
        "receipt": name,
        "page": receipt_page_name(ticket.request_id),
        "signature": signature_name(name, digest) if signer else None,
        "signed_by": signer["fingerprint"] if signer else None,
        "parts": document["parts"],
    }


def _remove_of_another_log(session: Session, ticket: Ticket) -> None:
    """Remove the states of a receipt that were written behind a commit which the log does not have.

    So a backup is after it was restored, if its log was copied before the other files: it has receipts of commits that
    came between. The request was then carried out again, by another record, and its receipt begins anew. States that a
    record of this log fixes are never removed, nor any where the closing record was cut off, because then nothing can be
    compared.
    """
    store, request_id = session.store, ticket.request_id
    if request_id in session.ledger().receipts:
        return
    try:
        named = json.loads(store.read(receipt_name(request_id, 1)))["closed_by"]
        number, digest = int(named["number"]), named["sha256"]
    except (
        FileNotFoundError,
        ValueError,
        KeyError,
        TypeError,
    ):  # there is none, or `status --verify` says what is wrong
        return
    # This looks for new records: another process may have carried the request out after this one read the log.
    record = _record(session, number, look=True)
    if record.digest == digest if record else number <= session.log.head():
        return
    # The first state goes last: what makes these states another log's is there until all of them are gone.
    for number in reversed(numbers(session, request_id)):
        store.remove(receipt_name(request_id, number))


def numbers(session: Session, request_id: str) -> list[int]:
    """The numbers of the states of a receipt that are there, ascending."""
    found = map(receipt_of, session.store.list(REPORTS))
    return sorted(one[1] for one in found if one is not None and one[0] == request_id)


def model_part(session: Session, ticket: Ticket, left: Sequence[Any] | None) -> dict[str, Any]:
    """The model's part of a receipt: what became of the request in the model and in the files under the output.

    `gone` is True if no check of the evidence failed and no older file is left. A gate that was missed does not change it;
    that is in `found`.

    left: what `leftovers` found; None: the files under the output were not looked at.
    """
    answer = ticket.answer or {}
    evidence = session.ledger(look=False).evidence.get(ticket.request_id)
    found = {name: answer[name] for name in COUNTS if name in answer}
    found |= {"status": ticket.state.value, "version": answer.get("version")}
    missing, places = [], []
    how = "the request's answer in the log: it removed nothing"
    if ticket.state is State.COMMITTED:
        how = "the request's answer in the log and the checks of its evidence, which looked at the files of its version"
        if evidence is None:
            why = "its checks are pending: repeat the request, or wait for `serve`"
            missing.append(_missing("the evidence", why))
        else:
            found["evidence"] = report_name(ticket.request_id)
            found["evidence_sha256"] = evidence["sha256"]
            found["evidence_failed"] = list(evidence.get("evidence_failed", ()))
    if left is None:
        what = "older versions, checkpoints and contents of requests under the output"
        missing.append(_missing(what, f"not looked at yet; run `unlearnrec residue --request {ticket.request_id}`"))
    else:
        how += "; and a listing of the output for files that `purge` removes, which may hold its data"
        own = session.ledger(look=False).content_name(ticket.request_id)
        of_all = [one for one in left if one.kind not in (REQUEST, NOTE, UNNAMED) or one.place == own]
        kinds: dict[str, list[int]] = {}
        for one in of_all:
            count = kinds.setdefault(one.kind, [0, 0])
            count[0], count[1] = count[0] + 1, count[1] + one.bytes
        for kind, (files, size) in sorted(kinds.items()):
            places.append({"place": kind, "rows": None, "files": files, "bytes": size, "until": None})
    failed = bool(found.get("evidence_failed"))
    return {
        "gone": False if places or failed else (None if missing else True),
        "seen_at": iso(time.time()),
        "how": how,
        "found": found,
        "places": places[:PLACES],
        "places_left_out": max(0, len(places) - PLACES),
        "until": None,
        "not_looked_at": missing,
    }


def _missing(what: str, why: str) -> dict[str, Any]:
    return {"what": what, "count": None, "why": why}


def _write(
    session: Session, ticket: Ticket, parts: Mapping[str, Any], key: Key | None, there: Sequence[int]
) -> tuple[dict[str, Any], bytes]:
    """Write the next state after those that are there, with its signature and page; returns (document, bytes).

    there: the numbers of the states that are there, ascending.
    """
    store, request_id = session.store, ticket.request_id
    signer = None
    if key is not None:
        public = base64.b64encode(key.public).decode()
        signer = {"algorithm": "Ed25519", "public_key": public, "fingerprint": fingerprint(key.public)}
    number = there[-1] + 1 if there else 1
    while True:
        previous = store.sha256(store.read(receipt_name(request_id, number - 1))) if number > 1 else None
        document = {
            "format": FORMAT,
            "request_id": request_id,
            "number": number,
            "previous": previous,
            "written": iso(time.time()),
            "accepted": iso(ticket.accepted_at),
            "commitment": ticket.commitment,
            "closed_by": _closed_by(session, ticket),
            "parts": {name: parts[name] for name in PARTS},
            "signer": signer,
            "software": software(),
        }
        data, name = canonical(document), receipt_name(request_id, number)
        if key is not None:
            # The signature comes before the state. Otherwise a crash would leave a state that says it is signed, and is
            # not. Its name contains the hash of the state, so a signature without a state harms nobody.
            store.write(signature_name(name, store.sha256(data)), key.sign(data))
        if number == 1:
            # The page is there before the first state: of a process that ended between the two, nobody asks again, and
            # a page without a state is written again with it. That of a later state replaces a page, so it comes behind.
            _write_page(store, request_id, data)
        try:
            # `create` fails if another process wrote a state with this number first, so no state is overwritten.
            store.create(name, data)
        except FileExistsError:
            if number == 1:  # both first states say what the log says, so one is enough
                _write_page(store, request_id, store.read(name))
                return document, data
            number += 1  # this state comes after the other, and names its SHA-256
            continue
        if number > 1:
            _write_page(store, request_id, data)
        return document, data


def _write_page(store: Store, request_id: str, state: bytes) -> None:
    """Write the HTML page of a state. It is made from the bytes of the file, not from the document in memory, whose keys
    are in another order: so the same file always gives the same page."""
    page = receipt_page(json.loads(state), store.sha256(state))
    store.write(receipt_page_name(request_id), page.encode())


def _closed_by(session: Session, ticket: Ticket) -> dict[str, Any] | None:
    """The record that answered the request; None if it was removed from the log after a checkpoint."""
    one = _record(session, ticket.closed_at, look=False)
    if one is None:
        return None
    return {"number": one.number, "file": one.file, "kind": one.kind, "sha256": one.digest}


def _record(session: Session, number: int, look: bool) -> Record | None:
    """The record of the log with this number; None if it was removed after a checkpoint, or the log does not go so far."""
    with contextlib.suppress(InputError):
        records: Sequence[Record] = session.log.since(number - 1, look)
        if records and records[0].number == number:
            return records[0]
    return None
