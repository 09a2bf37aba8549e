"""The encoder in the paper's form: local, the same for any number of partitions, and it lowers what it should."""

import pytest
import spmd
import torch

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.launch import run_processes

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def alone():
    return [spmd.published(Comm(), {})]


def test_only_the_requests_nodes_change(alone):
    users, items = spmd.pairs()
    named = set(users[:5].tolist()) | {spmd.USERS + i for i in items[:5].tolist()}
    moved = torch.nonzero((spmd.whole(alone, "rows") != spmd.whole(alone, "before")).any(1))[:, 0]
    assert set(moved.tolist()) == named
    assert not alone[0]["fresh"].any()


def test_two_partitions_train_the_same_encoder(alone):
    results = run_processes(2, spmd.published, {})
    for name in ("h0", "rows"):
        assert (spmd.whole(results, name) - spmd.whole(alone, name)).abs().max() < TOLERANCE
    assert spmd.whole(results, "h0").abs().max() > 10 * TOLERANCE


def test_the_forget_weight_lowers_the_scores_of_forgotten_pairs(alone):
    """And without it nothing pulls them down as far."""
    users, items = (torch.from_numpy(x[:5].astype("int64")) for x in spmd.pairs())

    def scores(results: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        rows = spmd.whole(results, "rows")
        return (rows[users] * rows[spmd.USERS + items]).sum()

    gentle = [spmd.published(Comm(), {"forget_weight": 0.0})]
    assert scores(alone) < scores(gentle)
