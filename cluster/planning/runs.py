"""Which runs a pre-training makes, and where they begin."""

from __future__ import annotations

from ...distributed.encoder.forks import Fork
from ..config.schema import Config


def fork_of(config: Config) -> Fork | None:
    """Where the counterfactual runs of a pre-training are forked from the training. None: they are whole trainings, or there
    are none."""
    if config.pretrain.objective != "counterfactual":
        return None
    return Fork.of(config.train.epochs, config.pretrain.fork)
