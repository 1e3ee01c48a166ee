"""Both forms of the protocol, the queue of an account, and the ledger, over HTTP."""

import asyncio
import re
import socket
import time
from io import BytesIO

import pytest
from aiohttp import ClientSession

from jobserver.options import Options
from tests.integration.jobserver.jobserver_harness import MakeHarness, request_bytes
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import eventually


async def test_the_synchronous_form_answers_the_result(job_server: MakeHarness) -> None:
    """The connection stays open until the job is done; no callback is sent."""
    jobs = await job_server(Options(duration_s=0.05))
    begun = time.monotonic()
    async with jobs.client.post(jobs.url, json={"account": "a", "wait": True}) as response:
        document = await response.json()
    assert time.monotonic() - begun >= 0.05
    assert document["state"] == "completed"
    assert re.fullmatch(r"[0-9A-F]{40}", document["proof"])
    assert jobs.callbacks == []


async def test_the_asynchronous_form_answers_at_once_and_calls_back(job_server: MakeHarness) -> None:
    """The reply and the callback carry the same id."""
    jobs = await job_server()
    response = await jobs.submit()
    reply = await response.json()
    assert (response.status, reply["state"]) == (200, "running")
    await eventually(lambda: jobs.receiver.received)
    (document,) = jobs.receiver.documents()
    assert document["id"] == reply["id"]
    assert list(document) == ["id", "state", "startedAt", "proof"]
    assert jobs.receiver.content_types == ["application/json"]


async def test_a_job_of_no_duration_does_not_overtake_its_reply(job_server: MakeHarness) -> None:
    """When the callback arrives, the reply can already be read without waiting."""
    jobs = await job_server()
    replies: list[bytes] = []
    with socket.create_connection(("127.0.0.1", jobs.server.port or 0)) as client:
        client.setblocking(False)
        jobs.receiver.on_callback = lambda: replies.append(client.recv(65536))
        client.send(request_bytes({"account": "a", "wait": False, "callback": jobs.receiver.url()}))
        await eventually(lambda: jobs.callbacks)
    assert len(replies) == 1
    assert b'"running"' in replies[0]


async def test_a_job_may_choose_its_duration(job_server: MakeHarness) -> None:
    """`duration` overrides the option."""
    jobs = await job_server(Options(duration_s=60))
    await jobs.submit(duration=0)
    await eventually(lambda: jobs.receiver.received)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"account": "a", "wait": false}'])
async def test_what_is_no_submission_gets_a_400_that_says_why(job_server: MakeHarness, body: bytes) -> None:
    """The answer is JSON, and the ledger counts it as refused."""
    jobs = await job_server()
    async with jobs.client.post(jobs.url, data=body) as response:
        problem = await response.json()
    assert response.status == 400
    assert problem["error"]
    (entry,) = jobs.ledger.submissions
    assert (entry.refused, entry.status, entry.ran) == (True, 400, False)


async def test_an_unknown_fault_gets_a_400_that_names_the_known_ones(job_server: MakeHarness) -> None:
    """So that a typing error is not taken for a job without a fault."""
    jobs = await job_server()
    response = await jobs.submit(fault="lightning")
    assert response.status == 400
    assert "slow-reply" in (await response.json())["error"]


async def test_a_body_over_the_cap_gets_a_413(job_server: MakeHarness) -> None:
    """At most 16 MiB are read."""
    jobs = await job_server()
    async with jobs.client.post(jobs.url, data=BytesIO(bytes(16 * 1024 * 1024 + 1))) as response:
        assert response.status == 413
        assert (await response.json())["error"]


async def test_synchronous_jobs_of_an_account_are_served_one_after_the_other(job_server: MakeHarness) -> None:
    """With N connections, it takes N times the duration."""
    jobs = await job_server(Options(duration_s=0.05))

    async def run() -> float:
        async with jobs.client.post(jobs.url, json={"account": "a", "wait": True}) as response:
            assert response.status == 200
        return time.monotonic()

    begun = time.monotonic()
    ends = sorted(await asyncio.gather(*(run() for _ in range(5))))
    assert ends[-1] - begun >= 0.25


async def test_asynchronous_jobs_of_an_account_run_together(job_server: MakeHarness) -> None:
    """With a connection closed after each reply, no submission waits for a job."""
    jobs = await job_server(Options(duration_s=0.5))
    watch = Stopwatch()
    urls = [jobs.receiver.url(str(number)) for number in range(20)]
    await asyncio.gather(*(jobs.submit(callback=url) for url in urls))
    await eventually(lambda: len(jobs.receiver.received) == 20)
    starts = [entry.at_s for entry in jobs.ledger.submissions]
    ends = [entry.at_s for entry in jobs.ledger.callbacks]
    # One after the other would take 10 s; all were accepted before the first was done.
    assert max(starts) < min(ends) + watch.starved_s


async def test_an_idle_connection_keeps_its_account_busy_until_it_closes(job_server: MakeHarness) -> None:
    """Keep-alive is what makes the real job server slow."""
    jobs = await job_server()
    job = {"account": "a", "wait": True}
    async with ClientSession() as keeper:
        async with keeper.post(jobs.url, json=job) as response:
            await response.read()
        second = asyncio.create_task(jobs.submit(account="a"))
        other = await jobs.submit(account="b")
        assert other.status == 200
        async with keeper.post(jobs.url, json=job) as response:
            assert response.status == 200
        assert not second.done()
    assert (await second).status == 200


async def test_without_the_queue_an_account_has_any_number_of_connections(job_server: MakeHarness) -> None:
    """The option turns the rule off."""
    jobs = await job_server(Options(duration_s=0, account_queue=False))
    async with ClientSession() as keeper:
        async with keeper.post(jobs.url, json={"account": "a", "wait": True}) as response:
            await response.read()
        assert (await jobs.submit(account="a")).status == 200


async def test_a_client_that_leaves_the_queue_does_not_block_it(job_server: MakeHarness) -> None:
    """Its job never runs, and the next one gets its turn."""
    jobs = await job_server()
    _, holder = await jobs.send({"account": "a", "fault": "hang"})
    await eventually(lambda: jobs.ledger.submissions)
    _, leaver = await jobs.send({"account": "a", "ref": "left"})
    waiting = asyncio.create_task(jobs.submit(account="a", ref="stayed"))
    leaver.close()
    await eventually(lambda: jobs.ledger.counts["left_queue"] == 1)
    holder.close()
    assert (await waiting).status == 200
    assert [entry.ref for entry in jobs.ledger.submissions] == [None, "stayed"]


async def test_the_ledger_shows_exactly_what_was_sent(job_server: MakeHarness) -> None:
    """Body, raw text and the headers that matter can be read over HTTP."""
    jobs = await job_server()
    raw = '{"account": "a", "ref": "r", "amount": 1.50, "wait": true}'
    headers = {"traceparent": "00-1-2-03", "Accept-Encoding": "identity"}
    async with jobs.client.post(jobs.url, data=raw, headers=headers) as response:
        document = await response.json()
    async with jobs.client.get(jobs.server.make_url("/ledger")) as response:
        ledger = await response.json()
    (entry,) = ledger["submissions"]
    assert entry["raw"] == raw
    assert entry["body"] == {"account": "a", "ref": "r", "amount": 1.5, "wait": True}
    assert entry["headers"]["traceparent"] == "00-1-2-03"
    assert entry["headers"]["accept-encoding"] == "identity"
    assert entry["headers"]["connection"] == "close"
    assert (entry["id"], entry["ran"], entry["status"]) == (document["id"], True, 200)
    assert ledger["summary"]["by_fault"] == {"none": 1}


async def test_the_ledger_can_be_cut_summed_up_and_cleared(job_server: MakeHarness) -> None:
    """The three other views of it."""
    jobs = await job_server()
    for _ in range(3):
        await jobs.submit()
    await eventually(lambda: len(jobs.callbacks) == 3)
    ledger_url = jobs.server.make_url("/ledger")
    async with jobs.client.get(ledger_url, params={"last": "1"}) as response:
        assert [entry["n"] for entry in (await response.json())["submissions"]] == [3]
    async with jobs.client.get(ledger_url, params={"last": "x"}) as response:
        assert response.status == 400
    async with jobs.client.get(jobs.server.make_url("/ledger/summary")) as response:
        summary = await response.json()
    assert (summary["submissions"], summary["callbacks_accepted"]) == (3, 3)
    async with jobs.client.delete(ledger_url) as response:
        assert response.status == 204
    assert jobs.ledger.summary()["submissions"] == 0


async def test_a_callback_is_sent_once_by_default(job_server: MakeHarness) -> None:
    """The public job server does not retry, whatever the answer."""
    jobs = await job_server()
    jobs.receiver.statuses = [500]
    await jobs.submit()
    await eventually(lambda: jobs.callbacks)
    await jobs.submit(callback=jobs.receiver.url("next"))
    await eventually(lambda: len(jobs.callbacks) == 2)
    assert [entry.status for entry in jobs.callbacks] == [500, 200]
    assert [entry.attempt for entry in jobs.callbacks] == [1, 1]


async def test_callback_retries_go_on_until_a_2xx(job_server: MakeHarness) -> None:
    """With the option, a refused callback is sent again and then no more."""
    jobs = await job_server(Options(duration_s=0, callback_retries=5, callback_retry_pause_s=0.01))
    jobs.receiver.statuses = [503, 404]
    await jobs.submit()
    await eventually(lambda: len(jobs.callbacks) == 3)
    assert [(entry.status, entry.attempt) for entry in jobs.callbacks] == [(503, 1), (404, 2), (200, 3)]


async def test_a_callback_that_finds_nobody_is_noted_with_its_error(job_server: MakeHarness) -> None:
    """There was no answer: no status, but the reason."""
    jobs = await job_server()
    await jobs.submit(callback="http://127.0.0.1:1/callback/x")
    await eventually(lambda: jobs.callbacks)
    (entry,) = jobs.callbacks
    assert entry.status is None
    assert entry.error is not None
    assert "ClientConnectorError" in entry.error
