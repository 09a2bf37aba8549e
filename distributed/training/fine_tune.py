"""Fine-tuning after a request: a few training steps on what is left, in which only the touched rows may move."""

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
    """E0 [N, d] after `steps` steps on the interactions of `graph`; all ranks call it, with or without rows of their own.

    rows int64: the local rows that may change. Dense weights do not. `epoch` keys the draws: one that no training used.
    Moments start at zero, so that Adam leaves a row whose gradient is always zero exactly as it is.
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
