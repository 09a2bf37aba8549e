"""`watch`: turn deletions in a table of the lake into requests (docs/watching.md).

The requests are accepted here; `serve` carries them out.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ...partitioning.errors import InputError
from ..config.schema import Config
from ..output.session import Session
from ..reporting.progress import SILENT, Progress
from ..serving.intake import Intake
from ..serving.signals import stop_signals
from ..serving.start import check_servable
from ..serving.watcher import Watcher


def watch(
    config: Config,
    *,
    once: bool = False,
    from_version: int | None = None,
    from_now: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Follow `watch.table`, with `once` until everything new is in the log, otherwise until SIGTERM or SIGINT.

    Args:
        from_version, from_now: first set the cursor to this version, or to the present state; earlier changes are left out.

    Returns:
        The numbers of `requests` that are new in the log and of `repeated` ones, of rows that were `skipped` or `invalid`,
        and of commits that are `behind` because too many requests are open; and the `cursor`, the version (Delta) or
        snapshot (Iceberg) up to which everything is in the log. `ok` is False if rows of a table of requests are invalid.

    Raises:
        InputError: both ways to set the cursor are given, the output has no version, or as `Watcher.look`.
    """
    if from_version is not None and from_now:
        raise InputError("watch: --from-version and --from-now exclude each other. Give one of them")
    session = Session(config)
    check_servable(session)
    watcher = Watcher(session, Intake(session), progress.note)
    if from_version is not None or from_now:
        moved = watcher.move(from_version)
        progress.note(f"watch: begins behind {moved.cursor}; what changed up to there is not looked at")
    look = watcher.look()
    answer = asdict(look)
    if not once:
        with stop_signals() as stopped:
            watcher.follow(stopped)
        answer |= {"requests": look.requests + watcher.made}
    if look.behind:
        progress.note(
            f"watch: {look.behind} commits wait: serve.max_open_requests ({config.serve.max_open_requests}) are open. Run "
            "it again when some are carried out"
        )
    return answer | ({"ok": False} if look.invalid else {})
