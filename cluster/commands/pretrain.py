"""`pretrain`: fit the Influence Encoder of the current version and commit it."""

from __future__ import annotations

from typing import Any

from ...distributed.partition.version import Encoder
from ...partitioning.manifest import File
from ...workers import Workers
from ..config.schema import Config
from ..evidence.run_report import told_of_encoder, update_run_report
from ..log.log import LogConflict
from ..models.carrying import encoder_to_carry
from ..models.pretraining import clear_runs_of_others, fit_encoder, wants_around, with_encoder
from ..models.training import as_trained
from ..output.compaction import compact
from ..output.conflicts import newer_after_requests
from ..output.manifest import Manifest
from ..output.session import Session
from ..planning.announce import announce
from ..planning.sizes import sizes_of_graph
from ..reporting.progress import SILENT, Progress
from ..reporting.spans import traced
from ..tracking.run import tracked


@traced("pretrain")
@tracked
def pretrain(config: Config, *, progress: Progress = SILENT, group: Workers | None = None) -> dict[str, Any]:
    """Fit the encoder and commit it with the current version's model.

    Finished counterfactual runs are kept as long as their graph and model are current. So an interrupted command goes on
    where it was, and another one with other settings of the fit repeats no run.

    Raises:
        InputError: nothing has been trained yet, or `influence.around` is set and impossible for this model.
        RuntimeError: another version was committed meanwhile, and not only by requests.
        WorkerFailure: as `WorkerGroup.run`.
    """
    session = Session(config)
    # The runs are made on the graph in whole files: a purge beside them then has no reason to write that graph anew.
    compact(session)
    # The head is read before the version. A commit after this head is then a conflict, and no version overwrites another.
    head = session.log.head()
    version = session.version()
    wants_around(config, version.model.backbone)  # raises for an impossible setting, before any work is done
    trained, sizes = (
        as_trained(config, version.model),
        sizes_of_graph(session.store, version.graph, config.partitioning.halo),
    )
    carries = encoder_to_carry(trained, version) is not None
    planned = announce(trained, sizes, "pretrain", progress, group, carries=carries)
    with session.workers(group) as workers:
        planned.placed(workers)
        encoder, files, told = fit_encoder(session, version, workers, progress)
        committed = _commit(session, head, version, encoder, files)
    clear_runs_of_others(session, version)
    update_run_report(session, committed, progress, encoder=told_of_encoder(encoder, told["seconds"]))
    return {"step_seconds": None} | told | planned.measured(workers) | {"version": committed.version}


def _commit(session: Session, head: int, version: Manifest, encoder: Encoder, files: dict[str, File]) -> Manifest:
    """Commit the version with this encoder.

    If requests were carried out since `head`, the encoder is committed with the version that they made. Nothing that they
    deleted comes back.

    Raises:
        RuntimeError: something else was committed since, or the encoder has tables, which have rows of deleted nodes.
    """
    # The encoder's files are written before the commit names them. Its record is void if a version was committed after
    # `head`; then the newer version's graph and rows are taken, and the commit is tried again on its head.
    while True:
        manifest = with_encoder(version, encoder, files)
        try:
            return session.versions.commit(manifest, after=head)
        except LogConflict as error:
            records = session.log.since(head)
            newer = newer_after_requests(records, manifest)
            if encoder.tables or newer is None:
                raise RuntimeError(
                    "another version was committed while this pre-training ran (by another run; or by a request, with "
                    "pretrain.objective=published), or `purge --now` removed its files. Run `unlearnrec pretrain` again"
                ) from error
            head, version = records[-1].number, newer
