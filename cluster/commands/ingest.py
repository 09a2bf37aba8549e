"""`ingest`: read the table of interactions and write the partitioned graph."""

from __future__ import annotations

from typing import Any

from ...partitioning import ingest as ingestion
from ...partitioning.halo import chosen
from ...workers.shared_folder import check_folder_on_cluster, runs_on_a_cluster
from ..config.schema import Config
from ..lifecycle.suppression import row_filter
from ..output.ingests import record_ingest
from ..output.session import Session
from ..reporting.progress import SILENT, Progress
from ..reporting.software import usable_cpus
from ..reporting.spans import traced


@traced("ingest")
def ingest(config: Config, *, progress: Progress = SILENT) -> dict[str, Any]:
    """Read the table of interactions, partition the graph and write it under `graph/`.

    Raises:
        InputError: the input or the output is bad, there is a suppression list and its key is missing, or a request was
            carried out meanwhile. The graph that was there before stays.
    """
    session = Session(config)
    wanted, there = config.cluster.partitions * config.cluster.cpus_per_worker, usable_cpus()
    if not runs_on_a_cluster(config.cluster.address) and wanted > there:  # on a cluster Ray knows how many there are
        progress.note(
            f"cluster.partitions = {config.cluster.partitions} with cluster.cpus_per_worker = "
            f"{config.cluster.cpus_per_worker:g} want {wanted:g} CPUs, and this machine has {there}: workers beyond them "
            "cannot start here. Another number of partitions needs another `ingest`"
        )
    # This comes before any write: in a folder of this machine alone, workers on other machines would not find the graph.
    check_folder_on_cluster(config.output, config.cluster.address)
    # The head is read before the suppression list. A request that is carried out after this head may not be on the list
    # that is read, so the ingest is then given up.
    head = session.log.head()
    suppress = row_filter(session.store, config.columns.time_unit)
    with progress.task("rows read") as task:
        seen = 0

        def read(rows: int) -> None:
            """Advance the progress to this number of rows."""
            nonlocal seen
            task.advance(rows - seen)
            seen = rows

        manifest = ingestion.ingest(
            ingestion.InteractionTable(config.interactions, session.columns, session.options),
            ingestion.PartitioningSettings(
                num_partitions=config.cluster.partitions,
                strategy=config.partitioning.strategy,
                seed=config.seed,
                halo=config.partitioning.halo,
                assignment_file=config.partitioning.assignment,
                metis_limit=int(config.partitioning.metis_gib * 2**30),
                spool=config.partitioning.spool,
            ),
            session.store,
            progress=read,
            suppress=suppress,
            note=progress.note,
            # The record comes before the manifest of the graph, so no graph is published of which the log does not know.
            before_publishing=lambda manifest: record_ingest(session, manifest, head),
        )
    session.request_key()
    session.save_config()
    keys = ("users", "items", "interactions", "events", "skipped", "suppressed", "partitions", "edge_cut", "balance")
    rows = manifest.rows_per_layer
    return {key: getattr(manifest, key) for key in keys} | {
        "rows_per_layer": rows[chosen(config.partitioning.halo, rows)],
        "rows_per_layer_by_halo": rows,
    }
