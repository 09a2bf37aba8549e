"""The report page of a run: what was trained, how it is partitioned, what was forgotten, and how that stands beside a model
that was retrained without it.

The page is a pure function of a document, which evidence/run_report.py makes and which lies beside the page as JSON. What a
document does not have is left out or said to be unknown, so documents of earlier releases still give a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from .charts import Point, bar_chart, dot_chart, ecdf_chart, line_chart, scatter_chart
from .html import Section, moment, render_report
from .run_verdict import ORIGINAL, RETRAINED, UNLEARNED, Document, head_of, rows_of, title_of

MODELS = {
    ORIGINAL: "before the request, trained on everything",
    "edges cut": "the interactions were only taken out of the graph; no row of embeddings was changed",
    UNLEARNED: "after `forget`",
    RETRAINED: "trained anew without the request, with the same random draws: the target",
}
"""What each model of a comparison is."""


def run_page(document: Document) -> str:
    """The page of a run or comparison (HTML)."""
    sections = [
        *_training(document),
        *_partitions(document),
        *_forgetting(document),
        *_gate(document),
        *_requests(document),
        Section("What this page is not", _not(document)),
        *_made(document),
    ]
    return render_report(str(document.get("title", "unlearnrec report")), sections, head_of(document))


def _training(document: Document) -> list[Section]:
    training, graph = document.get("training") or {}, document.get("graph") or {}
    if not (training or graph or document.get("quality")):
        return []
    told = []
    if graph.get("interactions") is not None:
        told.append(
            f"{graph['interactions']:,} interactions of {graph['users']:,} users and {graph['items']:,} items were "
            "ingested."
        )
    if training.get("backbone"):
        told.append(f"The model is {training['backbone']}.")
    if training.get("epochs"):
        seconds = f" in {training['seconds']:.1f} s" if training.get("seconds") is not None else ""
        told.append(f"It was trained for {training['epochs']} epochs{seconds}.")
    encoder = document.get("encoder") or {}
    if encoder.get("carried_from") is not None:
        told.append(
            f"The Influence Encoder, which estimates how rows of embeddings change, was carried over from version "
            f"{encoder['carried_from']} in {encoder['seconds']:.0f} s. It explained {encoder['carried_r2']:.2f} of the "
            "squared changes of scores in a short training without a simulated request."
        )
    elif encoder:
        told.append(
            "Pre-training the Influence Encoder, which estimates how rows of embeddings change, took "
            f"{document['encoder']['seconds']:.0f} s; it is done once for all requests."
        )
    curve = training.get("curve") or []
    figures = []
    if curve:
        losses = [Point(c["epoch"], c["loss"], f"epoch {c['epoch']:g}: loss {c['loss']:.4f}") for c in curve]
        figures.append(line_chart("Loss", "The training loss after each epoch.", "epoch", "loss", {"loss": losses}))
        metric = next((key for c in curve for key in c if key.startswith("recall@")), None)
        probed = [Point(c["epoch"], c[metric], f"epoch {c['epoch']:g}: {c[metric]:.4f}") for c in curve if metric in c]
        if metric is not None and probed:
            title = title_of(metric)
            about = "On held-out interactions, where it was measured."
            figures.append(line_chart(title, about, "epoch", title, {title: probed}))
    sections = [Section("Training", " ".join(told), figures=figures, terms=["loss"] if figures else [])]
    return [*sections, *_quality(document.get("quality") or {})]


def _quality(quality: Mapping[str, Any]) -> list[Section]:
    """Ranking quality of the current version, and by groups of users and items where these were measured."""
    plain = {key: value for key, value in quality.items() if "@" in key and isinstance(value, int | float)}
    if not plain:
        return []
    about = "On held-out test interactions, after all requests"
    about += f", of {quality['users']:,} users." if quality.get("users") else "."
    rows = [{"model": "current version", **_titled(plain)}]
    for name, measured in (quality.get("baselines") or {}).items():
        rows.append({"model": name.replace("_", "-"), **_titled({k: v for k, v in measured.items() if k in plain})})
    sections = [Section("Quality of the current version", about, rows, under=True)]
    for key, title, what in (
        ("by_user_activity", "By activity of users", "users"),
        ("by_item_popularity", "By popularity of items", "items"),
    ):
        groups = [
            {"interactions in training": "{:,} to {:,}".format(*group["interactions"])}
            | _titled({k: v for k, v in group.items() if k != "interactions"})
            for group in quality.get(key) or ()
        ]
        if groups:
            text = f"The {what} are in groups by the number of their interactions in training."
            sections.append(Section(title, text, groups, under=True))
    return sections


def _titled(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with measures written as in texts: "Recall@20", not "recall@20"."""
    return {title_of(key): value for key, value in row.items()}


def _partitions(document: Document) -> list[Section]:
    graph = document.get("graph") or {}
    if not graph:
        return []
    count = graph.get("partitions")
    text = "" if not count else f"The graph lies in {count:,} partition{'s' * (count > 1)}, one for each worker."
    names = {"edge_cut": "edge cut", "balance": "balance", "rows_per_layer": "rows per layer"}
    rows = [{"measure": title, "value": graph[key]} for key, title in names.items() if graph.get(key) is not None]
    sections = [Section("Partitions", text, rows)]
    if graph.get("by_partition"):
        sections.append(Section("Each partition", "As of the current version.", graph["by_partition"], under=True))
    return sections


def _forgetting(document: Document) -> list[Section]:
    comparison = document.get("comparison")
    if not comparison:
        return []
    rows = rows_of(comparison)
    about = comparison.get("about", "")
    return [
        Section(
            "Forgetting",
            f"{about} What counts is how near the unlearned model is to the retrained one, not how low a number "
            "is.".strip(),
            [_titled(row) for row in rows.values()],
            _figures(comparison, rows),
            meanings={name: text for name, text in MODELS.items() if name in rows},
        )
    ]


def _figures(comparison: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    figures = []
    auc = {name: row["attack AUC"] for name, row in rows.items() if "attack AUC" in row}
    if auc:
        lines = {"retrained, the target": auc[RETRAINED]} if RETRAINED in auc else {}
        figures.append(
            dot_chart(
                "Attack AUC",
                "Telling forgotten pairs from pairs that no model saw, by score.",
                "AUC",
                auc,
                lines | {"guessing": 0.5},
                0.5,
            )
        )
    if comparison.get("scores"):
        about = (
            "Scores of the forgotten pairs in each model, and of held-out pairs, which no model saw. The unlearned "
            "curve should lie on the retrained one."
        )
        groups = {_group(name): values for name, values in comparison["scores"].items()}
        figures.append(ecdf_chart("Scores of pairs", about, "score", groups))
    if comparison.get("shift") and comparison["shift"][0]:
        about = (
            "How the score of each forgotten pair changed: in the retrained model (needed) and in the unlearned one."
        )
        needed, delivered = comparison["shift"]
        figures.append(scatter_chart("Change of score", about, "needed", "delivered", needed, delivered))
    seconds = {
        title: comparison["seconds"][name]
        for name, title in (
            ("forget", "forget"),
            ("retrain", "retrain, which forgetting replaces"),
            ("pretrain", "pre-train the encoder, once for all requests"),
        )
        if (comparison.get("seconds") or {}).get(name) is not None
    }
    if len(seconds) > 1:
        figures.append(bar_chart("Time", "On this machine and its load, on a linear axis.", "s", seconds))
    return figures


def _group(name: str) -> str:
    return "held out" if name == "held out" else f"forgotten, {name}"


def _gate(document: Document) -> list[Section]:
    gates = document.get("gates") or {}
    gates = {name: gate for name, gate in gates.items() if gate}
    if not gates:
        return []
    text = (
        "What `forget` measures before its commit, where no retrained model is at hand. A measure misses its bound "
        "if it does so by more than twice its standard error. ± is twice the standard error."
    )
    rows = []
    for name, gate in gates.items():
        row: dict[str, Any] = {"": name, "verdict": str(gate.get("status", "not known")).replace("_", " ")}
        for measure, found in gate.get("measures", {}).items():
            row[measure] = _measured(found)
        rows.append(row)
    notes = [
        f"{name}, {measure}: {found['left_out']}."
        for name, gate in gates.items()
        for measure, found in gate.get("measures", {}).items()
        if "left_out" in found
    ]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    whole = [{key: row.get(key, "not measured") for key in keys} for row in rows]
    more = "\n\nNot measured: " + " ".join(notes) if notes else ""
    return [Section("The gate", text + more, whole)]


def _measured(found: Mapping[str, Any]) -> str:
    pooled = "" if "value" in found else ", all requests"
    found = found if "value" in found else found.get("pooled") or {}
    if "value" not in found:
        return "not measured"
    error = f" ± {2 * found['error']:.3f}" if found.get("error") else ""
    return f"{found['value']:.3f}{error}{pooled}"


def _requests(document: Document) -> list[Section]:
    requests = document.get("requests") or []
    if not requests:
        return [Section("Requests over time", "No request was carried out yet.")] if "requests" in document else []
    left_out = (document.get("forgotten") or {}).get("requests", len(requests)) - len(requests)
    text = f"The last {len(requests):,} of them; {left_out:,} earlier ones are not shown." if left_out > 0 else ""
    rows = [
        {
            "request": r["request_id"],
            "accepted": moment(r.get("accepted")),
            "committed": moment(r.get("committed")),
            "version": r.get("version"),
            "interactions": r.get("removed_interactions"),
            "users": r.get("deleted_users"),
            "items": r.get("deleted_items"),
            "seconds": r.get("seconds"),
            "gate": str(r.get("gate") or "not known").replace("_", " "),
        }
        for r in requests
    ]
    return [Section("Requests over time", text, rows, _request_figures(requests))]


def _request_figures(requests: Sequence[Mapping[str, Any]]) -> list[str]:
    timed = [(_time(r["accepted"]), r) for r in requests if r.get("accepted") and r.get("seconds") is not None]
    if len(timed) < 2:
        return []
    first, last = timed[0][0], max(at for at, _ in timed)
    units = ((86400, "days"), (3600, "hours"), (60, "minutes"))
    size, unit = next(((s, u) for s, u in units if last - first >= 2 * s), (1, "seconds"))
    points = [
        Point(
            (at - first) / size,
            r["seconds"],
            f"{r['request_id']}: {r.get('removed_interactions') or 0:,} interactions in {r['seconds']:.2f} s",
        )
        for at, r in timed
    ]
    label = f"{unit} since the first request"
    about = "Each mark is a request, at the time at which it was accepted."
    return [line_chart("Seconds of each request", about, label, "seconds", {"requests": points}, joined=False)]


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _not(document: Document) -> str:
    about = document.get("data_about", "")
    return (
        f"{about} It is no certificate: it shows one run with one seed, on one machine. Rows of neighbours that no "
        "request named, and the encoder, were computed from data that included what was forgotten, and are not "
        "changed. An attack that finds nothing does not show that no other attack can. Seconds depend on the load "
        "of the machine. What is known of a single request is in its evidence and receipt, beside this page in "
        "`reports/`."
    ).strip()


def _made(document: Document) -> list[Section]:
    made, software = document.get("made") or {}, document.get("software") or {}
    facts = {
        "date": moment(made.get("written")),
        "command": made.get("command"),
        "machine": made.get("machine"),
        **software,
    }
    rows = [{"": name, "value": str(value)} for name, value in facts.items() if value is not None]
    sections = [Section("How it was made", table=rows)] if rows else []
    if document.get("configuration"):
        sections.append(Section("Configuration", code=str(document["configuration"]), under=bool(sections)))
    return sections
