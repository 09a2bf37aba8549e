"""The validation split: a share of each user, the same for any number of partitions; and when it ends a run."""

import numpy as np
import pytest
import torch

from unlearnrec.distributed.training.run import Probe, first_best
from unlearnrec.distributed.training.validation import validation_pairs, validation_users


def interactions() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    table = rng.random((400, 120)) < rng.uniform(0.005, 0.4, (400, 1))
    users, items = np.nonzero(table)
    return torch.from_numpy(users), torch.from_numpy(items)


def test_each_chosen_user_loses_its_share_and_keeps_one():
    users, items = interactions()
    chosen = torch.arange(400) % 3 > 0
    held = validation_pairs(users, items, 5, 0.2, chosen)
    whole = set(zip(users.tolist(), items.tolist(), strict=True))
    assert set(zip(*(x.tolist() for x in held), strict=True)) < whole
    degrees, lost = (torch.bincount(x, minlength=400) for x in (users, held[0]))
    assert (lost[~chosen] == 0).all()
    exact = 0.2 * degrees[chosen]
    assert ((lost[chosen] >= exact.floor()) & (lost[chosen] <= exact.ceil()) | (degrees[chosen] <= 1)).all()
    assert (lost <= (degrees - 1).clamp(min=0)).all()
    assert lost.sum() == pytest.approx(float(exact.sum()), rel=0.05)


def test_the_draw_is_keyed_by_user_and_item():
    users, items = interactions()
    everybody = torch.ones(400, dtype=torch.bool)

    def codes(*parts: tuple[torch.Tensor, torch.Tensor]) -> set[int]:
        return {int(u) * 1000 + int(i) for part in parts for u, i in zip(*part, strict=True)}

    whole = codes(validation_pairs(users, items, 5, 0.2, everybody))
    half = users < 200
    parts = [validation_pairs(users[x], items[x], 5, 0.2, everybody) for x in (half, ~half)]
    assert codes(*parts) == whole
    assert codes(validation_pairs(users, items, 6, 0.2, everybody)) != whole


def test_users_are_chosen_by_share_or_number():
    assert validation_users(10_000, 1, 0.25).sum() == pytest.approx(2500, rel=0.05)
    assert validation_users(10_000, 1, 400).sum() == pytest.approx(400, rel=0.15)
    assert validation_users(100, 1, 400).all()


def test_patience_counts_evaluations_without_a_better_one():
    nothing = np.empty(0, dtype=np.int64)
    probe = Probe(1, nothing, nothing, (20,), 10, "ndcg@20", patience=2)
    curve: list[dict[str, float]] = []
    over = []
    for value in (0.1, 0.3, 0.2, 0.3, 0.25):
        curve += [{"epoch": 0.0}, {"epoch": 0.0, "ndcg@20": value}]
        over.append(probe.is_over(curve))
    assert over == [False, False, False, True, True]
    assert first_best([0.1, 0.3, 0.2, 0.3]) == 2
