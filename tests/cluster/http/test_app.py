"""The HTTP face, on a fake service: status codes, admission, limits, and what an answer must not hold."""

import hashlib
import json
import socket
import threading

import pytest

pytest.importorskip("fastapi")
import anyio.to_thread
import httpx
from fastapi.testclient import TestClient

from unlearnrec.cluster.commands.serve import admission_rules, listen
from unlearnrec.cluster.config.request_sections import Serve
from unlearnrec.cluster.http import rate_limit as limits
from unlearnrec.cluster.http.admission import AdmissionRules, is_loopback
from unlearnrec.cluster.http.app import make_app
from unlearnrec.cluster.http.rate_limit import Buckets
from unlearnrec.cluster.http.tokens import SCOPES, Token, load_tokens
from unlearnrec.cluster.lifecycle.refusals import NotApproved, TakenId, TooLate, TooMany
from unlearnrec.cluster.serving.callbacks import url_pattern
from unlearnrec.partitioning.errors import InputError

TOKEN = "0123456789abcdef"
LIMIT = 2048
PATTERN = url_pattern(["desk.example"])


def rules(*tokens, rate=1e6, burst=10**6):
    return AdmissionRules(tokens, LIMIT, rate, burst)


def token(text=TOKEN, name="all", scopes=SCOPES):
    return Token(name, hashlib.sha256(text.encode()).digest(), frozenset(scopes))


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


class FakeService:
    """Keeps requests in a dict; `full` and `late` make it refuse."""

    def __init__(self):
        self.kept, self.full, self.late, self.broken, self.loaded = {}, False, False, None, True

    def accept(self, new):
        if self.broken:
            raise self.broken
        if self.full:
            raise TooMany(17)
        content = (tuple(new.users), tuple(new.items), tuple(new.interactions), tuple(new.ranges))
        request_id = new.request_id or f"req-{abs(hash(content))}"
        self.urls, self.requester = list(new.callback_urls), new.requester
        if self.kept.setdefault(request_id, content) != content:
            raise TakenId("taken")
        return self.status(request_id)

    def status(self, request_id):
        return {"request_id": request_id, "status": "accepted"} if request_id in self.kept else None

    def cancel(self, request_id):
        if self.late:
            raise TooLate
        return self.status(request_id) and {"request_id": request_id, "status": "cancelled"}

    def approve(self, request_id, by):
        if self.late:
            raise NotApproved
        return self.status(request_id) and {"request_id": request_id, "status": "accepted", "approved_by": by}

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
            'requests_total{state="completed"}': 1,
            'requests_total{state="committed"}': 0,
            "x": 0.25,
        }


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def client(service):
    app = make_app(service, rules(), PATTERN)
    return TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False)


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
        ({"ranges": [{"user": 1}]}, "ranges[0]"),
        ({"ranges": [{"item": 1, "since": 1}]}, "ranges[0].user"),
        ({"ranges": [{"user": 1, "since": 2, "until": 2}]}, "ranges[0]"),
        ({"ranges": [{"user": "ann", "since": "ann's birthday"}]}, "ranges[0]"),
        ({"ranges": [{"user": 1, "since": True}]}, "ranges[0].since"),
        ({"ranges": [{"user": 1, "since": 1, "untill": 2}]}, "ranges[0].untill"),
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
    assert "ann" not in answer.text and not service.kept


def test_time_ranges_reach_the_service_in_canonical_form(client, service):
    ranges = [{"user": "ann", "since": "2024-05-01T12:00:00+02:00"}, {"user": 7, "item": "x", "until": 5}]
    assert client.post("/v1/requests/r1", json={"ranges": ranges}).status_code == 202
    expected = (("ann", None, "2024-05-01T10:00:00Z", None), ("7", "x", None, 5))
    assert service.kept["r1"] == ((), (), (), expected)


def test_half_a_character_is_invalid(client):
    content = b'{"users": ["\\ud800"]}'
    assert client.post("/v1/requests", content=content, headers={"content-type": "application/json"}).status_code == 422


@pytest.mark.parametrize("bad", ["a b", "x" * 129, "ü", "a:b", ".tmp-x"])
def test_a_bad_request_id_is_422(client, bad):
    for answer in (client.post(f"/v1/requests/{bad}", json={"users": [1]}), client.get(f"/v1/requests/{bad}")):
        assert answer.status_code == 422 and answer.json()["error"]["errors"][0]["field"] == "request_id"


def test_approval(client, service):
    assert client.post("/v1/requests/r1/approval", json={"by": "Bob"}).status_code == 404
    client.post("/v1/requests/r1", json={"users": [1]})
    assert client.post("/v1/requests/r1/approval", json={"by": "Bob"}).json()["approved_by"] == "Bob"
    for bad in ({}, {"by": ""}, {"by": "two\nlines"}, {"by": "x", "more": 1}):
        assert client.post("/v1/requests/r1/approval", json=bad).status_code == 422
    service.late = True
    assert client.post("/v1/requests/r1/approval", json={"by": "Bob"}).status_code == 409


def test_a_token_says_who_asks_and_who_approves(service):
    app = make_app(service, rules(token(name="ann"), token("bob" * 9, "bob", ["requests:approve"])))
    client = TestClient(app, base_url="http://127.0.0.1:8080")
    client.post("/v1/requests/r1", json={"users": [1]}, headers=bearer(TOKEN))
    assert service.requester == "ann"
    approved = client.post("/v1/requests/r1/approval", json={"by": "cid"}, headers=bearer("bob" * 9))
    assert approved.json()["approved_by"] == "bob"


def test_a_key_that_stands_twice_is_refused(client, service):
    """Of two lists of users the first would be acknowledged and lost."""
    inside = '{"ranges": [{"user": 1, "since": 1, "since": 2}]}'
    for text in ('{"users": ["a"], "users": ["b"]}', inside):
        answer = client.post("/v1/requests", content=text, headers={"content-type": "application/json"})
        assert answer.status_code == 422 and "stands twice" in answer.json()["error"]["message"]
    assert service.kept == {}


def test_refusals(client, service):
    service.full = True
    full = client.post("/v1/requests", json={"users": [1]})
    assert full.status_code == 429 and full.headers["retry-after"] == "17"
    service.full = False
    client.post("/v1/requests/r1", json={"users": [1]})
    assert client.delete("/v1/requests/r1").json()["status"] == "cancelled"
    service.late = True
    assert client.delete("/v1/requests/r1").status_code == 409
    service.broken = OSError("disk full")
    assert client.post("/v1/requests/r2", json={"users": [1]}).status_code == 503
    service.broken = KeyError("ann")
    failed = client.post("/v1/requests/r2", json={"users": [1]})
    assert failed.status_code == 500 and "ann" not in failed.text
    assert client.get("/nowhere").json()["error"]["code"] == 404
    wrong = client.put("/v1/requests/r1")
    assert wrong.status_code == 405 and wrong.headers["allow"] == "DELETE, GET, POST"


def test_a_long_body_is_refused_before_it_is_read(client, service):
    for content in (b"x" * (LIMIT + 1), iter([b"x" * LIMIT, b"x"])):
        answer = client.post("/v1/requests", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413 and "serve.max_body_bytes" in answer.text
    assert not service.kept


def test_recommendations(client, service):
    answer = client.get("/v1/recommendations/ann?k=3")
    assert answer.status_code == 200 and [r["rank"] for r in answer.json()["recommendations"]] == [1, 2, 3]
    assert client.get("/v1/recommendations/a%2Fb").status_code == 200
    assert client.get("/v1/recommendations/bob").status_code == 404
    assert client.get("/v1/recommendations/ann?k=0").status_code == 422
    assert client.get("/v1/recommendations/ann?k=1001").status_code == 422
    service.loaded = False
    assert client.get("/v1/recommendations/ann").status_code == client.get("/healthz").status_code == 503


@pytest.mark.parametrize("path", ["/v1/requests/r", "/v1/recommendations/ann"])
def test_a_call_goes_to_another_thread_once(client, monkeypatch, path):
    """There it may wait for the disk; what it depends on, and its answer, do not."""
    real, calls = anyio.to_thread.run_sync, []

    async def counted(function, *arguments, **options):
        calls.append(function)
        return await real(function, *arguments, **options)

    monkeypatch.setattr(anyio.to_thread, "run_sync", counted)
    answer = client.post(path, json={"users": ["ann"]}) if "requests" in path else client.get(path)
    assert answer.is_success and answer.headers["content-type"] == "application/json" and len(calls) == 1


def test_calls_from_memory_do_not_wait_for_those_that_hang_in_the_storage(service):
    hanging, released = [], threading.Event()

    def hang(request_id):
        hanging.append(request_id)
        released.wait(120)

    service.status = hang
    transport = httpx.ASGITransport(make_app(service, rules()), client=("127.0.0.1", 1))

    async def call():
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
            anyio.create_task_group() as tasks,
        ):
            threads = int(anyio.to_thread.current_default_thread_limiter().total_tokens)
            for _ in range(threads + 1):
                tasks.start_soon(client.get, "/v1/requests/r")
            try:
                with anyio.fail_after(30):
                    while len(hanging) < threads:
                        await anyio.sleep(0.01)
                    return [(await client.get(path)).status_code for path in ("/healthz", "/v1/recommendations/ann")]
            finally:
                released.set()

    assert anyio.run(call) == [200, 200]


def test_an_answer_does_not_wait_for_the_client_to_acknowledge_its_head():
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()[:2]):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_discovery_and_metrics(client):
    assert client.get("/v1/discovery").json()["supported_subject_request_types"] == ["erasure"]
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.splitlines() == [
        "# HELP unlearnrec_open_requests Deletion requests without an answer, held and failed ones among them.",
        "# TYPE unlearnrec_open_requests gauge",
        "unlearnrec_open_requests 2",
        "# HELP unlearnrec_requests_total Requests in the log by final state.",
        "# TYPE unlearnrec_requests_total counter",
        'unlearnrec_requests_total{state="completed"} 1',
        'unlearnrec_requests_total{state="committed"} 0',
        "# TYPE unlearnrec_x gauge",
        "unlearnrec_x 0.25",
    ]


PATHS = ("/v1/discovery", "/v1/requests/x", "/v1/recommendations/ann", "/metrics", "/openapi.json", "/nowhere")


def test_without_the_token_nothing_is_told(service):
    client = TestClient(make_app(service, rules(token())))
    assert client.get("/metrics").headers["www-authenticate"] == "Bearer"
    for wrong in (bearer(""), bearer(f"{TOKEN}x"), {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}):
        for path in PATHS:
            answer = client.get(path, headers=wrong)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert client.post("/v1/requests", json={"users": [1]}, headers=wrong).status_code == 401
        assert client.get("/healthz").status_code == 200
    assert not service.kept
    assert client.get("/v1/recommendations/ann", headers=bearer(TOKEN)).status_code == 200


def test_under_a_path_of_ray_serve_the_same_is_open(service):
    client = TestClient(make_app(service, rules(token())), root_path="/a/run")
    assert client.get("/a/run/healthz").status_code == 200
    for path in PATHS:
        assert client.get(f"/a/run{path}").status_code == 401
    assert client.get("/a/run/v1/recommendations/ann", headers=bearer(TOKEN)).status_code == 200


CALLS = [
    ("POST", "/v1/requests", "requests:write"),
    ("POST", "/v1/requests/x", "requests:write"),
    ("DELETE", "/v1/requests/x", "requests:write"),
    ("GET", "/v1/requests/x", "requests:read"),
    ("GET", "/v1/recommendations/ann", "recommendations:read"),
    ("GET", "/metrics", "metrics:read"),
]


@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_opens_its_scope_and_no_other(service, scope):
    client = TestClient(make_app(service, rules(token("other" * 9, "none"), token(name="one", scopes=[scope]))))
    for method, path, needed in CALLS:
        body = {"json": {"users": [1]}} if method == "POST" else {}
        answer = client.request(method, path, headers=bearer(TOKEN), **body)
        assert (answer.status_code == 403) == (needed != scope), (method, path)
        if needed != scope:
            assert answer.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{needed}"'
    assert client.get("/v1/discovery", headers=bearer(TOKEN)).status_code == 200
    assert ("x" in service.kept) == (scope == "requests:write")


def test_each_token_has_its_own_rate_and_guesses_are_counted(service):
    client = TestClient(make_app(service, rules(token(), token("second-" * 4, "second"), rate=0.01, burst=3)))
    codes = [client.get("/v1/discovery", headers=bearer(TOKEN)).status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]
    refused = client.get("/v1/discovery", headers=bearer(TOKEN))
    assert 90 <= int(refused.headers["retry-after"]) <= 100 and "serve.rate_per_second" in refused.text
    assert client.get("/v1/discovery", headers=bearer("second-" * 4)).status_code == 200
    assert [client.get("/metrics", headers=bearer("guess")).status_code for _ in range(4)] == [401, 401, 401, 429]
    assert client.get("/healthz").status_code == 200


def test_a_bucket_fills_again():
    now = [0.0]
    buckets = Buckets(2.0, 2, lambda: now[0])
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0.5]
    assert buckets.take("b") == 0
    now[0] = 0.5
    assert buckets.take("a") == 0 and buckets.take("a") == 0.5
    now[0] = 100.0
    assert [buckets.take("a") > 0 for _ in range(3)] == [False, False, True]


def test_few_callers_are_remembered(monkeypatch):
    monkeypatch.setattr(limits, "MOST_CALLERS", 2)
    buckets = Buckets(1.0, 1, lambda: 0.0)
    assert [buckets.take(caller) for caller in "abcbca"] == [0, 0, 0, 1, 1, 0]


def test_an_opendsr_body_is_a_request(client, service):
    body = {
        "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
        "subject_request_type": "erasure",
        "regulation": "gdpr",
        "submitted_time": "2018-10-02T15:00:00Z",
        "subject_identities": [
            {"identity_type": "controller_customer_id", "identity_value": "ann", "identity_format": "raw"}
        ],
        "api_version": "2.0",
        "status_callback_urls": ["https://desk.example/opendsr/callbacks"],
    }
    answer = client.post("/v1/requests", json=body)
    assert answer.status_code == 202 and answer.json()["request_id"] == body["subject_request_id"]
    assert service.kept == {body["subject_request_id"]: (("ann",), (), (), ())}
    assert service.urls == body["status_callback_urls"]
    assert client.post("/v1/requests/other", json=body).status_code == 409
    for wrong in ({"subject_request_type": "access"}, {"api_version": "1.0"}, {"extensions": {}}):
        assert client.post("/v1/requests", json=body | wrong).status_code == 422
    email = body | {"subject_identities": [body["subject_identities"][0] | {"identity_type": "email"}]}
    assert client.post("/v1/requests", json=email).status_code == 422


@pytest.mark.parametrize(
    "url",
    [
        "http://desk.example/x",
        "https://desk.example.evil.example/",
        "https://desk.example@evil.example/",
        "https://desk.example:8443/",
        "https://DESK.example/",
        "https://desk.example\\@evil.example/",
        "https://deskxexample/",
        "https://127.0.0.1/",
        "https://desk.example/\n",
        "file:///etc/passwd",
    ],
)
def test_callbacks_lead_to_listed_hosts_alone(client, service, url):
    for urls in ([url], ["https://desk.example/", url]):
        answer = client.post("/v1/requests", json={"users": [1], "status_callback_urls": urls})
        field = f"status_callback_urls[{len(urls) - 1}]"
        assert answer.status_code == 422 and answer.json()["error"]["errors"][0]["field"] == field
    assert not service.kept


def test_without_a_list_of_hosts_there_are_no_callbacks(service):
    client = TestClient(make_app(service, rules()), base_url="http://127.0.0.1:8080")
    body = {"users": [1], "status_callback_urls": ["https://desk.example/"]}
    assert client.post("/v1/requests", json=body).status_code == 422 and not service.kept


def test_without_a_token_only_loopback_names_are_answered(client):
    for host, code in (("localhost", 200), ("[::1]:8080", 200), ("127.0.0.1", 200), ("evil.example", 400), ("", 400)):
        assert client.get("/v1/discovery", headers={"host": host}).status_code == code, host


def test_elsewhere_than_loopback_a_token_is_needed(monkeypatch):
    monkeypatch.delenv("TOKEN_HERE", raising=False)
    assert [is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "0.0.0.0", "::", "example.org")] == [
        *[True] * 4,
        *[False] * 3,
    ]
    settings = Serve(token_variable="TOKEN_HERE")
    assert admission_rules(settings, "127.0.0.1").tokens == ()
    with pytest.raises(InputError, match="TOKEN_HERE is not set"):
        admission_rules(settings, "0.0.0.0")
    for bad in ("short", "sixteen and more ", "ü" * 16):
        monkeypatch.setenv("TOKEN_HERE", bad)
        with pytest.raises(InputError, match="at least 16"):
            admission_rules(settings, "127.0.0.1")
    monkeypatch.setenv("TOKEN_HERE", TOKEN)
    assert admission_rules(settings, "0.0.0.0").tokens == (token(name="default"),)


DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


def test_tokens_of_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv("TOKEN_HERE", raising=False)
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps([{"name": "desk", "sha256": DIGEST, "scopes": ["requests:write"]}]))
    assert load_tokens("TOKEN_HERE", str(file)) == (token(name="desk", scopes=["requests:write"]),)
    monkeypatch.setenv("TOKEN_HERE", TOKEN)
    with pytest.raises(InputError, match="the same sha256"):
        load_tokens("TOKEN_HERE", str(file))
    monkeypatch.setenv("TOKEN_HERE", "another-" * 3)
    assert [t.name for t in load_tokens("TOKEN_HERE", str(file))] == ["default", "desk"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "not JSON"),
        ("{}", "entry list"),
        (json.dumps([{"name": "a", "sha256": DIGEST, "scopes": []}]), r"\[0\].scopes"),
        (json.dumps([{"name": "a", "sha256": DIGEST, "scopes": ["everything"]}]), r"\[0\].scopes\[0\]"),
        (json.dumps([{"name": "a", "sha256": TOKEN, "scopes": ["metrics:read"]}]), r"\[0\].sha256"),
        (json.dumps([{"name": "a b", "sha256": DIGEST, "scopes": ["metrics:read"]}]), r"\[0\].name"),
        (json.dumps([{"name": "a", "sha256": d * 64, "scopes": ["metrics:read"]} for d in "ab"]), "the same name"),
        (None, "No such file"),
    ],
)
def test_a_wrong_file_of_tokens_is_named(tmp_path, content, named):
    file = tmp_path / "tokens.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=f"serve.tokens_file .*{named}") as error:
        load_tokens("TOKEN_HERE", str(file))
    assert TOKEN not in str(error.value)


def test_the_defaults_are_careful():
    assert Serve().host == "127.0.0.1"
