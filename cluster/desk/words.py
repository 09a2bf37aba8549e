"""How the pages say what the log says: states, steps and times in words. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

SOON_DAYS = 3.0
"""From so many days before its due date on a request counts as urgent."""


@dataclass(frozen=True)
class Shown:
    """A word with its meaning, and the kind of attention that it asks for: "bad", "soon", "good", or "plain"."""

    word: str
    meaning: str = ""
    kind: str = "plain"


_STATES = {
    "accepted": Shown("Waiting", "It is durable, and is carried out when its turn comes."),
    "in_progress": Shown("In progress", "It is being carried out now."),
    "approved": Shown("Approved", "It was held and approved, and is carried out when its turn comes."),
    "held": Shown("Held", "It removes more than the limit. Nothing is done until somebody else approves it.", "soon"),
    "failed": Shown("Failed", "It could not be carried out. Nothing is tried again until it is sent again.", "bad"),
    "committed": Shown("Done", "A version without what it names was made.", "good"),
    "completed": Shown("Done, nothing found", "Nothing that it names is in the model.", "good"),
    "cancelled": Shown("Cancelled", "Somebody took it back. Nothing was removed."),
}

_UNCHECKED = Shown("Done, checks pending", "A version without what it names was made. Its checks come next.", "good")


def state(request: Mapping[str, Any]) -> Shown:
    """The state of a request, as `RequestsInterface.status` describes it."""
    phase = request["phase"]
    if phase == "accepted" and request.get("request_status") == "in_progress":
        phase = "in_progress"
    elif phase == "accepted" and request.get("approved_by"):
        phase = "approved"
    if phase == "committed" and request.get("checks"):
        return _UNCHECKED
    return _STATES.get(phase, Shown(phase))


def time_left(due: str | None, now: float) -> Shown:
    """How long it is until a due date in ISO-8601; an empty word where there is none. now: seconds since the epoch."""
    if due is None:
        return Shown("")
    seconds = datetime.fromisoformat(due).timestamp() - now
    if seconds < 0:
        return Shown(f"overdue by {_span(-seconds)}", kind="bad")
    return Shown(f"{_span(seconds)} left", kind="soon" if seconds <= SOON_DAYS * 86400 else "plain")


def _span(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600)):
        if seconds >= length:
            return _number(int(seconds // length), unit)
    return "less than an hour"


def _number(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' if number != 1 else ''}"


def coded(text: str) -> Markup:
    """The text, with what stands between backquotes as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in enumerate(parts))


def moment(text: str | None) -> str:
    """A time in ISO-8601 as people read it, in UTC and to the minute."""
    return "not known" if text is None else f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"


def step(one: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(title, sentences) of a step of a timeline."""
    name = one["step"]
    by = f" by {one['by']}" if one.get("by") else ""
    if name == "received":
        return f"Received{by}", ["The request is durable from here on, and its deadline counts from here."]
    if name == "received_again":
        return "Sent again", ["It had failed. Its deadline is the same as before."]
    if name == "held":
        share = f" {one['share']:.2%} of the interactions," if "share" in one else ""
        return "Held", [f"It would remove{share or ' '} more than the limit. Nothing was done."]
    if name == "approved":
        return f"Approved{by}", []
    if name == "matched":
        return "Matched with the data", _matched(one)
    if name == "carried_out":
        seconds = f" It took {one['seconds']:.2f} seconds." if one.get("seconds") else ""
        said = [f"Version {one['version']} is without it.{seconds}"] if one.get("version") else []
        missed = ["The version MISSED its quality gate: a retrain is due."] if one.get("gate") == "missed" else []
        return "Carried out", said + missed
    if name == "checked":
        failed = one.get("failed") or []
        result = f"These checks FAILED: {', '.join(failed)}." if failed else "Every check that was made passed."
        return "Checked", [f"{result} The evidence says which checks were made."]
    if name == "receipt" and one.get("number") == 1:
        return "Receipt written", ["It repeats the answer and the checks. The tables were not looked at for it yet."]
    if name == "receipt":
        return "Receipt brought up to date", [
            "It says what was looked at in the tables, and what still holds the data."
        ]
    if name == "failed":
        return "Failed", [
            f"The kind of error is {one['error']}. The log of the service says more."
        ] if "error" in one else []
    return name.replace("_", " ").capitalize(), []


def _matched(one: Mapping[str, Any]) -> list[str]:
    if one.get("matched") is False:
        return ["Nothing that it names is known here. The ids may be mistyped."]
    names = {
        "removed_interactions": "interaction",
        "removed_events": "event",
        "deleted_users": "user",
        "deleted_items": "item",
    }
    counts = [_number(one[key], word) for key, word in names.items() if one.get(key)]
    said = [f"Found and removed: {', '.join(counts)}."] if counts else ["It removed nothing."]
    rows = one.get("rows") or {}
    missed = [
        f"{rows[key]:,} {key.replace('_', ' ')}" for key in ("not_found", "already_gone", "invalid") if rows.get(key)
    ]
    return said + ([f"Of its rows: {', '.join(missed)}."] if missed else [])


_GATES = {
    "passed": Shown("passed", kind="good"),
    "fine_tuned": Shown("passed after fine-tuning", kind="good"),
    "missed": Shown("MISSED", "A retrain is due.", "bad"),
    "not_checked": Shown("not checked", "Too little was removed to tell, or there are no test interactions.", "plain"),
}


def gate(found: Mapping[str, Any] | None) -> Shown:
    """The verdict of the gate of a version; of one without requests there is none."""
    return Shown("none") if found is None else _GATES.get(found["status"], Shown(str(found["status"])))
