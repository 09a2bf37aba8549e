"""Evidence: what a report says is what lies in the store, nobody is named, and what was changed later is noticed."""

import dataclasses
import json
import re
import shutil
import subprocess
import time
import types
from contextlib import ExitStack, nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load, save
from small_output import accept, commit_forget, commit_train, copied, small_config, user_name, write_interactions
from trained_output import trained_output

import unlearnrec
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands import forget
from unlearnrec.cluster.config.schema import to_yaml
from unlearnrec.cluster.evidence import drafts
from unlearnrec.cluster.evidence.change import Change
from unlearnrec.cluster.evidence.checks import REFERENCES, checks_of, version_checks
from unlearnrec.cluster.evidence.page import page
from unlearnrec.cluster.evidence.report import add_evidence
from unlearnrec.cluster.layout import receipt_name, report_name
from unlearnrec.cluster.lifecycle import acceptance as accepting
from unlearnrec.cluster.models.carry_out import carry_out
from unlearnrec.cluster.output.ingests import lake_graph
from unlearnrec.cluster.output.ledger import Ledger
from unlearnrec.cluster.output.manifest import manifest_of
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting.progress import SILENT, Progress
from unlearnrec.cluster.requests.request import parse_request
from unlearnrec.cluster.serving.actor import LazyEngine
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.distributed.partition.version import Encoder
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.shard import GraphShard
from unlearnrec.partitioning.storage import Store


class Crash(BaseException):
    """The process ends here."""


# ---- without workers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An output in which the request "r" was committed, and its evidence not yet written. Not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    config = small_config(write_interactions(folder / "events.parquet"), str(folder / "output"))
    pipeline.ingest(config)
    commit_train(config)
    commit_forget(config, user_name(3), "r")
    return config


@pytest.fixture
def bare(small, tmp_path):
    """The same at a place of its own."""
    return copied(small, tmp_path)


@pytest.fixture
def config(bare):
    """The same with its evidence."""
    assert evidence_of(bare)["evidence"] == report_name("r")
    return bare


def evidence_of(config, progress=SILENT):
    answer = {"request_id": "r", "status": "committed"}
    return add_evidence(Session(config), [answer], progress=progress)[0]


def report(config, request_id="r"):
    return json.loads((Path(config.output) / report_name(request_id)).read_bytes())


def flip(path, place=None):
    """Change one byte, by default in the middle."""
    data = bytearray(path.read_bytes())
    place = len(data) // 2 if place is None else place
    data[place] ^= 1
    path.write_bytes(data)


def failures(config, request_id=None):
    answer = pipeline.verify(config, request_id)
    assert answer["ok"] == all(check["ok"] for check in answer["checks"])
    return {check["name"]: check["detail"] for check in answer["checks"] if not check["ok"]}


def assert_digests_are_on_disk(config, document):
    store, checked = Session(config).store, 0
    named = [*document["records"].values(), *document["files"]["changed"]]
    for entry in named:
        data = store.read(entry.get("file") or entry["name"])
        assert store.sha256(data) == entry["sha256"] and entry.get("bytes", len(data)) == len(data)
        checked += 1
    # Nothing else in the report looks like a digest, but the commitment.
    assert set(re.findall("[0-9a-f]{64}", json.dumps(document))) == {
        document["commitment"],
        *(entry["sha256"] for entry in named),
    }
    return checked


def test_every_digest_is_that_of_a_file(config):
    document = report(config)
    assert assert_digests_are_on_disk(config, document) >= 3 + 4
    assert {role: r["kind"] for role, r in document["records"].items()} == {
        "committed": "committed",
        "accepted": "accepted",
        "record before": "accepted",
        "version before": "committed",
    }
    (record,) = [r for r in Session(config).log.records() if r.kind == "evidence"]
    assert set(record.body) == {"request_id", "version", "sha256", "page_sha256", "seconds", "evidence_failed"}
    html = (Path(config.output) / report_name("r", "html")).read_text()
    assert record.body["sha256"] in html and html == page(document, record.body["sha256"])
    assert "<script" not in html and "http" not in html


def test_the_report_counts_what_left(config):
    document = report(config)
    checks = {check["name"]: check for check in document["verification"]["checks"]}
    assert all(check["ok"] for check in checks.values())
    assert (checks["removed interactions"]["checked"], checks["removed interactions"]["of"]) == (4, 4)
    assert (checks["deleted nodes"]["checked"], checks["deleted nodes"]["of"]) == (1, 1)
    lines = document["removed"]["partitions_of_version"]
    assert sum(line["entries"]["before"] - line["entries"]["after"] for line in lines) == 8
    assert sum(line["users"]["before"] - line["users"]["after"] for line in lines) == 1
    assert sum(line["embedding_rows"]["before"] - line["embedding_rows"]["after"] for line in lines) == 1
    assert "left_out" in document["verification"]["scores"]
    assert {entry["what"] for entry in document["not_removed"]} >= {"the lake", "older versions", "rows of neighbours"}
    assert set(document["software"]) == {"python", "unlearnrec", "torch", "numpy", "ray", "commit"}


def test_a_report_names_nobody(config):
    for name in Session(config).store.list("reports"):
        assert not re.search(r"ann-\d|item-\d", (Path(config.output) / name).read_text())


def test_a_whole_output_is_verified(config, tmp_path, capsys):
    assert not failures(config) and not failures(config, "r")
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    for request in ([], ["r"]):
        assert run(["status", *request, "--verify", "--json", "--config", str(file)]) == 0
        answer = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert answer["ok"] and {"request_id", "status", "phase", "version", "checks"} <= set(answer)
    assert answer["request_id"] == "r" and answer["phase"] == "committed"
    assert run(["status", "--verify", f"interactions={config.interactions}", f"output={config.output}"]) == 0
    assert "ok    request r: evidence" in capsys.readouterr().out
    flip(Path(config.output) / report_name("r"))
    assert run(["status", "--verify", "--config", str(file)]) == 1
    assert "FAIL  request r: evidence: reports/evidence-r.json was changed" in capsys.readouterr().out
    assert run(["status", "nobody", "--verify", "--config", str(file)]) == 2
    assert run(["status", "--config", str(file)]) == 0
    assert run(["status", "--verify", "interactions=x", f"output={tmp_path / 'nowhere'}"]) == 2


@pytest.mark.parametrize("suffix", ["json", "html"])
def test_a_changed_or_lost_report_is_named(config, suffix):
    name = report_name("r", suffix)
    flip(Path(config.output) / name)
    assert name in failures(config)["request r: evidence"]
    (Path(config.output) / name).unlink()
    assert f"{name} is missing" in failures(config, "r")["request r: evidence"]


def test_a_changed_committed_file_is_named(config):
    version = Session(config).version()
    for name in (version.model.embeddings[1], version.graph.shard_files[0], version.graph.user_file):
        flip(Path(config.output) / name)
        assert failures(config).pop(f"version 2: {name}").startswith(f"{name} was changed")
        flip(Path(config.output) / name)
    (Path(config.output) / name).unlink()
    assert f"{name} is missing" in failures(config)[f"version 2: {name}"]


def test_a_changed_record_is_named(config):
    names = Session(config).store.list("log")
    for number, name in enumerate(names[:-1], start=1):
        place = Path(config.output) / name
        data = place.read_bytes()
        flip(place, data.index(b'"nonce":"') + 12)
        (detail,) = failures(config).values()
        assert f"log/{number + 1:09d}.json" in detail  # the one whose `previous` does not fit
        place.write_bytes(data)
    # Nothing follows the last record; but the report that it fixes does not fit it any more.
    place = Path(config.output) / names[-1]
    flip(place, place.read_bytes().index(b'"sha256":"') + 12)
    assert names[-1] in failures(config)["request r: evidence"]


def test_a_record_that_the_report_names_is_compared(config, monkeypatch):
    """As if somebody had made the whole chain anew behind a changed record."""
    real = Session(config).log.records()
    forged = [dataclasses.replace(r, digest="0" * 64) if r.kind == "committed" else r for r in real]
    monkeypatch.setattr("unlearnrec.cluster.log.log.Log.records", lambda self: forged)
    assert "is not the record that reports/evidence-r.json names" in failures(config)["request r: evidence"]


def test_a_changed_content_of_a_request_is_named(config):
    place = Path(config.output) / "requests" / "r.json"
    place.write_text(place.read_text().replace("ann-003", "ann-004"))
    assert "requests/r.json was changed" in failures(config)["request r: content"]
    place.write_text("{}")
    assert "requests/r.json is no content" in failures(config)["request r: content"]
    place.unlink()
    assert "requests/r.json is missing" in failures(config)["request r: content"]


def test_a_content_that_says_it_was_purged_where_nothing_was_is_named(config):
    place = Path(config.output) / "requests" / "r.json"
    place.write_text(json.dumps({"purged": True}))
    assert "the log has no purge" in failures(config)["request r: content"]
    pipeline.purge(config, now=True)
    assert not failures(config)


def test_a_report_that_the_log_does_not_know_is_named(config):
    accept(config, user_name(5), "open")
    known = (Path(config.output) / report_name("r")).read_text()
    for request_id in ("open", "nobody"):
        (Path(config.output) / report_name(request_id)).write_text(known.replace('"r"', f'"{request_id}"'))
    assert failures(config).keys() == {report_name("open"), report_name("nobody")}


def test_a_manifest_of_the_graph_that_no_ingest_left_is_named_and_not_trained_on(config):
    """It would bring back what was forgotten: its own word about what it holds does not count."""
    place = Path(config.output) / "graph" / "manifest.json"

    def changed(text):
        return json.dumps(json.loads(text) | {"log_head": 10**6})

    for _ in range(2):  # the first ingest, which the log has as that of a version; then one on an output with a log
        content = place.read_text()
        assert not failures(config)
        lake_graph(Session(config))
        place.write_text(changed(content))
        assert "is not what an ingest left" in failures(config)["graph/manifest.json"]
        with pytest.raises(InputError, match="carried out after"):
            lake_graph(Session(config))
        place.write_text("{")
        assert failures(config).keys() == {"graph/manifest.json"}
        place.unlink()
        assert failures(config).keys() == {"graph/manifest.json"}
        pipeline.ingest(config)
    (record,) = [r for r in Session(config).log.records() if r.kind == "ingested"][:1]
    assert record.body["log_head"] == record.number - 1


def test_another_copy_of_the_manifest_is_named(config):
    place = Path(config.output) / "versions" / "000002" / "manifest.json"
    content = place.read_text()
    for wrong in (content.replace('"reason": "forget"', '"reason": "train"'), "{"):
        place.write_text(wrong)
        assert "is not the manifest that the log has" in failures(config)["version 2: versions/000002/manifest.json"]
    place.unlink()  # as a crash leaves it
    assert not failures(config)


def test_of_two_records_of_evidence_the_first_counts(config):
    """As if somebody had put another report in the place of the first, and logged that."""
    session = Session(config)
    document = report(config) | {"software": {}}
    data = json.dumps(document).encode()
    body = session.ledger().evidence["r"] | {"sha256": session.store.sha256(data)}
    session.store.write(report_name("r"), data)
    session.log.append("evidence", body)
    assert "reports/evidence-r.json was changed" in failures(config)["request r: evidence"]


def without_record(config, change):
    """The report as an attempt leaves it that dies before its record, and somebody changes."""
    last = Session(config).log.records()[-1]
    assert last.kind == "evidence"
    (Path(config.output) / last.file).unlink()
    (Path(config.output) / receipt_name("r", 1)).unlink()  # it comes after the record
    document = report(config)
    change(document)
    (Path(config.output) / report_name("r")).write_text(json.dumps(document))


@pytest.mark.parametrize("key", ["removed_interactions", "commitment", "version"])
def test_a_report_that_contradicts_the_log_is_not_taken_over(config, monkeypatch, key):
    def change(document):
        if key == "version":
            document["version"]["after"] = 7
        elif key == "commitment":
            document["commitment"] = "0" * 64
        else:
            document["removed"][key] = 10**6

    without_record(config, change)
    with monkeypatch.context() as patch:  # as if it had been
        patch.setattr("unlearnrec.cluster.evidence.report.contradicted", lambda document, ticket: [])
        other = config.model_copy(update={"output": f"{config.output}-other"})
        shutil.copytree(config.output, other.output)
        evidence_of(other)
    assert f"contradicts its answer: {key}" in failures(other)["request r: evidence"]
    evidence_of(config)
    assert not failures(config) and report(config)["version"] == {"before": 1, "after": 2}


@pytest.mark.parametrize("content", ["another", "none", "no JSON"])
def test_a_content_that_was_not_accepted_has_no_report(bare, content):
    """It would be a report on other interactions, or on none."""
    commit_forget(bare, user_name(5), "s")
    place, notes, progress = Path(bare.output) / "requests" / "s.json", [], Progress()
    accepted = place.read_text()
    if content == "none":
        place.unlink()
    else:
        place.write_text(accepted.replace("ann-005", "ann-007") if content == "another" else "{")
    progress.note = notes.append
    answers = [{"request_id": name, "status": "committed"} for name in "rs"]
    done = add_evidence(Session(bare), answers, progress=progress)
    assert [answer["evidence"] for answer in done] == [report_name("r"), None]
    assert "requests/s.json is not the content that was accepted" in notes[0]
    place.write_text(accepted)
    add_evidence(Session(bare), answers)
    assert not failures(bare)


def test_a_note_about_a_failed_report_names_nobody(bare, monkeypatch):
    notes, progress = [], Progress()
    progress.note = notes.append

    def fails(*_):
        raise KeyError(user_name(3))

    monkeypatch.setattr(Change, "effects", fails)
    assert evidence_of(bare, progress)["evidence"] is None
    assert "KeyError" in notes[0] and "ann" not in notes[0]


@pytest.mark.skipif(not all(map(shutil.which, ("bash", "jq", "sha256sum", "openssl"))), reason="the tools are missing")
def test_the_page_of_the_documentation_checks_it_by_hand(config):
    text = (Path(unlearnrec.__file__).parent / "docs" / "evidence.md").read_text(encoding="utf-8")
    (script,) = (block for block in re.findall(r"```sh\n(.*?)```", text, flags=re.S) if "jq" in block)
    script = script.replace("evidence-ID.", "evidence-r.").replace("requests/ID.", "requests/r.")

    def by_hand():
        command = ["bash", "-e", "-o", "pipefail", "-c", script]
        return subprocess.run(command, cwd=config.output, capture_output=True, text=True)

    done = by_hand()
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert len(lines) == 2 + 4 + 5 + 6 and all(line.endswith(": OK") for line in lines)
    assert last.split()[-1] == report(config)["commitment"]
    flip(Path(config.output) / report_name("r", "html"))
    assert by_hand().returncode != 0


def test_a_crash_before_the_evidence_is_mended(bare):
    assert "Run the same `forget` again" in failures(bare)["request r: evidence"]
    evidence_of(bare)
    assert not failures(bare)
    head = Session(bare).log.head()
    evidence_of(bare)
    assert Session(bare).log.head() == head


def test_a_crash_between_report_and_record_keeps_the_report(bare, monkeypatch):
    def die(*_, **__):
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr("unlearnrec.cluster.log.log.Log.append", die)
        evidence_of(bare)
    left = (Path(bare.output) / report_name("r")).read_bytes()
    evidence_of(bare)
    assert (Path(bare.output) / report_name("r")).read_bytes() == left and not failures(bare)


def test_a_broken_report_without_a_record_is_written_again(bare):
    place = Path(bare.output) / report_name("r")
    place.parent.mkdir()
    place.write_text('{"records": ')
    evidence_of(bare)
    assert not failures(bare) and report(bare)["request_id"] == "r"


@pytest.mark.parametrize("method", ["write", "create"])
def test_a_full_disk_leaves_the_request_committed(bare, monkeypatch, method):
    real, notes, progress = getattr(Store, method), [], Progress()
    progress.note = notes.append

    def full(self, path, data):
        if path.startswith("reports/"):
            raise OSError(28, "No space left on device")
        return real(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, method, full)
        head = Session(bare).log.head()
        assert evidence_of(bare, progress)["evidence"] is None
    assert len(notes) == 1 and "is committed" in notes[0] and "No space left" in notes[0]
    assert Session(bare).log.head() == head and pipeline.status(bare, "r")["status"] == "committed"
    evidence_of(bare)
    assert not failures(bare)


def test_purge_keeps_reports_and_they_still_hold(config):
    kept = {name: (Path(config.output) / name).read_bytes() for name in Session(config).store.list("reports")}
    assert pipeline.purge(config, now=True)["purged_requests"] == 1
    assert {name: (Path(config.output) / name).read_bytes() for name in kept} == kept and len(
        kept
    ) == 5  # evidence, lineage and receipt
    assert not failures(config)
    assert pipeline.status(config, "r")["phase"] == "committed"


def no_reports(monkeypatch):
    """No report can be written: from here on, until the patch is undone."""
    real = Store.create

    def full(self, path, data):
        if path.startswith("reports/"):
            raise OSError(28, "No space left on device")
        return real(self, path, data)

    monkeypatch.setattr(Store, "create", full)


def test_a_purge_writes_the_evidence_that_is_missing_first(bare):
    """The service died between commit and evidence, and another version has replaced the one to report on."""
    commit_forget(bare, user_name(5), "s")
    answer = pipeline.purge(bare, now=True)
    assert answer["reports_written"] == 2 and answer["purged_requests"] == 2 and not failures(bare)
    for name in ("r", "s"):
        assert all(check["ok"] for check in report(bare, name)["verification"]["checks"])
    kinds = [record.kind for record in Session(bare).log.records()]
    assert kinds.count("evidence") == 2 and kinds.index("evidence") < kinds.index("purging")


def test_a_check_that_fails_is_told_wherever_somebody_asks(bare, tmp_path, monkeypatch, caplog, capsys):
    """In the log, by `status` and HTTP, by callbacks, as a gauge, by a service on a cluster, and as an exit code."""
    commit_forget(bare, user_name(5), "s")
    session = Session(bare)
    intake = Intake(session)
    with monkeypatch.context() as patch:
        wrong = {"name": "deleted nodes", "ok": False, "checked": 1, "of": 1, "detail": "1 has a row"}
        patch.setattr(drafts, "checks_of", lambda *_: [wrong])
        patch.setattr(session, "workers", lambda: nullcontext(object()))
        engine = LazyEngine(session, ExitStack())
        engine.write_reports(["r"])
    engine.write_reports(["s"])
    assert "request r: the check of deleted nodes FAILED" in caplog.text and "request s" not in caplog.text
    record = next(r for r in session.log.records() if r.kind == "evidence")
    assert record.body["evidence_failed"] == ["deleted nodes"]
    assert evidence_of(bare)["evidence_failed"] == ["deleted nodes"]
    for name, failed in (("r", ["deleted nodes"]), ("s", [])):
        assert pipeline.status(bare, name)["evidence_failed"] == intake.status(name)["evidence_failed"] == failed
        told = json.loads(intake.news_of([name])[name].message(name, "https://desk.example", 0)[1])
        assert told.get("evidence_failed", []) == failed
    assert intake.gauges()["evidence_failed_requests"] == 1
    again = Ledger(state=json.loads(json.dumps(session.ledger().state())))
    assert list(again.evidence_failed) == ["r"] and again.tickets == session.ledger().tickets

    session.store.write("requests/key", b"k" * 32)
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(bare), encoding="utf-8")
    for user, name, code in ((3, "r", 1), (5, "s", 0)):
        command = ["forget", "--users", user_name(user), "--request-id", name, "--json", "--config", str(file)]
        assert run(command) == code
        answer = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert answer["status"] == "committed" and answer.get("ok", True) == (code == 0)


def test_a_request_that_failed_and_was_posted_again_is_as_old_as_before(bare):
    accept(bare, user_name(5), "s")
    accepting.append_step(Session(bare), "s", "failed", {"error": "KeyError"})
    time.sleep(0.002)  # times have milliseconds
    commit_forget(bare, user_name(5), "s")
    add_evidence(Session(bare), [{"request_id": "s", "status": "committed"}])
    records = [r for r in Session(bare).log.records() if r.kind == "accepted" and r.body["request_id"] == "s"]
    document = report(bare, "s")
    assert document["times"]["accepted"] == records[0].time < records[1].time
    assert document["records"]["accepted"]["number"] == records[1].number and not failures(bare, "s")


def test_nothing_is_reported_where_nothing_is_removed(bare):
    kept = bare.model_copy(update={"forget": bare.forget.model_copy(update={"retention_hours": 1.0})})
    assert pipeline.purge(kept)["reports_written"] == 0 and not Session(bare).store.list("reports")


def test_evidence_after_a_purge_claims_no_more_than_it_knows(bare, monkeypatch):
    with monkeypatch.context() as patch:
        no_reports(patch)
        assert pipeline.purge(bare, now=True)["reports_written"] == 0
    evidence_of(bare)
    document = report(bare)
    checks = {check["name"]: check for check in document["verification"]["checks"]}
    assert checks["removed interactions"]["ok"] is None and checks["removed interactions"]["checked"] == 0
    assert "deleted nodes" not in checks and checks["rows of partitions"]["ok"]
    assert {f["state"] for f in document["files"]["changed"] if f["version"] == "before"} == {"gone"}
    assert document["removed"]["partitions_of_version"][0]["users"]["before"] is None
    assert "were purged" in checks["removed interactions"]["detail"]
    assert not failures(bare)


def test_evidence_of_a_purged_version_is_written_all_the_same(bare, monkeypatch):
    """Neither this version nor the one before can be read any more."""
    commit_forget(bare, user_name(5), "s")
    with monkeypatch.context() as patch:
        no_reports(patch)
        pipeline.purge(bare, now=True)
    assert set(failures(bare)) == {"request r: evidence", "request s: evidence"}
    evidence_of(bare)
    document = report(bare)
    checks = document["verification"]["checks"]
    assert len(checks) == 5 and all(check["ok"] is None and "by a purge before" in check["detail"] for check in checks)
    commits = [record for record in Session(bare).log.records() if record.kind == "committed"]
    manifests = {version.version: version for version in (manifest_of(record) for record in commits)}
    for file in document["files"]["changed"]:
        version = manifests[{"before": 1, "after": 2}[file["version"]]]
        assert version.files[file["name"]].document() == {"sha256": file["sha256"], "bytes": file["bytes"]}
        assert file["state"] == ("gone" if not Session(bare).store.exists(file["name"]) else "there")
    assert document["removed"]["partitions_of_version"][0]["entries"] == {"before": None, "after": None}
    html = (Path(bare.output) / report_name("r", "html")).read_text()
    assert "Left out, for the reasons below: files of the version" in html
    found = {check["name"]: check for check in pipeline.verify(bare, "r")["checks"]}["request r: evidence"]
    assert found["ok"] and "left out: files of the version, untouched partitions, rows of others" in found["detail"]
    assert set(failures(bare)) == {"request s: evidence"}


def test_evidence_after_half_a_purge(bare, tmp_path, monkeypatch):
    """It dies before each of its removals in turn; what is left of a version is not taken for a damaged one."""
    commit_forget(bare, user_name(5), "s")
    real, left, outcomes = Store.remove, 0, set()

    def dies(self, name):
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash
        real(self, name)

    for removals in range(20):
        config = bare.model_copy(update={"output": str(tmp_path / f"copy{removals}")})
        shutil.copytree(bare.output, config.output)
        left = removals
        with monkeypatch.context() as patch:
            no_reports(patch)
            patch.setattr(Store, "remove", dies)
            try:
                pipeline.purge(config, now=True)
            except Crash:
                over = False
            else:
                over = True
        evidence_of(config)
        add_evidence(Session(config), [{"request_id": "s", "status": "committed"}])
        assert not failures(config)
        outcomes |= {tuple(check["ok"] for check in report(config)["verification"]["checks"])}
        if over:
            break
    assert over and outcomes == {(None,) * 5, (True, True, None, True, None), (True,) * 6}


def test_a_damaged_current_version_has_no_report(bare):
    name = Session(bare).version().model.embeddings[1]
    (Path(bare.output) / name).unlink()
    notes, progress = [], Progress()
    progress.note = notes.append
    assert evidence_of(bare, progress)["evidence"] is None and f"{name} is missing" in notes[0]
    commit_train(bare)
    assert evidence_of(bare)["evidence"] == report_name("r") and not failures(bare)


@pytest.mark.parametrize("again", ["rollback", "training"])
def test_a_file_that_a_later_current_version_names_too_was_not_purged(bare, again):
    """The version to report on is another one, and its files are still those of the current one."""
    version = Session(bare).version()
    commit_train(bare)
    if again == "rollback":
        assert pipeline.rollback(bare, to=version.version)["version"] == version.version + 2
    name = version.graph.shard_files[1] if again == "training" else version.model.embeddings[1]
    place = Path(bare.output) / name
    data, notes, progress = place.read_bytes(), [], Progress()
    progress.note = notes.append
    place.unlink()
    assert evidence_of(bare, progress)["evidence"] is None and f"{name} is missing" in notes[0]
    place.write_bytes(data)
    evidence_of(bare)
    assert not failures(bare) and all(check["ok"] for check in report(bare)["verification"]["checks"])


def test_no_two_versions_have_one_number(bare):
    """What is compared by number is compared rightly, also after a rollback."""
    commit_train(bare)
    pipeline.rollback(bare, to=2)
    commit_forget(bare, user_name(5), "s")
    commit_train(bare)
    numbers = [manifest_of(r).version for r in Session(bare).log.records() if r.kind == "committed"]
    assert numbers == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("able", [True, False])
def test_a_purge_while_evidence_is_written(bare, tmp_path, monkeypatch, able):
    """It begins and ends before every other read and write of a report, whether it can write reports itself or not."""
    commit_forget(bare, user_name(5), "s")
    real = {name: getattr(Store, name) for name in ("read", "create", "write")}
    state = {"left": -1}

    def guard(name, config):
        def guarded(self, path, *data):
            if not path.startswith("log/0") or data:
                state["left"] -= 1
                if state["left"] == -1:
                    with monkeypatch.context() as patch:
                        for other, method in real.items():
                            patch.setattr(Store, other, method)
                        if not able:
                            no_reports(patch)
                        pipeline.purge(config, now=True)
            return real[name](self, path, *data)

        return guarded

    for acts in range(int(able), 40, 2):
        config = bare.model_copy(update={"output": str(tmp_path / f"copy{acts}")})
        shutil.copytree(bare.output, config.output)
        state["left"] = acts
        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(Store, name, guard(name, config))
            evidence_of(config)
        if state["left"] >= 0:
            break
        for name in ("r", "s"):
            add_evidence(Session(config), [{"request_id": name, "status": "committed"}])
        records = [r.body["request_id"] for r in Session(config).log.records() if r.kind == "evidence"]
        assert sorted(records) == ["r", "s"] and not failures(config)
    assert 15 < acts < 40


def test_records_of_evidence_disturb_no_reader(config):
    assert pipeline.status(config, "r") == {"phase": "committed", "evidence_failed": [], **status_answer(config)}
    accept(config, user_name(5), "open")
    assert pipeline.status(config, "open")["status"] == "accepted"
    assert not failures(config)
    places = {x["place"] for x in pipeline.residue(config)["residues"]}
    assert "requests/r.json" in places and not any(place.startswith("reports/") for place in places)


def status_answer(config):
    (version,) = (r.body["manifest"] for r in Session(config).log.records() if "answers" in r.body.get("manifest", {}))
    return version["answers"]["r"]


def test_what_was_not_removed_is_found(small):
    """The checks on a version that kept the old shards and rows."""
    session = Session(small)
    before, after = (manifest_of(r) for r in session.log.records() if r.kind == "committed")
    change = Change.read(session.store, before, after)
    request = parse_request(user_name(3), None, None, None, None, session.options)
    removed = change.effects(session.store, {"r": request})["r"]
    pairs = (removed.users, removed.items)
    answer = {"removed_interactions": 4, "deleted_users": 1, "deleted_items": 0}

    def checks_of_request(changed, **told):
        return checks_of(changed, version_checks(changed, removed.touched), pairs, answer | told)

    def wrong(changed, **told):
        return {check["name"] for check in checks_of_request(changed, **told) if not check["ok"]}

    assert not wrong(change) and len(checks_of_request(change)) == 6

    kept = [change.old.get(k, shard) for k, shard in enumerate(change.new)]
    assert wrong(dataclasses.replace(change, new=kept)) >= {"removed interactions", "rows of partitions"}
    assert wrong(change, removed_interactions=5) == {"removed interactions"}
    assert wrong(change, deleted_items=1) == {"deleted nodes"}
    live = (np.append(change.live[0], pairs[0][0]), change.live[1])
    assert wrong(dataclasses.replace(change, live=live)) == {"deleted nodes"}
    rows = (change.rows[0], change.rows[1] | {0: change.rows[1][0] + 1})
    assert wrong(dataclasses.replace(change, rows=rows)) == {"rows of partitions"}
    name = after.model.embeddings[0]
    found = change.found | {name: {"sha256": "0" * 64, "bytes": 1}}
    assert wrong(dataclasses.replace(change, found=found)) == {"files of the version"}
    assert wrong(dataclasses.replace(change, moved=(change.moved[0], change.compared[1]))) == {"rows of others"}
    # With `influence.around` nobody can tell.
    encoder = Encoder(file="e", shape={}, interactions=1, around=True)
    model = before.model.replaced(encoder=encoder)
    around = dataclasses.replace(change, before=before.replaced(model=model), moved=change.compared)
    checks = {check["name"]: check for check in checks_of_request(around)}
    assert checks["rows of others"]["ok"] is None and checks["untouched partitions"]["checked"] == 0


def rewritten(config, **parts):
    """Version 2 with other parts: as a program would have committed it that did more than it says."""
    session = Session(config)
    record = session.log.records()[-1]
    (Path(config.output) / record.file).unlink()
    session = Session(config)
    manifest = record.body["manifest"] | parts
    session.log.append("committed", {"manifest": manifest})
    session.store.write("versions/000002/manifest.json", json.dumps(manifest, indent=1).encode())


def failed_checks(config):
    evidence_of(config)
    return {check["name"] for check in report(config)["verification"]["checks"] if check["ok"] is False}


def test_a_changed_partition_that_no_answer_names_is_found(bare):
    """Committed as it lies there: only the answers tell that it should have been left alone."""
    answer = Session(bare).version().answers["r"]
    rewritten(bare, answers={"r": answer | {"affected_partitions": [1]}})
    assert failed_checks(bare) == {"untouched partitions"}
    assert "says that a check failed: untouched partitions" in failures(bare)["request r: evidence"]


def test_a_changed_row_of_a_node_that_no_request_touched_is_found(bare):
    """One number of one neighbour's row, committed like the rest."""
    session = Session(bare)
    version = session.version()
    name = version.model.embeddings[0]
    shard = GraphShard.from_bytes(session.store.read(version.graph.shard_files[0]))
    rows = load(session.store.read(name))["e0"]
    assert len(shard.user_ids)  # the only end among users is deleted
    rows[0, 0] = np.nextafter(rows[0, 0], np.inf)
    files = version.files | {name: session.versions.put(name, save({"e0": rows}))}
    rewritten(bare, files={name: file.document() for name, file in files.items()})
    assert failed_checks(bare) == {"rows of others"}


# ---- with workers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory, group):
    """A trained output with an encoder and ids that can be searched for. Not to be changed."""
    more = {"train": {"epochs": 10, "batch_size": 300}, "pretrain": {"epochs": 2}}
    config, events = trained_output(tmp_path_factory.mktemp("finished"), group, names=True, **more)
    return types.SimpleNamespace(config=config, events=events)


@pytest.fixture
def trained(finished, tmp_path):
    """The finished run at a place of its own."""
    return copied(finished.config, tmp_path)


def test_a_request_leaves_its_evidence(finished, trained, group, tmp_path):
    user = finished.events[0][0]
    pairs = [pair for pair in finished.events if pair[0] != user][::40]
    users, items = zip(*pairs, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items}), tmp_path / "pairs.parquet")
    request = {"users": user, "interactions": str(tmp_path / "pairs.parquet")}

    answer = pipeline.forget(trained, **request, request_id="r", group=group)

    assert answer["evidence"] == report_name("r") and not failures(trained)
    document = report(trained)
    assert_digests_are_on_disk(trained, document)
    checks = {check["name"]: check for check in document["verification"]["checks"]}
    assert all(check["ok"] for check in checks.values())
    assert checks["removed interactions"]["checked"] == answer["removed_interactions"]
    assert checks["deleted nodes"]["of"] == answer["deleted_users"] + answer["deleted_items"] >= 1
    assert document["times"]["phases"] == answer["phases"] and document["times"]["seconds"] == answer["seconds"]
    assert document["drift"]["share_forgotten_since_pretraining"] == answer["encoder_drift"] > 0
    scores = document["verification"]["scores"]
    groups = {line["pairs"]: line for line in scores["groups"]}
    assert groups["forgotten"]["n"] == scores["of"] == len(pairs)
    assert groups["trained"]["n"] == groups["random"]["n"] == REFERENCES
    assert 0.5 < scores["auc"]["trained above random"] <= 1 and len(scores["auc"]) == 3
    assert groups["random"]["q05"] < groups["random"]["q50"] < groups["random"]["q95"]
    for name in Session(trained).store.list("reports"):
        assert not re.search(r"user-\d|item-\d|@example", (Path(trained.output) / name).read_text())

    # Again: the same answer, and nothing is written.
    head = Session(trained).log.head()
    again = pipeline.forget(trained, **request, request_id="r", group=group)
    assert again["evidence"] == answer["evidence"] and Session(trained).log.head() == head

    # A later request, by whole user: no pair keeps both ends.
    other = next(u for u, _ in finished.events if u != user)
    pipeline.forget(trained, users=other, request_id="other", group=group)
    assert "every forgotten pair lost an end" in report(trained, "other")["verification"]["scores"]["left_out"]
    assert not failures(trained)


def test_requests_of_one_version_have_a_report_each(finished, trained, group):
    session = Session(trained)
    users = list(dict.fromkeys(user for user, _ in finished.events))[:2]
    item = next(item for user, item in finished.events if user not in users)
    named = {"one": (users[0], None), "two": (users[1], item)}
    requests = [parse_request(u, i, None, None, name, session.options) for name, (u, i) in named.items()]
    for request in requests:
        accepting.accept(session, request)
    answers = carry_out(session, requests, group, Progress())
    answers = {answer["request_id"]: answer for answer in add_evidence(session, list(answers.values()), group)}
    assert not failures(trained)
    for name, answer in answers.items():
        document = report(trained, name)
        checks = {check["name"]: check for check in document["verification"]["checks"]}
        assert answer["evidence"] == report_name(name) and document["requests_in_version"] == 2
        assert checks["removed interactions"]["of"] == answer["removed_interactions"] > 0
        assert checks["deleted nodes"]["of"] == answer["deleted_users"] + answer["deleted_items"]
        assert all(check["ok"] for check in checks.values())


def test_a_driver_that_dies_after_the_commit_is_mended_by_repeating(finished, trained, group, monkeypatch):
    user = finished.events[0][0]

    def die(*_, **__):
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(forget, "add_evidence", die)
        pipeline.forget(trained, users=user, request_id="r", group=group)
    assert pipeline.status(trained, "r")["phase"] == "committed"
    answer = pipeline.forget(trained, users=user, request_id="r")
    assert answer["evidence"] == report_name("r") and not failures(trained)
    document = report(trained)
    assert document["times"]["phases"] is None and "no workers" in document["verification"]["scores"]["left_out"]
    assert all(check["ok"] for check in document["verification"]["checks"])


def test_a_failing_report_does_not_fail_the_request(finished, trained, group, monkeypatch):
    real = Store.write

    def full(self, path, data):
        if path.startswith("reports/"):
            raise OSError(28, "No space left on device")
        return real(self, path, data)

    monkeypatch.setattr(Store, "write", full)
    answer = pipeline.forget(trained, users=finished.events[0][0], request_id="r", group=group)
    assert answer["status"] == "committed" and answer["evidence"] is None and answer["removed_interactions"] > 0


def test_a_request_that_removes_nothing_has_no_report(trained, group):
    answer = pipeline.forget(trained, users="nobody", request_id="r", group=group)
    assert answer["status"] == "nothing_to_forget" and "evidence" not in answer
    run_page = {"reports/report.html", "reports/report.json"}
    assert set(Session(trained).store.list("reports")) <= run_page and not failures(trained)


def test_verify_refuses_an_output_without_a_log(trained):
    elsewhere = trained.model_copy(update={"output": trained.output + "-none"})
    with pytest.raises(InputError, match="has no log"):
        pipeline.verify(elsewhere)
