"""The gate of a request as a section of a page: what was measured before the commit, and what that says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reporting.html import Section

GAPS = ("gap_closed", "user_gap_closed")
"""Measures with a lower bound, and its inverse as the upper one."""
STATUS = {
    "passed": "Passed: everything that is switched on was measured, and is within its bounds.",
    "fine_tuned": "Passed, after some training steps of the rows that the request touched.",
    "missed": "Missed: a measure is out of its bounds. The data are gone, but a retrain is due: `unlearnrec retrain`.",
    "not_checked": (
        "Not checked: nothing is out of its bounds, but something could not be measured, or not well enough to "
        "tell. That is no result, neither good nor bad."
    ),
}
STATUS["not_applicable"] = STATUS["not_checked"]  # as earlier releases called it


def gate_section(gate: Mapping[str, Any] | None, under: bool = False) -> list[Section]:
    """The section; empty if there is no gate in the document.

    gate: as in the answer of a request.
    """
    if not gate or "measures" not in gate:
        return []
    status = str(gate.get("status"))
    text = (
        f"{STATUS.get(status, status.replace('_', ' '))} A measure misses a bound if it does so by more than twice "
        "its standard error. ± is twice the standard error."
    )
    rows = []
    bounds, missed = gate.get("bounds", {}), gate.get("missed", ())
    for name, measure in gate["measures"].items():
        for found, shown, of in (
            (measure, name, "this request"),
            (measure.get("pooled"), f"{name}.pooled", "all requests since the last training"),
        ):
            if found is not None and ("value" in found or "left_out" in found):
                rows.append(
                    {
                        "measure": name,
                        "of": of,
                        "value": _value(found),
                        "bounds": _bounds(name, bounds.get(name)),
                        "result": _result(found, shown in missed),
                        "measured on": _size(found),
                    }
                )
    return [Section("The gate: what was measured before the commit", text, rows, under=under)]


def _value(found: Mapping[str, Any]) -> str:
    if "value" not in found:
        return "not measured"
    return f"{found['value']:.3f}" + (f" ± {2 * found['error']:.3f}" if found.get("error") else "")


def _bounds(name: str, bound: float | None) -> str:
    if bound is None:
        return "none"
    return f"{bound:g} to {1 / bound:g}" if name in GAPS and bound else f"at most {bound:g}"


def _result(found: Mapping[str, Any], missed: bool) -> str:
    if "value" not in found:
        return str(found["left_out"])
    return "out of bounds" if missed else "not out of bounds"


def _size(found: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{found[key]:,} {key if found[key] != 1 else key[:-1]}"
        for key in ("pairs", "users", "requests")
        if key in found
    )
