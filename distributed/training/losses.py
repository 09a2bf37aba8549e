"""The training losses, each with its gradient with respect to the readouts of a batch.

Shape legend: B = pairs of the batch on this rank, M = shared negatives, D = columns of the readout, A = anchors of a
contrastive loss over all ranks, a = those on this rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class PairGradients:
    """The loss of each pair, float64 [B], and the gradients of `scale` times their sum with respect to the readouts: of
    the users and positives [B, D], and of the M negatives [M, D] that the batch shares."""

    loss_B: Tensor
    user_BD: Tensor
    positive_BD: Tensor
    negative: Tensor


def bpr(positive_B: Tensor, negative_B: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """-log sigmoid(s_positive - s_negative) (Rendle et al., UAI 2009) of the scores [B] of pairs.

    Returns (the loss of each pair, float64 [B]; the derivative of `scale` times their sum by the score of each negative
    [B], whose opposite is that by the score of the positive).

    A pair gets the same bits wherever it stands in the batch. torch's exp has this property. Its float32 sigmoid and
    softplus do not: they round the last elements of an array differently.
    """
    margin_B = (negative_B - positive_B).to(torch.float64)
    small_B = torch.exp(-margin_B.abs())
    loss_B = margin_B.clamp(min=0) + torch.log1p(small_B)
    sigmoid_B = torch.where(margin_B >= 0, torch.ones_like(small_B), small_B) / (small_B + 1)
    return loss_B, (sigmoid_B * scale).to(positive_B.dtype)


def sampled_softmax(
    user_BD: Tensor, positive_BD: Tensor, negative_MD: Tensor, temperature: float, scale: float
) -> PairGradients:
    """Sampled softmax: -log of the positive's softmax probability among itself and M shared negatives. The logits are
    cosines divided by the temperature.

    SimpleX and BSL use losses of this kind (Mao et al., CIKM 2021; Wu et al., ICDE 2024). Negatives are drawn
    independently of the batch, so that removing an interaction does not change the negatives of others.
    """
    leaves = [x.detach().requires_grad_() for x in (user_BD, positive_BD, negative_MD)]
    with torch.enable_grad():
        user, positive, negative = (functional.normalize(x, dim=1) for x in leaves)
        logits_B1 = (user * positive).sum(1, keepdim=True) / temperature
        logits_BM = user @ negative.T / temperature
        loss_B = torch.logsumexp(torch.cat([logits_B1, logits_BM], dim=1), dim=1) - logits_B1[:, 0]
        gradients = torch.autograd.grad(loss_B.sum() * scale, leaves)
    return PairGradients(loss_B.detach().to(torch.float64), *gradients)
