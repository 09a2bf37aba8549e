"""`export`: write the readouts and recommendations of the current version for other systems."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...distributed.partition.partition import Partition
from ...partitioning.errors import InputError
from ...partitioning.ingest import load_ids
from ...partitioning.lake import table_holding
from ...partitioning.lake.location import DELTA, ICEBERG, parse_location
from ...partitioning.storage import canonical_uri
from ...workers import WorkerGroup, Workers, calling
from ..config.schema import Config
from ..layout import FOLDERS
from ..output.export_folder import FolderTarget
from ..output.export_tables import DeltaTarget, IcebergTarget
from ..output.exports import ExportWriter, Target, about
from ..output.leases import leased
from ..output.manifest import Manifest
from ..output.session import Session
from ..reporting.progress import SILENT, Progress
from ..reporting.ranking import ranking_progress

Ids = npt.NDArray[np.int64]
PARQUET = "parquet"


def export(
    config: Config,
    *,
    to: str,
    top_k: int = 20,
    format: str | None = None,
    progress: Progress = SILENT,
    group: Workers | None = None,
) -> dict[str, Any]:
    """Write the current version's readouts and recommendations. Forgotten users and items are not in them.

    An export under `output` counts as one of the output's files: `residue` lists it after a later request was carried out,
    and `purge` removes it (docs/exports.md).

    Args:
        to: a folder for Parquet files; delta://PLACE, or a place with `format` "delta", for Delta tables below this place;
            or iceberg://CATALOG/NAMESPACE for the Iceberg tables of a namespace.
        top_k: how many items are recommended to each user.

    Raises:
        InputError: the target contradicts `format`, lies in one of the output's own folders (a table: anywhere in the
            output), cannot be written, or has something in it that no export made; or nothing has been trained yet.
    """
    session = Session(config)
    target = _target(session, to, format)
    # The head is read before the version, so the export never claims to know of more than its version.
    head = session.log.head()
    with leased(session) as version:
        maps = {side: load_ids(session.store, version.graph, side) for side in ("user", "item")}
        made = about(session, head, version.version, version.graph)
        with ExportWriter(target, maps["user"][0].type, maps["item"][0].type, made) as writer:
            with session.workers(group) as workers:
                _export(session, version, workers, writer, maps, top_k, progress)
            written = writer.close()
    return {"version": version.version, **written}


def _target(session: Session, to: str, format: str | None) -> Target:
    """The target that `to` names. A format in `to` counts, and must not contradict `format`.

    Raises:
        InputError: it contradicts it, or `to` names no place where an export may be written.
    """
    said, mark, place = to.partition("://")
    if not mark or said not in (DELTA, ICEBERG):
        said, place = format or PARQUET, to
    if format is not None and format != said:
        raise InputError(f"--to {to}: is of the format {said}, and --format says {format}. Leave one of them out")
    if said == PARQUET:
        _refuse_tables(session, to, to)
        session.refuse_own("--to", to, FOLDERS)
        return FolderTarget(to, session.options)
    if said == DELTA:
        if not place.strip("/"):
            raise InputError(f"--to {to}: names no place. Write delta:///path or delta://s3://bucket/path")
        _refuse_tables(session, to, place)
        session.refuse_own("--to", place)  # `purge` cannot remove single files of a table, so none lies in the output
        return DeltaTarget(to, place, session.options)
    catalog, _, namespace = place.partition("/")
    if said != ICEBERG or not catalog or not namespace or "/" in namespace:
        raise InputError(
            f"--to {to}: Iceberg tables are written through a catalog: iceberg://CATALOG/NAMESPACE"
            if said == ICEBERG
            else f"--format {format}: expected one of {PARQUET}, {DELTA}, {ICEBERG}"
        )
    return IcebergTarget(to, catalog, namespace, session.options)


def _refuse_tables(session: Session, to: str, place: str) -> None:
    """Raise InputError for a place in a table of a format, whose clean-up would take the export's files, or in a table that
    the configuration reads, which the export's files would become rows of."""
    if (found := table_holding(place, session.options)) is not None:
        raise InputError(
            f"--to {to}: {found[1]} is a table of the format {found[0]}, and what cleans it up would remove "
            "an export in it. Name a place outside of it"
        )
    config = session.config
    for key, table in (("interactions", config.interactions), ("test_interactions", config.test_interactions)):
        read = parse_location(table).place if table else ""
        if read and f"{canonical_uri(place)}/".startswith(f"{canonical_uri(read).rstrip('/')}/"):
            raise InputError(
                f"--to {to}: lies in `{key}` ({table}), and the next `ingest` would read the export as interactions. "
                "Name a place outside of it"
            )


def _export(
    session: Session,
    version: Manifest,
    group: WorkerGroup,
    writer: ExportWriter,
    maps: dict[str, Any],
    top_k: int,
    progress: Progress,
) -> None:
    """Write the tables, with external ids in the place of dense ids. maps: the id map of each side."""
    places = {side: _by_node(node, version.graph.nodes(side)) for side, (_, node, _) in maps.items()}

    def external(side: str, nodes: Ids) -> pa.Array:
        return maps[side][0].take(pa.array(places[side][nodes]))

    for users, user_rows, items, item_rows in session.call(group, version, calling(Partition.readouts)):
        writer.embeddings("user", external("user", users), user_rows)
        writer.embeddings("item", external("item", items), item_rows)
    recommend = calling(Partition.recommend, top_k, session.config.evaluate.batch_users)
    with ranking_progress(progress) as on_progress:
        recommended = session.call(group, version, recommend, on_progress=on_progress)
    for users, items, scores in recommended:
        k = items.shape[1]
        writer.recommendations(
            external("user", np.repeat(users, k)), external("item", items.reshape(-1)), scores.reshape(-1), k
        )


def _by_node(node: Ids, total: int) -> Ids:
    """The position of each dense id in `node`; -1 if it is not there. total: the number of dense ids."""
    places = np.full(total, -1, dtype=np.int64)
    places[node] = np.arange(len(node))
    return places
