"""The gate: how pairs stand among comparable ones (against brute force, on one and two partitions), its verdict, and what
becomes of fine-tuned rows."""

import numpy as np
import pytest
import spmd
import spmd_forget
from fake_workers import FakeWorkers
from small_output import commit_train, small_config, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.models import unlearning as candidate
from unlearnrec.cluster.models.gate_measures import (
    FINE_TUNED,
    MISSED,
    NOT_CHECKED,
    PASSED,
    Baseline,
    gap_closed,
    missed_measures,
    recall_loss,
    verdict,
)
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.measures import standing as membership
from unlearnrec.distributed.measures.standing import REFERENCES, Standing
from unlearnrec.distributed.partition.files import read_rows
from unlearnrec.distributed.processes import run_processes
from unlearnrec.partitioning.delta import RowsDelta

# ---- standing -------------------------------------------------------------------------------------------------------


def asked():
    """Pairs that are in the graph and pairs that are not, two of them with a lone end; and codes that are no references."""
    rng = np.random.default_rng(3)
    known = np.stack(spmd.pairs(), axis=1).astype(np.int64)
    others = np.stack([rng.integers(0, spmd.USERS - 1, 40), rng.integers(0, spmd.ITEMS - 1, 40)], axis=1)
    lone = np.array([[spmd.USERS - 1, 3], [2, spmd.ITEMS - 1]])
    pairs = np.concatenate([rng.permutation(known)[:60], others, lone])
    never = np.sort(rng.choice(spmd.USERS * spmd.ITEMS, 800, replace=False))
    return pairs[:, 0], pairs[:, 1], never


@pytest.fixture(scope="module")
def results():
    alone = [spmd_forget.standings(Comm(), *asked())]
    return alone, run_processes(2, spmd_forget.standings, *asked())


def whole(parts, which):
    """{position: (percentile, degree, references)} over the ranks."""
    found = {}
    for standing in (part[which] for part in parts):
        columns = (standing.percentiles, standing.degrees, standing.references)
        found |= {int(p): values for p, *values in zip(standing.positions, *columns, strict=True)}
    return found


def test_a_pair_is_set_against_unmet_items_of_like_popularity(results):
    users, items, never = asked()
    met = set(zip(*(x.tolist() for x in spmd.pairs()), strict=True))
    degrees = np.bincount(spmd.pairs()[1], minlength=spmd.ITEMS)
    scores = spmd_forget.all_readouts().numpy()
    scores = scores[: spmd.USERS] @ scores[spmd.USERS :].T
    found = whole(results[0], 0)
    assert set(found) == {n for n, u in enumerate(users) if u != spmd.USERS - 1}
    for n, (percentile, degree, references) in found.items():
        u, i = int(users[n]), int(items[n])
        assert degree == degrees[i] and len(references) == REFERENCES
        used = [int(j) for j in references if j >= 0]
        assert all((u, j) not in met and u * spmd.ITEMS + j not in never and j != i and degrees[j] for j in used)
        expected = np.nan if not degrees[i] or not used else np.mean([scores[u, j] < scores[u, i] for j in used])
        np.testing.assert_allclose(percentile, expected, rtol=1e-5)
    assert 0 < sum(np.isnan(percentile) for percentile, _, _ in found.values()) < 20


def test_references_are_about_as_popular(monkeypatch):
    monkeypatch.setattr(membership, "WINDOW", 3)
    users, items, never = asked()
    degrees = np.bincount(spmd.pairs()[1], minlength=spmd.ITEMS)
    order = np.array([i for i in np.argsort(degrees, kind="stable") if degrees[i]])
    found = whole([spmd_forget.standings(Comm(), users, items, never)], 0)
    spread = set()
    for _, degree, references in found.values():
        block = np.flatnonzero(degrees[order] == degree)
        used = np.flatnonzero(np.isin(order, references))
        if degree and len(used):
            low, high = np.clip(block[[0, -1]] + [-6, 6], 0, len(order) - 1)  # at the ends the window is moved inwards
            assert low <= used.min() and used.max() <= high
            spread.add(len(used))
    assert max(spread) >= 5


def test_it_is_the_same_for_any_number_of_partitions_and_the_references_can_be_kept(results):
    alone, two = (whole(parts, 0) for parts in results)
    assert alone.keys() == two.keys()
    for one, other in zip(alone.values(), (two[n] for n in alone), strict=True):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, y)
    flipped = whole(results[1], 1)
    for n, (percentile, _, references) in two.items():
        np.testing.assert_array_equal(references, flipped[n][2])
        np.testing.assert_allclose(flipped[n][0], 1 - percentile, rtol=1e-5, atol=1e-6)


def test_trained_pairs_are_interactions_of_the_users_that_are_named(results):
    users, _, _ = asked()
    met = set(zip(*(x.tolist() for x in spmd.pairs()), strict=True))
    for parts in results:
        pairs = [pair for part in parts for pair in part[2]]
        assert set(pairs) <= met and len(set(pairs)) > 40
        assert sorted(u for u, _ in pairs) == sorted(int(u) for u in users if u != spmd.USERS - 1)
    assert sorted(results[0][0][2]) == sorted(pair for part in results[1] for pair in part[2])


def test_a_partition_may_own_nobody():
    assert run_processes(2, spmd_forget.nobody_here) == [spmd.USERS - 1, 0]


# ---- with a stand-in for the user -----------------------------------------------------------------------------------


def deleted_lists():
    """The whole lists of some users of the graph, one of them with a single item; sorted by user, then item."""
    users, items = (x.astype(np.int64) for x in spmd.pairs())
    chosen = np.unique(users)[::5]
    lists = {int(u): np.sort(items[users == u]) for u in chosen}
    lists[int(chosen[0])] = lists[int(chosen[0])][:1]
    return np.concatenate([np.full(len(x), u) for u, x in lists.items()]), np.concatenate(list(lists.values()))


def test_a_stand_in_is_the_sum_of_the_users_other_items():
    users, items = deleted_lists()
    degrees = np.bincount(spmd.pairs()[1], minlength=spmd.ITEMS)
    z = spmd_forget.all_readouts().numpy()[spmd.USERS :]
    alone = spmd_forget.stand_ins(Comm(), users, items)
    found = whole([alone], 0)
    assert sorted(found) == list(range(len(users)))
    for n, (percentile, degree, references) in found.items():
        others = items[(users == users[n]) & (items != items[n])]
        used = [int(j) for j in references if j >= 0]
        assert degree == degrees[items[n]] and not set(used) & set(items[users == users[n]])
        stand_in = (z[others] / np.sqrt(degrees[others])[:, None]).sum(0)
        lower = np.mean([stand_in @ z[j] < stand_in @ z[items[n]] for j in used]) if used and len(others) else np.nan
        np.testing.assert_allclose(percentile, lower, rtol=1e-5)
    assert sum(np.isnan(percentile) for percentile, _, _ in found.values()) >= 1

    # The same on two partitions, with the same references after the readouts were scaled; and the graph's own lists.
    two = run_processes(2, spmd_forget.stand_ins, users, items)
    for which in (0, 1):
        for n, (percentile, _, references) in whole(two, which).items():
            np.testing.assert_array_equal(references, found[n][2])
            np.testing.assert_allclose(percentile, found[n][0], rtol=1e-5)
    expected = sorted(pair for pair in zip(*(x.tolist() for x in spmd.pairs()), strict=True) if pair[0] in set(users))
    for parts in ([alone], two):
        assert sorted(map(tuple, np.concatenate([part[2] for part in parts]).tolist())) == expected


# ---- what it means --------------------------------------------------------------------------------------------------


def place(percentiles, degree=5):
    count = len(percentiles)
    return Standing(
        np.arange(count), np.asarray(percentiles, np.float32), np.full(count, degree), np.zeros((count, 1), np.int64)
    )


def base(trained=0.9, held_out=0.8, count=600):
    """Half of the reference pairs have popular items, where nothing is remembered."""
    rng = np.random.default_rng(0)

    def pairs(mean):
        both = np.concatenate([rng.normal(mean, 0.05, count), np.linspace(0.9, 1, count)])
        return Standing(np.arange(2 * count), both, np.repeat([5, 500], count), np.zeros((2 * count, 1), np.int64))

    nobody = np.empty(0, np.int64)
    return Baseline((nobody, nobody), [{"trained": pairs(trained), "held_out": pairs(held_out)}])


@pytest.mark.parametrize(("moved", "expected"), [(0.1, 1.0), (0.014, 0.14), (0.0, 0.0)])
def test_the_gap_is_measured_against_pairs_of_the_same_kind(moved, expected):
    rng = np.random.default_rng(1)
    before = rng.normal(0.9, 0.05, 300)
    after = before - rng.normal(moved, 0.1 * moved, 300)
    found = gap_closed(base(), [place(before)], [place(after)], 300)
    assert found["value"] == pytest.approx(expected, abs=0.1) and found["pairs"] == 300
    assert bool(missed_measures({"gap_closed": found}, {"gap_closed": 0.5})) == (expected < 0.5)


def test_what_cannot_be_measured_is_said_to_be_so():
    nine, many = np.full(9, 0.9), np.full(30, 0.9)
    assert "fewer than 10" in gap_closed(base(), [place(nine)], [place(nine)], 9)["left_out"]
    gone = np.where(np.arange(30) < 9, 0.8, np.nan)  # most lost an end
    assert "fewer than 10" in gap_closed(base(), [place(many)], [place(gone)], 30)["left_out"]
    nowhere = [place(np.full(30, np.nan))]
    assert gap_closed(base(), [place(many)], nowhere, 30).keys() == {"left_out"}
    assert "held-out" in gap_closed(base(count=50), [place(many)], [place(many)], 30)["left_out"]
    popular = [place(many, degree=500)]
    assert "nothing to close" in gap_closed(base(), popular, popular, 30)["left_out"]


def test_requests_are_pooled_until_they_tell_something():
    """Single users have few pairs. Together with those of earlier requests they show what one alone does not."""
    rng = np.random.default_rng(2)
    pooled, missed = None, []
    for number in range(1, 41):
        before = rng.normal(0.9, 0.05, 8)
        after = before - rng.normal(0.03, 0.02, 8)  # too little, but by so few pairs that each may be chance
        found = gap_closed(base(), [place(before)], [place(after)], 8, earlier=pooled)
        assert "fewer than 10" in found["left_out"] and found["pooled"]["pairs"] == 8 * number
        pooled = found["pooled"]
        assert pooled["requests"] == number
        missed += missed_measures({"gap_closed": found}, {"gap_closed": 0.5})
        tells = 2 * pooled["error"] < 0.5  # an unchanged model would miss
        expected = MISSED if missed else PASSED if tells else NOT_CHECKED
        assert verdict({"gap_closed": found}, {"gap_closed": 0.5}) == expected
        if missed:
            break
    assert missed == ["gap_closed.pooled"] and number > 2
    # What cannot be measured keeps what was pooled before.
    many = np.full(30, 0.9)
    kept = gap_closed(base(count=50), [place(many)], [place(many)], 30, earlier=pooled)
    assert "held-out" in kept["left_out"] and kept["pooled"] == pytest.approx(pooled)


def test_a_few_users_never_tell_whatever_their_pairs():
    before = np.linspace(0.85, 0.95, 400)
    parts = [place(before)], [place(before - 0.1)], 400
    assert gap_closed(base(), *parts)["error"] < 0.1
    one, many = (gap_closed(base(), *parts, users=users) for users in (1, 100))
    assert one["error"] > 0.8 and verdict({"gap_closed": one}, {"gap_closed": 0.5}) == NOT_CHECKED
    assert many["error"] < 0.2 and verdict({"gap_closed": many}, {"gap_closed": 0.5}) == PASSED


def test_recall_is_lost_by_the_users_who_are_in_both():
    before = [(np.array([3, 7]), np.array([0.5, 1.0])), (np.array([1, 9]), np.array([0.0, 0.5]))]
    after = [(np.array([3, 7]), np.array([0.5, 0.5])), (np.array([1]), np.array([0.0]))]
    found = recall_loss(before, after)
    third = pytest.approx(1 / 3)
    assert found == {"value": third, "error": third, "users": 3, "before": pytest.approx(0.5), "after": third}
    assert recall_loss(after, after)["value"] == 0
    assert "right before" in recall_loss([after[1]], [after[1]])["left_out"]


def test_the_verdict():
    bounds = {"gap_closed": 0.5, "recall_loss": 0.05}
    good, bad, nothing = {"value": 0.9, "error": 0.1}, {"value": 0.2, "error": 0.1}, {"left_out": "why"}
    none_lost, lost = {"value": -0.01}, {"value": 0.06}
    unsure = {"value": 0.2, "error": 0.2}  # few pairs: it may well be 0.5
    blind = {"value": 0.2, "error": 0.3}  # fewer: it may well be that nothing was done
    cases = [
        (good, none_lost, PASSED, []),
        (bad, none_lost, MISSED, ["gap_closed"]),
        (bad, lost, MISSED, ["gap_closed", "recall_loss"]),
        (nothing, lost, MISSED, ["recall_loss"]),
        (nothing, none_lost, NOT_CHECKED, []),
        (unsure, none_lost, PASSED, []),
        (blind, none_lost, NOT_CHECKED, []),
        (good, {"value": 0.2, "error": 0.1}, PASSED, []),  # few users: it may well be 0.05
        (good, {"value": np.nan, "error": np.nan}, MISSED, ["recall_loss"]),
        ({"value": 2.9, "error": 0.4}, none_lost, MISSED, ["gap_closed"]),  # more than twice as far as a retrain goes
    ]
    for gap, recall, expected, names in cases:
        measures = {"gap_closed": gap, "recall_loss": recall}
        assert verdict(measures, bounds) == expected and missed_measures(measures, bounds) == names


# ---- what becomes of fine-tuned rows --------------------------------------------------------------------------------


class TuningWorkers(FakeWorkers):
    """Fine-tuning doubles the rows of partition 0, which alone has any of the request's."""

    def _fine_tune(self, k, location, users, items, run, steps, names):
        rows = self._rows(k)
        delta = RowsDelta(np.arange(len(rows)), 2 * rows, np.empty(0, dtype=np.int64))
        return {"files": [] if k else [self._written(names[k], delta.to_bytes())]}


def scripted(*answers):
    """In place of `Gate`: these answers of `judge`, in turn, each after a look at what it is asked about."""
    left = list(answers)

    class Scripted:
        def __init__(self, session, group, *_):
            self._session, self._group = session, group

        def judge(self, manifest, largest_change):
            self._session.ensure_loaded(self._group, manifest)
            names = left.pop(0)
            status = MISSED if names else PASSED if names == [] else NOT_CHECKED
            measures = {"gap_closed": {"value": float(len(left))}}
            return {"status": status, "measures": measures, "bounds": {"gap_closed": 0.5}, "missed": names or []}

    return Scripted, left


@pytest.mark.parametrize(
    ("answers", "status", "kept"),
    [
        ([["gap_closed", "recall_loss"], []], FINE_TUNED, True),
        ([["recall_loss"], None], NOT_CHECKED, True),
        ([["gap_closed"], ["gap_closed", "recall_loss"]], MISSED, False),
        ([["gap_closed", "recall_loss"], ["gap_closed"]], MISSED, False),
        ([["gap_closed", "largest_change"]], MISSED, False),  # fine-tuning cannot mend the second: it is not tried
    ],
)
def test_fine_tuned_rows_are_kept_if_they_miss_nothing(answers, status, kept, tmp_path, monkeypatch):
    config = small_config(write_interactions(tmp_path / "t.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    version = commit_train(config)
    session = Session(config)
    workers, head, notes, progress = TuningWorkers(session.store), session.log.head(), [], Progress()
    progress.note = notes.append
    model = {"backbone": config.backbone.model_dump(), "seed": 0, "train": config.train.model_dump()}
    before = version.replaced(reason="forget", model=version.model.replaced(**model), version=version.version + 1)
    gate, left = scripted(*answers)
    monkeypatch.setattr(candidate, "Gate", gate)
    pairs, marks = (np.array([0]), np.array([1])), []
    made = candidate.Candidate(session, workers, version, before, pairs, (pairs[0][:0],) * 2)
    answer = made.fine_tune_and_judge(marks.append, progress, 1.0, kept_rows=False)

    tuned = [name for name in session.store.list("versions") if "/tuned-" in name]
    tried = len(answers) == 2
    assert not left and len(tuned) == tried == ("fine_tune" in marks)
    assert answer["gate"]["status"] == status and answer["needs_retrain"] == (status == MISSED)
    manifest = made.manifest
    rows = [manifest.model.embedding_chain(k) for k in range(2)]
    assert rows == [(before.model.embeddings[0], *(tuned if kept else ())), (before.model.embeddings[1],)]
    assert manifest.files.keys() == {*before.files, *(tuned if kept else ())}
    # Of both attempts it is said what was measured.
    assert answer["gate"]["missed"] == (answers[-1] or [] if kept else answers[0])
    assert answer["gate"]["measures"]["gap_closed"]["value"] == (0 if kept or not tried else 1)
    given_up = {"steps": 50, "measures": {"gap_closed": {"value": 0.0}}, "missed": answers[-1]}
    assert answer["gate"].get("given_up") == (given_up if tried and not kept else None)
    assert [("fine-tuning" in note) for note in notes] == ([tried] if status == MISSED else [])
    # The workers hold what will be committed, and a purge takes the rows that were given up.
    loads = []
    monkeypatch.setattr(Session, "load", lambda *_: loads.append(1))
    committed = session.versions.commit(manifest, after=head)
    session.ensure_loaded(workers, committed)
    assert not loads
    rows = read_rows(session.store, before, 0)
    pipeline.purge(config, now=True)
    # Rows that were kept are in the files that the purge wrote anew.
    assert not any(map(session.store.exists, tuned))
    np.testing.assert_array_equal(read_rows(session.store, session.version(), 0), 2 * rows if kept else rows)
