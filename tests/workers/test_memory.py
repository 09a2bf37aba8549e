"""What memory there is, and what it says of a dead process; the kernel's files are made here."""

import os

import pytest

from unlearnrec.workers.memory import (
    MachineMemory,
    PlannedMemory,
    WorkerMemory,
    machine_memory,
    own_bytes,
    own_peak_bytes,
    why_memory,
)

GB = 10**9


def put(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.fixture
def root(tmp_path):
    put(tmp_path, "proc/meminfo", "MemTotal:  8000000 kB\nMemFree: 10 kB\nMemAvailable:  6000000 kB\n")
    put(tmp_path, "proc/vmstat", "nr_free_pages 7\noom_kill 3\n")
    return tmp_path


def test_a_machine_without_limits(root):
    assert machine_memory(root) == MachineMemory(8_192_000_000, 6_144_000_000, 3)


def test_the_tightest_control_group_of_version_two_counts_and_caches_are_free(root):
    put(root, "proc/self/cgroup", "0::/a/b\n")
    put(root, "sys/fs/cgroup/a/b/memory.max", "max\n")
    put(root, "sys/fs/cgroup/a/b/memory.current", "5\n")
    put(root, "sys/fs/cgroup/a/memory.max", "2000000000\n")
    put(root, "sys/fs/cgroup/a/memory.current", "900000000\n")
    put(root, "sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 400000000\n")
    assert machine_memory(root) == MachineMemory(2_000_000_000, 1_500_000_000, 3)


def test_in_a_container_the_path_of_the_group_may_be_that_of_the_host(root):
    put(root, "proc/self/cgroup", "4:memory:/docker/123\n0::/\n")
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000000\n")
    put(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", "300000000\n")
    (root / "proc/vmstat").unlink()
    put(root, "sys/fs/cgroup/memory/memory.oom_control", "under_oom 0\noom_kill 9\n")
    assert machine_memory(root) == MachineMemory(1_000_000_000, 700_000_000, 9)


def test_a_limit_above_the_machine_is_none(root):
    put(root, "proc/self/cgroup", "4:memory:/\n")
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    put(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", "300000000\n")
    assert machine_memory(root).limit == 8_192_000_000


def test_rays_threshold_takes_its_share(monkeypatch):
    monkeypatch.delenv("RAY_memory_usage_threshold", raising=False)
    monkeypatch.delenv("RAY_memory_monitor_refresh_ms", raising=False)
    memory = MachineMemory(100 * GB, 50 * GB)
    assert memory.usable == pytest.approx(45 * GB, rel=1e-6)
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.8")
    assert memory.usable == pytest.approx(30 * GB, rel=1e-6)
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    assert memory.usable == 50 * GB


def test_a_process_knows_what_it_holds():
    before = own_bytes()
    held = os.urandom(1) * 60_000_000
    assert own_bytes() > before + 50_000_000 and own_peak_bytes() >= own_bytes() - 1_000_000
    del held


def seen(held, available, kills=0):
    return WorkerMemory("n", "p", held * GB, MachineMemory(100 * GB, available * GB, kills))


@pytest.mark.parametrize(
    ("last", "kills", "ray_says", "planned", "words"),
    [
        (None, None, None, None, None),
        (seen(5, 50), None, None, None, None),  # the machine is gone: rebuild
        (seen(5, 50), 0, None, PlannedMemory(20 * GB, ""), None),  # killed by hand
        (seen(5, 50), 0, None, PlannedMemory(70 * GB, ""), None),  # the plan may be too high
        (seen(5, 50), 1, None, None, "the kernel ended a process"),
        (
            seen(60, 4),
            0,
            None,
            None,
            "it held 60.0 GB when it was last seen, and its machine had 4.0 GB of 100.0 GB left",
        ),
        (seen(5, 50), 0, None, PlannedMemory(90 * GB, ""), "5.0 GB when it was last seen of 90.0 GB planned"),
        (None, None, "low on memory", None, "Ray ended it for want of memory: low on memory"),
    ],
)
def test_only_evidence_makes_a_death_one_of_memory(last, kills, ray_says, planned, words):
    reason = why_memory(last, kills, ray_says, planned)
    assert (reason is None) == (words is None)
    assert words is None or words in reason
