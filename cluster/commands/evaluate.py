"""`evaluate`: measure ranking quality on the test interactions; with a reference, also forgetting."""

from __future__ import annotations

from typing import Any

from ...distributed.measures.evaluation import Evaluation
from ...distributed.partition.partition import Partition
from ...partitioning.errors import InputError
from ...workers import Workers, calling
from ..config.schema import Config
from ..evidence.run_report import update_run_report
from ..models.held_out import held_out_pairs
from ..models.training import as_trained
from ..output.leases import leased
from ..output.session import Session
from ..planning.announce import announce
from ..planning.sizes import sizes_of_graph
from ..reporting.progress import SILENT, Progress
from ..reporting.ranking import ranking_progress
from ..tracking.run import tracked
from .evaluate_reference import evaluate_against


@tracked
def evaluate(
    config: Config,
    *,
    reference: str | None = None,
    users: str | None = None,
    items: str | None = None,
    interactions: str | None = None,
    requests: str | None = None,
    baselines: bool = False,
    progress: Progress = SILENT,
    group: Workers | None = None,
) -> dict[str, Any]:
    """The quality of the current version on `test_interactions` (docs/evaluation.md); with a reference instead Recall and
    NDCG, and measures of forgetting.

    Args:
        baselines: evaluate popularity and item-kNN too.
        reference, users, items, interactions, requests: as for `evaluate_against`. Either all are None, or the reference
            and at least one of the others are given.

    Raises:
        InputError: no test interactions are configured, they cannot be read, or nothing has been trained yet; or as
            `evaluate_against`.
    """
    named = {"users": users, "items": items, "interactions": interactions, "requests": requests}
    if (reference is None) != all(value is None for value in named.values()):
        raise InputError(
            "evaluate: --reference needs what was forgotten (--users, --items, --interactions or --requests), and these "
            "need --reference"
        )
    if reference is not None and baselines:
        raise InputError(
            "evaluate: --baselines and --reference do not go together. Run `evaluate --baselines` by itself"
        )
    if reference is not None:
        return evaluate_against(config, reference, **named, progress=progress, group=group)
    session = Session(config)
    with leased(session) as version:
        test_users, test_items, unknown = held_out_pairs(session, version.graph)
        section = config.evaluate
        evaluation = Evaluation(section.k, section.batch_users, section.users, config.seed, baselines)
        call = calling(Partition.evaluate, test_users, test_items, evaluation)
        sizes = sizes_of_graph(session.store, version.graph, config.partitioning.halo)
        trained = as_trained(config, version.model)
        planned = announce(trained, sizes, "evaluate", progress, group, test_rows=len(test_users))
        with session.workers(group) as workers, ranking_progress(progress) as on_progress:
            planned.placed(workers)
            measured = session.call(workers, version, call, on_progress=on_progress)[0]
    report = update_run_report(session, version, progress, quality=measured)
    told = {"version": version.version, **measured, "unknown_test_rows": unknown, **planned.measured(workers)}
    return told | {"report": report}
