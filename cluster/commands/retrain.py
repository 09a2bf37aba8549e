"""`retrain`: train a new model with its encoder, while requests are carried out on the current version.

The model and the encoder become one version, so every version that a service sees can forget.
"""

from __future__ import annotations

import time
from typing import Any

from ...distributed.graph.removal import Removal
from ...distributed.training.checkpoint import Checkpoints
from ...distributed.training.run import Probe
from ...partitioning.errors import InputError
from ...partitioning.manifest import IngestedGraph
from ...workers import WorkerFailure, Workers
from ..config.schema import Config
from ..evidence.run_report import told_of_encoder, update_run_report
from ..layout import LOG, REQUESTS, pretraining_folder, training_folder
from ..models.carrying import Earlier, find_earlier, is_current
from ..models.pretraining import clear_runs_of_others, fit_encoder, wants_around, with_encoder
from ..models.retraining import check_still_valid, commit_replayed
from ..models.training import at_intervals, make_run, prepare_run, trained_version, training_result
from ..models.validation import clear_choice, with_chosen_epochs
from ..output.compaction import compact
from ..output.ingests import graph_key, lake_graph
from ..output.leases import Lease
from ..output.session import Session
from ..planning.announce import announce
from ..planning.sizes import sizes_of_graph
from ..reporting.progress import SILENT, Progress
from ..reporting.spans import traced
from ..tracking.run import tracked


@traced("retrain")
@tracked
def retrain(
    config: Config,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
    probe: Probe | None = None,
    group: Workers | None = None,
) -> dict[str, Any]:
    """Train and pre-train, and commit both as one version. Requests that are carried out meanwhile are carried out on this
    version too.

    Args:
        resume: go on from the last checkpoint of the same training, and from finished counterfactual runs.
        probe, group: as for `train`.

    Raises:
        InputError: as `train` and `pretrain`; or `purge --truncate-log --now` removed records that were needed.
        RuntimeError: another training or a rollback was committed meanwhile, or a purge removed files that are needed.
        WorkerFailure: as `WorkerGroup.run`.
    """
    session = Session(config)
    wants_around(config, config.backbone.specification())  # raises for an impossible setting, before any work is done
    lake_graph(session)  # raises if there is no graph, before anything is written
    # The training is on the graph in whole files: a purge beside it then has no reason to write that graph anew.
    compact(session)
    started = time.perf_counter()
    configured = config
    config, choice = with_chosen_epochs(config, progress, group, resume)
    session = Session(config)
    # The lease (Lt) comes before everything else. It holds the contents of requests and the log, because requests that are
    # carried out from now on have to be read at the end, when a purge might have removed them.
    with Lease(session, session.versions.next_number(), [f"{REQUESTS}/*", f"{LOG}/*"]) as lease:
        head, graph, earlier = _lease_graph(session, lease, progress)
        run = make_run(config, graph, Removal(), probe)
        sizes = sizes_of_graph(session.store, graph, run.halo)
        carries = earlier is not None
        announce(config, sizes, "train", progress, group, carries=carries)
        # The second line holds more than the training.
        planned = announce(config, sizes, "pretrain", progress, group, carries=carries)
        prepare_run(session, run, resume, progress)
        # A training takes long. It ends early if a record since `head` already makes its result useless.
        look = at_intervals(lambda: check_still_valid(session.log.since(head), (), lease))
        try:
            with session.workers(group) as workers:
                planned.placed(workers)
                trained, curve = trained_version(session, workers, graph, run, progress, look, earlier)
                # No version names the new files yet, so the lease has to hold them, those of each step before the next.
                lease.add(trained.files)
                encoder, files, pretrained = fit_encoder(session, trained, workers, progress, look)
                lease.add(files)
                manifest = with_encoder(trained, encoder, files).replaced(reason="train")
                committed = commit_replayed(session, workers, head, manifest, progress, lease)
        except (InputError, FileNotFoundError, WorkerFailure):
            # The cause may be a purge that removed the files. This check then raises an error that says so.
            check_still_valid(session.log.since(head), (), lease)
            raise
    # Only now: until the commit, `retrain --resume` needs the checkpoints.
    Checkpoints(session.store, run.folder).clear()
    clear_runs_of_others(session, trained)
    if choice is not None:
        clear_choice(configured)
    told = training_result(committed, curve, run.settings.num_batches)
    update_run_report(
        session,
        committed,
        progress,
        training={key: told[key] for key in ("epochs", "seconds", "curve")},
        encoder=told_of_encoder(encoder, pretrained["seconds"]),
    )
    return told | {
        **planned.measured(workers),
        "seconds": time.perf_counter() - started,
        "replayed_requests": len(committed.replayed or ()),
        "replayed_interactions": graph.interactions - committed.graph.interactions,
        "pretrain": pretrained,
        **({"validation": choice.document()} if choice is not None else {}),
    }


def _lease_graph(session: Session, lease: Lease, progress: Progress) -> tuple[int, IngestedGraph, Earlier | None]:
    """(the head of the log, the graph to train on, the encoder that may be carried over to its model). The lease holds the
    graph's files and checkpoints, and the encoder's file, from now on."""
    while True:
        # The head is read before the graph. A request that is carried out after this head may still have its data in the
        # graph, and is carried out on the new model at the end.
        head = session.log.head()
        graph = lake_graph(session)
        earlier = find_earlier(session.config, session.versions.current(), progress)
        runs = [training_folder(graph_key(graph), "*"), pretraining_folder(graph_key(graph), "*")]
        lease.add([*graph.files, *runs, *(earlier.files if earlier is not None else ())])
        # A purge reads the log before the leases. If this graph is still the one to train on after the lease was written,
        # no purge that missed the lease can have taken the graph for a superseded one.
        if lake_graph(session) == graph and is_current(earlier, session.versions.current()):
            return head, graph, earlier
