"""The pages of the privacy desk over the real intake: who gets in, what forms do, and what must never be shown or kept."""

import hashlib
import logging
import re

import pytest

pytest.importorskip("fastapi")
from desk_output import accept_for, desk_output
from fastapi.testclient import TestClient
from small_output import user_name

from unlearnrec.cluster.desk import visits
from unlearnrec.cluster.desk.app import make_site
from unlearnrec.cluster.http.admission import AdmissionRules
from unlearnrec.cluster.http.tokens import SCOPES, Token
from unlearnrec.cluster.layout import report_name

ALL, READ, WRITE = "all-" * 6, "read-" * 6, "write-" * 6
LIMIT = 65536
PAGES = ("/desk/", "/desk/requests/held", "/desk/new", "/desk/health", "/desk/versions", "/docs")


def a_token(text, name, scopes=SCOPES):
    return Token(name, hashlib.sha256(text.encode()).digest(), frozenset(scopes))


TOKENS = (
    a_token(ALL, "privacy-lead"),
    a_token(READ, "auditor", ["requests:read"]),
    a_token(WRITE, "support", ["requests:write"]),
)


@pytest.fixture
def desk(tmp_path):
    return desk_output(tmp_path, encoder=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """For tests that only look."""
    return desk_output(tmp_path_factory.mktemp("desk"), encoder=True)


def browser(desk, *tokens, base="http://127.0.0.1:8080", rate=1e6, burst=10**6, **more):
    app = make_site(desk.service, AdmissionRules(tokens, LIMIT, rate, burst))
    return TestClient(app, base_url=base, raise_server_exceptions=False, **more)


def secret(client, *paths):
    """The secret of this browser's forms, from the first of the pages that has a form."""
    pages = (client.get(path).text for path in paths or ("/desk/new", "/docs"))
    return next(filter(None, (re.search(r'name="form_secret" value="([0-9a-f]+)"', page) for page in pages)))[1]


def sign_in(client, text):
    return client.post("/desk/sign-in", data={"form_secret": secret(client, "/desk/sign-in"), "token": text})


def send(client, path, **fields):
    return client.post(path, data={"form_secret": secret(client), **fields})


# ---- who gets in ------------------------------------------------------------------------------------------------------


def test_without_a_session_every_page_leads_to_the_sign_in(shared):
    client = browser(shared, *TOKENS)
    for path in ("/", "/desk", *PAGES):
        answer = client.get(path)
        assert answer.url.path == "/desk/sign-in" and "held" not in answer.text
    assert client.get("/v1/requests").status_code == 401  # a session opens pages, and never the API
    assert sign_in(client, ALL).url.path == "/desk/" and client.get("/v1/requests").status_code == 401
    for path in PAGES:
        assert client.get(path).url.path == path


def test_the_cookie_of_a_session_is_for_this_site_alone_and_dies_with_the_session(shared):
    client = browser(shared, *TOKENS, base="https://127.0.0.1")
    answer = client.post(
        "/desk/sign-in",
        data={"form_secret": secret(client, "/desk/sign-in"), "token": ALL},
        follow_redirects=False,
    )
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303 and ALL not in str(answer.headers) and ALL not in answer.text
    for word in ("HttpOnly", "SameSite=strict", "Secure", "Path=/"):
        assert word in cookie
    old = client.cookies[visits.SESSION]
    send(client, "/desk/sign-out")
    assert client.get("/desk/").url.path == "/desk/sign-in"
    client.cookies.set(visits.SESSION, old, domain="127.0.0.1")
    assert client.get("/desk/").url.path == "/desk/sign-in"


def test_a_session_ends_when_nobody_uses_it_and_after_a_day_of_work(monkeypatch):
    from unlearnrec.cluster.desk.sessions import IDLE_SECONDS, LONGEST_SECONDS, MOST_SESSIONS, Sessions

    now = [0.0]
    sessions = Sessions(lambda: now[0])
    idle, busy = sessions.start(TOKENS[0]), sessions.start(TOKENS[1])
    while now[0] < LONGEST_SECONDS - IDLE_SECONDS:
        now[0] += IDLE_SECONDS / 2
        assert sessions.find(busy).token is TOKENS[1]
    assert sessions.find(idle) is None
    now[0] = LONGEST_SECONDS
    assert sessions.find(busy) is None and sessions.find("made up") is None
    first = sessions.start(TOKENS[0])
    for _ in range(MOST_SESSIONS):
        sessions.start(TOKENS[1])
    assert sessions.find(first) is None


def test_attempts_to_sign_in_are_limited(shared, caplog):
    client = browser(shared, *TOKENS)
    answers = [sign_in(client, f"guess-{n:03d}-of-a-token").status_code for n in range(visits.SIGN_INS + 1)]
    assert answers == [401] * visits.SIGN_INS + [429]
    assert sign_in(client, ALL).status_code == 429  # whoever guesses learns nothing more
    assert "guess" not in caplog.text


def test_a_token_may_do_on_pages_what_it_may_do_over_the_api(shared):
    client = browser(shared, *TOKENS)
    sign_in(client, READ)
    assert client.get("/desk/requests/held").status_code == 200
    assert "requests:approve" in client.get("/desk/requests/held").text
    for path in ("/desk/new", "/desk/drafts/x"):
        assert client.get(path).status_code == 403
    for action in ("cancel", "approve"):
        assert send(client, f"/desk/requests/held/{action}").status_code == 403
    assert "metrics:read" in client.get("/desk/health").text
    send(client, "/desk/sign-out")
    sign_in(client, WRITE)
    assert client.get("/desk/").status_code == client.get("/desk/versions").status_code == 403
    assert client.get("/desk/new").status_code == 200


def test_without_tokens_the_pages_are_open_and_say_so(shared):
    client = browser(shared)
    for path in PAGES:
        answer = client.get(path)
        assert answer.status_code == 200 and "No token is set" in answer.text
    assert client.get("/desk/sign-in").url.path == "/desk/"
    other = browser(shared, base="http://rebound.example").get("/desk/")
    assert other.status_code == 400 and "loopback" in other.text and "held" not in other.text


# ---- what every answer says -------------------------------------------------------------------------------------------


def test_every_page_forbids_scripts_frames_and_copies(shared):
    client = browser(shared)
    for path in (*PAGES, "/desk/nothing", "/desk/requests/nobody"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-frame-options"] == "DENY" and answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert not re.search(r"<script|\sstyle=|\son[a-z]+=|<style", answer.text)
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//(?!github\.com/opengdpr)', answer.text)


@pytest.mark.parametrize("path", ["/desk/requests/held/cancel", "/desk/requests/held/approve", "/desk/new/typed"])
def test_a_form_of_another_site_changes_nothing(shared, path):
    client = browser(shared)
    right = secret(client)
    for fields, headers in (
        ({}, {}),
        ({"form_secret": "0" * 64}, {}),
        ({"form_secret": right}, {"Sec-Fetch-Site": "cross-site"}),
    ):
        answer = client.post(path, data={"by": "Bob", "users": "x", **fields}, headers=headers)
        assert answer.status_code == 403 and "out of date" in answer.text
    assert browser(shared).post(path, data={"form_secret": right}).status_code == 403  # another browser's
    assert shared.intake.status("held")["phase"] == "held"


def test_pages_refuse_in_words_what_the_api_refuses_in_json(shared):
    client = browser(shared)
    long = client.post("/desk/new/typed", data={"form_secret": secret(client), "users": "x" * LIMIT})
    assert long.status_code == 413 and "serve.max_body_bytes" in long.text and "<h1>" in long.text
    few = browser(shared, rate=0.001, burst=1)
    few.get("/desk/")
    answer = few.get("/desk/")
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0 and "<h1>" in answer.text


def test_storage_that_is_away_is_a_page_too(shared, monkeypatch, caplog):
    def away(*_):
        raise ConnectionError("10.0.0.7")

    def broken(*_):
        raise KeyError(user_name(1))

    client = browser(shared)
    monkeypatch.setattr(shared.intake, "requests", away)
    answer = client.get("/desk/")
    assert answer.status_code == 503 and "try again" in answer.text and "10.0.0.7" not in answer.text
    monkeypatch.setattr(shared.intake, "requests", broken)
    answer = client.get("/desk/")
    assert answer.status_code == 500 and user_name(1) not in answer.text + caplog.text


def test_addresses_follow_the_prefix_of_ray_serve(shared):
    client = browser(shared, *TOKENS, root_path="/runs/shop")
    answer = client.get("/runs/shop/desk/new", follow_redirects=False)
    assert answer.headers["location"] == "/runs/shop/desk/sign-in"
    page = client.get("/runs/shop/desk/sign-in")
    assert 'href="/runs/shop/desk/style.css"' in page.text and 'action="/runs/shop/desk/sign-in"' in page.text
    assert "Path=/runs/shop" in answer.headers["set-cookie"]


# ---- requests ---------------------------------------------------------------------------------------------------------


def rows(page):
    return re.findall(r'<th scope="row"><a href="/desk/requests/([^"]+)"', page.text)


def test_the_list_shows_the_most_urgent_first_and_finds_a_request_by_its_id(shared):
    client = browser(shared)
    assert rows(client.get("/desk/")) == ["waiting", "held", "approved", "failed"]
    assert rows(client.get("/desk/?show=held")) == ["held"] and rows(client.get("/desk/?show=done")) == ["done"]
    assert rows(client.get("/desk/?show=all"))[0] == "cancelled"
    found = send(client, "/desk/search", text="eL")
    assert rows(found) == ["cancelled", "held"] and found.url.path == "/desk/search" and not found.url.query
    assert send(client, "/desk/search", text=" done ").url.path == "/desk/requests/done"
    assert "No request has this" in send(client, "/desk/search", text="zzz").text
    assert "29 days left" in client.get("/desk/").text and "support" in client.get("/desk/").text
    for strange in ("/desk/?show=nothing", "/desk/?cursor=a~b"):
        assert client.get(strange).status_code == 200
    assert "<script>" not in send(client, "/desk/search", text="<script>").text


def test_a_long_list_has_pages(desk, monkeypatch):
    from unlearnrec.cluster.desk import request_pages

    monkeypatch.setattr(request_pages, "PAGE", 3)
    client = browser(desk)
    first = client.get("/desk/?show=all")
    link = re.search(r'href="([^"]+)">Next page', first.text)[1].replace("&amp;", "&")
    assert rows(first) + rows(client.get(link)) == ["cancelled", "failed", "approved", "held", "waiting", "done"]
    first = send(client, "/desk/search", text="e")
    cursor = re.search(r'name="cursor" value="([^"]+)"', first.text)[1]
    second = send(client, "/desk/search", text="e", cursor=cursor)
    assert rows(first) + rows(second) == ["cancelled", "failed", "approved", "held", "done"]


def test_the_page_of_a_request_tells_its_story_and_hands_out_its_documents(shared):
    client = browser(shared)
    page = client.get("/desk/requests/done").text
    for words in (
        "Received",
        "Matched with the data",
        "Carried out",
        "Checked",
        "4 interactions",
        "MISSED its quality",
    ):
        assert words in page
    approved = client.get("/desk/requests/approved").text
    assert "Received by support" in approved and "Approved by privacy-lead" in approved
    content = client.get("/desk/requests/done/documents/evidence.json").content
    assert content == shared.session.store.read(report_name("done"))
    shown = client.get("/desk/requests/done/documents/evidence.html?show=1")
    assert shown.headers["content-disposition"].startswith("inline") and "sandbox" in str(shown.headers)
    assert client.get("/desk/requests/done/documents/receipt-9.json").status_code == 404
    assert client.get("/desk/requests/.hidden").status_code == client.get("/desk/requests/nobody").status_code == 404


def test_cancel_and_approve(desk):
    client = browser(desk)
    done = send(client, "/desk/requests/waiting/cancel")
    assert done.url.path == "/desk/requests/waiting" and "The request is cancelled" in done.text
    assert "The request is cancelled" in send(client, "/desk/requests/waiting/cancel").text  # sent twice
    late = send(client, "/desk/requests/done/cancel")
    assert late.status_code == 409 and "its grace window has passed" in late.text
    assert send(client, "/desk/requests/held/approve").status_code == 422
    own = send(client, "/desk/requests/held/approve", by="Support")
    assert own.status_code == 409 and "whoever asked for it" in own.text and 'value="Support"' in own.text
    assert "The request is approved" in send(client, "/desk/requests/held/approve", by="Bob").text
    assert "The request is approved" in send(client, "/desk/requests/held/approve", by="Bob").text
    assert desk.intake.status("held")["approved_by"] == "Bob"
    assert send(client, "/desk/requests/nobody/cancel").status_code == 404


def test_the_name_of_a_token_approves_and_asks(desk):
    client = browser(desk, *TOKENS)
    sign_in(client, ALL)
    send(client, "/desk/requests/held/approve", by="somebody else")
    assert desk.intake.status("held")["approved_by"] == "privacy-lead"
    draft = send(client, "/desk/new/typed", users=user_name(5)).url.path
    send(client, f"{draft}/send", request_id="new", requester="somebody else")
    assert desk.intake.status("new")["requester"] == "privacy-lead"


# ---- a new request ----------------------------------------------------------------------------------------------------


def test_a_typed_request_is_counted_before_it_is_sent_and_never_shown(desk, caplog):
    caplog.set_level(logging.DEBUG)
    client = browser(desk)
    before = desk.session.log.head()
    page = send(client, "/desk/new/typed", users=f"{user_name(5)}\r\nnobody-at-all \r\n\r\n", items="item-001x")
    assert page.status_code == 200 and desk.session.log.head() == before
    text = re.sub(r"<[^>]+>|\s+", " ", page.text)
    assert re.search(r"Users named +2", text) and re.search(r"Rows that find nothing +1", text)
    assert "1 id begins or ends with a space" in text
    draft = page.url.path
    sent = send(client, f"{draft}/send", request_id="case-7", requester="Ann")
    assert sent.url.path == "/desk/requests/case-7" and "accepted and durable" in sent.text
    again = send(client, f"{draft}/send", request_id="case-7", requester="Ann")
    assert again.url.path == "/desk/requests/case-7" and "there already" in again.text
    assert desk.session.log.head() == before + 1 and desk.intake.status("case-7")["requester"] == "Ann"
    seen = [page.text, sent.text, again.text, str(client.cookies), draft, caplog.text]
    assert not any(name in one for one in seen for name in (user_name(5), "nobody-at-all", "item-001x"))


def test_a_file_of_requests_is_one_request(desk):
    client = browser(desk)
    content = f"user_id,item_id,since\n{user_name(5)},,\n,item-003x,\n,,\n{user_name(6)},item-001x,\n,,soon\n".encode()
    page = client.post(
        "/desk/new/file", data={"form_secret": secret(client)}, files={"file": ("case.csv", content, "text/csv")}
    )
    text = re.sub(r"<[^>]+>|\s+", " ", page.text)
    assert re.search(r"Rows that mean nothing +2", text) and "Row 3: it has neither user_id nor item_id" in text
    sent = send(client, f"{page.url.path}/send")
    request_id = sent.url.path.rpartition("/")[2]
    request = desk.intake.status(request_id)
    assert request_id.startswith("req-") and request["phase"] == "accepted"
    # The same file again is the same request.
    page = client.post(
        "/desk/new/file", data={"form_secret": secret(client)}, files={"file": ("case.csv", content, "text/csv")}
    )
    assert f"/desk/requests/{request_id}" in page.text and "asked for already" in page.text
    assert send(client, f"{page.url.path}/send").url.path == sent.url.path


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("", b"", "choose a file"),
        ("a.docx", b"x", "says no format"),
        ("a.csv", b"ann@example\nbob@example\n", "no column user_id or item_id"),
        ("a.csv", b"user_id,untill\nann@example,1\n", "not known here"),
        ("a.json", b'[{"user_id": "ann@example"', "not readable as JSON"),
        ("a.jsonl", b'{"user_id": "ann@example", "user_id": "b"}', "stands twice"),
        ("a.csv", b"user_id\n \n", "no row of the file"),
        ("a.parquet", b"ann@example", "not a readable Parquet file"),
    ],
)
def test_a_wrong_file_says_what_is_wrong_and_repeats_nothing_of_it(shared, name, content, words):
    client = browser(shared)
    files = {"file": (name, content)} if name else {"other": ("", b"")}
    answer = client.post("/desk/new/file", data={"form_secret": secret(client)}, files=files)
    assert answer.status_code == 422 and words in answer.text and "ann@example" not in answer.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "give at least one"),
        ({"users": " \r\n"}, "give at least one"),
        ({"user": "ann@example", "since": "2026-05-02", "until": "2026-05-01"}, "since is not before until"),
        ({"since": "2026-05-02"}, "neither user_id nor item_id"),
        ({"user": "ann@example", "until": "never"}, "until"),
        ({"users": "ann@example" * 200}, "longer than 1024"),
    ],
)
def test_a_wrong_form_keeps_what_was_typed_but_no_ids(shared, fields, words):
    answer = send(browser(shared), "/desk/new/typed", **fields)
    assert answer.status_code == 422 and words in answer.text and "ann@example" not in answer.text
    assert all(f'value="{fields[name]}"' in answer.text for name in ("since", "until") if name in fields)
    assert 'role="alert"' in answer.text and 'aria-invalid="true"' in answer.text


def test_what_the_api_refuses_the_form_refuses_in_the_same_words(desk):
    client = browser(desk)
    draft = send(client, "/desk/new/typed", users=user_name(5)).url.path
    taken = send(client, f"{draft}/send", request_id="waiting", requester="Ann")
    assert taken.status_code == 409 and "another request has this id" in taken.text
    assert 'value="waiting"' in taken.text and 'value="Ann"' in taken.text
    bad = send(client, f"{draft}/send", request_id="a b", requester="x" * 200)
    assert bad.status_code == 422 and bad.text.count('class="wrong"') == 2
    desk.intake._limit = 0
    full = send(client, f"{draft}/send")
    assert full.status_code == 429 and "too many open requests" in full.text and "retry-after" in full.headers
    desk.intake._limit = 10
    assert send(client, f"{draft}/send").url.path.startswith("/desk/requests/req-")  # nothing was lost


def test_a_draft_is_its_browsers_alone_and_is_not_kept_for_ever(desk):
    from unlearnrec.cluster.desk.drafts import KEPT_SECONDS, MOST_DRAFTS, Draft, Drafts
    from unlearnrec.cluster.serving.interface import NewRequest

    client = browser(desk)
    draft = send(client, "/desk/new/typed", users=user_name(5)).url.path
    other = TestClient(client.app, base_url="http://127.0.0.1:8080")
    assert other.get(draft).status_code == 404 and client.get(draft).status_code == 200
    send(client, f"{draft}/discard")
    assert client.get(draft).status_code == 404 and "not kept any more" in client.get(draft).text
    now = [0.0]
    drafts = Drafts(lambda: now[0])
    name = drafts.add("me", Draft(NewRequest(["ann"]), {"users": 1}))
    now[0] = KEPT_SECONDS
    assert drafts.find("me", name) is None
    names = [drafts.add("me", Draft(NewRequest(["ann"]), {"users": 1})) for _ in range(MOST_DRAFTS + 1)]
    assert drafts.find("me", names[0]) is None and drafts.find("me", names[-1]) is not None
    drafts.sent("me", names[-1], "r1")
    assert drafts.find("me", names[-1]).new is None and drafts.find("me", names[-1]).sent_as == "r1"


def test_a_token_that_may_only_write_learns_nothing_from_a_preview(desk):
    client = browser(desk, *TOKENS)
    sign_in(client, WRITE)
    page = send(client, "/desk/new/typed", users=user_name(5))
    assert "requests:read" in page.text and "Interactions that go" not in page.text
    sent = send(client, f"{page.url.path}/send", request_id="case-8")
    assert sent.status_code == 200 and "accepted and durable" in sent.text and "case-8" in sent.text
    assert desk.intake.status("case-8")["requester"] == "support"


def test_a_version_that_cannot_forget_gives_no_preview_and_the_request_can_still_be_sent(tmp_path):
    desk = desk_output(tmp_path)  # no encoder
    client = browser(desk)
    page = send(client, "/desk/new/typed", users=user_name(5))
    assert "cannot look at the moment" in page.text
    assert send(client, f"{page.url.path}/send", request_id="case-9").url.path == "/desk/requests/case-9"


# ---- the output -------------------------------------------------------------------------------------------------------


def test_health_says_what_is_owed_and_how_long_the_list_is(desk, monkeypatch):
    client = browser(desk)
    text = re.sub(r"<[^>]+>|\s+", " ", client.get("/desk/health").text)
    assert re.search(r"Held requests .*? 1 +look here", text) and re.search(r"Overdue requests .*? 0 +fine", text)
    assert "is not set for this service" in text
    monkeypatch.setenv("UNLEARNREC_SUPPRESSION_KEY", "k" * 32)
    from unlearnrec.cluster.lifecycle.suppression import FORGOTTEN, open_list
    from unlearnrec.cluster.requests.digests import no_digests

    named = no_digests()
    named["users"] |= {b"a" * 16, b"b" * 16}
    open_list(desk.session.store).append(FORGOTTEN, named, requests=["r1"])
    text = re.sub(r"<[^>]+>|\s+", " ", client.get("/desk/health").text)
    assert re.search(r"Users +2", text) and re.search(r"Entries +1", text)
    desk.service.blocked = "ConnectionError"
    assert "Requests wait:" in client.get("/desk/health").text


def test_versions_have_their_gate_and_recall(shared):
    client = browser(shared)
    text = re.sub(r"<[^>]+>|\s+", " ", client.get("/desk/versions").text)
    assert re.search(r"3 +current +forget +MISSED +user_gap_closed +0\.1811 +before 0\.1834", text)
    assert "train" in text and "pretrain" in text
    older = client.get("/desk/versions?before=2").text
    assert ">1<" in older.replace("\n", "") or '<th scope="row">1' in older
    assert client.get("/desk/versions?before=x").status_code == 200


def test_the_reference_names_every_call(shared):
    client = browser(shared)
    page = client.get("/docs").text
    document = client.get("/openapi.json").json()
    assert all(path in page for path in document["paths"]) and "/v1/requests/{request_id}/evidence" in page
    assert all(f'id="schema-{name}"' in page for name in document["components"]["schemas"])
    assert not any(path.startswith("/desk") for path in document["paths"])


def test_who_asks_over_the_api_is_on_the_page(desk):
    client = browser(desk, *TOKENS)
    accept_for(desk.session, "from-api", "support", user=7)
    sign_in(client, ALL)
    assert "Received by support" in client.get("/desk/requests/from-api").text
