"""When the proxy takes no more jobs, and how it recovers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from aiohttp import ClientConnectionError, ClientSession, ClientTimeout, TCPConnector

from tests.support.http import Answer, fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import IN_VAIN_S, eventually

pytestmark = pytest.mark.xdist_group("refusals")


@pytest.fixture
def own_proxy(proxies: SharedProxies, job_server: JobServer) -> ProxyProcess:
    """A proxy that these tests may harm or end; without spares, so that each job needs a new worker."""
    return proxies.get(WORKER_SPARES="0", JOB_TIMEOUT="10")


async def test_beyond_max_jobs_a_job_is_refused_until_there_is_room(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """503 `overloaded` at once; the job in flight is not touched; later there is room again."""
    proxy = proxies.get(MAX_JOBS="1")
    ref = new_ref()
    first = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    problem(await post_job(client, proxy.queue_job), "overloaded", 503, "no")
    assert len(job_server.ledger.submissions) == 1
    await fetch(client, "POST", job_server.callback_url(ref), json={"n": 1})
    assert (await first).document == {"n": 1}
    assert (await post_job(client, proxy.queue_job)).status == 200


async def test_an_overload_is_answered_before_the_body_is_read(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """An invalid body gets the same 503: nobody looked at it."""
    proxy = proxies.get(MAX_JOBS="1")
    ref = new_ref()
    first = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    headers = {"Content-Type": "application/json"}
    problem(await fetch(client, "POST", proxy.queue_job, data=b"NaN", headers=headers), "overloaded", 503, "no")
    await fetch(client, "POST", job_server.callback_url(ref), json={})
    assert (await first).status == 200


@contextlib.contextmanager
def no_descriptors_left(pid: int) -> Iterator[None]:
    """Keep a process from opening any descriptor."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def fork_server(proxy: ProxyProcess) -> psutil.Process:
    """Return the process that forks the workers: our child that leads its session; orphaned workers do not."""
    children = psutil.Process(proxy.pid).children()
    (found,) = (child for child in children if "worker" in child.cmdline() and os.getsid(child.pid) == child.pid)
    return found


async def test_where_no_worker_can_be_made_jobs_are_refused_and_it_recovers_by_itself(
    client: ClientSession, own_proxy: ProxyProcess, job_server: JobServer
) -> None:
    """503 `no-worker` within a second, and `readyz` says so; jobs in flight go on; two seconds later all is well."""
    ref = new_ref()
    running = asyncio.create_task(post_job(client, own_proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    with no_descriptors_left(fork_server(own_proxy).pid):
        watch = own_proxy.stopwatch()
        problem(await post_job(client, own_proxy.queue_job), "no-worker", 503, "no")
        assert watch.own_s < 1
        problem(await fetch(client, "GET", f"{own_proxy.url}/readyz"), "no-worker", 503)
        assert (await fetch(client, "GET", f"{own_proxy.url}/healthz")).status == 200
    assert len(job_server.ledger.submissions) == 1

    async def served() -> bool:
        return (await post_job(client, own_proxy.queue_job)).status == 200

    await eventually(served, 2, own_proxy.stopwatch())
    assert (await fetch(client, "GET", f"{own_proxy.url}/readyz")).status == 200
    await fetch(client, "POST", job_server.callback_url(ref), json={"n": 1})
    assert (await running).document == {"n": 1}


async def test_whoever_waits_leaves_room_for_the_callback(own_proxy: ProxyProcess, job_server: JobServer) -> None:
    """More clients wait than there are descriptors: the last descriptors are kept for the callbacks."""
    connector = TCPConnector(limit=0, force_close=True)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=IN_VAIN_S)) as many:
        ref, later = new_ref(), {"Prefer": "respond-async"}
        accepted = await post_job(many, own_proxy.queue_job, ref=ref, fault="never", headers=later)
        await eventually(lambda: job_server.submissions(ref))
        used = len(list(Path(f"/proc/{own_proxy.pid}/fd").iterdir()))
        before = resource.prlimit(own_proxy.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(own_proxy.pid, resource.RLIMIT_NOFILE, (used + 150, before[1]))
        result = f"{own_proxy.url}{accepted.headers['Location']}/result"
        waits: list[asyncio.Task[Answer]] = []
        for _ in range(25):  # not all at once: most connections without a request would be closed again
            waits += [asyncio.create_task(fetch(many, "GET", result, headers={"Prefer": "wait=8"})) for _ in range(10)]
            await fetch(many, "GET", f"{own_proxy.url}/healthz")
        assert any(wait.done() for wait in waits), "those that would take the last descriptors are told to ask later"
        assert not all(wait.done() for wait in waits)

        called = await fetch(many, "POST", job_server.callback_url(ref), json={"n": 1})

        assert (called.status, called.document) == (200, {"status": "accepted"})
        # A client that was too slow to send its request may be closed in favour of others.
        answers = await asyncio.gather(*map(_answer, waits))
        resource.prlimit(own_proxy.pid, resource.RLIMIT_NOFILE, before)
    assert {answer.status for answer in answers if answer} == {200, 202}, answers
    assert {"n": 1} in [answer.document for answer in answers if answer]


async def _answer(waiting: asyncio.Task[Answer]) -> Answer | None:
    """Return the answer; None if the connection was closed."""
    with contextlib.suppress(ClientConnectionError):
        return await waiting
    return None


async def test_while_the_machine_is_short_of_something_the_proxy_is_not_ready(
    client: ClientSession, own_proxy: ProxyProcess
) -> None:
    """Every job is refused, so load balancers are told; one log line when it begins, one when it is over."""
    ready = f"{own_proxy.url}/readyz"
    assert (await fetch(client, "GET", ready)).status == 200
    begun, ended = "new jobs are refused until the machine has room", "the machine has room again"
    earlier = {event: len(own_proxy.events_of(event)) for event in (begun, ended)}
    before = resource.prlimit(own_proxy.pid, resource.RLIMIT_NOFILE)
    used = len(list(Path(f"/proc/{own_proxy.pid}/fd").iterdir()))
    resource.prlimit(own_proxy.pid, resource.RLIMIT_NOFILE, (used + 20, before[1]))
    for _ in range(3):
        problem(await post_job(client, own_proxy.queue_job), "overloaded", 503, "no")
        problem(await fetch(client, "GET", ready), "overloaded", 503)
    await eventually(lambda: own_proxy.events_of(begun)[earlier[begun] :])
    resource.prlimit(own_proxy.pid, resource.RLIMIT_NOFILE, before)
    await eventually(lambda: own_proxy.events_of(ended)[earlier[ended] :])
    (begins,) = own_proxy.events_of(begun)[earlier[begun] :]
    assert begins["short_of"] == "file descriptors"
    assert (await fetch(client, "GET", ready)).status == 200
    assert (await post_job(client, own_proxy.queue_job)).status == 200


async def test_a_killed_fork_server_is_replaced_and_its_workers_finish(
    client: ClientSession, own_proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The job in flight gets its answer from its worker; the next job gets a worker of the new fork server."""
    ref = new_ref()
    running = asyncio.create_task(post_job(client, own_proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    first = fork_server(own_proxy)
    first.kill()

    async def served() -> bool:
        return (await post_job(client, own_proxy.queue_job)).status == 200

    await eventually(served)
    assert fork_server(own_proxy).pid != first.pid
    await fetch(client, "POST", job_server.callback_url(ref), json={"n": 1})
    assert ((await running).status, (await running).document) == (200, {"n": 1})


async def test_while_it_drains_new_jobs_are_refused_and_those_in_flight_are_answered(
    client: ClientSession, own_proxy: ProxyProcess, job_server: JobServer
) -> None:
    """503 `shutting-down`, also from `readyz`; the callback is still accepted; then the process exits with 0."""
    ref = new_ref()
    running = asyncio.create_task(post_job(client, own_proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    own_proxy.signal(signal.SIGTERM)
    await eventually(lambda: own_proxy.events_of("shutting down: draining jobs in flight"))

    async def refused() -> bool:
        return (await fetch(client, "GET", f"{own_proxy.url}/readyz")).status == 503

    await eventually(refused)
    problem(await post_job(client, own_proxy.queue_job), "shutting-down", 503, "no")
    problem(await fetch(client, "GET", f"{own_proxy.url}/readyz"), "shutting-down", 503)
    await fetch(client, "POST", job_server.callback_url(ref), json={"n": 1})
    assert (await running).document == {"n": 1}
    assert await asyncio.to_thread(own_proxy.wait) == 0
    with pytest.raises(ClientConnectionError):
        await fetch(client, "GET", f"{own_proxy.url}/healthz")


@pytest.mark.parametrize("fast", ["true", "false"])
async def test_jobs_in_flight_are_answered_although_their_listener_takes_no_more(
    client: ClientSession, job_server: JobServer, fast: str
) -> None:
    """If callbacks have a listener of their own, the other one closes at once; its answers may take to the deadline."""
    settings = {"CALLBACK_PORT": "0", "JOB_TIMEOUT": "5", "FAST_HTTP": fast, "JOB_SERVER_URL": job_server.url}
    with ProxyProcess.started(**settings) as proxy:
        ref = new_ref()
        running = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
        await eventually(lambda: job_server.submissions(ref))
        proxy.signal(signal.SIGTERM)
        problem(await running, "deadline-exceeded", 500, "yes")
        assert await asyncio.to_thread(proxy.wait) == 0


async def test_a_refused_request_leaves_a_line_and_no_token(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The line says who, what and why, but not the path: a callback to a wrong path has its token there."""
    token = new_ref() + "Zq0yJv0m4n3sS1c2k9Qh7bqVvF1WJm8e"
    paths = (token, f"callback{token}", f"callback/{token}", f"{token}/callback", f"nothing/{token}", f"docs?{token}")

    for path in paths:
        await fetch(client, "SEARCH", f"{proxy.url}/{path}", json={"state": "completed"})  # used by no other test

    def routes() -> list[str]:
        return [line["route"] for line in proxy.events_of("request refused") if line["method"] == "SEARCH"]

    await eventually(lambda: len(routes()) == len(paths))
    assert routes() == ["/...", "/...", "/callback", "/...", "/nothing", "/docs"]
    assert not any(token in line for line in proxy.stderr)
