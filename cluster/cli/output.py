"""What a command's result looks like: on stdout one JSON object, or lines and tables for people; and as an exit code.

Exit codes: 0 done, 1 failed (`ok: false`), 2 bad input or configuration, 3 a quality gate failed (`passed: false`). Of a
job that was submitted, its own (`exit_code`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from ..reporting.exit_codes import DONE, FAILED, GATE_FAILED
from .keys import print_keys

TITLES = {
    "by_user_activity": "users by the number of their interactions in training (least, most):",
    "by_item_popularity": "items by the number of their interactions in training (least, most):",
    "baselines": "without a model:",
    "standard_errors": "standard errors of the means:",
    "validation": "chosen on validation interactions:",
    "tune": "settings that were tried:",
    "rows": "rows of the request:",
    "phases": "seconds of each phase:",
}
"""The keys of an answer that people see as a table, each with the line above it."""


NOT_CHECKED = "  too little was measured to say whether the forgetting worked: needs_retrain False is no result here"
"""What is said below the table of a gate whose verdict is easily misread."""


def exit_code(result: Mapping[str, Any]) -> int:
    """The exit code of a command that returned this result."""
    if result.get("ok") is False:
        return int(result.get("exit_code") or FAILED)
    return GATE_FAILED if result.get("passed") is False else DONE


def print_result(result: Mapping[str, Any], as_json: bool, stdout: TextIO) -> None:
    """With `as_json` the result as one line; else its lists of rows as tables, then a line for each other key."""
    if as_json:
        print(json.dumps(result, default=str), file=stdout, flush=True)
        return
    if result.get("matched") is False:
        print("nothing matched: none of the ids that were named is in this version. Check them", file=stdout)
    if "sections" in result or "about" in result:  # of `config`
        print_keys(result, stdout)
        return
    if isinstance(result.get("checks"), list):
        for check in result["checks"]:
            print(f"{'ok  ' if check['ok'] else 'FAIL'}  {check['name']}: {check['detail']}", file=stdout)
        result = {key: value for key, value in result.items() if key not in ("checks", "ok")}
    if isinstance(result.get("residues"), list):
        for item in result["residues"]:
            size = f"{item['rows']} rows" if "rows" in item else f"{item['bytes']} bytes"
            print(f"{item['kind']}: {item['place']}: {item['detail']}, {size}", file=stdout)
        result = {**result, "residues": len(result["residues"])}
    if isinstance(result.get("parts"), dict):
        from ..evidence.receipt_page import HEADINGS, verdict

        for name, part in result["parts"].items():
            print(f"{HEADINGS[name]}: {verdict(name, part)}", file=stdout)
        result = {key: value for key, value in result.items() if key != "parts"}
    if "attacks" in result and "table" in result:  # of `audit`
        print(result["table"], file=stdout)
        for name, why in result["untold"].items():
            print(f"not told: {name}: {why}", file=stdout)
        result = {key: value for key, value in result.items() if key not in ("attacks", "untold", "table", "passed")}
    if isinstance(result.get("plans"), list):  # their lines were told already
        for one in result["plans"]:
            print(f"{one['work']}: {one.get('why_not', 'there is enough memory')}", file=stdout)
        result = {key: value for key, value in result.items() if key not in ("plans", "why_not", "fits")}
    for name in ("models", "requests"):
        if isinstance(result.get(name), list):
            _print_table(result[name], stdout)
            result = {key: value for key, value in result.items() if key != name}
    if isinstance(result.get("gate"), dict) and "measures" in result["gate"]:
        status = str(result["gate"]["status"])
        print(f"gate: {status.replace('_', ' ')}", file=stdout)
        _print_table(gate_rows(result["gate"]), stdout)
        if status == "not_checked":
            print(NOT_CHECKED, file=stdout)
        result = {key: value for key, value in result.items() if key != "gate"}
    elif isinstance(result.get("gate"), dict):  # of `quickstart`: the verdict on each model
        result = {key: value for key, value in result.items() if key != "gate"}
    for name, title in TITLES.items():
        if result.get(name):
            print(title, file=stdout)
            _print_table(_rows(result[name]), stdout)
            result = {key: value for key, value in result.items() if key != name}
    result = {key: value for key, value in result.items() if key != "curve"}
    verdict = result.pop("verdict", None)  # of `quickstart`; a copy was made above
    width = max(map(len, result), default=0)
    for key, value in result.items():
        print(f"{key:<{width}}  {value:.6g}" if isinstance(value, float) else f"{key:<{width}}  {value}", file=stdout)
    if verdict is not None:
        print(verdict, file=stdout)


def gate_rows(gate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each measure of the gate, and for those of all requests since the last training."""
    rows = []
    for name, measure in gate["measures"].items():
        bound = gate["bounds"].get(name, "")
        for shown, found in ((name, measure), (f"{name}, pooled", measure.get("pooled"))):
            if found is not None:
                row = {"measure": shown, "value": found.get("value", "not measured"), "bound": bound}
                row |= {key: found[key] for key in ("error", "pairs", "requests", "users", "left_out") if key in found}
                rows.append(row)
    return rows


def _rows(value: Any) -> Sequence[Mapping[str, Any]]:
    """The rows of the table of a key of `TITLES`: of a list, of one mapping, or of a mapping of mappings by name."""
    if isinstance(value, list):
        return value
    if "trials" in value:
        return [
            {**trial["settings"], **{k: v for k, v in trial.items() if k != "settings"}} for trial in value["trials"]
        ]
    plain = {key: inner for key, inner in value.items() if key != "curve"}
    if all(isinstance(inner, Mapping) for inner in plain.values()):
        keys = list(dict.fromkeys(key for inner in plain.values() for key in inner))
        return [{"": name} | {key: inner.get(key, "") for key in keys} for name, inner in plain.items()]
    return [plain]


def _print_table(rows: Sequence[Mapping[str, Any]], stdout: TextIO) -> None:
    if not rows:
        return
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, *([_cell(row.get(key, "")) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print(
            "  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip(), file=stdout
        )


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
