"""What local changes can reach: the forms of the retrain that are attacked, and the benchmark's file on a small sample."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lanes import LONG

from unlearnrec.benchmarks import ceiling, unlearning
from unlearnrec.benchmarks.lab import Lab
from unlearnrec.benchmarks.scenarios import SCENARIOS
from unlearnrec.partitioning.sample import make_sample
from unlearnrec.partitioning.storage import Store

KEYS = {"backbone.embedding_size": 8, "backbone.num_layers": 1, "train.batch_size": 512}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = make_sample(tmp_path_factory.mktemp("sample"), users=300, items=150, mean_interactions=20)
    return {name: str(made[name]) for name in ("train", "test")}


def test_forms_have_the_rows_of_the_retrain_where_they_say_so(files, tmp_path):
    data = unlearning.read_data(files["train"], files["test"])
    lab = Lab(Store(str(tmp_path)), data, unlearning.recipe_of(1, KEYS))
    request = SCENARIOS["interactions 0.1%"](lab).request
    original, target = lab.train(), lab.train(request)
    forms = ceiling.with_rows_of(original, target, request)
    touched = np.zeros(len(original.e0), dtype=bool)
    touched[original.rows(request).numpy()] = True
    near = touched.copy()
    for user, item in zip(data.users, data.items, strict=True):
        near[user] |= touched[data.num_users + item]
        near[data.num_users + item] |= touched[user]
    is_user = np.arange(len(touched)) < data.num_users
    expected = {
        "rows of touched users": touched & is_user,
        "rows of touched items": touched & ~is_user,
        "rows of touched nodes": touched,
    }
    for name, mask in expected.items():
        of_target = (forms[name].e0 == target.e0).all(1).numpy()
        of_original = (forms[name].e0 == original.e0).all(1).numpy()
        assert of_target[mask].all() and of_original[~mask].all(), name
        assert forms[name].graph.degrees.sum() == target.graph.degrees.sum()
    # The retrain's graph has no edge of the request, which here does not separate any node from all touched ones.
    around = (forms["rows of these and their neighbours"].e0 == target.e0).all(1).numpy()
    assert around[touched].all() and around.sum() > touched.sum() and not around[~near].any()
    lengths = forms["lengths of touched rows"].e0
    assert torch.allclose(lengths.norm(dim=1)[touched], target.e0.norm(dim=1)[touched], rtol=1e-5)


@LONG
def test_the_file_has_a_table_for_the_request_and_for_each_attack_on_canaries(files, tmp_path, monkeypatch):
    plan = {
        "name": "sample",
        "epochs": 2,
        "backbones": {"LightGCN": KEYS},
        "scenarios": ["interactions 5%"],
        "methods": ["cut"],
        "other_seeds": 1,
        "runs": 4,
        "canaries": 20,
    }
    config, results = tmp_path / "plan.yaml", tmp_path / "results.md"
    config.write_text(yaml.safe_dump(plan))
    options = ["--config", config, "--work", tmp_path / "work", "--results", results, "--device", "cpu"]
    arguments = [str(x) for x in (*options, "--train", files["train"], "--test", files["test"])]
    ceiling.main(arguments)
    text = Path(results).read_text()
    retrained = next(line for line in text.splitlines() if line.startswith("| retrained |"))
    assert "[+0.000, +0.000]" in retrained, "the retrain does not differ from itself"
    for title in ("u-lira", "u-lira on rows", "klom", "rows of touched nodes", "floor", "those who stay"):
        assert title in text
    # Runs are kept: nothing is trained again.
    monkeypatch.setattr("unlearnrec.benchmarks.lab.run_training", None)
    ceiling.main(arguments)
    assert Path(results).read_text() == text
