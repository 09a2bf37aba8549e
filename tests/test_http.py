"""The HTTP face, on a fake service: status codes, the door, limits, and what an answer must not hold."""

import pytest

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from unlearnrec.cluster.accepting import TakenId
from unlearnrec.cluster.config import Serve
from unlearnrec.cluster.desk import Desk, TooLate, TooMany
from unlearnrec.cluster.http import is_loopback, make_app
from unlearnrec.cluster.serve import _token
from unlearnrec.partitioning.errors import InputError

TOKEN = "0123456789abcdef"
LIMIT = 2048


class FakeDesk:
    """Keeps requests in a dict; `full` and `late` make it refuse."""

    def __init__(self):
        self.kept, self.full, self.late, self.broken = {}, False, False, None

    def accept(self, users, items, interactions, request_id):
        if self.broken:
            raise self.broken
        if self.full:
            raise TooMany(17)
        content = (tuple(users), tuple(items), tuple(interactions))
        request_id = request_id or f"req-{abs(hash(content))}"
        if self.kept.setdefault(request_id, content) != content:
            raise TakenId("taken")
        return self.status(request_id)

    def status(self, request_id):
        return {"request_id": request_id, "status": "accepted"} if request_id in self.kept else None

    def cancel(self, request_id):
        if self.late:
            raise TooLate
        return self.status(request_id) and {"request_id": request_id, "status": "cancelled"}


class FakeService:
    def __init__(self):
        self.desk, self.loaded = FakeDesk(), True

    def recommendations(self, user, k):
        if not self.loaded:
            raise LookupError
        found = [{"item_id": n, "score": 1.0, "rank": n + 1} for n in range(k)]
        return {"version": 1, "recommendations": found} if user in ("ann", "a/b") else None

    def health(self):
        return {"status": "ok" if self.loaded else "starting", "version": 1, "blocked": None}

    def gauges(self):
        return {
            "open_requests": 2,
            'requests_total{state="failed"}': 1,
            'requests_total{state="committed"}': 0,
            "x": 0.25,
        }


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def client(service):
    return TestClient(make_app(service, None, LIMIT), base_url="http://127.0.0.1:8080", raise_server_exceptions=False)


def test_a_request_is_accepted_and_repeating_it_gives_the_same_answer(client):
    body = {"users": [1, "ann"], "items": ["x"], "interactions": [[1, "x"]]}
    first = client.post("/v1/requests/r1", json=body)
    assert first.status_code == 202 and first.json()["status"] == "accepted" and first.json()["api_version"] == "2.0"
    assert client.post("/v1/requests/r1", json=body).json() == first.json()
    other = client.post("/v1/requests/r1", json={"users": [2]})
    assert other.status_code == 409 and "another request" in other.json()["error"]["message"]
    derived = client.post("/v1/requests", json=body).json()["request_id"]
    assert client.get(f"/v1/requests/{derived}").json()["request_id"] == derived
    assert client.get("/v1/requests/nobody").status_code == client.delete("/v1/requests/nobody").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"users": []}, "body"),
        ({"users": "ann"}, "users"),
        ({"users": [1, 2.5]}, "users[1]"),
        ({"users": [True]}, "users[0]"),
        ({"users": [None]}, "users[0]"),
        ({"users": [""]}, "users[0]"),
        ({"items": ["x" * 1025]}, "items[0]"),
        ({"interactions": [[1]]}, "interactions[0][1]"),
        ({"interactions": [[1, 2, 3]]}, "interactions[0]"),
        ({"people": [1]}, "people"),
        ([1], "body"),
        ("{", "body"),
    ],
    ids=str,
)
def test_an_invalid_body_is_422_and_names_the_field(client, service, body, field):
    if isinstance(body, str):
        answer = client.post("/v1/requests", content=body, headers={"content-type": "application/json"})
    else:
        answer = client.post("/v1/requests", json=body)
    assert answer.status_code == 422 and field in {e["field"] for e in answer.json()["error"]["errors"]}
    assert "ann" not in answer.text and not service.desk.kept


def test_half_a_character_is_invalid(client):
    content = b'{"users": ["\\ud800"]}'
    assert client.post("/v1/requests", content=content, headers={"content-type": "application/json"}).status_code == 422


@pytest.mark.parametrize("bad", ["a b", "x" * 129, "ü", "a:b"])
def test_a_bad_request_id_is_422(client, bad):
    for answer in (client.post(f"/v1/requests/{bad}", json={"users": [1]}), client.get(f"/v1/requests/{bad}")):
        assert answer.status_code == 422 and answer.json()["error"]["errors"][0]["field"] == "request_id"


def test_refusals(client, service):
    service.desk.full = True
    full = client.post("/v1/requests", json={"users": [1]})
    assert full.status_code == 429 and full.headers["retry-after"] == "17"
    service.desk.full = False
    client.post("/v1/requests/r1", json={"users": [1]})
    assert client.delete("/v1/requests/r1").json()["status"] == "cancelled"
    service.desk.late = True
    assert client.delete("/v1/requests/r1").status_code == 409
    service.desk.broken = OSError("disk full")
    assert client.post("/v1/requests/r2", json={"users": [1]}).status_code == 503
    service.desk.broken = KeyError("ann")
    failed = client.post("/v1/requests/r2", json={"users": [1]})
    assert failed.status_code == 500 and "ann" not in failed.text
    assert client.get("/nowhere").json()["error"]["code"] == 404
    assert client.put("/v1/requests/r1").status_code == 405


def test_a_long_body_is_refused_before_it_is_read(client, service):
    for content in (b"x" * (LIMIT + 1), iter([b"x" * LIMIT, b"x"])):
        answer = client.post("/v1/requests", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413 and "serve.max_body_bytes" in answer.text
    assert not service.desk.kept


def test_recommendations(client, service):
    answer = client.get("/v1/recommendations/ann?k=3")
    assert answer.status_code == 200 and [r["rank"] for r in answer.json()["recommendations"]] == [1, 2, 3]
    assert client.get("/v1/recommendations/a%2Fb").status_code == 200
    assert client.get("/v1/recommendations/bob").status_code == 404
    assert client.get("/v1/recommendations/ann?k=0").status_code == 422
    assert client.get("/v1/recommendations/ann?k=1001").status_code == 422
    service.loaded = False
    assert client.get("/v1/recommendations/ann").status_code == client.get("/healthz").status_code == 503


def test_discovery_and_metrics(client):
    assert client.get("/v1/discovery").json()["supported_subject_request_types"] == ["erasure"]
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.splitlines() == [
        "# TYPE unlearnrec_open_requests gauge",
        "unlearnrec_open_requests 2",
        "# TYPE unlearnrec_requests_total counter",
        'unlearnrec_requests_total{state="failed"} 1',
        'unlearnrec_requests_total{state="committed"} 0',
        "# TYPE unlearnrec_x gauge",
        "unlearnrec_x 0.25",
    ]


PATHS = ("/v1/discovery", "/v1/requests/x", "/v1/recommendations/ann", "/metrics", "/openapi.json", "/nowhere")


def test_without_the_token_nothing_is_told(service):
    client = TestClient(make_app(service, TOKEN, LIMIT))
    for wrong in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
        for path in PATHS:
            answer = client.get(path, headers=wrong)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.post("/v1/requests", json={"users": [1]}, headers=wrong).status_code == 401
        assert client.get("/healthz").status_code == 200
    assert not service.desk.kept
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/v1/recommendations/ann", headers=right).status_code == 200


def test_without_a_token_only_loopback_names_are_answered(client):
    for host, code in (("localhost", 200), ("[::1]:8080", 200), ("127.0.0.1", 200), ("evil.example", 400), ("", 400)):
        assert client.get("/v1/discovery", headers={"host": host}).status_code == code, host


def test_elsewhere_than_loopback_a_token_is_needed(monkeypatch):
    monkeypatch.delenv("TOKEN_HERE", raising=False)
    assert [is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "0.0.0.0", "::", "example.org")] == [
        *[True] * 4,
        *[False] * 3,
    ]
    assert _token("TOKEN_HERE", "127.0.0.1", True) is None
    with pytest.raises(InputError, match="TOKEN_HERE is not set"):
        _token("TOKEN_HERE", "0.0.0.0", False)
    monkeypatch.setenv("TOKEN_HERE", "short")
    with pytest.raises(InputError, match="at least 16"):
        _token("TOKEN_HERE", "127.0.0.1", True)
    monkeypatch.setenv("TOKEN_HERE", TOKEN)
    assert _token("TOKEN_HERE", "0.0.0.0", False) == TOKEN


def test_the_defaults_are_careful():
    assert Serve().host == "127.0.0.1"


def test_the_desk_has_what_the_face_asks_for():
    assert all(callable(getattr(Desk, name)) for name in ("accept", "status", "cancel"))
