"""Bars in a notebook: one output of the cell, replaced while they move, kept at the end."""

from typing import Any

import IPython.display
import pytest

from unlearnrec.cluster.reporting import notebook, screen
from unlearnrec.cluster.reporting.progress import PlainProgress


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was displayed: for each output the states that it had."""
    outputs: list[list[str]] = []

    class Handle:
        def __init__(self, states: list[str]) -> None:
            self._states = states

        def update(self, shown: Any) -> None:
            self._states.append(shown.data)

    def display(shown: Any, display_id: bool = False) -> Handle:
        outputs.append([shown.data])
        return Handle(outputs[-1])

    monkeypatch.setattr(IPython.display, "display", display)
    return outputs


def test_two_tasks_share_an_output_and_it_stays(cells: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notebook, "SHORTEST_SECONDS", 0.0)
    progress = notebook.NotebookProgress()
    with progress.task("outer", 2) as outer, progress.task("inner") as inner:
        outer.advance(1, loss=0.25)
        inner.advance(7)
    with progress.task("<later>", 1) as later:
        later.advance(1)
    progress.note("a < b")
    assert len(cells) == 3, "an output a group of bars, and one a note"
    assert "outer" in cells[0][-1] and "inner" in cells[0][-1] and "loss=0.25" in cells[0][-1] and "1/2" in cells[0][-1]
    assert "&lt;later&gt;" in cells[1][-1] and "outer" not in cells[1][-1]
    assert cells[2] == ["<pre>a &lt; b</pre>"]


def test_updates_are_not_more_than_somebody_can_see(cells: list[list[str]]):
    with notebook.NotebookProgress().task("t", 1000) as task:
        for _ in range(1000):
            task.advance(1)
    assert len(cells[0]) < 20 and "1000/1000" in cells[0][-1]


def test_outside_of_a_notebook_there_are_lines():
    assert not notebook.in_notebook() and isinstance(screen.open_progress(), PlainProgress)
