"""`GET /v1/requests` and the evidence of a request over HTTP, on the real intake."""

import hashlib

import pytest

pytest.importorskip("fastapi")
from desk_output import accept_for, desk_output
from fastapi.testclient import TestClient

from unlearnrec.cluster.http.admission import AdmissionRules
from unlearnrec.cluster.http.app import make_app
from unlearnrec.cluster.http.tokens import Token
from unlearnrec.cluster.layout import report_name
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.output.tickets import State
from unlearnrec.cluster.serving.listing import Listing, RequestQuery

READ, WRITE = "r" * 16, "w" * 16


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return desk_output(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def client(desk):
    app = make_app(desk.service, AdmissionRules((), 4096, 1e6, 10**6))
    return TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False)


def listed(client, **query):
    answer = client.get("/v1/requests", params=query)
    assert answer.status_code == 200, answer.text
    return [one["request_id"] for one in answer.json()["requests"]]


def test_requests_are_listed_in_the_order_of_their_acceptance(client):
    everything = ["done", "waiting", "held", "approved", "failed", "cancelled"]
    assert listed(client) == everything and listed(client, order="newest") == everything[::-1]
    assert listed(client, state="held") == ["held"] and listed(client, state=["accepted", "failed"]) == [
        "waiting",
        "approved",
        "failed",
    ]
    assert listed(client, text="E") == ["done", "held", "approved", "failed", "cancelled"]
    assert listed(client, text="nobody") == [] and listed(client, evidence_failed=True) == []
    assert listed(client, due_before="2020-01-01") == []
    assert listed(client, due_before="2999-01-01T00:00:00Z") == ["waiting", "held", "approved", "failed"]
    entry = client.get("/v1/requests", params={"text": "held"}).json()["requests"][0]
    assert entry["requester"] == "support" and entry["share"] == 0.35 and entry["expected_completion_time"]


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_pages_of_any_size_give_every_request_once(client, order):
    for limit in (1, 2, 5, 6, 7):
        found, cursor = [], None
        while cursor is not None or not found:
            query = {"limit": limit, "order": order} | ({"cursor": cursor} if cursor else {})
            page = client.get("/v1/requests", params=query).json()
            found += [one["request_id"] for one in page["requests"]]
            cursor = page["next_cursor"]
        assert found == listed(client, order=order, limit=500)


@pytest.mark.parametrize(
    "query", [{"state": "open"}, {"limit": 0}, {"limit": 501}, {"cursor": "x"}, {"due_before": "soon"}, {"order": "a"}]
)
def test_a_wrong_filter_is_422_and_names_the_parameter(client, query):
    answer = client.get("/v1/requests", params=query)
    assert answer.status_code == 422 and next(iter(query)) in answer.json()["error"]["message"]


def test_a_request_that_is_new_comes_into_the_order_that_is_kept(tmp_path):
    desk = desk_output(tmp_path)
    listing, query = Listing(), RequestQuery(limit=500)
    first, _ = listing.page(desk.session.ledger(), query, 1.0)
    accept_for(desk.session, "later", user=2)
    assert [t.request_id for t in listing.page(desk.session.ledger(), query, 1.0)[0]] == [
        *(t.request_id for t in first),
        "later",
    ]
    # Another ledger, as after a cut of the log.
    assert len(listing.page(Session(desk.config).ledger(), query, 1.0)[0]) == 7
    only = RequestQuery(states=frozenset([State.CANCELLED]))
    assert [t.request_id for t in listing.page(desk.session.ledger(), only, 1.0)[0]] == ["cancelled"]


def test_the_timeline_says_what_happened_when_and_by_whom(client):
    def steps(request_id):
        answer = client.get(f"/v1/requests/{request_id}/evidence").json()
        assert all(step["at"] for step in answer["steps"])
        return [(step["step"], step["by"]) for step in answer["steps"]]

    assert steps("waiting") == [("received", None)]
    assert steps("approved") == [("received", "support"), ("held", None), ("approved", "privacy-lead")]
    assert steps("failed") == [("received", "support"), ("failed", None)]
    assert steps("cancelled") == [("received", "support"), ("cancelled", None)]
    assert [name for name, _ in steps("done")] == ["received", "matched", "carried_out", "checked", "receipt"]
    assert client.get("/v1/requests/nobody/evidence").status_code == 404


def test_the_timeline_of_an_earlier_releases_checkpoint_has_no_times(desk):
    from unlearnrec.cluster.output.ledger import Ledger
    from unlearnrec.cluster.serving.timeline import timeline

    state = desk.session.ledger().state()
    state = {name: value for name, value in state.items() if name not in ("steps", "commits")}
    ledger = Ledger(state=state)
    known = {name: timeline(ticket, ledger.steps.get(name, ())) for name, ticket in ledger.tickets.items()}
    assert [(s["step"], s["at"] is None) for s in known["approved"]] == [
        ("received", False),
        ("held", True),
        ("approved", True),
    ]
    assert [s["step"] for s in known["done"]] == ["received", "matched", "carried_out"]
    assert [s["step"] for s in known["failed"]] == ["received", "failed"]


def test_documents_are_those_that_the_log_fixes(desk, client):
    documents = client.get("/v1/requests/done/evidence").json()["documents"]
    names = {entry["document"]: entry for entry in documents}
    assert {"evidence.json", "evidence.html"} <= names.keys()
    for name in ("evidence.json", "evidence.html"):
        answer = client.get(f"/v1/requests/done/evidence/{name}")
        assert answer.status_code == 200 and answer.headers["content-disposition"].startswith("attachment")
        assert hashlib.sha256(answer.content).hexdigest() == names[name]["sha256"]
        assert answer.headers["x-content-type-options"] == "nosniff" and "sandbox" in str(answer.headers)
    for path in ("waiting/evidence/evidence.json", "nobody/evidence/evidence.json", "done/evidence/receipt-7.json"):
        assert client.get(f"/v1/requests/{path}").status_code == 404
    assert client.get("/v1/requests/done/evidence/key").status_code == 422
    path = desk.session.store, report_name("done")
    content = path[0].read(path[1])
    path[0].write(path[1], content + b" ")
    assert client.get("/v1/requests/done/evidence/evidence.json").status_code == 500
    path[0].write(path[1], content)


def test_the_scope_is_that_of_reading(desk):
    tokens = tuple(
        Token(scope, hashlib.sha256(text.encode()).digest(), frozenset([scope]))
        for text, scope in ((READ, "requests:read"), (WRITE, "requests:write"))
    )
    client = TestClient(make_app(desk.service, AdmissionRules(tokens, 4096, 1e6, 10**6)), base_url="http://127.0.0.1")
    for path in ("/v1/requests", "/v1/requests/done/evidence", "/v1/requests/done/evidence/evidence.json"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers=bearer(WRITE)).status_code == 403
        assert client.get(path, headers=bearer(READ)).status_code == 200
