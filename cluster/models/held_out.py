"""Read the held-out interactions as dense ids: all of them, or those of some users."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from ...partitioning.errors import InputError
from ...partitioning.graph import dense_ids
from ...partitioning.ingest import load_ids
from ...partitioning.lake import columns_of, interactions_of, open_table, read_table
from ...partitioning.manifest import Graph
from ..output.manifest import Manifest
from ..output.session import Session

Ids = npt.NDArray[np.int64]

_samples: WeakKeyDictionary[Session, dict[tuple[str, int], tuple[Ids, Ids]]] = WeakKeyDictionary()
"""The samples of `held_out_samples` by session, ingest and count. They are kept because a service needs them at every batch,
and the table is large."""


def held_out_pairs(session: Session, graph: Graph) -> tuple[Ids, Ids, int]:
    """(users [n], items [n], skipped): the test interactions by dense id, and the number of rows whose user or item is not
    in the graph.

    If the table has the column `columns.value`, the same rule as for `interactions` holds: a row whose value is null, NaN
    or <= 0 is no interaction and is left out. Many published splits have no such column; then all rows count.

    Raises:
        InputError: no test interactions are configured, they cannot be read, or none of them is in the graph.
    """
    config = session.config
    if config.test_interactions is None:
        raise InputError("test_interactions is not set: name a table of held-out interactions to evaluate on")
    maps = [load_ids(session.store, graph, side) for side in ("user", "item")]
    columns = (session.columns.user, session.columns.item)
    value = session.columns.value
    # The table is opened once, so that all that is read of it belongs to one of its versions.
    table = open_table(config.test_interactions, session.options)
    if value is not None and value not in columns_of(table):
        value = None
    users, items = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    rows = 0
    for batch in read_table(table, columns, session.options, value):
        rows += batch.num_rows
        if value is not None:
            batch = interactions_of(batch)
        for found, (ids, node, _), column in zip((users, items), maps, (0, 1), strict=True):
            found.append(dense_ids(ids, node, batch.column(column)))
    all_users, all_items = np.concatenate(users), np.concatenate(items)
    known = (all_users >= 0) & (all_items >= 0)
    if rows and not len(known):
        raise InputError(
            f"{config.test_interactions}: all {rows} rows have a value ('{value}') that is null or <= 0. Name a table with "
            "at least one interaction, or set columns.value to null"
        )
    if not known.any():
        raise InputError(
            f"{config.test_interactions}: none of its {len(known)} rows names a user and an item of the graph. Are the "
            "ids the same as in `interactions`?"
        )
    return all_users[known], all_items[known], int((~known).sum())


def held_out_samples(session: Session, version: Manifest, *counts: int) -> list[tuple[Ids, Ids]]:
    """(users [n], items [n]) of about so many test interactions, for each of `counts`: all those of randomly chosen users.
    A smaller sample is a part of a larger one.

    The table is read once for each ingest.

    Raises:
        InputError: as `held_out_pairs`.
    """
    known = _samples.setdefault(session, {})
    missing = [count for count in counts if (version.graph.ingest, count) not in known]
    if missing:
        users, items, _ = held_out_pairs(session, version.graph)
        order = np.random.default_rng(session.config.seed).permutation(version.graph.users)
        place = order[users]  # the place of each pair's user in a random order of all users
        ranked = np.sort(place)
        for count in missing:
            chosen = place <= ranked[min(count, len(place)) - 1]
            known[version.graph.ingest, count] = users[chosen], items[chosen]
    return [known[version.graph.ingest, count] for count in counts]
