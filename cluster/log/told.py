"""A line in the process's log for each record that this process appended and that changes the state of a request.

Bodies of records hold names of operators, salted digests and answers: only the fields named here are told.
"""

from __future__ import annotations

import logging

from ..reporting.logs import fields
from .records import ACCEPTED, APPROVED, CANCELLED, COMMITTED, COMPLETED, EVIDENCE, FAILED, HELD, Record

STATES = (ACCEPTED, HELD, APPROVED, COMPLETED, CANCELLED, FAILED)
"""Records of one request; their kind is its state."""

log = logging.getLogger(__name__)


def tell(record: Record) -> None:
    """Write the lines of this record: one a request, and one for a version that answers none."""
    if not log.isEnabledFor(logging.INFO):
        return
    body, number = record.body, record.number
    if record.kind in STATES:
        more = fields(
            request=body["request_id"],
            state=record.kind,
            record=number,
            error=body.get("error"),
            share=body.get("share"),
        )
        why = f" ({body['error']})" if body.get("error") else ""
        log.info("request %s: %s%s", body["request_id"], record.kind, why, extra=more)
    elif record.kind == COMMITTED:
        manifest = body["manifest"]
        version, reason, answers = manifest.get("version"), manifest.get("reason"), manifest.get("answers") or {}
        for request_id, answer in answers.items():
            gate = (answer.get("gate") or {}).get("status")
            more = fields(
                request=request_id, state=record.kind, record=number, version=version, seconds=answer.get("seconds")
            )
            more["fields"] |= {"gate": gate} if gate else {}
            log.info("request %s: %s in version %s", request_id, record.kind, version, extra=more)
        if not answers:
            log.info("version %s: %s", version, reason, extra=fields(version=version, reason=reason, record=number))
    elif record.kind == EVIDENCE:
        failed = body.get("evidence_failed")
        more = fields(request=body["request_id"], state=record.kind, record=number, evidence_failed=failed)
        log.info("request %s: evidence written", body["request_id"], extra=more)
