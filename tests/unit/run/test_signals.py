"""The front end's signals."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from proxy.run.signals import Signals


@pytest.fixture
def restored() -> Iterator[None]:
    """The handlers of all signals of the front end are restored afterwards."""
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
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("restored")
async def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    """`timeout` sends it to the process and to its group: jobs in flight would be aborted. A later one is a second."""
    heard: list[Any] = []
    now = [100.0]

    def end(code: int) -> NoReturn:
        raise SystemExit(code)

    Signals(heard.append, lambda: None, end, lambda: now[0]).watch()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    await asyncio.sleep(0)
    assert heard == [signal.SIGTERM]
    now[0] += 1
    with pytest.raises(SystemExit) as ended:
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM


@pytest.mark.usefixtures("restored")
async def test_a_third_signal_does_not_interrupt_the_end() -> None:
    """It comes while the second one is handled."""
    ends: list[int] = []
    now = [100.0]

    def end(code: int) -> NoReturn:
        ends.append(code)
        os.kill(os.getpid(), signal.SIGTERM)
        raise SystemExit(code)

    Signals(lambda _: None, lambda: None, end, lambda: now[0]).watch()
    os.kill(os.getpid(), signal.SIGTERM)
    now[0] += 1
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    assert ends == [128 + signal.SIGTERM]
