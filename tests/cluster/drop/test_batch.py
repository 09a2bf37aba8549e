"""What a batch of DROP may be, how identifiers are hashed, and which users hashes lead to."""

import base64
import hashlib
import hmac
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drop_batch import base64_of, csv_of, work_item, write_batch

from unlearnrec.cluster.config.request_sections import DropList
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.drop.batch import read_batch
from unlearnrec.cluster.drop.mapping import match
from unlearnrec.cluster.drop.standard import hashed
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import AWS


@pytest.mark.parametrize(
    ("kind", "text", "digest"),
    [  # public test vectors of the phone list; the others follow from the rules
        ("Phone", "+1(415)555-9317", "vGM7y5n+hBXRSEAklhHDPCbysyNgYTmXdMcagGUOY8E="),
        ("Phone", "+84(90)123 4567", "ptzVkgbv9DonwvPCHmXmJ2SEOaolSh37z3ZzY/Gmm+U="),
        ("Phone", "911", base64_of("911")),
        ("Email", " A.lice+Tag@ Co.COM\t", base64_of("a.lice+tag@co.com")),
        ("MAID", "AECE52E7-03EE-455A-B3C4-E57283966239", base64_of("aece52e703ee455ab3c4e57283966239")),
        ("CTVID", "tv-00:Ab:42:17", base64_of("tv00ab4217")),
        ("MAID", "aece52e7", None),
        ("CTVID", "tv-1", None),
        ("Email", "  ", None),
    ],
)
def test_identifiers_are_hashed_as_drop_does(kind, text, digest):
    found = hashed(kind, text)
    assert (None if found is None else base64.b64encode(found).decode()) == digest


def test_rows_that_mean_nothing_are_named_by_number_and_by_nothing_else(tmp_path):
    good, other = base64_of("a@x"), base64_of("b@x")
    rows = [
        (work_item(1), good),
        ("680", good),
        (work_item(2), "no-hash"),
        (),
        (work_item(3), good),
        (work_item(4), good),
    ]
    phones = [(work_item(3), good), (work_item(1)[:-1],), (work_item(5), other), (work_item(5), other)]
    batch = read_batch(
        write_batch(tmp_path / "b.zip", {"Email": rows, "Phone": phones, "Removed": [(work_item(9), good, "Email")]}),
        AWS,
    )
    assert [(item.list, item.row) for item in batch.items] == [("Email", 1), ("Email", 6), ("Phone", 3)]
    assert [(row.file[14:], row.row, row.why.split()[1]) for row in batch.malformed] == [
        ("Email.csv", 2, "ID"),
        ("Email.csv", 3, "Hash"),
        ("Email.csv", 5, "ID"),  # in two lists
        ("Phone.csv", 1, "ID"),
        ("Phone.csv", 2, "ID"),
    ]
    assert batch.removed == [work_item(9)]
    for secret in (good, other, "680", work_item(3)):
        assert secret not in repr(batch)


def test_one_csv_is_a_batch_and_a_byte_order_mark_is_no_sign_of_it(tmp_path):
    path = tmp_path / "20260312_4821_Email_part01.csv"
    path.write_bytes("\ufeff".encode() + csv_of("ID,Hash", [(work_item(1), base64_of("a"))]).encode())
    assert [item.list for item in read_batch(str(path), AWS).items] == ["Email"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("b.zip", b"no zip", "no readable ZIP"),
        ("notes.csv", b"ID,Hash\n", "no file of DROP"),
        ("Email.csv", b"Id,Value\n", "no column Hash"),
        ("Email.csv", b"ID,Hash\nA,\xff\xfe\n", "UTF-8"),
        ("missing.zip", None, "no such file"),
    ],
)
def test_what_is_no_batch_is_refused(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_batch(str(tmp_path / name), AWS)


def test_a_damaged_or_foreign_zip_is_refused(tmp_path):
    path = tmp_path / "b.zip"
    write_batch(path, {"Email": [(work_item(n), base64_of(str(n))) for n in range(100)]})
    data = bytearray(path.read_bytes())
    data[200] ^= 255
    path.write_bytes(data)
    with pytest.raises(InputError, match="no readable"):
        read_batch(str(path), AWS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"'readme.txt' is no file of DROP"):
        read_batch(str(path), AWS)


# ---- from hashes to users --------------------------------------------------------------------------------------------

MAILS = {"ann": "ann@x.org", "ben": "ben@x.org", "cat": "cat@x.org", "dan": None}


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


KEYED = {"hash": "h", "keyed": True}
FORMS = {
    "base64": (base64_of, pa.string(), {"hash": "h"}),
    "hex": (lambda text: digest(text).hex().upper(), pa.large_string(), {"hash": "h"}),
    "bytes": (digest, pa.binary(32), {"hash": "h"}),
    "keyed": (lambda text: base64.b64encode(hmac.digest(b"k", digest(text), "sha256")).decode(), pa.string(), KEYED),
    "value": (lambda text: f" {text.upper()}", pa.string(), {"value": "h"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_column_leads_from_hashes_to_users(tmp_path, form):
    make, kind, settings = FORMS[form]
    column = pa.array([None if mail is None else make(mail) for mail in [*MAILS.values(), "ann@x.org"]], kind)
    pq.write_table(pa.table({"uid": [*MAILS, "ann2"], "h": column, "more": range(5)}), tmp_path / "users.parquet")
    table = DropList(table=str(tmp_path / "users.parquet"), user="uid", **settings)
    looked = match("Email", table, [digest("ann@x.org"), digest("cat@x.org"), digest("eve@x.org")], AWS, b"k")
    assert looked.users == {digest("ann@x.org"): {"ann", "ann2"}, digest("cat@x.org"): {"cat"}}
    assert (looked.rows, looked.identifiers) == (5, 4)
    assert looked.document()["state"]["format"] == "parquet" and "ann" not in repr(looked)


def test_a_delta_table_and_a_csv_of_hash_and_user(tmp_path):
    deltalake = pytest.importorskip("deltalake")
    rows = pa.table({"email_hash": [base64_of("ann@x.org"), base64_of("ben@x.org")], "user_id": pa.array([7, None])})
    deltalake.write_deltalake(str(tmp_path / "delta"), rows)
    looked = match("Email", DropList(table=str(tmp_path / "delta"), hash="email_hash"), [digest("ann@x.org")], AWS)
    assert looked.users == {digest("ann@x.org"): {"7"}} and looked.state["version"] == 0
    looked = match("Email", DropList(table=f"delta://{tmp_path}/delta", hash="email_hash"), [digest("ben@x.org")], AWS)
    assert looked.users == {} and looked.nameless == {digest("ben@x.org")}
    (tmp_path / "users.csv").write_text(csv_of("user_id,email", [("007", "Ann@x.org"), ("8", "")]))
    looked = match("Email", DropList(table=str(tmp_path / "users.csv"), value="email"), [digest("ann@x.org")], AWS)
    assert looked.users == {digest("ann@x.org"): {"007"}} and looked.identifiers == 1


def test_users_may_be_known_by_their_hashes_only(tmp_path):
    pq.write_table(pa.table({"user_id": [base64_of("ann@x.org")] * 3 + [base64_of("b")]}), tmp_path / "events.parquet")
    table = DropList(table=str(tmp_path / "events.parquet"), hash="user_id")
    looked = match("Email", table, [digest("ann@x.org")], AWS)
    assert looked.users == {digest("ann@x.org"): {base64_of("ann@x.org")}} and looked.rows == 4


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (["ann@x.org"], {"hash": "h"}, "1 or more values that are no SHA-256"),
        ([b"short"], {"hash": "h"}, "no SHA-256"),
        ([1.5], {"hash": "h"}, "must be text or binary"),
        ([None], {"hash": "h"}, "no identifier in 1 rows"),
        ([base64_of("a")], {"hash": "other"}, "no column 'other'"),
        ([base64_of("a")], {"hash": "h", "user": "who"}, "no column 'who'"),
    ],
)
def test_a_column_in_which_nobody_could_be_found_is_refused(tmp_path, values, settings, message):
    """Else everybody would be reported as not found."""
    pq.write_table(pa.table({"user_id": ["ann"], "h": values}), tmp_path / "users.parquet")
    with pytest.raises(InputError, match=message) as caught:
        match("Email", DropList(table=str(tmp_path / "users.parquet"), **settings), [digest("a")], AWS)
    assert "ann@x.org" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"email": {"table": "t"}}, "either hash or value"),
        ({"email": {"table": "t", "hash": "h", "value": "v"}}, "either hash or value"),
        ({"email": {"table": "t", "value": "v", "keyed": True}}, "keyed is for a column of hashes"),
        ({"ndz": {"table": "t", "value": "v"}}, r"drop\.ndz\.value: got 'v'"),
        ({"email": {"hash": "h"}}, r"drop\.email\.table: missing"),
        ({"several": "guess"}, r"drop\.several: got 'guess'"),
    ],
)
def test_the_section_names_what_is_wrong_with_it(section, message):
    with pytest.raises(InputError, match=message):
        parse_config({"interactions": "a", "output": "b", "drop": section})
