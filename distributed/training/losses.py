"""The training losses, each with its gradient with respect to the readouts of a batch.

Shape legend: B = pairs of the batch on this rank, M = shared negatives, D = columns of the readout, A = anchors of a
contrastive loss over all ranks, a = those on this rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SOFTMAX_CELLS = 2**20
"""Logits of the softmax that are held at once: 4 MiB in float32, which stay in a cache of the CPU, whatever the batch."""
_LEAST_LENGTH = 1e-12
"""Shorter rows count as so long, so that a row of zeros has a cosine."""


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
    user_BD: Tensor,
    positive_BD: Tensor,
    negative_MD: Tensor,
    temperature: float,
    scale: float,
    cells: int = SOFTMAX_CELLS,
) -> PairGradients:
    """Sampled softmax: -log of the positive's softmax probability among itself and M shared negatives. The logits are
    cosines divided by the temperature.

    SimpleX and BSL use losses of this kind (Mao et al., CIKM 2021; Wu et al., ICDE 2024). Negatives are drawn
    independently of the batch, so that removing an interaction does not change the negatives of others.

    At most `cells` logits are held at once, those of a chunk of pairs (but at least of one pair). The gradients are written
    out and not left to autograd, which would keep several matrices [B, M].
    """
    loss_B = torch.empty(len(user_BD), dtype=torch.float64, device=user_BD.device)
    user_grad_BD, positive_grad_BD = torch.empty_like(user_BD), torch.empty_like(positive_BD)
    negative_grad_MD = torch.zeros_like(negative_MD)
    negative_hat_MD, negative_length_M1 = _directions(negative_MD)
    pairs = max(1, cells // max(1, len(negative_MD)))
    for start in range(0, len(user_BD), pairs):
        chunk = slice(start, start + pairs)
        # Shapes of a chunk: b = its pairs. The matrix weights_bM is made in place: logits, then their exponentials.
        user_hat, user_length = _directions(user_BD[chunk])
        positive_hat, positive_length = _directions(positive_BD[chunk])
        positive_b1 = (user_hat * positive_hat).sum(1, keepdim=True) / temperature
        weights_bM = (user_hat @ negative_hat_MD.T).div_(temperature)
        largest_b1 = torch.maximum(weights_bM.amax(1, keepdim=True), positive_b1)
        weights_bM.sub_(largest_b1).exp_()
        positive_weight_b1 = (positive_b1 - largest_b1).exp()
        total_b1 = weights_bM.sum(1, keepdim=True) + positive_weight_b1
        loss_B[chunk] = (largest_b1 - positive_b1 + total_b1.log())[:, 0].to(torch.float64)
        # The gradient of a logit is its probability, less 1 for the positive's.
        share_b1 = (scale / temperature) / total_b1
        other_b1 = share_b1 * (positive_weight_b1 - total_b1)
        towards_user = share_b1 * (weights_bM @ negative_hat_MD) + other_b1 * positive_hat
        negative_grad_MD.addmm_(weights_bM.T, share_b1 * user_hat)
        user_grad_BD[chunk] = _through_directions(towards_user, user_hat, user_length)
        positive_grad_BD[chunk] = _through_directions(other_b1 * user_hat, positive_hat, positive_length)
    negative_grad = _through_directions(negative_grad_MD, negative_hat_MD, negative_length_M1)
    return PairGradients(loss_B, user_grad_BD, positive_grad_BD, negative_grad)


def _directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows [n, D] at length 1, their lengths [n, 1])."""
    length = x.norm(dim=1, keepdim=True).clamp(min=_LEAST_LENGTH)
    return x / length, length


def _through_directions(gradient: Tensor, hat: Tensor, length: Tensor) -> Tensor:
    """The gradient [n, D] with respect to rows, from that with respect to their directions `hat`."""
    return (gradient - (gradient * hat).sum(1, keepdim=True) * hat) / length
