"""The training's loss as a function of E0, for methods that need its gradient and its curvature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...distributed.training.batch import batches
from ...distributed.training.trainer import Trainer, TrainSettings
from ..lab import Lab, Model

Operator = Callable[[Tensor], Tensor]
"""A symmetric linear map of tensors [N, d]."""
STEP = 0.01
"""The step of `curvature`, as a share of the length of the point."""


class Objective:
    """The mean loss of a model's interactions and L2, with draws that stay the same from call to call.

    The draws are those of one epoch: each batch has its own negatives. The rows are computed once for all batches, so one
    gradient costs one propagation and not one for each batch. The contrastive term of self-supervised backbones is left
    out; dense weights do not change.
    """

    def __init__(self, lab: Lab, model: Model, epoch: int, share: float = 1.0) -> None:
        """epoch: it keys the draws. share: of the batches, the first ones, that are looked at; at least one."""
        settings = TrainSettings(seed=lab.seed, total_pairs=len(lab.data.users), **lab.recipe.train)
        self._graph, self._backbone = model.graph, model.backbone
        self._trainer = Trainer(model.graph, model.backbone, settings, start=model.e0)
        self._trainer.epoch = epoch
        count = max(1, round(share * settings.num_batches))
        found = batches(model.graph, settings.seed, epoch, settings.num_batches)
        self._batches = [batch for number, batch in enumerate(found) if number < count]
        self._weight, self._l2 = 1.0 / count, settings.l2 * settings.scale

    def gradient(self, e0: Tensor) -> Tensor:
        """The gradient [N, d] at e0 [N, d]."""
        leaf = e0.detach().requires_grad_()
        rows = self._backbone(leaf, self._graph.propagation)
        total = torch.zeros_like(rows)
        occurrences = torch.zeros(len(rows), 1, device=rows.device, dtype=rows.dtype)
        for number, batch in enumerate(self._batches):
            gradient, times, _ = self._trainer.pair_gradients(rows.detach(), batch, number)
            total += gradient
            occurrences += times[:, None]
        found: Tensor = torch.autograd.grad(rows, leaf, total)[0]
        return self._weight * (found + self._l2 * occurrences * e0)


def curvature(gradient: Operator, point: Tensor) -> Operator:
    """The Hessian at `point` [N, d] of the function with this gradient, as a map of directions [N, d].

    It is the central difference of two gradients, which needs nothing but them, whatever the backbone and its loss. It is
    exact for quadratic functions.
    """
    length = float(point.norm())

    def apply(direction: Tensor) -> Tensor:
        step = STEP * length / max(float(direction.norm()), 1e-30)
        ahead, behind = gradient(point + step * direction), gradient(point - step * direction)
        return (ahead - behind) / (2 * step)

    return apply


def solve(operator: Operator, target: Tensor, steps: int, tolerance: float = 1e-9) -> Tensor:
    """x with operator(x) = target, both [N, d], by at most `steps` steps of conjugate gradients from zero.

    It ends early where the residual is `tolerance` of the target's length, and where the operator is not positive along a
    direction, as a Hessian far from a minimum may be: then with what it has, or with the target itself if that is nothing.
    """
    x, residual = torch.zeros_like(target), target.clone()
    direction, size = residual.clone(), float((residual**2).sum())
    goal = tolerance**2 * size
    for step in range(steps):
        if size <= goal:
            break
        image = operator(direction)
        bend = float((direction * image).sum())
        if bend <= 0:
            return target.clone() if step == 0 else x
        x += size / bend * direction
        residual -= size / bend * image
        before, size = size, float((residual**2).sum())
        direction = residual + size / before * direction
    return x
