"""The scenarios of whole users: who is deleted and who is a stranger, and what is told of both."""

from pathlib import Path

import numpy as np
import pytest
from lanes import LONG

from unlearnrec.benchmarks import unlearning, unlearning_report
from unlearnrec.benchmarks.lab import Lab
from unlearnrec.benchmarks.people import Alone, columns, told_of_people
from unlearnrec.benchmarks.scenarios import SCENARIOS
from unlearnrec.distributed.attacks.people import TRACES
from unlearnrec.partitioning.sample import make_sample
from unlearnrec.partitioning.storage import Store

KEYS = {"backbone.embedding_size": 8, "backbone.num_layers": 1, "train.batch_size": 1024}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> unlearning.Data:
    made = make_sample(tmp_path_factory.mktemp("sample"), users=240, items=80, mean_interactions=15)
    return unlearning.read_data(str(made["train"]), str(made["test"]))


def test_strangers_are_in_no_data_and_leavers_are_whole(data: unlearning.Data, tmp_path: Path) -> None:
    lab = Lab(Store(str(tmp_path)), data, unlearning.recipe_of(1, KEYS))
    once, stream = (SCENARIOS[name](lab) for name in ("whole users", "user stream"))
    kept = once.lab.data
    strangers, leaving = np.unique(once.strangers[0]), np.unique(stream.request[0])
    assert len(strangers) == len(leaving) == 40 == len(stream.requests) == stream.marks[-1]
    assert not np.isin(strangers, kept.users).any() and not np.isin(strangers, leaving).any()
    assert len(kept.users) + len(once.strangers[0]) == len(data.users)
    for part in stream.requests:
        assert len(np.unique(part[0])) == 1 and len(part[0]) == (kept.users == part[0][0]).sum()
    assert np.array_equal(once.unknown[0], stream.request[0]) and np.array_equal(once.unknown[1], stream.request[1])
    assert np.array_equal(stream.lab.data.users, kept.users)
    assert {part[0][0] for part in once.alone} == set(once.request[0])


def test_what_is_told_of_people_is_that_of_a_retrain_or_not() -> None:
    draw = np.random.default_rng(0)
    reference = tuple(draw.normal(size=(n, TRACES + 3)) for n in (120, 150, 80))
    before, target = (tuple(x + 0.1 * draw.normal(size=x.shape) for x in reference) for _ in range(2))
    before[0][:, 0] += 0.5  # those who are deleted left a trace
    alone = Alone(np.arange(10), (target[0][:10], target[1][::2]), np.arange(0, 150, 2), 1.0)
    told = told_of_people([before, target, target], [reference], alone)
    for name in ("calibrated user attack auc", "trained user attack auc"):
        first, after, retrained = (one.value for one in told[name])
        assert first > 0.9 and after == retrained == pytest.approx(0.5, abs=0.12)
    assert told["closeness R2"][1].value == 1 and told["closeness R2"][0].value == 0
    first, after, retrained = (one.value for one in told["calibrated user attack auc, each alone"])
    assert first > 0.9 and after == retrained
    assert "trained user attack auc, each alone" not in told and "user attack tpr" not in told, "too few people"
    assert columns(told)["user attack auc before"] == told["user attack auc"][0].value


@LONG
def test_a_retrain_is_the_target_and_each_is_also_forgotten_alone(data: unlearning.Data, tmp_path: Path) -> None:
    matrix = unlearning.Matrix(
        name="tiny",
        backbones={"LightGCN": KEYS | {"pretrain.counterfactuals": 1}},
        epochs=1,
        scenarios=("whole users", "user stream"),
        methods=("retrain", "retrain, another seed", "cut"),
    )
    cells = list(unlearning.run(matrix, data, Store(str(tmp_path))))
    retrain, other, cut = cells[:3]
    for name in ("user attack auc", "calibrated user attack auc", "user difference attack auc"):
        assert retrain[name] == retrain[f"{name} retrained"] == cut[f"{name} retrained"]
        assert retrain["off the retrain"][name] == [0, 0, 0] != other["off the retrain"][name]
    assert retrain["closeness R2"] == 1 and cut["closeness R2"] < 1
    assert "user attack auc, each alone" in cut and cut["seconds of one user"] > 0
    assert "user attack auc, each alone" not in retrain
    assert [row["requests"] for row in cells[-1]["checkpoints"]] == [40]
    assert cells[-1]["checkpoints"][0]["user attack auc retrained"] == cells[3]["user attack auc"]
    unlearning_report.write(tmp_path / "x.md", "x", "", cells)
    text = (tmp_path / "x.md").read_text()
    assert text.count("(before the request)") == 2 and "Attacks on users, difference from the retrain [95%]" in text
    assert "| retrain | +0.000 [+0.000, +0.000] |" in text and "each alone" in text
