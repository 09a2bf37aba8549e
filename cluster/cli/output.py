"""What a command's result looks like: on stdout one JSON object, or lines and tables for people; and as an exit code.

Exit codes: 0 done, 1 failed (`ok: false`), 2 bad input or configuration, 3 a quality gate failed (`passed: false`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from ..reporting.exit_codes import DONE, FAILED, GATE_FAILED
from .keys import print_keys


def exit_code(result: Mapping[str, Any]) -> int:
    """The exit code of a command that returned this result."""
    if result.get("ok") is False:
        return FAILED
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
    if isinstance(result.get("plans"), list):  # their lines were told already
        for one in result["plans"]:
            print(f"{one['work']}: {one.get('why_not', 'fits on this machine')}", file=stdout)
        result = {key: value for key, value in result.items() if key not in ("plans", "why_not", "fits")}
    for name in ("models", "requests"):
        if isinstance(result.get(name), list):
            _print_table(result[name], stdout)
            result = {key: value for key, value in result.items() if key != name}
    result = {key: value for key, value in result.items() if key != "curve"}
    width = max(map(len, result), default=0)
    for key, value in result.items():
        print(f"{key:<{width}}  {value:.6g}" if isinstance(value, float) else f"{key:<{width}}  {value}", file=stdout)


def _print_table(rows: Sequence[Mapping[str, Any]], stdout: TextIO) -> None:
    if not rows:
        return
    lines = [list(rows[0]), *([f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print(
            "  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip(), file=stdout
        )
