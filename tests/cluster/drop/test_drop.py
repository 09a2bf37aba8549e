"""A batch of DROP from hashes to codes: what is deleted, what is told of it, and what is not. Without worker processes."""

import itertools
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from drop_batch import DAY, base64_of, codes_in, work_item, write_batch
from fake_workers import FakeWorkers
from small_output import commit_encoder, commit_train, copied, small_config, user_name, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands import drop as command
from unlearnrec.cluster.config.schema import to_yaml
from unlearnrec.cluster.drop.codes import Code, Decision, Rules, on_match, on_ticket
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.output.tickets import State, Ticket
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import Store

EMAIL = f"{DAY}_4821_Email.csv"
ANN, BEN, COE, DEE, GHOST = range(1, 6)


def mail(n: int) -> str:
    return f"user{n}@mail.example"


@pytest.fixture
def config(tmp_path):
    """Twelve users with two lists' identifiers; COE and DEE share a phone, GHOST has no interactions."""
    users = [user_name(n) for n in range(5)] + ["ghost"]
    table = pa.table(
        {
            "user_id": users,
            "email_hash": [base64_of(mail(n)) for n in range(6)],
            "phone": [None, "415-555-0001", "415-555-0002", "(415) 555-0003", "4155550003", None],
        }
    )
    pq.write_table(table, tmp_path / "users.parquet")
    drop = {
        "email": {"table": str(tmp_path / "users.parquet"), "hash": "email_hash"},
        "phone": {"table": str(tmp_path / "users.parquet"), "value": "phone"},
    }
    config = small_config(
        write_interactions(tmp_path / "events.parquet"),
        str(tmp_path / "output"),
        drop=drop,
        forget={"max_share": 0.9, "gate_gap_closed": None, "gate_recall_loss": None, "gate_change": None},
    )
    pipeline.ingest(config)
    commit_train(config)
    commit_encoder(config)
    return config


def with_drop(config, **more):
    return config.model_copy(update={"drop": config.drop.model_copy(update=more)})


def with_forget(config, **more):
    return config.model_copy(update={"forget": config.forget.model_copy(update=more)})


def batch(folder: Path, *users: int, **more) -> str:
    """Of the emails of these users; more: other lists."""
    rows = [(work_item(n), base64_of(mail(n))) for n in users]
    return write_batch(folder / "batch.zip", {"Email": rows, **more})


def answered(config, path: str, out: Path, **more):
    answer = pipeline.drop(config, batch=path, out=str(out), group=FakeWorkers(Session(config).store), **more)
    return answer, codes_in(out)


def left_in(config) -> set[str]:
    """Users of whom a dry run would still remove something."""
    return {
        user_name(n)
        for n in range(12)
        if pipeline.forget(config, users=user_name(n), dry_run=True)["removed_interactions"]
    }


def test_a_batch_gets_the_codes_that_the_evidence_allows_and_nothing_is_deleted_twice(config, tmp_path):
    # One user in two lists; somebody nobody knows; a malformed row; one who took it back; somebody without interactions.
    more = {
        "Phone": [(work_item(11), base64_of("4155550001")), (work_item(12), base64_of("4155550009"))],
        "Removed": [(work_item(BEN), base64_of(mail(BEN)), "Email")],
        "Email": [(work_item(n), base64_of(mail(n))) for n in (ANN, BEN, GHOST, 77)] + [("short", base64_of("x"))],
    }
    path, out = write_batch(tmp_path / "batch.zip", more), tmp_path / "answer" / "codes.zip"
    answer, codes = answered(config, path, out, results=str(tmp_path / "rows.csv"))
    assert codes == {
        f"{DAY}_4821_Phone.csv": {work_item(11): 3, work_item(12): 5},
        EMAIL: {work_item(ANN): 3, work_item(77): 5},
    }
    assert answer["codes"] == {"2": 0, "3": 2, "4": 0, "5": 2}
    assert (answer["rows"], answer["waiting"], answer["malformed"]) == (7, 1, 1)
    assert answer["malformed_rows"] == [
        {"file": EMAIL, "row": 5, "why": "its ID is not one of 12 letters and digits"},
    ]
    assert answer["removed"] == {"cancelled": 0, "too_late": 0, "unknown": 1}
    assert [(x["list"], x["rows"], x["identifiers"]) for x in answer["looked_at"]] == [("Phone", 6, 4), ("Email", 6, 6)]
    assert left_in(config) == {user_name(n) for n in range(12)} - {user_name(ANN)}
    rows = pyarrow.csv.read_csv(tmp_path / "rows.csv").to_pylist()
    assert [(row["file"][14:-4], row["row"], row["result"], row["code"]) for row in rows] == [
        ("Phone", 1, "deleted", 3),
        ("Phone", 2, "not_found", 5),
        ("Email", 1, "deleted", 3),
        ("Email", 2, "removed", None),
        ("Email", 3, "waits", None),
        ("Email", 4, "not_found", 5),
        ("Email", 5, "malformed", None),
    ]
    # Again, also where the users' table has lost who was forgotten: the same bytes, and the log has no other request.
    first, head = out.read_bytes(), Session(config).log.head()
    kept = pq.read_table(tmp_path / "users.parquet").filter(pa.compute.field("user_id") != user_name(ANN))
    pq.write_table(kept, tmp_path / "users.parquet")
    again, _ = answered(config, path, out)
    assert out.read_bytes() == first and Session(config).log.head() == head
    assert again["codes"] == answer["codes"]
    assert [name.name for name in out.parent.iterdir()] == ["codes.zip"]


def test_no_identifier_of_a_batch_leaves_it(config, tmp_path, capfd):
    path = batch(tmp_path, ANN, GHOST, Removed=[(work_item(9), base64_of("x"), "Email")])
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    results = tmp_path / "rows.jsonl"
    answer, _ = answered(config, path, tmp_path / "codes.zip", results=str(results))
    output = Path(config.output)
    told = [json.dumps(answer).encode(), results.read_bytes(), *map(str.encode, capfd.readouterr())]
    told += [file.read_bytes() for folder in ("log", "reports") for file in (output / folder).rglob("*.*")]
    for secret in (work_item(ANN), work_item(9), base64_of(mail(ANN)), mail(ANN), user_name(ANN), "ghost"):
        assert not any(secret.encode() in data for data in told), secret
    assert re.search(rb"drop-[0-9a-f]{24}", results.read_bytes())


def test_several_users_of_one_identifier_and_exempt_ones(config, tmp_path):
    shared = {"Phone": [(work_item(20), base64_of("4155550003"))]}
    path, out = batch(tmp_path, ANN, **shared), tmp_path / "codes.zip"
    for name, user in (("exempt", [ANN]), ("opted", [COE, DEE])):
        pa.csv.write_csv(pa.table({"user_id": [user_name(n) for n in user]}), tmp_path / f"{name}.csv")
    exempting = with_drop(config, exempt=str(tmp_path / "exempt.csv"))
    answer, codes = answered(exempting, path, out)
    assert codes == {EMAIL: {work_item(ANN): 2}} and answer["waiting"] == 1
    opted = with_drop(exempting, opted_out=str(tmp_path / "opted.csv"))
    assert answered(opted, path, out)[0]["codes"] == {"2": 1, "3": 0, "4": 1, "5": 0}
    assert len(left_in(config)) == 12, "nobody was to be forgotten"
    answer, _ = answered(with_drop(exempting, several="delete"), path, out)
    assert answer["codes"] == {"2": 1, "3": 1, "4": 0, "5": 0}
    assert left_in(config) == {user_name(n) for n in range(12)} - {user_name(COE), user_name(DEE)}


def test_who_waits_has_no_code_and_who_takes_it_back_is_not_forgotten(config, tmp_path):
    patient = with_forget(config, grace_seconds=3600)
    path, out = batch(tmp_path, ANN, BEN), tmp_path / "codes.zip"
    answer, codes = answered(patient, path, out)
    assert (answer["waiting"], codes) == (2, {})
    assert answer["waits_because"] == {"its request is accepted and not carried out yet": 2}
    removed = write_batch(
        tmp_path / "next.zip", {"Email": [], "Removed": [(work_item(BEN), base64_of(mail(BEN)), "Email")]}
    )
    answer, codes = answered(patient, removed, out)
    assert (answer["removed"]["cancelled"], answer["rows"], codes) == (1, 0, {})
    # The batch of before, when the grace window is over: it stays taken back.
    answer, codes = answered(config, path, out)
    assert codes == {EMAIL: {work_item(ANN): 3}} and answer["waiting"] == 0
    assert user_name(BEN) in left_in(config) and user_name(ANN) not in left_in(config)
    late = write_batch(tmp_path / "next.zip", {"Removed": [(work_item(ANN), base64_of(mail(ANN)), "Email")]})
    assert answered(config, late, out)[0]["removed"] == {"cancelled": 0, "too_late": 1, "unknown": 0}


def test_an_open_request_beyond_its_grace_window_is_cancelled_too(config, tmp_path):
    path, out = batch(tmp_path, ANN), tmp_path / "codes.zip"
    pipeline.drop(config, batch=path, out=str(out), accept_only=True)
    assert [ticket.state for ticket in Session(config).ledger().tickets.values()] == [State.ACCEPTED]
    back = write_batch(tmp_path / "next.zip", {"Removed": [(work_item(ANN), base64_of(mail(ANN)), "Email")]})
    assert answered(config, back, out)[0]["removed"]["cancelled"] == 1
    assert answered(config, path, out)[1] == {} and len(left_in(config)) == 12


def test_with_accept_only_a_service_does_the_rest(config, tmp_path):
    path, out = batch(tmp_path, ANN), tmp_path / "codes.zip"
    answer = pipeline.drop(config, batch=path, out=str(out), accept_only=True, group=object())
    assert answer["waiting"] == 1 and codes_in(out) == {}
    (name,) = Session(config).ledger().tickets
    assert Session(config).ledger().tickets[name].requester == "California DROP"
    command._carry_out(Session(config), [name], command.SILENT, FakeWorkers(Session(config).store))
    answer = pipeline.drop(config, batch=path, out=str(out), accept_only=True, group=object())
    assert codes_in(out) == {EMAIL: {work_item(ANN): 3}} and answer["waiting"] == 0


def test_a_request_above_the_limit_is_held_and_has_no_code(config, tmp_path):
    strict = with_forget(config, max_share=0.01)
    answer, codes = answered(strict, batch(tmp_path, ANN), tmp_path / "codes.zip")
    assert codes == {} and answer["waits_because"] == {"its request is held until somebody approves it": 1}


def test_more_than_a_version_may_take_become_several(config, tmp_path):
    small = config.model_copy(update={"serve": config.serve.model_copy(update={"max_batch": 2})})
    before = Session(config).version().version
    answer, codes = answered(small, batch(tmp_path, 0, ANN, BEN), tmp_path / "codes.zip")
    assert list(codes[EMAIL].values()) == [3, 3, 3] and answer["version"] == before + 2


def test_who_came_back_with_an_ingest_is_forgotten_again(config, tmp_path):
    path, out = batch(tmp_path, ANN), tmp_path / "codes.zip"
    assert answered(config, path, out)[1] == {EMAIL: {work_item(ANN): 3}}
    pipeline.ingest(config)
    commit_train(config)
    commit_encoder(config)
    assert user_name(ANN) in left_in(config)
    # The table may have lost the user: the request's own content still names them.
    kept = pq.read_table(tmp_path / "users.parquet").filter(pa.compute.field("user_id") != user_name(ANN))
    pq.write_table(kept, tmp_path / "users.parquet")
    assert answered(config, path, out)[1] == {EMAIL: {work_item(ANN): 3}}
    assert user_name(ANN) not in left_in(config)
    assert [name[-2:] for name in Session(config).ledger().tickets][1:] == ["-2"]
    # Once that is purged, nobody can say whether they are back.
    pipeline.purge(config, now=True)
    pipeline.ingest(config)
    commit_train(config)
    commit_encoder(config)
    answer, codes = answered(config, path, out)
    assert codes == {} and list(answer["waits_because"]) == [
        "an ingest began after its request was carried out, and the table leads to no user any more"
    ]


def test_a_table_that_now_leads_to_somebody_else_deletes_nobody(config, tmp_path):
    path, out = batch(tmp_path, ANN), tmp_path / "codes.zip"
    answered(config, path, out)
    table = pq.read_table(tmp_path / "users.parquet").to_pydict()
    table["email_hash"][ANN], table["email_hash"][BEN] = table["email_hash"][BEN], table["email_hash"][ANN]
    pq.write_table(pa.table(table), tmp_path / "users.parquet")
    answer, codes = answered(config, path, out)
    assert codes == {} and list(answer["waits_because"]) == [
        "its identifier leads to other users than its request names"
    ]
    assert user_name(BEN) in left_in(config)


def test_a_failed_check_or_missing_evidence_gives_no_code(config, tmp_path, monkeypatch):
    path, out = batch(tmp_path, ANN), tmp_path / "codes.zip"
    monkeypatch.setattr(command, "add_evidence", lambda session, answers, *_, **__: list(answers))
    answer, codes = answered(config, path, out)
    assert codes == {} and answer["waits_because"] == {"its evidence is not written yet": 1}
    monkeypatch.undo()
    assert answered(config, path, out)[1] == {EMAIL: {work_item(ANN): 3}}


def test_a_check_that_failed_is_an_exit_code_and_no_code(config, tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    wrong = {"name": "deleted nodes", "ok": False, "checked": 1, "of": 1, "detail": "1 has a row"}
    path, out = batch(tmp_path, ANN, BEN), tmp_path / "codes.zip"
    with monkeypatch.context() as patch:
        patch.setattr("unlearnrec.cluster.evidence.drafts.checks_of", lambda *_: [wrong])
        answer, codes = answered(config, path, out)
    assert codes == {} and answer["waits_because"] == {"a check of its evidence failed": 2}
    assert run(["drop", "--config", str(tmp_path / "c.yaml"), "--in", path, "--out", str(out), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["evidence_failed"] == 2 and answer["ok"] is False and codes_in(out) == {}


def test_codes_of_all_ends_of_a_request():
    def ticket(state, **more):
        return Ticket("r", state, 0.0, **more)

    def code(state, reported=True, all_reported=True, rules=Rules(), **more):  # noqa: B008
        return on_ticket(ticket(state, **more), reported, all_reported, rules).code

    gone, missing = ({"rows": rows} for rows in ({"already_gone": 1, "not_found": 0}, {"not_found": 1}))
    assert code(State.COMMITTED, evidence_failed=[]) == Code.DELETED
    assert code(State.COMMITTED, evidence_failed=["neighbour lists"]) is None
    assert code(State.COMMITTED, reported=False) is None and code(State.COMMITTED) is None
    assert code(State.COMPLETED, answer=gone) == Code.DELETED
    assert code(State.COMPLETED, answer=gone, all_reported=False) is None
    assert code(State.COMPLETED, answer=missing) is None
    assert code(State.COMPLETED, answer=missing, rules=Rules(nothing_held="deleted")) == Code.DELETED
    for state in (State.ACCEPTED, State.HELD, State.FAILED, State.CANCELLED):
        assert code(state) is None


def test_codes_of_all_kinds_of_matches():
    rules = Rules(exempt={"e", "f"}, opted_out={"o", "p"})
    several = Rules(exempt={"e", "f"}, opted_out={"o", "p"}, several="delete")
    assert on_match([], False, rules) == Decision.of(Code.NOT_FOUND)
    assert on_match([], True, rules).code is None
    assert on_match(["a"], False, rules) == ["a"]
    assert on_match(["o"], False, rules) == ["o"], "code 4 is for identifiers of several people"
    for users in itertools.permutations("ef"):
        assert on_match(users, False, rules) == Decision.of(Code.EXEMPTED)
    assert on_match(["o", "p"], False, rules) == Decision.of(Code.OPTED_OUT)
    assert on_match(["a", "o"], False, rules).code is None
    assert on_match(["a", "e"], False, rules).code is None and on_match(["a", "e"], False, several) == ["a"]


@pytest.mark.parametrize(
    ("out", "more", "message"),
    [
        ("codes.txt", {}, "must end with .zip"),
        ("batch.zip", {}, "is the batch itself"),
        ("output/codes.zip", {}, "under `output`"),
        ("codes.zip", {"suffix": "part_02"}, "1 to 10 letters"),
        ("codes.zip", {"results": "rows.txt"}, "must end with .csv, .jsonl"),
    ],
)
def test_a_bad_place_is_told_before_anything_is_done(config, tmp_path, out, more, message):
    head = Session(config).log.head()
    with pytest.raises(InputError, match=message):
        answered(config, batch(tmp_path, ANN), tmp_path / out, **more)
    assert Session(config).log.head() == head


def test_a_list_without_a_table_is_refused(config, tmp_path):
    path = batch(tmp_path, ANN, MAID=[(work_item(8), base64_of("x"))])
    with pytest.raises(InputError, match=r"list MAID, and drop\.maid is not set"):
        answered(config, path, tmp_path / "codes.zip")
    assert not (tmp_path / "codes.zip").exists() and not Session(config).ledger().tickets


def test_a_failure_leaves_no_answer_and_keeps_the_one_of_before(config, tmp_path, monkeypatch):
    out = tmp_path / "codes.zip"
    answered(config, batch(tmp_path, ANN), out)
    before = out.read_bytes()

    def fails(*_, **__):
        raise RuntimeError("a worker is gone")

    monkeypatch.setattr(command, "carry_out", fails)
    with pytest.raises(RuntimeError):
        answered(config, batch(tmp_path, ANN, BEN), out)
    assert out.read_bytes() == before and not list(tmp_path.glob(".tmp*"))
    monkeypatch.undo()
    assert answered(config, batch(tmp_path, ANN, BEN), out)[1] == {EMAIL: {work_item(ANN): 3, work_item(BEN): 3}}


def test_a_run_that_dies_at_any_write_goes_on_where_it_was(config, tmp_path, monkeypatch):
    """Whatever was written last: the next run gives the codes of one that did not die, and nobody has two requests."""

    class Died(BaseException):
        pass

    path = batch(tmp_path, ANN, BEN, Removed=[(work_item(COE), base64_of(mail(COE)), "Email")])
    Session(config).request_key()
    real = {name: getattr(Store, name) for name in ("write", "create")}

    def run_until(config, out, left):
        def dying(name):
            def step(self, *arguments):
                left[0] -= 1
                if left[0] < 0:
                    raise Died
                return real[name](self, *arguments)

            return step

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(Store, name, dying(name))
            return answered(config, path, out)[1]

    for steps in itertools.count():
        folder = tmp_path / f"copy{steps}"
        folder.mkdir()
        copy, out = copied(config, folder), folder / "codes.zip"
        try:
            codes, ended = run_until(copy, out, [steps]), True
        except Died:
            assert not out.exists()
            codes, ended = answered(copy, path, out)[1], False
        assert codes == {EMAIL: {work_item(ANN): 3, work_item(BEN): 3}}
        ledger = Session(copy).ledger()
        assert len(ledger.tickets) == 2 and ledger.carried_out_at
        report = pipeline.verify(copy)
        assert report["ok"], [c for c in report["checks"] if not c["ok"]]
        assert not any(name.name.startswith(".tmp") for name in folder.iterdir())
        if ended:
            break
    assert steps > 15, "that many writes"


def test_a_batch_and_its_answer_on_s3(config, tmp_path, s3_server):
    places = {"endpoint_url": s3_server.endpoint_url, "region": s3_server.region}
    on_s3 = config.model_copy(update={"storage": config.storage.model_copy(update=places)})
    store = Store(f"s3://lake/{tmp_path.name}", s3_server)
    store.write("batch.zip", Path(batch(tmp_path, ANN, 77)).read_bytes())
    uri = f"s3://lake/{tmp_path.name}/codes.zip"
    pipeline.drop(
        on_s3, batch=f"s3://lake/{tmp_path.name}/batch.zip", out=uri, group=FakeWorkers(Session(config).store)
    )
    (tmp_path / "codes.zip").write_bytes(store.read("codes.zip"))
    assert codes_in(tmp_path / "codes.zip") == {EMAIL: {work_item(ANN): 3, work_item(77): 5}}
    assert store.list() == ["batch.zip", "codes.zip"]


def test_on_the_command_line_with_one_csv_out_and_a_suffix(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "_carry_out", lambda *_: None)
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    path, out = batch(tmp_path, 77, 78), tmp_path / "codes.csv"
    arguments = ["drop", "--config", str(tmp_path / "c.yaml"), "--in", path, "--out", str(out), "--json"]
    assert run(arguments) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"rows", "codes"} <= set(answer) and answer["codes"]["5"] == answer["rows"] == 2
    assert out.read_text() == f"Id,Status\n{work_item(77)},5\n{work_item(78)},5\n"
    arguments[6] = str(tmp_path / "codes.zip")
    assert run([*arguments, "--suffix", "part02"]) == 0
    assert list(codes_in(tmp_path / "codes.zip")) == [f"{DAY}_4821_Email_part02.csv"]
