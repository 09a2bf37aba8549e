"""The report of a run: a document of everything that its page shows, as JSON beside the page.

It names requests by their ids, which the log has too, and no user and no item. reporting/run_page.py makes the page.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...distributed.measures import gap as shares
from ...distributed.partition.version import Encoder
from ...partitioning.errors import InputError
from ...partitioning.ingest import load_ids
from ..config.schema import to_yaml
from ..layout import run_report_name
from ..log.records import iso
from ..models.comparison import Measured
from ..output.manifest import Manifest
from ..output.session import Session
from ..output.tickets import State, Ticket
from ..reporting.charts import quantiles, sample_pairs
from ..reporting.progress import SILENT, Progress
from ..reporting.run_page import run_page
from ..reporting.run_verdict import ORIGINAL, RETRAINED, UNLEARNED
from ..reporting.software import machine, software

FORMAT = 1
"""The number of this format, which each document has."""
SHOWN_REQUESTS = 200
"""The largest number of requests that a report lists: the last ones."""
NAMING = ("--users", "--items", "--interactions", "--requests", "--without")
"""Options whose values may be ids of users and items."""
REPETITIONS = 200
"""The number of bootstrap samples for the interval of the difference of two AUCs."""


def update_run_report(session: Session, version: Manifest, progress: Progress = SILENT, **measured: Any) -> str | None:
    """Write the report of a version that was just made or measured; returns the place of the page.

    What an earlier report says is kept where it is still true: all of it if it is of the same version, of another one what
    it says of the same training and of the same encoder. Nothing is raised: if it cannot be written, a note says why, and
    None is returned.

    measured: parts of the document (`training`, `encoder`, `quality`, `comparison`) as far as they are known.
    """
    try:
        earlier = _earlier(session)
        facts = run_facts(session, version, "unlearnrec report")
        training = facts["training"] | measured.pop("training", {})
        if earlier.get("training", {}).get("run") == training["run"]:
            training = earlier["training"] | training
        kept = earlier if _same(earlier, facts) else {}
        facts["title"] = kept.get("title", facts["title"])
        encoder = earlier.get("encoder") or {}
        if version.model.encoder is not None and encoder.get("file") == version.model.encoder.file:
            kept = kept | {"encoder": encoder}
        return write_run_report(session, kept | facts | {"training": training} | measured)
    except (OSError, InputError) as error:
        progress.note(f"{run_report_name('html')} was not written: {type(error).__name__}: {error}")
        return None


def told_of_encoder(encoder: Encoder, seconds: float) -> dict[str, Any]:
    """What a document says of an encoder, the part `encoder`. seconds: of its pre-training."""
    carried = {"carried_from": encoder.carried_from, "carried_r2": encoder.carried_r2}
    return {"seconds": seconds, "file": encoder.file, **(carried if encoder.carried_from is not None else {})}


def _earlier(session: Session) -> dict[str, Any]:
    """The document that is there; empty if there is none, or it is none of this format."""
    try:
        document = json.loads(session.store.read(run_report_name()))
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) and document.get("format") == FORMAT else {}


def _same(earlier: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether both documents are of the same version of the same graph."""
    return all(key in earlier and earlier[key] == facts[key] for key in ("version", "ingest"))


def _run(version: Manifest) -> str:
    """A digest of everything on which a training depends: its data, seed and settings."""
    model = version.model
    told = [model.trained_on, model.seed, model.backbone, model.train, version.graph.ingest]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def write_run_report(session: Session, document: Mapping[str, Any]) -> str:
    """Write the document and its page into the output; returns the place of the page."""
    told = _plain({"format": FORMAT, **document})
    session.store.write(run_report_name(), json.dumps(told, indent=1).encode() + b"\n")
    name = run_report_name("html")
    session.store.write(name, run_page(told).encode())
    return f"{session.store.root_uri}/{name}"


def run_facts(session: Session, version: Manifest, title: str) -> dict[str, Any]:
    """What a document says of every run: how it was made, its graph, model and requests."""
    graph, model = version.graph, version.model
    return {
        "title": title,
        "made": {"written": iso(time.time()), "command": _command(), "machine": machine()},
        "software": software(),
        "configuration": to_yaml(session.config),
        "graph": {
            "users": graph.users,
            "items": graph.items,
            "interactions": graph.ingested_interactions,
            "partitions": graph.partitions,
            "edge_cut": graph.edge_cut,
            "balance": graph.balance,
            "rows_per_layer": graph.rows_per_layer.get(graph.halo),
            "by_partition": _partitions(session, version),
        },
        "version": version.version,
        "ingest": graph.ingest,
        "training": {"run": _run(version), "backbone": model.backbone["name"], "epochs": model.train.get("epochs")},
        **_requests(session),
    }


def seconds_of(
    session: Session, before: Manifest | None, version: Manifest, other: Session, retrained: Manifest
) -> dict[str, float]:
    """What is known of the seconds of forgetting and of the retrain that it replaces: "forget" of all requests between the
    two versions, "retrain" from the report of the other output."""
    told = {}
    by_version: dict[int, float] = {}
    for ticket in session.ledger().tickets.values():
        answer = ticket.answer or {}
        number, seconds = answer.get("version"), answer.get("seconds")
        if before is not None and number and seconds and before.version < number <= version.version:
            by_version[number] = max(
                seconds, by_version.get(number, 0.0)
            )  # requests of one version share their seconds
    if by_version:
        told["forget"] = sum(by_version.values())
    training = _earlier(other).get("training", {})
    if training.get("run") == _run(retrained) and training.get("seconds"):
        told["retrain"] = training["seconds"]
    return told


def comparison(models: Mapping[str, Measured], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a document says of models that were compared.

    models: by name, with ORIGINAL where it is known. rows: those of `models.comparison.compare`.
    """
    scores = {name: quantiles(one.forgotten) for name, one in models.items()}
    scores["held out"] = quantiles(models[UNLEARNED].held_out)
    told: dict[str, Any] = {"models": rows, "scores": scores}
    told["auc_difference_interval"] = _difference(models[UNLEARNED], models[RETRAINED])
    if ORIGINAL in models:
        before, after, target = (models[name].forgotten for name in (ORIGINAL, UNLEARNED, RETRAINED))
        told["shift"] = sample_pairs(target - before, after - before)
        measured = _aucs([models[name] for name in (ORIGINAL, UNLEARNED, RETRAINED)])
        if measured is not None:
            original, unlearned, retrained = measured
            share = shares.share_of_gap(original, unlearned, retrained, REPETITIONS)
            if not math.isnan(share.value):
                told |= {"gap_closed": share.value, "gap_closed_interval": [share.low, share.high]}
    return told


def _aucs(models: Sequence[Measured]) -> list[shares.Measure] | None:
    """The attack's AUC in each of these models, on the pairs that all of them can score; None without such pairs."""
    there = {
        name: np.logical_and.reduce([~np.isnan(getattr(one, name)) for one in models])
        for name in ("forgotten", "held_out")
    }
    if not all(mask.any() for mask in there.values()):
        return None
    return [shares.auc(one.forgotten[there["forgotten"]], one.held_out[there["held_out"]]) for one in models]


def _difference(after: Measured, target: Measured) -> list[float] | None:
    """The 95% bootstrap interval of the difference of the attack's AUCs; each sample is drawn once for both models."""
    measured = _aucs([after, target])
    if measured is None:
        return None
    one, other = measured
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(REPETITIONS):
        counts = [np.bincount(rng.integers(size, size=size), minlength=size) for size in one.sizes]
        drawn.append(one.from_counts(*counts) - other.from_counts(*counts))
    return [float(x) for x in np.quantile(drawn, [0.025, 0.975])]


def _partitions(session: Session, version: Manifest) -> list[dict[str, Any]]:
    """A row for each partition: its users, items, and the bytes of its graph and rows of embeddings."""
    graph, files = version.graph, version.files
    counts = []
    for side in ("user", "item"):
        _, _, owners = load_ids(session.store, graph, side)
        counts.append(np.bincount(owners, minlength=graph.partitions))

    def size(names: tuple[str, ...]) -> int | None:
        found = [files[name].bytes for name in names if name in files]
        return sum(found) if len(found) == len(names) else None

    return [
        {
            "partition": str(k),
            "users": int(counts[0][k]),
            "items": int(counts[1][k]),
            "bytes of the graph": size(graph.shard_chain(k)),
            "bytes of embeddings": size(version.model.embedding_chain(k)),
        }
        for k in range(graph.partitions)
    ]


def _requests(session: Session) -> dict[str, Any]:
    """The requests that were carried out, the last SHOWN_REQUESTS of them each with its times, and totals of all."""
    done = [t for t in session.ledger().tickets.values() if t.answer is not None and t.state is State.COMMITTED]
    answers = [ticket.answer or {} for ticket in done]
    listed: list[dict[str, Any]] = []
    times = _commit_times(session, done[-SHOWN_REQUESTS:])
    for ticket in done[-SHOWN_REQUESTS:]:
        answer = ticket.answer or {}
        gate = answer.get("gate") or {}
        kept = {
            key: answer.get(key)
            for key in ("version", "removed_interactions", "deleted_users", "deleted_items", "seconds")
        }
        when = {"accepted": iso(ticket.accepted_at), "committed": times.get(ticket.closed_at)}
        listed.append({"request_id": ticket.request_id, **when, **kept, "gate": gate.get("status")})
    totals = {
        "requests": len(done),
        "interactions": sum(answer.get("removed_interactions") or 0 for answer in answers),
        "users": sum(answer.get("deleted_users") or 0 for answer in answers),
    }
    return {"requests": listed, "forgotten": totals if done else {}}


def _commit_times(session: Session, tickets: Sequence[Ticket]) -> dict[int, str]:
    """The times of the records that closed these requests, by their numbers. Those that a purge took from the log are not
    known any more."""
    if not tickets:
        return {}
    try:
        return {r.number: r.time for r in session.log.since(min(ticket.closed_at for ticket in tickets) - 1)}
    except InputError:
        return {}


def _command() -> str:
    """The command line, without the folder of the program and without what NAMING options name; of a program that uses
    this package only its name."""
    program, *arguments = sys.argv
    name = Path(program).name
    if name not in ("unlearnrec", "__main__.py"):
        return f"Python ({name})"
    shown, hide = [], False
    for argument in arguments:
        option, given, _ = argument.partition("=")
        shown.append("..." if hide else f"{option}=..." if given and option in NAMING else argument)
        hide = argument in NAMING
    return shlex.join(["unlearnrec", *shown])


def _plain(value: Any) -> Any:
    """The value as JSON has it: numbers of NumPy as such of Python, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
