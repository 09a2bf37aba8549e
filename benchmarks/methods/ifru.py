"""An influence function of the whole model: IFRU (Zhang et al., "Recommendation Unlearning via Influence Function", ACM
Transactions on Recommender Systems 3(2), 2024)."""

from __future__ import annotations

from itertools import product

from torch import Tensor

from ..lab import Lab, Model, Pairs
from .base import Method, calibrate, cut_edges, fresh_epoch, with_change
from .objective import Objective, Operator, curvature, solve

DAMPINGS = (0.01, 0.1, 1.0)
SCALES = tuple(2.0**step for step in range(-2, 4))
STEPS = 10
"""Steps of conjugate gradients."""
SHARE = 0.25
"""The share of the interactions on which the curvature is computed."""
KEPT = 0.5
"""The share of the neighbours of touched nodes whose rows may change."""


class Ifru(Method):
    """One Newton step of all rows that matter, with the training's own loss.

    A request changes the loss in two ways: its interactions leave the sum (direct influence), and the readouts in the loss
    of all others are computed without its edges (spillover). Together that is the difference of two losses, of the
    remaining interactions on the graph without the request and of all interactions on the graph before. E0 moves by minus
    the inverse Hessian times the gradient of this difference; conjugate gradients find it from products of the Hessian
    with vectors. To the Hessian a multiple of the identity is added, since the training ends before a minimum. Rows of
    little importance are pruned: they stay as they are.

    Unlike `InfluenceFunction`, which takes each node by itself with a logistic loss, the rows are coupled and the
    neighbours' loss counts. The damping, and a factor for the whole step, are chosen on a simulated request. The Hessian is
    that of the remaining interactions, which makes the step exact for a quadratic loss; the paper has that of all.
    """

    def prepare(self, lab: Lab, original: Model) -> None:
        made: dict[float, tuple[Model, Tensor]] = {}

        def apply(choice: tuple[float, float], request: Pairs) -> Model:
            damping, scale = choice
            if damping not in made:
                model = cut_edges(original, request)
                made[damping] = model, self._step(lab, original, model, request, damping)
            model, step = made[damping]
            return with_change(model, scale * step)

        self.damping, self.scale = calibrate(lab, original, apply, list(product(DAMPINGS, SCALES)))

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        model = cut_edges(original, request)
        return with_change(model, self.scale * self._step(lab, original, model, request, self.damping))

    def _step(self, lab: Lab, original: Model, model: Model, request: Pairs, damping: float) -> Tensor:
        """The step [N, d], before it is scaled. model: the original without the edges of the request."""
        epoch = fresh_epoch(lab, model)
        before, after = (Objective(lab, m, epoch).gradient for m in (original, model))
        bend = curvature(Objective(lab, model, epoch, SHARE).gradient, original.e0)
        return newton_step(original.e0, before, after, bend, important_rows(original, model, request), damping)


def newton_step(
    e0: Tensor, before: Operator, after: Operator, bend: Operator, free: Tensor, damping: float, steps: int = STEPS
) -> Tensor:
    """The step [N, d] from e0, a minimum of the loss with the gradient `before`, towards one of that with `after`.

    bend: the Hessian. free [N, 1]: 1 for rows that may change, 0 for others. damping: what is added to the Hessian, in units
    of its mean along the gradient.
    """
    gradient = free * (after(e0) - before(e0))

    def restricted(direction: Tensor) -> Tensor:
        return free * bend(free * direction)

    along = float((gradient * restricted(gradient)).sum() / (gradient**2).sum().clamp(min=1e-30))
    return -solve(lambda x: restricted(x) + damping * abs(along) * x, gradient, steps)


def important_rows(original: Model, model: Model, request: Pairs) -> Tensor:
    """1 for rows that may change, 0 for others, [N, 1]: the touched ones, and the KEPT share of their neighbours to which
    most of the request's weight spreads. The weight of a touched node is the share of its interactions that it loses."""
    degrees = original.graph.degrees.clamp(min=1)
    weight = ((original.graph.degrees - model.graph.degrees) / degrees)[:, None].to(original.e0.dtype)
    free = (weight > 0).to(original.e0.dtype)
    spread = model.graph.propagation(weight) * (1 - free)
    reached = spread[spread > 0]
    count = round(KEPT * len(reached))
    if count:
        free[spread >= reached.topk(count).values[-1]] = 1
    return free
