"""The whole evaluation against brute force, on one and two partitions: means, sample, groups and baselines."""

import functools
import math

import numpy as np
import pytest
import spmd
import spmd_forget

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.measures import baselines
from unlearnrec.distributed.processes import run_processes

CUTOFFS = (3, 10)
EVERYTHING = {"cutoffs": CUTOFFS, "batch_users": 7, "baselines": True}
SAMPLE = {"cutoffs": CUTOFFS, "batch_users": 1000, "users": 0.5, "seed": 3}
LARGER = SAMPLE | {"users": 40}
ALL = SAMPLE | {"users": 1000}
SETTINGS = [EVERYTHING, SAMPLE, LARGER, ALL]
USERS = spmd.USERS - 1
"""The last user has no interactions, and is deleted."""


@functools.cache
def training() -> np.ndarray:
    table = np.zeros((spmd.USERS, spmd.ITEMS), dtype=bool)
    table[spmd.pairs()] = True
    return table


@functools.cache
def held_out() -> np.ndarray:
    """Unseen pairs of all users but every ninth, more of popular items, and one of the deleted user."""
    rng = np.random.default_rng(5)
    table = (rng.random((spmd.USERS, spmd.ITEMS)) < 0.05 + training().mean(0) / 2) & ~training()
    table[::9] = False
    table[-1, 3] = True
    return table


@pytest.fixture(scope="module", params=[1, 2])
def found(request):
    arguments = (*np.nonzero(held_out()), SETTINGS)
    if request.param == 1:
        return spmd_forget.evaluations(Comm(), *arguments)
    first, second = run_processes(2, spmd_forget.evaluations, *arguments)
    assert first == second
    return first


def model_scores() -> np.ndarray:
    z = spmd_forget.all_readouts().double().numpy()
    return z[: spmd.USERS] @ z[spmd.USERS :].T


def lists(scores: np.ndarray) -> np.ndarray:
    """The items of each user in order: by score, equal ones by id; those seen or deleted are at the end as -1."""
    scores = np.where(training() | ~training().any(0), -np.inf, scores)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.where(np.take_along_axis(scores, order, 1) > -np.inf, order, -1)


def evaluated() -> np.ndarray:
    return np.flatnonzero(held_out()[:USERS].any(1))


def values(ranked: np.ndarray, k: int, users: np.ndarray) -> dict[str, np.ndarray]:
    """The measures of each of these users."""
    result: dict[str, list[float]] = {"recall": [], "ndcg": [], "mrr": [], "hit_rate": []}
    for user in users:
        wanted = set(np.flatnonzero(held_out()[user]).tolist())
        hits = [n for n, item in enumerate(ranked[user, :k].tolist(), start=1) if item in wanted]
        ideal = sum(1 / math.log2(n + 1) for n in range(1, min(k, len(wanted)) + 1))
        result["recall"].append(len(hits) / len(wanted))
        result["ndcg"].append(sum(1 / math.log2(n + 1) for n in hits) / ideal)
        result["mrr"].append(1 / hits[0] if hits else 0.0)
        result["hit_rate"].append(float(bool(hits)))
    return {name: np.array(line) for name, line in result.items()}


def test_means_and_coverage(found):
    users, ranked = evaluated(), lists(model_scores())
    answer = found[0]
    assert answer["users"] == answer["users_with_test_items"] == len(users) > 40
    assert "standard_errors" not in answer
    for k in CUTOFFS:
        for name, line in values(ranked, k, users).items():
            assert 0 < line.mean() < 1
            assert answer[f"{name}@{k}"] == pytest.approx(line.mean(), abs=1e-12), name
        listed = set(ranked[users, :k].ravel().tolist()) - {-1}
        assert answer[f"coverage@{k}"] == pytest.approx(len(listed) / training().any(0).sum())


def test_a_sample_is_of_users_and_a_larger_one_contains_it(found):
    users, ranked = evaluated(), lists(model_scores())
    sample, larger, everybody = found[1:]
    assert sample["users"] == round(len(users) / 2) and larger["users"] == 40
    assert sample["users_with_test_items"] == larger["users_with_test_items"] == everybody["users"] == len(users)
    assert "standard_errors" not in everybody
    lines = values(ranked, 10, users)
    for answer in (sample, larger):
        for name, line in lines.items():
            error = answer["standard_errors"][f"{name}@10"]
            # The error of the mean of so many of these values, drawn without replacement: as large as the whole's own.
            expected = line.std(ddof=1) * math.sqrt((1 - answer["users"] / len(users)) / answer["users"])
            assert error == pytest.approx(expected, rel=0.35)
            assert 0 < abs(answer[f"{name}@10"] - line.mean()) < 3 * error
    assert everybody["recall@10"] == pytest.approx(found[0]["recall@10"], abs=1e-12)


def test_recall_by_activity_of_users(found):
    users, ranked = evaluated(), lists(model_scores())
    recall, degrees = values(ranked, 3, users)["recall"], training().sum(1)[users]
    groups = found[0]["by_user_activity"]
    assert len(groups) == 4 and sum(group["users"] for group in groups) == len(users)
    assert max(group["users"] for group in groups) < len(users) / 2
    for group in groups:
        least, most = group["interactions"]
        here = (degrees >= least) & (degrees <= most)
        assert group["users"] == here.sum()
        assert group["recall@3"] == pytest.approx(recall[here].mean())


def test_recall_by_popularity_of_items(found):
    ranked, degrees = lists(model_scores()), training().sum(0)
    groups = found[0]["by_item_popularity"]
    assert sum(group["items"] for group in groups) == (degrees > 0).sum()
    for group in groups:
        least, most = group["interactions"]
        items = np.flatnonzero((degrees >= least) & (degrees <= most))
        assert group["items"] == len(items)
        wanted = held_out()[:USERS, items]
        assert group["test_interactions"] == wanted.sum()
        hits = sum(wanted[u, n] for u in range(USERS) for n, i in enumerate(items) if i in ranked[u, :10])
        assert group["recall@10"] == pytest.approx(hits / max(1, wanted.sum()))


def test_baselines(found):
    users, table = evaluated(), training()
    by_degree = np.where(table.any(0), table.sum(0), -np.inf).astype(float)
    norms = np.sqrt(np.maximum(1, table.sum(0)))
    cosines = (table.T.astype(float) @ table) / norms[:, None] / norms
    np.fill_diagonal(cosines, 0)
    expected = {"popularity": np.tile(by_degree, (spmd.USERS, 1)), "item_knn": table @ cosines}
    for name, scores in expected.items():
        ranked = lists(scores)
        for k in CUTOFFS:
            for measure, line in values(ranked, k, users).items():
                # Equal similarities may be rounded differently.
                assert found[0]["baselines"][name][f"{measure}@{k}"] == pytest.approx(line.mean(), abs=1e-3), measure


def test_only_the_nearest_neighbours_count_and_too_much_work_is_skipped(monkeypatch):
    monkeypatch.setattr(baselines, "NEIGHBOURS", 4)
    near = spmd_forget.neighbours(Comm()).toarray()
    monkeypatch.setattr(baselines, "NEIGHBOURS", 1000)
    whole = spmd_forget.neighbours(Comm()).toarray()
    assert (whole.diagonal() == 0).all() and ((near > 0).sum(1) <= 4).all() and (near > 0).sum() > 100
    for few, all_ in zip(near, whole, strict=True):
        assert np.array_equal(np.sort(few[few > 0])[::-1], np.sort(all_[all_ > 0])[::-1][: (few > 0).sum()])
    monkeypatch.setattr(baselines, "LARGEST_WORK", 10)
    assert "the limits are" in spmd_forget.neighbours(Comm())


def test_without_test_interactions_there_is_nothing_to_measure():
    nothing = np.empty(0, dtype=np.int64)
    answer = spmd_forget.evaluations(Comm(), nothing, nothing, [EVERYTHING])[0]
    assert answer["users"] == answer["recall@3"] == answer["coverage@3"] == 0
    assert answer["by_user_activity"] == []
    assert answer["baselines"]["item_knn"]["recall@3"] == answer["baselines"]["popularity"]["hit_rate@10"] == 0
