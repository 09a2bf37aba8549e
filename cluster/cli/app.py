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
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from ...partitioning.errors import InputError
from . import request_signatures as requests
from . import signatures as commands
from .output import BAD_INPUT, DONE, FAILED, exit_code, print_result

# Newer typer carries its own copy of click, so `click.UsageError` would not be the class that is raised.
UsageError: type[Any] = typer.BadParameter.__mro__[1]

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
for command in (  # in the order of --help
    commands.quickstart,
    commands.ingest,
    commands.train,
    commands.pretrain,
    commands.retrain,
    requests.forget,
    requests.drop,
    requests.approve,
    requests.cancel,
    requests.status,
    requests.watch,
    commands.evaluate,
    commands.export,
    commands.purge,
    commands.residue,
    commands.lift,
    commands.rollback,
    commands.serve,
    commands.doctor,
    commands.submit,
):
    app.command()(command)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(commands.bench)


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
    # Ray prints its workers' lines on stdout, DGL greets there: with --json only our object may stand on it.
    quiet = contextlib.redirect_stdout(sys.stderr) if as_json and "--help" not in own else contextlib.nullcontext()
    try:
        with quiet:
            result = command.main(list(arguments), prog_name="unlearnrec", standalone_mode=False)
        if result == INTERRUPTED:
            return fail(FAILED, "interrupted")
        if isinstance(result, Mapping):
            print_result(result, as_json, stdout)
            return exit_code(result)
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
