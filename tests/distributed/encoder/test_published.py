"""The encoder in the paper's form: local, the same for any number of partitions, and it lowers what it should."""

from pathlib import Path

import numpy as np
import pytest
import spmd
import torch
from small_output import commit_encoder, commit_train, small_config, write_interactions
from torch.nn import functional

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.models.carry_out import able_version
from unlearnrec.cluster.output.session import Session
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder.published import forget_and_preserve, request_layer
from unlearnrec.distributed.graph.removal import restricted_to
from unlearnrec.distributed.processes import run_processes
from unlearnrec.distributed.training.batch import batches
from unlearnrec.partitioning.errors import InputError

TOLERANCE = 2e-5
ALONE = {"forget_weight": 0.0, "preserve_weight": 0.0, "contrast_weight": 0.0}
"""L_M and nothing else."""


@pytest.fixture(scope="module")
def alone():
    return [spmd.published(Comm(), {})]


def test_only_the_requests_nodes_change(alone):
    users, items = spmd.pairs()
    named = set(users[:5].tolist()) | {spmd.USERS + i for i in items[:5].tolist()}
    moved = torch.nonzero((spmd.whole(alone, "rows") != spmd.whole(alone, "before")).any(1))[:, 0]
    assert set(moved.tolist()) == named
    assert not alone[0]["fresh"].any()


@pytest.mark.parametrize(("backbone", "changes"), [("lightgcn", {}), ("sgl", {"loss": "softmax"}), ("ngcf", {})])
def test_two_partitions_train_the_same_encoder(backbone, changes):
    alone = [spmd.published(Comm(), {}, backbone, changes)]
    results = run_processes(2, spmd.published, {}, backbone, changes)
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


@pytest.mark.parametrize("own_loss", [{"loss": "softmax"}, {"l2": 1.0}, {"contrast_weight": 1.0}])
def test_l_m_is_the_whole_loss_of_the_training(own_loss):
    """Of the same trained model."""
    plain, other = (spmd.published(Comm(), ALONE, "sgl", own_loss=own)["h0"] for own in ({}, own_loss))
    assert (plain - other).abs().max() > 1e-2


def test_l_u_is_a_mean_and_l_p_a_sum():
    """Eq. 20 to 22 against autograd, whatever the size of the batch."""
    graph = spmd.local_graph(Comm())
    draw = torch.Generator().manual_seed(0)
    z, before = (torch.randn(graph.num_rows, 8, generator=draw) for _ in range(2))
    batch = next(batches(graph, 1, 0, 3))
    forgotten = [graph.pair_users[:7], graph.pair_items[:7]]
    settings = spmd.objective(forget_weight=0.5, preserve_weight=0.03, batch_size=1000)
    gradient, loss = forget_and_preserve(graph, z, before, batch, forgotten, settings)

    leaf = z.clone().requires_grad_()
    users, items = leaf[: spmd.USERS], leaf[spmd.USERS :]
    l_u = -functional.logsigmoid(-(users[forgotten[0]] * items[forgotten[1]]).sum(1)).mean()
    new, old = ((x[batch.users] @ x[spmd.USERS + batch.items].T).log_softmax(1).diagonal() for x in (leaf, before))
    expected = 0.5 * l_u + 0.03 * ((new - old) ** 2).sum()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0], rtol=1e-4, atol=1e-5)


def test_a_request_is_normalised_by_its_own_degrees():
    """Eq. 15: of one interaction, each end takes the other's row whole."""
    graph = spmd.local_graph(Comm())
    user, item = int(graph.pair_users[0]), int(graph.pair_items[0])
    rows = torch.arange(2.0 * graph.num_rows).reshape(-1, 2)
    found = request_layer(graph, restricted_to(graph.shard, np.array([user]), np.array([item])))(rows)
    expected = torch.zeros_like(rows)
    expected[user], expected[spmd.USERS + item] = rows[spmd.USERS + item], rows[user]
    assert torch.equal(found, expected)


def test_only_published_encoders_of_the_release_before_are_refused(tmp_path: Path):
    """They were trained for another normalisation of a request; both kinds had format 2."""
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    for objective, format in (("counterfactual", 2), ("counterfactual", 3), ("counterfactual", 5), ("published", 3)):
        commit_encoder(config, objective=objective, format=format)
        assert able_version(Session(config)).model.encoder.objective == objective
    commit_encoder(config, objective="published", format=2)
    with pytest.raises(InputError, match=r"of format 2, and this release uses 3\. Run `unlearnrec pretrain` again"):
        able_version(Session(config))
    commit_encoder(config, objective="counterfactual", format=8)
    with pytest.raises(InputError, match=r"of format 8, and this release uses 7\. It was made by a later release"):
        able_version(Session(config))
