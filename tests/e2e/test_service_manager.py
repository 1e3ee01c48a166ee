"""The proxy as systemd starts it with `Type=notify`: its reports at the start, on SIGHUP, meanwhile and at the end."""

from __future__ import annotations

import signal
import time

import psutil
from aiohttp import ClientSession

from tests.support.http import fetch
from tests.support.notify_socket import NotifySocket
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually, eventually_blocking

_BEAT_S = 0.1


async def test_it_is_ready_when_it_serves_and_stops_when_it_is_told_to(client: ClientSession) -> None:
    """It also reports how long its end may take; none of its child processes gets the manager's address."""
    with (
        NotifySocket() as manager,
        ProxyProcess(NOTIFY_SOCKET=manager.name, WATCHDOG_USEC="30000000", JOB_TIMEOUT="20", DRAIN_DELAY="1") as proxy,
    ):
        await eventually(lambda: manager.count("READY=1"))
        workers = proxy.descendants()
        proxy.wait_until_listening()
        assert (await fetch(client, "GET", f"{proxy.url}/readyz")).status == 200
        assert manager.count("STATUS=accepting jobs") == 1
        assert len(workers) >= 3  # the embedded job server, the fork server, and a worker
        for process in workers:
            assert [name for name in process.environ() if name.startswith(("NOTIFY_", "WATCHDOG_"))] == []
        proxy.signal(signal.SIGHUP)
        await eventually(lambda: manager.count("READY=1") == 2)
        assert manager.count("RELOADING=1") == 1
        assert manager.count("STOPPING=1") == 0
        proxy.signal(signal.SIGTERM)
        await eventually(lambda: manager.count("STOPPING=1"))
        assert manager.count("EXTEND_TIMEOUT_USEC=35000000") == 1
        assert proxy.wait() == 0
        assert manager.count("READY=1") == 2


def test_signs_of_life_end_with_the_movement_of_its_event_loop() -> None:
    """A stopped front end sends none; they resume when it does."""
    with (
        NotifySocket() as manager,
        ProxyProcess(NOTIFY_SOCKET=manager.name, WATCHDOG_USEC=f"{2 * _BEAT_S * 1e6:.0f}") as proxy,
    ):
        eventually_blocking(lambda: manager.count("READY=1") and manager.count("WATCHDOG=1") >= 3)
        proxy.signal(signal.SIGSTOP)
        eventually_blocking(lambda: psutil.Process(proxy.pid).status() == psutil.STATUS_STOPPED)
        before = manager.count("WATCHDOG=1")
        time.sleep(5 * _BEAT_S)
        assert manager.count("WATCHDOG=1") == before
        proxy.signal(signal.SIGCONT)
        eventually_blocking(lambda: manager.count("WATCHDOG=1") > before)
        assert proxy.stop() == 0
