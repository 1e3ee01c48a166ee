"""Capacity for another worker, read from artificial /proc and cgroup trees."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from pathlib import Path

import pytest

from proxy import log
from proxy.jobs import headroom
from proxy.jobs.headroom import Headroom
from tests.support.descriptors import descriptors
from tests.support.waiting import eventually

#: The memory that must stay free, and that of ten workers.
_FOR_TEN = 64 * 1024 * 1024 + 10 * headroom._WORKER_BYTES  # noqa: SLF001 - it depends on the version of Python


class Machine:
    """A /proc and a cgroup, as files."""

    def __init__(self, base: Path) -> None:
        self.proc = base / "proc"
        self.cgroup = base / "cgroup"
        self.write("proc/loadavg", "0.5 0.5 0.5 2/300 4711")
        self.write("proc/sys/kernel/pid_max", "4194304")
        self.write("proc/sys/kernel/threads-max", "30000")
        self.write("proc/meminfo", "MemTotal: 8000000 kB\nMemFree: 10 kB\nMemAvailable: 4000000 kB\n")
        self.write("cgroup/pids.max", "max")
        self.write("cgroup/pids.current", "300")
        self.write("cgroup/memory.max", "max")
        self.write("cgroup/memory.current", "1000000")

    def write(self, name: str, text: str) -> None:
        """Write one file."""
        path = self.proc.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")

    def shortage(self) -> str:
        """Read everything again."""
        return Headroom(proc=self.proc, cgroup=self.cgroup).shortage()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with enough of everything."""
    return Machine(tmp_path)


def test_a_machine_with_room_is_short_of_nothing(machine: Machine) -> None:
    """The usual case."""
    assert machine.shortage() == ""


@pytest.mark.parametrize(
    ("name", "text", "shortage"),
    [
        ("proc/loadavg", "0 0 0 1/29990 1", "process ids"),
        ("proc/sys/kernel/pid_max", "320", "process ids"),
        ("proc/sys/kernel/threads-max", "320", "process ids"),
        ("cgroup/pids.max", "320", "process ids"),
        ("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 60000 kB", "memory"),
        ("cgroup/memory.max", str(1_000_000 + 60 * 1024 * 1024), "memory"),
        ("cgroup/pids.max", "2000", ""),
        ("cgroup/memory.max", str(2**40), ""),
    ],
)
def test_each_limit_counts_by_itself(machine: Machine, name: str, text: str, shortage: str) -> None:
    """The kernel's, and the control group's if there is one."""
    machine.write(name, text)
    assert machine.shortage() == shortage


@pytest.mark.parametrize("text", ["", "nonsense", "\u0000"])
@pytest.mark.parametrize("name", ["proc/loadavg", "proc/meminfo", "cgroup/pids.max", "cgroup/memory.current"])
def test_what_cannot_be_read_refuses_nobody(machine: Machine, name: str, text: str) -> None:
    """Another kernel or container is no reason not to serve."""
    machine.write(name, text)
    assert machine.shortage() == ""


def test_without_proc_and_cgroup_nobody_is_refused(tmp_path: Path) -> None:
    """As on a machine that has neither."""
    assert Headroom(proc=tmp_path / "none", cgroup=tmp_path / "none").shortage() == ""


def test_the_files_are_looked_at_now_and_then_only(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst of jobs does not read /proc for each of them."""
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    room = Headroom(proc=machine.proc, cgroup=machine.cgroup)
    assert room.shortage() == ""
    machine.write("cgroup/pids.max", "320")
    assert room.shortage() == ""
    now_s += 1
    assert room.shortage() == "process ids"


def test_descriptors_are_counted_at_every_job(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run out first, and checking costs next to nothing."""
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    room = Headroom(proc=machine.proc, cgroup=machine.cgroup)
    assert room.shortage() == ""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (min(highest, 60), 100))
    assert room.shortage() == "file descriptors"


@pytest.mark.parametrize(
    ("resource_", "file", "text"),
    [
        ("memory", "cgroup/memory.max", str(1_000_000 + _FOR_TEN)),
        ("process ids", "cgroup/pids.max", str(300 + 64 + 20)),
        ("file descriptors", "", ""),
    ],
)
def test_a_burst_is_not_accepted_for_the_room_of_one_job(
    resource_: str, file: str, text: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for ten workers more; the last of the jobs that need them are refused before these have started."""
    jobs, workers = 0, 5
    room = Headroom(lambda: jobs, lambda: workers, proc=machine.proc, cgroup=machine.cgroup)
    if file:
        machine.write(file, text)
    else:
        open_now = os.stat("/proc/self/fd").st_size  # noqa: PTH116 - as in the code
        monkeypatch.setattr(resource, "getrlimit", lambda _: (open_now + 64 + 31, open_now + 64 + 31))
    accepted = 0
    while not room.shortage() and accepted < 100:
        jobs += 1
        accepted += 1
    assert accepted == 16  # five of them need no new worker, and one is checked before it counts
    assert room.shortage() == resource_


@pytest.mark.parametrize("reused", [False, True])
def test_a_job_for_an_idle_worker_needs_no_room(
    *, reused: bool, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If workers serve several jobs: a spare for one job is replaced. Descriptors run out all the same."""
    jobs = 4
    room = Headroom(lambda: jobs, lambda: 5, reused=reused, proc=machine.proc, cgroup=machine.cgroup)
    machine.write("cgroup/memory.max", "2000000")
    assert room.shortage() == ("" if reused else "memory")
    jobs = 5
    assert room.shortage() == "memory"
    jobs = 4
    monkeypatch.setattr(resource, "getrlimit", lambda _: (60, 60))
    assert room.shortage() == "file descriptors"


def test_idle_workers_are_no_room_for_others(machine: Machine) -> None:
    """Their memory is taken, whether or not they have a job."""
    room = Headroom(lambda: 0, lambda: 50, proc=machine.proc, cgroup=machine.cgroup)
    machine.write("cgroup/memory.max", str(1_000_000 + 60 * 1024 * 1024))
    assert room.shortage() == "memory"


def test_workers_that_started_since_the_last_look_still_count(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until their memory is part of what is read."""
    now_s, jobs, workers = 100.0, 0, 0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    room = Headroom(lambda: jobs, lambda: workers, proc=machine.proc, cgroup=machine.cgroup)
    machine.write("cgroup/memory.max", str(1_000_000 + _FOR_TEN))
    assert room.shortage() == ""
    jobs = workers = 11
    assert room.shortage() == "memory"
    now_s += 1
    machine.write("cgroup/memory.max", str(1_000_000 + 200 * 1024 * 1024))
    assert room.shortage() == ""


@pytest.mark.parametrize("is_told", [False, True])
def test_without_a_limit_of_descriptors_there_is_room(
    *, is_told: bool, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the kernel tells how many are open; asking takes none."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    before = descriptors()
    with monkeypatch.context() as patch:
        if not is_told:
            patch.setattr(os, "stat", lambda _: os.stat_result([0] * 10))
        shortage = machine.shortage()
    assert shortage == ""
    assert descriptors() <= before


def test_where_no_descriptor_can_be_had_there_is_no_room(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE counts, too, if the kernel does not tell how many are open."""

    def fail(_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "stat", fail)
    monkeypatch.setattr(os, "dup", fail)
    assert machine.shortage() == "file descriptors"


# --- one line when it begins, one when it ends -----------------------------------------------------------------------

_BEGINS = "new jobs are refused until the machine has room"
_ENDS = "the machine has room again"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, object]]]:
    """The logged lines: level, event and fields."""
    found: list[tuple[str, str, dict[str, object]]] = []
    monkeypatch.setattr(log, "event", lambda level, what, **fields: found.append((level, what, fields)))
    return found


async def test_a_shortage_is_one_line_and_its_end_another(
    machine: Machine, events: list[tuple[str, str, dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many jobs are refused; and the end is noticed even if no job comes any more."""
    monkeypatch.setattr(headroom, "_AGAIN_S", 0.001)
    monkeypatch.setattr(headroom, "_FRESH_S", 0.0)
    room = Headroom(proc=machine.proc, cgroup=machine.cgroup)
    machine.write("cgroup/pids.max", "320")
    assert [room.shortage() for _ in range(5)] == ["process ids"] * 5
    assert events == [("error", _BEGINS, {"short_of": "process ids"})]
    machine.write("cgroup/pids.max", "max")
    await eventually(lambda: len(events) > 1)
    assert [(level, what) for level, what, _ in events] == [("error", _BEGINS), ("info", _ENDS)]


def test_a_shortage_is_over_when_there_is_room_to_spare(
    machine: Machine, events: list[tuple[str, str, dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would begin and end with every job at the limit."""
    monkeypatch.setattr(headroom, "_FRESH_S", 0.0)
    room = Headroom(proc=machine.proc, cgroup=machine.cgroup)
    for limit, shortage in ((300 + 64, ""), (300 + 63, "process ids"), (300 + 79, "process ids"), (300 + 80, "")):
        machine.write("cgroup/pids.max", str(limit))
        assert room.shortage() == shortage
    assert [what for _, what, _ in events] == [_BEGINS, _ENDS]


def test_jobs_that_come_and_go_at_the_limit_are_no_news(
    machine: Machine, events: list[tuple[str, str, dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the machine is looked at again."""
    now_s, jobs = 100.0, 0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    room = Headroom(lambda: jobs, proc=machine.proc, cgroup=machine.cgroup)
    machine.write("cgroup/pids.max", str(300 + 64 + 20))
    for jobs in (0, 11, 0, 11, 0):
        assert room.shortage() == ("process ids" if jobs else "")
    assert [what for _, what, _ in events] == [_BEGINS]
    now_s += 1
    assert room.shortage() == ""
    assert [what for _, what, _ in events] == [_BEGINS, _ENDS]


async def test_the_end_of_a_shortage_is_noticed_though_a_worker_is_idle(
    machine: Machine, events: list[tuple[str, str, dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs are accepted meanwhile."""
    monkeypatch.setattr(headroom, "_AGAIN_S", 0.001)
    monkeypatch.setattr(headroom, "_FRESH_S", 0.0)
    room = Headroom(lambda: 0, lambda: 1, reused=True, proc=machine.proc, cgroup=machine.cgroup)
    machine.write("cgroup/pids.max", "320")
    assert room.shortage() == ""
    await asyncio.sleep(0.01)
    machine.write("cgroup/pids.max", "max")
    await eventually(lambda: [what for _, what, _ in events] == [_BEGINS, _ENDS])
