"""The pages of evidence and receipts, made from documents that are written here."""

import copy
import re

import pytest

from unlearnrec.cluster.evidence.checks import ALWAYS
from unlearnrec.cluster.evidence.drafts import not_removed
from unlearnrec.cluster.evidence.gate_section import STATUS, gate_section
from unlearnrec.cluster.evidence.page import MEANINGS, UNITS, page
from unlearnrec.cluster.evidence.receipt_page import receipt_page
from unlearnrec.distributed.partition.version import Encoder, Model

SHA = "0123456789abcdef" * 4
GATE = {
    "status": "not_checked",
    "measures": {
        "gap_closed": {"left_out": "too few pairs", "pooled": {"value": 0.8, "error": 0.3, "pairs": 40, "requests": 2}},
        "recall_loss": {"value": 0.01, "error": 0.02, "users": 1},
        "largest_change": {"value": 3.0},
    },
    "bounds": {"gap_closed": 0.5, "recall_loss": 0.05, "largest_change": 2.0},
    "missed": ["largest_change"],
}


def check(name: str, ok: bool | None = True, checked: int = 2, of: int | None = 2) -> dict:
    return {"name": name, "ok": ok, "checked": checked, "of": of, "detail": f"detail of {name}"}


def evidence() -> dict:
    both = {"before": 2, "after": 1}
    return {
        "request_id": "r",
        "commitment": SHA,
        "version": {"before": 1, "after": 2},
        "requests_in_version": 1,
        "times": {
            "accepted": "2026-11-30T10:00:00.000+00:00",
            "committed": "2026-11-30T10:00:01.000+00:00",
            "written": "2026-11-30T10:00:02.000+00:00",
            "seconds": 0.5,
            "phases": {"route": 0.1, "commit": 0.4},
        },
        "removed": {
            "removed_interactions": 4,
            "deleted_users": 1,
            "deleted_items": None,
            "affected_partitions": [0],
            "partitions_of_version": [{"partition": 0, "users": both, "entries": {"before": None, "after": 3}}],
        },
        "records": {"committed": {"number": 3, "file": "log/3.json", "kind": "committed", "sha256": SHA}},
        "files": {
            "changed": [{"version": "after", "name": "versions/x", "state": "there", "sha256": SHA, "bytes": 12345}],
            "unchanged": 7,
        },
        "verification": {
            "checks": [check("files of the version", checked=6, of=7), check("untouched partitions", checked=0, of=0)],
            "scores": {
                "of": 3,
                "groups": [{"pairs": "forgotten", "n": 3, "mean": 0.5, "q05": 0.1, "q50": None}],
                "auc": {"forgotten above trained": 0.45},
            },
        },
        "not_removed": [{"what": "the lake", "why": "never changed; `unlearnrec residue`"}],
        "gate": GATE,
        "needs_retrain": False,
        "drift": {"share_forgotten_since_pretraining": 0.012, "more_than_budget": False},
        "software": {"python": "3.11", "commit": None},
    }


def told(html: str) -> str:
    """The text of a page, without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))


def test_the_page_says_what_its_numbers_count():
    text = told(page(evidence(), SHA))
    assert "6 of 7 files" in text and "`" not in text and "unlearnrec status --verify compares them all" in text
    assert "nothing to check" in text  # not "ok", of partitions that do not exist
    assert "2 of 2" in text and "0.45" in text and "1.20%" in text and "2026-11-30 10:00:01 UTC" in text
    assert "2 → 1" in text and "not known → 3" in text and "route: finding the partitions" in text
    assert set(MEANINGS) == set(UNITS) >= {*ALWAYS, "removed events", "deleted nodes"}


def test_hashes_may_wrap_and_texts_stand_left():
    html = page(evidence(), SHA)
    assert html.count(f"<code>{SHA}</code>") == 4  # commitment, report, record, file
    assert re.search(r'<td class="number[^"]*" data-label="bytes">12,345</td>', html)
    assert '<td data-label="what was found">detail of' in html


@pytest.mark.parametrize(
    ("ok", "state", "words"),
    [
        (True, "good", "Every check that was made passed."),
        (False, "bad", "These checks FAILED: removed interactions."),
        (None, "unknown", "Left out, for the reasons below: removed interactions."),
    ],
)
def test_the_verdict_stands_above(ok, state, words):
    document = evidence()
    document["verification"]["checks"].append(check("removed interactions", ok))
    html = page(document, SHA)
    assert f'<p class="lead {state}">' in html and words in told(html)


@pytest.mark.parametrize("missing", ["gate", "needs_retrain"])
def test_a_report_of_an_earlier_release_still_gives_a_page(missing):
    document = {key: value for key, value in evidence().items() if key != missing}
    document["verification"]["scores"] = {"left_out": "no workers"}
    document["times"] |= {"seconds": None, "phases": None}
    assert "Left out: no workers." in told(page(document, SHA))


def test_nothing_of_a_document_gets_into_the_page_as_html():
    def poisoned(value):
        if isinstance(value, dict):
            return {key: poisoned(one) for key, one in value.items()}
        if isinstance(value, list):
            return [poisoned(one) for one in value]
        return "<script>" if isinstance(value, str) else value

    for make, document in ((page, evidence()), (receipt_page, receipt())):
        document = poisoned(document)
        if make is page:
            document["removed"]["<script>"] = 1
        assert "<script" not in make(document, "<script>")


def test_the_gate_says_what_is_out_of_bounds_and_what_was_not_measured():
    (section,) = gate_section(GATE)
    rows = [(row["measure"], row["value"], row["result"]) for row in section.table]
    assert rows == [
        ("gap_closed", "not measured", "too few pairs"),
        ("gap_closed", "0.800 ± 0.600", "not out of bounds"),
        ("recall_loss", "0.010 ± 0.040", "not out of bounds"),
        ("largest_change", "3.000", "out of bounds"),
    ]
    assert section.table[1]["bounds"] == "0.5 to 2" and section.table[1]["measured on"] == "40 pairs, 2 requests"
    assert section.table[2]["measured on"] == "1 user" and section.text.startswith(STATUS["not_checked"])
    assert gate_section(None) == [] and "no result" in gate_section(GATE | {"status": "not_applicable"})[0].text


def model(dense: str | None, around: bool | None) -> Model:
    encoder = None if around is None else Encoder(file="e", shape={}, around=around, interactions=1)
    more = {"backbone": {"name": "lightgcn"}, "seed": 0, "embeddings": (), "train": {}, "trained_on": ()}
    return Model(dense=dense, encoder=encoder, **more)


def test_only_what_is_there_is_said_to_be_left():
    def left(*arguments):
        return {entry["what"]: entry["why"] for entry in not_removed(*arguments)}

    assert "dense weights of the backbone" not in left(model(None, False), False)
    assert "unchanged" in left(model("dense", False), False)["dense weights of the backbone"]
    assert "the Influence Encoder" not in left(model(None, None), False)
    assert left(model(None, False), False)["rows of neighbours"].endswith("are unchanged")
    assert "`influence.around`" in left(model(None, True), False)["rows of neighbours"]
    assert "the suppression list" in left(model(None, None), True).keys() - left(model(None, None), False).keys()


def receipt() -> dict:
    unseen = {
        "gone": None,
        "seen_at": None,
        "how": None,
        "found": {},
        "places": [],
        "places_left_out": 0,
        "until": None,
    }
    unseen["not_looked_at"] = [{"what": "the lake", "count": None, "why": "not looked at yet"}]
    seen = {**unseen, "seen_at": "2026-11-30T10:00:00.000+00:00", "how": "a look", "not_looked_at": []}
    place = {"place": "s3://b/x", "rows": None, "until": None}
    return {
        "request_id": "r",
        "number": 2,
        "previous": SHA,
        "written": "2026-11-30T10:00:00.000+00:00",
        "accepted": "2026-11-30T09:00:00.000+00:00",
        "commitment": SHA,
        "signer": None,
        "parts": {
            "current": {**seen, "gone": True, "found": {"rows": 0}},
            "older": unseen,
            "files": {**seen, "gone": False, "places": [place]},
            "model": {**seen, "gone": True, "found": {"gate": GATE, "evidence_failed": [], "needs_retrain": False}},
        },
    }


def test_a_receipt_says_first_what_is_still_there():
    html = receipt_page(receipt(), SHA)
    text = told(html)
    assert "Still there: files that physically hold rows. Not known: older states of the tables. Gone: " in text
    assert '<p class="lead bad">' in html and "s3://b/x" in text and "no setting removes it" in text
    assert "{&#x27;" not in html and "gap_closed" in text and "evidence failed none" in text


def test_a_receipt_of_which_all_is_gone_is_green():
    document = receipt()
    for name in ("older", "files"):
        document["parts"][name] = copy.deepcopy(document["parts"]["current"])
    assert '<p class="lead good">' in receipt_page(document, SHA)
