"""The routes of one job."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest
from aiohttp import ClientSession

from tests.support.http import Answer, fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

#: In one process of pytest-xdist, so that its proxies are started once.
pytestmark = pytest.mark.xdist_group("jobs")

ASYNC = {"Prefer": "respond-async"}


async def test_the_status_document_follows_the_job(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """From submission to result, with its times."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref, fault="never", headers=ASYNC)
    job = proxy.url + answer.headers["Location"]
    waiting = await eventually(lambda: _in_state(client, job, "waiting"))
    assert (waiting["submitted"], waiting["outcome"], waiting["finished_at"]) == ("yes", None, None)

    await fetch(client, "POST", job_server.callback_url(ref), json={"state": "completed"})
    done = await eventually(lambda: _in_state(client, job, "finished"))

    assert (done["submitted"], done["outcome"], done["code"], done["late"]) == ("yes", "succeeded", None, False)
    times = [datetime.fromisoformat(done[name]) for name in ("accepted_at", "finished_at", "deadline_at")]
    assert times == sorted(times)
    assert (times[2] - times[0]).total_seconds() == pytest.approx(2, abs=0.01)
    assert done["callbacks"]["accepted"] == 1


@pytest.mark.parametrize("fault", ["none", "failed", "reject", "garbage", "never"])
async def test_the_result_is_what_the_original_request_was_answered(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, fault: str
) -> None:
    """Status, type and body, for success and failure."""
    answer = await post_job(client, proxy.queue_job, fault=fault)

    result = await fetch(client, "GET", f"{proxy.url}/jobs/{answer.headers['Job-Id']}/result")

    assert (result.status, result.body) == (answer.status, answer.body)
    for name in ("Content-Type", "Job-Id"):
        assert result.headers[name] == answer.headers[name]


async def test_a_result_that_is_not_there_yet_is_202(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """At once, with the status document and Retry-After."""
    answer = await post_job(client, proxy.queue_job, duration=1, headers=ASYNC)

    result = await fetch(client, "GET", f"{proxy.url}{answer.headers['Location']}/result")

    assert (result.status, result.document["outcome"]) == (202, None)
    assert result.headers["Retry-After"] == "1"


async def test_a_cancelled_job_is_over_for_everybody(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """Its worker is stopped, a waiting client is told the true `submitted`, and it stays cancelled."""
    ref, key = new_ref(), {"Idempotency-Key": new_ref()}
    waiting = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never", headers=key))
    await eventually(lambda: job_server.submissions(ref))
    joined = await post_job(client, proxy.queue_job, ref=ref, fault="never", headers=key | ASYNC)
    job = proxy.url + joined.headers["Location"]
    await eventually(lambda: _in_state(client, job, "waiting"))
    pid = await _pid(client, proxy, joined.headers["Job-Id"])

    cancelled = await fetch(client, "DELETE", job)

    assert (cancelled.status, cancelled.document["code"]) == (200, "cancelled")
    problem(await waiting, "cancelled", 500, "yes")
    problem(await fetch(client, "GET", f"{job}/result"), "cancelled", 500, "yes")
    again = await fetch(client, "DELETE", job)
    assert (again.status, again.document) == (200, cancelled.document)
    await eventually(lambda: _is_gone(client, proxy, pid))


async def test_a_finished_job_is_not_changed_by_a_cancellation(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The answer is the job's status."""
    answer = await post_job(client, proxy.queue_job)
    job = f"{proxy.url}/jobs/{answer.headers['Job-Id']}"

    cancelled = await fetch(client, "DELETE", job)

    assert (cancelled.status, cancelled.document["outcome"]) == (200, "succeeded")
    assert (await fetch(client, "GET", f"{job}/result")).body == answer.body


async def test_a_job_can_be_cancelled_at_once(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """Most are still queued for a worker; `no` is said only where nothing was submitted."""
    ref = new_ref()
    proxy = proxies.get(WORKER_SPARES="0")

    answer = await post_job(client, proxy.queue_job, ref=ref, fault="never", headers=ASYNC)
    cancelled = await fetch(client, "DELETE", proxy.url + answer.headers["Location"])

    assert (cancelled.document["state"], cancelled.document["code"]) == ("finished", "cancelled")
    assert cancelled.document["submitted"] != "no" or not job_server.submissions(ref)


@pytest.mark.parametrize("job_id", ["0" * 32, "x", "%00", "..%2f..", "\u20ac"])
@pytest.mark.parametrize(("method", "route"), [("GET", ""), ("GET", "/result"), ("DELETE", "")])
async def test_an_unknown_id_is_404(
    client: ClientSession, proxy: ProxyProcess, job_id: str, method: str, route: str
) -> None:
    """On each of its routes."""
    answer = await fetch(client, method, f"{proxy.url}/jobs/{job_id}{route}")

    problem(answer, "not-found", 404, "unknown")


async def test_the_routes_of_a_job_need_a_key_where_jobs_do(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """An id from a log is not enough to read the result."""
    proxy = proxies.get(API_KEYS="first,second")
    answer = await post_job(client, proxy.queue_job, headers={"Authorization": "Bearer first"})
    job = f"{proxy.url}/jobs/{answer.headers['Job-Id']}"

    for method, url in (("GET", job), ("GET", f"{job}/result"), ("DELETE", job)):
        problem(await fetch(client, method, url), "unauthorized", 401, "unknown")
    allowed = await fetch(client, "GET", f"{job}/result", headers={"Authorization": "Bearer first"})
    assert allowed.body == answer.body


async def _in_state(client: ClientSession, job: str, state: str) -> dict[str, object] | None:
    document: dict[str, object] = (await fetch(client, "GET", job)).document
    return document if document["state"] == state else None


async def _pid(client: ClientSession, proxy: ProxyProcess, job_id: str) -> int:
    workers: Answer = await fetch(client, "GET", f"{proxy.admin}/workers")
    (pid,) = (worker["pid"] for worker in workers.document if worker["job_id"] == job_id)
    return int(pid)


async def _is_gone(client: ClientSession, proxy: ProxyProcess, pid: int) -> bool:
    workers: Answer = await fetch(client, "GET", f"{proxy.admin}/workers")
    return all(worker["pid"] != pid for worker in workers.document)
