"""Every way in which the job server or the worker can fail a job, and the answer that the client gets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from tests.support.http import fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

#: In one process of pytest-xdist, so that its proxies are started once.
pytestmark = pytest.mark.xdist_group("failures")

_SETTINGS: Final = {"LOST_REPLY_WAIT": "0.2", "SUBMIT_RETRIES": "1"}
#: For jobs that end at their deadline. On a busy machine, others may take as long.
_BRIEF: Final = _SETTINGS | {"JOB_TIMEOUT": "2"}
_STATUSES: Final = {
    "deadline-exceeded": (500, 504),
    "job-server-unavailable": (500, 502),
    "job-rejected": (500, 502),
    "bad-job-server-reply": (500, 502),
    "job-failed": (500, 502),
}


def row(fault: str, code: str, submitted: str, **fields: object) -> Any:  # noqa: ANN401 - a pytest parameter
    """A job that asks for `fault`, and its expected outcome."""
    name = "-".join([fault, *map(str, fields.values())])
    return pytest.param({"fault": fault, **fields}, code, submitted, id=name)


ROWS: Final = [
    row("never", "deadline-exceeded", "yes"),
    row("late", "deadline-exceeded", "yes"),
    row("hang", "deadline-exceeded", "unknown"),
    row("slow-reply", "deadline-exceeded", "unknown"),
    row("drop", "job-server-unavailable", "unknown"),
    row("reset", "job-server-unavailable", "unknown"),
    row("reject", "job-rejected", "no"),
    row("reject", "job-rejected", "no", status=404),
    row("reject", "job-rejected", "no", status=499),
    row("refuse", "job-rejected", "no"),
    row("rate-limit", "job-rejected", "no", times=100),
    row("server-error", "job-rejected", "unknown"),
    row("server-error", "job-rejected", "unknown", status=502),
    row("server-error", "job-rejected", "unknown", status=599),
    row("unavailable", "job-rejected", "unknown"),
    row("redirect", "job-rejected", "unknown", status=301),
    row("redirect", "job-rejected", "unknown", status=302),
    row("redirect", "job-rejected", "unknown", status=307),
    row("redirect", "job-rejected", "unknown", status=308),
    row("garbage", "bad-job-server-reply", "unknown"),
    row("wrong-state", "bad-job-server-reply", "unknown"),
    row("short-body", "bad-job-server-reply", "unknown"),
    row("endless-body", "bad-job-server-reply", "unknown"),
    row("gzip-bomb", "bad-job-server-reply", "unknown"),
    row("many-headers", "bad-job-server-reply", "unknown"),
    row("deep-json", "bad-job-server-reply", "unknown"),
    row("failed", "job-failed", "yes"),
    row("error", "job-failed", "yes"),
]


@pytest.mark.parametrize(("job", "code", "submitted"), ROWS)
async def test_a_failure_is_told_by_its_code(
    client: ClientSession,
    proxies: SharedProxies,
    job_server: JobServer,
    job: dict[str, Any],
    code: str,
    submitted: str,
) -> None:
    """Code, status, granular status and `submitted` are as in the contract; at most one submission was not refused."""
    settings = _BRIEF if code == "deadline-exceeded" else _SETTINGS
    plain, granular = proxies.get(**settings), proxies.get(**settings, GRANULAR_ERRORS="true")
    refs = [new_ref(), new_ref()]
    answers = await asyncio.gather(
        post_job(client, plain.queue_job, ref=refs[0], **job), post_job(client, granular.queue_job, ref=refs[1], **job)
    )
    for answer, status, ref in zip(answers, _STATUSES[code], refs, strict=True):
        document = problem(answer, code, status, submitted)
        assert document["job_id"]
        assert len(job_server.started(ref)) == (0 if submitted == "no" else 1)
    assert job_server.ledger.elsewhere == 0


@pytest.mark.parametrize("fault", ["failed", "error"])
async def test_a_failed_jobs_answer_holds_the_callbacks_body(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, fault: str
) -> None:
    """`result` is the callback's body."""
    ref = new_ref()
    document = problem(await post_job(client, proxy.queue_job, ref=ref, fault=fault), "job-failed", 500, "yes")
    assert document["result"]["state"] == fault
    assert document["result"]["id"] == job_server.submission(ref).id


async def test_the_result_of_a_failed_job_keeps_its_numbers(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The answer holds the callback's text unchanged."""
    ref = new_ref()
    answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    body = b'{"state": "failed", "amount": 0.10, "big": 1e400}'
    await fetch(client, "POST", job_server.callback_url(ref), data=body)
    problem(await answer, "job-failed", 500, "yes")
    assert b'"result": ' + body in (await answer).body


async def test_a_job_server_that_refuses_connections_is_unavailable(
    client: ClientSession, proxies: SharedProxies, job_server_port: int
) -> None:
    """Nothing was submitted: the port is reserved, and nobody listens there in this test."""
    for settings, status in ((_SETTINGS, 500), (_SETTINGS | {"GRANULAR_ERRORS": "true"}, 502)):
        proxy = proxies.get(**settings)
        answer = await post_job(client, proxy.queue_job)
        problem(answer, "job-server-unavailable", status, "no")


async def test_a_job_server_whose_name_does_not_resolve_is_unavailable(
    client: ClientSession, proxies: SharedProxies
) -> None:
    """Nothing was submitted; `.invalid` never resolves (RFC 6761)."""
    proxy = proxies.get(JOB_SERVER_URL="http://job-server.invalid/start", SUBMIT_RETRIES="0")
    problem(await post_job(client, proxy.queue_job), "job-server-unavailable", 500, "no")


@pytest.mark.parametrize(
    ("fault", "state", "submitted"), [("hang", "submitting", "unknown"), ("never", "waiting", "yes")]
)
async def test_a_worker_that_dies_is_told_from_the_state_of_its_job(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, fault: str, state: str, submitted: str
) -> None:
    """The worker is killed: `worker-died`, and `submitted` depends on how far the job got."""
    ref = new_ref()
    others = {worker["job_id"] for worker in (await fetch(client, "GET", f"{proxy.admin}/workers")).document}
    posted = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault=fault))
    await eventually(lambda: job_server.submissions(ref))

    async def victim() -> dict[str, Any] | None:
        workers = (await fetch(client, "GET", f"{proxy.admin}/workers")).document
        ours = (worker for worker in workers if worker["job_id"] not in others)
        return next((worker for worker in ours if worker["state"] == state), None)

    worker = await eventually(victim)
    os.kill(worker["pid"], signal.SIGKILL)
    document = problem(await posted, "worker-died", 500, submitted)
    assert document["job_id"] == worker["job_id"]
    assert "SIGKILL" in document["detail"]
    assert (await post_job(client, proxy.queue_job)).status == 200


async def test_a_problem_of_a_job_tells_nothing_it_should_not(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """No address of the job server, no token, no traceback, whatever went wrong."""
    proxy = proxies.get(**_SETTINGS)
    for fault in ("drop", "reject", "garbage", "redirect", "many-headers"):
        ref = new_ref()
        answer = await post_job(client, proxy.queue_job, ref=ref, fault=fault)
        text = answer.body.decode()
        token = job_server.callback_url(ref).rpartition("/")[2]
        for secret in (token, "Traceback", "127.0.0.1", ".py"):
            assert secret not in text
        assert json.loads(text)["detail"]
