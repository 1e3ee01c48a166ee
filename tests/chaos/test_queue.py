"""A queue whose proxy is killed, stopped, or loses the service: each message is accounted for in the end.

Every message has exactly one of a reply (or several of the same, where one may have been lost), a dead letter, or its
place in the queue; the job server's ledger has no job twice; and a reply says what the ledger does.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pytest_aiohttp import AiohttpServer

from cluster.sqs import SqsStandIn
from jobserver.app import create_app
from jobserver.options import Options
from tests.support.job_server import JobServer
from tests.support.queues import SomeQueues
from tests.support.restarts import Restarts
from tests.support.waiting import eventually

SEED = int(os.environ.get("QUEUE_SEED", random.randrange(2**31)))
#: How many messages; each kill makes some of them wait until they are delivered again, 16 s later.
MESSAGES = int(os.environ.get("QUEUE_MESSAGES", "60"))
KILLS = int(os.environ.get("QUEUE_KILLS", "3"))
#: Long enough for the slowest: given back some times, and delivered again after some kills.
PATIENCE_S = 90.0 + 20 * KILLS


@pytest.fixture(scope="module")
def sqs() -> Iterator[SqsStandIn]:
    """A server of its own: it is stopped."""
    with SqsStandIn() as server:
        yield server


@pytest.fixture
async def job_server(aiohttp_server: AiohttpServer, job_server_port: int) -> JobServer:
    """A job server of the test's own, with a ledger that the test reads."""
    return JobServer(await aiohttp_server(create_app(Options(duration_s=0.05)), port=job_server_port))


@pytest.fixture
async def queues(sqs: SqsStandIn) -> AsyncIterator[SomeQueues]:
    """Queues that give up nothing."""
    async with SomeQueues.made(sqs, max_receives=50) as queues:
        yield queues


@pytest.mark.timeout(PATIENCE_S + 60)
async def test_each_message_is_accounted_for_whenever_the_proxy_is_killed(
    queues: SomeQueues, job_server: JobServer, tmp_path: Path
) -> None:
    """And whenever the service does not answer for a moment."""
    chance = random.Random(SEED)
    sys.stdout.write(f"QUEUE_SEED={SEED} repeats this\n")
    settings = {"JOB_SERVER_URL": job_server.url, "JOB_TIMEOUT": "3", "LOST_REPLY_WAIT": "0.5", **queues.settings}
    sent: dict[str, str] = {}

    async def send() -> None:
        for number in range(MESSAGES):
            fault = chance.choice(["none", "none", "none", "failed", "refuse-first", "drop", "nothing"])
            body = json.dumps({"account": "x", "ref": f"m{number}", "fault": fault, "duration": chance.random()})
            sent[await queues.send("no JSON" if fault == "nothing" else body)] = f"m{number}"
            await asyncio.sleep(chance.random() * 0.1)

    with Restarts(tmp_path, **settings) as proxies:
        sending = asyncio.create_task(send())
        for kill in range(KILLS):
            await asyncio.sleep(0.3 + chance.random() * 2)
            if kill % 2:
                queues.sqs.pause()
                await asyncio.sleep(chance.random())
                queues.sqs.resume()
            await asyncio.to_thread(proxies.restart)
        await sending

        async def all_settled() -> bool:
            found = [*await queues.messages(queues.replies), *await queues.messages(queues.dead)]
            return {one.attributes["Message-Id"] for one in found} >= sent.keys() and await queues.left() == (0, 0)

        await eventually(all_settled, PATIENCE_S)

    replies, dead = await queues.messages(queues.replies), await queues.messages(queues.dead)
    by_message: dict[str, set[tuple[str, str]]] = {}
    for reply in replies:
        outcome = reply.attributes.get("Code", reply.attributes["Outcome"])
        by_message.setdefault(reply.attributes["Message-Id"], set()).add((outcome, reply.attributes["Submitted"]))
    assert not by_message.keys() & {letter.attributes["Message-Id"] for letter in dead}
    assert all(len(said) == 1 for said in by_message.values()), by_message
    for message, ref in sent.items():
        started = len(job_server.started(ref))
        assert started <= 1, ref
        if message in by_message:
            ((_, submitted),) = by_message[message]
            assert submitted != "no", ref
            assert started == 1 or submitted == "unknown", (ref, by_message[message])
