"""The HTML page of an evidence report: the content of its JSON file as tables, to read and print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reporting.html import Section, render_report

_STATES = {True: "ok", False: "FAILED", None: "left out"}


def page(document: Mapping[str, Any], digest: str) -> str:
    """The HTML page of a report. It is a pure function: the same report always gives the same page.

    document: the report, as `evidence.report` makes it. digest: SHA-256 of its JSON file.
    """
    version, times, checks = document["version"], document["times"], document["verification"]["checks"]
    failed = [check["name"] for check in checks if check["ok"] is False]
    left_out = [check["name"] for check in checks if check["ok"] is None]
    verdict = f"These checks FAILED: {', '.join(failed)}." if failed else "Every check that was made passed."
    if left_out:
        verdict += f" Left out, for the reasons below: {', '.join(left_out)}."
    return render_report(
        f"Evidence: request {document['request_id']}",
        [
            Section(
                "In short",
                f"This request was committed as version {version['after']}, made from version {version['before']}. "
                f"{verdict} A report of what was done and looked at, by the system that did it; no proof that the model "
                "is the one that a training without the data would give.",
                _pairs(
                    {
                        "request": document["request_id"],
                        "commitment to its content": document["commitment"],
                        "requests in this version": document["requests_in_version"],
                        "accepted": times["accepted"],
                        "committed": times["committed"],
                        "report written": times["written"],
                        "seconds": times["seconds"],
                        "SHA-256 of the JSON report": digest,
                    }
                ),
            ),
            Section("Phases", *_phases(times["phases"])),
            Section(
                "What was removed",
                "Counts of this request.",
                _pairs({k: v for k, v in document["removed"].items() if k != "partitions_of_version"}),
            ),
            Section(
                "Affected partitions",
                "Before → after, of the whole version. An interaction counts in the row of its user and in that of its "
                "item.",
                [_partition(line) for line in document["removed"]["partitions_of_version"]],
            ),
            Section(
                "What was checked",
                "Read back from the committed files, after the commit.",
                [
                    {
                        "check": check["name"],
                        "result": _STATES[check["ok"]],
                        "checked": _shown(check["checked"]),
                        "of": _shown(check["of"]),
                        "detail": check["detail"],
                    }
                    for check in checks
                ],
            ),
            *_scores(document["verification"]["scores"]),
            Section("What was not removed", "", document["not_removed"]),
            Section(
                "Drift of the encoder",
                "Share of the interactions forgotten since its pre-training, all requests together.",
                _pairs(document["drift"]),
            ),
            Section(
                "Records of the log",
                "Each record names the SHA-256 of the one before it.",
                [
                    {"role": role, "file": record["file"], "kind": record["kind"], "SHA-256": record["sha256"]}
                    for role, record in document["records"].items()
                ],
            ),
            Section(
                "Files that changed",
                f"{document['files']['unchanged']} files are the same in both versions.",
                [
                    {
                        "version": file["version"],
                        "file": file["name"],
                        "state": file["state"],
                        "bytes": file["bytes"],
                        "SHA-256": file["sha256"],
                    }
                    for file in document["files"]["changed"]
                ],
            ),
            Section("Software", "", _pairs(document["software"])),
        ],
    )


def _phases(phases: Mapping[str, float] | None) -> tuple[str, list[dict[str, Any]]]:
    if phases is None:
        return "Not known: the command that carried the request out ended before it wrote this report.", []
    return "Seconds of each.", [{"phase": name, "seconds": seconds} for name, seconds in phases.items()]


def _scores(scores: Mapping[str, Any]) -> list[Section]:
    heading = "How the forgotten pairs score now"
    if "left_out" in scores:
        return [Section(heading, f"Left out: {scores['left_out']}.")]
    text = (
        f"Of {scores['of']} forgotten pairs with both ends still there, beside pairs that the model was trained on and "
        "random pairs that are no interactions. Forgotten pairs are such as their user would like: a model that never "
        "saw them scores them above random ones too. How a retrained model scores them is not known here."
    )
    groups = [{name: _shown(value) for name, value in line.items()} for line in scores["groups"]]
    auc = [{"AUC": name, "value": value} for name, value in scores["auc"].items()]
    return [Section(heading, text, groups), Section("How far apart they are", "0.5 is not apart at all.", auc)]


def _partition(line: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"partition": line["partition"]}
    for name, value in line.items():
        if name != "partition":
            before, after = ("not known" if value[when] is None else f"{value[when]:,}" for when in ("before", "after"))
            shown[name.replace("_", " ")] = f"{before} → {after}"
    return shown


def _pairs(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"": name.replace("_", " "), "value": _shown(value)} for name, value in values.items()]


def _shown(value: Any) -> Any:
    return "not known" if value is None else value
