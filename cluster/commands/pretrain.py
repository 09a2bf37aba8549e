"""`pretrain`: the Influence Encoder of the current version."""

from __future__ import annotations

from typing import Any

from ...distributed.partition.version import Encoder
from ...partitioning.manifest import File
from ...workers import WorkerGroup
from ..config.schema import Config
from ..log.log import LogConflict
from ..models.pretraining import clear_runs, fit_encoder, wants_around, with_encoder
from ..output.conflicts import newer_after_requests
from ..output.manifest import Manifest
from ..output.session import Session
from ..reporting.progress import SILENT, Progress


def pretrain(config: Config, *, progress: Progress = SILENT, group: WorkerGroup | None = None) -> dict[str, Any]:
    """Train the encoder and commit it with the current version's model.

    Counterfactual runs that are finished are kept until the encoder stands, so that an interrupted command goes on.

    Raises:
        InputError: nothing has been trained yet, or there is no `influence.around` for this model.
        RuntimeError: another version was committed meanwhile, and not by requests alone.
        WorkerFailure: as `WorkerGroup.run`.
    """
    session = Session(config)
    head = session.log.head()  # before the version is read: whatever is committed from here on is a conflict
    version = session.version()
    wants_around(config, version.model.backbone)  # refused before anything is done
    with session.workers(group) as workers:
        encoder, files, told = fit_encoder(session, version, workers, progress)
        committed = _commit(session, head, version, encoder, files)
    clear_runs(session, version)
    return told | {"version": committed.version}


def _commit(session: Session, head: int, version: Manifest, encoder: Encoder, files: dict[str, File]) -> Manifest:
    """The version with this encoder. Requests that were committed since `head` stay: the encoder is put to their result.

    Raises:
        RuntimeError: something else was committed since, or the encoder's tables have rows of deleted nodes.
    """
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
