"""A result that comes too late for its client is kept and can be found."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import uuid

import pytest
from aiohttp import ClientSession

from tests.support.http import Answer, fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually

#: In one process of pytest-xdist, so that its proxies are started once.
pytestmark = pytest.mark.xdist_group("jobs")

RESULT = b'{"state": "completed",  "sum": 0.10}'


async def test_a_late_result_becomes_the_outcome(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """Found by id and by key; the earlier answer stays in the record; a second result changes nothing."""
    ref, key = new_ref(), {"Idempotency-Key": f'"{uuid.uuid4()}"'}
    answer = await post_job(client, proxy.queue_job, ref=ref, fault="never", headers=key)
    problem(answer, "deadline-exceeded", 500, "yes")
    job = f"{proxy.url}/jobs/{answer.headers['Job-Id']}"

    late = await fetch(client, "POST", job_server.callback_url(ref), data=RESULT)
    again = await fetch(client, "POST", job_server.callback_url(ref), data=b'{"state": "failed"}')

    assert (late.status, late.document) == (200, {"status": "late"})
    assert (again.status, again.document) == (200, {"status": "duplicate"})
    status = (await fetch(client, "GET", job)).document
    assert (status["outcome"], status["late"], status["submitted"]) == ("succeeded", True, "yes")
    assert status["earlier_answer"] == {
        "code": "deadline-exceeded", "detail": answer.document["detail"], "submitted": "yes"
    }  # fmt: skip
    by_id = await fetch(client, "GET", f"{job}/result")
    by_key = await post_job(client, proxy.queue_job, ref=ref, fault="never", headers=key)
    assert (by_id.status, by_id.body) == (by_key.status, by_key.body) == (200, RESULT)
    assert len(job_server.submissions(ref)) == 1


async def test_a_late_failure_is_the_jobs_own(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The late callback may say that the job failed."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref, fault="never")

    await fetch(client, "POST", job_server.callback_url(ref), data=b'{"state": "failed"}')
    result = await fetch(client, "GET", f"{proxy.url}/jobs/{answer.headers['Job-Id']}/result")

    assert problem(result, "job-failed", 500, "yes")["result"] == {"state": "failed"}


async def test_a_result_for_a_cancelled_job_is_kept(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The job server was not told about the cancellation, so it goes on."""
    ref = new_ref()
    accepted = await post_job(client, proxy.queue_job, ref=ref, fault="never", headers={"Prefer": "respond-async"})
    job = proxy.url + accepted.headers["Location"]
    await eventually(lambda: job_server.submissions(ref))
    await fetch(client, "DELETE", job)

    late = await fetch(client, "PUT", job_server.callback_url(ref), data=RESULT)

    assert late.document == {"status": "late"}
    assert (await fetch(client, "GET", f"{job}/result")).body == RESULT


async def test_100_late_results_at_once_are_one(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """One is late, the others are duplicates."""
    ref = new_ref()
    await post_job(client, proxy.queue_job, ref=ref, fault="never")
    url = job_server.callback_url(ref)

    answers = await asyncio.gather(*(fetch(client, "POST", url, json={"n": n}) for n in range(100)))

    kinds = [answer.document["status"] for answer in answers]
    assert (kinds.count("late"), kinds.count("duplicate")) == (1, 99)


async def test_a_result_survives_the_worker_it_was_given_to(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The waiting client is told that the worker died; the result is found afterwards."""
    ref = new_ref()
    key = {"Idempotency-Key": ref}
    waiting = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never", headers=key))
    await eventually(lambda: job_server.submissions(ref))
    joined = await post_job(client, proxy.queue_job, ref=ref, fault="never", headers=key | {"Prefer": "respond-async"})
    pid = await eventually(lambda: _pid_of_waiting(client, proxy, joined.headers["Job-Id"]))
    os.kill(pid, signal.SIGSTOP)
    accepted = await fetch(client, "POST", job_server.callback_url(ref), data=RESULT)
    os.kill(pid, signal.SIGKILL)

    answer = await waiting

    assert accepted.document == {"status": "accepted"}
    problem(answer, "worker-died", 500, "yes")
    job = f"{proxy.url}/jobs/{answer.headers['Job-Id']}"
    result = await fetch(client, "GET", f"{job}/result")
    assert (result.status, result.body) == (200, RESULT)
    status = (await fetch(client, "GET", job)).document
    assert (status["late"], status["earlier_answer"]["code"]) == (True, "worker-died")


@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        ("early", {"accepted": 1, "early": 1, "late": 0, "duplicate": 0}),
        ("duplicate", {"accepted": 1, "early": 0, "late": 0, "duplicate": 1}),
        ("many", {"accepted": 1, "early": 0, "late": 0, "duplicate": 99}),
    ],
)
async def test_callbacks_are_counted_by_job(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, fault: str, counted: dict[str, int]
) -> None:
    """In the job's status document."""
    answer = await post_job(client, proxy.queue_job, fault=fault, duration=0.2)
    job = f"{proxy.url}/jobs/{answer.headers['Job-Id']}"

    await eventually(lambda: _has_counted(client, job, counted))


async def test_a_job_that_nobody_called_back_for_is_counted(client: ClientSession, job_server: JobServer) -> None:
    """As `never`; and if its callback comes after all, as `late` in addition."""
    ref = new_ref()
    with ProxyProcess.started(JOB_SERVER_URL=job_server.url, JOB_TIMEOUT="1") as proxy:
        await post_job(client, proxy.queue_job, ref=ref, fault="never")
        before = await _kinds(client, proxy)
        await fetch(client, "POST", job_server.callback_url(ref), data=RESULT)
        after = await _kinds(client, proxy)

    assert (before["never"], before["late"]) == (1, 0)
    assert (after["never"], after["late"]) == (1, 1)


async def _kinds(client: ClientSession, proxy: ProxyProcess) -> dict[str, float]:
    page = (await fetch(client, "GET", f"{proxy.admin}/metrics")).body.decode()
    return {kind: float(count) for kind, count in re.findall(r'callbacks_total\{kind="(\w+)"\} (\S+)', page)}


async def _has_counted(client: ClientSession, job: str, counted: dict[str, int]) -> bool:
    return bool((await fetch(client, "GET", job)).document["callbacks"] == counted)


async def _pid_of_waiting(client: ClientSession, proxy: ProxyProcess, job_id: str) -> int | None:
    workers: Answer = await fetch(client, "GET", f"{proxy.admin}/workers")
    pids = (worker["pid"] for worker in workers.document if (worker["job_id"], worker["state"]) == (job_id, "waiting"))
    return next(pids, None)
