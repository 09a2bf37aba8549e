"""Nothing that is infinite or NaN may become a part of a version."""

from collections.abc import Iterable

import torch
from torch import Tensor


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers of these tensors, of any shape, are finite. Allocates nothing of their size."""
    # The extremes of a tensor with a NaN are NaN.
    extremes = [end for x in tensors if x.numel() for end in torch.aminmax(x.detach())]
    return all(bool(torch.isfinite(end)) for end in extremes)


def scores_are_finite(z: Tensor) -> bool:
    """Whether the score of every pair of these readouts [N, D] is finite: it is at most the largest squared length."""
    return are_finite([torch.linalg.vector_norm(z, dim=1).square()]) if len(z) else True
