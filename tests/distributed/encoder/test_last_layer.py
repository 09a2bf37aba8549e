"""The last layer by least squares."""

import pytest
import spmd_forget
import torch

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder import last_layer
from unlearnrec.distributed.encoder.examples import Examples
from unlearnrec.distributed.encoder.influence import NUM_FEATURES, InfluenceEncoder, Side
from unlearnrec.distributed.encoder.last_layer import solve_last_layer
from unlearnrec.distributed.processes import run_processes

SIZE = 6


def side_of(seed: int = 2) -> Side:
    side = InfluenceEncoder(blocks=1, hidden=8, seed=seed).users
    assert isinstance(side, Side)
    return side


def examples(targets: int, noise: float) -> Examples:
    """Targets with one to four interactions each. Another last layer of the same MLP would meet them, but for noise."""
    generator = torch.Generator().manual_seed(3)
    target = torch.repeat_interleave(torch.randint(1, 5, (targets,), generator=generator))
    inputs = torch.randn(len(target), NUM_FEATURES, generator=generator)
    ways = torch.randn(len(target), 5, SIZE, generator=generator)
    true = side_of()
    with torch.no_grad():
        true.layers[-1].weight.copy_(torch.randn(5, 8, generator=generator))
        changes = (true(inputs)[:, :, None] * ways).sum(1)
    needed = torch.zeros(targets, SIZE).index_add_(0, target, changes)
    needed += noise * torch.randn(targets, SIZE, generator=generator)
    return Examples(inputs, ways, target, needed, torch.randint(2**62, (targets,), generator=generator))


def error(side: Side, x: Examples, counted: torch.Tensor) -> float:
    with torch.no_grad():
        changes = (side(x.features)[:, :, None] * x.directions).sum(1)
    predicted = torch.zeros_like(x.needed).index_add_(0, x.target, changes)
    return float(((predicted - x.needed)[counted] ** 2).sum() / (x.needed[counted] ** 2).sum())


def held_out(x: Examples) -> torch.Tensor:
    return torch.arange(len(x.needed)) % 5 == 0


@pytest.mark.parametrize("block_bytes", [1, 10**9])
def test_it_finds_the_weights_behind_the_targets(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_layer, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(last_layer, "_INTERACTIONS", 3 if block_bytes == 1 else 10**6)
    monkeypatch.setattr(last_layer, "_ROUND", 1e6)  # several rounds
    x, side = examples(300, noise=0.0), side_of()
    assert error(side, x, held_out(x)) > 0.5
    solve_last_layer(Comm(), side, x, held_out(x), 0)
    assert error(side, x, held_out(x)) < 1e-4


def test_it_never_is_worse_for_nodes_held_out() -> None:
    """With fewer equations than unknowns, and with nothing but noise, least squares fit what is not there."""
    kept = 0
    for targets, noise in ((8, 0.0), (8, 30.0), (60, 30.0), (300, 30.0), (300, 0.5)):
        x, side = examples(targets, noise), side_of()
        before = error(side, x, held_out(x))
        layer = side.layers[-1].weight.clone()
        solve_last_layer(Comm(), side, x, held_out(x), 0)
        assert error(side, x, held_out(x)) <= before * (1 + 1e-6)
        kept += torch.equal(side.layers[-1].weight, layer)
    assert 0 < kept < 5


def test_it_stays_where_nothing_is_held_out_or_nothing_is_known() -> None:
    x = examples(50, 0.0)
    empty = Examples(x.features[:0], x.directions[:0], x.target[:0], x.needed[:0], x.key[:0])
    still = Examples(x.features, 0 * x.directions, x.target, x.needed, x.key)
    unknown = Examples(x.features, x.directions * torch.nan, x.target, x.needed, x.key)
    nobody = torch.zeros(50, dtype=torch.bool)
    for data, out in ((x, nobody), (empty, nobody[:0]), (still, held_out(x)), (unknown, held_out(x)), (x, ~nobody)):
        side = side_of()
        solve_last_layer(Comm(), side, data, out, 0)
        for name, value in side_of().state_dict().items():
            assert torch.equal(side.state_dict()[name], value), name


def test_it_does_not_depend_on_who_has_which_target(monkeypatch: pytest.MonkeyPatch) -> None:
    x = examples(200, 0.1)
    alone = spmd_forget.solved(Comm(), x, held_out(x))
    parts = run_processes(2, spmd_forget.solved, x, held_out(x))
    for name, value in alone.items():
        assert torch.equal(parts[0][name], parts[1][name])
        assert torch.allclose(parts[0][name], value, rtol=1e-5, atol=1e-5), name
    monkeypatch.setattr(last_layer, "TARGETS", 100)
    some = spmd_forget.solved(Comm(), x, held_out(x))
    assert not torch.equal(some["weight"], alone["weight"])
    assert (some["weight"] - alone["weight"]).norm() < 0.3 * alone["weight"].norm()
