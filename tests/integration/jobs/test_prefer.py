"""How long a client waits is its own choice: the `Prefer` header."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession

from tests.support.http import Answer, fetch, new_ref, post_job
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually

#: In one process of pytest-xdist, so that its proxies are started once.
pytestmark = pytest.mark.xdist_group("jobs")


def location(proxy: ProxyProcess, answer: Answer, applied: str | None) -> str:
    """Check that an answer is a complete 202, and return the job's address."""
    assert answer.status == 202, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Location"] == f"/jobs/{answer.headers['Job-Id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers.get("Preference-Applied") == applied
    assert answer.document["id"] == answer.headers["Job-Id"]
    assert answer.document["outcome"] is None
    return proxy.url + answer.headers["Location"]


@pytest.mark.parametrize(
    ("prefer", "wait", "applied"),
    [
        ("respond-async", True, "respond-async"),
        ("Respond-Async", True, "respond-async"),
        ("handling=lenient, respond-async", True, "respond-async"),
        ("respond-async; foo=bar", True, "respond-async"),
        ("wait=0", True, "wait=0"),
        ("respond-async, wait=0", True, "respond-async, wait=0"),
        (None, False, "respond-async"),
    ],
)
async def test_who_does_not_want_to_wait_is_answered_at_once(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, prefer: str | None, wait: bool, applied: str
) -> None:
    """202 with where and when to ask; the job goes on, and its result is the usual answer."""
    ref = new_ref()
    headers = {"Prefer": prefer} if prefer else None

    answer = await post_job(client, proxy.queue_job, ref=ref, duration=0.2, wait=wait, headers=headers)
    job = location(proxy, answer, applied)
    result = await fetch(client, "GET", f"{job}/result", headers={"Prefer": "wait=5"})

    assert (result.status, result.document["id"]) == (200, job_server.submission(ref).id)
    assert result.headers["Job-Id"] == answer.headers["Job-Id"]


async def test_a_job_that_is_quick_enough_is_answered_as_usual(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """`wait=N` is a limit, not a delay."""
    answer = await post_job(client, proxy.queue_job, headers={"Prefer": "wait=20"})

    assert (answer.status, answer.document["state"]) == (200, "completed")
    assert answer.headers["Preference-Applied"] == "wait=20"


async def test_a_job_that_takes_longer_is_answered_202_after_that_time(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The job goes on."""
    ref = new_ref()
    watch = proxy.stopwatch()

    answer = await post_job(client, proxy.queue_job, ref=ref, fault="never", headers={"Prefer": "wait=1"})

    assert watch.took_s > 0.9
    assert watch.own_s < 1.45
    job = location(proxy, answer, "wait=1")
    assert answer.document["state"] == "waiting"
    await fetch(client, "POST", job_server.callback_url(ref), json={"state": "completed"})
    await eventually(lambda: _is_done(client, job))


@pytest.mark.parametrize(
    "prefer", ["wait", "wait=", "wait=-1", "wait=1.5", "wait=soon", "wait=9999999999", "=", ",,,", '"', "x" * 5000]
)
async def test_a_preference_that_makes_no_sense_is_passed_over(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, prefer: str
) -> None:
    """As RFC 7240 says; there is only the final answer."""
    answer = await post_job(client, proxy.queue_job, headers={"Prefer": prefer})

    assert (answer.status, answer.document["state"]) == (200, "completed")
    assert "Preference-Applied" not in answer.headers


async def test_without_a_preference_there_is_one_final_answer(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """Never a 202."""
    answer = await post_job(client, proxy.queue_job, duration=0.5)

    assert answer.status == 200
    assert {"Location", "Retry-After", "Preference-Applied"}.isdisjoint(answer.headers)


async def _is_done(client: ClientSession, job: str) -> bool:
    return (await fetch(client, "GET", f"{job}/result")).status == 200
