"""A call names its method; mypy knows its arguments and its result."""

import pickle
import shutil
import subprocess
import sys

import pytest
from fake_host import FakeHost

from unlearnrec.workers import calling, calls

WRONG = """
from calls import Call, calling
class Host:
    def best(self, k: int, *, batch: int) -> list[str]: ...
good: Call[list[str]] = calling(Host.best, 10, batch=256)
calling(Host.best, 10)
calling(Host.best, "10", batch=256)
calling(Host.best, 10, batches=256)
other: Call[list[int]] = calling(Host.best, 10, batch=256)
"""


def test_a_call_runs_its_method_on_a_host_and_pickles():
    host = FakeHost(1, 2)
    call = pickle.loads(pickle.dumps(calling(FakeHost.load, state="x")))
    assert (call.method, call.args, call.kwargs) == ("load", (), {"state": "x"})
    assert call.on(host) == "x" and calling(FakeHost.where).on(host) == (1, "x", 0)


def test_mypy_refuses_a_call_with_wrong_arguments_or_result(tmp_path):
    pytest.importorskip("mypy")
    shutil.copy(calls.__file__, tmp_path / "calls.py")  # alone: what the package imports would take mypy a minute
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--python-version", "3.11", "wrong.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    lines = {int(line.split(":")[1]) for line in run.stdout.splitlines() if line.startswith("wrong.py:")}
    assert {line for line in lines if line > 3} >= {6, 7, 8, 9} and 5 not in lines, run.stdout + run.stderr
