"""`plan`: what the long commands will need, before any of them runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.lake import open_table
from ...partitioning.lake.guess import count
from ...partitioning.manifest import MANIFEST
from ...workers.shared_folder import runs_on_a_cluster
from ..config.schema import Config
from ..models.carrying import encoder_to_carry, find_earlier
from ..models.training import as_trained
from ..output.ingests import lake_graph
from ..output.session import Session
from ..planning.announce import Announced
from ..planning.machines import machines_of
from ..planning.plan import WORKS, machine_speed, make_plan
from ..planning.sizes import Sizes, estimated_sizes, sizes_of_graph
from ..reporting.progress import SILENT, Progress


def plan(
    config: Config,
    works: Sequence[str] = (),
    *,
    users: int | None = None,
    items: int | None = None,
    interactions: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """The plans of some works, by default of all.

    The sizes are those that are given; else those of the ingested graph; else those of the table, which is read once for it.

    Args:
        works: of `planning.plan.WORKS`.
        users, items, interactions: all or none of them.

    Returns:
        The result of `train`, or of the first of `works`, with `plans`: one for each work. `fits` says whether this machine,
        or the cluster that commands connect to, has the memory; `why_not` what is missing and the setting to change.

    Raises:
        InputError: an unknown work; no cluster answers; some sizes are missing or not positive; or the table cannot be read.
    """
    for work in works:
        if work not in WORKS:
            raise InputError(f"plan --for {work}: expected one of {', '.join(WORKS)}")
    wanted = list(works) or list(WORKS)
    session = Session(config)
    sizes, trained = _sizes(session, users, items, interactions, progress), config
    carries = dict.fromkeys(WORKS, False)
    if sizes.exact and (version := session.versions.current()) is not None:
        trained = as_trained(config, version.model)
        carries["train"] = find_earlier(config, version, SILENT) is not None
        carries["pretrain"] = encoder_to_carry(trained, version) is not None
    machines, local = machines_of(config.cluster.address), not runs_on_a_cluster(config.cluster.address)
    speed = machine_speed(config)
    # Nobody has read the test interactions yet: a tenth of all is common.
    tests = sizes.interactions // 10 if config.test_interactions else 0
    plans = []
    for work in wanted:
        used = config if work in ("ingest", "train") else trained
        found = make_plan(used, sizes, work, tests, speed, carries[work])
        progress.note(found.line())
        checking = used.model_copy(update={"cluster": _checking(used)})
        checked = Announced(checking, sizes, found, progress, tests, carries[work])
        try:
            checked.check(machines, starts_ray=local)
            why = ""
        except InputError as error:
            why = str(error)
        plans.append(found.result() | {"fits": not why} | ({"why_not": why} if why else {}))
    main = next((one for one in plans if one["work"] == "train"), plans[0])
    counts = {"users": sizes.users, "items": sizes.items, "interactions": sizes.interactions, "exact": sizes.exact}
    return main | counts | {"plans": plans}


def _checking(config: Config) -> Any:
    return config.cluster.model_copy(update={"check_memory": True})


def _sizes(
    session: Session, users: int | None, items: int | None, interactions: int | None, progress: Progress
) -> Sizes:
    config, given = session.config, (users, items, interactions)
    partitions, strategy = config.cluster.partitions, config.partitioning.strategy
    if any(number is not None for number in given):
        if users is None or items is None or interactions is None or min(users, items, interactions) < 1:
            raise InputError("plan: --users, --items and --interactions are given together, each at least 1")
        return estimated_sizes(users, items, interactions, partitions, strategy)
    if session.store.exists(MANIFEST):
        return sizes_of_graph(session.store, lake_graph(session), config.partitioning.halo)
    with progress.task("rows counted") as task:
        table = open_table(config.interactions, session.options)
        size = count(table, session.columns, session.options, progress=task.advance)
    if not size.exact:
        progress.note(
            "the table is too large to be counted exactly in memory: its users and items are at least so many"
        )
    return estimated_sizes(max(1, size.users), max(1, size.items), max(1, size.rows), partitions, strategy)
