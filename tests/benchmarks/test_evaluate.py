"""`bench evaluate` measures each way of ranking, and writes what it prints."""

from pathlib import Path

import pytest

from unlearnrec.benchmarks import evaluate


def test_each_way_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "evaluate.md"
    sizes = ["--users", "300", "--items", "900", "--size", "8", "--repeats", "1", "--threads", "1"]
    evaluate.main([*sizes, "--results", str(results)])
    printed, written = capsys.readouterr().out, results.read_text(encoding="utf-8")
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 6 and all(line in written for line in lines)
    ways = [line.split("|")[1].strip() for line in lines[2:]]
    assert ways == ["products in tiles", "products in blocks", "ranking (`evaluate`)", "plain ranking"]
    assert lines[2].split("|")[3].strip() == "1"
