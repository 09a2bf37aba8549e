"""Runs that keep a state, and runs that begin at the state of another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import spmd
import torch

from unlearnrec.distributed.backbones.registry import make_backbone
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.graph.removal import Removal
from unlearnrec.distributed.training.checkpoint import Checkpoints
from unlearnrec.distributed.training.run import Kept, TrainRun, run_training
from unlearnrec.distributed.training.trainer import Trainer
from unlearnrec.partitioning.storage import Store

SPEC: dict[str, Any] = {"embedding_size": 8, "num_layers": 2}
WITHOUT = Removal(pair_users=spmd.pairs()[0][:9], pair_items=spmd.pairs()[1][:9])


def run_of(name: str, **changes: Any) -> TrainRun:
    return TrainRun(spmd.settings(), SPEC | {"name": name}, 4, "whole", **changes)


def trained(folder: Path, run: TrainRun) -> tuple[Trainer, list[dict[str, float]]]:
    without = (run.removal.pair_users, run.removal.pair_items) if run.removal else None
    store = Store(str(folder))
    return run_training(
        spmd.local_graph(Comm(), without=without), run, Checkpoints(store, run.folder), lambda **_: None
    )


def same(first: Trainer, second: Trainer) -> bool:
    one, other = first.state(), second.state()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("backbone", ["lightgcn", "ngcf"])
def test_a_run_forked_from_another_without_a_removal_ends_as_that_one(backbone: str, tmp_path: Path) -> None:
    whole = run_of(backbone, keep=[Kept(2, "kept")])
    first, curve = trained(tmp_path, whole)
    second, rest = trained(tmp_path, run_of(backbone, start="kept"))
    assert same(first, second)
    assert [entry["loss"] for entry in rest] == [entry["loss"] for entry in curve[2:]]
    # The kept state stays, and may be kept again by another attempt of the same run.
    assert same(trained(tmp_path, replace(whole, folder="again"))[0], first)
    # The first epochs alone keep the same state.
    trained(tmp_path, replace(whole, epochs=2, folder="part", keep=[Kept(2, "part-kept")]))
    states = [Checkpoints(Store(str(tmp_path)), name).load(Comm()) for name in ("kept", "part-kept")]
    assert states[0] is not None and states[1] is not None and states[0][0] == states[1][0] == 2
    assert all(torch.equal(states[0][1][key], states[1][1][key]) for key in states[0][1])


def test_an_interrupted_fork_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    trained(tmp_path, run_of("lightgcn", keep=[Kept(1, "kept")]))
    fork = run_of("lightgcn", start="kept", removal=WITHOUT)
    whole, curve = trained(tmp_path, replace(fork, folder="at once"))
    trained(tmp_path, replace(fork, folder="parts", epochs=3, checkpoint_every=2))
    # The second attempt needs the checkpoint alone.
    again, rest = trained(tmp_path, replace(fork, folder="parts", start="gone"))
    assert same(whole, again)
    assert [entry["loss"] for entry in rest] == [entry["loss"] for entry in curve]
    assert [entry["epoch"] for entry in rest] == [2, 3, 4]
    assert not same(whole, trained(tmp_path, run_of("lightgcn", removal=WITHOUT))[0])


def test_a_fork_needs_the_state_that_it_begins_at(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no state for 1 ranks"):
        trained(tmp_path, run_of("lightgcn", start="nowhere"))


def test_dense_weights_may_have_a_learning_rate_of_their_own(tmp_path: Path) -> None:
    def ended(rate: float | None) -> Trainer:
        settings = replace(spmd.settings(), dense_learning_rate=rate)
        return trained(tmp_path, replace(run_of("ngcf"), settings=settings, folder=f"rate {rate}"))[0]

    as_others = ended(None)
    assert same(as_others, ended(spmd.settings().learning_rate))
    slow = ended(1e-9)
    started = make_backbone(SPEC | {"name": "ngcf"}, spmd.settings().seed)
    for first, now, other in zip(
        started.parameters(), slow.backbone.parameters(), as_others.backbone.parameters(), strict=True
    ):
        assert torch.allclose(first, now, atol=1e-6) and not torch.allclose(first, other, atol=1e-6)
    moved = (slow.table.rows - Trainer(spmd.local_graph(Comm()), started, spmd.settings()).table.rows).abs()
    assert moved.mean() > 1e-3
