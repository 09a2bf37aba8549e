"""Measure quality against epochs and seconds for each backbone with its recipe. A YAML file says which (`--config`).

It runs in this process with one partition, on a GPU if there is one. The number of epochs is set beforehand; nothing is
chosen on the test interactions. The curve of a finished run is kept under `--work`, and the results file is written again
after every run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from ..cluster.config.section import Section
from ..cluster.reporting.screen import open_progress
from ..distributed.training.checkpoint import Checkpoints
from ..distributed.training.run import Probe, TrainRun, run_training
from ..distributed.training.trainer import TrainSettings
from ..partitioning.storage import Store
from . import results_file
from .lab import Lab, Recipe
from .unlearning import add_device, read_data, read_section, recipe_of

K = 20


class Recipes(Section):
    """What is trained: the file of `--config`."""

    name: str
    """The name of the data set, for the results file."""
    backbones: dict[str, dict[str, Any]] = Field(min_length=1)
    """The backbones by title, as in the configuration of `bench unlearning`."""
    epochs: int = Field(ge=1)
    published: dict[str, str] = Field(default_factory=dict)
    """By the title of a backbone, what is published for it on this split, with the source; for the results file."""


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench training", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="such as benchmarks/matrices/gowalla-training.yaml")
    parser.add_argument("--train", required=True, help="Parquet with user_id and item_id")
    parser.add_argument("--test", required=True)
    parser.add_argument("--work", required=True, type=Path, help="folder that keeps the curves")
    parser.add_argument("--results", type=Path)
    add_device(parser)
    arguments = parser.parse_args(argv)
    recipes = read_section(arguments.config, Recipes)
    results = arguments.results or results_file.FOLDER / f"training-{recipes.name}.md"
    data, store = read_data(arguments.train, arguments.test), Store(str(arguments.work))
    parts: list[str] = []
    with open_progress().task("runs", len(recipes.backbones)) as task:
        for title, overrides in recipes.backbones.items():
            recipe = recipe_of(recipes.epochs, overrides)
            curve = _curve(Lab(store, data, recipe, device=arguments.device))
            parts.append(_part(title, recipe, curve, recipes.published.get(title)))
            results_file.write(results, f"Training on {recipes.name}", parts)
            task.advance()


def _curve(lab: Lab) -> list[dict[str, float]]:
    """Loss, seconds and quality after each epoch of the run, made now unless they are in the store."""
    store, data, recipe = lab.store, lab.data, lab.recipe
    name = f"curves/{lab.digest([K])}"
    if not store.exists(f"{name}.json"):
        settings = TrainSettings(seed=lab.seed, total_pairs=len(data.users), **recipe.train)
        probe = Probe(1, data.test_users, data.test_items, (K,), 1024)
        run = TrainRun(settings, recipe.backbone, recipe.epochs, name, probe=probe)
        _, curve = run_training(lab.graph(), run, Checkpoints(store, name), lambda **_: None)
        store.write(f"{name}.json", json.dumps(curve).encode())
    found: list[dict[str, float]] = json.loads(store.read(f"{name}.json"))
    return found


def _part(title: str, recipe: Recipe, curve: list[dict[str, float]], published: str | None) -> str:
    """The part of the results file about one backbone."""
    rows = [
        {
            "epoch": int(entry["epoch"]),
            "seconds": round(entry["seconds"], 1),
            "loss": entry["loss"],
            f"Recall@{K}": entry[f"recall@{K}"],
            f"NDCG@{K}": entry[f"ndcg@{K}"],
        }
        for entry in curve
    ]
    described = f"Backbone {recipe.backbone}, train {recipe.train}."
    compared = [f"Published on this split: {published}"] if published else []
    return "\n\n".join([f"## {title}", described, results_file.table(rows), *compared])


if __name__ == "__main__":
    main()
