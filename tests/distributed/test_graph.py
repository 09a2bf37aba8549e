"""The sums over neighbours, the layers made of them, and the gradients of scored pairs."""

from typing import Any

import pytest
import spmd
import torch
from spawned import run_by_value

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.graph import neighbour_sum, propagation
from unlearnrec.distributed.graph.neighbour_sum import KERNELS, NeighbourSum, has_dgl, sum_rows
from unlearnrec.distributed.graph.scored_pairs import ScoredPairs


def matrix(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dense, indptr, columns) of a random matrix of zeros and ones with an empty row."""
    dense = (torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    dense[2] = 0
    indptr = torch.cat([torch.zeros(1), dense.sum(1)]).cumsum(0).int()
    return dense, indptr, dense.nonzero()[:, 1].int()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("width", [7, 100])
def test_sums_in_tiles_and_blocks_are_the_matrix_product(
    kernel: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "dgl" and not has_dgl():
        pytest.skip("dgl is not installed")
    monkeypatch.setattr(neighbour_sum, "TILE_ROWS", 4)
    dense, indptr, columns = matrix(11, 30)
    x = torch.randn(30, 5)
    for blocks in (None, torch.arange(30) // width):
        sums = NeighbourSum(indptr, columns, 30, kernel, blocks)
        y = sums(x)
        assert torch.allclose(y, dense @ x, atol=1e-5) and not y[2].any()
        for rows in ([], [2], [0, 2, 3, 10], list(range(11))):
            assert torch.equal(sums.of_rows(x, torch.tensor(rows, dtype=torch.int64)), y[rows])


def test_weighted_sums_are_those_of_the_weighted_matrix() -> None:
    dense, indptr, columns = matrix(11, 30)
    x, weights = torch.randn(30, 5), torch.randn(len(columns))
    weighted = dense.clone()
    weighted[dense > 0] = weights
    assert torch.allclose(sum_rows(x, indptr, columns, weights), weighted @ x, atol=1e-5)


def trained_in_blocks(comm: Comm, kernel: str) -> dict[str, Any]:
    propagation.BLOCK_NODES, neighbour_sum.TILE_ROWS = 16, 8
    try:
        return spmd.train(comm, "lightgcn", "pull", kernel, 2)
    finally:
        propagation.BLOCK_NODES, neighbour_sum.TILE_ROWS = 2**16, 2**15


def test_sums_in_blocks_are_bit_equal_for_any_number_of_partitions_and_both_kernels() -> None:
    alone = [trained_in_blocks(Comm(), "torch")]
    others = [run_by_value(3, trained_in_blocks, "torch")]
    if has_dgl():
        others.append([trained_in_blocks(Comm(), "dgl")])
    for results in others:
        assert torch.equal(spmd.whole(results, "rows"), spmd.whole(alone, "rows"))
    in_one_go = [spmd.train(Comm(), "lightgcn", "pull", "torch", 2)]
    assert not torch.equal(spmd.whole(in_one_go, "rows"), spmd.whole(alone, "rows"))
    assert torch.allclose(spmd.whole(in_one_go, "rows"), spmd.whole(alone, "rows"), atol=1e-5)


def means_of_some_nodes(comm: Comm, halo: str) -> None:
    propagation.BLOCK_NODES, neighbour_sum.TILE_ROWS = 16, 8
    try:
        graph = spmd.local_graph(comm, halo)
        x = torch.randn(graph.num_rows, 6)
        whole = graph.neighbour_means(x)
        # Another choice on each rank; the last has none.
        rows = torch.arange(graph.num_rows)[comm.rank :: 3] if comm.rank < 2 else torch.empty(0, dtype=torch.int64)
        assert torch.equal(graph.neighbour_means_of(x, rows), whole[rows])
    finally:
        propagation.BLOCK_NODES, neighbour_sum.TILE_ROWS = 2**16, 2**15


@pytest.mark.parametrize("halo", ["pull", "cover"])
def test_means_of_some_nodes_are_those_of_all(halo: str) -> None:
    means_of_some_nodes(Comm(), halo)
    run_by_value(3, means_of_some_nodes, halo)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 3), (1, 1), (1, 3), (2, 3)])
def test_the_mean_of_layers_is_that_of_layer_after_layer(first: int, last: int) -> None:
    graph = spmd.local_graph(Comm())
    layers = [torch.randn(graph.num_rows, 6)]
    for _ in range(last):
        layers.append(graph.propagation(layers[-1]))
    expected = torch.stack(layers[first:]).mean(0)
    kept = graph.propagation.keeping_buffers()
    for propagate in (graph.propagation, kept, kept):
        assert torch.allclose(propagate.mean(layers[0], first, last), expected, atol=1e-6)


def pair_gradient(comm: Comm) -> dict[str, Any]:
    """Scores of all pairs, and the gradient of the sum of weight * score, whose weights follow from the keys."""
    graph = spmd.local_graph(comm)
    nodes = torch.cat([graph.user_ids, graph.item_ids + graph.num_users])
    z = torch.randn(graph.num_users + graph.num_items, 6, generator=torch.Generator().manual_seed(0))[nodes]
    keys = graph.pair_users * graph.num_items + graph.pair_items
    pairs = ScoredPairs(graph, z, graph.user_rows(graph.pair_users), graph.pair_items, keys)
    into = torch.zeros_like(z)
    pairs.gradient(torch.sin(keys.float()), into)
    return {"ids": nodes, "gradient": into, "pairs": torch.stack([keys.double(), pairs.scores().double()], dim=1)}


def test_scores_and_their_gradient_are_autograds_and_do_not_depend_on_partitions() -> None:
    alone, cut = [pair_gradient(Comm())], run_by_value(3, pair_gradient)
    assert torch.equal(spmd.whole(alone, "gradient"), spmd.whole(cut, "gradient"))
    found, expected = (torch.cat([r["pairs"] for r in results]) for results in (cut, alone))
    assert torch.equal(found[torch.argsort(found[:, 0])], expected)

    z = torch.randn(spmd.USERS + spmd.ITEMS, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    users, items = (torch.from_numpy(x).long() for x in spmd.pairs())
    scores = (z[users] * z[items + spmd.USERS]).sum(1)
    (scores * torch.sin((users * spmd.ITEMS + items).float())).sum().backward()
    assert torch.allclose(scores.double(), expected[:, 1], atol=1e-5)
    assert torch.allclose(z.grad, spmd.whole(alone, "gradient"), atol=1e-5)


def layers_in_bfloat16(comm: Comm) -> dict[str, Any]:
    """A layer whose received rows are rounded, without rounding, and of the absolute values; bytes of each row sent."""
    graph = spmd.local_graph(comm)
    x = torch.randn(graph.num_rows, 6, generator=torch.Generator().manual_seed(comm.rank))
    exact, size = graph.propagation(x), graph.propagation(x.abs())
    before = comm.rows_sent["halo"], comm.bytes_sent["halo"]
    comm.row_dtype = torch.bfloat16
    rounded = graph.propagation(x)
    rows, sent = (now["halo"] - then for now, then in zip((comm.rows_sent, comm.bytes_sent), before, strict=True))
    losses = spmd.train(comm)["losses"]
    return {"error": (rounded - exact).abs(), "bound": 2**-8 * size, "bytes": sent / rows, "losses": losses}


def test_rows_that_travel_as_bfloat16_are_rounded_to_eight_bits() -> None:
    for result in run_by_value(2, layers_in_bfloat16):
        assert result["bytes"] == 2 * 6
        assert (result["error"] <= result["bound"]).all() and result["error"].max() > 0
        assert result["losses"] == pytest.approx(spmd.train(Comm())["losses"], rel=1e-4)
