"""What `Session.forget` promises: accepted and durable at once, carried out when somebody waits. No processes."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from fake_workers import FakeWorkers
from small_output import (
    commit_encoder,
    commit_forget,
    commit_train,
    copied,
    item_name,
    small_config,
    user_name,
    write_interactions,
)

import unlearnrec
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config
from unlearnrec.cluster.lifecycle.refusals import Held, TakenId
from unlearnrec.cluster.log.log import LogConflict
from unlearnrec.cluster.output.session import Session as OpenOutput
from unlearnrec.partitioning.errors import InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("made")
    config = small_config(write_interactions(folder / "t.parquet"), str(folder / "output"))
    pipeline.ingest(config)
    commit_train(config)
    commit_encoder(config)
    return config


def session_on(made: Config, folder: Path, **sections: Any) -> unlearnrec.Session:
    """A session on a copy of the output, with workers that are no processes."""
    session = unlearnrec.Session(copied(made, folder), progress=False, **sections)
    fake = FakeWorkers(OpenOutput(session.config).store)
    session._workers = lambda: nullcontext(fake)  # type: ignore[method-assign]
    return session


def kinds(session: unlearnrec.Session) -> list[str]:
    return [record.kind for record in OpenOutput(session.config).log.records()]


def test_a_request_is_accepted_before_it_is_carried_out(made: Config, tmp_path: Path):
    with session_on(made, tmp_path) as session:
        request = session.forget(users=[user_name(1)], request_id="r", requester="ann")
        assert (request.status, request.done, kinds(session)[-1]) == ("accepted", False, "accepted")
        assert "not carried out yet" in repr(request)
        assert session.versions()[-1].version == 2
        done = request.wait()
        assert (done.status, done.version, done.removed_interactions, done.deleted_users) == ("committed", 3, 4, 1)
        assert (request.status, request.done, session.status("r").requester) == ("committed", True, "ann")
        assert request.wait() == done
        assert session.versions()[-1].requests == ("r",)


def test_requests_that_wait_together_become_one_version(made: Config, tmp_path: Path):
    with session_on(made, tmp_path) as session:
        requests = [session.forget(users=[user_name(n)]) for n in (1, 2)]
        assert [request.wait().version for request in requests] == [3, 3]
        assert requests[0].wait().batch_requests == 2


def test_the_same_request_again_is_the_same_request(made: Config, tmp_path: Path):
    with session_on(made, tmp_path) as session:
        first, again = (session.forget(users=[user_name(1)]) for _ in range(2))
        assert first.request_id == again.request_id
        assert first.wait() == again.wait()
        later = session.forget(users=[user_name(1)])
        assert (later.done, later.wait().repeated, later.wait().version) == (True, True, 3)
        with pytest.raises(TakenId):
            session.forget(users=[user_name(2)], request_id=first.request_id)


def test_the_end_of_the_block_carries_out_what_nobody_waited_for(made: Config, tmp_path: Path):
    with session_on(made, tmp_path) as session:
        request = session.forget(users=[user_name(1)])
    assert (request.status, request.wait().version) == ("committed", 3)


def test_an_exception_leaves_requests_accepted_and_says_so(made: Config, tmp_path: Path):
    with (
        pytest.warns(UserWarning, match="accepted and not carried out: r. Nothing of them is forgotten yet"),
        pytest.raises(KeyboardInterrupt),
        session_on(made, tmp_path) as session,
    ):
        request = session.forget(users=[user_name(1)], request_id="r")
        raise KeyboardInterrupt
    assert request.status == "accepted"
    with pytest.raises(unlearnrec.SessionClosed, match=r"nothing is\s+forgotten yet"):
        request.wait()
    # Another process finds it in the log, and this handle then has its answer.
    answer = pipeline.forget(
        session.config, users=user_name(1), request_id="r", group=FakeWorkers(OpenOutput(session.config).store)
    )
    assert (request.wait().version, answer["version"]) == (3, 3)


def test_a_closed_session_does_nothing(made: Config, tmp_path: Path):
    session = session_on(made, tmp_path)
    session.close()
    session.close()
    for call in (session.train, session.ingest, session.embeddings, lambda: session.recommend([1])):
        with pytest.raises(unlearnrec.SessionClosed, match="open another one"):
            call()
    with pytest.raises(unlearnrec.SessionClosed):
        session.forget(users=[user_name(1)])
    with pytest.raises(unlearnrec.SessionClosed), session:
        pass
    assert "accepted" not in kinds(session)
    assert session.status().open_requests == 0, "reading goes on"


def test_a_grace_window_is_waited_for_or_left(made: Config, tmp_path: Path):
    long = session_on(made, tmp_path / "long", forget={"grace_seconds": 3600})
    with pytest.warns(UserWarning, match="not carried out: r"), long:
        request = long.forget(users=[user_name(1)], request_id="r")
        with pytest.raises(TimeoutError, match="is accepted and waits until"):
            request.wait(timeout=0.2)
    assert request.status == "accepted"
    short = session_on(made, tmp_path / "short", forget={"grace_seconds": 1})
    with short:
        started = time.monotonic()
        assert short.forget(users=[user_name(1)]).wait().status == "committed"
        assert time.monotonic() - started > 0.9


def test_a_cancelled_request_is_told_as_such(made: Config, tmp_path: Path):
    with session_on(made, tmp_path, forget={"grace_seconds": 3600}) as session:
        request = session.forget(users=[user_name(1)])
        assert session.cancel(request.request_id).status == "cancelled"
        assert (request.done, request.wait().status, request.wait().version) == (True, "cancelled", None)


def test_a_large_request_is_held_and_the_others_go_on(made: Config, tmp_path: Path):
    with session_on(made, tmp_path, forget={"max_share": 0.1}) as session:
        large = session.forget(users=[user_name(n) for n in range(4)], requester="ann")
        small = session.forget(users=[user_name(5)])
        assert small.wait().version == 3
        with pytest.raises(Held, match=r"nothing was deleted"):
            large.wait()
        assert (large.status, "held until somebody approves" in repr(large)) == ("held", True)
        with pytest.raises(InputError, match="asked for it: somebody else"):
            session.approve(large.request_id, by="Ann")
        session.approve(large.request_id, by="ben")
        assert large.wait().version == 4


def test_another_process_may_be_faster(made: Config, tmp_path: Path):
    with session_on(made, tmp_path) as session:
        request = session.forget(users=[user_name(1)], request_id="r")
        commit_forget(session.config, user_name(1), "r")  # as a service that found it in the log
        assert (request.wait().version, session.versions()[-1].version) == (3, 3)


def test_an_overtaken_commit_is_tried_again(made: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from unlearnrec.cluster.api import requests

    real, calls = requests.carry_out, []

    def overtaken(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            commit_forget(session.config, user_name(2), "other")
            raise LogConflict("overtaken")
        return real(*arguments, **more)

    monkeypatch.setattr(requests, "carry_out", overtaken)
    with session_on(made, tmp_path) as session:
        assert session.forget(users=[user_name(1)]).wait().version == 4
    assert len(calls) == 2


def test_a_request_that_fails_does_not_take_the_others_with_it(
    made: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from unlearnrec.cluster.api import requests

    real = requests.carry_out

    def fails(output: Any, batch: Any, *more: Any) -> Any:
        if any(request.request_id == "bad" for request in batch):
            raise RuntimeError("out of order")
        return real(output, batch, *more)

    monkeypatch.setattr(requests, "carry_out", fails)
    with session_on(made, tmp_path) as session:
        bad = session.forget(users=[user_name(2)], request_id="bad")
        good = session.forget(users=[user_name(1)])
        assert good.wait().version == 3
        with pytest.raises(RuntimeError, match="out of order"):
            bad.wait()
        assert bad.status == "accepted"
        monkeypatch.undo()
        assert bad.wait().version == 4


def test_what_the_output_cannot_forget_is_not_accepted(tmp_path: Path):
    config = small_config(write_interactions(tmp_path / "t.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    session = unlearnrec.Session(config, progress=False)
    with pytest.raises(InputError, match="no Influence Encoder"):
        session.forget(users=[user_name(1)])
    assert "accepted" not in kinds(session)


def test_a_preview_writes_nothing(made: Config, tmp_path: Path):
    session = session_on(made, tmp_path)
    before = OpenOutput(session.config).store.details()
    found = session.preview(users=[user_name(1), "nobody"])
    assert (found.removed_interactions, found.unknown_ids, found.needs_approval) == (4, 1, False)
    assert OpenOutput(session.config).store.details() == before


def test_each_row_has_a_result(made: Config, tmp_path: Path):
    rows = [
        {"user_id": user_name(1)},
        {"user_id": "nobody"},
        {"user_id": user_name(2), "item_id": item_name(1)},
        {"user_id": user_name(3), "since": 5, "until": 1},
    ]
    with session_on(made, tmp_path) as session:
        preview = session.preview(requests=rows)
        assert preview.results is not None
        assert preview.results["result"].to_pylist() == ["deleted", "not_found", "deleted", "invalid"]
        assert preview.results["removed_interactions"].to_pylist() == [4, 0, 1, 0]
        assert preview.rows == {"deleted": 2, "not_found": 1, "already_gone": 0, "invalid": 1}
        request = session.forget(requests=rows, request_id="r")
        with pytest.raises(InputError, match=r"request r is not carried out yet. Call `wait\(\)` first"):
            request.results()
        done = request.wait()
        assert (done.rows, done.matched) == (preview.rows, True)
        assert request.results() == preview.results
        assert session.forget(requests=rows, request_id="r").results() == preview.results
        of_users = session.forget(users=[user_name(4)])
        of_users.wait()
        with pytest.raises(InputError, match="only rows that are given as `requests` have results"):
            of_users.results()
        assert session.preview(users=[user_name(5)]).results is None
        session.purge()
        with pytest.raises(InputError, match="a purge has removed what would tell"):
            request.results()
