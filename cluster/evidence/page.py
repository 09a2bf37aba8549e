"""The HTML page of an evidence report: the content of its JSON file as sentences, tables and charts, to read and print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reporting.charts import bar_chart
from ..reporting.html import Head, Section, State, Tile, moment, render_report
from .gate_section import gate_section

_STATES = {True: "ok", False: "FAILED", None: "left out"}
NOTHING = "nothing to check"
UNITS = {
    "files of the version": "files",
    "untouched partitions": "files",
    "rows of others": "rows",
    "rows of partitions": "partitions",
    "removed interactions": "interactions",
    "removed events": "interactions",
    "deleted nodes": "users and items",
}
"""What the numbers of a check count, by its name."""
MEANINGS = {
    "files of the version": (
        "files that this report had to read have the size and SHA-256 that was committed. The others did not change "
        "and were not read; `unlearnrec status --verify` compares them all"
    ),
    "untouched partitions": "partitions that the requests of the version did not affect have the same files as before",
    "rows of others": "rows of users and items that no request of the version touched have the same bits as before",
    "rows of partitions": "every partition has a row of embeddings for each user and item that is left, and no other row",
    "removed interactions": (
        "the forgotten interactions stand in no partition any more, and their number is that of the answer. Of more "
        "than 10,000 a random sample is looked up"
    ),
    "removed events": "interactions that lost some of their events have only the events that should be left",
    "deleted nodes": "users and items that lost their last interaction have neither a row of embeddings nor an id any more",
}
"""What must hold for a check to be ok, by its name."""
PHASES = {
    "route": "finding the partitions that hold the ids",
    "find": "finding the interactions there",
    "unlearn": "computing the new rows of embeddings",
    "write": "writing them to the store",
    "gate": "measuring the new version",
    "fine_tune": "training steps of the touched rows, because the gate was missed",
    "refresh": "computing what is served from it",
    "commit": "writing the record that makes it count",
    "prepare": "computing what the next request needs",
}
REMOVED = {
    "removed_interactions": "interactions (pairs of a user and an item)",
    "removed_events": "events (rows of the table)",
    "deleted_users": "users that are gone as a whole",
    "deleted_items": "items that are gone as a whole",
    "touched_nodes": "users and items that lost an interaction",
    "unknown_ids": "ids that the graph does not have",
    "affected_partitions": "affected partitions",
}


def page(document: Mapping[str, Any], digest: str) -> str:
    """The HTML page of a report. It is a pure function: the same report always gives the same page.

    document: the report, as `evidence.report` makes it. digest: SHA-256 of its JSON file.
    """
    version, times = document["version"], document["times"]
    files = document["files"]
    facts = {
        "request": document["request_id"],
        "commitment to its content": document["commitment"],
        "requests in this version": document["requests_in_version"],
        "accepted": moment(times["accepted"]),
        "committed": moment(times["committed"]),
        "report written": moment(times["written"]),
        "seconds": times["seconds"],
        "SHA-256 of the JSON report": digest,
    }
    sections = [
        Section("The request", "", _pairs(facts)),
        Section("What was removed", "By this request.", _removed(document["removed"])),
        *_checks(document["verification"]["checks"]),
        *gate_section(document.get("gate")),
        *_scores(document["verification"]["scores"]),
        Section(
            "What was not removed",
            "",
            [{"what": entry["what"], "why it is there": entry["why"]} for entry in document["not_removed"]],
        ),
        *_phases(times["phases"]),
        Section(
            "Affected partitions",
            "Before → after, of all requests of the version. An interaction is an entry in the row of its user and "
            "one in that of its item.",
            [_partition(line) for line in document["removed"]["partitions_of_version"]],
        ),
        Section("Drift of the encoder", "", _drift(document["drift"]), terms=["drift"]),
        Section(
            "Records of the log",
            "Each record of the log has the SHA-256 of the one before it, so no record can be changed without a trace.",
            [
                {"record": role, "number": record.get("number"), "file": record["file"], "kind": record["kind"]}
                | {"SHA-256": record["sha256"]}
                for role, record in document["records"].items()
            ],
        ),
        Section(
            "Files that changed",
            f"From version {version['before']} (before) to version {version['after']} (after). "
            f"{files['unchanged']:,} more files are the same in both.",
            [
                {"file": file["name"], "version": file["version"], "state": file["state"], "bytes": file["bytes"]}
                | {"SHA-256": file["sha256"]}
                for file in files["changed"]
            ],
        ),
        Section(
            "What this page is not",
            "A report of what was done and looked at, by the system that did it; no proof that the model is the one "
            "that a training without the data would give. Only a model that was retrained without them can show "
            "that: `unlearnrec evaluate --reference`. What is known of the lake is in the receipt, beside this page.",
        ),
        Section("Software", "", _pairs(document["software"])),
    ]
    return render_report(f"Evidence: request {document['request_id']}", sections, _head(document))


def _head(document: Mapping[str, Any]) -> Head:
    version, removed, times = document["version"], document["removed"], document["times"]
    checks = document["verification"]["checks"]
    failed = [check["name"] for check in checks if check["ok"] is False]
    left_out = [check["name"] for check in checks if check["ok"] is None]
    made = len(checks) - len(left_out)
    verdict = f"These checks FAILED: {', '.join(failed)}." if failed else "Every check that was made passed."
    if left_out:
        verdict += f" Left out, for the reasons below: {', '.join(left_out)}."
    lead = f"This request was committed as version {version['after']}, made from version {version['before']}. {verdict}"
    tiles = [
        Tile("interactions removed", _count(removed.get("removed_interactions"))),
        Tile("users, items removed", f"{_count(removed.get('deleted_users'))}, {_count(removed.get('deleted_items'))}"),
        Tile(
            "checks passed",
            f"{made - len(failed)} of {made}",
            f"{len(left_out)} more were left out" if left_out else "on files read back after the commit",
            "bad" if failed else "good" if made else "unknown",
        ),
    ]
    if gate := document.get("gate"):
        status = str(gate.get("status"))
        colours: dict[str, State] = {"passed": "good", "fine_tuned": "good", "missed": "bad"}
        about = "a retrain is due" if document.get("needs_retrain") else "what was measured before the commit"
        tiles.append(Tile("gate", status.replace("_", " "), about, colours.get(status, "unknown")))
    if times["seconds"] is not None:
        tiles.append(Tile("seconds", f"{times['seconds']:.2f} s", "to carry the request out"))
    return Head(
        lead, "bad" if failed else "unknown" if left_out else "good", tiles, f"Committed {moment(times['committed'])}"
    )


def _count(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _removed(removed: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, value in removed.items():
        if name != "partitions_of_version":
            shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else _shown(value)
            rows.append({"": REMOVED.get(name, name.replace("_", " ")), "value": shown})
    return rows


def _checks(checks: list[Mapping[str, Any]]) -> list[Section]:
    rows = []
    for check in checks:
        name, of, checked = check["name"], check["of"], check["checked"]
        if check["ok"] and not of:
            result, looked_at = NOTHING, ""
        else:
            result = _STATES[check["ok"]]
            looked_at = "" if not checked else f"{checked:,} of {_count(of)} {UNITS.get(name, '')}".rstrip()
        rows.append(
            {
                "check": name,
                "result": result,
                "looked at": looked_at or "nothing",
                "what must hold": MEANINGS.get(name, ""),
                "what was found": check["detail"],
            }
        )
    text = "Read back from the committed files, after the commit. Of many things only a sample is looked at."
    return [Section("What was checked", text, rows)]


def _phases(phases: Mapping[str, float] | None) -> list[Section]:
    heading = "Where the seconds went"
    if phases is None:
        return [
            Section(heading, "Not known: the command that carried the request out ended before it wrote this report.")
        ]
    shown = {f"{name}: {PHASES[name]}" if name in PHASES else name: seconds for name, seconds in phases.items()}
    if not shown:
        return []
    return [Section(heading, figures=[bar_chart("Seconds of each phase", "On a linear axis.", "s", shown)])]


def _scores(scores: Mapping[str, Any]) -> list[Section]:
    heading = "How the forgotten pairs score now"
    if "left_out" in scores:
        return [Section(heading, f"Left out: {scores['left_out']}.")]
    text = (
        f"Of {_count(scores['of'])} forgotten pairs with both ends still there, beside pairs that the model was "
        "trained on and random pairs that are no interactions. Forgotten pairs are such as their user would like: a "
        "model that never saw them scores them above random ones too. How a retrained model scores them is not "
        "known here."
    )
    titles = {
        "n": "number",
        "q05": "5% below",
        "q25": "25% below",
        "q50": "median",
        "q75": "75% below",
        "q95": "95% below",
    }
    groups = [{titles.get(name, name): _shown(value) for name, value in line.items()} for line in scores["groups"]]
    auc = [{"": name, "AUC": value} for name, value in scores["auc"].items()]
    about = (
        "AUC: the chance that a pair of the one group scores above a pair of the other. 0.5 is not apart at all; "
        "forgotten pairs should not be above trained ones."
    )
    return [Section(heading, text, groups), Section("How far apart they are", about, auc, under=True)]


def _partition(line: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"partition": str(line["partition"])}
    for name, value in line.items():
        if name != "partition":
            before, after = ("not known" if value[when] is None else f"{value[when]:,}" for when in ("before", "after"))
            shown[name.replace("_", " ")] = f"{before} → {after}"
    return shown


def _drift(drift: Mapping[str, Any]) -> list[dict[str, Any]]:
    share, more = drift.get("share_forgotten_since_pretraining"), drift.get("more_than_budget")
    return [
        {"": "share forgotten since pre-training", "value": "not known" if share is None else f"{share:.2%}"},
        {"": "more than its budget", "value": _shown(more)},
    ]


def _pairs(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"": name.replace("_", " "), "value": _shown(value)} for name, value in values.items()]


def _shown(value: Any) -> Any:
    return "not known" if value is None else value
