"""One key, one job, however often it is sent."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from aiohttp import ClientSession

from tests.support.http import Answer, fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

#: In one process of pytest-xdist, so that its proxies are started once.
pytestmark = pytest.mark.xdist_group("jobs")


def new_key() -> dict[str, str]:
    """Return the header with a unique key."""
    return {"Idempotency-Key": f'"{uuid.uuid4()}"'}


def same(one: Answer, other: Answer) -> bool:
    """Return whether two answers are the same for a client, byte for byte."""
    return (one.status, one.body, one.headers["Job-Id"]) == (other.status, other.body, other.headers["Job-Id"])


async def test_a_finished_job_is_answered_again_to_the_byte(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """With `Idempotent-Replayed`, and without a second submission."""
    ref, key = new_ref(), new_key()

    first = await post_job(client, proxy.queue_job, ref=ref, headers=key)
    second = await post_job(client, proxy.queue_job, ref=ref, headers=key)

    assert first.status == 200
    assert same(first, second)
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert len(job_server.submissions(ref)) == 1


@pytest.mark.parametrize("fault", ["failed", "garbage", "never", "drop"])
async def test_a_failure_is_answered_again_to_the_byte(
    client: ClientSession, proxies: SharedProxies, proxy: ProxyProcess, job_server: JobServer, fault: str
) -> None:
    """A client that was told that the job may have run cannot run it twice by asking again."""
    ref, key = new_ref(), new_key()

    first = await post_job(client, proxy.queue_job, ref=ref, fault=fault, headers=key)
    second = await post_job(client, proxy.queue_job, ref=ref, fault=fault, headers=key)

    assert first.status == 500
    assert first.document["submitted"] != "no"
    assert same(first, second)
    assert len(job_server.submissions(ref)) == 1


async def test_50_simultaneous_requests_are_one_job(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """One submission and 50 equal answers, 49 of them marked as replays."""
    ref, key = new_ref(), new_key()

    answers = await asyncio.gather(
        *(post_job(client, proxy.queue_job, ref=ref, duration=0.3, headers=key) for _ in range(50))
    )

    assert answers[0].status == 200
    assert all(same(answers[0], answer) for answer in answers)
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 49
    assert len(job_server.submissions(ref)) == 1


async def test_who_comes_back_for_a_job_in_flight_gets_its_answer(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The first connection broke; the second request waits for the same job."""
    ref, key = new_ref(), new_key()
    first = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, duration=0.5, headers=key))
    await eventually(lambda: job_server.submissions(ref))
    first.cancel()

    second = await post_job(client, proxy.queue_job, ref=ref, duration=0.5, headers=key)

    assert (second.status, second.headers["Idempotent-Replayed"]) == (200, "true")
    assert second.document["id"] == job_server.submission(ref).id


@pytest.mark.parametrize("in_flight", [True, False], ids=["in flight", "finished"])
async def test_a_key_used_with_another_body_is_422(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, in_flight: bool
) -> None:
    """Whether its job runs or is over; nothing is submitted for the second request."""
    ref, other, key = new_ref(), new_ref(), new_key()
    first = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, duration=0.3, headers=key))
    await eventually(lambda: job_server.submissions(ref))
    if not in_flight:
        await first

    second = await post_job(client, proxy.queue_job, ref=other, headers=key)

    problem(second, "idempotency-key-reused", 422, "unknown")
    assert (await first).status == 200
    assert job_server.submissions(other) == []


async def test_how_the_answer_is_asked_for_does_not_make_it_another_body(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """`wait` is meant for the proxy; the job is the same."""
    ref, key = new_ref(), new_key()

    first = await post_job(client, proxy.queue_job, ref=ref, wait=False, headers=key)
    second = await post_job(client, proxy.queue_job, ref=ref, wait=True, headers=key)

    assert (first.status, second.status) == (202, 200)
    assert first.headers["Job-Id"] == second.headers["Job-Id"]


async def test_a_job_that_was_not_submitted_may_be_run_again(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """`submitted` was `no`, so the same request under the same key is a new job."""
    ref, key = new_ref(), new_key()
    job = {"account": ref, "ref": ref, "fault": "reject"}

    first = await fetch(client, "POST", proxy.queue_job, json=job, headers=key)
    second = await fetch(client, "POST", proxy.queue_job, json=job, headers=key)

    problem(first, "job-rejected", 500, "no")
    problem(second, "job-rejected", 500, "no")
    assert first.headers["Job-Id"] != second.headers["Job-Id"]
    assert "Idempotent-Replayed" not in second.headers
    assert len(job_server.submissions(ref)) == 2
    for answer in (first, second):
        status = await fetch(client, "GET", f"{proxy.url}/jobs/{answer.headers['Job-Id']}")
        assert status.document["code"] == "job-rejected"


@pytest.mark.parametrize(
    "key",
    [
        '"{} with spaces, \\"quotes\\" and \\\\"',
        "8e03978e-40d5-43e8-bc93-{}",
        '"{:x<255}"',
        "YWJj/+{}==",
    ],
)
async def test_keys_of_many_forms_are_taken(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, key: str
) -> None:
    """A string as in RFC 8941, or what clients send that do not know it."""
    ref = new_ref()
    headers = {"Idempotency-Key": key.format(ref)}

    answers = [await post_job(client, proxy.queue_job, ref=ref, headers=headers) for _ in range(2)]

    assert answers[0].status == 200
    assert same(*answers)
    assert len(job_server.submissions(ref)) == 1


@pytest.mark.parametrize(
    "key",
    ["", '""', '"', '"open', "two words", '"a" "b"', '"a";q=1', '"a", "b"', "caf\u00e9", f'"{"x" * 256}"', '"a\\n"'],
)
async def test_a_malformed_key_is_400(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, key: str
) -> None:
    """Better than a job that the client wrongly thinks is safe."""
    ref = new_ref()

    answer = await post_job(client, proxy.queue_job, ref=ref, headers={"Idempotency-Key": key})

    assert "Idempotency-Key" in problem(answer, "invalid-request", 400, "no")["detail"]
    assert job_server.submissions(ref) == []


async def test_two_keys_in_one_request_are_400(client: ClientSession, proxy: ProxyProcess) -> None:
    """Nobody can say which of them counts."""
    headers = [("Idempotency-Key", '"a"'), ("Idempotency-Key", '"b"')]

    answer = await fetch(client, "POST", proxy.queue_job, json={"account": "a"}, headers=headers)

    problem(answer, "invalid-request", 400, "no")


async def test_clients_do_not_see_each_others_keys(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer, journal: str
) -> None:
    """With API keys, an idempotency key belongs to one holder."""
    proxy = proxies.get(API_KEYS="first,second")
    key = new_key()
    ref, other = new_ref(), new_ref()

    one = await post_job(client, proxy.queue_job, ref=ref, headers=key | {"Authorization": "Bearer first"})
    two = await post_job(client, proxy.queue_job, ref=other, headers=key | {"Authorization": "Bearer second"})

    assert (one.status, two.status) == (200, 200)
    assert one.headers["Job-Id"] != two.headers["Job-Id"]
    assert len(job_server.submissions(other)) == 1
