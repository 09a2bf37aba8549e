"""Which runs a pre-training makes, and where they begin."""

from __future__ import annotations

import math

from ...distributed.encoder.forks import Fork
from ...distributed.encoder.pretrain import stays_whole
from ..config.schema import Config

CARRY_SHARE = 0.1
"""The part of a training that the run takes by which a carried encoder is checked. It is two epochs at least, between which
the growth of a fork can be seen."""


def fork_of(config: Config) -> Fork | None:
    """Where counterfactual runs of a pre-training are forked from the training, but for those that are whole trainings in
    any case (`run_lengths`). None: all are whole, or there are none."""
    if config.pretrain.objective != "counterfactual":
        return None
    return Fork.of(config.train.epochs, config.pretrain.fork)


def run_lengths(config: Config) -> list[int]:
    """The epochs of each counterfactual run of a pre-training."""
    if config.pretrain.objective != "counterfactual":
        return []
    epochs, fork = config.train.epochs, fork_of(config)
    forked = epochs if fork is None else epochs - fork.after
    return [epochs if stays_whole(number) else forked for number in range(config.pretrain.counterfactuals)]


def carry_fork_of(config: Config) -> Fork | None:
    """Where the run is forked from the training by which a carried encoder is checked. None: no encoder is carried over,
    since the configuration says so, or since the training is so short that it would hardly be cheaper."""
    pretrain, epochs = config.pretrain, config.train.epochs
    if pretrain.objective != "counterfactual" or not pretrain.carry:
        return None
    length = max(2, math.ceil(CARRY_SHARE * epochs))
    if length >= epochs or 2 * length > sum(run_lengths(config)):
        return None
    return Fork(epochs, epochs - length, epochs - length + length // 2)
