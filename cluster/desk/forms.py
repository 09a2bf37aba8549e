"""What the forms of a new request mean: typed ids, or a file of requests. The rules and messages are those of the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...partitioning.errors import InputError
from ..lifecycle.operators import LONGEST_NAME, OPERATOR
from ..requests.request import check_request_id
from ..requests.rows import INTERACTIONS, ITEMS, KINDS, RANGES, USERS, Row, parse_row, read_upload
from ..serving.interface import NewRequest
from .drafts import Draft

SHOWN_ROWS = 20
"""Of so many rows that mean nothing a draft says why."""
LONGEST_ID = 1024
Errors = dict[str, str]
"""Field of a form -> what is wrong with it. No message repeats an id."""


def read_typed(form: Mapping[str, Any]) -> Draft | Errors:
    """The request that was typed: `users` and `items` with one id a line, and `user`, `item`, `since`, `until` for one
    interaction or time range."""
    rows: list[Row] = [(kind, line) for kind in (USERS, ITEMS) for line in _lines(form.get(kind, ""))]
    one = [str(form.get(name, "")) or None for name in ("user", "item", "since", "until")]
    if any(one):
        row = parse_row(*one)
        if isinstance(row, str):
            return {"user": row}
        rows.append(row)
    if not rows:
        return {"users": "names no user, item, interaction or range; give at least one"}
    return _draft(rows)


def read_file(name: str, content: bytes) -> Draft | Errors:
    """The request that a file of requests holds (docs/forgetting.md)."""
    if not name:
        return {"file": "choose a file"}
    try:
        rows = read_upload(name, content)
    except InputError as error:
        return {"file": str(error)}
    if not any(not isinstance(row, str) for row in rows):
        return {"file": "no row of the file names a user, an item, an interaction or a range"}
    return _draft(rows)


def read_sending(form: Mapping[str, Any], asks_name: bool) -> tuple[str | None, str | None] | Errors:
    """(request id or None, name of who asks or None). asks_name: whether a name is asked for, since no token says it."""
    request_id = str(form.get("request_id", "")).strip() or None
    requester = (str(form.get("requester", "")).strip() or None) if asks_name else None
    wrong: Errors = {}
    try:
        check_request_id(request_id)
    except InputError:
        wrong["request_id"] = "use 1 to 128 letters, digits, '.', '_' or '-', the first no '.'"
    if requester is not None and (message := wrong_name(requester)):
        wrong["requester"] = message
    return wrong or (request_id, requester)


def wrong_name(name: str) -> str | None:
    """What is wrong with the name of an operator; None if nothing is."""
    if OPERATOR.fullmatch(name) and len(name) <= LONGEST_NAME:
        return None
    return f"use 1 to {LONGEST_NAME} characters on one line, not only spaces"


def _draft(rows: Sequence[Row]) -> Draft | Errors:
    invalid = [(number, row) for number, row in enumerate(rows, start=1) if isinstance(row, str)]
    named: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for row in rows:
        if not isinstance(row, str):
            named[row[0]].append(row[1])
    ids = list(_ids(named))
    if any(len(one) > LONGEST_ID for one in ids):
        return {"users": f"an id is longer than {LONGEST_ID} characters"}
    counts = Counter({kind: len(values) for kind, values in named.items() if values})
    new = NewRequest(named[USERS], named[ITEMS], named[INTERACTIONS], named[RANGES], invalid=len(invalid))
    return Draft(new, counts, invalid[:SHOWN_ROWS], sum(one != one.strip() for one in ids))


def _ids(named: Mapping[str, Sequence[Any]]) -> Iterable[str]:
    for kind, values in named.items():
        for value in values:
            yield from [value] if kind in (USERS, ITEMS) else [one for one in value[:2] if one is not None]


def _lines(text: Any) -> list[str]:
    """The lines that say something. Nothing is trimmed: a space is a part of an id."""
    return [line for line in str(text).replace("\r\n", "\n").split("\n") if line.strip()]
