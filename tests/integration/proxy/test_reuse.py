"""How many jobs a worker process serves, and that no job sees leftovers of an earlier one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.support.http import fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("reuse")


async def workers_of(client: ClientSession, proxy: ProxyProcess) -> dict[str, dict[str, Any]]:
    """Return what is shown of the workers that have a job, by its id."""
    workers = (await fetch(client, "GET", f"{proxy.admin}/workers")).document
    return {worker["job_id"]: worker for worker in workers if worker["job_id"]}


async def pid_of(client: ClientSession, proxy: ProxyProcess, job_server: JobServer, **fields: Any) -> int:
    """Run a job to its end, with a callback from the test, and return its worker's process id."""
    ref = new_ref()
    accepted = await post_job(client, proxy.queue_job, ref=ref, fault="never", headers={"Prefer": "respond-async"})
    job_id = accepted.headers["Job-Id"]

    async def at_work() -> int | None:
        worker = (await workers_of(client, proxy)).get(job_id, {})
        return worker["pid"] if worker.get("state") == "waiting" else None

    pid = await eventually(at_work)
    await fetch(client, "POST", job_server.callback_url(ref), json=fields or {"state": "completed"})
    await fetch(client, "GET", f"{proxy.url}/jobs/{job_id}/result", headers={"Prefer": "wait=30"})
    return int(pid)


async def test_by_default_every_job_has_a_process_of_its_own(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """WORKER_MAX_JOBS=1: three jobs, three processes."""
    assert len({await pid_of(client, proxy, job_server) for _ in range(3)}) == 3


async def test_a_worker_serves_as_many_jobs_as_it_may(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """WORKER_MAX_JOBS=2: two jobs in one process, the third in another."""
    proxy = proxies.get(WORKER_MAX_JOBS="2", WORKER_SPARES="0")
    first, second, third = [await pid_of(client, proxy, job_server) for _ in range(3)]
    assert first == second != third


async def test_without_a_limit_a_worker_is_used_again_and_again(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """WORKER_MAX_JOBS=0."""
    proxy = proxies.get(WORKER_MAX_JOBS="0", WORKER_SPARES="0")
    assert len({await pid_of(client, proxy, job_server) for _ in range(4)}) == 1


async def test_a_worker_has_one_thread_to_resolve_names(client: ClientSession, job_server: JobServer) -> None:
    """As docs/operations.md says; uvloop's default is four."""
    url = job_server.url.replace("127.0.0.1", "localhost")
    with ProxyProcess.started(WORKER_MAX_JOBS="0", WORKER_SPARES="1", JOB_SERVER_URL=url) as proxy:
        pid = await pid_of(client, proxy, job_server)
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 2


async def test_an_idle_worker_keeps_no_account_from_another(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """The job server serves one connection per account at a time, even an idle one."""
    proxy = proxies.get(WORKER_MAX_JOBS="0", WORKER_SPARES="0")
    refs = [new_ref(), new_ref()]
    both = [asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never")) for ref in refs]
    await eventually(lambda: all(job_server.submissions(ref) for ref in refs))
    for ref, answer in zip(refs, both, strict=True):
        await fetch(client, "POST", job_server.callback_url(ref), json={"state": "completed"})
        assert (await answer).status == 200

    third = await post_job(client, proxy.queue_job, account=refs[0])  # goes to the most recently used worker

    assert third.status == 200, third.document


async def test_messages_larger_than_a_pipe_reach_a_worker_that_is_used_again(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """Its inbox holds 64 KiB at a time; jobs and results of nearly 1 MB go to the same worker in pieces."""
    proxy = proxies.get(WORKER_MAX_JOBS="0", WORKER_SPARES="0")
    first = await pid_of(client, proxy, job_server)
    padding = "x" * 900_000
    for _ in range(5):
        assert (await post_job(client, proxy.queue_job, padding=padding)).status == 200
        assert await pid_of(client, proxy, job_server, padding=padding) == first


async def test_a_worker_whose_job_failed_is_never_used_again(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """Nobody knows what a failed job left behind."""
    proxy = proxies.get(WORKER_MAX_JOBS="0", WORKER_SPARES="0")
    failed = await pid_of(client, proxy, job_server, state="failed")
    assert failed not in {await pid_of(client, proxy, job_server) for _ in range(2)}


async def test_a_callback_for_a_former_job_never_reaches_the_present_one(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """The same worker has another job when the first one's callback is repeated many times: it is a duplicate."""
    proxy = proxies.get(WORKER_MAX_JOBS="0", WORKER_SPARES="0")
    former = new_ref()
    answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=former, fault="never"))
    await eventually(lambda: job_server.submissions(former))
    (worker,) = (await workers_of(client, proxy)).values()
    await fetch(client, "POST", job_server.callback_url(former), json={"for": "former"})
    assert (await answer).document == {"for": "former"}

    present = new_ref()
    answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=present, fault="never"))
    await eventually(lambda: job_server.submissions(present))
    (now,) = (await workers_of(client, proxy)).values()
    assert (now["pid"], now["jobs_done"]) == (worker["pid"], worker["jobs_done"] + 1)
    for n in range(20):
        again = await fetch(client, "POST", job_server.callback_url(former), json={"for": "former", "n": n})
        assert again.document == {"status": "duplicate"}
    assert not answer.done()
    await fetch(client, "POST", job_server.callback_url(present), json={"for": "present"})
    assert (await answer).document == {"for": "present"}


async def test_a_late_callback_never_reaches_the_job_that_came_after(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """The first job timed out; its callback comes while the second one waits: it is late and reaches no job."""
    proxy = proxies.get(WORKER_MAX_JOBS="0", WORKER_SPARES="1", JOB_TIMEOUT="2")
    former, present = new_ref(), new_ref()
    problem(await post_job(client, proxy.queue_job, ref=former, fault="never"), "deadline-exceeded", 500, "yes")
    answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=present, fault="never"))
    await eventually(lambda: job_server.submissions(present))
    late = await fetch(client, "POST", job_server.callback_url(former), json={"for": "former"})
    assert late.document == {"status": "late"}
    await fetch(client, "POST", job_server.callback_url(present), json={"for": "present"})
    assert (await answer).document == {"for": "present"}
