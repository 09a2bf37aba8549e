"""Receipts: what they say of the lake and the model, that nobody is named, and that a change of any state is noticed."""

import base64
import datetime as dt
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from small_output import accept, commit_forget, commit_train, copied, small_config, user_name, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.config.schema import Config, to_yaml
from unlearnrec.cluster.evidence import receipt, signing
from unlearnrec.cluster.evidence.report import add_evidence
from unlearnrec.cluster.layout import receipt_name, receipt_page_name, signature_name
from unlearnrec.cluster.lifecycle.acceptance import stored_content
from unlearnrec.cluster.lifecycle.outcomes import note_outcomes
from unlearnrec.cluster.lifecycle.suppression import ENVIRONMENT
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.cluster.requests.digests import digests_of
from unlearnrec.cluster.requests.request import make_request
from unlearnrec.cluster.requests.row_filter import RowFilter
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.lake.copies import objects
from unlearnrec.partitioning.lake.copies.history import Limits
from unlearnrec.partitioning.lake.copies.look_back import look_back
from unlearnrec.partitioning.lake.copies.search import matching_rows
from unlearnrec.partitioning.storage import AWS, StorageOptions, Store

USER = user_name(3)
PARTS = ("current", "older", "files", "model")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An output on a Delta table in which the request "r" was committed. Not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    plain = write_interactions(folder / "events.parquet")
    table = str(folder / "table")
    write_deltalake(table, pq.read_table(plain), configuration={"delta.enableChangeDataFeed": "true"})
    config = small_config(table, str(folder / "output"))
    pipeline.ingest(config)
    commit_train(config)
    commit_forget(config, USER, "r")
    return config


@pytest.fixture
def config(small: Config, tmp_path: Path) -> Config:
    """The same at a place of its own, table and output, with its evidence."""
    table = shutil.copytree(small.interactions, tmp_path / "table")
    config = copied(small, tmp_path).model_copy(update={"interactions": str(table)})
    assert evidence(config)["evidence"]
    return config


def evidence(config: Config, progress: Progress | None = None) -> dict[str, Any]:
    answers = [{"request_id": "r", "status": "committed"}]
    return add_evidence(Session(config), answers, progress=progress or Progress())[0]


def document(config: Config, number: int, request_id: str = "r") -> Any:
    return json.loads((Path(config.output) / receipt_name(request_id, number)).read_bytes())


def check(config: Config, request_id: str = "r") -> tuple[bool, str]:
    checks = pipeline.verify(config, request_id)["checks"]
    (found,) = [one for one in checks if one["name"] == f"request {request_id}: receipt"]
    return found["ok"], found["detail"]


def forget_in_the_lake(config: Config) -> None:
    DeltaTable(config.interactions).delete(f"user_id = '{USER}'")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key as an operator makes it."""
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    return path


def signed(config: Config, key: Path | None, *public: Path) -> Config:
    more = {"signing_key": None if key is None else str(key), "public_keys": tuple(map(str, public))}
    return config.model_copy(update={"evidence": config.evidence.model_copy(update=more)})


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_the_first_receipt_says_what_the_log_says(config: Config) -> None:
    first = document(config, 1)
    assert first["number"] == 1 and first["previous"] is None and first["signer"] is None
    for name in ("current", "older", "files"):
        part = first["parts"][name]
        assert part["gone"] is None and part["seen_at"] is None
        assert "run `unlearnrec residue --request r`" in part["not_looked_at"][0]["why"]
    model = first["parts"]["model"]
    assert model["found"]["version"] == 2 and model["found"]["evidence"] == "reports/evidence-r.json"
    assert model["gone"] is None and "older versions" in model["not_looked_at"][0]["what"]
    assert first["closed_by"]["sha256"] == Session(config).log.records()[first["closed_by"]["number"] - 1].digest
    # It needs no record, and repeating the request writes nothing.
    before = {path: path.stat().st_mtime_ns for path in (Path(config.output) / "reports").iterdir()}
    head = Session(config).log.head()
    evidence(config)
    assert {path: path.stat().st_mtime_ns for path in (Path(config.output) / "reports").iterdir()} == before
    assert Session(config).log.head() == head and check(config) == (True, "1 state; not signed")


def test_the_four_parts_before_and_after_the_rows_are_deleted(config: Config) -> None:
    answer = pipeline.residue(config, "r")
    assert answer["receipt"] == receipt_name("r", 2) and answer["number"] == 2 and answer["signature"] is None
    parts = answer["parts"]
    assert parts == document(config, 2)["parts"] and set(parts) == set(PARTS)
    assert parts["current"]["gone"] is False and parts["current"]["found"]["rows"] == 4
    assert parts["current"]["places"][0]["state"]["version"] == 0
    assert parts["older"]["gone"] is True and parts["older"]["places"] == []
    assert [(place["kind"], place["rows"]) for place in parts["files"]["places"]] == [("file of the current state", 4)]
    assert parts["model"]["gone"] is False
    assert {place["place"] for place in parts["model"]["places"]} >= {"older version", "request content"}

    forget_in_the_lake(config)
    parts = pipeline.residue(config, "r")["parts"]
    assert parts["current"]["gone"] is True and parts["current"]["found"]["rows"] == 0
    (version,) = parts["older"]["places"]
    assert version["place"] == f"{config.interactions}?version=0" and version["rows"] == 4 and version["until"]
    kinds = sorted((place["kind"], place["rows"]) for place in parts["files"]["places"])
    assert kinds == [("file of older states", 4), ("file of the change feed", 4)]
    assert parts["files"]["until"] == max(place["until"] for place in parts["files"]["places"])
    for part in parts.values():
        assert part["seen_at"] and part["how"] and part["not_looked_at"] == []

    settings = {"retention_hours": 0, "enforce_retention_duration": False, "dry_run": False}
    DeltaTable(config.interactions).vacuum(**settings)
    pipeline.purge(config, now=True)
    answer = pipeline.residue(config, "r")
    assert answer["number"] == 4
    # The purge took the content, and there is no suppression list.
    for name in ("current", "older", "files"):
        assert answer["parts"][name]["gone"] is None
        assert "not known any more" in answer["parts"][name]["not_looked_at"][0]["why"]
    assert answer["parts"]["model"]["gone"] is True
    assert check(config) == (True, "4 states, each of which continues the one before; not signed")


def test_nobody_is_named(config: Config, tmp_path: Path) -> None:
    """Not by a hive folder either, nor by a file that is called after a user."""
    table = pq.read_table(tmp_path / "table")
    write_deltalake(str(tmp_path / "by-user"), table, partition_by=["user_id"])
    DeltaTable(str(tmp_path / "by-user")).delete(f"user_id = '{USER}'")
    plain = tmp_path / "plain"
    plain.mkdir()
    pq.write_table(table, plain / f"{USER}.parquet")
    config = config.model_copy(update={"interactions": str(tmp_path / "by-user"), "test_interactions": str(plain)})
    answer = pipeline.residue(config, "r")
    assert answer["parts"]["files"]["found"]["rows"] == 8 and answer["parts"]["older"]["found"]["states"] == 1
    places = {place["place"] for place in answer["parts"]["files"]["places"]}
    assert f"{plain}/*.parquet" in places and any("/by-user/user_id=*/part-0" in place for place in places)
    whole = pipeline.residue(config)
    texts = [path.read_text() for path in (Path(config.output) / "reports").iterdir()]
    texts += [json.dumps(answer), json.dumps(whole)]
    assert len(texts) >= 6
    for text in texts:
        assert USER not in text and "ann-" not in text and "item-0" not in text


def test_after_a_purge_the_suppression_list_tells(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "k" * 32)
    put_on_the_list(config, "r")
    pipeline.purge(config, now=True)
    parts = pipeline.residue(config, "r")["parts"]
    assert parts["current"]["found"]["rows"] == 4
    assert "keyed digests of the suppression list" in parts["current"]["how"]
    monkeypatch.delenv(ENVIRONMENT)
    why = pipeline.residue(config, "r")["parts"]["current"]["not_looked_at"][0]["why"]
    assert f"{ENVIRONMENT} is not set" in why
    monkeypatch.setenv(ENVIRONMENT, "k" * 32)
    pipeline.lift(config, users=USER)
    assert pipeline.residue(config, "r")["parts"]["current"]["gone"] is True


def put_on_the_list(config: Config, request_id: str) -> None:
    from unlearnrec.cluster.lifecycle.finding import find_stored
    from unlearnrec.cluster.requests.request import read_request

    session = Session(config)
    content = stored_content(session, request_id)
    assert content is not None
    request = read_request(request_id, content["body"].encode())
    version = session.version()
    (resolved,), result = find_stored(session.store, version.graph, [request])
    note_outcomes(session, version, [request], {request_id: resolved}, result, Progress())


def test_what_is_left_out_is_said(config: Config) -> None:
    write_deltalake(config.interactions, pq.read_table(config.interactions), mode="append")
    few = config.model_copy(update={"evidence": config.evidence.model_copy(update={"max_files": 1})})
    parts = pipeline.residue(few, "r")["parts"]
    missing = {"what": "data files", "count": 1, "why": "evidence.max_files is 1"}
    assert parts["current"]["gone"] is False and parts["current"]["not_looked_at"] == [missing]
    forget_in_the_lake(config)
    broken = next(Path(config.interactions).glob("part-*.parquet"))
    broken.write_bytes(b"broken")
    (one,) = pipeline.residue(config, "r")["parts"]["files"]["not_looked_at"]
    assert one["count"] == 1 and "cannot be read as a file of interactions" in one["why"]
    shutil.rmtree(config.interactions)
    parts = pipeline.residue(config, "r")["parts"]
    for name in ("current", "older", "files"):
        assert parts[name]["gone"] is None and parts[name]["not_looked_at"][0]["what"] == config.interactions


def test_a_request_that_removed_nothing_gets_a_receipt_when_asked(config: Config) -> None:
    accept(config, "nobody", "none")
    answer = {"request_id": "none", "status": "nothing_to_forget", "version": 2}
    Session(config).log.append("completed", {"request_id": "none", "answer": answer})
    found = pipeline.residue(config, "none")
    assert found["number"] == 2 and found["parts"]["current"]["gone"] is True
    assert found["parts"]["model"]["found"]["status"] == "completed"
    assert check(config, "none")[0]


@pytest.mark.parametrize("state", ["accepted", "cancelled"])
def test_only_what_was_carried_out_has_a_receipt(config: Config, state: str) -> None:
    accept(config, user_name(5), "open")
    if state == "cancelled":
        Session(config).log.append("cancelled", {"request_id": "open"})
    with pytest.raises(InputError, match=f"request open is {state}"):
        pipeline.residue(config, "open")
    with pytest.raises(InputError, match="no request 'mistyped'"):
        pipeline.residue(config, "mistyped")


def test_the_page_and_the_command(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forget_in_the_lake(config)
    (tmp_path / "run.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert run(["residue", "--config", str(tmp_path / "run.yaml"), "--request", "r"]) == 0
    out = capsys.readouterr().out
    assert "The current state of the tables: No live row names what was forgotten." in out
    assert "Older states of the tables: Still there, in 1 place; until 20" in out
    page = (Path(config.output) / receipt_page_name("r")).read_text()
    assert "No live row names what was forgotten" in page and "This receipt is not signed" in page
    digest = Session(config).store.sha256((Path(config.output) / receipt_name("r", 2)).read_bytes())
    assert digest in page and f"{config.interactions}?version=0" in page
    assert run(["residue", "--config", str(tmp_path / "run.yaml"), "--request", "r", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"request_id", "number", "sha256", "receipt", "page", "signature", "signed_by", "parts", "residues"} == set(
        answer
    )
    assert {one["kind"] for one in answer["residues"]} == {"older state of a table", "stored in the lake"}


def test_versions_and_uploads_on_s3(tmp_path: Path, s3_server: StorageOptions) -> None:
    s3 = objects._client(StorageOptions(endpoint_url=s3_server.endpoint_url))
    bucket = f"receipts-{tmp_path.name[-8:].replace('_', '-')}"
    s3.mkdir(bucket)
    s3.call_s3("put_bucket_versioning", Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    table = f"s3://{bucket}/{USER}/events.parquet"
    local = write_interactions(tmp_path / "events.parquet")
    s3.put(local, table)
    storage = {"endpoint_url": s3_server.endpoint_url, "region": s3_server.region}
    config = small_config(f"s3://{bucket}/{USER}", str(tmp_path / "output"), storage=storage)
    pipeline.ingest(config)
    commit_train(config)
    commit_forget(config, USER, "r")
    evidence(config)
    rows = pq.read_table(local)
    pq.write_table(rows.filter(pc.not_equal(rows["user_id"], USER)), local)
    s3.put(local, table)
    s3.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{USER}/part-00001.parquet")

    parts = pipeline.residue(config, "r")["parts"]
    assert parts["current"]["gone"] is True and parts["older"]["gone"] is True and parts["files"]["gone"] is False
    version, upload = parts["files"]["places"]
    assert version["kind"] == "noncurrent S3 version" and version["rows"] == 4 and version["until"] is None
    assert version["place"] == f"s3://{bucket}/{USER}/*.parquet" and version["version_id"]
    assert upload["kind"] == "unfinished upload" and upload["rows"] is None
    (missing,) = parts["files"]["not_looked_at"]
    assert missing["what"] == "unfinished uploads" and missing["count"] == 1
    s3.call_s3("delete_object", Bucket=bucket, Key=f"{USER}/events.parquet", VersionId=version["version_id"])
    # What an upload holds cannot be known.
    assert pipeline.residue(config, "r")["parts"]["files"]["gone"] is None
    assert check(config)[0]


@pytest.mark.parametrize("unit", ["s", "us"])
def test_rows_of_a_time_range(tmp_path: Path, unit: str) -> None:
    moments = pa.array([dt.datetime(2024, 1, day) for day in (1, 2, 3, 4)], pa.timestamp(unit))
    columns = {"user_id": ["a", "a", "b", "a"], "item_id": [1, None, 1, 2], "time": moments}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    request = make_request([], [], [], "r", b"", [("a", None, "2024-01-02T00:00:00Z", None)])
    named = digests_of(b"k" * 32, request, {"user": "string", "item": "int64"})
    (copy,) = look_back(str(tmp_path / "t.parquet"), AWS, Limits()).copies
    found = matching_rows(copy.data, ("user_id", "item_id"), "time", RowFilter(b"k" * 32, named), {"user_id": ["a"]})
    assert found is not None and found.tolist() == [3]  # the second has no item, so it is no interaction


def test_residue_of_all_requests_lists_the_lake_s_history(config: Config) -> None:
    forget_in_the_lake(config)
    # Whatever version the configuration selects, the current one counts.
    config = config.model_copy(update={"interactions": f"{config.interactions}?version=0"})
    found = [one for one in pipeline.residue(config)["residues"] if "rows" in one]
    assert sorted((one["kind"], one["rows"]) for one in found) == [
        ("older state of a table", 4),
        ("stored in the lake", 4),
        ("stored in the lake", 4),
    ]


# ---- it cannot be changed silently -----------------------------------------------------------------------------------


def rewrite(config: Config, number: int, /, **parts: Any) -> None:
    changed = document(config, number) | parts
    (Path(config.output) / receipt_name("r", number)).write_bytes(receipt.canonical(changed))


@pytest.mark.parametrize("number", [1, 900])
def test_a_receipt_of_a_commit_that_the_log_does_not_have_begins_anew(config: Config, number: int) -> None:
    """As in a backup whose log was copied before its reports: the request was carried out again, by another record."""
    closed = document(config, 1)["closed_by"] | {"number": number, "sha256": "0" * 64}
    rewrite(config, 1, closed_by=closed)
    data = receipt.canonical(document(config, 1) | {"number": 2})
    (Path(config.output) / receipt_name("r", 2)).write_bytes(data)
    evidence(config)
    assert check(config)[0] and document(config, 1)["closed_by"]["sha256"] != "0" * 64
    assert not (Path(config.output) / receipt_name("r", 2)).exists()


def test_a_changed_or_missing_state_is_noticed(config: Config, tmp_path: Path) -> None:
    for _ in range(2):
        pipeline.residue(config, "r")
    assert check(config)[0]
    parts = document(config, 2)["parts"]
    parts["current"] |= {"gone": True, "places": []}
    rewrite(config, 2, parts=parts)
    ok, detail = check(config)
    assert not ok and "reports/receipt-r@3.json was changed: it does not continue the state before" in detail
    # With all later states made anew the log still has the last one.
    digest = Session(config).store.sha256((Path(config.output) / receipt_name("r", 2)).read_bytes())
    rewrite(config, 3, previous=digest)
    ok, detail = check(config)
    assert not ok and "its SHA-256 is not the one of log/" in detail
    (Path(config.output) / receipt_name("r", 3)).unlink()
    assert "receipt-r@3.json is missing" in check(config)[1]


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"commitment": "0" * 64}, "commitment"),
        ({"accepted": "2020-01-01T00:00:00.000+00:00"}, "accepted"),
        ({"number": 2}, "number"),
    ],
)
def test_the_first_state_is_held_against_the_log(config: Config, parts: dict[str, Any], what: str) -> None:
    rewrite(config, 1, **parts)
    assert check(config) == (False, f"reports/receipt-r@1.json contradicts the log: {what}. Restore it from a backup")


def test_the_first_state_may_not_say_anything_of_the_lake(config: Config) -> None:
    parts = document(config, 1)["parts"]
    parts["current"] |= {"gone": True, "seen_at": "2026-01-01T00:00:00.000+00:00"}
    rewrite(config, 1, parts=parts)
    assert "contradicts the log: current" in check(config)[1]


def test_a_state_beside_the_log_and_a_page_beside_its_state_are_noticed(config: Config) -> None:
    page = Path(config.output) / receipt_page_name("r")
    page.write_text(page.read_text().replace("not signed", "signed"))
    assert "is not the page of its state 1" in check(config)[1]
    # As a crash leaves it, the page before the first state: the same request again writes both.
    (Path(config.output) / receipt_name("r", 1)).unlink()
    evidence(config)
    assert check(config)[0]
    data = receipt.canonical(document(config, 1) | {"number": 2})
    digest = Session(config).store.sha256((Path(config.output) / receipt_name("r", 1)).read_bytes())
    forged = receipt.canonical(json.loads(data) | {"previous": digest})
    (Path(config.output) / receipt_name("r", 2)).write_bytes(forged)
    assert "receipt-r@2.json is not in the log" in check(config)[1]
    pipeline.residue(config, "r")
    assert check(config)[0]
    shutil.copy(Path(config.output) / receipt_name("r", 1), Path(config.output) / receipt_name("stranger", 1))
    strays = [one for one in pipeline.verify(config)["checks"] if one["name"] == receipt_name("stranger", 1)]
    assert not strays[0]["ok"]


def test_what_fixes_a_receipt_outlives_the_records(config: Config) -> None:
    pipeline.residue(config, "r")
    pipeline.purge(config, now=True, truncate_log=True)
    assert Session(config).log.records()[0].number > 1
    assert check(config)[0]
    rewrite(config, 2, written="2020-01-01T00:00:00.000+00:00")
    assert "its SHA-256 is not the one of" in check(config)[1]
    # And a new state goes on from there.
    assert pipeline.residue(config, "r")["number"] == 3


def test_a_receipt_that_cannot_be_written_undoes_nothing(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copied(small, tmp_path)
    real, notes = Store.create, []

    def full(self: Store, path: str, data: bytes) -> None:
        if path.startswith("reports/receipt"):
            raise OSError(28, "No space left on device")
        real(self, path, data)

    class Notes(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    monkeypatch.setattr(Store, "create", full)
    answer = evidence(config, Notes())
    assert answer["evidence"] == "reports/evidence-r.json" and answer["evidence_failed"] == []
    assert notes == ["request r: its receipt was not written: OSError: [Errno 28] No space left on device"]
    assert all(one["ok"] for one in pipeline.verify(config)["checks"])
    with pytest.raises(OSError, match="No space"):
        pipeline.residue(config, "r")
    monkeypatch.undo()
    evidence(config)
    assert document(config, 1)["number"] == 1


# ---- signatures ------------------------------------------------------------------------------------------------------


def test_an_outsider_checks_a_receipt_with_the_public_key_alone(config: Config, key: Path, tmp_path: Path) -> None:
    """The instructions of docs/evidence.md, as they stand there."""
    answer = pipeline.residue(signed(config, key), "r")
    public = tmp_path / "public.pem"
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(Path(config.output) / answer["receipt"], outside / "receipt.json")
    shutil.copy(Path(config.output) / answer["signature"], outside / "receipt.sig")
    shutil.copy(public, outside / "public.pem")

    documentation = (Path(signing.__file__).parents[2] / "docs" / "evidence.md").read_text()
    (command,) = [line for line in documentation.splitlines() if line.startswith("openssl pkeyutl -verify")]
    done = subprocess.run(["sh", "-c", command], cwd=outside, capture_output=True, text=True)
    assert done.returncode == 0 and "Signature Verified Successfully" in done.stdout + done.stderr
    script = documentation.partition("```python\n")[2].partition("```")[0]
    assert sum(map(bool, script.splitlines())) == 3
    import sys

    assert subprocess.run([sys.executable, "-c", script], cwd=outside).returncode == 0

    data = (outside / "receipt.json").read_bytes().replace(b'"gone":false', b'"gone":true')
    (outside / "receipt.json").write_bytes(data)
    assert subprocess.run(["sh", "-c", command], cwd=outside, capture_output=True).returncode != 0
    assert subprocess.run([sys.executable, "-c", script], cwd=outside, capture_output=True).returncode != 0


def test_signatures_are_verified(config: Config, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = signed(config, key)
    answer = pipeline.residue(mine, "r")
    fingerprint = answer["signed_by"]
    public = base64.b64decode(document(config, 2)["signer"]["public_key"])
    assert fingerprint == signing.fingerprint(public)
    assert check(mine) == (
        True,
        f"2 states, each of which continues the one before; signed by {fingerprint}; 1 of them not signed",
    )
    # Without any key it says what to compare; with another one it fails, until the first is named.
    assert "compare this fingerprint" in check(config)[1]
    other = tmp_path / "other.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True)
    ok, detail = check(signed(config, other))
    assert not ok and "neither evidence.signing_key nor among evidence.public_keys" in detail
    pem = tmp_path / "public.pem"
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", pem], check=True)
    assert check(signed(config, other, pem))[0] and check(signed(config, None, pem))[0]
    # A machine that only checks does not have the private key that the configuration names.
    assert check(signed(config, tmp_path / "elsewhere.pem", pem))[0]
    # The variable does as well as the file.
    monkeypatch.setenv(signing.ENVIRONMENT, other.read_text())
    assert pipeline.residue(signed(config, None), "r")["signed_by"] not in (None, fingerprint)
    monkeypatch.delenv(signing.ENVIRONMENT)
    file = Path(config.output) / signature_name(receipt_name("r", 2), answer["sha256"])
    file.write_bytes(bytes(64))
    assert "is not a signature of reports/receipt-r@2.json" in check(config)[1]
    file.unlink()
    assert f"{file.name} is missing" in check(config)[1]


def test_forget_signs_the_first_receipt(small: Config, key: Path, tmp_path: Path) -> None:
    config = signed(copied(small, tmp_path), key)
    evidence(config)
    assert document(config, 1)["signer"]["algorithm"] == "Ed25519" and check(config)[0]


@pytest.mark.parametrize("kind", ["missing", "no key", "rsa", "public", "under output"])
def test_a_key_that_will_not_do_is_told_before_anything_is_read(
    config: Config, key: Path, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "bad.pem"
    message = "no Ed25519 private key|another kind than Ed25519"
    if kind == "missing":
        message = "evidence.signing_key: .*bad.pem: cannot be read"
    elif kind == "no key":
        place.write_text("nothing")
    elif kind == "rsa":
        subprocess.run(["openssl", "genpkey", "-algorithm", "rsa", "-out", place], check=True, capture_output=True)
    elif kind == "public":
        subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", place], check=True)
    else:
        place = Path(config.output) / "key.pem"
        shutil.copy(key, place)
        message = "lies under `output`"
    with pytest.raises(InputError, match=message):
        pipeline.residue(signed(config, place), "r")
    assert not Session(config).store.exists(receipt_name("r", 2))


def test_without_cryptography_the_extra_is_named(config: Config, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(InputError, match=r"unlearnrec\[signing\]"):
        pipeline.residue(signed(config, key), "r")
    assert pipeline.residue(config, "r")["signed_by"] is None
