"""Fine-tuning: go on with the training on the remaining interactions for a few epochs, in which all rows may change."""

import copy

from ...distributed.training.table import Table
from ...distributed.training.trainer import Trainer, TrainSettings
from ..lab import Lab, Model, Pairs
from .base import Method, cut_edges

EPOCHS = 1


class FineTune(Method):
    """EPOCHS epochs on the remaining interactions, from the original's parameters. The optimizer's moments begin at zero,
    and the draws are those of an epoch that the training did not have."""

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        model = cut_edges(original, request)
        settings = TrainSettings(seed=lab.seed, total_pairs=len(lab.data.users), **lab.recipe.train)
        trainer = Trainer(model.graph, copy.deepcopy(original.backbone), settings)
        trainer.table = Table(original.e0.clone(), settings.learning_rate)
        trainer.epoch = lab.recipe.epochs
        for _ in range(EPOCHS):
            trainer.run_epoch()
        return Model(model.graph, trainer.table.rows.clone(), trainer.backbone)
