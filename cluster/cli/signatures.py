"""The commands of a run: data, training, use, upkeep. Those about requests are in request_signatures.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...partitioning.errors import InputError
from ..reporting.exit_codes import DONE
from ..reporting.screen import open_progress
from .options import ConfigFile, Debug, Json, Overrides, load_configuration


def quickstart(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything it leaves.")] = Path(
        "quickstart-output"
    ),
    partitions: Annotated[int, typer.Option(min=1, metavar="N", help="Workers.")] = 2,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the data and of all random draws.")] = 0,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """The whole path on data it makes: ingest, train, pre-train, forget, compare with a retrain, report."""
    from ..commands.quickstart import quickstart as run_quickstart

    return run_quickstart(output, partitions=partitions, seed=seed, progress=open_progress())


def init(
    table: Annotated[
        str, typer.Argument(metavar="TABLE", show_default=False, help="As `interactions`: a file, folder or URI.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FILE.yaml", help="The file to write; must not be there yet.")],
    overrides: Overrides = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Write a commented configuration fit for a table: columns guessed, rows counted, a recipe for its size."""
    from ..commands.init import init as run_init

    return run_init(table, to, overrides or [], progress=open_progress())


def config(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", show_default=False, help="Such as train.epochs, or train.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """What a key or a section of the configuration means, its default and what may stand there; without KEY all keys."""
    from ..commands.config import explain_config

    return explain_config(key)


def ingest(
    overrides: Overrides = None, config: ConfigFile = None, json: Json = False, debug: Debug = False
) -> dict[str, Any]:
    """Lake table -> partitioned graph."""
    loaded = load_configuration(config, overrides, "table")
    from .. import pipeline

    return pipeline.ingest(loaded, progress=open_progress())


def plan(
    overrides: Overrides = None,
    config: ConfigFile = None,
    works: Annotated[
        list[str] | None,
        typer.Option("--for", metavar="COMMAND", help="ingest, train, pretrain, forget or evaluate; repeatable."),
    ] = None,
    users: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of a graph that is not there; all three or none.")
    ] = None,
    items: Annotated[int | None, typer.Option(min=1, metavar="N", help="As --users.")] = None,
    interactions: Annotated[int | None, typer.Option(min=1, metavar="N", help="As --users.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Memory, time and disk that commands will need; starts nothing."""
    loaded = load_configuration(config, overrides)
    from .. import pipeline

    sizes = {"users": users, "items": items, "interactions": interactions}
    return pipeline.plan(loaded, works or [], **sizes, progress=open_progress())


def train(
    overrides: Overrides = None,
    config: ConfigFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Train the same run minus these users, items or interactions; repeatable."),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="First choose settings from the grid of the section `tune`, on validation data."),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Train the backbone."""
    loaded = load_configuration(config, overrides, "graph", without=without)
    from .. import pipeline

    return pipeline.train(loaded, resume=resume, without=without or [], tune=tune, progress=open_progress())


def pretrain(
    overrides: Overrides = None, config: ConfigFile = None, json: Json = False, debug: Debug = False
) -> dict[str, Any]:
    """Train the Influence Encoder for the trained backbone."""
    loaded = load_configuration(config, overrides, "model")
    from .. import pipeline

    return pipeline.pretrain(loaded, progress=open_progress())


def retrain(
    overrides: Overrides = None,
    config: ConfigFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same retrain was interrupted.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Train and pre-train as one version, beside a service: requests carried out meanwhile are carried out on it too."""
    loaded = load_configuration(config, overrides, "graph")
    from .. import pipeline

    return pipeline.retrain(loaded, resume=resume, progress=open_progress())


def evaluate(
    overrides: Overrides = None,
    config: ConfigFile = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Another output, trained --without what was forgotten here: compare with it."),
    ] = None,
    users: Annotated[str | None, typer.Option(metavar="FILE|ID,ID...", help="Users who were forgotten.")] = None,
    items: Annotated[str | None, typer.Option(metavar="FILE|ID,ID...", help="Items that were forgotten.")] = None,
    interactions: Annotated[
        str | None, typer.Option(metavar="FILE", help="Interactions that were forgotten: user_id and item_id.")
    ] = None,
    requests: Annotated[
        str | None, typer.Option(metavar="FILE", help="What was forgotten, as `forget --requests` takes it.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Evaluate popularity and item-kNN too, for comparison.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Recall, NDCG and more on the test interactions; with --reference also forgetting, against a retrained model."""
    named = {"users": users, "items": items, "interactions": interactions, "requests": requests}
    loaded = load_configuration(config, overrides, "model", reference, **named)
    from .. import pipeline

    return pipeline.evaluate(
        loaded,
        reference=reference,
        **named,
        baselines=baselines,
        progress=open_progress(),
    )


def export(
    to: Annotated[
        str,
        typer.Option("--to", metavar="DIR", help="Folder, local or s3://; delta://PLACE; iceberg://CATALOG/NAMESPACE."),
    ],
    overrides: Overrides = None,
    config: ConfigFile = None,
    top_k: Annotated[int, typer.Option(min=1, metavar="K", help="Recommendations a user.")] = 20,
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="parquet, delta or iceberg, where --to does not say it.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Write embeddings and recommendations of the current version as Parquet, Delta or Iceberg."""
    loaded = load_configuration(config, overrides, "model")
    from .. import pipeline

    return pipeline.export(loaded, to=to, top_k=top_k, format=format, progress=open_progress())


def purge(
    overrides: Overrides = None,
    config: ConfigFile = None,
    now: Annotated[bool, typer.Option("--now", help="Ignore forget.retention_hours and the age of files.")] = False,
    truncate_log: Annotated[
        bool, typer.Option("--truncate-log", help="Also remove older files of the log, which a checkpoint stands for.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Remove older files that still hold deleted data."""
    loaded = load_configuration(config, overrides)
    from .. import pipeline

    return pipeline.purge(loaded, now=now, truncate_log=truncate_log, progress=open_progress())


def residue(
    overrides: Overrides = None,
    config: ConfigFile = None,
    request: Annotated[
        str | None, typer.Option("--request", metavar="ID", help="Bring the receipt of this request up to date.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Where deleted data still lies, under the output and in the lake; deletes nothing."""
    loaded = load_configuration(config, overrides)
    from .. import pipeline

    return pipeline.residue(loaded, request, progress=open_progress())


def lift(
    overrides: Overrides = None,
    config: ConfigFile = None,
    users: Annotated[str | None, typer.Option(metavar="FILE|ID,ID...", help="Users who consented again.")] = None,
    items: Annotated[str | None, typer.Option(metavar="FILE|ID,ID...", help="Items to let in again.")] = None,
    interactions: Annotated[str | None, typer.Option(metavar="FILE", help="Columns user_id and item_id.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Take users, items or interactions off the suppression list, so that the next ingest lets them in."""
    if users is None and items is None and interactions is None:
        raise InputError("lift: nothing to lift; give --users, --items or --interactions")
    loaded = load_configuration(config, overrides)
    from .. import pipeline

    return pipeline.lift(loaded, users=users, items=items, interactions=interactions)


def rollback(
    to: Annotated[int, typer.Option("--to", metavar="VERSION", min=1, help="An older version.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Make an older version current again, unless something was deleted since."""
    loaded = load_configuration(config, overrides, "model")
    from .. import pipeline

    return pipeline.rollback(loaded, to=to)


def serve(
    overrides: Overrides = None,
    config: ConfigFile = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="N", help="Instead of serve.port; 0: a free one.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Instead of serve.host.")] = None,
    detached: Annotated[
        bool, typer.Option("--detached", help="On the cluster at cluster.address; also serve.detached.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End what --detached started for this output.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Take deletion requests over HTTP, carry them out, answer recommendations; until it is stopped."""
    loaded = load_configuration(config, overrides, None if stop else "model")
    if stop or detached or loaded.serve.detached:
        from ..commands.serve_detached import start_detached, stop_detached

        if stop:
            return stop_detached(loaded)
        return start_detached(loaded, host=host, port=port, progress=open_progress())
    from ..commands.serve import serve as run_serve

    return run_serve(loaded, host=host, port=port, progress=open_progress())


def doctor(
    overrides: Overrides = None,
    config: ConfigFile = None,
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Also the Ray cluster at cluster.address or RAY_ADDRESS, over all its nodes."),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Is this machine fit? With a configuration, also its output location; with --cluster, all nodes of a cluster."""
    loaded = load_configuration(config, overrides) if config or overrides else None
    from ..commands.doctor import doctor as run_doctor

    return run_doctor(loaded, cluster=cluster)


def submit(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", show_default=False, help="The command, with its options."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="Of the cluster's dashboard, such as http://HOST:8265.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the job's log to its end, and exit with its exit code.")
    ] = True,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Run a command as a job on a Ray cluster."""
    from ..commands.submit import submit as run_submit

    table: Any = context.find_root().command  # the group of all commands
    return run_submit(command or [], table.commands, address=address, wait=wait, progress=open_progress())


def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False, help="Of the benchmark.")] = None,
) -> int:
    """Run a benchmark of benchmarks/ with the arguments after its name; without a name, list them."""
    from ..commands.bench import benchmark_names, run_benchmark

    if name is None:
        for known in benchmark_names():
            print(known)
        return DONE
    return run_benchmark(name, context.args)
