"""The report page of a run: its verdict, its sections, and documents that lack parts."""

import numpy as np
import pytest

from unlearnrec.cluster.evidence.run_report import comparison
from unlearnrec.cluster.models.comparison import Measured, compare
from unlearnrec.cluster.reporting.run_page import run_page
from unlearnrec.cluster.reporting.run_verdict import alike

METRICS = {"recall@20": 0.4, "ndcg@20": 0.3}


def models(delivered: float, pairs: int = 960) -> dict[str, Measured]:
    """Four models of which the unlearned one delivers this share of the needed change."""
    draw = np.random.default_rng(0)
    before, needed = draw.normal(1.0, 1.0, pairs), draw.normal(-0.8, 0.2, pairs)
    held_out, random = draw.normal(0.2, 1.0, 4000), draw.normal(-1.0, 1.0, 4000)
    forgotten = {"original": before, "unlearned": before + delivered * needed, "retrained": before + needed}
    return {name: Measured(scores, held_out, random, METRICS) for name, scores in forgotten.items()}


def document(delivered: float = 1.0) -> dict:
    measured = models(delivered)
    compared = comparison(measured, compare(measured, "original", "retrained"))
    request = {"version": 3, "removed_interactions": 960, "deleted_users": 0, "deleted_items": 0, "gate": "passed"}
    request |= {"seconds": 0.3, "committed": "2026-11-30T10:00:01.000+00:00"}
    return {
        "title": "a run",
        "made": {"written": "2026-11-30T10:05:00.000+00:00", "command": "unlearnrec x", "machine": "two CPUs"},
        "software": {"torch": "2.13.0"},
        "configuration": "seed: 0\n",
        "graph": {"users": 30, "items": 20, "interactions": 1000, "partitions": 2, "edge_cut": 0.2, "balance": 1.0},
        "training": {
            "backbone": "lightgcn",
            "epochs": 2,
            "seconds": 3.0,
            "curve": [{"epoch": 1.0, "loss": 0.6, "recall@20": 0.1}, {"epoch": 2.0, "loss": 0.5}],
        },
        "encoder": {"seconds": 20.0},
        "quality": METRICS
        | {"users": 30, "by_user_activity": [{"interactions": [1, 9], "users": 30, "recall@20": 0.4}]},
        "comparison": compared | {"seconds": {"forget": 0.3, "retrain": 8.0, "pretrain": 20.0}},
        "gates": {"unlearned": {"status": "passed", "measures": {"gap_closed": {"value": 0.9, "error": 0.1}}}},
        "requests": [
            {"request_id": "r1", "accepted": "2026-11-30T10:00:00.000+00:00", **request},
            {"request_id": "r2", "accepted": "2026-11-30T10:04:00.000+00:00", **request},
        ],
        "forgotten": {"requests": 2, "interactions": 1920, "users": 0},
    }


def test_the_page_has_its_parts_in_order():
    page = run_page(document())
    headings = [part.split("</h2>")[0] for part in page.split("<h2>")[1:]]
    assert headings == [
        "Training",
        "Partitions",
        "Forgetting",
        "The gate",
        "Requests over time",
        "What this page is not",
        "How it was made",
    ]
    for told in ("1,920", "2 requests", "0.30 s", "8.0 s", "2026-11-30 10:05:00 UTC", "two CPUs", "2.13.0", "seed: 0"):
        assert told in page
    charts = (
        "Loss",
        "Recall@20",
        "Attack AUC",
        "Scores of pairs",
        "Change of score",
        "Time",
        "Seconds of each request",
    )
    assert all(f"<figcaption><b>{title}</b>" in page for title in charts)
    for term in (
        "gap closed",
        "attack AUC",
        "shift R2",
        "MI-BF",
        "MI-NG",
        "edge cut",
        "gap_closed",
        "retrained",
        "loss",
    ):
        assert f"<dt>{term}</dt>" in page
    assert len(page) < 200_000


@pytest.mark.parametrize(
    ("delivered", "kind", "word"), [(1.0, "alike", "yes"), (0.2, "differs", "no"), (1.02, "alike", "yes")]
)
def test_the_verdict_says_by_which_measure(delivered, kind, word):
    told = document(delivered)
    assert alike(told["comparison"]) == kind
    page = run_page(told)
    state = {"alike": "good", "differs": "bad"}[kind]
    name = '<span class="name">indistinguishable from a retrain</span>'
    assert f'<li class="tile {state}">{name}<span class="big">{word}</span>' in page
    assert f'<p class="lead {state}">' in page and "by the attack AUC" in page


def test_few_pairs_tell_nothing():
    measured = models(1.0, pairs=4)
    measured["unlearned"].forgotten[:] += np.array([1.0, -1.0, 1.0, -1.0])
    compared = comparison(measured, compare(measured, "original", "retrained"))
    assert alike(compared) == "not told" and "cannot be told" in run_page({"comparison": compared})
    assert alike({"models": []}) == "not told"


def test_near_enough_for_the_command_is_not_shown_as_alike():
    told = document(0.7) | {"passed": True}
    assert alike(told["comparison"]) == "differs" and '<p class="lead unknown">' in run_page(told)


@pytest.mark.parametrize("missing", sorted(document()))
def test_a_document_without_a_part_still_gives_a_page(missing):
    page = run_page({key: value for key, value in document().items() if key != missing})
    assert "What this page is not" in page and "None" not in page and "nan" not in page


def test_an_empty_document_gives_a_page():
    page = run_page({})
    assert "not measured" in page and "evaluate --reference" in page


def test_ids_and_texts_are_escaped():
    told = document()
    told["requests"][0]["request_id"] = told["title"] = told["configuration"] = "<script>"
    told["comparison"]["about"] = told["data_about"] = told["made"]["command"] = "<script>"
    assert "<script" not in run_page(told)
