"""The benchmarks run, and their tables say what the code under them says."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from lanes import LONG

from unlearnrec.benchmarks import affected, partitioning, requests, results_file, step, training, unlearning
from unlearnrec.benchmarks.lab import Lab
from unlearnrec.cluster.jobs import package
from unlearnrec.distributed.measures.quality import evaluate
from unlearnrec.partitioning.assignment import Assignment, assign, balance, edge_cut
from unlearnrec.partitioning.graph import read_interactions
from unlearnrec.partitioning.halo import HALOS, rows_per_layer
from unlearnrec.partitioning.lake import Columns
from unlearnrec.partitioning.sample import make_sample
from unlearnrec.partitioning.shard import build_shards
from unlearnrec.partitioning.storage import AWS, Store


def table_of(text: str) -> list[dict[str, str]]:
    lines = [[x.strip() for x in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_results_go_to_the_source_tree_or_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert results_file.folder() == Path(results_file.__file__).parent / "results"
    monkeypatch.setattr(package, "ROOT", tmp_path)  # as in site-packages
    assert results_file.folder() == Path("benchmark-results")


def test_a_step_is_measured_against_its_sums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--users", "300", "--items", "90", "--interactions", "3000", "--batch", "1000", "--embedding-size", "8"]
    output = tmp_path / "step.md"
    step.main([*sizes, "--partitions", "2", "--rounds", "1", "--output", str(output), "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = table_of(output.read_text(encoding="utf-8"))
    assert [row["halo"] for row in rows] == ["pull", "cover"] == [run["halo"] for run in found["runs"]]
    assert found["ratio"] == max(run["ratio"] for run in found["runs"])
    users, items, of_user, of_item = step.generate(300, 90, 3000, 0)
    owners = Assignment(*((x * 2 // step.COMMUNITIES).astype("int16") for x in (of_user, of_item)), 2)
    shards = build_shards(users, items, [1] * len(users), owners)
    for run in found["runs"]:
        assert run["halo rows"] == 4 * rows_per_layer(shards, owners, run["halo"])
        assert run["halo, MB"] == pytest.approx(run["halo rows"] * 8 * 4 / 1e6)
        assert run["step, s"] > 0 < run["bare sums, s"]


def test_partitioning_writes_what_ingest_would_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = make_sample(tmp_path / "data", users=60, items=40, mean_interactions=10)["train"]
    output = tmp_path / "results" / "table.md"
    partitioning.main(["--interactions", train, "--partitions", "2", "3", "--name", "tiny", "--output", str(output)])
    text = output.read_text(encoding="utf-8")
    assert text.strip() in capsys.readouterr().out
    assert str(tmp_path) not in text and "--interactions data/train.parquet" in text
    assert text.startswith("# Partitioning: tiny") and results_file.machine() in text

    rows = table_of(text)
    assert [(row["partitions"], row["strategy"]) for row in rows] == [
        ("2", "metis"),
        ("2", "hash"),
        ("2", "stream"),
        ("3", "metis"),
        ("3", "hash"),
        ("3", "stream"),
    ]
    graph = read_interactions(train, Columns(), AWS)
    for row in rows:
        assignment = assign(graph, row["strategy"], int(row["partitions"]), seed=0)
        shards = build_shards(graph.users, graph.items, graph.counts, assignment)
        for halo in HALOS:
            assert int(row[f"{halo}, rows"].replace(",", "")) == rows_per_layer(shards, assignment, halo)
        assert float(row["edge cut"]) == pytest.approx(edge_cut(graph, assignment), rel=1e-3)
        assert float(row["balance"]) == pytest.approx(balance(graph, assignment), rel=1e-3)


@LONG
@pytest.mark.slow
def test_affected_partitions_alone_are_called(tmp_path: Path, ray_session: None) -> None:
    output = tmp_path / "affected.md"
    sizes = ["--users", "60", "--degree", "8", "--removed", "24", "--repeat", "1"]
    affected.main([*sizes, "--output", str(output)])
    rows = table_of(output.read_text(encoding="utf-8"))
    assert [row["affected partitions"] for row in rows] == ["1", "2", "3", "4"]
    assert [len(row["busy, s"].split(",")) for row in rows] == [1, 2, 3, 4]
    assert {row["interactions"] for row in rows} == {"24"} and {row["calls to others"] for row in rows} == {"0"}


def test_a_commands_paths_are_shown_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "of-the-sample.md"
    partitioning.main(["--partitions", "2", "--output", str(output)])
    assert "3,000 users and 1,500 items" in capsys.readouterr().out
    assert str(tmp_path) not in output.read_text(encoding="utf-8")


def test_training_says_what_the_same_run_is_worth(tmp_path: Path) -> None:
    files = make_sample(tmp_path / "data", users=60, items=40, mean_interactions=10)
    keys = {"backbone.embedding_size": 8, "backbone.num_layers": 1, "train.batch_size": 256}
    config, results = tmp_path / "recipes.yaml", tmp_path / "results.md"
    recipes = {"LightGCN": keys, "NGCF": keys | {"backbone.name": "ngcf", "train.epochs": 3}}
    config.write_text(yaml.safe_dump({"name": "tiny", "epochs": 2, "backbones": recipes}), encoding="utf-8")
    places = ["--work", str(tmp_path / "work"), "--results", str(results)]
    arguments = ["--config", str(config), "--train", files["train"], "--test", files["test"], *places]
    training.main(arguments)
    text = results.read_text(encoding="utf-8")
    training.main(arguments)
    assert results.read_text(encoding="utf-8") == text  # the curves, and with them the seconds, were kept

    data = unlearning.read_data(files["train"], files["test"])
    sections = text.split("## ")[1:]
    assert [section.split("\n")[0] for section in sections] == list(recipes)
    for section, (title, overrides) in zip(sections, recipes.items(), strict=True):
        rows = table_of(section)
        assert len(rows) == {"LightGCN": 2, "NGCF": 3}[title]
        model = Lab(Store(str(tmp_path / "lab")), data, unlearning.recipe_of(2, overrides)).train()
        test = (torch.from_numpy(data.test_users), torch.from_numpy(data.test_items))
        expected = evaluate(model.graph, model.readout, *test, (20,), 1024)
        assert float(rows[-1]["Recall@20"]) == pytest.approx(expected["recall@20"], rel=1e-3)
        assert float(rows[-1]["NDCG@20"]) == pytest.approx(expected["ndcg@20"], rel=1e-3)


def test_requests_counts_what_the_log_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "requests.md"
    options = ["--threads", "2", "--clients", "2", "--earlier", "0", "3", "--seconds", "0.2"]
    requests.main([*options, "--work", str(tmp_path), "--results", str(path)])
    text = path.read_text(encoding="utf-8")
    assert text.strip() in capsys.readouterr().out and str(tmp_path) not in text
    rows = table_of(text.split("The disk by itself")[0])
    assert [(row["face"], row["earlier"]) for row in rows] == [(f, n) for f in ("intake", "http") for n in ("0", "3")]
    for row in rows:
        assert float(row["requests/s"].replace(",", "")) > 0 and float(row["p50, ms"]) <= float(row["p99, ms"])
        assert 1 <= float(row["records"]) <= 2 and 200 < int(row["bytes"].replace(",", "")) < 1000
    # Two for the content, and up to two for the log: file and folder, each.
    assert all(3 <= float(row["fsyncs"]) < 5 for row in rows if row["face"] == "intake")
