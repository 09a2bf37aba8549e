"""What local changes can reach: the attacks of `audit` on models whose rows are partly those of the retrain.

A model that forgot a request is attacked beside models that no method can make, because they know the retrain: those whose
touched rows, or these and their neighbours' rows, are exactly as in the counterfactual, and the rest as before. So it shows
which rows give a forgotten pair away, and how much a better encoder of touched rows could still gain. The runs on canaries
(U-LiRA) are attacked in the same forms. Runs are kept under `--work`, as those of `bench unlearning`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..cluster.audit.choice import Interactions, attacked_pairs
from ..cluster.config.schema import Section
from ..cluster.reporting.screen import open_progress
from ..distributed.attacks.attacks import ATTACKS, AttackedPairs, attack
from ..distributed.attacks.canaries import Canaries, draw_canaries
from ..distributed.attacks.likelihood import balanced_halves
from ..distributed.attacks.runs import ATTACKS_ON_CANARIES, RATES, Runs, ToldOfRuns, attack_runs
from ..distributed.attacks.told import Told, tell
from ..partitioning.storage import Store
from . import results_file
from .lab import Lab, Model, Pairs
from .methods import METHODS
from .methods.base import cut_edges
from .panel import Panel, Seen
from .scenarios import SCENARIOS, Scenario
from .unlearning import add_device, read_data, read_section, recipe_of
from .view import view_of

RETRAINED, OTHER_SEED, BEFORE = "retrained", "retrained, seed", "before the request"


class Plan(Section):
    """What is attacked: the file of `--config`."""

    name: str
    """The name of the data set, for the results file."""
    backbones: dict[str, dict[str, Any]] = Field(min_length=1)
    """As in a matrix of `bench unlearning`."""
    epochs: int = Field(8, ge=1)
    seeds: tuple[int, ...] = (0,)
    other_seeds: int = Field(2, ge=1)
    """The number of retrains with other seeds: the floor."""
    scenarios: tuple[str, ...] = ("interactions 0.5%",)
    methods: tuple[str, ...] = ("cut", "counterfactual encoder")
    runs: int = Field(8, ge=0)
    """The number of runs on canaries, with the seed of the original; 0: none."""
    canaries: int = Field(500, ge=1)
    """The number of canaries of each kind of one interaction."""


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench ceiling", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="such as benchmarks/matrices/ceiling-ml-1m.yaml")
    parser.add_argument("--train", required=True, help="Parquet with user_id and item_id")
    parser.add_argument("--test", required=True)
    parser.add_argument("--work", required=True, type=Path, help="folder that keeps runs")
    parser.add_argument("--results", type=Path)
    add_device(parser)
    arguments = parser.parse_args(argv)
    plan = read_section(arguments.config, Plan)
    results = arguments.results or results_file.FOLDER / f"ceiling-{plan.name}.md"
    data, store = read_data(arguments.train, arguments.test), Store(str(arguments.work))
    parts = [_HOW]
    for title, overrides in plan.backbones.items():
        recipe = recipe_of(plan.epochs, overrides)
        parts.append(f"- {title}: {recipe.epochs} epochs, backbone {recipe.backbone}, train {recipe.train}")
        for seed in plan.seeds:
            lab = Lab(store, data, recipe, seed, arguments.device)
            for name in plan.scenarios:
                parts += [f"## {name}, {title}, seed {seed}", *requested(plan, SCENARIOS[name](lab))]
                results_file.write(results, f"What local changes can reach on {plan.name}", parts)
            if plan.runs:
                parts += [f"## Canaries, {title}, seed {seed}", *on_canaries(plan, lab)]
                results_file.write(results, f"What local changes can reach on {plan.name}", parts)


_HOW = (
    "Every number is the AUC of an attack (docs/audit.md), unless its column says otherwise; in brackets its 95% bootstrap "
    "interval of the difference from the retrain. `floor` is the largest difference that a retrain with another seed makes. "
    "Models named `rows of ...` know the retrain: the rows of these nodes are as in it, all others as before, and the "
    "request's edges are cut."
)


def requested(plan: Plan, scenario: Scenario) -> list[str]:
    """The parts of the results file about one request."""
    lab, pairs = scenario.lab, _attacked(scenario)
    panel = replace(Panel.of(scenario), forgotten=pairs.forgotten)
    original, target = lab.train(), lab.train(scenario.request)
    models = _forms(plan, lab, original, target, scenario.request)
    seeds = range(lab.seed + 1, lab.seed + 1 + plan.other_seeds)
    models |= {f"{OTHER_SEED} {seed}": lab.train(scenario.request, seed=seed) for seed in seeds}
    seen = {name: Seen(model, panel) for name, model in models.items()}
    before = Seen(original, panel)
    measures = {
        name: attack(pairs, one.view, before.view, one.returned) for name, one in ({BEFORE: before} | seen).items()
    }
    first = measures.get("cut", measures[BEFORE])
    recalls = {name: one.recall for name, one in ({BEFORE: before} | seen).items()}
    rows = []
    for name, found in measures.items():
        cells: dict[str, Any] = {"model": name, "Recall@20": f"{recalls[name]:.4f}"}
        for key in ATTACKS:
            if key not in measures[RETRAINED] or key not in found:
                cells[key] = "-"
                continue
            floors = [measures[f"{OTHER_SEED} {seed}"][key] for seed in seeds]
            told = tell(found[key], measures[RETRAINED][key], floors, first.get(key))
            cells[key] = _cell(told)
        rows.append(cells)
    floor = {"model": "floor", "Recall@20": ""} | {
        key: f"{max(abs(measures[f'{OTHER_SEED} {s}'][key].value - m.value) for s in seeds):.3f}"
        for key, m in measures[RETRAINED].items()
    }
    about = (
        f"{len(scenario.request[0]):,} interactions. A share after the value is of the gap from `cut` to the retrain."
    )
    return [about, results_file.table([*rows, {key: floor.get(key, "-") for key in rows[0]}])]


def _cell(told: Told) -> str:
    share = "" if np.isnan(told.share[0]) else f", share {told.share[0]:.2f}"
    return f"{told.value:.3f} [{told.interval[0]:+.3f}, {told.interval[1]:+.3f}]{share}"


def _forms(plan: Plan, lab: Lab, original: Model, target: Model, request: Pairs) -> dict[str, Model]:
    """The models that are attacked: those of the methods, those with rows of the retrain, and the retrain."""
    models: dict[str, Model] = {}
    for name in plan.methods:
        method = METHODS[name]()
        method.prepare(lab, original)
        models[name] = method.forget(lab, original, request)
    return models | with_rows_of(original, target, request) | {RETRAINED: target}


def with_rows_of(original: Model, target: Model, request: Pairs) -> dict[str, Model]:
    """Models that have some rows of the retrain `target`, and all others of the original, with the request's edges cut."""
    touched = original.rows(request)
    users = touched[touched < original.graph.num_users]
    items = touched[touched >= original.graph.num_users]
    near = torch.unique(torch.cat([touched, _neighbours(target, touched)]))
    chosen = {
        "touched users": users,
        "touched items": items,
        "touched nodes": touched,
        "these and their neighbours": near,
    }
    models = {f"rows of {name}": _with_rows(original, target, request, rows) for name, rows in chosen.items()}
    if any(True for _ in original.backbone.parameters()):
        dense = "rows of touched nodes, and dense weights"
        models[dense] = replace(models["rows of touched nodes"], backbone=target.backbone)
    # Which part of a row gives it away: its length, or its direction.
    models["lengths of touched rows"] = _with_lengths(models["rows of touched nodes"], original, touched)
    return models


def _with_rows(original: Model, target: Model, request: Pairs, rows: Tensor) -> Model:
    cut = cut_edges(original, request)
    e0 = original.e0.clone()
    e0[rows] = target.e0[rows]
    return Model(cut.graph, e0, original.backbone)


def _with_lengths(exact: Model, original: Model, rows: Tensor) -> Model:
    """The rows of the original, each as long as in `exact`."""
    e0 = original.e0.clone()
    e0[rows] *= (exact.e0[rows].norm(dim=1) / e0[rows].norm(dim=1).clamp(min=1e-12))[:, None]
    return Model(exact.graph, e0, original.backbone)


def _neighbours(model: Model, rows: Tensor) -> Tensor:
    """The rows of all neighbours of these rows, in the model's graph."""
    marked = model.e0.new_zeros((len(model.e0), 1))
    marked[rows] = 1
    return torch.nonzero(model.graph.neighbour_means(marked)[:, 0] > 0)[:, 0]


def _attacked(scenario: Scenario) -> AttackedPairs:
    """The pairs of a scenario, as `audit` chooses them."""
    data = scenario.lab.data
    rest = Interactions(data.users, data.items, data.num_items).without(scenario.request)
    return attacked_pairs(rest, scenario.request, (data.test_users, data.test_items), seed=0)


# ---- canaries --------------------------------------------------------------------------------------------------------


def on_canaries(plan: Plan, lab: Lab) -> list[str]:
    """The parts of the results file about runs on canaries."""
    data = lab.data
    canaries = draw_canaries(data.users, data.items, data.num_items, plan.canaries, seed=lab.seed)
    inside = balanced_halves(len(canaries), plan.runs, seed=lab.seed)
    original = lab.train()
    pool = _sorted(canaries.pairs)
    target = lab.train(pool)
    floors = [lab.train(pool, seed=lab.seed + 1 + n) for n in range(plan.other_seeds)]
    retrained, *others = (_statistics(canaries, model)[0] for model in (target, *floors))
    prepared = []
    for name in plan.methods:
        method = METHODS[name]()
        method.prepare(lab, original)
        prepared.append((name, partial(method.forget, lab)))
    told: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    with open_progress().task("runs on canaries", plan.runs) as task:
        for number in range(plan.runs):
            request = _sorted(canaries.pairs_of(inside[number]))
            run = lab.train(_sorted(canaries.pairs_of(~inside[number])))
            models = {BEFORE: run} | {name: forget(run, request) for name, forget in prepared}
            models |= with_rows_of(run, target, request)
            for name, model in models.items():
                told.setdefault(name, []).append(_statistics(canaries, model, target))
            task.advance()
    runs = {
        name: Runs(canaries, inside, *(np.array([one[part] for one in every]) for part in (0, 1)))
        for name, every in told.items()
    }
    found = {name: attack_runs(one, retrained, others, runs[BEFORE]) for name, one in runs.items()}
    kinds = ", ".join(f"{size} {name}" for name, size in _sizes(runs[BEFORE]).items())
    parts = [
        f"{plan.runs} runs with seed {lab.seed}, each without a random half of {len(canaries):,} canaries "
        f"({len(canaries.pairs[0]):,} interactions; groups: {kinds}), which then forgot the other half."
    ]
    for name in ATTACKS_ON_CANARIES:
        rows = [{"model": model, **{g: _of_runs(t) for g, t in of[name].items()}} for model, of in found.items()]
        first = next(iter(found.values()))[name]
        rows.append({"model": RETRAINED} | {group: f"{t.told.retrained:.3f}" for group, t in first.items()})
        rows.append({"model": "floor"} | {group: f"{t.told.floor:.3f}" for group, t in first.items()})
        parts += [f"### {name}", results_file.table(rows)]
    return parts


def _sizes(runs: Runs) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in runs.groups().items()}


def _of_runs(found: ToldOfRuns) -> str:
    rates = "".join(
        f"; TPR {value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}] at {rate:g}"
        for rate in RATES
        if (value := found.rates.get(rate)) is not None
    )
    return _cell(found.told) + rates


def _statistics(canaries: Canaries, model: Model, target: Model | None = None) -> tuple[np.ndarray, np.ndarray]:
    """target: a model whose graph is the one that the attacker knows; None: the model's own."""
    return canaries.statistics(view_of(model, (target or model).graph))


def _sorted(pairs: Pairs) -> Pairs:
    order = np.lexsort((pairs[1], pairs[0]))
    return pairs[0][order], pairs[1][order]


if __name__ == "__main__":
    main()
