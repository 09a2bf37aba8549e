"""The model of memory and its refusals: plain numbers in, plain numbers and messages out."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_output import small_config, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.output.ingests import lake_graph
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.planning import announce as announcing
from unlearnrec.cluster.planning import memory
from unlearnrec.cluster.planning.announce import announce
from unlearnrec.cluster.planning.machines import Machine, missing_bytes
from unlearnrec.cluster.planning.plan import WORKS, make_plan
from unlearnrec.cluster.planning.room import check_room, remedy, smaller
from unlearnrec.cluster.planning.sizes import estimated_sizes, sizes_of_graph
from unlearnrec.cluster.planning.speed import Speed, calibrate, evaluate_seconds, step_seconds, step_work
from unlearnrec.cluster.reporting.progress import SILENT
from unlearnrec.distributed.training.losses import SOFTMAX_CELLS
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import load_shard
from unlearnrec.workers.memory import MachineMemory

GB = 1e9
SPEED = Speed(10e9, 5e-6, 1e-5)


def config(**sections):
    backbone = {"num_layers": 2} | sections.pop("backbone", {})
    return parse_config({"interactions": "t.parquet", "output": "out", "backbone": backbone} | sections)


def sizes(users=1_000_000, items=300_000, interactions=42_000_000, partitions=2, strategy="metis"):
    return estimated_sizes(users, items, interactions, partitions, strategy)


def machine(free, total=None, cpus=2, name="this machine", runs_command=True):
    return Machine(name, MachineMemory(int((total or free) * GB), int(free * GB)), cpus, runs_command)


def peak(work="train", graph=None, **sections):
    return make_plan(config(**sections), graph or sizes(), work).peak


def test_a_training_is_planned_term_by_term():
    graph = sizes(1000, 200, 10_000, partitions=1)
    [part] = graph.parts
    table = 4 * 1200 * 64
    kept = 3 * table + 2 * table + 2 * table + table  # rows and moments, buffers, results, the gradient
    softmax = config(train={"loss": "softmax"})
    on_pairs = 12 * 10_000 + 10_000 * (4 * 4 * 64 + 220) + 4 * SOFTMAX_CELLS
    expected = memory.WORKER + memory.HEAP + memory.LEARNING + memory.graph_bytes(graph, part) + kept + on_pairs
    assert memory.train_bytes(softmax, graph, part) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({}, {"train": {"batch_size": 4_000_000}}),
        ({"train": {"batch_size": 2_000_000}}, {"train": {"batch_size": 2_000_000, "loss": "softmax"}}),
        ({}, {"backbone": {"name": "sgl"}}),
        ({}, {"backbone": {"name": "simgcl"}}),
        ({"backbone": {"name": "simgcl"}}, {"backbone": {"name": "ngcf"}}),
        ({"backbone": {"name": "ngcf"}}, {"backbone": {"name": "ngcf", "num_layers": 4}}),
        ({"backbone": {"embedding_size": 32}}, {}),
        ({"backbone": {"name": "ngcf"}}, {"backbone": {"name": "ngcf", "embedding_size": 128}}),
    ],
)
def test_settings_that_need_more_are_planned_with_more(less, more):
    graph = sizes(interactions=4_000_000)
    assert peak(graph=graph, **less) < peak(graph=graph, **more)


def test_a_batch_is_never_larger_than_the_graph():
    assert peak(train={"batch_size": 42_000_000}) == peak(train={"batch_size": 10**9})


def test_the_softmax_does_not_hold_its_logits():
    few, many = (
        peak(train={"loss": "softmax", "batch_size": 4_000_000, "softmax_negatives": n}) for n in (64, 100_000)
    )
    assert few == many


def test_more_workers_hold_less_each_and_more_together():
    one, four = (make_plan(config(), sizes(partitions=n), "train") for n in (1, 4))
    assert four.peak < one.peak and sum(four.workers) > sum(one.workers)
    assert one.exchanged == 0 < four.exchanged


def test_an_evaluation_gathers_all_items_and_ranks_with_each_thread():
    one, two = (peak("evaluate", cluster={"threads_per_worker": n}) for n in (1, 2))
    assert two - one in (0, pytest.approx(memory.RANKING))
    few, many = (peak("evaluate", sizes(items=n, users=10_000, interactions=100_000)) for n in (1000, 101_000))
    assert many - few > 3 * 4 * 64 * 100_000


@pytest.mark.parametrize("work", WORKS)
def test_every_work_has_a_plan_with_a_line(work):
    plan = make_plan(config(), sizes(), work, 1000, SPEED)
    assert plan.line().startswith(f"plan of {work}: ")
    found = plan.result()
    assert 0 < found["peak_bytes"] <= found["total_peak_bytes"] and found["disk_bytes"] >= 0
    if work == "train":
        assert found["epoch_seconds"] == pytest.approx(found["step_seconds"] * -(-42_000_000 // 16384))


def test_seconds_follow_what_has_to_be_moved():
    slow, fast = (step_seconds(config(), sizes(), Speed(n, 0, 0)) for n in (5e9, 10e9))
    assert slow == pytest.approx(2 * fast)
    softmax = config(train={"loss": "softmax", "batch_size": 100_000})
    with_products, without = (step_seconds(softmax, sizes(), Speed(10e9, n, 0)) for n in (5e-6, 0))
    assert with_products - without == pytest.approx(100_000 * 2.048 * 5e-6)
    assert step_seconds(config(backbone={"name": "sgl"}), sizes(), SPEED) > 2 * step_seconds(config(), sizes(), SPEED)
    assert evaluate_seconds(config(), sizes(), SPEED) == pytest.approx(1_000_000 * 300 * 1e-5)
    sampled = evaluate_seconds(config(evaluate={"users": 1000}), sizes(), SPEED)
    assert sampled == pytest.approx(1000 * 300 * 1e-5)


def test_the_work_of_a_step_is_that_of_its_workers():
    given = sizes()
    whole, parts = step_work(config(), given), [step_work(config(), given, part) for part in given.parts]
    assert len(parts) > 1
    for term in ("gathered", "tables", "exchanged", "pairs"):
        assert sum(getattr(part, term) for part in parts) == pytest.approx(getattr(whole, term), rel=1e-5)


def test_a_calibration_is_short_and_positive():
    speed = calibrate(1, 16, 20)
    assert 1e8 < speed.bytes_a_second < 1e12 and 0 < speed.softmax_seconds < 1 and 0 < speed.ranking_seconds < 1


# ---- sizes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ingested(tmp_path):
    """A session whose graph was ingested, and nothing else."""
    found = small_config(write_interactions(tmp_path / "t.parquet"), str(tmp_path / "out"))
    pipeline.ingest(found)
    return Session(found)


def test_the_sizes_of_an_ingested_graph_are_those_of_its_shards(ingested):
    session, graph = ingested, lake_graph(ingested)
    found = sizes_of_graph(session.store, graph, "pull")
    shards = [load_shard(session.store, graph, k) for k in range(graph.partitions)]
    assert [part.nodes for part in found.parts] == [len(s.user_ids) + len(s.item_ids) for s in shards]
    assert found.exact and found.interactions == graph.interactions
    for part, shard in zip(found.parts, shards, strict=True):
        entries = len(shard.user_neighbours) + len(shard.item_neighbours)
        # The header and the alignment of the file count as entries.
        assert entries <= part.entries <= entries + 300
        assert part.received == round(graph.rows_per_layer["pull"] / graph.partitions)


def test_one_partition_exchanges_nothing():
    assert sizes(partitions=1).rows_per_layer == 0
    assert sizes(strategy="hash").rows_per_layer > sizes(strategy="metis").rows_per_layer > 0


def test_the_command_plans_from_numbers_a_table_and_a_graph(ingested):
    settings = ingested.config
    of_graph = pipeline.plan(settings, ["train"])
    assert of_graph["exact"] and (of_graph["users"], of_graph["items"], of_graph["interactions"]) == (12, 8, 48)
    other = settings.model_copy(update={"output": settings.output + "-2"})
    of_table = pipeline.plan(other)
    assert not of_table["exact"] and of_table["interactions"] == 48
    assert [one["work"] for one in of_table["plans"]] == list(WORKS) and all(one["fits"] for one in of_table["plans"])
    given = pipeline.plan(other, users=10**9, items=10**6, interactions=10**11)
    assert given["work"] == "train" and given["peak_bytes"] > 10**11
    assert not given["fits"] and "cluster.check_memory" in given["why_not"]
    assert (
        given["total_peak_bytes"] >= given["peak_bytes"] > 0 and given["step_seconds"] > 0 and given["disk_bytes"] > 0
    )


def test_the_command_names_what_is_wrong(ingested):
    with pytest.raises(InputError, match="--for serve: expected one of ingest, train"):
        pipeline.plan(ingested.config, ["serve"])
    with pytest.raises(InputError, match="given together"):
        pipeline.plan(ingested.config, users=3)


# ---- room -----------------------------------------------------------------------------------------------------------


def check(free, total=None, work="train", graph=None, cpus=2, **sections):
    settings, graph = config(**sections), graph or sizes()

    def again(changed):
        return make_plan(changed, graph, work)

    check_room(settings, again(settings), [machine(free, total, cpus)], again, starts_ray=True)


def test_what_fits_is_let_through():
    check(24)


def test_what_may_fit_is_let_through():
    needed = make_plan(config(), sizes(), "train").total
    check(0.8 * needed / GB + 0.05 * 24, 24)  # the plan may be a quarter too high
    with pytest.raises(InputError):
        check(0.7 * needed / GB + 0.05 * 24, 24)


def test_a_refusal_names_the_plan_what_there_is_and_a_setting_that_fits():
    large = {"batch_size": 20_000_000}
    with pytest.raises(InputError) as caught:
        check(12, 16, train=large)
    text = str(caught.value)
    plan = make_plan(config(train=large), sizes(), "train")
    assert f"{plan.total / GB:.1f} GB in all" in text and "12.0 GB of 16.0 GB free" in text
    assert "cluster.check_memory=false" in text
    [setting] = [word for word in text.split() if word.startswith("train.batch_size=")]
    fits = config(train={"batch_size": int(setting.removeprefix("train.batch_size=").rstrip("."))})
    assert make_plan(fits, sizes(), "train").total < (12 - 0.05 * 16) * GB


def test_without_a_setting_that_fits_the_remedy_is_a_larger_machine():
    with pytest.raises(InputError, match="No single setting makes it fit here: use a machine with"):
        check(1.0)


def test_workers_with_a_gpu_are_not_refused():
    check(0.5, cluster={"gpus_per_worker": 1})


@pytest.mark.parametrize("work", ["train", "pretrain", "ingest"])
def test_every_offer_needs_less(work):
    settings = config()
    whole = make_plan(settings, sizes(), work).total
    offers = list(smaller(settings, work))
    assert offers and all(make_plan(changed, sizes(), work).total <= whole for changed, _ in offers)
    assert len({name for _, name in offers}) == len(offers)


def test_workers_are_placed_where_most_is_left():
    machines = [machine(10, cpus=2), machine(6, cpus=2, name="b", runs_command=False)]
    overhead = {True: 1 * GB, False: 0}
    room = [m.memory.usable for m in machines]
    assert missing_bytes(machines, [4 * GB, 4 * GB, 4 * GB], 1, overhead)[1] is None
    missing, where = missing_bytes(machines, [5 * GB] * 3, 1, overhead)
    assert where is machines[0] and missing == pytest.approx(10 * GB + 1 * GB - room[0])
    # One machine alone has room for the bytes, but not the CPUs.
    assert missing_bytes(machines, [4.4 * GB, 4.4 * GB], 2, overhead)[1] is None


# ---- announcements --------------------------------------------------------------------------------------------------


class Notes:
    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


@pytest.fixture
def little(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(announcing, "machine_speed", lambda config: SPEED)
    monkeypatch.setattr(announcing, "this_machine", lambda: machine(3))


def test_work_that_cannot_fit_is_refused_before_it_starts(little):
    notes = Notes()
    with pytest.raises(InputError, match="train: planned are 2 workers of up to"):
        announce(config(), sizes(), "train", notes)
    assert notes.told[0].startswith("plan of train: ")


def test_the_check_can_be_switched_off(little):
    notes = Notes()
    announce(config(cluster={"check_memory": False}), sizes(), "train", notes)
    assert notes.told[1].startswith("warning: train: planned are")


def test_workers_that_run_already_are_not_refused_and_get_the_plan(little, monkeypatch):
    monkeypatch.setattr(announcing.ray, "is_initialized", lambda: False)
    group = SimpleNamespace(planned=None, peak_bytes={0: 1})
    announced = announce(config(train={"batch_size": 4_000_000}), sizes(), "train", SILENT, group)
    announced.placed(group)
    assert group.planned.worker == round(announced.plan.peak) and group.planned.remedy.endswith(".")
    assert group.peak_bytes == {}
    assert announced.measured(group) == {"planned_bytes": round(announced.plan.peak), "peak_bytes": None}


def test_the_remedy_of_a_death_fits_into_less_than_the_plan(monkeypatch):
    monkeypatch.setattr(announcing, "machine_speed", lambda config: SPEED)
    monkeypatch.setattr(announcing, "this_machine", lambda: machine(1000))
    monkeypatch.setattr(announcing.ray, "is_initialized", lambda: False)
    group = SimpleNamespace(planned=None, peak_bytes={})
    settings = config(train={"batch_size": 16_000_000, "checkpoint_every": 0})
    announce(settings, sizes(), "train", SILENT, group).placed(group)
    assert group.planned.remedy.startswith("Set train.batch_size=")
    batch = int(group.planned.remedy.removeprefix("Set train.batch_size=").rstrip("."))
    assert peak(train={"batch_size": batch, "checkpoint_every": 0}) <= announcing.TIGHT * group.planned.worker


def test_a_remedy_is_none_that_does_not_fit():
    settings, tight = config(), replace(machine(8), memory=MachineMemory(int(8 * GB), int(8 * GB)))

    def again(changed):
        return make_plan(changed, sizes(), "pretrain")

    sentence = remedy(settings, again(settings), [tight], again)
    assert sentence.startswith(("Set ", "No single setting"))
    if sentence.startswith("Set "):
        name, value = sentence.removeprefix("Set ").split("=")
        section, key = name.split(".")
        part = getattr(settings, section).model_copy(
            update={key: type(getattr(getattr(settings, section), key))(value)}
        )
        assert again(settings.model_copy(update={section: part})).total < 8 * GB


def test_forked_runs_are_planned_as_the_part_of_a_training_that_they_are():
    graph = sizes(interactions=4_000_000)

    def plans(work):
        return [make_plan(config(pretrain={"fork": f}), graph, work, speed=SPEED) for f in (0.0, 0.5)]

    whole, forked = plans("pretrain")
    # The run of the small request is a whole one in any case.
    assert (whole.epochs, forked.epochs) == (90, 60) and forked.seconds == pytest.approx(whole.seconds * 2 / 3)
    table = 4 * 64 * graph.nodes
    assert forked.disk - whole.disk == pytest.approx(6 * table)  # the kept state and rows, and two runs' rows half way
    whole, forked = plans("train")
    assert forked.seconds == whole.seconds and forked.disk - whole.disk == pytest.approx(4 * table)


def test_a_training_that_writes_no_state_takes_both_settings():
    forks = {"fork": 0.5}
    changed, setting = next(smaller(config(pretrain=forks), "train"))
    assert setting == "train.checkpoint_every=0 pretrain.fork=0"
    assert changed.train.checkpoint_every == changed.pretrain.fork == 0
    alone, setting = next(smaller(config(train={"checkpoint_every": 0}, pretrain=forks), "train"))
    assert setting == "pretrain.fork=0" and alone == changed
    _, setting = next(smaller(changed, "train"))
    assert setting.startswith("train.batch_size=")


def test_an_encoder_that_is_carried_over_costs_a_tenth_of_a_training():
    graph, table = sizes(interactions=4_000_000), 4 * 64 * sizes(interactions=4_000_000).nodes

    def plans(work, **pretrain):
        return [make_plan(config(pretrain=pretrain), graph, work, speed=SPEED, carries=c) for c in (False, True)]

    whole, carried = plans("pretrain")
    assert carried.seconds == pytest.approx(whole.seconds / 20) and carried.epochs == 3
    # What the training keeps, and the rows of the check; and still enough for a whole pre-training.
    assert carried.disk - whole.disk == pytest.approx(6 * table)
    assert carried.workers == whole.workers and "3 runs follows, of 60 epochs in all" in carried.line()
    whole, carried = plans("train")
    assert carried.seconds == whole.seconds and carried.disk - whole.disk == pytest.approx(4 * table)
    for plan, other in (plans("pretrain", carry=False), plans("train", carry=False)):
        assert plan == other
    _, setting = next(smaller(config(), "train", carries=True))
    assert setting == "train.checkpoint_every=0 pretrain.fork=0 pretrain.carry=false"
