"""The published ways to forget beside ours: each does what its paper says, on data so small that it can be checked."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from unlearnrec.benchmarks import unlearning
from unlearnrec.benchmarks.lab import NOTHING, Lab, Model, Pairs
from unlearnrec.benchmarks.methods import receraser, unlearnrec
from unlearnrec.benchmarks.methods.balanced import balanced_partition, nearest_with_room
from unlearnrec.benchmarks.methods.base import cut_edges
from unlearnrec.benchmarks.methods.ifru import Ifru, important_rows, newton_step
from unlearnrec.benchmarks.methods.objective import Objective, curvature, solve
from unlearnrec.benchmarks.methods.receraser import RecEraser
from unlearnrec.benchmarks.methods.unlearnrec import UnlearnRec
from unlearnrec.distributed.training.batch import batches
from unlearnrec.partitioning.sample import make_sample
from unlearnrec.partitioning.storage import Store

KEYS = {"backbone.embedding_size": 8, "backbone.num_layers": 1, "train.batch_size": 512}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("rivals")
    made = make_sample(folder, users=60, items=40, mean_interactions=12)
    data = unlearning.read_data(str(made["train"]), str(made["test"]))
    return Lab(Store(str(folder / "work")), data, unlearning.recipe_of(4, KEYS))


@pytest.fixture(scope="module")
def request_(lab: Lab) -> Pairs:
    return lab.simulated(1_000, 0.03)


# --- IFRU


def ridge(features: torch.Tensor, targets: torch.Tensor, penalty: float):
    """(the gradient at [d, 1], the minimum [d, 1]) of ridge regression."""
    matrix = features.T @ features + penalty * torch.eye(features.shape[1], dtype=features.dtype)
    return lambda x: matrix @ x - features.T @ targets, torch.linalg.solve(matrix, features.T @ targets)


def test_the_step_is_the_retrain_where_the_loss_is_convex() -> None:
    """A request takes rows out of the sum, and changes the features of those that stay, as spillover in a graph does."""
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(60, 7, generator=draw, dtype=torch.float64)
    targets = torch.randn(60, 1, generator=draw, dtype=torch.float64)
    spilled = features[10:].clone()
    spilled[:20] += 0.3 * torch.randn(20, 7, generator=draw, dtype=torch.float64)
    (before, start), (after, exact) = ridge(features, targets, 0.5), ridge(spilled, targets[10:], 0.5)
    everything, bend = torch.ones_like(start), curvature(after, start)
    step = newton_step(start, before, after, bend, everything, damping=0.0, steps=20)
    assert torch.allclose(start + step, exact, atol=1e-7) and (exact - start).norm() > 0.1
    # Without the spillover, and with one row left as it is, it is another model.
    direct, _ = ridge(features[10:], targets[10:], 0.5)
    assert not torch.allclose(newton_step(start, before, direct, bend, everything, 0.0, 20), step, atol=1e-2)
    free = everything.clone()
    free[0] = 0
    pruned = newton_step(start, before, after, bend, free, damping=0.0, steps=20)
    assert pruned[0] == 0 and torch.allclose((after(start + pruned) - before(start))[1:], 0 * free[1:], atol=1e-8)
    # Damping makes it shorter.
    lengths = [float(newton_step(start, before, after, bend, everything, c, 20).norm()) for c in (0.0, 1.0, 10.0)]
    assert lengths == sorted(lengths, reverse=True)


def test_conjugate_gradients_stop_where_the_map_is_not_positive() -> None:
    target = torch.tensor([[1.0], [2.0]])
    assert torch.equal(solve(lambda x: -x, target, 5), target)
    assert torch.allclose(solve(lambda x: 4 * x, target, 5), target / 4)
    assert torch.equal(solve(lambda x: x, 0 * target, 5), 0 * target)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_gradient_and_curvature_are_those_of_the_training_loss(lab: Lab, loss: str) -> None:
    lab = Lab(lab.store, lab.data, unlearning.recipe_of(1, KEYS | {"train.loss": loss, "train.l2": 0.01}))
    original = lab.train()
    e0 = original.e0.double()
    objective = Objective(lab, original, epoch=9)
    found = objective.gradient(e0)
    one = torch.randn(e0.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    other = torch.randn(e0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    bend = curvature(objective.gradient, e0)
    images = bend(one), bend(other)
    apart = float((one * images[1]).sum() - (other * images[0]).sum())
    assert abs(apart) < 1e-3 * float(one.norm() * images[1].norm())
    if loss == "bpr":
        graph, total, count = original.graph, 0.0, 0
        leaf = e0.clone().requires_grad_()
        z = original.backbone(leaf, graph.propagation)
        settings = lab._train_settings(lab.seed)
        for batch in batches(graph, lab.seed, 9, settings.num_batches):
            rows = batch.users, batch.items + graph.num_users, batch.negatives + graph.num_users
            user, positive, negative = (z[r] for r in rows)
            pairs = functional.softplus((user * negative).sum(1) - (user * positive).sum(1)).sum()
            l2 = sum((leaf[r] ** 2).sum() for r in rows) * 0.01 / 2
            total, count = total + (pairs + l2) * settings.scale, count + 1
        (expected,) = torch.autograd.grad(total / count, leaf)
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_ifru_changes_the_important_rows_and_no_others(lab: Lab, request_: Pairs) -> None:
    original, method = lab.train(), Ifru()
    method.prepare(lab, original)
    model = method.forget(lab, original, request_)
    free = important_rows(original, cut_edges(original, request_), request_)[:, 0] > 0
    touched = original.rows(request_)
    assert free[touched].all() and len(touched) < int(free.sum()) < len(free)
    moved = (model.e0 != original.e0).any(1)
    assert moved[touched].all() and not moved[~free].any()
    # As the retrain, it lowers the scores of what it forgot against all that is there.
    asked = original.scores(request_), model.scores(request_), lab.train(request_).scores(request_)
    assert asked[1].mean() < asked[0].mean() and asked[2].mean() < asked[0].mean()


# --- RecEraser


def test_shards_are_filled_from_the_least_distance_on() -> None:
    distances = np.random.default_rng(4).random((50, 4)).astype(np.float32)
    expected, room = np.full(50, -1), np.full(4, 13)
    for place in np.argsort(distances, axis=None):
        row, shard = divmod(int(place), 4)
        if expected[row] < 0 and room[shard]:
            expected[row], room[shard] = shard, room[shard] - 1
    assert np.array_equal(nearest_with_room(distances, 13), expected)
    with pytest.raises(ValueError, match="no room"):
        nearest_with_room(distances, 12)


def test_alike_interactions_share_a_shard() -> None:
    """Two groups of users with items of their own."""
    rows = np.repeat(np.array([[0, 1], [1, 0]], dtype=np.float32), 6, axis=0)
    users, items = (x.ravel() for x in np.mgrid[0:6, 0:6])
    pairs = np.concatenate([users, users + 6]), np.concatenate([items, items + 6])
    shard = balanced_partition(pairs, (rows, rows), 2, 20, seed=1)
    assert len(set(shard[:36])) == len(set(shard[36:])) == 1 and shard[0] != shard[-1]


@pytest.fixture
def few_shards(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(receraser, "SHARDS", 3)
    return 3


def test_a_request_retrains_the_shards_that_it_touches_as_if_they_never_had_it(lab: Lab, few_shards: int) -> None:
    original, method = lab.train(), RecEraser()
    method.prepare(lab, original)
    sizes = np.bincount(method.shard, minlength=few_shards)
    assert sizes.sum() == len(lab.data.users) and sizes.max() <= -(-len(lab.data.users) // few_shards)
    gone = np.flatnonzero(method.shard == 1)[:5]
    request = lab.data.users[gone], lab.data.items[gone]
    runs = set(lab.store.list("runs"))
    model = method.forget(lab, method.start(lab, original), request)
    assert method.touched(lab, request) == [1] and len(set(lab.store.list("runs")) - runs) == 1
    assert method.note(model).startswith("1 of 3 shards were retrained")
    for shard in range(few_shards):
        before, after = method.first.parts[shard], model.parts[shard]
        assert torch.equal(before.e0, after.e0) == (shard != 1)
    # Trained afresh on a table that never had these pairs, with as many steps as the shard's own run has.
    kept = np.setdiff1d(np.flatnonzero(method.shard == 1), gone)
    data = replace(lab.data, users=lab.data.users[kept], items=lab.data.items[kept])
    other = Lab(
        Store(lab.store.root_uri + "-afresh"),
        data,
        receraser.shard_recipe(lab.recipe, int(sizes[1]), len(lab.data.users)),
    )
    monkey = other._train_settings
    other._train_settings = lambda seed: replace(monkey(seed), total_pairs=int(sizes[1]))  # type: ignore[method-assign]
    assert torch.equal(other.train().e0, model.parts[1].e0)
    # The attention begins anew: the same parts give the same model.
    again = method.forget(lab, method.start(lab, original), request)
    assert torch.equal(again.readout, model.readout) and not torch.equal(model.readout, method.first.readout)


def test_the_attention_learns(lab: Lab, few_shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows have a lower loss than the mean of the shards' with which it begins."""
    method = RecEraser()
    losses = []
    for epochs in (0, 20):
        monkeypatch.setattr(receraser, "ATTENTION", replace(receraser.ATTENTION, epochs=epochs))
        method.prepare(lab, lab.train())
        graph, rows = method.first.graph, method.first.combined
        users, items = graph.pair_users.long(), graph.pair_items.long() + graph.num_users
        negatives = graph.num_users + torch.randint(graph.num_items, (len(users),), generator=torch.Generator())
        scores = [(rows[users] * rows[x]).sum(1) for x in (items, negatives)]
        losses.append(float(functional.softplus(scores[1] - scores[0]).mean()))
    assert losses[1] < losses[0]


# --- UnlearnRec


def test_unlearnrec_pretrains_its_tables_and_tunes_all_rows(
    lab: Lab, request_: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, models = lab.train(), []
    for epochs in (0, 1):
        monkeypatch.setattr(unlearnrec, "SETTINGS", unlearnrec.SETTINGS | {"epochs": 2, "batch_size": 256})
        monkeypatch.setattr(unlearnrec, "TUNING_EPOCHS", epochs)
        method = UnlearnRec()
        method.prepare(lab, original)
        tables = method.trained.h0.clone(), [x.clone() for x in method.trained.dense.parameters()]
        models.append(method.forget(lab, original, request_))
        # What is fine-tuned for one request is not there for the next.
        assert torch.equal(tables[0], method.trained.h0)
        assert all(torch.equal(x, y) for x, y in zip(tables[1], method.trained.dense.parameters(), strict=True))
    encoder, tuned = models
    assert (tuned.e0 != encoder.e0).any(1).all()
    # As released, H^0 is a part of every node's change, and only the touched nodes have more.
    change = encoder.e0 - original.e0
    untouched = torch.ones(len(change), dtype=torch.bool)
    untouched[original.rows(request_)] = False
    own = functional.leaky_relu(method.trained.h0, 0.99)  # the MLP begins as the identity but for this
    assert torch.allclose(change[untouched], own[untouched], atol=1e-6)
    assert (change[~untouched] - own[~untouched]).abs().sum(1).min() > 1e-6
    loss = [functional.softplus(torch.from_numpy(m.scores(request_))).mean() for m in (original, encoder)]
    assert loss[1] < loss[0]


def test_the_matrix_of_rivals_can_be_read() -> None:
    path = Path(unlearning.__file__).parent / "matrices" / "ml-1m-rivals.yaml"
    assert {"IFRU", "RecEraser", "UnlearnRec", "retrain"} <= set(unlearning.read_matrix(path).methods)


def test_a_request_for_nothing_retrains_nothing(lab: Lab, few_shards: int) -> None:
    method = RecEraser()
    method.prepare(lab, lab.train())
    model = method.forget(lab, method.first, NOTHING)
    assert isinstance(model, Model) and torch.equal(model.readout, method.first.readout)
    # The benchmark judges an ensemble as any model.
    assert torch.equal(model.rows(lab.simulated(1_000, 0.03)), lab.train().rows(lab.simulated(1_000, 0.03)))
