"""The handling of messages, with a stand-in for Amazon SQS in a separate process."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.proxy_process import ProxyProcess
from tests.support.queues import LOOK_S, SomeQueues
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp import ClientSession

    from cluster.sqs import SqsStandIn
    from tests.support.job_server import JobServer
    from tests.support.shared_proxies import SharedProxies

pytestmark = pytest.mark.xdist_group("sqs")


@pytest.fixture(scope="module")
def settings(sqs: SqsStandIn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of a proxy with a journal and with queues that the tests share: they leave no messages there."""
    return {"JOURNAL": str(tmp_path_factory.mktemp("journal") / "jobs.sqlite3"), **sqs.make_queues()}


@pytest.fixture
async def queues(sqs: SqsStandIn, settings: dict[str, str]) -> AsyncIterator[SomeQueues]:
    """Those queues."""
    async with SomeQueues.of_a_cluster(sqs) as queues:
        yield queues


@pytest.fixture
def proxy(proxies: SharedProxies, settings: dict[str, str]) -> ProxyProcess:
    """That proxy."""
    return proxies.get(**settings)


async def test_a_message_is_a_job_its_result_is_the_reply_and_it_is_deleted(
    queues: SomeQueues, proxy: ProxyProcess, job_server: JobServer, client: ClientSession
) -> None:
    """The body is the callback's, byte for byte; the attributes name the job and the message."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    message = await queues.send('{"account": "example", "ref": "one", "cost": 1.10}', {"traceparent": trace})

    reply = await queues.reply(message)

    assert reply.document["state"] == "completed"
    job_id = reply.attributes.pop("Job-Id")
    assert reply.attributes == {
        "Message-Id": message,
        "Outcome": "succeeded",
        "Submitted": "yes",
        "Content-Type": "application/json",
    }
    assert b'"cost":1.10' in job_server.submission("one").raw
    await queues.empty()
    async with client.get(f"{proxy.url}/jobs", params={"message": message}) as answer:
        status = await answer.json()
    assert (status["id"], status["labels"]) == (job_id, {"account": "example", "message": message})


async def test_a_failed_job_is_replied_to_with_the_problem_and_never_repeated(
    queues: SomeQueues, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The job ran, so it is over."""
    message = await queues.send('{"account": "x", "ref": "bad", "fault": "failed"}')

    reply = await queues.reply(message)

    assert reply.attributes["Outcome"] == "failed"
    assert (reply.attributes["Code"], reply.attributes["Submitted"]) == ("job-failed", "yes")
    assert reply.document["code"] == "job-failed"
    await queues.empty()
    assert len(job_server.submissions("bad")) == 1


async def test_what_cannot_be_a_job_goes_to_the_dead_letters_with_the_reason(
    queues: SomeQueues, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """Nothing of it reaches the job server."""
    first = await queues.send('{"account": "x", "ref": "k"}', {"Idempotency-Key": "k"})
    await queues.reply(first)
    wrong = {
        await queues.send("no JSON"): "invalid-request",
        await queues.send('{"callback": "http://elsewhere/"}'): "invalid-request",
        await queues.send("{}", {"Profile": "nobody"}): "not-found",
        await queues.send("{}", {"Content-Type": "text/plain"}): "unsupported-media-type",
        await queues.send("{}", {"ReplyTo": queues.dead}): "forbidden",
        await queues.send('{"account": "x", "ref": "other"}', {"Idempotency-Key": "k"}): "idempotency-key-reused",
    }

    for message, code in wrong.items():
        letter = await queues.dead_letter(message)
        submitted = "unknown" if code == "idempotency-key-reused" else "no"  # the key's own job did run
        assert (letter.attributes["Code"], letter.attributes["Submitted"]) == (code, submitted), letter
        assert letter.attributes["Detail"]

    await queues.empty()
    assert [entry.ref for entry in job_server.ledger.submissions] == ["k"]


async def test_messages_of_one_key_are_one_job_and_each_is_replied_to(
    queues: SomeQueues, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """Two messages with one key mean one job."""
    body, key = '{"account": "x", "ref": "twice"}', {"Idempotency-Key": "twice"}
    messages = [await queues.send(body, key) for _ in range(3)]

    replies = [await queues.reply(message) for message in messages]

    assert len({reply.attributes["Job-Id"] for reply in replies}) == 1
    assert len({reply.body for reply in replies}) == 1
    assert len(job_server.started("twice")) == 1


async def test_the_job_of_a_message_with_a_key_is_found_after_a_restart(
    sqs: SqsStandIn, job_server: JobServer, client: ClientSession, tmp_path: Path
) -> None:
    """By the message's id alone."""
    async with SomeQueues.made(sqs) as queues:  # its own: what has ended may still be sent a message
        settings = {"JOB_SERVER_URL": job_server.url, "JOURNAL": str(tmp_path / "jobs.sqlite3"), **queues.settings}
        with ProxyProcess.started(**settings) as proxy:
            message = await queues.send('{"account": "example"}', {"Idempotency-Key": "known"})
            job_id = (await queues.reply(message)).attributes["Job-Id"]
            await queues.empty()
            assert await asyncio.to_thread(proxy.stop) == 0
    with ProxyProcess.started(**settings) as again:
        for asked, status in ((message, 200), ("another", 404)):
            async with client.get(f"{again.url}/jobs", params={"message": asked}) as answer:
                assert answer.status == status
                assert (await answer.json()).get("id") == (job_id if status == 200 else None)


async def test_a_hundred_messages_are_a_hundred_jobs(
    sqs: SqsStandIn, job_server: JobServer, client: ClientSession, tmp_path: Path
) -> None:
    """And the metrics, to which the messages of other tests would add, add up."""
    async with SomeQueues.made(sqs) as queues:
        settings = {"JOB_SERVER_URL": job_server.url, "JOURNAL": str(tmp_path / "jobs.sqlite3"), **queues.settings}
        with ProxyProcess.started(**settings) as proxy:
            bodies = [json.dumps({"account": "x", "ref": f"many-{one}"}) for one in range(100)]
            messages = await queues.send_all(bodies)
            for message in messages:
                await queues.reply(message)
            await queues.empty()
            assert all(len(job_server.started(f"many-{one}")) == 1 for one in range(100))

            async def counted() -> Counter[str]:
                async with client.get(f"{proxy.admin}/metrics") as answer:
                    found = re.findall(
                        r'^async_job_proxy_queue_messages_total\{fate="(.+)"\} (\d+)', await answer.text(), re.MULTILINE
                    )
                return Counter({fate: int(count) for fate, count in found})

            async def adds_up() -> bool:
                fates = await counted()
                return all(fates[fate] == 100 for fate in ("replied", "deleted"))

            await eventually(adds_up)
            fates = await counted()
            again = fates["given-back"] + fates["overdue"]  # none, on a machine that is fast enough
            assert (fates["received"], fates["dead"]) == (100 + again, 0)
            assert 100 <= fates["begun"] + fates["joined"] <= 100 + again


async def test_what_is_refused_again_and_again_is_dead_by_the_queues_own_redrive(
    sqs: SqsStandIn, job_server: JobServer, tmp_path: Path
) -> None:
    """It certainly never ran; the proxy adds nothing to it, and sends no reply."""
    async with SomeQueues.made(sqs, max_receives=2) as queues:
        settings = {"JOB_SERVER_URL": job_server.url, "JOURNAL": str(tmp_path / "jobs.sqlite3"), **queues.settings}
        with ProxyProcess.started(**settings):
            await queues.send('{"account": "x", "ref": "unwanted", "fault": "reject"}')

            async def dead() -> bool:
                return await queues.left(queues.dead) == (1, 0)

            await eventually(dead, every_s=LOOK_S)
        (letter,) = await queues.messages(queues.dead)
        assert letter.attributes == {}
        assert await queues.messages(queues.replies) == []
        assert len(job_server.submissions("unwanted")) == 2
        assert job_server.started("unwanted") == []
