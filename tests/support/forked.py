"""A command as a process that may die, forked in a moment from one that has imported everything."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.forkserver
import os
import sys

from unlearnrec.partitioning.failpoints import ENVIRONMENT

_context = multiprocessing.get_context("forkserver")
MODULES = ["unlearnrec.cluster.cli.app", "unlearnrec.cluster.pipeline", "unlearnrec.cluster.commands.rollback"]


def command(*arguments: str, log: str, points: str = "") -> int:
    """Its exit code, negative after a signal; what it prints goes to the file `log`. points: of `failpoints`."""
    _serve()
    process = _context.Process(target=_run, args=(arguments, log, points))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@functools.cache
def _serve() -> None:
    """Start the process that is forked. Each process of tests has one, and `run_processes` may have started it with torch
    alone: then it is replaced."""
    multiprocessing.forkserver._forkserver._stop()
    _context.set_forkserver_preload(MODULES)
    multiprocessing.forkserver.ensure_running()


def _run(arguments: tuple[str, ...], log: str, points: str) -> None:
    from unlearnrec.cluster.cli.app import run

    if points:
        os.environ[ENVIRONMENT] = points
    with open(log, "w") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = run(arguments)
    sys.exit(code)
