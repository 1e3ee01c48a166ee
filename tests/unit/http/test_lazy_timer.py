"""A timer that is set for every request and hardly ever expires."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.http.lazy_timer import LazyTimer
from tests.support.waiting import eventually


class Expiries:
    """Counts, and tells when."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.timer = LazyTimer(lambda: self.at.append(asyncio.get_running_loop().time()))


async def test_it_expires_once_at_the_time_that_was_set_last() -> None:
    """Later or earlier than the one before."""
    for first_s, last_s in [(0.01, 0.05), (60.0, 0.05)]:
        expiries = Expiries()
        begun = asyncio.get_running_loop().time()
        expiries.timer.set(first_s)
        expiries.timer.set(last_s)
        await eventually(lambda: expiries.at)  # noqa: B023 - read at once
        assert expiries.at[0] - begun >= last_s
        assert expiries.timer.until is None
        await asyncio.sleep(0)
        assert len(expiries.at) == 1


async def test_a_cleared_one_does_not_expire() -> None:
    """Until it is set again."""
    expiries = Expiries()
    expiries.timer.set(0.01)
    expiries.timer.clear()
    await asyncio.sleep(0.03)
    assert not expiries.at
    expiries.timer.set(0.01)
    await eventually(lambda: expiries.at)


async def test_to_set_a_later_time_makes_no_timer_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what it is for."""
    made: list[float] = []
    loop = asyncio.get_running_loop()
    real = loop.call_at

    def call_at(when: float, *rest: Any, **options: Any) -> asyncio.TimerHandle:
        made.append(when)
        return real(when, *rest, **options)

    monkeypatch.setattr(loop, "call_at", call_at)
    timer = Expiries().timer
    for seconds in range(10, 1010):
        timer.set(seconds)
        timer.clear()
    assert len(made) == 1
    timer.close()


async def test_when_the_process_was_stopped_it_gives_what_waits_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came meanwhile is read first: a time that is over for long is not the client's fault."""
    expiries = Expiries()
    loop = asyncio.get_running_loop()
    real = loop.time
    expiries.timer.set(0.01)
    monkeypatch.setattr(loop, "time", lambda: real() + 30.0)
    continued = loop.time()
    await eventually(lambda: expiries.at)
    assert expiries.at[0] - continued >= 0.4


async def test_a_closed_one_holds_nothing() -> None:
    """Neither a timer of the loop nor whoever was to be called back."""
    expiries = Expiries()
    expiries.timer.set(0.01)
    expiries.timer.close()
    await asyncio.sleep(0.03)
    assert not expiries.at
