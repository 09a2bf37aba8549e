"""An unlearned model beside a retrained one: `evaluate --reference`, and the gate of the quickstart."""

import json
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_output import copied

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands.quickstart import passed
from unlearnrec.cluster.config.schema import parse_config, to_yaml
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.cluster.reporting.run_verdict import ALIKE
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.sample import make_sample

FORGOTTEN = 300


def at(config, output, **more):
    return config.model_copy(update={"output": str(output), **more})


def partitions(config, count):
    return {"cluster": config.cluster.model_copy(update={"partitions": count})}


@pytest.fixture(scope="module")
def world(tmp_path_factory, group):
    """`original`: trained and pre-trained. Copies of it that forgot some interactions, by the encoder or by cutting alone.
    `retrained`: made as docs/forgetting.md says, in one partition. Not to be changed."""
    folder = tmp_path_factory.mktemp("world")
    sample = make_sample(folder / "data", users=150, items=80, mean_interactions=20, communities=6, factors=4)
    original = parse_config(
        {
            "interactions": sample["train"],
            "test_interactions": sample["test"],
            "output": str(folder / "original"),
            "backbone": {"embedding_size": 8, "num_layers": 2},
            "train": {"epochs": 60, "batch_size": 500},
            "pretrain": {"epochs": 10, "counterfactuals": 1, "learning_rate": 0.003},
        }
    )
    table = pq.read_table(sample["train"], columns=["user_id", "item_id"])
    chosen = np.random.default_rng(3).choice(table.num_rows, FORGOTTEN, replace=False)
    file = str(folder / "forget.parquet")
    pq.write_table(table.take(pa.array(np.sort(chosen))), file)
    pipeline.ingest(original)
    pipeline.train(original, group=group)
    pipeline.pretrain(original, group=group)
    unlearned, cut = (copied(original, folder / name) for name in ("unlearned", "cut"))
    pipeline.forget(unlearned, interactions=file, group=group)
    pipeline.forget(cut, interactions=file, cut_only=True, group=group)
    retrained = at(original, folder / "retrained", **partitions(original, 1))
    pipeline.ingest(retrained)
    pipeline.train(retrained, without=[file])
    return types.SimpleNamespace(
        original=original, unlearned=unlearned, cut=cut, retrained=retrained, file=file, folder=folder, table=table
    )


def against(world, config, group, **more):
    return pipeline.evaluate(
        config, **({"reference": world.retrained.output, "interactions": world.file} | more), group=group
    )


def test_how_far_a_version_went_to_the_retrained_one(world, group, capsys):
    unlearned, cut = (against(world, config, group) for config in (world.unlearned, world.cut))
    plain = pipeline.evaluate(world.unlearned, group=group)
    bytes_of_plain = {"planned_bytes", "peak_bytes"}
    assert {key: unlearned[key] for key in plain if key not in bytes_of_plain} == {
        key: value for key, value in plain.items() if key not in bytes_of_plain
    }
    assert (unlearned["before_version"], unlearned["version"], unlearned["reference_version"]) == (2, 3, 1)
    assert unlearned["same_draws"] and unlearned["forgotten_pairs"] == FORGOTTEN
    original, ours, retrained = unlearned["models"]
    assert [row["model"] for row in unlearned["models"]] == ["original", "unlearned", "retrained"]
    assert original["attack AUC"] > retrained["attack AUC"] and original["shift R2"] == 0
    assert retrained["shift R2"] == retrained["shift slope"] == 1
    share = (original["attack AUC"] - ours["attack AUC"]) / (original["attack AUC"] - retrained["attack AUC"])
    low, high = unlearned["gap_closed_interval"]
    assert unlearned["gap_closed"] == pytest.approx(share) and low < share < high
    assert unlearned["shift_r2"] == ours["shift R2"] and unlearned["shift_slope"] == ours["shift slope"]
    # Cutting alone is told from what the encoder did.
    assert cut["models"][0] == original and cut["models"][2] == retrained
    assert cut["gap_closed"] < unlearned["gap_closed"] and cut["shift_r2"] < unlearned["shift_r2"]
    assert retrained["recall@20"] == pytest.approx(pipeline.evaluate(world.retrained)["recall@20"], abs=1e-12)
    json.dumps(unlearned, allow_nan=False)
    # The report has the comparison, and keeps it when the same version is evaluated by itself afterwards.
    document = json.loads(Path(unlearned["report"]).with_suffix(".json").read_text())
    assert [row["model"] for row in document["comparison"]["models"]] == ["original", "unlearned", "retrained"]
    assert document["comparison"]["seconds"].keys() == {"forget", "retrain"}
    assert len(document["training"]["curve"]) == 60 and document["encoder"]["seconds"] > 0
    assert "Attack AUC" in Path(plain["report"]).read_text()


def test_a_retrained_model_is_where_itself_is(world, group, tmp_path):
    """Retrained in a copy, so that the version before is there; and in as many partitions as that has."""
    config = copied(world.original, tmp_path)
    pipeline.train(config, without=[world.file], group=group)
    for reference in (config.output, world.retrained.output):
        found = against(world, config, group, reference=reference)
        assert found["before_version"] == 2 and found["version"] == 3 and found["same_draws"]
        assert found["gap_closed"] == pytest.approx(1, abs=1e-3) and found["shift_r2"] == pytest.approx(1, abs=1e-3)


class Notes(Progress):
    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


def test_a_file_of_requests_says_what_was_forgotten(world, group, tmp_path):
    """As `forget --requests` takes it; with a row that means nothing, which is told of."""
    pairs = pq.read_table(world.file).to_pylist()
    lines = [json.dumps({"user_id": row["user_id"], "item_id": row["item_id"]}) for row in pairs]
    file, notes = tmp_path / "requests.jsonl", Notes()
    file.write_text("\n".join([*lines, json.dumps({"user_id": None})]))
    named = {"interactions": None, "requests": str(file)}
    found = against(world, world.unlearned, group, **named, progress=notes)
    assert found["forgotten_pairs"] == FORGOTTEN and found["gap_closed"] > 0
    assert any(f"1 of {FORGOTTEN + 1} rows mean nothing" in text for text in notes.told)
    file.write_text(json.dumps({"user_id": None}))
    with pytest.raises(InputError, match="names no user, item or interaction"):
        against(world, world.unlearned, group, **named)


def test_whole_users_and_other_dense_ids(world, group, tmp_path):
    """Nothing is left to attack by score. The reference never saw the users, so that its ids are others."""
    config, users = copied(world.original, tmp_path), world.table["user_id"]
    gone = sorted(set(users.to_pylist()))[3:6]
    pipeline.forget(config, users=",".join(map(str, gone)), group=group)
    left = str(tmp_path / "left.parquet")
    pq.write_table(world.table.filter(pa.array([user not in gone for user in users.to_pylist()])), left)
    reference = at(config, tmp_path / "reference", interactions=left)
    pipeline.ingest(reference)
    pipeline.train(reference, group=group)
    found = against(world, config, group, reference=reference.output, interactions=None, users=",".join(map(str, gone)))
    assert found["forgotten_pairs"] == 0 and found["gap_closed"] is found["shift_r2"] is None
    assert not found["same_draws"] and found["before_version"] == 2
    assert "attack AUC" not in found["models"][0]
    alone = pipeline.evaluate(reference, group=group)
    assert found["models"][2]["recall@20"] == pytest.approx(alone["recall@20"], abs=1e-12)
    assert found["models"][2]["ndcg@20"] == pytest.approx(alone["ndcg@20"], abs=1e-12)


def test_without_the_files_of_the_version_before_no_change_can_be_said(world, group, tmp_path):
    config = copied(world.unlearned, tmp_path)
    pipeline.purge(config, now=True)
    found, known = against(world, config, group), against(world, world.unlearned, group)
    assert (
        found["before_version"] is found["gap_closed"] is found["gap_closed_interval"] is found["shift_slope"] is None
    )
    assert found["forgotten_pairs"] == FORGOTTEN and [row["model"] for row in found["models"]] == [
        "unlearned",
        "retrained",
    ]
    for row, same in zip(found["models"], known["models"][1:], strict=True):
        assert row["attack AUC"] == same["attack AUC"] and "shift R2" not in row
    json.dumps(found, allow_nan=False)


def test_the_version_before_is_the_last_that_held_all_that_is_named(world, group, tmp_path):
    """Two requests one after the other: both named together are compared with the version before the first."""
    config = copied(world.original, tmp_path)
    parts = [str(tmp_path / f"{k}.parquet") for k in range(2)]
    both = pq.read_table(world.file)
    for part, rows in zip(parts, (both.slice(0, 100), both.slice(100)), strict=True):
        pq.write_table(rows, part)
    pipeline.forget(config, interactions=parts[0], group=group)
    with pytest.raises(InputError, match=r"holds [0-9]+ interactions and version 3 [0-9]+"):
        against(world, config, group, interactions=parts[0])
    pipeline.forget(config, interactions=parts[1], group=group)
    found = [against(world, config, group, interactions=named) for named in (world.file, *parts)]
    assert [one["before_version"] for one in found] == [2, 2, 3]
    assert [one["forgotten_pairs"] for one in found] == [FORGOTTEN, 100, FORGOTTEN - 100]


def test_what_cannot_be_compared_is_refused(world, group, tmp_path):
    empty, other = (at(world.original, tmp_path / name) for name in ("empty", "other"))
    pipeline.ingest(other.model_copy(update={"seed": 7}))
    short = other.train.model_copy(update={"epochs": 1})
    pipeline.train(other.model_copy(update={"seed": 7, "train": short}), without=[world.file], group=group)
    more = copied(world.unlearned, tmp_path / "more")
    pipeline.forget(more, users=str(world.table["user_id"][0]), group=group)
    cases = [
        (world.unlearned, {"reference": empty.output}, "holds no trained model"),
        (world.unlearned, {"reference": other.output}, "trained with seed=7, but version 3 with seed=0"),
        (world.unlearned, {"reference": world.cut.output}, "forgot something after its training"),
        (world.unlearned, {"reference": world.original.output}, f"still holds {FORGOTTEN} .*Train it `--without`"),
        (world.original, {}, f"version 2 still holds {FORGOTTEN} .*`unlearnrec forget` first"),
        (more, {}, "holds 150 users and version 4 149, of which 149 are the same"),
        (world.unlearned.model_copy(update={"test_interactions": None}), {}, "test_interactions is not set"),
        (world.unlearned, {"interactions": None}, "--reference needs what was forgotten"),
        (world.unlearned, {"reference": None}, "these need --reference"),
    ]
    for config, given, words in cases:
        with pytest.raises(InputError, match=words):
            against(world, config, group, **given)
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(world.unlearned), encoding="utf-8")
    command = ["evaluate", "--config", str(path), "--reference", empty.output, "--interactions", world.file]
    assert run(command) == 2


@pytest.mark.parametrize(
    ("aucs", "near"),
    [
        ((0.60, 0.50, 0.50), True),
        ((0.60, 0.56, 0.50), False),
        ((0.60, 0.46, 0.50), True),
        ((0.60, 0.44, 0.50), False),
        ((0.60, 0.20, 0.50), False),
        ((0.40, 0.80, 0.50), False),
        ((0.50, 0.20, 0.50), False),
        ((0.501, 0.20, 0.50), False),
        ((0.50, 0.50, 0.50), True),
        ((0.501, 0.50 + 0.9 * ALIKE, 0.50), True),
        ((float("nan"), 0.5, float("nan")), False),
    ],
)
def test_the_quickstart_passes_near_the_retrained_model_on_either_side(aucs, near):
    rows = {
        name: {"recall@20": 0.2, "attack AUC": auc}
        for name, auc in zip(("original", "unlearned", "retrained"), aucs, strict=True)
    }
    assert passed(rows) == near
    rows["unlearned"]["recall@20"] = 0.19
    assert not passed(rows)
