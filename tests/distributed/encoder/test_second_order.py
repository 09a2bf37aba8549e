"""Directions of second order: their matrices, an encoder that holds them, and encoders of earlier formats without them."""

from dataclasses import replace

import pytest
import spmd
import spmd_forget
import torch

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder import influence
from unlearnrec.distributed.encoder.influence import (
    FARTHEST,
    HUB_DEGREE,
    RIDGES,
    AroundEncoder,
    InfluenceEncoder,
    NodeRows,
    directions,
    features,
)
from unlearnrec.distributed.encoder.second_order import whitening
from unlearnrec.distributed.processes import run_processes
from unlearnrec.distributed.training.checkpoint import from_bytes, to_bytes

SIZE = 12
Rows = tuple[NodeRows, NodeRows, torch.Tensor]


def expected(readouts: torch.Tensor, blocks: int, ridge: float) -> torch.Tensor:
    """The matrices [m, d, d] of one side, from the readouts of the other."""
    unit = (readouts.double() / readouts.double().norm(dim=1, keepdim=True).clamp(min=1e-12)).chunk(blocks, dim=1)
    found = []
    for part in unit:
        covariance = torch.cov(part.T, correction=0)
        size = len(covariance)
        inverse = torch.linalg.inv(covariance / covariance.diagonal().mean() + ridge * torch.eye(size))
        found.append(inverse / inverse.diagonal().mean())
    return torch.stack(found)


@pytest.mark.parametrize("backbone", ["lightgcn", "ngcf"])
def test_the_matrices_are_ridged_inverses_of_the_other_sides_covariance(backbone: str) -> None:
    graph = spmd.local_graph(Comm())
    nodes = spmd_forget.node_rows(graph, spmd_forget.start(graph), backbone)
    matrices, first_item = whitening(graph, nodes), graph.num_local_users
    blocks = nodes.readout.shape[1] // spmd_forget.SIZE
    for side, others in enumerate((nodes.readout[first_item:], nodes.readout[:first_item])):
        for number, ridge in enumerate(RIDGES):
            assert torch.allclose(matrices[side, number].double(), expected(others, blocks, ridge), atol=1e-4)


def test_the_matrices_are_the_same_for_any_number_of_partitions() -> None:
    alone = spmd_forget.matrices_of(Comm())
    for found in run_processes(3, spmd_forget.matrices_of):
        for name, matrices in alone.items():
            assert (found[name] - matrices).abs().max() < 1e-6 * matrices.abs().max(), name


def test_without_a_covariance_the_readout_itself_is_the_direction() -> None:
    graph = spmd.local_graph(Comm())
    nodes = spmd_forget.node_rows(graph, spmd_forget.start(graph), "lightgcn")
    users, identity = graph.num_local_users, torch.eye(spmd_forget.SIZE)
    alike = nodes.readout.clone()
    alike[users:] = alike[0] * torch.rand(graph.num_rows - users, 1)
    none, unknown = nodes.readout.clone(), nodes.readout.clone()
    none[users:], unknown[users + 3, 2] = 0, torch.nan
    for readout in (alike, none, unknown):
        matrices = whitening(graph, replace(nodes, readout=readout))
        assert (matrices[0] == identity).all() and (matrices[1] != identity).any()
        assert matrices.isfinite().all()


def test_few_nodes_with_a_singular_covariance_have_finite_matrices() -> None:
    graph = spmd.local_graph(Comm())
    size = 4 * graph.num_rows
    e0 = torch.randn(graph.num_rows, size, generator=torch.Generator().manual_seed(1))
    nodes = NodeRows(e0, e0, e0, graph.degrees)
    matrices = whitening(graph, nodes)
    first_item = graph.num_local_users
    assert torch.allclose(matrices[0, 0].double(), expected(e0[first_item:], 1, RIDGES[0]), atol=1e-3)
    # Largest where there is no covariance at all.
    assert matrices.isfinite().all() and matrices.abs().max() < 2 / RIDGES[0]


def rows_of_pairs(blocks: int) -> Rows:
    generator = torch.Generator().manual_seed(8)

    def nodes() -> NodeRows:
        parts = (torch.randn(40, SIZE * width, generator=generator) for width in (1, blocks, blocks))
        return NodeRows(*parts, torch.randint(1, 5_000, (40,), generator=generator))

    return nodes(), nodes(), torch.rand(40, 2, generator=generator) / 10


@pytest.mark.parametrize("blocks", [1, 3])
def test_directions_of_second_order_come_last_at_the_scale_of_the_others(blocks: int) -> None:
    own, other, _ = rows_of_pairs(blocks)
    matrices = torch.randn(len(RIDGES), blocks, SIZE, SIZE, generator=torch.Generator().manual_seed(9))
    first, found = directions(own, other, HUB_DEGREE), directions(own, other, HUB_DEGREE, matrices)
    number = 3 * blocks + 2
    assert found.shape == (40, number + len(RIDGES) * blocks, SIZE) and torch.equal(found[:, :number], first)
    scale = (first[:, :1] / other.readout[:, None, :SIZE])[:, :, :1]
    unit = (other.readout / other.readout.norm(dim=1, keepdim=True)).view(40, blocks, SIZE)
    wanted = torch.cat([torch.stack([unit[:, b] @ of[b] for b in range(blocks)], 1) for of in matrices], dim=1) * scale
    assert torch.allclose(found[:, number:], wanted, atol=1e-4)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("second_order", [False, True])
def test_a_change_is_the_sum_of_weighted_directions_also_in_chunks(
    blocks: int, second_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other, share = rows_of_pairs(blocks)
    encoder = InfluenceEncoder(blocks, seed=4, hub_degree=HUB_DEGREE, size=SIZE if second_order else None)
    if second_order:
        encoder.use(torch.randn(2, len(RIDGES), blocks, SIZE, SIZE, generator=torch.Generator().manual_seed(9)))
    encoder.gain.copy_(torch.tensor([0.8, 1.3]))
    monkeypatch.setattr(influence, "_CHUNK", 7)
    for side in (0, 1):
        whitening = None if encoder.whitening is None else encoder.whitening[side]
        inputs = (features(own, other, share), directions(own, other, HUB_DEGREE, whitening))
        wanted = encoder.gain[side] * encoder(inputs, inputs)[side]
        assert torch.allclose(encoder.change(side, own, other, share), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hub_degree", [None, HUB_DEGREE])
def test_encoders_of_formats_2_and_3_answer_as_before_up_to_rounding(hub_degree: int | None) -> None:
    """The formula that releases with these formats had, written out once more."""
    own, other, share = rows_of_pairs(1)
    encoder = InfluenceEncoder(blocks=1, seed=4, hub_degree=hub_degree)
    layers = [f"layers.{n}.{of}" for n in (0, 2, 4) for of in ("weight", "bias")]
    names = [f"{side}.{name}" for side in ("users", "items") for name in ("mean", "deviation", *layers)]
    assert list(encoder.state_dict()) == ["gain", *names]
    assert encoder.state_dict()["users.layers.4.weight"].shape == (5, 64)
    encoder.gain.copy_(torch.tensor([0.8, 1.3]))
    degree = own.degree.to(torch.float32).clamp(min=1)
    scale = (20 / degree).sqrt()
    if hub_degree is not None:
        scale = scale * (hub_degree / degree).clamp(max=1).sqrt()
    ways = torch.stack([other.readout, own.mean, own.readout, other.e0, own.e0], dim=1) * scale[:, None, None]
    inputs = features(own, other, share)
    for side, mlp in enumerate((encoder.users, encoder.items)):
        weights = mlp.layers(((inputs - mlp.mean) / mlp.deviation).clamp(-FARTHEST, FARTHEST))
        before = encoder.gain[side] * (weights[:, :, None] * ways).sum(1)
        assert torch.allclose(encoder.change(side, own, other, share), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [InfluenceEncoder, AroundEncoder])
def test_the_matrices_are_stored_with_the_encoder(kind: type[InfluenceEncoder] | type[AroundEncoder]) -> None:
    shape = {"blocks": 1, "seed": 4, "hub_degree": HUB_DEGREE, "size": SIZE}
    encoder, matrices = kind(**shape), torch.randn(2, len(RIDGES), 1, SIZE, SIZE)
    encoder.use(matrices)
    again = kind(**shape)
    again.load_state_dict(from_bytes(to_bytes(encoder.state_dict())))
    of = [(x.rows if isinstance(x, AroundEncoder) else x) for x in (encoder, again)]
    assert of[1].whitening is not None and torch.equal(of[1].whitening, matrices)
    pairs = rows_of_pairs(1)
    for side in (0, 1):
        assert torch.equal(of[0].change(side, *pairs), of[1].change(side, *pairs))
        assert not torch.equal(of[0].change(side, *pairs), InfluenceEncoder(**shape).change(side, *pairs))
