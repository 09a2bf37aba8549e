"""Commands without workers end at each of their writes and removals (SIGKILL, a full disk, a lost answer), and are repeated.

Those with workers: test_failpoints.py.
"""

import itertools
import json
import shutil
import signal

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from forked import command
from lanes import LONG
from small_output import accept, commit_forget, commit_train, copied, small_config, user_name, write_interactions

from unlearnrec.benchmarks.chaos_checker import pairs_of
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import to_yaml
from unlearnrec.cluster.layout import WATCH_CURSOR
from unlearnrec.cluster.lifecycle.acceptance import append_step
from unlearnrec.cluster.log.records import HELD
from unlearnrec.cluster.output.ingests import lake_graph
from unlearnrec.cluster.output.leftovers import UNNAMED, leftovers
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.requests.request import is_purged

USERS = ["ann", "bob", "cy", "dee", "ed"]
COMMANDS = {
    "ingest": ["ingest"],
    "rollback": ["rollback", "--to", "3"],
    "approve": ["approve", "held", "--by", "Bob"],
    "cancel": ["cancel", "held"],
    "purge": ["purge", "--now"],
    "purge-log": ["purge", "--now", "--truncate-log"],
    "watch": ["watch", "--once"],
}
IN_THE_LONG_LANE = {"ingest", "purge"}
"""Each takes half a minute and more; `purge-log` does all that `purge` does."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """An output with four versions, a request that was carried out, one that is open and one that is held. Not to be
    changed."""
    folder = tmp_path_factory.mktemp("prepared")
    config = small_config(write_interactions(folder / "t.parquet"), str(folder / "output"))
    pipeline.ingest(config)
    commit_train(config)
    commit_forget(config, user_name(1), "done")
    for seed in (1, 2):
        commit_train(config, seed)
    for number, name in enumerate(("open", "held")):
        accept(config, user_name(2 + number), name)
    append_step(Session(config), "held", HELD, {"share": 0.5, "max_share": 0.2})
    Session(config).store.write("requests/never-accepted.json", b"{}")
    table = str(folder / "watched")
    write_deltalake(table, pa.table({"user_id": USERS, "item_id": ["x"] * len(USERS)}))
    config = config.model_copy(update={"watch": config.watch.model_copy(update={"table": table, "max_rows": 2})})
    pipeline.watch(config, once=True)
    for condition in ("user_id in ('ann', 'bob', 'cy')", "user_id = 'dee'"):
        DeltaTable(table).delete(condition)
    write_deltalake(table, pa.table({"user_id": ["ed"], "item_id": ["y"]}), mode="append")
    return config


def start(config, folder):
    """A copy of the output under `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    config = copied(config, folder)
    (folder / "run.yaml").write_text(to_yaml(config), encoding="utf-8")
    return config


def failed_checks(config):
    return {c["name"] for c in pipeline.verify(config)["checks"] if not c["ok"]}


def look(config):
    """What an output comes to, whatever its files are called."""
    session = Session(config)
    store, ledger, version = session.store, session.ledger(), session.whole_version()
    contents = {name: json.loads(store.read(name)) for name in store.list("requests") if name.endswith(".json")}
    return {
        "reason": version.reason,
        "model": [version.files[name].sha256 for name in version.model.embeddings],
        "pairs": pairs_of(store, version.graph),
        "to train on": pairs_of(store, lake_graph(session)),
        "requests": {name: (ticket.state, ticket.approved_by) for name, ticket in ledger.tickets.items()},
        "purged": {name for name, content in contents.items() if is_purged(content)},
        "left over": {item.kind for item in leftovers(session)} - {UNNAMED},
        "purge under way": ledger.purging,
        "named": sorted(content["body"] for content in contents.values() if "body" in content),
        "cursor": json.loads(store.read(WATCH_CURSOR))["position"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(x, marks=[LONG] if x in IN_THE_LONG_LANE else []) for x in COMMANDS])
def test_a_command_that_ends_anywhere_leaves_an_output_on_which_it_is_done_when_it_is_repeated(
    prepared, tmp_path, name
):
    arguments = [*COMMANDS[name], "--config", str(tmp_path / "run" / "run.yaml")]
    log, mark = str(tmp_path / "log"), tmp_path / "mark"
    config = start(prepared, tmp_path / "run")
    before, unreported = look(config), failed_checks(config)
    assert command(*arguments, log=log) == 0, (tmp_path / "log").read_text()
    done = look(config)
    assert done != before or name == "ingest"

    def end_at(number, action, moment):
        """Whether it did, and so had not come to its own end."""
        config = start(prepared, tmp_path / "run")
        mark.unlink(missing_ok=True)
        if action == "full":
            mark.touch()
        code = command(*arguments, log=log, points=f"{action} * {moment} {number} {mark}")
        what = f"{action} {moment} write {number}: exit code {code}, {(tmp_path / 'log').read_text()}"
        if code == 0:
            return False
        assert code in ((-signal.SIGKILL,) if action == "kill" else (1, 2)), what
        assert "Traceback" not in what
        assert failed_checks(config) <= unreported, what
        after = look(config)
        assert all(after[key] in (before[key], done[key]) for key in ("pairs", "to train on")), what
        if name == "watch":  # it accepts one after the other
            assert before["requests"].items() <= after["requests"].items() <= done["requests"].items(), what
        else:
            assert after["requests"] in (before["requests"], done["requests"]), what
        code = command(*arguments, log=log)
        assert code == 0, f"{what}; again: {code}, {(tmp_path / 'log').read_text()}"
        assert look(config) == done, what
        assert failed_checks(config) <= unreported, what
        return True

    # Behind a write is before the next, for a process that dies; not for one that goes on.
    writes = next(number for number in itertools.count() if not end_at(number + 1, "kill", "before"))
    assert writes >= {"approve": 1, "cancel": 1, "rollback": 2}.get(name, 5)
    assert all(end_at(number, "full", "before") for number in range(1, writes + 1))
    assert all(end_at(number, "full", "after") for number in range(1, writes))
    end_at(writes, "full", "after")  # one of `ingest`, its trial of the store, never comes behind its write
