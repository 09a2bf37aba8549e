"""A recipe for a table of a given size, from those that were measured (docs/log.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SMALL = 300_000
"""Fewer interactions get the default recipe, which was measured with 98,000."""
DENSE = 60
"""Interactions a user, between MovieLens-1M (119) and Gowalla (27): which of their two recipes is nearer."""
LARGE = 2_000_000
"""Twice what the recipes were measured with; they are only a start from here on."""


@dataclass(frozen=True)
class Setting:
    """A value, and why."""

    value: Any
    why: str = ""


def fit_recipe(users: int, interactions: int, cpus: int) -> Mapping[str, Mapping[str, Setting]]:
    """Settings by section and key, for LightGCN."""
    chosen: dict[str, dict[str, Setting]] = {"cluster": {"partitions": _partitions(interactions, cpus)}}
    size = Setting(64, "The size that the measured recipes have. Memory and time grow with it.")
    if interactions < SMALL:
        chosen["backbone"] = {"name": Setting("lightgcn"), "embedding_size": size, "num_layers": Setting(3)}
        chosen["train"] = {
            "epochs": Setting(30, f"The default recipe, which suits fewer than {SMALL:,} interactions."),
            "batch_size": Setting(16384, "Every step passes over the whole graph, so large batches pay."),
            "learning_rate": Setting(0.01),
            "loss": Setting("bpr"),
        }
        return chosen
    dense = interactions >= DENSE * max(users, 1)
    nearest = (
        "MovieLens-1M, which has 119 interactions a user" if dense else "Gowalla, which has 27 interactions a user"
    )
    why = f"Sampled softmax, the recipe of {nearest}."
    if interactions >= LARGE:
        why += " Your table is larger than any it was measured with, so it is only a start."
    chosen["backbone"] = {
        "name": Setting("lightgcn"),
        "embedding_size": size,
        "num_layers": Setting(2),
        "length_power": Setting(
            0.4, "Softmax trains directions only; this gives popular items the weight that was best."
        ),
    }
    chosen["train"] = {
        "epochs": Setting(12 if dense else 10, why),
        "batch_size": Setting(
            8192 if dense else 16384, "Every step passes over the whole graph, so large batches pay."
        ),
        "learning_rate": Setting(0.004 if dense else 0.003),
        "loss": Setting("softmax"),
        "initial_deviation": Setting(0.01),
        "l2": Setting(1e-5),
        "softmax_temperature": Setting(0.15 if dense else 0.1),
        "softmax_negatives": Setting(128 if dense else 512),
    }
    return chosen


def _partitions(interactions: int, cpus: int) -> Setting:
    if interactions < SMALL:
        number = min(2, cpus)
        return Setting(
            number, f"Enough for so small a table; this machine has {cpus} CPUs. One worker holds one partition."
        )
    number = min(cpus, 1024)
    return Setting(number, f"One for each of the {cpus} CPUs that this machine has. One worker holds one partition.")
