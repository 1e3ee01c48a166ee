"""How a run ends: drained, at once, or killed; and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from aiohttp import ClientConnectionError, ClientSession

from tests.support.http import Answer, fetch, post_job
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess, is_alive
from tests.support.shared_proxies import SharedProxies
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import eventually


@pytest.fixture
def proxy() -> Iterator[ProxyProcess]:
    """The proxy with its embedded job server, on free ports."""
    with ProxyProcess.started() as proxy:
        yield proxy


@pytest.fixture
def plain_proxy(job_server: JobServer) -> Iterator[ProxyProcess]:
    """The proxy without one, which starts sooner."""
    with ProxyProcess.started(JOB_SERVER_URL=job_server.url) as proxy:
        yield proxy


async def in_flight(client: ClientSession, proxy: ProxyProcess, **job: object) -> asyncio.Task[Answer]:
    """Post a job; once the job server has it, return its pending answer."""
    answer = asyncio.create_task(post_job(client, proxy.queue_job, **job))  # type: ignore[arg-type] # its fields

    async def waiting() -> bool:
        workers = (await fetch(client, "GET", f"{proxy.admin}/workers")).document
        return any(worker["state"] == "waiting" for worker in workers)

    await eventually(waiting)
    return answer


def all_gone(processes: list[psutil.Process]) -> bool:
    """Return whether none is left."""
    return not any(map(is_alive, processes))


def watch_over(processes: list[psutil.Process]) -> Stopwatch:
    """Start a stopwatch that does not count the time in which these waited for CPU time."""
    return Stopwatch(*(process.pid for process in processes))


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [
        pytest.param(signal.SIGTERM, False, id="SIGTERM-the process"),
        *(
            pytest.param(number, True, id=f"{number.name}-its group")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR)
        ),
    ],
)
async def test_a_signal_lets_jobs_in_flight_finish(
    client: ClientSession, proxy: ProxyProcess, number: int, whole_group: bool
) -> None:
    """The job is answered 200, then the process exits with 0, and so do all others. Ctrl-C goes to the whole group."""
    answer = await in_flight(client, proxy, duration=1)
    processes = proxy.descendants()
    assert len(processes) >= 3  # fork server, worker, job server
    if whole_group:
        os.killpg(proxy.pid, number)
    else:
        proxy.signal(number)
    assert (await answer).status == 200
    assert (await answer).document["state"] == "completed"
    assert await asyncio.to_thread(proxy.wait) == 0
    await eventually(lambda: all_gone(processes), 2, watch_over(processes))
    assert proxy.events_of("stopped")


async def test_signals_that_the_parent_had_blocked_are_received(client: ClientSession) -> None:
    """By all processes: those of the front end stop it, and SIGCHLD lets the fork server reap its workers."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        proxy = ProxyProcess()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    with proxy:
        proxy.wait_until_listening()
        assert (await post_job(client, proxy.queue_job)).status == 200
        finished = await eventually(lambda: proxy.events_of("job succeeded"))
        await eventually(lambda: not psutil.pid_exists(finished[0]["worker_pid"]))
        proxy.signal(signal.SIGPWR)
        assert await asyncio.to_thread(proxy.wait) == 0


async def test_an_idle_proxy_ends_at_once(plain_proxy: ProxyProcess) -> None:
    """There is nothing to wait for."""
    proxy = plain_proxy
    processes = proxy.descendants()
    watch = proxy.stopwatch()
    proxy.signal(signal.SIGTERM)
    await eventually(lambda: proxy.returncode is not None, 5, watch)
    assert proxy.wait() == 0
    await eventually(lambda: all_gone(processes), 2, watch_over(processes))


async def test_an_embedded_job_server_that_dies_is_reaped(proxy: ProxyProcess) -> None:
    """Otherwise no later orphan would be; and the proxy still ends as usual."""
    job_server = next(one for one in proxy.descendants() if "jobserver" in one.cmdline())
    job_server.kill()
    await eventually(lambda: not psutil.pid_exists(job_server.pid))
    assert await asyncio.to_thread(proxy.stop) == 0


async def test_with_a_drain_delay_jobs_are_accepted_while_balancers_notice(
    client: ClientSession, job_server: JobServer
) -> None:
    """After SIGTERM it is not ready, but still serves what is sent; then it drains and exits with 0."""
    with ProxyProcess.started(DRAIN_DELAY="2", JOB_SERVER_URL=job_server.url) as proxy:
        assert (await fetch(client, "GET", f"{proxy.url}/readyz")).status == 200
        proxy.signal(signal.SIGTERM)
        await eventually(lambda: proxy.events_of("shutting down soon: not ready, still accepting jobs"))
        ready = await fetch(client, "GET", f"{proxy.url}/readyz")
        assert (ready.status, ready.document["code"]) == (503, "shutting-down")
        assert (await post_job(client, proxy.queue_job)).status == 200
        assert not proxy.events_of("shutting down: draining jobs in flight")
        assert await asyncio.to_thread(proxy.wait) == 0
        assert proxy.events_of("shutting down: draining jobs in flight")


async def test_signals_without_a_meaning_end_nothing(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """Log rotation and the like send them; their default action would end the process silently."""
    proxy = proxies.get()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        proxy.signal(number)
    lines = await eventually(lambda: proxy.events_of("an unsupported signal is ignored")[1:])
    assert lines[0]["signal"] in {"SIGUSR1", "SIGUSR2"}
    assert (await post_job(client, proxy.queue_job)).status == 200


async def test_ctrl_c_does_not_wait_for_balancers(job_server: JobServer) -> None:
    """Someone at a terminal is not a load balancer."""
    with ProxyProcess.started(DRAIN_DELAY="600", JOB_SERVER_URL=job_server.url) as proxy:
        proxy.signal(signal.SIGINT)
        assert await asyncio.to_thread(proxy.wait) == 0


async def test_a_second_signal_ends_the_delay_too(job_server: JobServer) -> None:
    """At once, as it ends everything."""
    with ProxyProcess.started(DRAIN_DELAY="600", JOB_SERVER_URL=job_server.url) as proxy:
        proxy.signal(signal.SIGTERM)
        await eventually(lambda: proxy.events_of("shutting down soon: not ready, still accepting jobs"))
        await eventually(lambda: proxy.ended_by(signal.SIGINT))
        assert await asyncio.to_thread(proxy.wait) == 128 + signal.SIGINT


async def test_a_second_signal_ends_it_at_once(client: ClientSession, proxy: ProxyProcess) -> None:
    """A long job does not delay it; the exit code is that of a signal."""
    answer = await in_flight(client, proxy, fault="never")
    processes = proxy.descendants()
    proxy.signal(signal.SIGTERM)
    await eventually(lambda: proxy.events_of("shutting down: draining jobs in flight"))
    watch = proxy.stopwatch()
    await eventually(lambda: proxy.ended_by(signal.SIGTERM), 2, watch)
    assert await asyncio.to_thread(proxy.wait) == 128 + signal.SIGTERM
    await eventually(lambda: all_gone(processes), 2, watch_over(processes))
    with pytest.raises(ClientConnectionError):
        await answer


@pytest.mark.parametrize("remembers", [False, True], ids=["in memory", "with a journal"])
async def test_when_the_front_end_is_killed_no_process_stays(
    client: ClientSession, tmp_path: Path, remembers: bool
) -> None:
    """SIGKILL with jobs in flight, one of them in a stopped worker: within two seconds all are gone."""
    journal = str(tmp_path / "jobs.sqlite3") if remembers else ""
    with ProxyProcess.started(JOURNAL=journal) as proxy:
        answers = [await in_flight(client, proxy, fault="never"), await in_flight(client, proxy, fault="hang")]
        processes = proxy.descendants()
        workers = (await fetch(client, "GET", f"{proxy.admin}/workers")).document
        os.kill(next(worker["pid"] for worker in workers if worker["job_id"]), signal.SIGSTOP)
        watch = proxy.stopwatch()
        proxy.signal(signal.SIGKILL)
        await eventually(lambda: all_gone(processes), 2, watch)
        for answer in answers:
            with pytest.raises(ClientConnectionError):
                await answer


async def test_after_a_kill_the_same_port_serves_again(
    client: ClientSession, plain_proxy: ProxyProcess, job_server: JobServer
) -> None:
    """Connections of the dead process do not hold its port."""
    proxy = plain_proxy
    answer = await in_flight(client, proxy, fault="never")
    port = proxy.url.rpartition(":")[2]
    await asyncio.to_thread(proxy.kill)
    with ProxyProcess.started(PORT=port, JOB_SERVER_URL=job_server.url) as again:
        assert again.url == proxy.url
        assert (await post_job(client, again.queue_job)).status == 200
        with pytest.raises(ClientConnectionError):
            await answer
        assert await asyncio.to_thread(again.stop) == 0
