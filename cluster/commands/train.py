"""`train`: train the backbone on the graph and commit the result as a version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...distributed.graph.removal import Removal
from ...distributed.training.checkpoint import Checkpoints
from ...distributed.training.run import Probe
from ...partitioning.errors import InputError
from ...partitioning.ingest import load_ids
from ...partitioning.manifest import Graph
from ...workers import WorkerFailure, Workers
from ..config.schema import Config
from ..evidence.run_report import update_run_report
from ..lifecycle.finding import find_stored
from ..log.log import LogConflict
from ..models.carrying import find_earlier
from ..models.pretraining import clear_runs_of_others
from ..models.training import at_intervals, make_run, prepare_run, trained_version, training_result
from ..models.tuning import tuned_config
from ..models.validation import clear_choice, with_chosen_epochs
from ..output.compaction import compact
from ..output.conflicts import voids_training
from ..output.ingests import lake_graph
from ..output.session import Session
from ..planning.announce import announce
from ..planning.sizes import sizes_of_graph
from ..reporting.progress import SILENT, Progress
from ..reporting.spans import traced
from ..requests.matching import effect, resolve_all
from ..requests.request import Request, make_request
from ..requests.rows import INTERACTIONS, ITEMS, KINDS, RANGES, USERS, read_rows
from ..tracking.run import tracked

OVERTAKEN = (
    "another version was committed while this training ran (by a request, or another run), a request was carried out whose "
    "data the ingest that it trains on may have, or `purge --now` removed its files, so its result is not made the current "
    "version. Run `unlearnrec train` again; or `unlearnrec retrain`, to whose result requests are put that are carried out "
    "meanwhile"
)


@traced("train")
@tracked
def train(
    config: Config,
    *,
    resume: bool = False,
    without: Sequence[str | Request] = (),
    tune: bool = False,
    progress: Progress = SILENT,
    probe: Probe | None = None,
    group: Workers | None = None,
) -> dict[str, Any]:
    """Train the backbone and commit it as the current version.

    Args:
        resume: continue from the last checkpoint of the same run, if there is one.
        without: what to leave out: files in the form of `forget --requests`, where other columns are ignored, or requests.
            The result is a counterfactual.
        tune: first choose settings among those of the section `tune`, on validation interactions (`models.tuning`).
        probe: measure the quality during training.
        group: workers that run already; None: workers are started and ended here.

    Raises:
        InputError: as `lake_graph`; a file of `without` is bad; or validation cannot choose (`models.validation`).
        RuntimeError: another version was committed meanwhile by a request or a command. The training ends a few seconds
            after that commit.
        WorkerFailure: as `WorkerGroup.run`.
    """
    if without and (tune or config.validation.share):
        raise InputError(
            "--without trains the same run minus some interactions, so nothing is chosen in it: set validation.share=0, and "
            "train.epochs and other settings as they are in the run to compare with (`epochs` in its answer)"
        )
    tuned, configured = None, config
    if tune:
        config, tuned = tuned_config(config, progress)
    config, choice = with_chosen_epochs(config, progress, group, resume)
    session = Session(config)
    # The training is on the graph in whole files: a purge beside it then has no reason to write that graph anew.
    compact(session)
    # The head is read before the graph. A commit after this head is then a conflict, and no version overwrites another.
    head = session.log.head()
    graph = lake_graph(session)
    removal, unknown = _left_out(session, graph, without)
    run = make_run(config, graph, removal, probe)
    current = session.versions.current()
    overtaken, earlier = voids_training(graph, current), find_earlier(config, current, progress)
    sizes = sizes_of_graph(session.store, graph, run.halo)
    planned = announce(config, sizes, "train", progress, group, carries=earlier is not None)
    prepare_run(session, run, resume, progress)

    def look() -> None:
        """Raise RuntimeError if a record since `head` makes the result useless."""
        if any(map(overtaken, session.log.since(head))):
            raise RuntimeError(OVERTAKEN)

    try:
        with session.workers(group) as workers:
            planned.placed(workers)
            manifest, curve = trained_version(session, workers, graph, run, progress, at_intervals(look), earlier)
    except (InputError, FileNotFoundError, WorkerFailure):
        look()  # if a purge removed the graph after another commit, this raises an error that says so
        raise
    # All files are written. The record of the commit is the last write, and makes them count.
    try:
        committed = session.versions.commit(manifest, after=head)
    except LogConflict as error:
        raise RuntimeError(OVERTAKEN) from error
    # Only now: until the commit, `train --resume` needs the checkpoints.
    Checkpoints(session.store, run.folder).clear()
    clear_runs_of_others(session, committed, states_only=True)
    removed = graph.interactions - committed.graph.interactions
    chosen = {"validation": choice.document()} if choice is not None else {}
    if choice is not None:
        clear_choice(configured)
    if tuned is not None:
        chosen["tune"] = tuned
    told = training_result(committed, curve, run.settings.num_batches) | planned.measured(workers)
    update_run_report(session, committed, progress, training={key: told[key] for key in ("epochs", "seconds", "curve")})
    return told | {"removed_interactions": removed, "unknown_ids": unknown} | chosen


def _left_out(session: Session, graph: Graph, without: Sequence[str | Request]) -> tuple[Removal, int]:
    """(what `without` leaves out, the number of its ids that are not in the graph).

    Raises:
        InputError: a file is bad, or nothing that is named is in the graph.
    """
    if not without:
        return Removal(), 0
    maps = [load_ids(session.store, graph, side) for side in ("user", "item")]
    requests = [one if isinstance(one, Request) else _read_left_out(session, one) for one in without]
    names = ["without" if isinstance(one, Request) else f"--without {one}" for one in without]
    found = resolve_all(requests, maps[0], maps[1], graph.time)
    for name, one in zip(names, found, strict=True):
        for why in one.invalid.values():
            raise InputError(f"{name}: a time range: {why}")
    parts = [one.removal for one in found]
    if any(one.timed.any() for one in found):
        # Interactions that lose all of their events in the time ranges are removed. Others stay, as in `forget`.
        whole = effect(find_stored(session.store, graph, requests)[1], found, graph.items)
        parts.append(Removal(pair_users=whole.users, pair_items=whole.items))
    removal = Removal(
        np.unique(np.concatenate([x.users for x in parts])),
        np.unique(np.concatenate([x.items for x in parts])),
        np.concatenate([x.pair_users for x in parts]),
        np.concatenate([x.pair_items for x in parts]),
    )
    if not removal:
        raise InputError(f"{', '.join(names)}: names nothing that the graph holds. Check the ids")
    return removal, sum(x.unknown for x in found)


def _read_left_out(session: Session, file: str) -> Request:
    """What a file of `without` names.

    Raises:
        InputError: a row is invalid. Unlike in `forget`, no row is skipped.
    """
    rows = read_rows(file, session.options, other_columns=True)
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            raise InputError(f"--without {file}: row {number}: {row}. Drop the row or correct it")
    named: dict[str, list[Any]] = {kind: [row[1] for row in rows if row[0] == kind] for kind in KINDS}
    return make_request(named[USERS], named[ITEMS], named[INTERACTIONS], None, b"", named[RANGES])
