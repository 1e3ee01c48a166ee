"""If a service or a container has limits of its own, these count."""

from __future__ import annotations

import os
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
    """Write a file and create its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def test_without_limits_there_is_no_shortage(machine: tuple[Path, Path]) -> None:
    """The base case, which the other tests change."""
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == ""


def test_the_limit_of_the_service_counts(machine: tuple[Path, Path]) -> None:
    """TasksMax and MemoryMax of a systemd unit are in the unit's own cgroup, not in the root."""
    proc, cgroup = machine
    write(proc / "self/cgroup", "0::/system.slice/async-job-proxy.service\n")
    own = cgroup / "system.slice/async-job-proxy.service"
    write(own / "pids.max", "100\n")
    write(own / "pids.current", "90\n")
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == "process ids"


def test_the_limit_of_a_slice_above_counts_too(machine: tuple[Path, Path]) -> None:
    """The tightest limit on the way up is the one that matters."""
    proc, cgroup = machine
    write(proc / "self/cgroup", "0::/system.slice/async-job-proxy.service\n")
    write(cgroup / "system.slice/async-job-proxy.service/memory.max", "max\n")
    write(cgroup / "system.slice/async-job-proxy.service/memory.current", "0\n")
    write(cgroup / "system.slice/memory.max", f"{1000 * _MIB}\n")
    write(cgroup / "system.slice/memory.current", f"{990 * _MIB}\n")
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == "memory"


@pytest.mark.parametrize("limit", ["max", str(4000 * _MIB)])
def test_where_the_kernel_begins_to_slow_down_there_is_no_more_room(machine: tuple[Path, Path], limit: str) -> None:
    """MemoryHigh of a systemd unit: nothing is killed there, but everything stalls."""
    proc, cgroup = machine
    write(proc / "self/cgroup", "0::/box\n")
    write(cgroup / "box/memory.max", f"{limit}\n")
    write(cgroup / "box/memory.high", f"{512 * _MIB}\n")
    write(cgroup / "box/memory.current", f"{500 * _MIB}\n")
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == "memory"
    write(cgroup / "box/memory.high", "max\n")
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == ""


def test_in_a_container_the_root_is_its_own(machine: tuple[Path, Path]) -> None:
    """A cgroup namespace shows the container's cgroup as the root."""
    proc, cgroup = machine
    write(proc / "self/cgroup", "0::/\n")
    write(cgroup / "pids.max", "100\n")
    write(cgroup / "pids.current", "99\n")
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == "process ids"


def test_another_cgroup_counts_for_nothing(machine: tuple[Path, Path]) -> None:
    """A neighbour at its limit is no shortage here."""
    proc, cgroup = machine
    write(proc / "self/cgroup", "0::/system.slice/async-job-proxy.service\n")
    write(cgroup / "system.slice/other.service/pids.max", "10\n")
    write(cgroup / "system.slice/other.service/pids.current", "10\n")
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == ""


# --- page cache is room ----------------------------------------------------------------------------------------------

V2 = {"limit": "memory.max", "used": "memory.current", "prefix": "", "mapped": "file_mapped", "line": "0::/box"}
V1 = {
    "limit": "memory.limit_in_bytes",
    "used": "memory.usage_in_bytes",
    "prefix": "total_",
    "mapped": "mapped_file",
    "line": "4:memory:/box",
}


def fill(
    machine: tuple[Path, Path],
    names: dict[str, str],
    *,
    group: str = "box",
    limit: int = 512 * _MIB,
    used: int,
    **stat: int,
) -> None:
    """Make this process a member of a group with a limit, of which this much is used."""
    proc, cgroup = machine
    write(proc / "self/cgroup", names["line"] + "\n")
    folder = cgroup / ("memory" if names is V1 else "") / group
    write(folder / names["limit"], f"{limit}\n")
    write(folder / names["used"], f"{used}\n")
    members = {names["mapped"] if name == "mapped" else name: value for name, value in stat.items()}
    lines = [f"cache {used}\n", *(f"{names['prefix']}{name} {value}\n" for name, value in members.items())]
    write(folder / "memory.stat", "".join(lines))


@pytest.mark.parametrize("names", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("kind", ["inactive_file", "active_file"])
def test_page_cache_is_room(machine: tuple[Path, Path], names: dict[str, str], kind: str) -> None:
    """A process that used 110 MiB and has read files is near the limit, but not short of memory."""
    inactive, active = (400, 0) if kind == "inactive_file" else (0, 400)
    fill(machine, names, used=510 * _MIB, inactive_file=inactive * _MIB, active_file=active * _MIB)
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == ""


@pytest.mark.parametrize("names", [V1, V2], ids=["v1", "v2"])
def test_what_cannot_be_taken_back_is_no_room(machine: tuple[Path, Path], names: dict[str, str]) -> None:
    """Neither memory in use nor mapped files, such as running code."""
    fill(machine, names, used=500 * _MIB, inactive_file=20 * _MIB, active_file=100 * _MIB, mapped=90 * _MIB)
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == "memory"


@pytest.mark.parametrize("names", [V1, V2], ids=["v1", "v2"])
def test_what_a_group_above_can_take_back_counts_there(machine: tuple[Path, Path], names: dict[str, str]) -> None:
    """Each group has its own limit, use and cache, and the tightest one matters."""
    inner = names | {"line": names["line"] + "/inner"}
    fill(machine, names, used=510 * _MIB, inactive_file=10 * _MIB)
    folder = machine[1] / ("memory" if names is V1 else "") / "box/inner"
    write(folder / names["limit"], f"{512 * _MIB}\n")
    write(folder / names["used"], f"{10 * _MIB}\n")
    write(machine[0] / "self/cgroup", inner["line"] + "\n")
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == "memory"


def test_a_group_of_version_1_without_a_limit_has_the_largest_number(machine: tuple[Path, Path]) -> None:
    """The kernel rounds it down to whole pages."""
    fill(machine, V1, limit=9223372036854771712, used=7000 * _MIB)
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == ""


def test_the_process_limit_of_version_1_counts(machine: tuple[Path, Path]) -> None:
    """`docker run --pids-limit` on an older machine."""
    proc, cgroup = machine
    write(proc / "self/cgroup", "8:pids:/box\n4:memory:/box\n0::/\n")
    write(cgroup / "pids/box/pids.max", "100\n")
    write(cgroup / "pids/box/pids.current", "90\n")
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == "process ids"


def test_in_a_container_of_version_1_the_mount_is_its_own(machine: tuple[Path, Path]) -> None:
    """The name is the group's name outside, and only the container's own group is mounted."""
    fill(machine, V1, group="", used=510 * _MIB)
    write(machine[0] / "self/cgroup", "4:memory:/docker/0123456789abcdef\n")
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == "memory"


def test_without_its_numbers_a_group_counts_as_it_says(machine: tuple[Path, Path]) -> None:
    """Without memory.stat, there is no cache to reclaim."""
    fill(machine, V2, used=510 * _MIB)
    (machine[1] / "box/memory.stat").unlink()
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == "memory"


@pytest.mark.parametrize("name", ["prüfung".encode(), b"\xff\xfe"], ids=["UTF-8", "neither"])
def test_a_group_may_be_called_anything(machine: tuple[Path, Path], name: bytes) -> None:
    """Its name is bytes for the kernel; a line without a name is no error either."""
    proc, cgroup = machine
    (proc / "self").mkdir()
    (proc / "self/cgroup").write_bytes(b"nonsense\n0::/" + name + b"\n")
    own = cgroup / os.fsdecode(name)
    write(own / "pids.max", "100\n")
    write(own / "pids.current", "90\n")
    assert Headroom(proc=machine[0], cgroup=machine[1]).shortage() == "process ids"
