"""What an Influence Encoder is fitted on: a bounded sample of nodes, and nodes with very many interactions."""

from typing import Any

import pytest
import spmd
import spmd_forget
import torch

from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder import gains
from unlearnrec.distributed.encoder.examples import Examples
from unlearnrec.distributed.encoder.influence import (
    HUB_DEGREE,
    InfluenceEncoder,
    NodeRows,
    directions,
    features,
    removed_share,
)
from unlearnrec.distributed.encoder.pretrain import PretrainSettings, _deal, fit
from unlearnrec.distributed.graph.removal import Removal, Simulated
from unlearnrec.distributed.partition.version import Encoder
from unlearnrec.distributed.processes import run_processes

REMOVALS = [Removal(simulated=(Simulated(9, number, 0.3),)) for number in range(3)]
SIZE = 16


def examples(most: int) -> tuple[Examples, Examples]:
    return spmd_forget.examples(Comm(), REMOVALS, most)


def of_node(x: Examples) -> dict[tuple[int, float], torch.Tensor]:
    """The features of each target's interactions, by what identifies the target."""
    names = [(int(key), float(needed.sum())) for key, needed in zip(x.key, x.needed, strict=True)]
    return {name: x.features[x.target == place] for place, name in enumerate(names)}


def test_a_sample_has_whole_nodes_and_about_as_many_interactions_as_asked() -> None:
    whole, half = examples(10**6), examples(len(examples(10**6)[0].target) // 2)
    for everything, some in zip(whole, half, strict=True):
        all_nodes, nodes = of_node(everything), of_node(some)
        assert len(all_nodes) == len(everything.needed) and 0.2 < len(nodes) / len(all_nodes) < 0.8
        assert 0.2 < len(some.target) / len(everything.target) < 0.8
        for name, rows in nodes.items():
            assert torch.equal(rows, all_nodes[name])


def test_a_sample_is_the_same_for_any_number_of_partitions() -> None:
    one = examples(80)
    parts = run_processes(2, spmd_forget.examples, REMOVALS, 80)
    for side in (0, 1):
        nodes = [of_node(part[side]) for part in parts]
        together = {name: rows for part in nodes for name, rows in part.items()}
        assert sum(map(len, nodes)) == len(together) and together.keys() == of_node(one[side]).keys()
        for name, rows in of_node(one[side]).items():
            assert torch.allclose(rows, together[name], atol=1e-5)


def test_each_target_is_dealt_once_with_all_its_interactions() -> None:
    x = examples(10**6)[1]
    used = torch.arange(len(x.key)) % 5 > 0
    steps = _deal(x, used, 7, 3, 0)
    assert len(steps) == 7
    dealt = torch.cat([step.targets for step in steps])
    assert torch.equal(dealt.sort().values, torch.nonzero(used)[:, 0])
    for step in steps:
        assert torch.equal(step.targets[step.place], x.target[step.interactions])
        assert torch.equal(step.interactions, torch.nonzero(torch.isin(x.target, step.targets))[:, 0])


# ---- hubs ------------------------------------------------------------------------------------------------------------


def rows(count: int, degree: torch.Tensor, generator: torch.Generator) -> NodeRows:
    e0 = torch.randn(count, SIZE, generator=generator) * 0.3
    mean = torch.randn(count, SIZE, generator=generator) * 0.1 + 0.3
    return NodeRows(e0, e0 + 0.2, mean, degree)


def with_hubs(hub_degree: int | None) -> tuple[Examples, Examples]:
    """Nodes of degree 20 that lose one to three interactions, and nodes of degree 100,000 that lose 5,000. What each of them
    needs is a tenth of the sum of the other ends over its degree, as where each interaction pulls a row a little."""
    generator = torch.Generator().manual_seed(2)
    lost = torch.cat([torch.randint(1, 4, (2_000,), generator=generator), torch.full((8,), 5_000)])
    degree = torch.cat([torch.full((2_000,), 20), torch.full((8,), 100_000)])
    target = torch.repeat_interleave(lost)
    nodes = rows(len(lost), degree, generator)
    own, other = nodes.select(target), rows(len(target), torch.full((len(target),), 30), generator)
    share = removed_share(lost, degree)[target]
    needed = torch.zeros(len(lost), SIZE).index_add_(0, target, -2 * other.readout / own.degree[:, None])
    inputs = features(own, other, torch.stack([share, torch.zeros_like(share)], dim=1))
    x = Examples(inputs, directions(own, other, hub_degree), target, needed, torch.arange(len(lost)))
    return x, x


def fit_with_hubs(hub_degree: int | None, epochs: int) -> tuple[dict[str, float], list[float]]:
    encoder = InfluenceEncoder(blocks=1, seed=0, hub_degree=hub_degree)
    losses: list[float] = []
    settings = PretrainSettings(0, epochs, 256, 0.003)
    return fit(Comm(), encoder, with_hubs(hub_degree), settings, lambda _, loss: losses.append(loss)), losses


def test_a_fit_is_stable_at_nodes_with_very_many_interactions() -> None:
    quality, losses = fit_with_hubs(HUB_DEGREE, epochs=4)
    assert quality["item_r2_held_out"] > 0.95
    # Without the limit the hubs' errors are several times what all nodes need together, and drown the others.
    assert losses[0] < 1 < fit_with_hubs(None, epochs=1)[1][0]


def test_the_sum_over_a_share_of_a_node_stops_growing_at_the_hub_degree() -> None:
    def summed(degree: int, hub_degree: int | None) -> float:
        node = NodeRows(*(torch.ones(1, SIZE) for _ in range(3)), torch.tensor([degree]))
        return float(directions(node, node, hub_degree).sum() * degree)

    assert summed(HUB_DEGREE, HUB_DEGREE) == summed(HUB_DEGREE, None)
    assert summed(100, HUB_DEGREE) == summed(100, None)
    assert summed(40 * HUB_DEGREE, HUB_DEGREE) == pytest.approx(summed(HUB_DEGREE, HUB_DEGREE), rel=1e-5)
    assert summed(40 * HUB_DEGREE, None) > 6 * summed(HUB_DEGREE, None)


def test_encoders_of_formats_2_to_7_are_read() -> None:
    def spec(form: int) -> Encoder:
        return Encoder(file="e", format=form, shape={"blocks": 1, "mlp_layers": 2, "seed": 0}, interactions=1)

    assert [spec(form).readable for form in range(1, 9)] == [False, *[True] * 6, False]
    encoder = InfluenceEncoder(**spec(2).shape)
    assert encoder.hub_degree is None and encoder.whitening is None and not encoder.across
    assert encoder.common is None and encoder.gain_by_share is None


def test_gains_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> tuple[float, float]:
        graph = spmd.local_graph(Comm())
        nodes = spmd_forget.node_rows(graph, spmd_forget.start(graph), "lightgcn")
        targets = [(removal, nodes.e0 * 1.1) for removal in REMOVALS]
        backbone: Any = BACKBONES["lightgcn"](nodes.e0.shape[1], 2, seed=1)
        return gains.calibrate(graph, backbone, nodes, spmd_forget.encoder_for(nodes), targets)

    whole = found()
    monkeypatch.setattr(gains, "CHUNK_INTERACTIONS", 10)
    assert found() == pytest.approx(whole, rel=1e-3)
