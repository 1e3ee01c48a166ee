"""The tests' own stopwatch: time without CPU time is not counted, other time is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.stopwatch import Stopwatch
from tests.support.waiting import eventually_blocking

_BURNT_S = 0.2


@pytest.fixture
def rival() -> Iterator[subprocess.Popen[bytes]]:
    """A process that competes for the test's CPU all the time."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    rival = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert rival.stdout is not None
        rival.stdout.readline()
        yield rival
    finally:
        rival.kill()
        rival.communicate()
        os.sched_setaffinity(0, before)


def test_time_without_a_processor_does_not_count(rival: subprocess.Popen[bytes]) -> None:
    """Beside a busy process, work takes about twice as long; its counted time does not change."""
    watch = Stopwatch()
    until = time.thread_time() + _BURNT_S
    while time.thread_time() < until:
        pass
    assert watch.starved_s > _BURNT_S / 4
    assert watch.own_s < watch.took_s - _BURNT_S / 4


def test_another_process_is_watched_as_well(rival: subprocess.Popen[bytes]) -> None:
    """While this process works, the other one has to wait; its waiting time is remembered after its end."""
    watch, alone = Stopwatch(rival.pid), Stopwatch()
    until = time.thread_time() + _BURNT_S
    while time.thread_time() < until:
        pass
    assert watch.starved_s > alone.starved_s + _BURNT_S / 4
    before = watch.starved_s
    rival.kill()
    rival.wait()
    assert watch.starved_s >= before


def test_time_asleep_counts() -> None:
    """Waiting for anything but the CPU counts."""
    watch = Stopwatch()
    time.sleep(0.05)
    assert watch.own_s + watch.starved_s >= 0.05


def test_a_limit_is_kept_where_there_was_a_processor() -> None:
    """A condition that never holds fails, and the failure says what was seen last."""
    with pytest.raises(AssertionError, match=r"not so within 0.05 s .*last seen: 0"):
        eventually_blocking(lambda: 0, 0.05)
