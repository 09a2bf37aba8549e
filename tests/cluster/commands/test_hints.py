"""What a command says of a mistake fits the mistake."""

import io
from types import SimpleNamespace

import pytest
from small_output import small_config, write_interactions

from unlearnrec.cluster.cli.output import print_result
from unlearnrec.cluster.commands import ingest as ingest_command
from unlearnrec.cluster.models import training
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.cluster.requests.request import parse_request
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.lake import read_ids
from unlearnrec.partitioning.storage import StorageOptions, Store


class Notes(Progress):
    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


@pytest.mark.parametrize("option", ["users", "items", "interactions", "requests"])
def test_a_missing_file_of_a_request_is_not_told_to_check_the_configuration(tmp_path, option):
    gone = str(tmp_path / "gone.csv")
    given = dict.fromkeys(("users", "items", "interactions", "requests")) | {option: gone}
    with pytest.raises(InputError, match="no such file") as error:
        parse_request(**given, request_id=None, options=StorageOptions())
    assert gone in str(error.value) and "`interactions`" not in str(error.value)


def test_csv_under_another_name_is_told_to_take_the_name(tmp_path):
    (tmp_path / "ids").write_text("user_id\n1\n")
    with pytest.raises(InputError, match=r"ends with \.csv") as error:
        read_ids(str(tmp_path / "ids"), "user_id", StorageOptions())
    assert "Write it again" not in str(error.value)


def test_csv_under_the_name_of_parquet_is_told_so(tmp_path):
    (tmp_path / "ids.parquet").write_text("user_id,item_id\n1,2\n")
    with pytest.raises(InputError, match=r"It is a text\. A CSV file needs a name that ends with \.csv") as error:
        read_ids(str(tmp_path / "ids.parquet"), "user_id", StorageOptions())
    assert ".." not in str(error.value) and "Write it again" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_no_matter_of_credentials(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written") as error:
        Store(str(tmp_path / "file" / "below")).check()
    assert "credentials" not in str(error.value)


def test_doctor_prints_its_checks_and_nothing_behind_them():
    out = io.StringIO()
    print_result({"ok": True, "checks": [{"name": "ray", "ok": True, "detail": "imports"}]}, False, out)
    assert out.getvalue() == "ok    ray: imports\n"


@pytest.mark.parametrize(("cpus", "told"), [(1, True), (2, False)])
def test_ingest_says_that_there_are_fewer_cpus(tmp_path, monkeypatch, cpus, told):
    monkeypatch.setattr(ingest_command, "usable_cpus", lambda: cpus)
    notes = Notes()
    config = small_config(write_interactions(tmp_path / "t.parquet"), str(tmp_path / "out"))
    ingest_command.ingest(config, progress=notes)
    assert any("want 2 CPUs, and this machine has 1" in text for text in notes.told) is told


@pytest.mark.parametrize("resume", [True, False])
def test_resume_with_nothing_to_resume_says_so(tmp_path, resume):
    session = SimpleNamespace(store=Store(str(tmp_path)), save_config=lambda: None, config=None)
    notes = Notes()
    training.prepare_run(session, SimpleNamespace(folder="checkpoints/x"), resume, notes)
    assert notes.told == ([training.NOTHING_TO_RESUME] if resume else [])
