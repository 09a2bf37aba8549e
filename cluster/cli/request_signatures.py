"""The commands about deletion requests: make one, let it through, withdraw it, ask where it is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...partitioning.errors import InputError
from ..reporting.screen import open_progress
from .options import ConfigFile, Debug, Json, Overrides, load_configuration


def forget(
    overrides: Overrides = None,
    config: ConfigFile = None,
    users: Annotated[str | None, typer.Option(metavar="FILE|ID,ID...", help="Users to forget.")] = None,
    items: Annotated[str | None, typer.Option(metavar="FILE|ID,ID...", help="Items to forget.")] = None,
    interactions: Annotated[str | None, typer.Option(metavar="FILE", help="Columns user_id and item_id.")] = None,
    requests: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Rows of user_id, item_id, since, until: JSON, JSONL, CSV or Parquet."),
    ] = None,
    results: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write what became of each row of --requests: .csv, .jsonl or .parquet."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; change nothing.")] = False,
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Repeating a request under its id is harmless.")
    ] = None,
    requester: Annotated[str | None, typer.Option(metavar="NAME", help="Who asks; the log keeps it.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Forget users, items or interactions: a new version of the model without them."""
    if users is None and items is None and interactions is None and requests is None:
        raise InputError("forget: nothing to forget; give --users, --items, --interactions or --requests")
    named: dict[str, Any] = {"users": users, "items": items, "interactions": interactions, "requests": requests}
    loaded = load_configuration(config, overrides, "model", **named)
    from .. import pipeline

    answer = pipeline.forget(
        loaded,
        **named,
        dry_run=dry_run,
        request_id=request_id,
        results=results,
        requester=requester,
        progress=open_progress(),
    )
    # Committed all the same: exit code 3 says that a retrain is due, 1 that a check after the commit failed.
    answer |= {"passed": False} if answer.get("needs_retrain") else {}
    return answer | ({"ok": False} if answer.get("evidence_failed") else {})


def audit(
    overrides: Overrides = None,
    config: ConfigFile = None,
    users: Annotated[
        str | None, typer.Option(metavar="FILE|ID,ID...", help="Users who were or would be forgotten.")
    ] = None,
    items: Annotated[str | None, typer.Option(metavar="FILE|ID,ID...", help="Items, likewise.")] = None,
    interactions: Annotated[str | None, typer.Option(metavar="FILE", help="Columns user_id and item_id.")] = None,
    requests: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Rows as for `forget`. Without any of these, canaries are forgotten."),
    ] = None,
    retrains: Annotated[
        int, typer.Option(help="Trainings that it may cost: 2 to compare with, the rest (4 or more) on canaries.")
    ] = 8,
    canaries: Annotated[
        int | None, typer.Option(help="Canaries of each kind; by default about 1% of the interactions in all.")
    ] = None,
    own_seeds: Annotated[
        bool,
        typer.Option("--own-seeds", help="Runs on canaries with other seeds: an attacker who has not the model's."),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Attack the current version as hard as is known: can anybody tell what was forgotten? Goes on where it was killed."""
    loaded = load_configuration(config, overrides)
    from .. import pipeline

    return pipeline.audit(
        loaded,
        users=users,
        items=items,
        interactions=interactions,
        requests=requests,
        retrains=retrains,
        canaries=canaries,
        own_seeds=own_seeds,
        progress=open_progress(),
    )


def watch(
    overrides: Overrides = None,
    config: ConfigFile = None,
    once: Annotated[bool, typer.Option("--once", help="Look once and end, as for cron.")] = False,
    from_version: Annotated[
        int | None,
        typer.Option(metavar="N", min=-1, help="Begin behind this version or snapshot; leave out what changed before."),
    ] = None,
    from_now: Annotated[bool, typer.Option("--from-now", help="Begin with what changes from now on.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Make a deletion request of what is deleted in a Delta or Iceberg table, or of each row of a table of requests."""
    loaded = load_configuration(config, overrides)
    from .. import pipeline

    return pipeline.watch(loaded, once=once, from_version=from_version, from_now=from_now, progress=open_progress())


def drop(
    batch: Annotated[
        str, typer.Option("--in", metavar="FILE", help="A batch as DROP sent it: a ZIP, or one of its CSV.")
    ],
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="The codes: .zip with a file for each list, or .csv.")
    ],
    overrides: Overrides = None,
    config: ConfigFile = None,
    results: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write what became of each row: .csv, .jsonl or .parquet.")
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ends the names of the files in --out, for a second upload.")
    ] = None,
    accept_only: Annotated[
        bool, typer.Option("--accept-only", help="Leave the requests to a service that runs on this output.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Answer a batch of California's DROP: hashed identifiers in, codes out; deletes as `forget` does."""
    loaded = load_configuration(config, overrides)
    from .. import pipeline

    answer = pipeline.drop(
        loaded,
        batch=batch,
        out=out,
        results=results,
        suffix=suffix,
        accept_only=accept_only,
        progress=open_progress(),
    )
    answer |= {"passed": False} if answer.get("needs_retrain") else {}  # exit codes as of `forget`
    return answer | ({"ok": False} if answer.get("evidence_failed") else {})


def approve(
    request_id: Annotated[str, typer.Argument(metavar="ID", show_default=False, help="Of the request.")],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who approves it; the log keeps it.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Let a request be carried out that is held because it deletes more than forget.max_share."""
    loaded = load_configuration(config, overrides)
    from .. import pipeline

    return pipeline.approve(loaded, request_id, by=by)


def cancel(
    request_id: Annotated[str, typer.Argument(metavar="ID", show_default=False, help="Of the request.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Withdraw a request that is held, or in its grace window."""
    loaded = load_configuration(config, overrides)
    from .. import pipeline

    return pipeline.cancel(loaded, request_id)


def status(
    request_id: Annotated[str | None, typer.Argument(metavar="ID", show_default=False, help="Of the request.")] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check log, evidence and files; without ID those of all requests.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Where a deletion request is; without ID all that have no answer yet, overdue ones first."""
    if request_id is not None and "=" in request_id:  # no id has one: it is the first override
        overrides = [request_id, *(overrides or [])]
        request_id = None
    loaded = load_configuration(config, overrides)
    from .. import pipeline

    if verify:
        return pipeline.verify(loaded, request_id)
    return pipeline.status(loaded, request_id)
