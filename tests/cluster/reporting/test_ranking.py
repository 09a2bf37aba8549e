"""How far a ranking is, from what the workers say of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from unlearnrec.cluster.reporting.progress import Progress, Task
from unlearnrec.cluster.reporting.ranking import ranking_progress


class Counted(Task):
    def __init__(self) -> None:
        self.done = 0

    def advance(self, n: int = 1, **_: object) -> None:
        self.done += n


class Recorded(Progress):
    def __init__(self) -> None:
        self.tasks: dict[str, tuple[int | None, Counted]] = {}

    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Task]:
        counted = Counted()
        self.tasks[name] = total, counted
        yield counted


def test_users_of_all_workers_are_counted_for_the_model_and_each_baseline():
    progress = Recorded()
    with ranking_progress(progress) as on_progress:
        on_progress([{"phase": "load"}, {"phase": "rank"}])
        assert not progress.tasks
        on_progress([{"phase": "rank", "what": "model", "done": 20, "total": 50}, {"phase": "rank"}])
        on_progress([{"phase": "rank", "what": "model", "done": done, "total": 50} for done in (40, 30)])
        assert progress.tasks["rank users: model"][1].done == 70
        # One of them is further: what it had said of the model still counts.
        on_progress([{"phase": "rank", "what": what, "done": 45, "total": 50} for what in ("model", "popularity")])
        assert {name: (total, task.done) for name, (total, task) in progress.tasks.items()} == {
            "rank users: model": (100, 75),
            "rank users: popularity": (100, 45),
        }
    assert [task.done for _, task in progress.tasks.values()] == [100, 100]
