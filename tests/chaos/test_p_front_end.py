"""P1 to P3: the front end itself gets SIGTERM, is killed, or is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator

import psutil
import pytest
from aiohttp import ClientError

from tests.chaos.support.harness import TIMEOUT_S, Chaos
from tests.chaos.support.processes import FaultyProxy, JobServerProcess, StartProxy
from tests.support.http import new_ref
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import eventually

_STOPPED_S = 10.0
#: How long a job that became overdue meanwhile waits for its callback, which may have come as well.
_CATCH_UP_S = 3.0
#: How long a connection may stay without a request.
_IDLE_S = 5.0


@pytest.fixture
def own_proxy(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """A proxy for one test, as it ends during the test. Callbacks have their own listener."""
    with start_proxy(WORKER_SPARES="4", CALLBACK_PORT="0", hasty=True) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def stopped_proxy(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """A proxy that is stopped and continued."""
    with start_proxy(WORKER_SPARES="4", CALLBACK_PORT="0", hasty=True) as proxy:
        yield proxy


@pytest.mark.parametrize("to", ["front-end", "group"])
async def test_p1_sigterm(own_proxy: FaultyProxy, job_server: JobServerProcess, to: str) -> None:
    """The listener closes within a second, jobs in flight get their results, and the exit code is 0 by D + 5."""
    pids = [process.pid for process in own_proxy.descendants()]
    async with Chaos(own_proxy, job_server, canaries=False, ends=True) as chaos:
        jobs = [asyncio.ensure_future(chaos.job(duration=1.2, chaos="note@p3")) for _ in range(5)]
        await chaos.act_of_any(5)
        watch = own_proxy.stopwatch()
        if to == "group":
            os.killpg(own_proxy.pid, signal.SIGTERM)
        else:
            own_proxy.signal(signal.SIGTERM)
        await eventually(lambda: not _listens(own_proxy.url), 1, watch)
        assert [reply.status for reply in await asyncio.gather(*jobs)] == [200] * 5
        await eventually(lambda: own_proxy.returncode is not None, TIMEOUT_S + 5, watch)
        assert await asyncio.to_thread(own_proxy.wait) == 0
    await _all_gone(pids)


async def test_p1_new_jobs_while_callbacks_share_the_listener(
    start_proxy: StartProxy, job_server: JobServerProcess
) -> None:
    """Callbacks must get in until the last job has ended, so it stays open; new jobs get 503 `shutting-down`."""
    with start_proxy() as proxy:
        async with Chaos(proxy, job_server, canaries=False, ends=True) as chaos:
            jobs = [asyncio.ensure_future(chaos.job(duration=1.0, chaos="note@p3")) for _ in range(3)]
            await chaos.act_of_any(3)
            proxy.signal(signal.SIGTERM)
            await eventually(lambda: proxy.events_of("shutting down: draining jobs in flight"))
            assert (await chaos.job()).summary == (503, "shutting-down", "no")
            assert [reply.status for reply in await asyncio.gather(*jobs)] == [200] * 3
            await eventually(lambda: not _listens(proxy.url))
            assert await asyncio.to_thread(proxy.wait) == 0


async def test_p1_second_signal_ends_at_once(own_proxy: FaultyProxy, job_server: JobServerProcess) -> None:
    """A second signal means that nobody wants to wait; the exit code names the signal, and nothing is left."""
    pids = [process.pid for process in own_proxy.descendants()]
    async with Chaos(own_proxy, job_server, canaries=False, ends=True) as chaos:
        jobs = [asyncio.ensure_future(chaos.job(fault="never", chaos="note@p3")) for _ in range(3)]
        await chaos.act_of_any(3)
        pids += [act["pid"] for act in own_proxy.acts()]
        own_proxy.signal(signal.SIGTERM)
        await eventually(lambda: own_proxy.events_of("shutting down: draining jobs in flight"))
        watch = own_proxy.stopwatch()
        await eventually(lambda: own_proxy.ended_by(signal.SIGTERM), 1, watch)
        assert await asyncio.to_thread(own_proxy.wait) == 128 + signal.SIGTERM
        for job in jobs:
            with pytest.raises(ClientError):
                await job
    await _all_gone(pids)


async def test_p2_sigkill(start_proxy: StartProxy, job_server: JobServerProcess) -> None:
    """After 2 s none of our processes is left, not even a stopped or stubborn one; a restart binds and serves."""
    port = await _killed(start_proxy, job_server, "0", "runs")
    assert port == await _killed(start_proxy, job_server, port, "stopped")
    with start_proxy(PORT=port) as again:
        async with Chaos(again, job_server) as chaos:
            assert (await chaos.job()).status == 200


async def _killed(start_proxy: StartProxy, job_server: JobServerProcess, port: str, fork_server: str) -> str:
    """Start a proxy and kill it while its fork server runs or is stopped; return its port."""
    with start_proxy(PORT=port) as proxy:
        async with Chaos(proxy, job_server, canaries=False, ends=True) as chaos:
            acts = ["note@p3", "sigstop@p1", "sigstop@p3", "ignore-term@p3", "child@p3"]
            jobs = [asyncio.ensure_future(chaos.job(fault="never", chaos=act)) for act in acts]
            await chaos.act_of_any(len(acts) + 1)  # the child's act is counted as well
            pids = [process.pid for process in proxy.descendants()]
            if fork_server == "stopped":
                os.kill(proxy.fork_server_pid(), signal.SIGSTOP)
            proxy.signal(signal.SIGKILL)
            await _all_gone(pids)
            await asyncio.gather(*jobs, return_exceptions=True)
            assert await asyncio.to_thread(proxy.wait) == -signal.SIGKILL
        return proxy.url.rpartition(":")[2]


@pytest.mark.xdist_group("p3")
async def test_p3_front_end_is_stopped_for_10_s(stopped_proxy: FaultyProxy, job_server: JobServerProcess) -> None:
    """It continues where it was: overdue jobs are answered once each, with the results that came meanwhile."""
    async with Chaos(stopped_proxy, job_server, canaries=False, timeout_s=_STOPPED_S + _CATCH_UP_S, lag_s=60) as chaos:
        doomed = [asyncio.ensure_future(chaos.job(fault="never", chaos="note@p3")) for _ in range(5)]
        called = [asyncio.ensure_future(chaos.job(duration=1.0, chaos="note@p3")) for _ in range(5)]
        await chaos.act_of_any(10)
        stopped_proxy.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(_STOPPED_S)  # the waiting time is the fault
            overdue_before = {job for job in called if job.done()}  # on a busy machine
        finally:
            stopped_proxy.signal(signal.SIGCONT)
        for reply in await asyncio.gather(*doomed):
            assert reply.summary == (500, "deadline-exceeded", "yes")
        for job in called:
            reply = await job
            late = job in overdue_before and reply.summary == (500, "deadline-exceeded", "yes")
            assert late or reply.summary == (200, None, "yes")
        assert (await chaos.job()).status == 200
        # A callback that was abandoned before it was read leaves a connection that is closed as an idle one.
        await eventually(lambda: stopped_proxy.connections() <= chaos.connections_before)


@pytest.mark.xdist_group("p3")
async def test_p3_requests_that_come_while_it_is_stopped(
    stopped_proxy: FaultyProxy, job_server: JobServerProcess
) -> None:
    """On connections that were idle for less than the limit: each is answered, though the limit is exceeded by then."""
    async with Chaos(stopped_proxy, job_server, canaries=False, lag_s=60) as chaos:
        connections = [await chaos.raw() for _ in range(20)]
        await eventually(lambda: all(stopped_proxy.serves(raw) for raw in connections))
        stopped_proxy.signal(signal.SIGSTOP)
        try:
            for raw in connections:
                ref = new_ref()
                await raw.send_job(account=ref, ref=ref, duration=0)
            await asyncio.sleep(_IDLE_S + 1)  # the waiting time is the fault
        finally:
            stopped_proxy.signal(signal.SIGCONT)
        answers = await asyncio.gather(*(raw.reader.read(13) for raw in connections))
        chaos.abandoned += len(connections)
        assert answers == [b"HTTP/1.1 200 "] * len(connections)
        for raw in connections:
            raw.close()


def _listens(url: str) -> bool:
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.socket() as sock:
        return sock.connect_ex((host, int(port))) == 0


async def _all_gone(pids: list[int]) -> None:
    """Wait until none of these processes runs, for 2 s at most; adopted ones are reaped."""

    def gone(pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE and process.ppid() == os.getpid():
                os.waitpid(pid, os.WNOHANG)
                return True
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await eventually(lambda: all(gone(pid) for pid in pids), 2, Stopwatch(*pids))
