"""The bars of `progress.py` in the output of a notebook's cell. They need no widgets, and are saved with the notebook."""

from __future__ import annotations

import html
import io
import sys
import time
from typing import Any

from .progress import BarProgress, Task

SHORTEST_SECONDS = 0.2
"""The shortest time between two updates of a cell's output."""
COLUMNS = 110


class NotebookProgress(BarProgress):
    """Bars in one output of the cell, which is replaced while they move, and stays as it was at the end."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        # The bars are drawn into a buffer, and shown as HTML.
        self.console = Console(file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True, force_jupyter=False)
        self._handle: Any = None
        self._shown_at = 0.0

    def note(self, text: str) -> None:
        """As `Progress.note`."""
        from IPython.display import HTML, display

        display(HTML(f"<pre>{html.escape(text)}</pre>"))

    def _start(self, name: str, total: int | None) -> Task:
        task = super()._start(name, total)
        assert self.bars is not None
        self.bars.live.stop()  # it would draw on a terminal that is not there
        self.bars.live.auto_refresh = False
        self._show(now=True)
        return _Shown(self, task)

    def task_ended(self) -> None:
        """As `BarProgress.task_ended`; the bars stay in the output."""
        self._show(now=True)
        super().task_ended()
        if self.bars is None:
            self._handle = None

    def _show(self, now: bool = False) -> None:
        """Replace the output by the bars as they are, unless that was done a moment ago."""
        if self.bars is None or not (now or time.monotonic() - self._shown_at >= SHORTEST_SECONDS):
            return
        from IPython.display import HTML, display

        self._shown_at = time.monotonic()
        self.console.print(self.bars.get_renderable())
        drawn = self.console.export_html(inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>")
        if self._handle is None:
            self._handle = display(HTML(drawn), display_id=True)
        else:
            self._handle.update(HTML(drawn))


class _Shown(Task):
    """A task that is drawn again when it advances."""

    def __init__(self, progress: NotebookProgress, task: Task) -> None:
        self._progress, self._task = progress, task

    def advance(self, n: int = 1, **fields: object) -> None:
        self._task.advance(n, **fields)
        self._progress._show()

    def finish(self) -> None:
        self._task.finish()


def in_notebook() -> bool:
    """Whether this code runs in a cell of a notebook, whose kernel is one of IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell" or type(shell).__module__.startswith("google.colab")
