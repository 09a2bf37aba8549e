"""Make the results file of the unlearning benchmark from its cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import results_file
from .plots import draw

Cell = Mapping[str, Any]
STRATA = ("user degree", "item popularity")
IN_SEEDS = ("attack auc", "recall")
MEASURES = (
    "recall",
    "ndcg",
    "attack auc",
    "attack tpr",
    "trained attack auc",
    "trained attack tpr",
    "shadow attack auc",
    "shadow attack tpr",
    "difference attack auc",
    "user attack auc",
    "user attack auc, each alone",
    "calibrated user attack auc",
    "calibrated user attack tpr",
    "calibrated user attack auc, each alone",
    "trained user attack auc",
    "trained user attack tpr",
    "trained user attack auc, each alone",
    "user difference attack auc",
    "closeness R2",
    "closeness slope",
    "seconds of one user",
    "row R2",
    "shift slope",
    "returns to top",
    "change on untouched users",
    "top lists as before",
    "top lists as retrained",
    "MI-BF",
    "MI-NG",
)
"""The measures in the second table of a scenario, where the row of `retrain` is the reference. Those with a share are in the
third table too."""
MEANINGS = {
    "recall": "mean Recall@20 on test interactions",
    "ndcg": "mean NDCG@20 on test interactions",
    "attack auc": "telling forgotten pairs from held-out ones by their score: .5 is guessing, the retrain is the target",
    "attack tpr": "the share of forgotten pairs that this attacker finds while wrong about 1% of the held-out ones",
    "trained attack auc": "as `attack auc`, with a classifier on nine features of a pair that was trained on other pairs",
    "trained attack tpr": "as `attack tpr`, with this classifier",
    "shadow attack auc": "as `attack auc`, with likelihood ratios from shadow models with and without each pair (LiRA)",
    "shadow attack tpr": "as `attack tpr`, with these ratios",
    "difference attack auc": "telling forgotten from kept pairs by the change of their score between both versions",
    "user attack auc": "telling deleted users from strangers, whom no model met, by how close their items are: .5 is right",
    "calibrated user attack auc": "the same by how much closer they are than in two models of the attacker's own",
    "calibrated user attack tpr": "the share of deleted users that this attacker finds while wrong about 1% of strangers",
    "trained user attack auc": "the same by a classifier on six such differences, trained on other users",
    "trained user attack tpr": "as `calibrated user attack tpr`, with this classifier",
    "user difference attack auc": "telling deleted users from those who stay by how much closer their items came",
    "user attack auc, each alone": "as `user attack auc`, where some of these users are forgotten each alone",
    "calibrated user attack auc, each alone": "as `calibrated user attack auc`, likewise",
    "trained user attack auc, each alone": "as `trained user attack auc`, likewise",
    "closeness R2": "how much of the change of the closeness of deleted users' items in the retrain the method made too",
    "closeness slope": "the change of this closeness that was made per change needed: 1 is right",
    "seconds of one user": "the mean time of a request, where some of them are forgotten each alone, from the original",
    "row R2": "how much of the change of the touched rows of E0 in the retrain the method made too",
    "shift R2": "the same for the changes of the forgotten pairs' scores: 1 is all, 0 as if nothing was done",
    "shift slope": "the change made per change needed, over the forgotten pairs: 1 is right",
    "returns to top": "the share of the forgotten pairs whose item is among the 20 best of its user",
    "change on untouched users": "how far scores of users without a forgotten interaction moved, as a share of their size",
    "top lists as before": "the share of the 20 best of such users that is the same as before",
    "top lists as retrained": "the share that is the same as in the retrain",
    "MI-BF": "the mean sigmoid of the forgotten pairs' scores before, divided by that after (UnlearnRec, SIGIR 2025)",
    "MI-NG": "the mean sigmoid of random pairs' scores, divided by that of the forgotten pairs (the same paper)",
}
"""What each measure is, in the results file where it stands."""
FIRST = {"gap closed": "attack auc", "shift R2": "shift R2"}
"""The measures whose shares are in the first table, by the title of the column."""


def write(path: Path, title: str, settings: str, cells: Sequence[Cell]) -> None:
    """Write the results file, and the plot beside it."""
    figure = path.with_suffix(".svg")
    draw(figure, cells)
    groups = list(dict.fromkeys(map(_group, cells)))
    parts = [
        settings,
        f"![Attack gap closed and pair shifts explained, by scenario and method]({figure.name})",
        _summary(cells),
        _meanings(cells),
    ]
    for group in groups:
        parts.append(_scenario([c for c in cells if _group(c) == group]))
    results_file.write(path, title, parts)


def _meanings(cells: Sequence[Cell]) -> str:
    """What the measures of these cells are."""
    shown = [name for name in MEANINGS if any(name in c or name in c["shares"] for c in cells)]
    return "\n".join(["## What the measures are\n", *(f"- {name}: {MEANINGS[name]}" for name in shown)])


def _group(cell: Cell) -> tuple[Any, ...]:
    return cell["backbone"], cell["seed"], cell["scenario"]


def _finite(values: Sequence[Any]) -> list[float]:
    return [x for x in values if math.isfinite(x)]


def _strata(cell: Cell) -> list[float]:
    return _finite([x for name in STRATA for x in cell.get(f"gap closed by {name}", [])])


RECALL = "recall >= .99 of retrained"
CRITERIA: dict[str, Callable[[Cell], bool | None]] = {
    "gap closed .95-1.05": lambda c: _within(c.get("gap closed"), 0.95, 1.05),
    "in all strata .85-1.15": lambda c: all(0.85 <= x <= 1.15 for x in _strata(c)) if _strata(c) else None,
    "shift R2 >= .95": lambda c: _within(c.get("shift R2"), 0.95, math.inf),
    RECALL: lambda c: _within(c["recall, share of retrained"], 0.99, math.inf),
    "equivalent within seeds": lambda c: (
        all(c[f"{name}, equivalence p"] < 0.05 for name in IN_SEEDS) if "recall, z" in c else None
    ),
}
"""The criteria that a method should meet, by title. None: the criterion cannot be decided for this cell."""


def _within(value: float | None, low: float, high: float) -> bool | None:
    return None if value is None or math.isnan(value) else low <= value <= high


def _summary(cells: Sequence[Cell]) -> str:
    rows = []
    for method in dict.fromkeys(c["method"] for c in cells):
        mine = [c for c in cells if c["method"] == method]
        row: dict[str, Any] = {"method": method}
        for name, criterion in CRITERIA.items():
            answers = [a for a in map(criterion, mine) if a is not None]
            row[name] = f"{sum(answers)} of {len(answers)}"
        rows.append(row)
    return "\n\n".join(
        ["## Criteria met, of the cells where they can be asked", results_file.table(rows), *strength(cells)]
    )


def strength(cells: Sequence[Cell]) -> list[str]:
    """A sentence that says whether the criteria tell cut edges from forgetting; empty if no cell can show it.

    The criteria are too weak in a cell if `cut` meets all criteria that the retrain meets.
    """
    retrained = {_group(c): c for c in cells if c["method"] == "retrain"}
    asked, passed = 0, []
    for cell in (c for c in cells if c["method"] == "cut" and _group(c) in retrained):
        met = {name for name, criterion in CRITERIA.items() if criterion(retrained[_group(cell)])}
        answers = [CRITERIA[name](cell) for name in met - {RECALL}]
        if any(a is not None for a in answers):
            asked += 1
            if all(a is not False for a in [*answers, CRITERIA[RECALL](cell)]):
                passed.append(f"{cell['scenario']} with {cell['backbone']}, seed {cell['seed']}")
    if not asked:
        return []
    start = "`cut`, which changes no parameter, meets every criterion that the retrain meets in"
    if passed:
        return [f"{start} {len(passed)} of {asked} cells, in which they are too weak: {'; '.join(passed)}."]
    return [f"{start} none of the {asked} cells where more than Recall can be asked."]


def _scenario(cells: Sequence[Cell]) -> str:
    """The part of the results file about one scenario with one backbone and seed."""
    first = cells[0]
    before = ""
    if "attack auc" in first:
        aucs = [f"{first[name]:.3f}" for name in ("attack auc before", "attack auc retrained")]
        before = f" Attack AUC before {aucs[0]}, retrained {aucs[1]}."
    head = (
        f"## {first['scenario']}, {first['backbone']}, seed {first['seed']}\n\n{first['interactions']:,} interactions in "
        f"{first['requests']:,} requests.{before} A retrain takes {first['retrain seconds']:.0f} s."
    )
    parts = [head, results_file.table([_main_row(c) for c in cells]), "More measures:"]
    shown = [name for name in MEASURES if any(name in c for c in cells)]
    rows = [{"method": c["method"]} | {name: c.get(name, "-") for name in shown} for c in cells]
    if told := [name for name in shown if f"{name} before" in first and name.endswith("auc")]:
        rows.insert(
            0, {"method": "(before the request)"} | {n: first[f"{n} before"] if n in told else "-" for n in shown}
        )
    parts.append(results_file.table(rows))
    shared = [n for n in MEASURES if any(n in c["shares"] for c in cells) and n not in FIRST.values()]
    parts += [
        "Share of the gap to the retrain, by measure:",
        results_file.table([{"method": c["method"]} | {name: _share(c, name, 2) for name in shared} for c in cells]),
    ]
    if off := list(dict.fromkeys(name for c in cells for name in c.get("off the retrain", {}))):
        differences = [{"method": c["method"]} | {name: _off(c, name) for name in off} for c in cells]
        parts += ["Attacks on users, difference from the retrain [95%]:", results_file.table(differences)]
    parts += [f"{cell['method']}: {cell['note']}." for cell in cells if cell.get("note")]
    for cell in cells:
        if len(cell["checkpoints"]) > 1:
            parts += [f"{cell['method']}, along the stream:", results_file.table(cell["checkpoints"])]
    return "\n\n".join(parts)


def _main_row(cell: Cell) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": cell["method"],
        "recall before": cell["recall before"],
        "recall / retrained": cell["recall, share of retrained"],
    }
    for title, name in FIRST.items():
        if name in cell["shares"]:
            row[f"{title} [95%]"] = _share(cell, name, 3)
    for name in STRATA:
        values = _finite(cell.get(f"gap closed by {name}", []))
        row[f"gap closed by {name}"] = f"{min(values):.2f} to {max(values):.2f}" if values else "-"
    for name in IN_SEEDS:
        if f"{name}, z" in cell:
            row[f"{name} in seeds: z (equivalence p)"] = (
                f"{cell[f'{name}, z']:.1f} ({cell[f'{name}, equivalence p']:.3f})"
            )
    return row | {
        "seconds": cell["seconds"],
        "times faster": round(cell["retrain seconds"] / max(cell["seconds"], 1e-9), 1),
        "preparation, s": cell["preparation seconds"],
        "preparation, in retrains": round(cell["preparation seconds"] / cell["retrain seconds"], 1),
        "pays from request": _pays_from(cell),
        "peak memory, GB (preparation)": f"{cell['peak bytes'] / 1e9:.2f} ({cell['preparation peak bytes'] / 1e9:.2f})",
    }


def _pays_from(cell: Cell) -> str:
    """The first request with which the preparation and all requests so far took less time than as many retrains."""
    if cell["method"] == "retrain":
        return "-"
    saved = cell["retrain seconds"] - cell["seconds"] / cell["requests"]
    return str(math.floor(cell["preparation seconds"] / saved) + 1) if saved > 0 else "never"


def _off(cell: Cell, name: str) -> str:
    if name not in cell["off the retrain"]:
        return "-"
    value, low, high = (f"{x:+.3f}" for x in cell["off the retrain"][name])
    return f"{value} [{low}, {high}]"


def _share(cell: Cell, name: str, digits: int) -> str:
    if name not in cell["shares"] or math.isnan(cell["shares"][name][0]):
        return "-"
    value, low, high = (f"{x:.{digits}f}" for x in cell["shares"][name])
    return f"{value} [{low}, {high}]"
