"""Fine-tuning after a request: a few training steps on the remaining interactions, which change only the touched
rows."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from ..backbones import Backbone
from ..graph.local_graph import LocalGraph
from .batch import batches
from .trainer import Trainer, TrainSettings


def fine_tune(
    graph: LocalGraph, backbone: Backbone, e0: Tensor, rows: Tensor, settings: TrainSettings, epoch: int, steps: int
) -> Tensor:
    """E0 [N, d] after `steps` training steps on the interactions of `graph`. All ranks call it, also with no rows to
    change.

    rows int64: the local rows that may change; dense weights do not change. epoch: keys the draws; an epoch that no
    training used. Adam's moments start at zero, so that a row whose gradient is always zero stays exactly as it is.
    """
    trainer = Trainer(graph, copy.deepcopy(backbone), settings, start=e0)
    trainer.epoch = epoch
    free = torch.zeros(len(e0), 1, device=e0.device)
    free[rows] = 1
    # A draw may name an item that was deleted: those that are there take its place.
    alive = torch.cat(graph.comm.all_gather(graph.item_ids)).sort().values
    done = 0
    while done < steps:
        for number, batch in enumerate(batches(graph, settings.seed, trainer.epoch, settings.num_batches)):
            if done == steps:
                break
            trainer.step(replace(batch, negatives=alive[batch.negatives % len(alive)]), number, free)
            done += 1
        trainer.epoch += 1
    return trainer.table.rows.clone()
