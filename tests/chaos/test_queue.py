"""A queue whose proxy is killed, stopped, or loses the service: in the end each message is accounted for.

Every message has exactly one of these: a reply (or several equal ones, where one may have been lost), a dead letter, or
its place in the queue; the job server's ledger has no job twice; and the replies agree with the ledger.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from aiohttp import ClientSession
from pytest_aiohttp import AiohttpServer

from cluster.members import Instance
from cluster.options import Options as ClusterOptions
from cluster.running import Cluster
from cluster.sqs import SqsStandIn
from jobserver.app import create_app
from jobserver.options import Options
from tests.support.job_server import JobServer
from tests.support.proxy_process import NOT_INSTALLED
from tests.support.queues import SomeQueues
from tests.support.restarts import Restarts
from tests.support.waiting import eventually

SEED = int(os.environ.get("QUEUE_SEED", random.randrange(2**31)))
#: How many messages; each kill makes some of them wait until they are delivered again, 16 s later.
MESSAGES = int(os.environ.get("QUEUE_MESSAGES", "60"))
KILLS = int(os.environ.get("QUEUE_KILLS", "3"))
#: Long enough for the slowest: given back several times, and delivered again after several kills.
PATIENCE_S = 90.0 + 20 * KILLS
#: How often to look whether all are; each look is several calls.
_LOOK_S = 0.5


@pytest.fixture(scope="module")
def sqs() -> Iterator[SqsStandIn]:
    """A server for this module, as it is stopped."""
    with SqsStandIn() as server:
        yield server


@pytest.fixture
async def job_server(aiohttp_server: AiohttpServer, job_server_port: int) -> JobServer:
    """A job server for the test, which reads its ledger."""
    return JobServer(await aiohttp_server(create_app(Options(duration_s=0.05)), port=job_server_port))


@pytest.fixture
async def queues(sqs: SqsStandIn) -> AsyncIterator[SomeQueues]:
    """Queues that never move a message to the dead letters."""
    async with SomeQueues.made(sqs, max_receives=50) as queues:
        yield queues


@pytest.mark.timeout(PATIENCE_S + 60)
async def test_each_message_is_accounted_for_whenever_the_proxy_is_killed(
    queues: SomeQueues, job_server: JobServer, tmp_path: Path
) -> None:
    """And whenever the service fails to answer for a moment."""
    chance = random.Random(SEED)
    sys.stdout.write(f"QUEUE_SEED={SEED} repeats this\n")
    settings = {"JOB_SERVER_URL": job_server.url, "JOB_TIMEOUT": "3", "LOST_REPLY_WAIT": "0.5", **queues.settings}
    sent: dict[str, str] = {}

    with Restarts(tmp_path, **settings) as proxies:
        sending = asyncio.create_task(send_all(queues, sent, chance))
        for kill in range(KILLS):
            await asyncio.sleep(0.3 + chance.random() * 2)
            if kill % 2:
                queues.sqs.pause()
                await asyncio.sleep(chance.random())
                queues.sqs.resume()
            await asyncio.to_thread(proxies.restart)
        await sending

        await eventually(lambda: settled(queues, sent), PATIENCE_S, every_s=_LOOK_S)

    started = {ref: len(job_server.started(ref)) for ref in sent.values()}
    await check(queues, sent, started)


@pytest.mark.timeout(PATIENCE_S + 60)
async def test_each_message_is_accounted_for_whichever_instances_are_killed_or_stopped(
    monkeypatch: pytest.MonkeyPatch, client: ClientSession
) -> None:
    """Three on one queue and one database; if one is gone or stopped, another joins or takes over."""
    chance = random.Random(SEED)
    sys.stdout.write(f"QUEUE_SEED={SEED} repeats this\n")
    settings = {"JOB_TIMEOUT": "3", "LOST_REPLY_WAIT": "0.5", "LOG_FORMAT": "json"}
    for name, value in {**settings, "PYTHONPATH": str(NOT_INSTALLED)}.items():
        monkeypatch.setenv(name, value)
    with Cluster(ClusterOptions(instances=3, port=0, duration_s=0.05, queue=True)) as cluster:
        assert cluster.sqs is not None
        async with SomeQueues.of_a_cluster(cluster.sqs) as queues:
            sent: dict[str, str] = {}
            sending = asyncio.create_task(send_all(queues, sent, chance))
            for _ in range(2 * KILLS):
                await asyncio.sleep(chance.random())
                await disturb(chance.choice(cluster.instances), chance)
            await sending
            await eventually(lambda: settled(queues, sent), PATIENCE_S, every_s=_LOOK_S)
            async with client.get(f"{cluster.job_server.url}/ledger") as answer:
                submissions = (await answer.json())["submissions"]
            refs = Counter(entry["ref"] for entry in submissions if not entry["refused"])
            await check(queues, sent, refs)


async def disturb(instance: Instance, chance: random.Random) -> None:
    """Kill an instance and start it again, or stop it for a while."""
    if chance.random() < 0.5:
        instance.signal(signal.SIGKILL)
        await asyncio.to_thread(instance.wait)
        instance.start()
        await asyncio.to_thread(instance.wait_until, "/healthz")
    else:
        instance.signal(signal.SIGSTOP)
        await asyncio.sleep(chance.random() * 6)
        instance.signal(signal.SIGCONT)


async def send_all(queues: SomeQueues, sent: dict[str, str], chance: random.Random) -> None:
    """Send the messages one by one; `sent` maps the id of each to its ref."""
    for number in range(MESSAGES):
        fault = chance.choice(["none", "none", "none", "failed", "refuse-first", "drop", "nothing"])
        body = json.dumps({"account": "x", "ref": f"m{number}", "fault": fault, "duration": chance.random()})
        sent[await queues.send("no JSON" if fault == "nothing" else body)] = f"m{number}"
        await asyncio.sleep(chance.random() * 0.1)


async def settled(queues: SomeQueues, sent: Mapping[str, str]) -> bool:
    """Return whether every message has a reply or a dead letter, and none is left."""
    found = [*await queues.messages(queues.replies), *await queues.messages(queues.dead)]
    return {one.attributes["Message-Id"] for one in found} >= sent.keys() and await queues.left() == (0, 0)


async def check(queues: SomeQueues, sent: Mapping[str, str], started: Mapping[str, int]) -> None:
    """Compare the sent messages with the replies, the dead letters and the job server's ledger."""
    replies, dead = await queues.messages(queues.replies), await queues.messages(queues.dead)
    by_message: dict[str, set[tuple[str, str]]] = {}
    for reply in replies:
        outcome = reply.attributes.get("Code", reply.attributes["Outcome"])
        by_message.setdefault(reply.attributes["Message-Id"], set()).add((outcome, reply.attributes["Submitted"]))
    assert not by_message.keys() & {letter.attributes["Message-Id"] for letter in dead}
    for message, ref in sent.items():
        assert started.get(ref, 0) <= 1, ref
        if message in by_message:
            # One outcome, however often it is replied; but a callback that came after a failure replaces it.
            said = by_message[message]
            by_callback = [outcome for outcome, _ in said if outcome in {"succeeded", "job-failed"}]
            assert len(by_callback) <= 1, (ref, said)
            assert len(said) - len(by_callback) <= 1, (ref, said)
            assert "no" not in {submitted for _, submitted in said}, (ref, said)
            assert started.get(ref, 0) == 1 or {submitted for _, submitted in said} == {"unknown"}, (ref, said)
