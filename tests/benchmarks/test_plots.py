"""The figure of the unlearning benchmark."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from unlearnrec.benchmarks.plots import PANELS, SHAPES, draw


def cell(method: str, value: float | None) -> dict:
    return {"backbone": "B & C", "scenario": "<s>", "method": method} | {measure: value for measure, _, _ in PANELS}


def test_values_outside_an_axis_are_said_and_missing_ones_left_out(tmp_path: Path) -> None:
    methods = [cell(f"m{k}", 1.0) for k in range(SHAPES + 1)]
    draw(tmp_path / "f" / "a.svg", [*methods, cell("far", 7.5), cell("none", None), cell("nan", float("nan"))])
    text = (tmp_path / "f" / "a.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.get("viewBox") and "prefers-color-scheme" in text and "The axes are cut" in text
    assert text.count(">far: 7.500<") == len(PANELS) == text.count(">7.5</text>")
    assert ">none: " not in text and ">nan: " not in text and ">&lt;s&gt;<" in text and ">B &amp; C<" in text
    kinds = re.findall(r"<(\w+)[^>]*class=\"(m\d[^\"]*)\"><title>m(\d): 1.000<", text)
    assert len({(shape, kind) for shape, kind, _ in kinds}) == len(methods)  # no two methods look the same
