"""Where a service or a container has limits of its own, these are what counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.jobs.headroom import Headroom

_MIB = 1024 * 1024


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path]:
    """A /proc of a machine with plenty of everything, and an empty /sys/fs/cgroup."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    write(proc / "loadavg", "0.00 0.00 0.00 1/200 4242\n")
    write(proc / "sys/kernel/pid_max", "4194304\n")
    write(proc / "sys/kernel/threads-max", "100000\n")
    write(proc / "meminfo", "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n")
    cgroup.mkdir()
    return proc, cgroup


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def test_without_limits_there_is_no_shortage(machine: tuple[Path, Path]) -> None:
    """What the other tests change, they change from here."""
    assert Headroom(*machine).shortage() == ""


def test_the_limit_of_the_service_counts(machine: tuple[Path, Path]) -> None:
    """TasksMax and MemoryMax of a systemd unit stand in the unit's own cgroup, not in the root."""
    proc, cgroup = machine
    write(proc / "self/cgroup", "0::/system.slice/async-job-proxy.service\n")
    own = cgroup / "system.slice/async-job-proxy.service"
    write(own / "pids.max", "100\n")
    write(own / "pids.current", "90\n")
    assert Headroom(*machine).shortage() == "process ids"


def test_the_limit_of_a_slice_above_counts_too(machine: tuple[Path, Path]) -> None:
    """The tightest limit on the way up is the one that is hit."""
    proc, cgroup = machine
    write(proc / "self/cgroup", "0::/system.slice/async-job-proxy.service\n")
    write(cgroup / "system.slice/async-job-proxy.service/memory.max", "max\n")
    write(cgroup / "system.slice/async-job-proxy.service/memory.current", "0\n")
    write(cgroup / "system.slice/memory.max", f"{1000 * _MIB}\n")
    write(cgroup / "system.slice/memory.current", f"{990 * _MIB}\n")
    assert Headroom(*machine).shortage() == "memory"


def test_in_a_container_the_root_is_its_own(machine: tuple[Path, Path]) -> None:
    """A cgroup namespace shows the container's cgroup as the root."""
    proc, cgroup = machine
    write(proc / "self/cgroup", "0::/\n")
    write(cgroup / "pids.max", "100\n")
    write(cgroup / "pids.current", "99\n")
    assert Headroom(*machine).shortage() == "process ids"


def test_another_cgroup_counts_for_nothing(machine: tuple[Path, Path]) -> None:
    """A neighbour at its limit is no shortage here."""
    proc, cgroup = machine
    write(proc / "self/cgroup", "0::/system.slice/async-job-proxy.service\n")
    write(cgroup / "system.slice/other.service/pids.max", "10\n")
    write(cgroup / "system.slice/other.service/pids.current", "10\n")
    assert Headroom(*machine).shortage() == ""
