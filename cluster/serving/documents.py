"""The documents about a request that lie under `reports/`: its evidence, its receipt, and how they are asked for."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...partitioning.errors import InputError
from ..layout import lineage_name, receipt_name, receipt_page_name, report_name, signature_name
from ..output.ledger import Ledger
from ..output.session import Session

TYPES = {"json": "application/json", "html": "text/html; charset=utf-8", "sig": "application/octet-stream"}
DOCUMENT = re.compile(r"(evidence\.(json|html)|lineage\.json|receipt\.html|receipt(-[1-9][0-9]{0,8})?\.(json|sig))")
"""What a document may be called in an address. `receipt.json` is the newest state of the receipt, `receipt-2.json` the
second, and `receipt-2.sig` its signature."""


@dataclass(frozen=True)
class Document:
    """A file as it lies under the output, with the name that it is downloaded under."""

    name: str
    media_type: str
    content: bytes


def list_documents(session: Session, ledger: Ledger, request_id: str) -> list[dict[str, Any]]:
    """What there is of a request: `document` (its name in an address), `file`, `media_type`, and `sha256` where a record of
    the log fixes it, else None.

    It asks the store for each name and lists no folder, so that it costs the same however many requests there are. Of the
    signatures only that of the newest state is listed, the others can be asked for.
    """
    found = []
    for document, name, sha256 in _candidates(ledger, request_id):
        if session.store.exists(name):
            found.append({"document": document, "file": name, "media_type": _type(document), "sha256": sha256})
        if document.startswith("receipt-") and sha256 is not None:
            signature = signature_name(name, sha256)
            if session.store.exists(signature):
                document = document.replace(".json", ".sig")
                found.append({"document": document, "file": signature, "media_type": _type(document), "sha256": None})
    return found


def read_document(session: Session, ledger: Ledger, request_id: str, document: str) -> Document | None:
    """A document of a request; None where there is none of this name.

    Raises:
        InputError: the file is not the one that the log fixes.
    """
    kind, _, suffix = document.rpartition(".")
    newest = _newest_receipt(ledger, request_id)
    number = newest if kind == "receipt" else int(kind.rpartition("-")[2]) if kind.startswith("receipt-") else None
    name = {
        "evidence.json": report_name(request_id),
        "evidence.html": report_name(request_id, "html"),
        "lineage.json": lineage_name(request_id),
        "receipt.html": receipt_page_name(request_id),
    }.get(document) or receipt_name(request_id, number or 1)
    try:
        content = session.store.read(name)
    except FileNotFoundError:
        return None
    digest = session.store.sha256(content)
    fixed = {file: sha256 for _, file, sha256 in _candidates(ledger, request_id)}.get(name)
    if fixed is not None and fixed != digest:
        raise InputError(
            f"{session.store.root_uri}/{name} is not the file that the log fixes: run `unlearnrec status --verify`"
        )
    if suffix == "sig":
        name = signature_name(name, digest)
        try:
            content = session.store.read(name)
        except FileNotFoundError:
            return None
    return Document(posixpath.basename(name), _type(document), content)


def first_receipt_written(session: Session, request_id: str) -> str | None:
    """When the first state of a request's receipt was written (ISO-8601), as it says itself; None where none can be read."""
    try:
        written = json.loads(session.store.read(receipt_name(request_id, 1)))["written"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return written if isinstance(written, str) else None


def _candidates(ledger: Ledger, request_id: str) -> Iterator[tuple[str, str, str | None]]:
    """(name in an address, file, SHA-256 as the log fixes it) of all that a request may have but signatures."""
    evidence = ledger.evidence.get(request_id, {})
    yield "evidence.html", report_name(request_id, "html"), evidence.get("page_sha256")
    yield "evidence.json", report_name(request_id), evidence.get("sha256")
    yield "receipt.html", receipt_page_name(request_id), None
    newest = _newest_receipt(ledger, request_id)
    for number in range(newest, 0, -1):
        fixed = ledger.receipts[request_id]["sha256"] if request_id in ledger.receipts and number == newest else None
        yield f"receipt-{number}.json", receipt_name(request_id, number), fixed
    yield "lineage.json", lineage_name(request_id), None


def _newest_receipt(ledger: Ledger, request_id: str) -> int:
    found: int = ledger.receipts.get(request_id, {"number": 1})["number"]
    return found


def _type(document: str) -> str:
    return TYPES[document.rpartition(".")[2]]
