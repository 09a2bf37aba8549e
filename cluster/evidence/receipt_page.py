"""The HTML page of a receipt: its content as sentences and tables, to read and print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reporting.html import Section, render_report

HEADINGS = {
    "current": "The current state of the tables",
    "older": "Older states of the tables",
    "files": "Files that physically hold rows",
    "model": "The model",
}
NOTHING = {
    "current": "No live row names what was forgotten",
    "older": "No older version or snapshot still has it",
    "files": "No file physically holds it",
    "model": "It is gone from the model's current files, as the checks of its evidence say, and no older file is left",
}


def receipt_page(document: Mapping[str, Any], digest: str) -> str:
    """The HTML page of a receipt. It is a pure function: the same receipt always gives the same page.

    document: a state of a receipt. digest: SHA-256 of its file.
    """
    request_id, signer = document["request_id"], document["signer"]
    signed = "This receipt is not signed: no signing key was set."
    if signer is not None:
        signed = (
            f"It is signed with the Ed25519 key whose fingerprint is {signer['fingerprint']}. Compare this with what the "
            "owner of the key says, and check the signature as docs/evidence.md shows."
        )
    sections = [
        Section(
            "In short",
            f"What is known of request {request_id}, and where what it names may still lie. A statement of the system that "
            f"looked, at the times given below. {signed}",
            [{"part": heading, "": verdict(name, document["parts"][name])} for name, heading in HEADINGS.items()],
        )
    ]
    for name in HEADINGS:
        sections += _part(name, document["parts"][name])
    facts = {
        "request": request_id,
        "state of this receipt": document["number"],
        "SHA-256 of the state before": document["previous"] or "this is the first",
        "SHA-256 of this state": digest,
        "written": document["written"],
        "accepted": document["accepted"],
        "commitment to the request's content": document["commitment"],
    }
    sections.append(Section("The receipt", "", [{"": key, "value": str(value)} for key, value in facts.items()]))
    return render_report(f"Receipt: request {request_id}", sections)


def verdict(name: str, part: Mapping[str, Any]) -> str:
    """The conclusion of a part of the receipt, as a sentence."""
    if part["seen_at"] is None:
        return f"Not known: {part['not_looked_at'][0]['why']}."
    if part["gone"] is True:
        return f"{NOTHING[name]}."
    if part["gone"] is None:
        return f"Not known: {'; '.join(_missing(one) for one in part['not_looked_at'])}."
    if name == "model":
        failed = part["found"].get("evidence_failed")
        if failed:
            return f"Checks of its evidence FAILED: {', '.join(failed)}."
        return "Older files under the output may still hold its data: run `unlearnrec purge`."
    count = len(part["places"]) + part["places_left_out"]
    ends = "no setting of the tables removes all of it" if part["until"] is None else f"until {part['until']}"
    more = "; not all was looked at" if part["not_looked_at"] else ""
    return f"Still there, in {count} {'place' if count == 1 else 'places'}; {ends}{more}."


def _part(name: str, part: Mapping[str, Any]) -> list[Section]:
    if part["seen_at"] is None:
        return [Section(HEADINGS[name], verdict(name, part))]
    text = f"{verdict(name, part)} Seen at {part['seen_at']}: {part['how']}."
    if part["not_looked_at"]:
        text += f" Not looked at: {'; '.join(_missing(one) for one in part['not_looked_at'])}."
    if part["places_left_out"]:
        text += f" {part['places_left_out']} more places are not listed."
    rows = [
        {
            "place": place["place"],
            "kind": place.get("kind", ""),
            "rows": "not known" if place["rows"] is None else place["rows"],
            "until": place["until"] or "no setting removes it",
        }
        for place in part["places"]
    ]
    counts = [{"": str(key).replace("_", " "), "value": str(value)} for key, value in sorted(part["found"].items())]
    return [Section(HEADINGS[name], text, rows), Section("Counts", "", counts)]


def _missing(one: Mapping[str, Any]) -> str:
    count = "" if one["count"] is None else f"{one['count']} "
    return f"{count}{one['what']} ({one['why']})"
