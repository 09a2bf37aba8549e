"""Nothing that is infinite or NaN becomes a part of a version."""

import math
from pathlib import Path

import pytest
import spmd
import torch

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder.examples import Examples
from unlearnrec.distributed.encoder.influence import NUM_FEATURES, InfluenceEncoder
from unlearnrec.distributed.encoder.pretrain import PretrainSettings, check_encoder, fit
from unlearnrec.distributed.training.checkpoint import Checkpoints
from unlearnrec.distributed.training.finite import are_finite, scores_are_finite
from unlearnrec.distributed.training.run import TrainRun, run_training
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import Store

SPEC = {"embedding_size": 16, "num_layers": 2}


def run(folder: Path, backbone: str, epochs: int = 3, **changes: object) -> None:
    checkpoints = Checkpoints(Store(str(folder)), "run")
    settings = spmd.settings(**changes)
    run = TrainRun(settings, SPEC | {"name": backbone}, epochs, "run", checkpoint_every=1)
    run_training(spmd.local_graph(Comm()), run, checkpoints, lambda **_: None)


@pytest.mark.parametrize("backbone", ["lightgcn", "ngcf", "simgcl"])
@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("batch_size", [64, 100_000])
def test_a_training_that_diverges_is_named_with_its_epoch(backbone: str, loss: str, batch_size: int, tmp_path: Path):
    with pytest.raises(InputError, match=r"diverged in epoch [123]: .* Lower train.learning_rate \(it is 1e\+2"):
        run(tmp_path, backbone, learning_rate=1e22 if loss == "bpr" else 1e25, loss=loss, batch_size=batch_size)


def test_rows_that_are_finite_but_whose_scores_are_not_are_no_result(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diverged in epoch 1: rows, weights or scores are infinite"):
        run(tmp_path, "lightgcn", epochs=1, initial_deviation=1e30, learning_rate=1e-9)
    assert not Store(str(tmp_path)).list("run")  # no checkpoint to go on from


def test_a_training_that_converges_is_left_alone(tmp_path: Path) -> None:
    run(tmp_path, "lightgcn", learning_rate=0.01)


def test_an_encoder_that_diverges_is_named() -> None:
    encoder = InfluenceEncoder(blocks=1, seed=0)
    check_encoder(encoder, 0, 0.003)
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] = math.inf
    with pytest.raises(InputError, match=r"diverged in epoch 5: .* Lower pretrain.learning_rate \(it is 0.003\)"):
        check_encoder(encoder, 4, 0.003)


def test_an_encoder_whose_predictions_are_no_numbers_is_no_result() -> None:
    encoder, n = InfluenceEncoder(blocks=1, seed=0), torch.arange(40)
    side = Examples(torch.rand(40, NUM_FEATURES), torch.rand(40, 5, 4), n, torch.rand(40, 4), n)
    fit(Comm(), encoder, (side, side), PretrainSettings(0, 1, 40, 0.003))
    with pytest.raises(
        InputError, match=r"diverged in epoch 1: predictions .* Lower pretrain.learning_rate \(it is 1e"
    ):
        fit(Comm(), encoder, (side, side), PretrainSettings(0, 1, 40, 1e20))


def test_what_is_finite() -> None:
    assert are_finite([torch.zeros(0, 3), torch.ones(2, 2)]) and are_finite([])
    for bad in (math.nan, math.inf, -math.inf):
        assert not are_finite([torch.ones(3), torch.tensor([[1.0, bad]])])
    assert scores_are_finite(torch.zeros(0, 4)) and scores_are_finite(torch.full((2, 4), 1e18))
    assert not scores_are_finite(torch.full((2, 4), 1e19))  # their product has no float32
