"""The benchmark of ways to forget: its runs, scenarios, methods and tables, on a small sample."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from fake_workers import OneWorker
from small_output import copied
from trained_output import rows_by_partition

from unlearnrec.benchmarks import lab as lab_module
from unlearnrec.benchmarks import unlearning, unlearning_report
from unlearnrec.benchmarks.judge import judge
from unlearnrec.benchmarks.lab import Lab, Model, Recipe
from unlearnrec.benchmarks.methods import METHODS
from unlearnrec.benchmarks.panel import Panel, Seen
from unlearnrec.benchmarks.scenarios import SCENARIOS, STREAM, TOPIC, Scenario
from unlearnrec.benchmarks.unlearning_report import strength
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config, parse_config
from unlearnrec.cluster.models import pretraining
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.sample import make_sample
from unlearnrec.partitioning.storage import Store

# What these change lies in the rows of the request's nodes alone.
LOCAL = (
    "cut",
    "withdrawal",
    "ascent",
    "influence function",
    "published encoder",
    "counterfactual encoder",
    "encoder, fine-tuned",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = make_sample(tmp_path_factory.mktemp("sample"), users=120, items=80, mean_interactions=20)
    return {name: str(made[name]) for name in ("train", "test")}


KEYS = {"backbone.embedding_size": 8, "backbone.num_layers": 1, "train.batch_size": 256}


def recipe() -> Recipe:
    return unlearning.recipe_of(6, KEYS)


@pytest.fixture(scope="module")
def lab(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    store = Store(str(tmp_path_factory.mktemp("work")))
    return Lab(store, unlearning.read_data(files["train"], files["test"]), recipe())


@pytest.fixture(scope="module")
def request_(lab: Lab) -> Scenario:
    return SCENARIOS["interactions 5%"](lab)


def codes(lab: Lab, model: Model) -> np.ndarray:
    users, items = model.graph.pair_users, model.graph.pair_items
    return lab.data.codes((users.numpy(), items.numpy()))


def test_a_run_is_made_once_and_depends_on_what_it_is_named_by(lab: Lab, request_: Scenario) -> None:
    first = lab.train(request_.request)
    runs = lab.store.list("runs")
    again = Lab(lab.store, lab.data, lab.recipe).train(request_.request)
    assert torch.equal(first.e0, again.e0) and lab.store.list("runs") == runs
    other = lab.train(request_.request, seed=5)
    assert not torch.equal(other.e0, first.e0) and len(lab.store.list("runs")) == len(runs) + 1


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_forgets(name: str, lab: Lab, request_: Scenario) -> None:
    original, method = lab.train(), METHODS[name]()
    method.prepare(lab, original)
    before = original.e0.clone()
    model = method.forget(lab, method.start(lab, original), request_.request)
    left = np.setdiff1d(codes(lab, original), lab.data.codes(request_.request))
    assert np.array_equal(codes(lab, model), left)
    assert torch.equal(original.e0, before) and np.array_equal(codes(lab, original), codes(lab, lab.train()))
    if name in LOCAL:
        touched = torch.zeros(len(before), dtype=torch.bool)
        touched[original.rows(request_.request)] = True
        assert torch.equal(model.e0[~touched], before[~touched])
        assert name == "cut" or (model.e0[touched] != before[touched]).any()


def test_fine_tuning_goes_on_from_the_encoder_with_draws_of_its_own(lab: Lab, request_: Scenario) -> None:
    original, methods = lab.train(), [METHODS[name]() for name in ("counterfactual encoder", "encoder, fine-tuned")]
    for method in methods:
        method.prepare(lab, original)
    encoder, tuned = (method.forget(lab, original, request_.request) for method in methods)
    again = methods[1].forget(lab, original, request_.request)
    assert torch.equal(again.e0, tuned.e0)
    rows = original.rows(request_.request)
    rows = rows[tuned.graph.degrees[rows] > 0]
    assert (tuned.e0[rows] != encoder.e0[rows]).any(1).all()


@pytest.fixture(scope="module")
def product(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """SimGCL as `ingest` and `train` leave it. Not to be changed."""
    config = parse_config(
        {
            "interactions": files["train"],
            "output": str(tmp_path_factory.mktemp("product") / "output"),
            "cluster": {"partitions": 1},
            "backbone": {"name": "simgcl", "embedding_size": 8, "num_layers": 2},
            "train": {"epochs": 3, "batch_size": 256},
            "pretrain": {"epochs": 3, "counterfactuals": 2, "fork": 0.5},
        }
    )
    pipeline.ingest(config)
    pipeline.train(config, group=OneWorker())
    return config


@pytest.mark.parametrize(("asked", "worth"), [(False, True), (True, True), (True, False)])
def test_the_encoder_of_the_benchmark_is_that_of_the_commands(
    asked: bool,
    worth: bool,
    product: Config,
    files: dict[str, str],
    lab: Lab,
    request_: Scenario,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where an encoder of readouts is asked for, and found to be worth nothing."""
    for module in (pretraining, lab_module):
        monkeypatch.setattr(module, "explains_unseen_nodes", lambda fitted: worth)
    around = asked and worth
    config = copied(product, tmp_path)
    config = config.model_copy(update={"influence": config.influence.model_copy(update={"around": asked})})
    same = replace(
        recipe(),
        backbone=config.backbone.model_dump(),
        epochs=3,
        pretrain=config.pretrain.model_dump(),
        around=asked,
    )
    other, method = Lab(lab.store, lab.data, same), METHODS["counterfactual encoder"]()
    original, request = other.train(), (request_.request[0][:20], request_.request[1][:20])
    method.prepare(other, original)
    model = method.forget(other, original, request)

    table = pq.read_table(files["train"])
    sides = ("user_id", "item_id")
    ids = [np.unique(table[side].to_numpy())[dense] for side, dense in zip(sides, request, strict=True)]
    pq.write_table(pa.table(ids, names=sides), tmp_path / "request.parquet")
    group = OneWorker()
    progress, notes = Progress(), list[str]()
    monkeypatch.setattr(progress, "note", lambda note: None if note.startswith("plan of ") else notes.append(note))
    fitted = pipeline.pretrain(config, group=group, progress=progress)
    assert fitted.get("around", False) == around and ("readout_user_r2_held_out" in fitted) == asked
    assert [note.startswith("influence.around: ") for note in notes] == [True] * (asked and not worth) + [False] * (
        not worth
    )
    assert all("explains nothing" in note for note in notes[1:])
    session = Session(config)
    assert session.version().model.encoder.around == around
    (before,) = rows_by_partition(session, session.version())
    answer = pipeline.forget(config, interactions=str(tmp_path / "request.parquet"), group=group)
    (after,) = rows_by_partition(session, session.version())
    assert answer["removed_interactions"] == 20 and answer["deleted_users"] == answer["deleted_items"] == 0
    assert np.array_equal(original.e0.numpy(), before) and np.array_equal(model.e0.numpy(), after)
    changed, touched = (after != before).any(1), np.zeros(len(before), dtype=bool)
    touched[original.rows(request)] = True
    assert changed[touched].all() and changed[~touched].any() == around


def test_retraining_is_the_reference_and_cutting_is_not(lab: Lab, request_: Scenario) -> None:
    original, target = lab.train(), lab.train(request_.request)
    cut = METHODS["cut"]().forget(lab, original, request_.request)
    panel = Panel.of(request_)
    others = [Seen(lab.train(request_.request, seed=s), panel) for s in (1, 2, 3)]

    def of(model: Model) -> dict:
        before, after, retrained = (Seen(m, panel) for m in (original, model, target))
        return judge(lab.data, panel, (before, after, retrained), others)

    best, lazy, nothing = of(target), of(cut), of(original)
    for name in ("gap closed", "shift R2", "shift slope", "row R2", "recall, share of retrained"):
        assert best[name] == pytest.approx(1)
    assert lazy["row R2"] == 0 and 0 < lazy["shift R2"] < 0.8
    assert best["attack auc, equivalence p"] < lazy["attack auc, equivalence p"]
    closed = [x for x in best["gap closed by user degree"] if not np.isnan(x)]
    assert closed and closed == pytest.approx([1] * len(closed))
    # By every measure the retrain is all of the gap and nothing done is none of it, or else there is none for anybody.
    assert (
        set(best["shares"])
        == set(lazy["shares"])
        >= {"attack tpr", "returns to top", "MI-BF", "MI-NG", "recall", "ndcg"}
    )
    for name, share in best["shares"].items():
        gap = best[f"{name} retrained"] - best[f"{name} before"]
        assert best[name] == best[f"{name} retrained"] and nothing[name] == best[f"{name} before"]
        if np.isnan(share).all():
            assert np.isnan(nothing["shares"][name]).all() and np.isnan(lazy["shares"][name]).all()
        else:
            assert share == pytest.approx((1, 1, 1)) and nothing["shares"][name] == pytest.approx((0, 0, 0))
            value, low, high = lazy["shares"][name]
            assert low <= value <= high and value == pytest.approx((lazy[name] - lazy[f"{name} before"]) / gap)
    assert best["MI-BF before"] == 1 and best["difference attack auc before"] == 0.5
    assert not np.isnan(best["shares"]["attack auc"].value)
    change = best["change on untouched users"]
    assert change == best["change on untouched users retrained"] == lazy["change on untouched users retrained"] > 0
    assert nothing["change on untouched users"] == 0 != lazy["change on untouched users"]


def test_the_panel_has_no_pair_twice(lab: Lab, request_: Scenario) -> None:
    panel, data = Panel.of(request_), lab.data
    known = data.codes((data.users, data.items))
    forgotten, held_out, kept, random = (
        data.codes(p) for p in (panel.forgotten, panel.held_out, panel.kept, panel.random)
    )
    assert np.isin(forgotten, known).all() and np.isin(kept, known).all() and not np.isin(kept, forgotten).any()
    assert not np.isin(random, known).any() and not np.isin(random, held_out).any()
    assert not np.isin(panel.untouched, request_.request[0]).any()


def test_quality_is_of_users_who_are_left(lab: Lab) -> None:
    scenario = SCENARIOS["users"](lab)
    seen = Seen(lab.train(), Panel.of(scenario))
    assert np.isin(scenario.request[0], lab.data.test_users).any()
    left = np.setdiff1d(lab.data.test_users, scenario.request[0])
    assert seen.quality.users.tolist() == left.tolist()
    assert seen.recall == seen.quality.recall.mean()


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_scenarios_ask_for_interactions_that_are_there(name: str, lab: Lab) -> None:
    scenario = SCENARIOS[name](lab)
    asked = lab.data.codes(scenario.request)
    data = scenario.lab.data
    assert len(asked) and np.array_equal(asked, np.unique(asked))
    assert np.isin(asked, data.codes((data.users, data.items))).all()
    genuine = np.isin(asked, lab.data.codes((lab.data.users, lab.data.items)))
    assert not genuine.any() if name == "adversarial" else genuine.all()
    if name == "users":
        left = np.setdiff1d(data.codes((data.users, data.items)), asked) // data.num_items
        assert not np.isin(scenario.request[0], left).any()
    if name == "sensitive":
        assert (np.unique(scenario.request[0], return_counts=True)[1] == TOPIC).all()
    if name == "stream":
        parts = np.concatenate([lab.data.codes(r) for r in scenario.requests])
        assert len(scenario.requests) == STREAM[-1] and np.array_equal(np.sort(parts), asked)


def test_no_method_learns_from_what_it_is_judged_on(lab: Lab) -> None:
    judged = lab.data.codes(SCENARIOS["interactions 5%"](lab).request)
    for pairs, _ in lab.counterfactuals():
        assert not np.array_equal(lab.data.codes(pairs), judged[: len(pairs[0])])
        assert np.isin(lab.data.codes(pairs), judged).mean() < 0.3


def test_the_benchmark_resumes_and_says_what_it_measured(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = {
        "name": "tiny",
        "epochs": 2,
        "backbones": {
            "LightGCN": {"backbone.embedding_size": 8, "train.batch_size": 512},
            "SimGCL": {"backbone.name": "simgcl", "backbone.embedding_size": 8, "train.batch_size": 512},
        },
        "scenarios": ["interactions 5%", "users"],
        "methods": ["retrain", "cut", "counterfactual encoder"],
        "only": {"users": ["retrain", "cut"]},
        "other_seeds": 3,
        "spread": ["interactions 5%"],
        "shadows": 2,
        "shadowed": ["interactions 5%"],
    }
    config, results, work = tmp_path / "matrix.yaml", tmp_path / "results" / "tiny.md", tmp_path / "work"
    config.write_text(yaml.safe_dump(matrix))
    arguments = [
        "--config",
        str(config),
        "--train",
        files["train"],
        "--test",
        files["test"],
        "--work",
        str(work),
        "--results",
        str(results),
    ]
    unlearning.main(arguments)
    text = results.read_text()
    assert text.startswith("# Unlearning on tiny") and str(tmp_path) not in text
    assert (results.parent / "tiny.svg").stat().st_size > 1000
    assert text.count("| counterfactual encoder |") == 7 and "equivalence p" in text and "shadow attack auc" in text
    assert text.count("Share of the gap to the retrain, by measure:") == 4
    assert "| counterfactual encoder |" in text.split("by measure:")[1] and "`cut`, which changes no parameter" in text
    stamps = {p: p.stat().st_mtime_ns for p in work.rglob("*") if p.is_file()}
    cells = sorted((work / "cells").iterdir())
    assert len(cells) == 10 and {json.loads(p.read_text())["method"] for p in cells} == set(matrix["methods"])
    cells[0].unlink()
    unlearning.main(arguments)
    after = {p: p.stat().st_mtime_ns for p in work.rglob("*") if p.is_file()}
    assert {p for p in stamps if after[p] != stamps[p]} == {cells[0]}
    # Cells of other code are not mixed in; its training runs are.
    monkeypatch.setattr(unlearning, "CODE", "other")
    unlearning.main(arguments)
    new = {p for p in work.rglob("*") if p.is_file()} - set(stamps)
    assert len(new) == 10 and {p.parent.name for p in new} == {"cells"}


@pytest.mark.parametrize(
    ("name", "anew"),
    [
        ("benchmarks/judge.py", True),
        ("benchmarks/methods/encoder.py", True),
        ("distributed/encoder/changes.py", True),
        ("distributed/backbones/simgcl.py", True),
        ("benchmarks/unlearning_report.py", False),
    ],
)
def test_cells_are_of_the_code_that_makes_their_numbers(name: str, anew: bool, tmp_path: Path) -> None:
    root = Path(unlearning.__file__).resolve().parent.parent
    for folder in ("benchmarks", "distributed"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
    assert unlearning.code_of(tmp_path) == unlearning.CODE
    with (tmp_path / name).open("a") as file:
        file.write("# more\n")
    assert (unlearning.code_of(tmp_path) != unlearning.CODE) == anew


def cell(method: str, scenario: str = "users", **values: object) -> dict:
    """As the benchmark stores it: a retrain that meets its criteria, but for what is given."""
    shares = {"attack auc": [1.0, 0.9, 1.1], "MI-BF": [0.5, 0.4, 0.6], "ndcg": [np.nan] * 3}
    row = {"method": method, "backbone": "LightGCN", "seed": 0, "scenario": scenario, "interactions": 9, "requests": 1}
    costs = {
        "seconds": 1.0,
        "retrain seconds": 2.0,
        "preparation seconds": 0.0,
        "peak bytes": 2,
        "preparation peak bytes": 1,
        "checkpoints": [],
        "shares": shares,
    }
    met = {"gap closed": 1.0, "shift R2": 1.0, "recall, share of retrained": 1.0, "recall": 0.1, "recall before": 0.1}
    return row | costs | met | values


def test_shares_are_shown_with_their_intervals(tmp_path: Path) -> None:
    unlearning_report.write(tmp_path / "x.md", "x", "", [cell("retrain"), cell("cut")])
    text = (tmp_path / "x.md").read_text()
    assert "| method | ndcg | MI-BF |" in text and "| cut | - | 0.50 [0.40, 0.60] |" in text
    assert "1.000 [0.900, 1.100]" in text


def test_the_report_says_whether_cutting_passes() -> None:
    reference, lazy = cell("retrain"), cell("cut", **{"gap closed": 0.5})
    (strong,) = strength([reference, lazy])
    assert "retrain meets in none of the 1 cells" in strong
    (weak,) = strength(
        [reference, cell("cut"), cell("retrain", "popular"), cell("cut", "popular", **{"shift R2": 0.1})]
    )
    assert "in 1 of 2 cells, in which they are too weak: users with LightGCN, seed 0." in weak
    # Nobody can be asked to meet what the retrain does not, nor for a gap that is none.
    strict = {"recall, z": 0.0, "attack auc, equivalence p": 0.5, "recall, equivalence p": 0.5}
    assert "in 1 of 1 cells" in strength([cell("retrain", **strict), cell("cut", **strict)])[0]
    none = {"gap closed": np.nan, "shift R2": None}
    assert strength([reference]) == strength([cell("retrain", **none), cell("cut", **none)]) == []


def test_a_bad_matrix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    base = {"name": "x", "backbones": {"x": {}}, "scenarios": ["users"], "methods": ["cut"]}
    for change, message in (
        ({"methods": ["magic"]}, "'magic' is none of retrain, "),
        ({"scenarios": ["all"]}, "'all' is none of"),
        ({"epoch": 3}, "epoch"),
    ):
        path.write_text(yaml.safe_dump(base | change))
        with pytest.raises(InputError, match=message):
            unlearning.read_matrix(path)
