"""What a message of the queue adds to a job: its CPU, compared with jobs that come over HTTP at the same pace."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

from aiobotocore.session import get_session

from bench.contenders.table import CONTENDERS
from bench.load import Client, LoadError, send_job
from bench.measures import QueueCost
from bench.session import Proxy, Session
from cluster.sqs import CREDENTIALS, SqsStandIn, SqsStandInError

__all__ = ["run_queue"]

#: The number of messages in one turn, and in one call.
_MESSAGES: Final = 200
_BATCH: Final = 10
#: How long to wait until deletions have been batched and executed.
_SETTLE_S: Final = 1.0
_PATIENCE_S: Final = 60.0


async def run_queue(session: Session, *, times: int) -> list[QueueCost]:
    """Send jobs as messages, then as many over HTTP, in tens and at the same pace; `times` times.

    Workers are reused, and there is a journal; the queue is a stand-in for Amazon SQS in a process of its own.
    """
    results: list[QueueCost] = []
    async with session.attempt("queue"):
        try:
            sqs = await asyncio.to_thread(SqsStandIn)
        except SqsStandInError as exc:
            raise LoadError(str(exc)) from exc
        try:
            results = await _run(session, sqs, times)
        finally:
            await asyncio.to_thread(sqs.close)
        session.say("  ".join(f"{one.added_ms:.2f}" for one in results) + " ms of CPU more a message")
    return results


async def _run(session: Session, sqs: SqsStandIn, times: int) -> list[QueueCost]:
    opening = get_session().create_client(
        "sqs",
        endpoint_url=sqs.url,
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    async with opening as client:
        jobs, replies = [(await client.create_queue(QueueName=name))["QueueUrl"] for name in ("jobs", "replies")]
        settings = {**CREDENTIALS, "SQS_QUEUE_URL": jobs, "SQS_REPLY_QUEUE_URL": replies}
        async with session.running(CONTENDERS["reused+journal"], settings) as proxy:
            await _over_http(proxy, _MESSAGES, 0.0)  # to warm up
            return [await _measure(proxy, client, jobs, replies) for _ in range(times)]


async def _measure(proxy: Proxy, client: Any, jobs: str, replies: str) -> QueueCost:  # noqa: ANN401 - the SDK's
    await asyncio.sleep(_SETTLE_S)
    before_s, began = proxy.cpu_s(), time.monotonic()
    for first in range(0, _MESSAGES, _BATCH):
        entries = [
            {"Id": str(n), "MessageBody": json.dumps({"account": f"example-{first + n}"})} for n in range(_BATCH)
        ]
        await client.send_message_batch(QueueUrl=jobs, Entries=entries)
    await asyncio.wait_for(_replied(client, replies), _PATIENCE_S)
    took_s = time.monotonic() - began
    await asyncio.sleep(_SETTLE_S)
    between_s = proxy.cpu_s()
    await _over_http(proxy, _MESSAGES, took_s)
    await asyncio.sleep(_SETTLE_S)
    after_s = proxy.cpu_s()
    return QueueCost(
        messages=_MESSAGES,
        jobs_per_s=_MESSAGES / took_s,
        message_ms=(between_s - before_s) * 1000 / _MESSAGES,
        http_ms=(after_s - between_s) * 1000 / _MESSAGES,
    )


async def _replied(client: Any, url: str) -> None:  # noqa: ANN401 - as above
    """Receive the replies to all messages. Raises LoadError if one is not a result."""
    seen = 0
    while seen < _MESSAGES:
        answer = await client.receive_message(
            QueueUrl=url, MaxNumberOfMessages=_BATCH, WaitTimeSeconds=1, MessageAttributeNames=["All"]
        )
        found = answer.get("Messages", [])
        for message in found:
            if message["MessageAttributes"]["Outcome"]["StringValue"] != "succeeded":
                raise LoadError(message["Body"][:500])
        seen += len(found)
        if found:
            entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(found)]
            await client.delete_message_batch(QueueUrl=url, Entries=entries)


async def _over_http(proxy: Proxy, jobs: int, within_s: float) -> None:
    """Send jobs in tens, spread evenly over `within_s`."""
    clients = [Client(proxy.url) for _ in range(_BATCH)]
    began, tens = time.monotonic(), jobs // _BATCH
    for number in range(tens):
        await asyncio.gather(*(send_job(client, proxy.url, {"account": "example"}) for client in clients))
        await asyncio.sleep(max(0.0, began + (number + 1) * within_s / tens - time.monotonic()))
    for client in clients:
        client.close()
