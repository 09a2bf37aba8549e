"""The command line: exit codes, what stands on stdout, how fast it answers."""

import io
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
from small_output import small_config, write_interactions

import unlearnrec.cluster
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.cli.output import NOT_CHECKED, print_result
from unlearnrec.cluster.config.schema import to_yaml
from unlearnrec.cluster.output import ready
from unlearnrec.cluster.reporting.progress import PlainProgress
from unlearnrec.partitioning.errors import InputError

PLACES = ["interactions=in.parquet", "output=out"]


@pytest.fixture
def pipeline(monkeypatch):
    """A stand-in for the commands' bodies that records its calls; set `.answer` to a result or an exception."""
    fake = types.SimpleNamespace(answer={"epochs": 3}, calls=[])

    def body(name):
        def call(*args, **kwargs):
            fake.calls.append((name, args, kwargs))
            print("a library that talks on stdout")
            if isinstance(fake.answer, BaseException):
                raise fake.answer
            return fake.answer

        return call

    names = ("ingest", "train", "pretrain", "forget", "status", "evaluate", "export", "purge", "residue", "lift")
    names += ("approve", "cancel", "rollback")
    for name in names:
        setattr(fake, name, body(name))
    monkeypatch.setitem(sys.modules, "unlearnrec.cluster.pipeline", fake)
    monkeypatch.setattr(unlearnrec.cluster, "pipeline", fake, raising=False)
    for check in ("check_ingested", "check_trained"):
        monkeypatch.setattr(ready, check, lambda *_: None)
    monkeypatch.setattr(ready, "check_named", lambda *_: None)
    return fake


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"epochs": 3}, 0),
        ({"epochs": 3, "passed": True}, 0),
        ({"epochs": 3, "passed": False}, 3),
        ({"epochs": 3, "passed": False, "ok": False}, 1),
        (InputError("users.csv: no column user_id"), 2),
        (RuntimeError("rank 1 is gone"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_exit_codes_and_json_on_the_last_line(pipeline, capsys, answer, code):
    pipeline.answer = answer
    assert run(["train", "--json", *PLACES]) == code
    out, err = capsys.readouterr()
    last = json.loads(out.splitlines()[-1])
    assert out.count("\n") == 1 and "talks on stdout" in err
    if isinstance(answer, dict):
        assert last == answer
    else:
        assert str(answer) in last["error"] and str(answer) in err and "Traceback" not in err


def test_traceback_only_on_demand(pipeline, capsys, monkeypatch):
    pipeline.answer = RuntimeError("rank 1 is gone")
    assert run(["train", "--debug", *PLACES]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("UNLEARNREC_DEBUG", "1")
    assert run(["train", *PLACES]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_overrides_stand_after_the_options(pipeline, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("interactions: a\noutput: b\n")
    assert run(["train", "--config", str(path), "--resume", "--without", "x", "--without", "y", "train.epochs=7"]) == 0
    [(name, (config,), kwargs)] = pipeline.calls
    assert (name, config.train.epochs, kwargs["resume"], kwargs["without"]) == ("train", 7, True, ["x", "y"])


def test_forget_passes_its_options_on(pipeline):
    assert run(["forget", "--users", "1,2", "--dry-run", "--request-id", "r1", "--requester", "Ann", *PLACES]) == 0
    [(_, _, kwargs)] = pipeline.calls
    kwargs.pop("progress")
    assert kwargs == {
        "users": "1,2",
        "items": None,
        "interactions": None,
        "requests": None,
        "dry_run": True,
        "request_id": "r1",
        "results": None,
        "requester": "Ann",
    }


def test_approve_and_cancel_take_the_id_first(pipeline):
    assert run(["approve", "r1", "--by", "Bob", *PLACES]) == run(["cancel", "r1", *PLACES]) == 0
    [approved, cancelled] = pipeline.calls
    assert approved[0] == "approve" and approved[1][1:] == ("r1",) and approved[2] == {"by": "Bob"}
    assert cancelled[0] == "cancel" and cancelled[1][1:] == ("r1",)


def test_status_takes_the_id_first(pipeline):
    assert run(["status", "r1", *PLACES]) == 0
    [(name, (config, request_id), _)] = pipeline.calls
    assert (name, config.output, request_id) == ("status", "out", "r1")


def test_status_without_an_id_and_rollback(pipeline, capsys):
    rows = [{"request_id": "r1", "age_hours": 721.0, "overdue": True}]
    pipeline.answer = {"open_requests": 1, "requests": rows}
    assert run(["status", *PLACES]) == 0
    assert pipeline.calls[0][1][1:] == (None,)
    lines = capsys.readouterr().out.splitlines()
    expected = [["request_id", "age_hours", "overdue"], ["r1", "721", "True"], ["open_requests", "1"]]
    assert [line.split() for line in lines[-3:]] == expected
    pipeline.answer = {"open_requests": 0, "requests": []}
    assert run(["status", *PLACES]) == run(["rollback", "--to", "3", *PLACES]) == 0
    assert pipeline.calls[2][0] == "rollback" and pipeline.calls[2][2] == {"to": 3}
    assert run(["rollback", *PLACES]) == 2


def test_purge_residue_and_lift_pass_their_options_on(pipeline):
    for options in ([], ["--now"], ["--truncate-log"]):
        assert run(["purge", *options, *PLACES]) == 0
    assert run(["residue", *PLACES]) == run(["residue", "--request", "r", *PLACES]) == 0
    assert [arguments for name, arguments, _ in pipeline.calls if name == "residue"][1][-1] == "r"
    assert run(["lift", "--users", "1,2", "--interactions", "x.csv", *PLACES]) == 0
    told = [(name, {k: v for k, v in kwargs.items() if k != "progress"}) for name, _, kwargs in pipeline.calls]
    lifted = {"users": "1,2", "items": None, "interactions": "x.csv"}
    assert told == [
        ("purge", {"now": False, "truncate_log": False}),
        ("purge", {"now": True, "truncate_log": False}),
        ("purge", {"now": False, "truncate_log": True}),
        ("residue", {}),
        ("residue", {}),
        ("lift", lifted),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nope"],
        ["train", "--bogus"],
        ["train"],
        ["train", "train.epochs=0", *PLACES],
        ["forget", *PLACES],
        ["lift", *PLACES],
        ["export", *PLACES],
        ["status"],
        ["quickstart", "--partitions", "0"],
        ["bench", "nope"],
        ["train", "--config", "nowhere.yaml"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_exit_code_2_in_one_readable_message(arguments, capsys):
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err and "Traceback" not in err


@pytest.mark.parametrize("arguments", [["nope", "--json"], ["train", "--json"], ["forget", "--json", *PLACES]])
def test_bad_usage_with_json_is_one_object(arguments, capsys):
    assert run(arguments) == 2
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])) == {"error"}


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from unlearnrec.cluster.cli.app import run; code = run(['--help']);"
        "heavy = {'torch', 'ray', 'numpy', 'pyarrow', 'dgl', 'pydantic'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "unlearnrec", "train", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--without" in done.stdout


@pytest.fixture
def as_a_module(tmp_path):
    """What `python -m unlearnrec` does after some code, on a Python that has nothing installed, as in a job."""
    # The clone's folder may have any name: a job's copy of the package goes by its own.
    (tmp_path / "unlearnrec").symlink_to(Path(unlearnrec.__file__).parent, target_is_directory=True)

    def run_it(code):
        code += f"\nimport runpy, sys\nsys.path.insert(0, {str(tmp_path)!r})"
        code += "\nrunpy.run_module('unlearnrec', run_name='__main__')"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
        return done.returncode, done.stderr

    return run_it


def test_a_python_without_the_dependencies_is_named(as_a_module):
    code, said = as_a_module("")
    assert code == 2 and said.startswith(f"error: {sys.executable} (Python 3.") and "has no module" in said, said
    assert "`ray start`" in said and said.count("\n") == 1


def test_a_python_that_is_too_old_is_named(as_a_module):
    code, said = as_a_module("import sys; sys.version_info = (3, 9, 18)")
    assert code == 2 and "(Python 3.9) is too old" in said and "3.11 or newer" in said, said


def test_plain_progress_is_sparse(capsys):
    with PlainProgress(sys.stderr).task("train", 1000) as task:
        for _ in range(1000):
            task.advance(loss=0.25)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("train: 1000/1000 in") and lines[0].endswith("loss=0.25")


def test_a_comparison_is_printed_as_a_table() -> None:
    printed = io.StringIO()
    models = [{"model": "original", "recall@20": 0.123456}, {"model": "cut", "recall@20": 0.1}]
    print_result({"speedup": 2.0, "models": models, "curve": [{"epoch": 1}]}, False, printed)
    assert printed.getvalue() == ("  model     recall@20\n  original  0.1235\n  cut       0.1\nspeedup  2\n")


@pytest.mark.parametrize(("status", "told"), [("not_checked", True), ("passed", False)])
def test_a_gate_that_could_not_tell_reassures_nobody(status, told) -> None:
    printed = io.StringIO()
    measures = {"user_gap_closed": {"left_out": "fewer than 10 forgotten pairs (3)"}}
    gate = {"status": status, "measures": measures, "bounds": {"user_gap_closed": 0.5}, "missed": []}
    print_result({"gate": gate, "needs_retrain": False}, False, printed)
    lines = printed.getvalue().splitlines()
    assert lines[0] == f"gate: {status.replace('_', ' ')}" and "fewer than 10 forgotten pairs (3)" in lines[2]
    assert (NOT_CHECKED in lines) is told


# ---- the real pipeline, on places that will not do --------------------------------------------------------------------

COMMANDS = [["status"], ["status", "r"], ["status", "--verify"], ["purge"], ["ingest"], ["forget", "--users", "ann"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_output_that_is_a_file_or_in_no_bucket_is_bad_input(tmp_path, capsys, command, s3_server):
    (tmp_path / "file").write_text("")
    events = write_interactions(tmp_path / "events.parquet")
    places = [("file", "is a file"), ("file/below", "is a file"), ("s3://nobodys/run", "is no such bucket")]
    for output, why in places[: 2 if "--verify" in command else 3]:  # an unreadable log is its finding
        place = output if "://" in output else str(tmp_path / output)
        storage = {"endpoint_url": s3_server.endpoint_url, "region": s3_server.region}
        (tmp_path / "c.yaml").write_text(to_yaml(small_config(events, place, storage=storage)))
        assert run([*command, "--config", str(tmp_path / "c.yaml")]) == 2
        assert why in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml", "events.parquet", "file"]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_request_to_a_mistyped_output_leaves_nothing_there(tmp_path, dry):
    config = to_yaml(small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "typo")))
    (tmp_path / "c.yaml").write_text(config)
    for more in ([], ["--request-id", "r"]):
        assert run(["forget", "--users", "ann", *dry, *more, "--config", str(tmp_path / "c.yaml")]) == 2
    assert not (tmp_path / "typo").exists()


def test_what_is_nested_is_shown_in_words() -> None:
    printed = io.StringIO()
    answer = {
        "by_halo": {"pull": 3, "cover": 0.25},
        "affected_partitions": [0, 1],
        "columns": {},
        "left": [],
        "seconds": None,
    }
    print_result(answer, False, printed)
    assert [line.split(maxsplit=1)[1:] for line in printed.getvalue().splitlines()] == [
        ["pull 3, cover 0.25"],
        ["[0, 1]"],
        [],
        ["none"],
        ["-"],
    ]


def test_what_evaluate_and_train_say_is_shown_as_tables() -> None:
    printed = io.StringIO()
    measures = {"recall@20": 0.125, "ndcg@20": 0.5}
    answer = {
        **measures,
        "by_user_activity": [{"interactions": [1, 9], "users": 3, "recall@20": 0.25}],
        "baselines": {"popularity": measures, "item_knn": {"skipped": "too much work"}},
        "standard_errors": measures,
        "validation": {"epochs": 7, "ndcg@20": 0.5, "curve": [{"epoch": 1.0}]},
        "tune": {
            "trials": [
                {"settings": {"train.learning_rate": 0.01}, "ndcg@20": 0.5, "epochs": 7},
                {"settings": {"train.learning_rate": 9.0}, "error": "it diverged"},
            ],
            "best": {},
        },
    }
    print_result(answer, False, printed)
    lines = [line.split() for line in printed.getvalue().splitlines()]
    for wanted in (
        ["interactions", "users", "recall@20"],
        ["1,", "9", "3", "0.25"],
        ["popularity", "0.125", "0.5"],
        ["item_knn", "too", "much", "work"],
        ["epochs", "ndcg@20"],
        ["0.01", "0.5", "7"],
        ["9", "it", "diverged"],
        ["recall@20", "0.125"],
    ):
        assert wanted in lines, wanted
    assert "curve" not in printed.getvalue() and "{" not in printed.getvalue()
