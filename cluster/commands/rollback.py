"""`rollback`: make an older version current again, unless that would bring back deleted data."""

from __future__ import annotations

from typing import Any

from ...partitioning.errors import InputError
from ..config.schema import Config
from ..log.records import COMMITTED, Record
from ..output.conflicts import deletions_after
from ..output.manifest import Manifest, manifest_of
from ..output.session import Session

OWN = ("version", "base", "answers", "rolled_back_to", "follows")
"""The keys of a manifest that belong to its own commit, and are not taken over."""


def rollback(config: Config, *, to: int) -> dict[str, Any]:
    """Commit version `to` again, as a new version with the same files.

    Raises:
        InputError: there is no such version, it is the current one, its files were purged, a purge is under way, or
            something was deleted since.
        LogConflict: another version was committed or a purge began meanwhile.
    """
    session = Session(config)
    # Everything below is decided on these records. The commit is void if a later one is of a version or a purge.
    records = session.log.records()
    current = session.version()
    found = next((r for r in records if r.kind == COMMITTED and manifest_of(r).version == to), None)
    if to >= current.version:
        raise InputError(f"--to {to}: {config.output} has older versions 1 to {current.version - 1}. Name one of them")
    if found is None:
        raise InputError(f"--to {to}: its record was removed by `purge --truncate-log`. Run `unlearnrec train`")
    target = manifest_of(found)
    _check_nothing_deleted(target, [record for record in records if record.number > found.number])
    # A purge without an end in the log may go on at any time, and remove files of versions older than the one that was
    # current when it began. That the files are there now is not enough.
    kept = max(session.ledger().purging.values(), default=0)
    if to < kept:
        raise InputError(
            f"--to {to}: a purge is under way, or ended early, and may still take files of versions before "
            f"{kept}. Let it end, or run `unlearnrec train`"
        )
    if missing := [name for name in target.files if not session.store.exists(name)]:
        raise InputError(
            f"--to {to}: {missing[0]} is gone, a purge removed files of older versions. Run `unlearnrec train`"
        )
    # One record is the only write. The files are those of the older version, so there is nothing to write before it.
    kept_keys = {key: value for key, value in target.document().items() if key not in OWN}
    document = kept_keys | {"reason": "rollback", "rolled_back_to": to, "version": session.versions.next_number()}
    committed = session.versions.commit(Manifest.model_validate(document), after=records[-1].number)
    return {
        "version": committed.version,
        "rolled_back_to": to,
        "encoder": committed.model.encoder is not None,
    }


def _check_nothing_deleted(target: Manifest, since: list[Record]) -> None:
    """Raise InputError if a request was carried out since whose data the version may still have.

    since: the records after the version's own.
    """
    versions, elsewhere = deletions_after(target, since)
    if elsewhere is not None:
        raise InputError(
            f"--to {target.version}: request {elsewhere} found nothing to forget in a later graph, and this version may "
            "hold its data. Run `unlearnrec train` instead"
        )
    if versions:
        raise InputError(
            f"--to {target.version}: data were deleted since, in version {', '.join(map(str, versions))}, and would come "
            "back. Roll back to a later version, or run `unlearnrec train` and `pretrain`: they start from what is left"
        )
