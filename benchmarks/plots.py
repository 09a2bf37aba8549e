"""The figure of the unlearning benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PANELS = (
    ("gap closed", "Attack gap closed", (-0.5, 1.6)),
    ("shift R2", "Pair shifts explained (R2)", (-1.0, 1.05)),
    ("recall, share of retrained", "Recall@20 / retrained", (0.8, 1.05)),
)


def draw(path: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Draw the figure into a file: one panel for each measure, one row of dots for each scenario and backbone, and one
    colour for each method. Values outside a panel's range are drawn at its edge."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = list(dict.fromkeys((c["backbone"], c["scenario"]) for c in cells))
    methods = list(dict.fromkeys(c["method"] for c in cells))
    figure, axes = pyplot.subplots(
        1, len(PANELS), figsize=(15, 1.2 + 0.45 * len(groups)), sharey=True, layout="constrained"
    )
    for axis, (measure, title, limits) in zip(axes, PANELS, strict=True):
        for colour, method in enumerate(methods):
            found = [
                (groups.index((c["backbone"], c["scenario"])), c[measure])
                for c in cells
                if c["method"] == method and c.get(measure) is not None
            ]
            if found:
                places, values = np.array(found).T
                lifted = places + (colour - len(methods) / 2) * 0.06
                axis.plot(np.clip(values, *limits), lifted, "o", color=f"C{colour}", label=method, markersize=5)
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set(title=title, xlim=limits, yticks=range(len(groups)), yticklabels=[" / ".join(g) for g in groups])
        axis.grid(axis="y", alpha=0.3)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(methods))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
