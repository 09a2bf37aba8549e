"""What counts as worse than the committed ratios, and what `bench regression` does about it."""

import json
from pathlib import Path

import pytest

from unlearnrec.benchmarks import regression
from unlearnrec.benchmarks.ratios.compare import BETTER, NEW, SAME, WORSE, Measure, Measured, compare, read_baseline
from unlearnrec.benchmarks.ratios.measures import GROUPS, Group, ranking
from unlearnrec.partitioning.errors import InputError

SECONDS = Measure("step / sums", 0.15)
QUALITY = Measure("recall", 0.01, higher_is_better=True)


def test_ratios_are_medians_of_pairs():
    found = Measured.of([2.0, 1.0, 100.0, 1.5, 1.5])
    assert (found.value, found.pairs) == (1.5, 5) and found.spread == pytest.approx(0.5 / 2 / 1.5)


@pytest.mark.parametrize(
    ("measure", "now", "committed", "verdict"),
    [
        (SECONDS, 1.2, 1.0, WORSE),
        (SECONDS, 1.1, 1.0, SAME),
        (SECONDS, 0.8, 1.0, BETTER),
        (SECONDS, 1.2, None, NEW),
        (QUALITY, 0.98, 1.0, WORSE),
        (QUALITY, 1.0, 1.0, SAME),
        (QUALITY, 1.02, 1.0, BETTER),
    ],
)
def test_worse_is_beyond_the_tolerance_in_the_measures_own_direction(measure, now, committed, verdict):
    values = {} if committed is None else {measure.name: committed}
    [found] = compare([measure], {measure.name: Measured(now, 0.01, 5)}, values)
    assert found.verdict == verdict == found.row()[""]


def test_a_loss_must_be_seen_twice():
    taken = [{"step / sums": [1.5], "recall": [1.0]}, {"step / sums": [1.05], "recall": [0.999]}]
    group = Group("steps", (SECONDS, QUALITY), lambda scale: taken.pop(0))
    told: list[str] = []
    found = regression.checked(group, 1.0, {"step / sums": 1.0, "recall": 1.0}, told.append)
    assert [one.verdict for one in found] == [SAME, SAME] and [one.now.value for one in found] == [1.05, 1.0]
    assert "measured once more" in told[0] and not taken
    lost = Group("steps", (SECONDS,), lambda scale: {"step / sums": [1.5]})
    [one] = regression.checked(lost, 1.0, {"step / sums": 1.0}, told.append)
    assert one.verdict == WORSE


def test_the_exit_code_says_whether_something_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ratios = {"step / sums": [1.0, 1.1, 1.2]}
    monkeypatch.setattr(regression, "GROUPS", (Group("steps", (SECONDS,), lambda scale: ratios),))
    file = tmp_path / "made" / "baseline.json"
    with pytest.raises(SystemExit) as stopped:
        regression.main(["--baseline", str(file)])
    assert stopped.value.code == 2 and "--write makes it" in capsys.readouterr().err
    regression.main(["--baseline", str(file), "--write"])
    regression.main(["--baseline", str(file), "--json"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said == {"worse": [], "measures": {"step / sums": {"now": 1.1, "committed": 1.1}}}
    ratios["step / sums"] = [1.4]
    with pytest.raises(SystemExit) as stopped:
        regression.main(["--baseline", str(file)])
    shown = capsys.readouterr().out
    assert stopped.value.code == 1 and "| +27.3% | +15% |" in shown and "1 worse than allowed" in shown


def test_a_wrong_baseline_is_named(tmp_path: Path):
    file = tmp_path / "baseline.json"
    file.write_text('{"measures": []}')
    with pytest.raises(InputError, match=r"baseline\.json: not a file that --write has made"):
        read_baseline(file)


COMMITTED = Path(regression.__file__).parent / "results" / "regression.json"


def test_the_committed_baseline_has_every_measure():
    names = [measure.name for group in GROUPS for measure in group.measures]
    assert len(set(names)) == len(names)
    committed, _ = read_baseline(COMMITTED)
    assert set(committed) == set(names)


def test_a_group_finds_its_measures():
    group = next(group for group in GROUPS if group.name == "ranking")
    assert group.take is ranking
    found = group.take(0.02)
    assert set(found) == {measure.name for measure in group.measures} and all(
        min(ratios) > 0 for ratios in found.values()
    )
