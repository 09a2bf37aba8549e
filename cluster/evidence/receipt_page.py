"""The HTML page of a receipt: its content as sentences and tables, to read and print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reporting.html import Head, Section, State, Tile, moment, render_report
from .gate_section import gate_section

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
STATES: Mapping[bool | None, tuple[str, State]] = {
    True: ("gone", "good"),
    False: ("still there", "bad"),
    None: ("not known", "unknown"),
}


def receipt_page(document: Mapping[str, Any], digest: str) -> str:
    """The HTML page of a receipt. It is a pure function: the same receipt always gives the same page.

    document: a state of a receipt. digest: SHA-256 of its file.
    """
    request_id, signer = document["request_id"], document["signer"]
    signed = "This receipt is not signed: no signing key was set."
    if signer is not None:
        signed = (
            f"It is signed with the Ed25519 key whose fingerprint is {signer['fingerprint']}. Compare this with what "
            "the owner of the key says, and check the signature as docs/evidence.md shows."
        )
    sections = [
        Section(
            "In short",
            f"What is known of request {request_id}, and where what it names may still lie. A statement of the "
            f"system that looked, at the times given below. {signed}",
            [{"part": heading, "result": verdict(name, document["parts"][name])} for name, heading in HEADINGS.items()],
        )
    ]
    for name in HEADINGS:
        sections += _part(name, document["parts"][name])
    facts = {
        "request": request_id,
        "state of this receipt": document["number"],
        "SHA-256 of the state before": document["previous"] or "this is the first",
        "SHA-256 of this state": digest,
        "written": moment(document["written"]),
        "accepted": moment(document["accepted"]),
        "commitment to the request's content": document["commitment"],
    }
    sections.append(Section("The receipt", "", [{"": key, "value": str(value)} for key, value in facts.items()]))
    tiles = []
    for name, heading in HEADINGS.items():
        shown, state = STATES[_gone(document["parts"][name])]
        seen = document["parts"][name]["seen_at"]
        tiles.append(Tile(heading, shown, f"seen at {moment(seen)}" if seen else "nobody looked yet", state))
    lead, state = _lead(document["parts"])
    head = Head(lead, state, tiles, f"State {document['number']} of the receipt, written {moment(document['written'])}")
    return render_report(f"Receipt: request {request_id}", sections, head)


def _lead(parts: Mapping[str, Mapping[str, Any]]) -> tuple[str, State]:
    """(what is gone, still there and not known, in a sentence each, the colour of it)."""
    told = []
    for gone in (False, None, True):
        names = [HEADINGS[name].lower() for name in HEADINGS if _gone(parts[name]) is gone]
        if names:
            told.append(f"{STATES[gone][0].capitalize()}: {', '.join(names)}.")
    found = {_gone(parts[name]) for name in HEADINGS}
    return " ".join(told), STATES[False if False in found else None if None in found else True][1]


def _gone(part: Mapping[str, Any]) -> bool | None:
    return None if part["seen_at"] is None else part["gone"]


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
    text = f"{verdict(name, part)} Seen at {moment(part['seen_at'])}: {part['how']}."
    if part["not_looked_at"] and part["gone"] is not None:  # else the verdict has said it
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
    found = {key: value for key, value in sorted(part["found"].items()) if not isinstance(value, Mapping)}
    counts = [{"": str(key).replace("_", " "), "value": _shown(value)} for key, value in found.items()]
    title = "What its answer and evidence say" if name == "model" else "Counts"
    sections = [Section(HEADINGS[name], text, rows), *([Section(title, "", counts, under=True)] if counts else [])]
    return [*sections, *gate_section(part["found"].get("gate"), under=True)]


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return value


def _missing(one: Mapping[str, Any]) -> str:
    count = "" if one["count"] is None else f"{one['count']} "
    return f"{count}{one['what']} ({one['why']})"
