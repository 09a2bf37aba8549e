"""What the tests of forgetting and of evaluation run on plain processes: importable there, so not in a test module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import spmd
import torch

from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.backbones.base import Backbone
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder import chaos, common_change
from unlearnrec.distributed.encoder.changes import ends_by_side, influence, removed_counts
from unlearnrec.distributed.encoder.chaos import moves_of_kept
from unlearnrec.distributed.encoder.common_change import share_of, without_common_change, without_linear_change
from unlearnrec.distributed.encoder.examples import Examples, make_examples
from unlearnrec.distributed.encoder.gains import calibrate
from unlearnrec.distributed.encoder.influence import InfluenceEncoder, NodeRows, Side, directions
from unlearnrec.distributed.encoder.last_layer import solve_last_layer
from unlearnrec.distributed.encoder.pretrain import PretrainSettings, fit
from unlearnrec.distributed.encoder.second_order import whitening
from unlearnrec.distributed.graph.keyed import initial_rows
from unlearnrec.distributed.graph.local_graph import LocalGraph
from unlearnrec.distributed.graph.propagation import Layer
from unlearnrec.distributed.graph.removal import Removal, Simulated, empty_nodes
from unlearnrec.distributed.measures.baselines import item_neighbours
from unlearnrec.distributed.measures.evaluation import Evaluation, evaluate_in_detail
from unlearnrec.distributed.measures.quality import evaluate
from unlearnrec.distributed.measures.ranking import pair_scores, rank
from unlearnrec.distributed.measures.standing import (
    Standing,
    items_of,
    standing,
    standing_with_stand_in,
    trained_pairs,
)
from unlearnrec.partitioning.assignment import Assignment
from unlearnrec.partitioning.shard import build_shards

SIZE, SCALE = 16, 0.1
Request = tuple[np.ndarray, np.ndarray]


def node_ids(graph: LocalGraph) -> torch.Tensor:
    return torch.cat([graph.user_ids, graph.item_ids + graph.num_users])


def start(graph: LocalGraph) -> torch.Tensor:
    """E0 that belongs to ids, so that it is the same for any number of partitions."""
    return torch.cat(
        [initial_rows(3, side, ids, SIZE, SCALE) for side, ids in enumerate((graph.user_ids, graph.item_ids))]
    )


@torch.no_grad()
def node_rows(graph: LocalGraph, e0: torch.Tensor, backbone: str) -> NodeRows:
    z = BACKBONES[backbone](SIZE, 2, seed=3)(e0, graph.propagation)
    return NodeRows(e0, z, graph.neighbour_means(z), graph.degrees)


def encoder_for(nodes: NodeRows) -> InfluenceEncoder:
    """With directions of second order from made-up matrices, the same on all ranks."""
    encoder = InfluenceEncoder(nodes.readout.shape[1] // SIZE, hidden=32, seed=5, size=SIZE, gain_by_share=1)
    assert encoder.whitening is not None
    # Small, since readouts are small here, and not at length 1.
    noise = torch.randn(encoder.whitening.shape, generator=torch.Generator().manual_seed(6))
    encoder.use(SCALE * (encoder.whitening + 0.1 * noise))
    return encoder


def requests(count: int = 5, pairs: int = 30) -> list[Request]:
    """Disjoint requests, of distinct interactions sorted by user, then item; nodes may be in several."""
    users, items = spmd.pairs()
    chosen = np.random.default_rng(7).choice(len(users), pairs, replace=False)
    parts = [np.sort(part) for part in np.array_split(chosen, count)]
    return [(users[p].astype(np.int64), items[p].astype(np.int64)) for p in parts]


def joined(parts: list[Request]) -> Request:
    users, items = (np.concatenate(x) for x in zip(*parts, strict=True))
    order = np.lexsort((items, users))
    return users[order], items[order]


@contextlib.contextmanager
def listening(comm: Comm) -> Iterator[set[int]]:
    """Nothing that needs all ranks may be called inside; gives the ranks that were spoken to directly."""
    peers: set[int] = set()
    exchange = comm.exchange

    def refused(*_: Any) -> None:
        raise AssertionError("a deletion called on all ranks")

    def heard(outgoing: dict[int, torch.Tensor], incoming: dict[int, torch.Tensor]) -> None:
        peers.update(outgoing, incoming)
        exchange(outgoing, incoming)

    replaced = {"all_to_all": refused, "all_reduce": refused, "all_gather": refused, "exchange": heard}
    for name, function in replaced.items():
        setattr(comm, name, function)
    try:
        yield peers
    finally:
        for name in replaced:
            delattr(comm, name)


def change(graph: LocalGraph, nodes: NodeRows, request: Request) -> dict[str, Any]:
    """The change [N, d] of a request's forgetting; a rank without an end of it calls nothing."""
    users, items = (torch.from_numpy(x) for x in request)
    me = graph.comm.rank
    here = (graph.owner_of_user[users] == me) | (graph.owner_of_item[items] == me)
    whole = torch.zeros_like(nodes.e0)
    if not here.any():
        return {"called": False, "peers": set(), "rows": torch.empty(0, dtype=torch.int64), "whole": whole}
    with listening(graph.comm) as peers:
        rows, by_row = influence(graph, nodes, encoder_for(nodes), users[here], items[here])
    whole[rows] = by_row
    return {"called": True, "peers": peers, "rows": rows, "whole": whole}


def forgetting(comm: Comm, backbone: str, single: list[Request]) -> dict[str, Any]:
    """Changes of a batch, of its parts from the same version, and of its parts one after the other."""
    graph = spmd.local_graph(comm)
    ids, e0 = node_ids(graph), start(graph)
    nodes = node_rows(graph, e0, backbone)
    batch = change(graph, nodes, joined(single))
    parts = [change(graph, nodes, part) for part in single]
    after = e0.clone()
    after[batch["rows"]] += batch["whole"][batch["rows"]]
    moved = e0.clone()
    for number, part in enumerate(single):
        gone = joined(single[:number]) if number else None
        now = spmd.local_graph(comm, without=gone)
        moved += change(now, node_rows(now, moved, backbone), part)["whole"]
    return {
        "ids": ids,
        "e0": e0,
        "after": after,
        "touched": ids[batch["rows"]],
        "batch": batch["whole"],
        "sum": torch.stack([part["whole"] for part in parts]).sum(0),
        "sequence": moved - e0,
        "called": [part["called"] for part in parts],
        "peers": [part["peers"] for part in parts],
    }


def both_backbones(comm: Comm) -> dict[str, Any]:
    return {name: forgetting(comm, name, requests()) for name in BACKBONES}


def few_ranks(comm: Comm, single: list[Request]) -> dict[str, Any]:
    return forgetting(comm, "lightgcn", single)


def combination(columns: int) -> torch.Tensor:
    """Fixed weights of the directions, for each side [2, columns]."""
    return torch.randn(2, columns, generator=torch.Generator().manual_seed(11))


def fitted(comm: Comm, epochs: int = 30) -> dict[str, Any]:
    """Fits an encoder to counterfactuals that differ from the original by a fixed combination of directions."""
    graph = spmd.local_graph(comm)
    nodes = node_rows(graph, start(graph), "lightgcn")
    removals = [Removal(simulated=(Simulated(9, number, 0.3),)) for number in range(4)]
    counterfactuals, matrices = [], whitening(graph, nodes)
    for removal in removals:
        users, items = (torch.from_numpy(x) for x in removal.pairs(graph.shard))
        e0 = nodes.e0.clone()
        for side, view in enumerate(ends_by_side(graph, nodes, users, items)):
            far = directions(view.own, view.other, None, matrices[side])
            weights = combination(far.shape[1])[side]
            e0.index_add_(0, view.rows, (weights[:, None] * far).sum(1))
        counterfactuals.append((removal, e0))
    backbone = BACKBONES["lightgcn"](SIZE, 2, seed=1)
    data = make_examples(graph, backbone, nodes, counterfactuals, whitening=matrices)
    encoder = encoder_for(nodes)
    encoder.use(matrices)
    losses: list[float] = []
    quality = fit(comm, encoder, data, PretrainSettings(3, epochs, 16, 0.01), lambda _, loss: losses.append(loss))
    gain = calibrate(graph, backbone, nodes, encoder, counterfactuals)
    twice = [(removal, nodes.e0 + 2 * (e0 - nodes.e0)) for removal, e0 in counterfactuals]
    gain_for_twice = calibrate(graph, backbone, nodes, encoder, twice)
    left = []
    for side, x in enumerate(data):
        with torch.no_grad():
            weights = (encoder.users, encoder.items)[side](x.features)
        predicted = torch.zeros_like(x.needed).index_add(0, x.target, (weights[:, :, None] * x.directions).sum(1))
        left.append([float(((predicted - x.needed) ** 2).sum()), float((x.needed**2).sum())])
    return {
        "quality": quality,
        "losses": losses,
        "gains": (gain, gain_for_twice),
        "left": left,
        "state": {name: value.detach().clone() for name, value in encoder.state_dict().items()},
        "targets": [len(x.needed) for x in data],
        "interactions": [len(x.target) for x in data],
    }


def examples(comm: Comm, removals: list[Removal], most: int) -> tuple[Examples, Examples]:
    """The examples of counterfactuals in which each row moved by a different part of itself."""
    graph = spmd.local_graph(comm)
    nodes = node_rows(graph, start(graph), "lightgcn")
    moved = [(removal, nodes.e0 * (1.1 + number)) for number, removal in enumerate(removals)]
    return make_examples(graph, BACKBONES["lightgcn"](SIZE, 2, seed=1), nodes, moved, seed=3, most=most)


def common_multiples(comm: Comm) -> torch.Tensor:
    """What is found to be common to users' and to items' rows [2], if a run without a hundredth of the interactions lets
    those of one side grow by .3 of themselves and those of the other shrink by .2, times the share that it leaves out."""
    graph = spmd.local_graph(comm)
    nodes = node_rows(graph, start(graph), "lightgcn")
    first_item = graph.num_local_users
    times = torch.cat([torch.full((first_item,), 1.3), torch.full((len(nodes.e0) - first_item,), 0.8)])
    removal = Removal(simulated=(Simulated(9, 0, share=0.01),))
    e0 = nodes.e0 * times[:, None]
    users = torch.from_numpy(removal.pairs(graph.shard)[0])
    with mock.patch.object(common_change, "LEAST_NODES", 50):  # in this process: it may be one of two
        return share_of(graph, users) * without_common_change(graph, nodes, [(removal, e0)])[1]


def left_by_linear_map(comm: Comm) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids of the local nodes [N], what is left of a run's change of rows without the linear map [N, d], the change that
    only touched nodes made [N, d]), where all rows of a side were turned by a matrix and moved by a constant."""
    graph = spmd.local_graph(comm)
    e0 = start(graph)
    nodes = NodeRows(e0, e0, e0, graph.degrees)
    removal = Removal(simulated=(Simulated(9, 0, share=0.02),))
    touched = removed_counts(graph, *(torch.from_numpy(x) for x in removal.pairs(graph.shard))) > 0
    own = node_ids(graph)[:, None].remainder(7).float().repeat(1, SIZE) * 0.01 * touched[:, None]
    draw = torch.Generator().manual_seed(4)
    maps = torch.randn(2, SIZE, SIZE, generator=draw)
    moved = torch.cat([side @ m + 0.2 for side, m in zip(e0.tensor_split([graph.num_local_users]), maps, strict=True)])
    with mock.patch.multiple(common_change, LEAST_NODES=SIZE + 1, _RIDGE=1e-9):  # in this process: it may be one of two
        [(_, rows)] = without_linear_change(graph, nodes, [(removal, e0 + moved + own)])
    return node_ids(graph), rows - e0, own


class OwnRows(Backbone):
    """A readout that is the row of E0, so that scores are products of rows whatever the graph is."""

    def forward(self, e0_ND: torch.Tensor, layer: Layer) -> torch.Tensor:
        return e0_ND


def kept_against_removed(comm: Comm) -> float:
    """`moves_of_kept` of a run that makes the rows of touched users and of untouched ones longer by .3 and by .1."""
    graph = spmd.local_graph(comm)
    e0, backbone = start(graph), OwnRows(SIZE, 1)
    removal = Removal(simulated=(Simulated(9, 0, share=0.05),))
    users, items = (torch.from_numpy(x) for x in removal.pairs(graph.shard))
    touched = (removed_counts(graph, users, items) > 0)[: graph.num_local_users]
    longer = e0.clone()
    longer[: graph.num_local_users] *= torch.where(touched, 1.3, 1.1)[:, None]
    nodes = NodeRows(e0, e0, e0, graph.degrees)
    with mock.patch.object(chaos, "LEAST", 10):  # in this process: it may be one of two
        return moves_of_kept(graph, backbone, nodes, (removal, longer))


def matrices_of(comm: Comm) -> dict[str, torch.Tensor]:
    """The matrices of second order, by backbone."""
    graph = spmd.local_graph(comm)
    e0 = start(graph)
    return {name: whitening(graph, node_rows(graph, e0, name)) for name in ("lightgcn", "ngcf")}


def solved(comm: Comm, data: Examples, held_out: torch.Tensor) -> dict[str, torch.Tensor]:
    """The last layer that least squares find, where this rank has each `comm.size`-th target."""
    mine = torch.arange(len(data.needed)) % comm.size == comm.rank
    of = mine[data.target]
    part = Examples(
        data.features[of],
        data.directions[of],
        torch.unique_consecutive(data.target[of], return_inverse=True)[1],
        data.needed[mine],
        data.key[mine],
    )
    side = InfluenceEncoder(blocks=1, hidden=8, seed=2).users
    assert isinstance(side, Side)
    solve_last_layer(comm, side, part, held_out[mine], 0)
    return dict(side.layers[-1].state_dict())


def of_equal_degrees() -> tuple[float, float]:
    """(length of a user's row, how far it goes when two of its interactions are forgotten one after the other): fitted
    where all users and all items have four."""
    users = np.repeat(np.arange(40), 4)
    items = (users + np.tile(np.arange(4), 40)) % 40
    owners, comm = Assignment(np.zeros(40, dtype=np.int16), np.zeros(40, dtype=np.int16), 1), Comm()
    graph = LocalGraph(build_shards(users, items, np.ones_like(users), owners)[0], owners, comm)
    backbone = BACKBONES["lightgcn"](SIZE, 2, seed=1)
    e0 = torch.randn(80, SIZE, generator=torch.Generator().manual_seed(4))
    encoder = InfluenceEncoder(blocks=1, seed=1)

    def nodes_of(graph: LocalGraph, e0: torch.Tensor) -> NodeRows:
        z = backbone.readout(e0, graph.propagation)
        return NodeRows(e0, z, graph.neighbour_means(z), graph.degrees)

    retrained = e0 + 0.1 * torch.randn(80, SIZE, generator=torch.Generator().manual_seed(5))
    counterfactuals = [(Removal(simulated=(Simulated(9, 0, 0.3),)), retrained)]
    data = make_examples(graph, backbone, nodes_of(graph, e0), counterfactuals)
    fit(comm, encoder, data, PretrainSettings(3, 20, 16, 0.01))
    now = e0
    for number in range(2):
        user, item = torch.tensor([0]), torch.tensor([number])
        rows, change = influence(graph, nodes_of(graph, now), encoder, user, item)
        now = now.index_add(0, rows, change)
        graph = graph.without(user.numpy(), item.numpy())
    return float(e0[0].norm()), float((now - e0)[0].norm())


def nobody_here(comm: Comm) -> int:
    """Trained pairs found by this rank, of which only the first owns any node."""
    everything = spmd.pairs()
    owners = Assignment(np.zeros(spmd.USERS, dtype=np.int16), np.zeros(spmd.ITEMS, dtype=np.int16), comm.size)
    shard = build_shards(*everything, np.ones_like(everything[0]), owners)[comm.rank]
    graph = LocalGraph(shard, owners, comm)
    pairs = trained_pairs(graph, torch.arange(spmd.USERS), 1)
    standing(graph, all_readouts()[node_ids(graph)], *pairs, torch.empty(0, dtype=torch.int64), 1)
    return len(pairs[0])


def all_readouts() -> torch.Tensor:
    return torch.randn(spmd.USERS + spmd.ITEMS, 8, generator=torch.Generator().manual_seed(2))


def ranking(comm: Comm, cutoffs: tuple[int, ...], users: np.ndarray, items: np.ndarray) -> list[dict[str, Any]]:
    """Metrics, top lists of all users, and scores of the pairs: with all nodes, and without those that are empty."""
    everything, owners = spmd.pairs(), spmd.assignment(comm.size)
    whole = build_shards(*everything, np.ones_like(everything[0]), owners)[comm.rank]
    test = (torch.from_numpy(users), torch.from_numpy(items))
    results = []
    for shard in (whole, whole.drop_nodes(*empty_nodes(whole))):
        graph = LocalGraph(shard, owners, comm)
        z = all_readouts()[node_ids(graph)]
        lists = list(rank(graph, z, graph.user_ids, 60, 7))
        positions, scores = pair_scores(graph, z, *test)
        results.append(
            {
                "metrics": evaluate(graph, z, *test, cutoffs, 7),
                "nothing": evaluate(graph, z, test[0][:0], test[1][:0], cutoffs, 7),
                "lists": [(int(u), i, s) for b in lists for u, i, s in zip(b.users, b.items, b.scores, strict=True)],
                "scores": dict(zip(positions.tolist(), scores.tolist(), strict=True)),
            }
        )
    return results


def evaluations(
    comm: Comm, users: np.ndarray, items: np.ndarray, settings: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The whole evaluation of the graph without its empty nodes, under each of these settings."""
    everything, owners = spmd.pairs(), spmd.assignment(comm.size)
    shard = build_shards(*everything, np.ones_like(everything[0]), owners)[comm.rank]
    graph = LocalGraph(shard.drop_nodes(*empty_nodes(shard)), owners, comm)
    z = all_readouts()[node_ids(graph)]
    test = (torch.from_numpy(users), torch.from_numpy(items))
    return [evaluate_in_detail(graph, z, *test, Evaluation(**one)) for one in settings]


def standings(comm: Comm, users: np.ndarray, items: np.ndarray, never: np.ndarray) -> tuple[Standing, Standing, Any]:
    """Of pairs; of the same with opposite scores and the same references; and trained pairs of these users."""
    everything, owners = spmd.pairs(), spmd.assignment(comm.size)
    shard = build_shards(*everything, np.ones_like(everything[0]), owners)[comm.rank]
    graph = LocalGraph(shard.drop_nodes(*empty_nodes(shard)), owners, comm)
    z = all_readouts()[node_ids(graph)]
    flipped = z * torch.where(torch.arange(len(z)) < graph.num_local_users, 1, -1)[:, None]
    pairs = (torch.from_numpy(users), torch.from_numpy(items), torch.from_numpy(never))
    first = standing(graph, z, *pairs, seed=5)
    again = standing(graph, flipped, *pairs, seed=5, references=torch.from_numpy(first.references))
    trained = [x.tolist() for x in trained_pairs(graph, pairs[0], seed=5)]
    return first, again, list(zip(*trained, strict=True))


def stand_ins(comm: Comm, users: np.ndarray, items: np.ndarray) -> tuple[Standing, Standing, np.ndarray]:
    """Of lists of deleted users, judged by the rank that their ids name: the standing of each pair without its own item, the
    same with readouts twice as large and the same references; and the lists of these users in the graph."""
    everything, owners = spmd.pairs(), spmd.assignment(comm.size)
    shard = build_shards(*everything, np.ones_like(everything[0]), owners)[comm.rank]
    graph = LocalGraph(shard.drop_nodes(*empty_nodes(shard)), owners, comm)
    z = all_readouts()[node_ids(graph)]
    here = np.flatnonzero(users % comm.size == comm.rank)
    own = torch.from_numpy(users[here]), torch.from_numpy(items[here])
    never = torch.empty(0, dtype=torch.int64)
    first = standing_with_stand_in(graph, z, own, own, own[1], never, 5)
    again = standing_with_stand_in(graph, z * 2, own, own, own[1], never, 5, torch.from_numpy(first.references))
    lists = torch.stack(items_of(graph, torch.from_numpy(users)), 1)
    return replace(first, positions=here), replace(again, positions=here), lists.numpy()


def neighbours(comm: Comm) -> Any:
    """The neighbours of the items, for item-kNN."""
    graph = spmd.local_graph(comm)
    return item_neighbours(graph, graph.degrees[graph.num_local_users :])
