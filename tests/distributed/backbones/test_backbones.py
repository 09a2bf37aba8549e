"""What every backbone of the registry must do. A new one gets all of this for its line there."""

import numpy as np
import pytest
import spmd
import torch
from spawned import run_by_value
from torch.nn import functional

from unlearnrec.benchmarks.lab import Lab
from unlearnrec.benchmarks.unlearning import read_data, recipe_of
from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.backbones.views import MAX_ANCHORS, Views, contrast_gradients, info_nce
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.measures.quality import evaluate
from unlearnrec.partitioning.sample import make_sample
from unlearnrec.partitioning.storage import Store

NAMES = list(BACKBONES)
CONTRASTIVE = [name for name, kind in BACKBONES.items() if kind(4, 1).contrast_weight]
HALOS = ("pull", "cover")

# Of a parameter's change against the tables' scale of 0.1, for what is promised only nearly.
TOLERANCE = 2e-5


def train_all(comm: Comm) -> dict[tuple[str, str], dict]:
    return {(name, halo): spmd.train(comm, name, halo, "torch", 3) for name in NAMES for halo in HALOS}


@pytest.fixture(scope="module")
def alone():
    return train_all(Comm())


@pytest.fixture(scope="module")
def three():
    return run_by_value(3, train_all)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("halo", HALOS)
def test_three_partitions_train_like_one(name, halo, alone, three):
    first, results = alone[name, halo], [r[name, halo] for r in three]
    assert np.allclose(results[0]["losses"], first["losses"], rtol=1e-5)
    for rows in ("rows", "readouts"):
        assert (spmd.whole(results, rows) - spmd.whole([first], rows)).abs().max() < TOLERANCE
    for result in results:
        assert len(result["dense"]) == len(first["dense"])
        for mine, rank_0, lone in zip(result["dense"], results[0]["dense"], first["dense"], strict=True):
            assert torch.equal(mine, rank_0) and (mine - lone).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_a_run_without_data_is_the_same_run_minus_it(name, alone):
    """No draw of the other pairs changes: one pair of 500 moves little, where another seed moves everything."""
    users, items = spmd.pairs()
    full = alone[name, "pull"]
    less = spmd.train(Comm(), name, "pull", "torch", 3, None, (users[:1], items[:1]))
    other_seed = spmd.train(Comm(), name, "pull", "torch", 3, {"seed": 4})
    near, far = (spmd.whole([full], "rows") - spmd.whole([x], "rows") for x in (less, other_seed))
    assert 0 < near.norm() < 0.15 * far.norm()


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss(name, alone):
    losses = alone[name, "pull"]["losses"]
    assert losses[0] > losses[1] > losses[2]


def gradients(comm: Comm) -> list[str]:
    """The backbones and halos whose gradients differ from finite differences."""
    return [f"{name} {halo}" for name in NAMES for halo in HALOS if not _gradients_agree(comm, name, halo)]


def _gradients_agree(comm: Comm, name: str, halo: str) -> bool:
    """A projection of the readout and of both views, through the exchange, in float64."""
    graph = spmd.local_graph(comm, halo)
    model = BACKBONES[name](3, 2, seed=1).double()
    views = Views(graph, 1)
    generator = torch.Generator().manual_seed(5)
    ids = torch.cat([graph.user_ids, graph.item_ids + graph.num_users])
    everything = torch.randn(graph.num_users + graph.num_items, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(len(everything), model.readout_size, generator=generator, dtype=torch.float64)[ids]

    def value(e0: torch.Tensor) -> torch.Tensor:
        outputs = [model(e0, graph.propagation)]
        if name in CONTRASTIVE:
            outputs += [model.view(e0, graph.propagation, views, number) for number in (0, 1)]
        return sum((x * weights).sum() * (n + 1) for n, x in enumerate(outputs))

    e0 = everything[ids].requires_grad_()
    value(e0).backward()
    step = 1e-6
    for node, column in ((0, 0), (3, 2), (graph.num_users, 1), (graph.num_users + 5, 0)):
        values = []
        for sign in (1, -1):
            moved = everything.clone()
            moved[node, column] += sign * step
            with torch.no_grad():
                values.append(comm.all_reduce(value(moved[ids])))
        expected = (values[0] - values[1]) / (2 * step)
        place = torch.nonzero(ids == node)[:, 0]
        if len(place) and not torch.isclose(e0.grad[place[0], column], expected, rtol=1e-6, atol=1e-8):
            return False
    return True


def test_gradients_agree_with_finite_differences():
    assert run_by_value(2, gradients) == [[], []]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    files = make_sample(tmp_path_factory.mktemp("sample"), users=300, items=200, mean_interactions=20)
    return read_data(files["train"], files["test"])


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_recommend_about_as_well_as_lightgcns(name, data, tmp_path):
    """With thirty steps in all: a contrastive loss that is too strong for them leaves little of a model."""
    recall = {}
    for one in ("lightgcn", name):
        recipe = recipe_of(30, {"backbone.name": one, "backbone.embedding_size": 16})
        model = Lab(Store(str(tmp_path)), data, recipe).train()
        test = (torch.from_numpy(data.test_users), torch.from_numpy(data.test_items))
        recall[one] = evaluate(model.graph, model.readout, *test, (20,), 1024)["recall@20"]
    assert recall[name] > 0.85 * recall["lightgcn"] > 0.3


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_the_contrastive_term_is_in_the_training(name, alone):
    plain = spmd.train(Comm(), name, "pull", "torch", 3, {"contrast_weight": 0.0})
    assert (spmd.whole([plain], "rows") - spmd.whole([alone[name, "pull"]], "rows")).abs().max() > 1e-3


def test_the_readout_of_simgcl_is_lightgcns_with_e0_and_the_papers_without():
    graph = spmd.local_graph(Comm())
    e0 = torch.randn(graph.num_rows, 6)
    first = graph.propagation(e0)
    layers = [e0, first, graph.propagation(first)]
    for ego, used in ((True, layers), (False, layers[1:])):
        backbone = BACKBONES["simgcl"](6, 2, noise=0.0, ego=ego)
        expected = torch.stack(used).mean(0)
        assert torch.allclose(backbone(e0, graph.propagation), expected, atol=1e-6)
        assert torch.allclose(backbone.view(e0, graph.propagation, Views(graph, 0), 0), expected, atol=1e-6)


def test_views_keep_the_share_of_edges_and_their_own_normalisation():
    graph = spmd.local_graph(Comm())
    views = Views(graph, 0)
    ones = torch.eye(graph.num_rows)
    whole, thin = graph.propagation(ones), views.thinned(0, 0.7)(ones)
    edges, kept = whole > 0, thin > 0
    assert torch.equal(kept, kept.T) and not (kept & ~edges).any()
    assert kept.sum() / edges.sum() == pytest.approx(0.7, abs=0.06)
    degrees = kept.sum(1).clamp(min=1)
    assert torch.allclose(thin, kept / (degrees[:, None] * degrees[None, :]).sqrt())
    assert not torch.equal(views.thinned(1, 0.7)(ones), thin)
    views.set_step(0, 5)
    assert torch.equal(views.thinned(0, 0.7)(ones), thin)
    views.set_step(1, 0)
    assert not torch.equal(views.thinned(0, 0.7)(ones), thin)


def test_noise_is_of_length_one_and_differs_by_view_layer_and_step():
    views = Views(spmd.local_graph(Comm()), 0)
    draws = [views.noise(0, 0, 16), views.noise(1, 0, 16), views.noise(0, 1, 16)]
    views.set_step(0, 1)
    draws.append(views.noise(0, 0, 16))
    for x in draws:
        assert (x >= 0).all() and torch.allclose(x.norm(dim=1), torch.ones(len(x)))
    assert all((a - b).abs().amax(1).min() > 0 for n, a in enumerate(draws) for b in draws[:n])


def test_contrast_gradients_are_those_of_autograd():
    graph = spmd.local_graph(Comm())
    views = Views(graph, 0)
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randn(graph.num_rows, 6, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    expected = 0
    for side, offset in ((0, 0), (1, graph.num_local_users)):
        anchors = views.anchors(side)
        assert len(anchors) <= MAX_ANCHORS and torch.equal(anchors, torch.unique(anchors))
        rows = anchors + offset  # one partition: rows are ids
        rows = rows[graph.degrees[rows] > 0]
        a, b = (functional.normalize(x[rows], dim=1) for x in (first, second))
        expected = expected + functional.cross_entropy(a @ b.T / 0.3, torch.arange(len(rows))) * 0.7
    wanted = torch.autograd.grad(expected, [first, second])
    found = contrast_gradients(graph, views, first.detach(), second.detach(), 0.3, 0.7)
    for got, want in zip(found, wanted, strict=True):
        assert torch.allclose(got, want)


def test_info_nce_without_anchors_here_is_nothing():
    first, second = info_nce(torch.zeros(0, 3), torch.ones(4, 3), torch.zeros(0, dtype=torch.int64), 0.1, 1.0)
    assert first.shape == (0, 3) and not second.any()


def test_length_power_scales_lengths_alone():
    graph = spmd.local_graph(Comm())
    e0 = torch.randn(graph.num_rows, 8, generator=torch.Generator().manual_seed(0))
    e0[0] = 0
    plain, half, none = (BACKBONES["lightgcn"](8, 1, length_power=p) for p in (1.0, 0.5, 0.0))
    z = plain.readout(e0, graph.propagation)
    assert torch.equal(z, plain(e0, graph.propagation))
    assert torch.allclose(half.readout(e0, graph.propagation).norm(dim=1), z.norm(dim=1).sqrt(), atol=1e-5)
    assert torch.allclose(none.readout(e0, graph.propagation), functional.normalize(z, dim=1), atol=1e-6)
