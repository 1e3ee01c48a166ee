"""The front end receives its signals, whatever its parent process did to them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from proxy.run.signals import Signals


@pytest.fixture
def blocked() -> Iterator[None]:
    """All signals of the front end are blocked, as if by the parent process; restored afterwards."""
    numbers = {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGPWR,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
    before = {number: signal.getsignal(number) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.mark.usefixtures("blocked")
async def test_a_signal_that_was_blocked_is_heard() -> None:
    """Otherwise only SIGKILL would end the process."""
    heard: asyncio.Queue[Any] = asyncio.Queue()

    def end(code: int) -> NoReturn:
        raise AssertionError(code)

    Signals(heard.put_nowait, lambda: heard.put_nowait("reload"), end).watch()
    os.kill(os.getpid(), signal.SIGHUP)
    assert await heard.get() == "reload"
    os.kill(os.getpid(), signal.SIGPWR)
    assert await heard.get() is signal.SIGPWR
