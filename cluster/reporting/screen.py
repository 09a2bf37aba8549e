"""Where a long command shows how far it is: on a terminal, in the cell of a notebook, or in plain lines."""

from __future__ import annotations

import sys

from .logs import LoggedProgress, log_format
from .notebook import NotebookProgress, in_notebook
from .progress import BarProgress, PlainProgress, Progress


def open_progress() -> Progress:
    """A `Progress` with bars if stderr is a terminal, or this runs in a cell of a notebook; otherwise one with plain
    lines, or with lines of JSON where the log has them."""
    if log_format() == "json":
        return LoggedProgress()
    if in_notebook():
        return NotebookProgress()
    return BarProgress() if sys.stderr.isatty() else PlainProgress(sys.stderr)
