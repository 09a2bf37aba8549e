"""Checkpoints: who begins at one knows what who read everything knows; and the log can be cut off behind it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import graph_document, manifest_document
from memory_store import Crash, MemoryStore
from small_output import commit_forget, commit_train, small_config, user_name, write_interactions

import unlearnrec
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands.purge import purge
from unlearnrec.cluster.commands.residue import residue
from unlearnrec.cluster.commands.verify import verify
from unlearnrec.cluster.config.schema import Config, parse_config, to_yaml
from unlearnrec.cluster.log.log import Log
from unlearnrec.cluster.log.records import Record
from unlearnrec.cluster.output import session as session_module
from unlearnrec.cluster.output.ledger import Ledger
from unlearnrec.cluster.output.manifest import manifest_of, read_manifest
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.cluster.serving.interface import NewRequest
from unlearnrec.partitioning.errors import InputError

NAMES = ["a", "b", "c"]


def manifest(number: int, reason: str, answers: list[str]) -> dict:
    answered = {name: {"request_id": name, "status": "committed", "version": number} for name in answers}
    files = {f"versions/{number}/x": {"sha256": "", "bytes": 1}}
    return manifest_document(
        number,
        reason,
        graph={"interactions": 100 - number, "files": {f"graph/{number // 3}": {"sha256": "", "bytes": 1}}},
        lake_graph=graph_document(ingest=f"ingest {number // 5}"),
        **({"rolled_back_to": number // 2} if reason == "rollback" else {}),
        **({"needs_retrain": True} if number % 2 else {}),
        files=files,
        answers=answered,
    )


def as_record(number: int, step: tuple[str, list[str]]) -> Record:
    kind, names = step
    body = {"request_id": names[0], "commitment": "c", "answer": {"request_id": names[0]}, "number": number - 1}
    body |= {"unnamed": names, "requester": "ann", "share": number / 100, "by": "bob"}
    body |= {"ingest": names[0], "log_head": number - 1}
    if kind in ("train", "forget", "rollback"):
        kind, body = "committed", {"manifest": manifest(number, kind, names if kind == "forget" else [])}
    return Record(number, kind, f"2026-01-01T00:00:{number:02d}.000+00:00", body, "", f"log/{number}")


CLOSING = ["completed", "cancelled", "failed", "train", "forget", "rollback"]
OPEN = ["accepted", "accepted", "accepted", "held", "held", "approved"]
KINDS = [*OPEN, *CLOSING, "ingested", "evidence", "purging", "purged", "checkpoint", "other"]
steps = st.lists(
    st.tuples(st.sampled_from(KINDS), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)),
    max_size=40,
)


@settings(max_examples=600, deadline=None)
@given(steps=steps, share=st.floats(0, 1))
def test_from_a_checkpoint_and_from_the_beginning_a_ledger_is_the_same(steps: list, share: float) -> None:
    records = [as_record(number, step) for number, step in enumerate(steps, start=1)]
    cut = round(share * len(records))
    state = json.loads(json.dumps(Ledger(records[:cut]).state()))
    there, whole = Ledger(records[cut:], state), Ledger(records)
    there._lock = whole._lock
    assert vars(there) == vars(whole) and there.needed_from() == whole.needed_from()
    assert [list(there.open), list(there.tickets)] == [list(whole.open), list(whole.tickets)]
    assert (there.unanswered(), there.debt()) == (whole.unanswered(), whole.debt())


def opened(store: MemoryStore) -> Session:
    return Session(parse_config({"interactions": "x", "output": "y"}), store)  # type: ignore[arg-type]


@pytest.fixture
def store() -> MemoryStore:
    """Two versions and three requests, one of them open; a checkpoint of it; and a request more."""
    store = MemoryStore()
    session = opened(store)
    session.versions.commit(read_manifest(manifest(0, "train", []) | {"files": {}}, "a test"), after=0)
    for name in NAMES:
        session.log.append("accepted", {"request_id": name, "commitment": name})
    session.versions.commit(read_manifest(manifest(0, "forget", ["a"]) | {"files": {}}, "a test"), after=4)
    session.checkpoint()
    session.log.append("accepted", {"request_id": "d", "commitment": "d"})
    return store


class Counting(MemoryStore):
    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__()
        self.files, self.read_names = files, []

    def read(self, name: str) -> bytes:
        self.read_names.append(name)
        return super().read(name)


def test_a_reader_begins_at_the_checkpoint(store: MemoryStore) -> None:
    counting = Counting(store.files)
    session = opened(counting)
    ledger, current = session.ledger(), session.versions.current()
    read = {f"log/{n:09d}.json" for n in (6, 7, 8)} | {"log/checkpoint-000000005.json", "log/cut-000001.json"}
    assert set(counting.read_names) == read
    records = session.log.records()
    assert [r.number for r in records] == list(range(1, 8))
    assert ledger.state() == Ledger(records).state()
    assert current == ledger.current == manifest_of(records[4])
    assert session.log.head() == 7 and session.versions.next_number() == 3
    assert [r.number for r in session.log.since(3)] == [4, 5, 6, 7]
    store.files.pop("log/000000003.json")
    with pytest.raises(InputError, match=r"log/000000003.json is missing, but .*log/000000004.json is there"):
        opened(store).log.records()


def test_a_checkpoint_is_made_when_it_is_due(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "CHECKPOINT_RECORDS", 5)
    session = opened(store)
    made = []
    for n in range(20):
        session.log.append("accepted", {"request_id": f"x{n}", "commitment": ""})
        session.checkpoint_if_due()
        made.append(session.ledger().checkpointed)
    # After six records more, later after half as many as the last stands for.
    assert sorted(set(made)) == [5, 11, 17, 26]
    head = session.log.head()
    session.checkpoint()
    session.checkpoint()
    assert session.log.head() == head + 1
    assert opened(store).ledger().state() == Ledger(Log(store).records()).state()  # type: ignore[arg-type]


NAME = "log/checkpoint-000000005.json"


def change(data: bytes) -> bytes:
    return data.replace(b'"commitment":"b"', b'"commitment":"x"')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda files: files.update({NAME: change(files[NAME])}), rf"{NAME} was changed: .* record 6 in log/000000006"),
        (lambda files: files.update({NAME: files[NAME][:40]}), rf"{NAME} is no checkpoint"),
        (lambda files: files.update({NAME: files[NAME].replace(b'"number":5', b'"number":4', 1)}), "is no checkpoint"),
        (
            lambda files: [files.pop(f"log/{n:09d}.json") for n in (5, 6, 7)],
            rf"{NAME} stands for 5 .* ends at record 4",
        ),
        (
            lambda files: files.update({NAME: files[NAME].replace(b'"digest":"', b'"digest":"0', 1)}),
            rf"log/000000006.json, record 6, does not continue {NAME}",
        ),
        (
            lambda files: files.pop("log/000000006.json"),
            r"log/000000006.json is missing, but .*000000007.json is there",
        ),
        (lambda files: [files.pop(NAME), files.pop("log/000000001.json")], r"log/000000001.json is missing"),
    ],
)
def test_a_checkpoint_that_does_not_match_is_refused(store: MemoryStore, damage, message: str) -> None:
    damage(store.files)
    for act in (lambda s: s.ledger(), lambda s: s.versions.current(), lambda s: s.log.append("x", {})):
        with pytest.raises(InputError, match=message):
            act(opened(store))


def test_records_before_a_checkpoint_are_compared_with_it(store: MemoryStore) -> None:
    """As if somebody had made the chain anew up to the checkpoint; who begins there does not see it, `records` does."""
    session = opened(store)
    other = MemoryStore()
    for n in range(5):
        Log(other).append("note", {"n": n})  # type: ignore[arg-type]
    store.files |= other.files
    assert session.ledger().seen == 7
    with pytest.raises(InputError, match=rf"{NAME} does not match record 5|record 6, does not continue"):
        session.log.records()


@pytest.mark.parametrize("moment", range(4))
def test_a_checkpoint_may_be_interrupted(store: MemoryStore, moment: int) -> None:
    before = opened(store).ledger().state()
    store.crash_at = moment
    with pytest.raises(Crash):
        opened(store).checkpoint()
    session = opened(store)
    assert session.ledger().tickets.keys() == {t["request_id"] for t in before["tickets"]}
    session.log.append("accepted", {"request_id": "e", "commitment": "e"})
    session.checkpoint()
    assert opened(store).ledger().state() == Ledger(session.log.records()).state()
    assert not [name for name in store.files if name.startswith("log/") and "checkpoint" not in name and "-" in name]


def test_one_that_nobody_vouches_for_is_not_used_but_has_to_match(store: MemoryStore) -> None:
    store.files["log/checkpoint-000000006.json"] = store.files[NAME].replace(b'"number":5', b'"number":6', 1)
    with pytest.raises(InputError, match=r"record 7, does not continue log/checkpoint-000000006.json"):
        opened(store).ledger()


# ---- cutting the log off ---------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Three versions; one request with its evidence, one without."""
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    for n, name in enumerate(["with", "without"]):
        commit_forget(config, user_name(n), name)
    return config


def fix(config: Config, request_id: str) -> None:
    body = {"request_id": request_id, "version": 2, "sha256": "0", "page_sha256": "0"}
    Session(config).log.append("evidence", body)


def files(config: Config) -> list[str]:
    return Session(config).store.list("log")


def test_the_log_is_cut_off_only_where_it_is_asked_for(config: Config) -> None:
    fix(config, "with")
    fix(config, "without")
    log = files(config)
    purge(config, now=True)
    assert files(config)[: len(log)] == log
    before = Session(config).ledger()
    answer = purge(config, now=True, truncate_log=True)
    left = files(config)
    # The commit of the current version stays, and all that came later.
    assert left[0] == "log/000000005.json" and answer["removed_files"] == 4
    session = Session(config)
    assert session.ledger().tickets == before.tickets and session.ledger().makers == before.makers
    assert session.version().version == 3
    assert {request: pipeline.status(config, request)["version"] for request in ("with", "without")} == {
        "with": 2,
        "without": 3,
    }
    assert purge(config, now=True)["removed_files"] == 0 and not residue(config)["residues"]
    commit_train(config)
    assert Session(config).version().version == 4
    for act in (lambda: session.log.since(2), lambda: Session(config).log.since(0)):
        with pytest.raises(InputError, match="begins at record 5"):
            act()
    checks = {check["name"]: check for check in verify(config)["checks"]}
    assert checks["log"]["ok"] and "before record 5 were removed" in checks["log"]["detail"]
    # Without the checkpoint nobody can say what the log comes to.
    (checkpoint,) = [name for name in files(config) if "checkpoint" in name]
    session.store.remove(checkpoint)
    with pytest.raises(InputError, match=r"log/000000001.json is missing, but .*log/000000005.json is there"):
        Session(config).ledger()


def test_what_evidence_still_names_is_not_cut_off(config: Config) -> None:
    fix(config, "with")
    purge(config, now=True, truncate_log=True)
    ticket = Session(config).ledger().tickets["without"]
    left = Session(config).log.records()
    # Accepted as record 4, on the version of record 3.
    assert ticket.first_record == left[0].number == 3
    assert [r.kind for r in Session(config).log.since(2)][:3] == ["committed", "accepted", "committed"]


def test_who_has_not_looked_for_a_while_does_not_fork_a_log_that_was_cut_off(config: Config) -> None:
    """Following the log is asking for the name of its next file, and appending is creating it."""
    intake = Intake(Session(config))
    intake.view()
    for n in (2, 3):
        commit_forget(config, user_name(n), f"r{n}")
    for request_id in ("with", "without", "r2", "r3"):
        fix(config, request_id)
    purge(config, truncate_log=True)
    assert intake.accept(NewRequest(["ann"], request_id="late"))["status"] == "accepted"
    assert Session(config).ledger().open.keys() == {"late"}
    assert {check["name"]: check["ok"] for check in verify(config)["checks"]}["log"]


def test_retention_keeps_the_log_too(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fix(config, "with")
    fix(config, "without")
    keeping = config.model_copy(update={"forget": config.forget.model_copy(update={"retention_hours": 1.0})})
    log = files(config)
    assert purge(keeping, truncate_log=True)["removed_files"] == 0
    assert set(log) <= set(files(config))
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(keeping), encoding="utf-8")
    assert run(["purge", "--truncate-log", "--now", "--json", "--config", str(file)]) == 0
    assert "log/000000001.json" not in files(config) and json.loads(capsys.readouterr().out)["removed_files"] > 0


def test_verify_folds_the_records_again(config: Config) -> None:
    session = Session(config)
    session.checkpoint()
    (name,) = [name for name in files(config) if "checkpoint" in name]
    assert {c["name"]: c["ok"] for c in verify(config)["checks"]}[name]
    # A state that somebody else vouched for.
    session.store.write(name, session.store.read(name).replace(b'"purging":null', b'"purging":[]'))
    number = session.ledger().checkpointed
    record = f"log/{number + 1:09d}.json"
    line = json.loads(session.store.read(record))
    line["body"]["sha256"] = session.store.sha256(session.store.read(name))
    session.store.write(record, json.dumps(line, separators=(",", ":")).encode() + b"\n")
    (check,) = [c for c in verify(config)["checks"] if c["name"] == name]
    assert not check["ok"] and "not what the records come to" in check["detail"]


@pytest.mark.parametrize("cut", [False, True])
def test_a_checkpoint_of_the_release_before(config: Config, cut: bool) -> None:
    """It did not say what closed a request. The log does; where it was cut off, the checkpoint closed it at the latest."""
    session = Session(config)
    state, last = session.ledger().state(), session.log.records()[-1]
    closed = {entry["request_id"]: entry.pop("closed_at") for entry in state["tickets"]}
    name, content = f"log/checkpoint-{last.number:09d}.json", {"format": 1, "number": last.number}
    data = json.dumps(content | {"digest": last.digest, "state": state}).encode()
    session.store.create(name, data)
    body = {"number": last.number, "file": name, "sha256": session.store.sha256(data)}
    vouching = session.log.append("checkpoint", body).number
    if cut:
        for number in range(1, last.number + 1):
            session.store.remove(f"log/{number:09d}.json")

    ledger = Session(config).ledger()
    expected = dict.fromkeys(closed, last.number) if cut else closed
    assert {request_id: ticket.closed_at for request_id, ticket in ledger.tickets.items()} == expected
    assert [ledger.derived_id("with", head) for head in (0, last.number)] == ["with", "with-2"]
    checks = {check["name"]: check["ok"] for check in verify(config)["checks"]}
    assert checks["log"] and checks.get(name) is (True if cut else None)
    # Who reads the whole log for it makes another one.
    Session(config).checkpoint()
    found = Session(config).log.checkpoint()
    assert found is not None and found.number == vouching and found.state == ledger.state()


@pytest.mark.skipif(shutil.which("jq") is None, reason="there is no jq on this machine")
def test_the_commands_of_the_documentation_read_the_log(config: Config) -> None:
    text = (Path(unlearnrec.__file__).parent / "docs" / "commit.md").read_text(encoding="utf-8")
    table, checkpoint = re.findall(r"```sh\n(.*?)```", text, flags=re.S)
    Session(config).checkpoint()

    def by_hand(script: str) -> list[str]:
        command = ["bash", "-e", "-o", "pipefail", "-c", script]
        return subprocess.run(
            command, cwd=config.output, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    records = Session(config).log.records()
    assert [line.split("\t")[::2] for line in by_hand(table)] == [[str(r.number), r.kind] for r in records]
    assert by_hand(checkpoint) == ["log/checkpoint-000000005.json: OK"]
