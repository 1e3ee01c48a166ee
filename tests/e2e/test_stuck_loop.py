"""A front end whose event loop is stuck says where, and two signals still end it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually_blocking

#: Blocks the front end's main thread forever, on a signal of its own: in many instructions, or within one.
_STUCK = """
import re, signal, time

def count_for_ever(*_):
    n = 0
    while True:
        n += 1

def match_for_ever(*_):
    re.match("(a|aa)+$", "a" * 60 + "b")

def wait_for_a_while(*_):
    until = time.monotonic() + 3
    while time.monotonic() < until:
        time.sleep(0.001)

signal.signal(signal.SIGRTMIN, {function})
"""


@pytest.fixture
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProxyProcess]:
    """A proxy whose loop can be blocked in one function."""
    (tmp_path / "sitecustomize.py").write_text(_STUCK.replace("{function}", request.param), encoding="utf-8")
    with ProxyProcess.started(PYTHONPATH=str(tmp_path), JOB_SERVER_URL="http://127.0.0.1:9/start") as proxy:
        yield proxy


@pytest.mark.parametrize("proxy", ["count_for_ever", "match_for_ever"], indirect=True)
def test_two_signals_end_it_and_the_log_says_where_it_stood(
    proxy: ProxyProcess, request: pytest.FixtureRequest
) -> None:
    """While it is stuck, and when it is ended; the exit code is the signal's; nothing is left behind."""
    function = request.node.callspec.params["proxy"]
    processes = proxy.descendants()
    proxy.signal(signal.SIGRTMIN)
    eventually_blocking(lambda: proxy.events_of("the event loop is blocked"))
    (stands,) = proxy.events_of("the event loop is blocked")
    assert f" {function} < " in stands["at"]
    assert stands["cpu_s"] > 0
    proxy.signal(signal.SIGTERM)
    # The kernel merges two equal pending signals: the first has to be delivered before the second is sent.
    eventually_blocking(lambda: not pending(proxy.pid))
    eventually_blocking(lambda: proxy.ended_by(signal.SIGTERM), 5)
    assert proxy.wait(5) == 128 + signal.SIGTERM
    (ended,) = proxy.events_of("stopped at once by a second signal")
    assert f" {function} < " in ended["at"]
    eventually_blocking(lambda: not any(runs(process) for process in processes), timeout_s=3)


@pytest.mark.parametrize("proxy", ["wait_for_a_while"], indirect=True)
def test_a_loop_that_goes_on_is_told_too(proxy: ProxyProcess) -> None:
    """With the time for which it was stuck; then everything is as before."""
    proxy.signal(signal.SIGRTMIN)
    eventually_blocking(lambda: proxy.events_of("the event loop continues"))
    (goes_on,) = proxy.events_of("the event loop continues")
    assert goes_on["blocked_s"] >= 2
    assert proxy.stop() == 0


@pytest.mark.parametrize("proxy", ["wait_for_a_while"], indirect=True)
async def test_a_signal_that_comes_meanwhile_is_not_lost(proxy: ProxyProcess) -> None:
    """A single signal asks for a graceful end, which begins when the loop goes on."""
    proxy.signal(signal.SIGRTMIN)
    proxy.signal(signal.SIGTERM)
    assert await asyncio.to_thread(proxy.wait, 20) == 0
    assert proxy.events_of("stopped")


def pending(pid: int) -> bool:
    """Return whether the process has a pending signal."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(masks)


def runs(process: psutil.Process) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
