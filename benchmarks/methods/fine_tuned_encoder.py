"""The Influence Encoder, and then some training steps of the touched rows, as `forget.fine_tune_steps` and the gate do."""

from ...distributed.training.fine_tune import fine_tune
from ...distributed.training.trainer import TrainSettings
from ..lab import Lab, Model, Pairs
from .base import fresh_epoch
from .encoder import CounterfactualEncoder

STEPS = 50
"""The default of `forget.gate_fine_tune_steps`."""


class FineTunedEncoder(CounterfactualEncoder):
    """STEPS training steps on the remaining interactions after the encoder. Only the touched rows of E0 change."""

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        model = super().forget(lab, original, request)
        settings = TrainSettings(seed=lab.seed, total_pairs=len(lab.data.users), **lab.recipe.train)
        epoch = fresh_epoch(lab, model)
        rows = model.rows(request)
        return Model(
            model.graph,
            fine_tune(model.graph, model.backbone, model.e0, rows, settings, epoch, STEPS),
            model.backbone,
        )
