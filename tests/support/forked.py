"""A command as a process that may die, forked in a moment from one that has imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys

from unlearnrec.partitioning.failpoints import ENVIRONMENT

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["unlearnrec.cluster.cli.app", "unlearnrec.cluster.pipeline", "unlearnrec.cluster.commands.rollback"]
)


def command(*arguments: str, log: str, points: str = "") -> int:
    """Its exit code, negative after a signal; what it prints goes to the file `log`. points: of `failpoints`."""
    process = _context.Process(target=_run, args=(arguments, log, points))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(arguments: tuple[str, ...], log: str, points: str) -> None:
    from unlearnrec.cluster.cli.app import run

    if points:
        os.environ[ENVIRONMENT] = points
    with open(log, "w") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = run(arguments)
    sys.exit(code)
