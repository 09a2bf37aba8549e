"""The same training for any number of partitions, its traffic, and its gradients."""

import math

import numpy as np
import pytest
import spmd
import torch
from safetensors.torch import save
from spawned import run_by_value
from torch.utils._python_dispatch import TorchDispatchMode

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.graph.keyed import initial_rows, keyed, keyed_uniform
from unlearnrec.distributed.graph.neighbour_sum import NeighbourSum, has_dgl
from unlearnrec.distributed.processes import run_processes
from unlearnrec.distributed.training.checkpoint import from_bytes, to_bytes
from unlearnrec.distributed.training.losses import bpr, sampled_softmax
from unlearnrec.distributed.training.table import Table

# Of a parameter's change against the tables' scale of 0.1, for what is promised only nearly.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def alone():
    return {}


def one_rank(alone, *arguments):
    key = repr(arguments)
    if key not in alone:
        alone[key] = [spmd.train(Comm(), *arguments)]
    return alone[key]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_pull_and_bpr_are_bit_equal_for_any_number_of_partitions(size, alone):
    # 10 columns: no multiple of a cache line or a vector register, where rounding would differ by position.
    arguments = ("lightgcn", "pull", "torch", 3, {"embedding_size": 10})
    first, results = one_rank(alone, *arguments), run_processes(size, spmd.train, *arguments)
    for result in results:
        assert result["losses"] == first[0]["losses"]
    for name in ("rows", "readouts"):
        assert torch.equal(spmd.whole(results, name), spmd.whole(first, name))


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_a_rank_may_have_no_pair_in_a_batch(loss, alone):
    arguments = ("lightgcn", "pull", "torch", 1, {"loss": loss, "batch_size": 3})
    first, results = one_rank(alone, *arguments), run_processes(3, spmd.train, *arguments)
    assert (spmd.whole(results, "rows") - spmd.whole(first, "rows")).abs().max() < TOLERANCE


def test_a_batch_larger_than_the_data_is_all_of_them(alone):
    few = len(spmd.pairs()[0])
    found = [one_rank(alone, "sgl", "pull", "torch", 2, {"batch_size": size}) for size in (few, 10 * few)]
    assert torch.equal(*(spmd.whole(results, "rows") for results in found))


def test_softmax_agrees_within_tolerance(alone):
    arguments = ("lightgcn", "pull", "torch", 3, {"loss": "softmax"})
    first, results = one_rank(alone, *arguments), run_processes(3, spmd.train, *arguments)
    assert np.allclose(results[0]["losses"], first[0]["losses"], rtol=1e-5)
    for name in ("rows", "readouts"):
        assert (spmd.whole(results, name) - spmd.whole(first, name)).abs().max() < TOLERANCE


@pytest.mark.parametrize("halo", ["pull", "cover"])
def test_rows_sent_are_the_plans(halo):
    for result in run_processes(2, spmd.train, "lightgcn", halo, "torch", 1):
        assert result["rows_per_layer"] == result["planned"] > 0


def test_training_learns(alone):
    losses = one_rank(alone, "lightgcn", "pull", "torch", 12)[0]["losses"]
    assert losses[0] == pytest.approx(math.log(2), abs=0.01) and losses[-1] < 0.8 * losses[0]


@pytest.mark.skipif(not has_dgl(), reason="dgl is not installed")
def test_the_two_kernels_train_alike(alone):
    first = one_rank(alone, "lightgcn", "pull", "torch", 2)
    second = [spmd.train(Comm(), "lightgcn", "pull", "dgl", 2)]
    assert torch.equal(spmd.whole(first, "rows"), spmd.whole(second, "rows"))


def test_kernel_names_are_checked():
    with pytest.raises(ValueError, match="torch, dgl"):
        NeighbourSum(torch.zeros(1, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), 0, "cuda")


def test_losses_give_the_gradients_of_autograd():
    generator = torch.Generator().manual_seed(0)
    user, positive, negative = (torch.randn(7, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    leaves = [x.clone().requires_grad_() for x in (user, positive, negative)]
    scores = [(leaves[0] * other).sum(1) for other in leaves[1:]]
    expected = torch.nn.functional.softplus(scores[1] - scores[0])
    gradients = torch.autograd.grad(expected.sum() * 0.5, scores)
    loss, weight = bpr(scores[0].detach(), scores[1].detach(), 0.5)
    assert torch.allclose(loss, expected.detach())
    assert torch.allclose(weight, gradients[1]) and torch.allclose(-weight, gradients[0])


def softmax_by_autograd(user, positive, negative, temperature, scale):
    leaves = [x.clone().requires_grad_() for x in (user, positive, negative)]
    user, positive, negative = (torch.nn.functional.normalize(x, dim=1) for x in leaves)
    own = (user * positive).sum(1, keepdim=True) / temperature
    loss = torch.logsumexp(torch.cat([own, user @ negative.T / temperature], 1), 1) - own[:, 0]
    return loss.detach(), torch.autograd.grad(loss.sum() * scale, leaves)


@pytest.mark.parametrize("cells", [1, 15, 1000])
def test_the_softmax_in_chunks_gives_the_gradients_of_autograd(cells):
    generator = torch.Generator().manual_seed(0)
    user, positive, negative = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (7, 7, 5))
    positive[2] = 0
    found = sampled_softmax(user, positive, negative, 0.2, 0.5, cells)
    loss, gradients = softmax_by_autograd(user, positive, negative, 0.2, 0.5)
    assert torch.allclose(found.loss_B, loss, rtol=1e-12)
    for got, want in zip((found.user_BD, found.positive_BD, found.negative), gradients, strict=True):
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)


def test_the_softmax_of_no_pairs_is_no_gradient():
    found = sampled_softmax(torch.empty(0, 4), torch.empty(0, 4), torch.ones(3, 4), 0.2, 0.5)
    assert found.loss_B.shape == (0,) and found.user_BD.shape == (0, 4)
    assert not found.negative.any()


def test_the_softmax_holds_no_more_logits_than_it_is_told():
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.numbers = max(self.numbers, result.numel())
            return result

    largest = Largest()
    with largest:
        sampled_softmax(torch.randn(3000, 4), torch.randn(3000, 4), torch.randn(500, 4), 0.2, 0.5, 20_000)
    assert largest.numbers <= 20_000  # all logits together are 1,500,000


def test_bpr_does_not_depend_on_a_pairs_place():
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(1003, generator=generator) for _ in range(2)]
    whole = bpr(*scores, 0.1)
    for start, end in ((0, 1), (5, 38), (17, 1003), (1000, 1003)):
        part = bpr(*(x[start:end].clone() for x in scores), 0.1)
        assert all(torch.equal(x, y[start:end]) for x, y in zip(part, whole, strict=True))


def test_tensors_are_written_as_the_library_writes_them():
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "table.rows": torch.randn(5, 3, generator=generator),
        "epoch": torch.tensor([7]),
        "adam.0.step": torch.tensor(3.0),
        "curve": torch.ones(2, 3, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "odd": torch.ones(3, dtype=torch.uint8),
        'a name "with" é': torch.arange(3, dtype=torch.int32),
    }
    assert to_bytes(tensors) == save(tensors)
    assert to_bytes({}) == save({})
    sliced = torch.randn(4, 6, generator=generator)[:, ::2]
    assert torch.equal(from_bytes(to_bytes({"x": sliced.requires_grad_()}))["x"], sliced)


def test_a_table_is_adam_and_resumes():
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(5, 3, generator=generator), torch.randn(6, 5, 3, generator=generator)
    table, plain = Table(start, 0.05), torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([plain], lr=0.05)
    for gradient in gradients[:3]:
        table.step(gradient)
    resumed = Table(torch.zeros(5, 3), 0.05)
    resumed.load_state(table.state())
    for gradient in gradients[3:]:
        table.step(gradient)
        resumed.step(gradient)
    for gradient in gradients:
        plain.grad = gradient
        adam.step()
    assert torch.equal(table.rows, resumed.rows)
    assert torch.allclose(table.rows, plain.detach(), atol=1e-6)


def test_keyed_draws_are_uniform_and_do_not_repeat():
    ids = torch.arange(200_000)
    draws = keyed_uniform(1, 2, ids)
    counts = torch.histc(draws, 20, 0, 1)
    assert abs(draws.mean() - 0.5) < 0.003 and (counts / len(ids) - 0.05).abs().max() < 0.003
    assert len(torch.unique(keyed(1, 2, ids))) == len(ids)
    assert not torch.equal(keyed(1, 2, ids), keyed(2, 1, ids))
    # Neighbouring ids and streams are unrelated.
    other = keyed_uniform(1, 3, ids)
    assert abs(torch.corrcoef(torch.stack([draws, other]))[0, 1]) < 0.01
    assert abs(torch.corrcoef(torch.stack([draws[:-1], draws[1:]]))[0, 1]) < 0.01


def test_initial_rows_belong_to_ids():
    rows = initial_rows(0, 1, torch.arange(1000), 16, 0.1)
    assert abs(rows.std() - 0.1) < 0.002
    assert torch.equal(initial_rows(0, 1, torch.tensor([7, 3]), 16, 0.1), rows[[7, 3]])
    assert not torch.equal(initial_rows(0, 0, torch.arange(1000), 16, 0.1), rows)


def leave(comm: Comm) -> str:
    """Rank 1 goes away while the others wait for it."""
    if comm.rank == 1:
        comm.close()
        return "gone"
    try:
        comm.all_to_all(torch.ones(comm.size, 2), [1] * comm.size, [1] * comm.size, "test")
    except RuntimeError as error:
        return f"missing {error.missing}"
    return "nothing happened"


def test_a_missing_rank_is_named():
    assert run_by_value(3, leave) == ["missing [1]", "gone", "missing [1]"]


def different_graphs(comm: Comm) -> None:
    users, items = spmd.pairs()
    cut = spmd.assignment(2)
    across = np.flatnonzero(cut.owner_of_user[users] != cut.owner_of_item[items])[:1]
    spmd.local_graph(comm, without=(users[across], items[across]) if comm.rank else None)


def test_shards_of_different_versions_are_refused():
    with pytest.raises(RuntimeError, match="different edges"):
        run_by_value(2, different_graphs)
