"""`evaluate`: quality on the test interactions, and forgetting where a reference is given."""

from __future__ import annotations

from typing import Any

from ...partitioning.errors import InputError
from ...workers import WorkerGroup
from ..config.schema import Config
from ..models.held_out import held_out_pairs
from ..output.leases import leased
from ..output.session import Session
from ..reporting.progress import Progress, silent
from .evaluate_reference import evaluate_against


def evaluate(
    config: Config,
    *,
    reference: str | None = None,
    users: str | None = None,
    items: str | None = None,
    interactions: str | None = None,
    progress: Progress | None = None,
    group: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Recall and NDCG of the current version on `test_interactions`; with a reference also forgetting.

    Args:
        reference, users, items, interactions: as of `reference.evaluate_against`, all None or the first and another given.

    Raises:
        InputError: no test interactions are configured, they are unreadable, or nothing has been trained yet; or as
            `evaluate_against`.
    """
    named = {"users": users, "items": items, "interactions": interactions}
    if (reference is None) != all(value is None for value in named.values()):
        raise InputError(
            "evaluate: --reference needs what was forgotten (--users, --items or --interactions), and these need --reference"
        )
    if reference is not None:
        return evaluate_against(config, reference, **named, progress=progress or silent(), group=group)
    session = Session(config)
    with leased(session) as version:
        test_users, test_items, unknown = held_out_pairs(session, version.graph)
        arguments = (test_users, test_items, config.evaluate.k, config.evaluate.batch_users)
        if group is not None:
            metrics = session.call(group, version, "evaluate", *arguments)[0]
        else:
            with session.workers() as own:
                metrics = session.call(own, version, "evaluate", *arguments)[0]
    return {"version": version.version, **metrics, "users": int(metrics["users"]), "unknown_test_rows": unknown}
