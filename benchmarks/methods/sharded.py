"""Train one model for each shard of users, and retrain only the models that a request affects, as SISA and RecEraser do."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...distributed.graph.keyed import PAIRS, keyed_below
from ..lab import NOTHING, Data, Lab, Model, Pairs
from .base import Method

SHARDS = 5


@dataclass
class Ensemble(Model):
    """The models of all shards as one model. Its readouts are those of the shards, concatenated. The part of a shard is zero
    for nodes that the shard does not have, so the scores of a user are those of the user's shard. Its E0 is the mean of
    those of the shards that have the node."""

    parts: tuple[Model, ...] = ()

    @cached_property
    def readout(self) -> Tensor:
        return torch.cat([m.readout * (m.graph.degrees > 0)[:, None] for m in self.parts], dim=1)


class Sharded(Method):
    """SHARDS models, with which `forget` begins instead of the original. A request retrains those of its users' shards."""

    def start(self, lab: Lab, original: Model) -> Model:
        return self._ensemble(lab, original, NOTHING)

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return self._ensemble(lab, original, request)

    def _ensemble(self, lab: Lab, original: Model, request: Pairs) -> Model:
        shard_of = keyed_below(SHARDS, lab.seed, PAIRS, torch.arange(lab.data.num_users)).numpy()
        parts = []
        for k in range(SHARDS):
            mine, gone = shard_of[lab.data.users] == k, shard_of[request[0]] == k
            part: Data = replace(lab.data, users=lab.data.users[mine], items=lab.data.items[mine])
            parts.append(lab.with_data(part).train((request[0][gone], request[1][gone])))
        seconds = float(np.sum([m.seconds for m in parts]))
        held = torch.stack([(m.graph.degrees > 0)[:, None].to(m.e0.dtype) for m in parts])
        # An attacker who has the ensemble's files sees these rows, and none of the original.
        e0 = (held * torch.stack([m.e0 for m in parts])).sum(0) / held.sum(0).clamp(min=1)
        return Ensemble(lab.graph(request), e0, original.backbone, seconds, tuple(parts))
