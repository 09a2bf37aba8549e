"""The command line. Each command reads its options, calls one function and returns its result; `run` prints it.

With `--json` a command's last line on stdout is one JSON object, also when it fails. Everything else goes to stderr.
Nothing heavy is imported before a command runs: `--help` must answer at once.

Exit codes: 0 done, 1 failed, 2 bad input or configuration, 3 a quality gate failed (the result has `passed: false`).
"""

from __future__ import annotations

import contextlib
import json as json_module
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..partitioning.errors import InputError
from .cli_output import print_result

# Newer typer carries its own copy of click, so `click.UsageError` would not be the class that is raised.
UsageError: type[Any] = typer.BadParameter.__mro__[1]

DONE, FAILED, BAD_INPUT, GATE_FAILED = 0, 1, 2, 3
INTERRUPTED = 130
"""What typer returns for Ctrl-C; our own exit code for it is FAILED."""

app = typer.Typer(
    name="unlearnrec",
    help="Distributed training of graph recommenders that can forget on request.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", show_default=False)]
# `run` reads these two from the arguments itself, because they must also hold when parsing fails.
Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks; also UNLEARNREC_DEBUG=1.")]


def _load(path: Path | None, overrides: list[str] | None) -> Any:
    """Every command does this first, so that a mistake in the configuration shows before torch and Ray are loaded."""
    from .config import load_config

    return load_config(path, overrides or [])


def _progress() -> Any:
    from .progress import open_progress

    return open_progress()


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for everything it leaves.")] = Path("quickstart-output"),
    partitions: Annotated[int, typer.Option(min=1, help="Workers.")] = 2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """The whole path on data it makes: ingest, train, pre-train, forget, compare with a retrain, report."""
    from . import quickstart as body

    return body.quickstart(output, partitions=partitions, seed=seed, progress=_progress())


@app.command()
def ingest(
    overrides: Overrides = None, config: ConfigFile = None, json: Json = False, debug: Debug = False
) -> dict[str, Any]:
    """Lake table -> partitioned graph."""
    loaded = _load(config, overrides)
    from . import pipeline

    return pipeline.ingest(loaded, progress=_progress())


@app.command()
def train(
    overrides: Overrides = None,
    config: ConfigFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Train the same run minus these users, items or interactions; repeatable."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Train the backbone."""
    loaded = _load(config, overrides)
    from . import pipeline

    return pipeline.train(loaded, resume=resume, without=without or [], progress=_progress())


@app.command()
def pretrain(
    overrides: Overrides = None, config: ConfigFile = None, json: Json = False, debug: Debug = False
) -> dict[str, Any]:
    """Train the Influence Encoder for the trained backbone."""
    loaded = _load(config, overrides)
    from . import pipeline

    return pipeline.pretrain(loaded, progress=_progress())


@app.command()
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
    request_id: Annotated[str | None, typer.Option(help="Repeating a request under its id is harmless.")] = None,
    requester: Annotated[str | None, typer.Option(metavar="NAME", help="Who asks; the log keeps it.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Forget users, items or interactions: a new version of the model without them."""
    if users is None and items is None and interactions is None and requests is None:
        raise InputError("forget: nothing to forget; give --users, --items, --interactions or --requests")
    loaded = _load(config, overrides)
    from . import pipeline

    answer = pipeline.forget(
        loaded,
        users=users,
        items=items,
        interactions=interactions,
        requests=requests,
        dry_run=dry_run,
        request_id=request_id,
        results=results,
        requester=requester,
        progress=_progress(),
    )
    # Committed all the same: exit code 3 says that a retrain is due.
    return answer | ({"passed": False} if answer.get("needs_retrain") else {})


@app.command()
def approve(
    request_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who approves it; the log keeps it.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Let a request be carried out that is held because it deletes more than forget.max_share."""
    loaded = _load(config, overrides)
    from . import pipeline

    return pipeline.approve(loaded, request_id, by=by)


@app.command()
def cancel(
    request_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    overrides: Overrides = None,
    config: ConfigFile = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Withdraw a request that is held, or in its grace window."""
    loaded = _load(config, overrides)
    from . import pipeline

    return pipeline.cancel(loaded, request_id)


@app.command()
def status(
    request_id: Annotated[str | None, typer.Argument(metavar="ID", show_default=False)] = None,
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
    loaded = _load(config, overrides)
    from . import pipeline

    if verify:
        return pipeline.verify(loaded, request_id)
    return pipeline.status(loaded, request_id)


@app.command()
def evaluate(
    overrides: Overrides = None, config: ConfigFile = None, json: Json = False, debug: Debug = False
) -> dict[str, Any]:
    """Recall and NDCG on the test interactions."""
    loaded = _load(config, overrides)
    from . import pipeline

    return pipeline.evaluate(loaded, progress=_progress())


@app.command()
def export(
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Folder, local or s3://.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    top_k: Annotated[int, typer.Option(min=1, help="Recommendations a user.")] = 20,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Write embeddings and recommendations of the current version as Parquet."""
    loaded = _load(config, overrides)
    from . import pipeline

    return pipeline.export(loaded, to=to, top_k=top_k, progress=_progress())


@app.command()
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
    loaded = _load(config, overrides)
    from . import pipeline

    return pipeline.purge(loaded, now=now, truncate_log=truncate_log, progress=_progress())


@app.command()
def residue(
    overrides: Overrides = None, config: ConfigFile = None, json: Json = False, debug: Debug = False
) -> dict[str, Any]:
    """Where deleted data still lies, under the output and in the lake; read only."""
    loaded = _load(config, overrides)
    from . import pipeline

    return pipeline.residue(loaded, progress=_progress())


@app.command()
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
    loaded = _load(config, overrides)
    from . import pipeline

    return pipeline.lift(loaded, users=users, items=items, interactions=interactions)


@app.command()
def rollback(
    to: Annotated[int, typer.Option("--to", metavar="VERSION", min=1, help="An older version.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Make an older version current again, unless something was deleted since."""
    loaded = _load(config, overrides)
    from . import pipeline

    return pipeline.rollback(loaded, to=to)


@app.command()
def serve(
    overrides: Overrides = None,
    config: ConfigFile = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Instead of serve.port; 0: a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="Instead of serve.host.")] = None,
    detached: Annotated[
        bool, typer.Option("--detached", help="On the cluster at cluster.address; also serve.detached.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End what --detached started for this output.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Take deletion requests over HTTP, carry them out, answer recommendations; until it is stopped."""
    loaded = _load(config, overrides)
    if stop or detached or loaded.serve.detached:
        from . import deploy

        if stop:
            return deploy.stop(loaded, progress=_progress())
        return deploy.start(loaded, host=host, port=port, progress=_progress())
    from . import serve as body

    return body.serve(loaded, host=host, port=port, progress=_progress())


@app.command()
def doctor(
    overrides: Overrides = None, config: ConfigFile = None, json: Json = False, debug: Debug = False
) -> dict[str, Any]:
    """Is this machine fit? With a configuration, also its output location."""
    loaded = _load(config, overrides) if config or overrides else None
    from . import doctor as body

    return body.doctor(loaded)


@app.command()
def submit(
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND ...", show_default=False)] = None,
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="Of the cluster's dashboard, such as http://HOST:8265.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job's log to its end; exit as it ended.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Run a command as a job on a Ray cluster."""
    from . import submit as body

    return body.submit(command or [], address=address, wait=wait, progress=_progress())


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
) -> int:
    """Run a benchmark of benchmarks/ with the arguments after its name; without a name, list them."""
    from . import bench as body

    if name is None:
        for known in body.names():
            print(known)
        return DONE
    return body.run(name, context.args)


def _exit_code(result: Mapping[str, Any]) -> int:
    if result.get("passed") is False:
        return GATE_FAILED
    return FAILED if result.get("ok") is False else DONE


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; nothing is raised."""
    own = [] if list(arguments[:1]) == ["bench"] else list(arguments)  # a benchmark's arguments are its own
    as_json = "--json" in own
    debug = "--debug" in own or os.environ.get("UNLEARNREC_DEBUG") == "1"
    stdout = sys.stdout

    def fail(code: int, message: str) -> int:
        print(f"error: {message}", file=sys.stderr)
        if as_json:
            print(json_module.dumps({"error": message}), file=stdout, flush=True)
        return code

    command = typer.main.get_command(app)
    # Ray prints its workers' lines on stdout, DGL greets there: with --json only our object may stand on it.
    quiet = contextlib.redirect_stdout(sys.stderr) if as_json and "--help" not in own else contextlib.nullcontext()
    try:
        with quiet:
            result = command.main(list(arguments), prog_name="unlearnrec", standalone_mode=False)
        if result == INTERRUPTED:
            return fail(FAILED, "interrupted")
        if isinstance(result, Mapping):
            print_result(result, as_json, stdout)
            return _exit_code(result)
        return result or DONE
    except InputError as error:
        if debug:
            traceback.print_exc()
        return fail(BAD_INPUT, str(error))
    except (KeyboardInterrupt, typer.Abort):
        return fail(FAILED, "interrupted")
    except UsageError as error:
        if not own and not arguments:  # no command at all: click's message is the help text
            print(error.format_message(), file=sys.stderr)
            return BAD_INPUT
        place = f" (try: {error.ctx.command_path} --help)" if error.ctx is not None else ""
        return fail(BAD_INPUT, error.format_message() + place)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return fail(FAILED, f"{type(error).__name__}: {error}{'' if debug else ' (--debug shows where)'}")


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
