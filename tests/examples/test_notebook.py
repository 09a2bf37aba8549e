"""The notebook runs as it is, in a kernel as people have it, and shows bars and no errors."""

import os
from pathlib import Path

import nbformat
import pytest
from lanes import LONG
from nbclient import NotebookClient

import unlearnrec

PATH = Path(unlearnrec.__file__).parent / "examples" / "notebook.ipynb"


@pytest.fixture(scope="module")
def outputs() -> dict[str, str]:
    """Source of a cell -> its outputs as text."""
    notebook = nbformat.read(PATH, as_version=4)
    root = str(PATH.parents[2])
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(PATH.parent)}}).execute(env=variables)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return {cell.source: "\n".join(map(str, cell.outputs)) for cell in cells}


def of(outputs: dict[str, str], source: str) -> str:
    return next(text for cell, text in outputs.items() if cell.endswith(source))


@LONG
def test_it_goes_from_a_table_to_a_receipt(outputs: dict[str, str]):
    assert "status='committed'" in of(outputs, "result = request.wait()\nresult")
    assert "not carried out yet" in of(outputs, '"data protection")\nrequest')
    assert "[[]]" in outputs["session.recommend([user], k=5)"], "the last time it is shown, the user is gone"
    assert "receipt-req-" in of(outputs, "receipt.page)")


@LONG
def test_its_cells_show_bars(outputs: dict[str, str]):
    bars = outputs["session.train()"]
    assert "text/html" in bars and "/20</span>" in bars and "━" in bars


def test_it_is_kept_without_outputs():
    cells = nbformat.read(PATH, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
