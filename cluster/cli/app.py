"""The command line: one table of the commands, and how any of them runs, answers and fails.

Each command (signatures.py, request_signatures.py) reads its options, calls one function and returns its result; `run`
prints it. With `--json` a command's last line on stdout is one JSON object, also when it fails. Everything else goes to
stderr. Nothing heavy is imported before a command runs: `--help` must answer at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from ...partitioning.errors import InputError
from ..reporting.exit_codes import BAD_INPUT, DONE, FAILED
from . import request_signatures as requests
from . import signatures as commands
from .help import EXAMPLE, CommandGroup, PlainCommand, options
from .log_option import with_log_format
from .next import interrupted, next_command
from .output import exit_code, print_result

# Newer typer carries its own copy of click, so `click.UsageError` would not be the class that is raised.
UsageError: type[Any] = typer.BadParameter.__mro__[1]

INTERRUPTED = 130
"""What typer returns for Ctrl-C; our own exit code for it is FAILED."""

TABLE: Sequence[tuple[str, Sequence[tuple[Callable[..., Any], str]]]] = (
    (
        "Begin",
        (
            (commands.quickstart, "--output quickstart-output"),
            (commands.init, "interactions.parquet --to run.yaml"),
            (commands.config, "train.epochs"),
            (commands.doctor, "--config run.yaml"),
        ),
    ),
    (
        "Train a model",
        (
            (commands.ingest, "--config run.yaml"),
            (commands.plan, "--config run.yaml --for train"),
            (commands.train, "--config run.yaml train.epochs=10"),
            (commands.pretrain, "--config run.yaml"),
            (commands.retrain, "--config run.yaml --resume"),
            (commands.rollback, "--config run.yaml --to 3"),
        ),
    ),
    (
        "Use it",
        (
            (commands.evaluate, "--config run.yaml"),
            (commands.export, "--config run.yaml --to exported --top-k 10"),
            (commands.serve, "--config run.yaml --port 8080"),
        ),
    ),
    (
        "Forget on request",
        (
            (requests.forget, "--config run.yaml --users 17,23"),
            (requests.audit, "--config run.yaml --retrains 8"),
            (requests.status, "r1 --config run.yaml"),
            (requests.approve, "r1 --by NAME --config run.yaml"),
            (requests.cancel, "r1 --config run.yaml"),
            (requests.watch, "--config run.yaml --once"),
            (requests.drop, "--config run.yaml --in batch.zip --out codes.zip"),
        ),
    ),
    (
        "Keep deleted data away",
        (
            (commands.purge, "--config run.yaml"),
            (commands.residue, "--config run.yaml"),
            (commands.lift, "--config run.yaml --users 17"),
        ),
    ),
    (
        "Run on a cluster, measure",
        (
            (commands.submit, "-- train --config run.yaml"),
            (commands.bench, "training --help"),
        ),
    ),
)
"""The commands under their headings, in the order of `--help`; each with the arguments of its example."""

app = typer.Typer(
    name="unlearnrec",
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,  # typer's own options guess the shell; help.py has some that are told it
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.callback()(options)
for heading, members in TABLE:
    for command, arguments in members:
        # What stands behind the name of a benchmark is its own, `--help` too.
        own = {"allow_extra_args": True, "allow_interspersed_args": False} if command is commands.bench else None
        example = f"{EXAMPLE}unlearnrec {command.__name__} {arguments}"
        app.command(cls=PlainCommand, rich_help_panel=heading, epilog=example, context_settings=own)(
            with_log_format(command)
        )


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; nothing is raised."""
    own = [] if list(arguments[:1]) == ["bench"] else list(arguments)  # a benchmark's arguments are its own
    as_json = "--json" in own
    debug = "--debug" in own or os.environ.get("UNLEARNREC_DEBUG") == "1"
    stdout = sys.stdout

    def fail(code: int, message: str) -> int:
        print(f"error: {message}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": message}), file=stdout, flush=True)
        return code

    command = typer.main.get_command(app)
    if "_UNLEARNREC_COMPLETE" in os.environ:  # the shell asks, through the script of --show-completion
        from typer.completion import completion_init

        completion_init()
    # Ray prints its workers' lines on stdout, DGL greets there: with --json only our object may stand on it.
    quiet = contextlib.redirect_stdout(sys.stderr) if as_json and "--help" not in own else contextlib.nullcontext()
    try:
        with quiet:
            result = command.main(list(arguments), prog_name="unlearnrec", standalone_mode=False)
        if result == INTERRUPTED:
            return fail(FAILED, interrupted(own))
        if isinstance(result, Mapping):
            print_result(result, as_json, stdout)
            code = exit_code(result)
            if not as_json and (command_line := next_command(own, code)):
                print(f"next: {command_line}", file=stdout)
            return code
        return result or DONE
    except InputError as error:
        if debug:
            traceback.print_exc()
        return fail(BAD_INPUT, str(error))
    except (KeyboardInterrupt, typer.Abort):
        return fail(FAILED, interrupted(own))
    except UsageError as error:
        if not own and not arguments:  # no command at all: click's message is the help text
            print(error.format_message(), file=sys.stderr)
            return BAD_INPUT
        place = f" (try: {error.ctx.command_path} --help)" if error.ctx is not None else ""
        return fail(BAD_INPUT, error.format_message() + place)
    except Exception as error:
        if debug:
            traceback.print_exc()
        # A worker that had too little memory: a setting is to be changed, and the same command would fail again.
        code = BAD_INPUT if getattr(error, "for_memory", False) else FAILED
        return fail(code, f"{type(error).__name__}: {error}{'' if debug else ' (--debug shows where)'}")


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
