"""`retrain`: a new model with its encoder, as one version, while requests are carried out on the current one."""

from __future__ import annotations

import time
from typing import Any

from ...distributed.graph.removal import Removal
from ...distributed.training.checkpoint import Checkpoints
from ...distributed.training.run import Probe
from ...partitioning.errors import InputError
from ...partitioning.manifest import IngestedGraph
from ...workers import WorkerFailure, WorkerGroup
from ..config.schema import Config
from ..layout import LOG, REQUESTS, pretraining_folder, training_folder
from ..models.pretraining import clear_runs, fit_encoder, wants_around, with_encoder
from ..models.retraining import check_still_valid, commit_replayed
from ..models.training import at_intervals, make_run, prepare_run, trained_version, training_result
from ..output.ingests import graph_key, lake_graph
from ..output.leases import Lease
from ..output.session import Session
from ..reporting.progress import SILENT, Progress


def retrain(
    config: Config,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
    probe: Probe | None = None,
    group: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Train and pre-train, and commit both as one version, in which no request is undone that was carried out meanwhile.

    Args:
        resume: go on from the last checkpoint of the same training, and from finished counterfactual runs.
        probe, group: as for `train`.

    Raises:
        InputError: as `train` and `pretrain`; `purge --truncate-log --now` removed what the log said meanwhile.
        RuntimeError: another training or a rollback was committed meanwhile, or a purge took what is needed.
        WorkerFailure: as `WorkerGroup.run`.
    """
    session = Session(config)
    wants_around(config, config.backbone.model_dump())  # refused before anything is done
    lake_graph(session)  # where there is none, nothing is written
    started = time.perf_counter()
    with Lease(session, session.versions.next_number(), [f"{REQUESTS}/*", f"{LOG}/*"]) as lease:
        head, graph = _lease_graph(session, lease)
        run = make_run(config, graph, Removal(), probe)
        prepare_run(session, graph, run, resume, progress)
        look = at_intervals(lambda: check_still_valid(session.log.since(head), (), lease))
        try:
            with session.workers(group) as workers:
                trained, curve = trained_version(session, workers, graph, run, progress, look)
                lease.add(trained.files)
                encoder, files, pretrained = fit_encoder(session, trained, workers, progress, look)
                lease.add(files)
                manifest = with_encoder(trained, encoder, files).replaced(reason="train")
                committed = commit_replayed(session, workers, head, manifest, progress, lease)
        except (InputError, FileNotFoundError, WorkerFailure):
            check_still_valid(session.log.since(head), (), lease)  # where a purge took the file, it says so
            raise
    Checkpoints(session.store, run.folder).clear()
    clear_runs(session, trained)
    return training_result(committed, curve) | {
        "seconds": time.perf_counter() - started,
        "replayed_requests": len(committed.replayed or ()),
        "replayed_interactions": graph.interactions - committed.graph.interactions,
        "pretrain": pretrained,
    }


def _lease_graph(session: Session, lease: Lease) -> tuple[int, IngestedGraph]:
    """(the head of the log, the graph to train on then), whose files and checkpoints the lease holds from now on."""
    while True:
        head = session.log.head()  # before the graph is read: what is carried out from here on is not in it
        graph = lake_graph(session)
        lease.add([*graph.files, training_folder(graph_key(graph), "*"), pretraining_folder(graph_key(graph), "*")])
        # A purge looks at the log before the leases: none has taken the graph as superseded if it is not so now.
        if lake_graph(session) == graph:
            return head, graph
