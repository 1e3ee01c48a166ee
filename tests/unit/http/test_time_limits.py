"""How long a client may take: whether it transfers fast enough, and the timer for every request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.http import time_limits
from proxy.http.asgi import ClientGoneError
from proxy.http.time_limits import LazyTimer, Limits, Pace, body_cut_off, drained, waited
from shared.errors import Code
from tests.support.waiting import eventually

LIMITS = Limits(stall_s=9.0, least_bytes_per_s=1000.0)


def left_after(*steps: tuple[float, int]) -> float:
    """What is left of a transfer's time after steps of seconds and bytes."""
    transfer = Pace(LIMITS)
    for passed_s, moved_bytes in steps:
        transfer.step(passed_s, moved_bytes)
    return transfer.left_s


def test_a_transfer_that_stalls_ends_however_fast_it_was_before() -> None:
    """A gigabyte in a second earns no more than the initial time."""
    assert left_after((1.0, 1_000_000_000)) == 9.0
    assert left_after((1.0, 1_000_000_000), (9.0, 0)) <= 0


def test_a_transfer_that_keeps_the_least_rate_never_ends() -> None:
    """For an hour, in small and in large steps."""
    assert left_after(*[(1.0, 1000)] * 3600) == 9.0
    assert left_after(*[(8.0, 8000)] * 450) == 9.0


def test_a_transfer_that_drips_ends_about_as_soon_as_one_that_stalls() -> None:
    """A byte per second."""
    assert left_after(*[(1.0, 1)] * 9) > 0
    assert left_after(*[(1.0, 1)] * 10) < 0


async def test_time_in_which_this_process_was_stopped_is_not_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late timer grants a moment more, in which bytes that came meanwhile are read."""
    now = [0.0]
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: now[0])
    came = asyncio.Event()

    def stopped() -> None:
        now[0] += 30.0
        loop.call_soon(lambda: loop.call_soon(lambda: loop.call_soon(came.set)))

    loop.call_soon(stopped)
    await waited(came.wait, 9.0)
    came.clear()
    loop.call_soon(lambda: now.__setitem__(0, now[0] + 9.1))
    with pytest.raises(TimeoutError):
        await waited(came.wait, 9.0)


class SlowTransport(asyncio.WriteTransport):
    """A transport whose peer reads a fixed amount each time it is checked."""

    def __init__(self, unsent: int, taken: int) -> None:
        super().__init__()
        self.unsent, self.taken = unsent, taken
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        """The unsent bytes."""
        self.unsent = max(0, self.unsent - self.taken)
        return self.unsent

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.aborted

    def abort(self) -> None:
        """Close."""
        self.aborted = True


async def drain(transport: SlowTransport) -> None:
    """Return when everything is sent."""
    while transport.unsent:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(("taken", "whole"), [(1000, True), (10, False), (0, False)])
async def test_an_answer_is_given_up_when_it_is_read_too_slowly(
    taken: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only then, however long it takes."""
    monkeypatch.setattr(time_limits, "_LOOK_S", 0.01)
    transport = SlowTransport(20_000, taken)
    limits = Limits(stall_s=0.05, least_bytes_per_s=50_000)
    if whole:
        await drained(transport, lambda: drain(transport), limits)
    else:
        with pytest.raises(ClientGoneError):
            await drained(transport, lambda: drain(transport), limits)
    assert transport.aborted is not whole


def test_what_is_cut_off_says_how_much_of_it_came() -> None:
    """And of how much, if that is known: in the answer and in the log."""
    assert body_cut_off(12, 100).code is Code.REQUEST_TIMEOUT
    assert "after 12 of 100 bytes" in body_cut_off(12, 100).detail
    assert "after 12 bytes" in body_cut_off(12, None).detail
    assert body_cut_off(12, 100, closing=True).code is Code.SHUTTING_DOWN


class Expiries:
    """Counts how often a timer expires, and when."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.timer = LazyTimer(lambda: self.at.append(asyncio.get_running_loop().time()))


async def test_a_timer_expires_once_at_the_time_that_was_set_last() -> None:
    """Later or earlier than the previous one."""
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


async def test_a_cleared_timer_does_not_expire() -> None:
    """Until it is set again."""
    expiries = Expiries()
    expiries.timer.set(0.01)
    expiries.timer.clear()
    await asyncio.sleep(0.03)
    assert not expiries.at
    expiries.timer.set(0.01)
    await eventually(lambda: expiries.at)


async def test_to_set_a_later_time_makes_no_timer_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is its purpose."""
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


async def test_when_the_process_was_stopped_a_timer_gives_what_waits_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that came meanwhile are read first: the long delay is not the client's fault."""
    expiries = Expiries()
    loop = asyncio.get_running_loop()
    real = loop.time
    expiries.timer.set(0.01)
    monkeypatch.setattr(loop, "time", lambda: real() + 30.0)
    continued = loop.time()
    await eventually(lambda: expiries.at)
    assert expiries.at[0] - continued >= 0.4


async def test_a_closed_timer_holds_nothing() -> None:
    """Neither a timer of the loop nor the callback."""
    expiries = Expiries()
    expiries.timer.set(0.01)
    expiries.timer.close()
    await asyncio.sleep(0.03)
    assert not expiries.at
