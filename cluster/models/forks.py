"""The files of the runs that a pre-training forks from the training, so that they cost a part of it.

A forked run begins at a state that the training keeps on its way: it goes on without a simulated request, with the rows and
moments that the training had after that epoch (docs/encoder.md).
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from typing import Any

from ...distributed.encoder.forks import Fork
from ...distributed.training.run import Kept
from ...partitioning.halo import chosen
from ...partitioning.manifest import Graph
from ..config.schema import Config
from ..layout import pretraining_folder
from ..output.ingests import graph_key

STATE = "after-epoch-"
"""The folder of a kept state, under that of the runs, begins so."""


def runs_folder(config: Config, graph: Graph, seed: int, train: Mapping[str, Any], backbone: Mapping[str, Any]) -> str:
    """The folder of the runs on which encoders of a model are fitted. Its name depends on the graph and on every setting of
    the model's training: `seed`, the section `train`, `backbone`. It depends on nothing else: a setting of the fit or of
    `serve` that is changed, or is new in a later release, does not begin the runs anew."""
    halo = chosen(config.partitioning.halo, graph.rows_per_layer)
    trained = {"seed": seed, "train": train, "backbone": backbone, "halo": halo}
    if config.cluster.exchange_dtype != "float32":
        trained["exchange_dtype"] = config.cluster.exchange_dtype
    key = json.dumps([graph.document(), trained], sort_keys=True)
    return pretraining_folder(graph_key(graph), hashlib.sha256(key.encode()).hexdigest()[:16])


def kept_by_original(folder: str, fork: Fork) -> tuple[Kept, Kept]:
    """What a training keeps for the runs in this folder (`runs_folder`): its state, from which they are forked, and its rows
    half way from there to the end."""
    return (
        Kept(fork.after, f"{folder}/{STATE}{fork.after:05d}"),
        Kept(fork.halfway, f"{folder}/{STATE}{fork.halfway:05d}-rows", moments=False),
    )


def kept_by_fork(place: str, fork: Fork) -> Kept:
    """What a forked run keeps. place: its folder."""
    return Kept(fork.halfway, f"{place}/halfway", moments=False)


def is_of_state(name: str) -> bool:
    """Whether the file of this name belongs to a kept state."""
    return posixpath.basename(posixpath.dirname(name)).startswith(STATE)
