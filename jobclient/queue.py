"""Sends the jobs through a queue of Amazon SQS, and waits for the replies. The only part that knows the SDK.

Each message has its own idempotency key, so that a message that was sent twice is one job. Replies for others stay in
the queue.
"""

import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from jobclient.answers import Answer, Failed, Reached, classify
from jobclient.options import Options
from jobclient.report import Finished, Report, summarize

__all__ = ["QueueUnusableError", "run"]

_BATCH = 10
_POLL_S = 1
_PROBLEM_STATUS = 500
_OK_STATUS = 200


class QueueUnusableError(Exception):
    """The queue service refuses, or cannot be reached; the message says why."""


async def run(options: Options, *, on_finished: Callable[[], None] = lambda: None) -> Report:
    """Send all jobs, wait for all replies, and report. Calls `on_finished` after each reply.

    Raises:
        QueueUnusableError: a queue cannot be used.
    """
    async with _client() as client:
        jobs, replies = [await _url(client, name) for name in (options.queue, options.reply_queue)]
        started = time.monotonic()
        sent = await _send_all(client, jobs, options)
        finished: dict[str, Finished] = {}
        while len(finished) < len(sent) and time.monotonic() - started < options.timeout_s:
            for message_id, answer in await _replies(client, replies, sent.keys() - finished.keys()):
                finished[message_id] = Finished(answer=answer, duration_s=time.monotonic() - sent[message_id])
                on_finished()
        total_s = time.monotonic() - started
    missing = Failed(
        code="client-timeout", detail=f"no reply within {options.timeout_s:g} s", reached=Reached.MAYBE_SENT
    )
    for message_id, at in sent.items():
        finished.setdefault(message_id, Finished(answer=missing, duration_s=time.monotonic() - at))
    return summarize(list(finished.values()), total_s=total_s, limit_s=options.limit_s)


async def _send_all(client: Any, url: str, options: Options) -> dict[str, float]:  # noqa: ANN401 - the SDK has no types
    """Send the messages; return when each was sent, by its id."""
    body, fifo = options.body.decode(), url.endswith(".fifo")
    sent: dict[str, float] = {}
    for numbers in _in_tens(range(options.jobs)):
        entries = [_entry(number, body, fifo=fifo) for number in numbers]
        answer = await _call(client.send_message_batch, QueueUrl=url, Entries=entries)
        if answer.get("Failed"):
            raise QueueUnusableError(str(answer["Failed"][0].get("Message")))
        sent |= {one["MessageId"]: time.monotonic() for one in answer["Successful"]}
    return sent


def _in_tens(numbers: range) -> Sequence[Sequence[int]]:
    return [numbers[first : first + _BATCH] for first in range(0, len(numbers), _BATCH)]


def _entry(number: int, body: str, *, fifo: bool) -> dict[str, Any]:
    key = str(uuid.uuid4())
    attribute = {"DataType": "String", "StringValue": key}
    entry: dict[str, Any] = {
        "Id": str(number),
        "MessageBody": body,
        "MessageAttributes": {"Idempotency-Key": attribute},
    }
    return entry | ({"MessageGroupId": key, "MessageDeduplicationId": key} if fifo else {})


async def _replies(client: Any, url: str, wanted: set[str]) -> list[tuple[str, Answer]]:  # noqa: ANN401 - as above
    """Poll for replies; delete those to `wanted` messages and return their answers."""
    answer = await _call(
        client.receive_message,
        QueueUrl=url,
        MaxNumberOfMessages=_BATCH,
        WaitTimeSeconds=_POLL_S,
        MessageAttributeNames=["All"],
    )
    ours, others = [], []
    for message in answer.get("Messages", ()):
        attributes = {name: it.get("StringValue", "") for name, it in message.get("MessageAttributes", {}).items()}
        if attributes.get("Message-Id") in wanted:
            ours.append((attributes["Message-Id"], _answer(message["Body"], attributes), message["ReceiptHandle"]))
        else:
            others.append(message["ReceiptHandle"])
    if ours:
        entries = [{"Id": str(n), "ReceiptHandle": handle} for n, (_, _, handle) in enumerate(ours)]
        await _call(client.delete_message_batch, QueueUrl=url, Entries=entries)
    if others:
        hidden = [{"Id": str(n), "ReceiptHandle": handle, "VisibilityTimeout": 1} for n, handle in enumerate(others)]
        await _call(client.change_message_visibility_batch, QueueUrl=url, Entries=hidden)
    return [(message_id, said) for message_id, said, _ in ours]


def _answer(body: str, attributes: Mapping[str, str]) -> Answer:
    if attributes.get("Outcome") == "succeeded":
        return classify(status=_OK_STATUS, body=body.encode())
    try:
        status = int(json.loads(body).get("status", _PROBLEM_STATUS))
    except (ValueError, AttributeError, TypeError):
        status = _PROBLEM_STATUS
    return classify(status=status, body=body.encode())


async def _url(client: Any, name: str) -> str:  # noqa: ANN401 - as above
    return str((await _call(client.get_queue_url, QueueName=name))["QueueUrl"])


async def _call(call: Any, **parameters: Any) -> Mapping[str, Any]:  # noqa: ANN401 - as above
    import botocore.exceptions  # noqa: PLC0415 - only needed for a queue

    try:
        answer: Mapping[str, Any] = await call(**parameters)
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, aiohttp.ClientError, OSError) as exc:
        name = parameters.get("QueueName") or parameters.get("QueueUrl")
        raise QueueUnusableError(f"the queue {name} cannot be used: {exc}") from exc
    return answer


@asynccontextmanager
async def _client() -> AsyncIterator[Any]:
    import botocore.exceptions  # noqa: PLC0415 - as above
    from aiobotocore.session import get_session  # noqa: PLC0415

    try:
        opening = get_session().create_client("sqs", endpoint_url=os.environ.get("AWS_ENDPOINT_URL_SQS"))
        client = await opening.__aenter__()
    except (botocore.exceptions.BotoCoreError, ValueError) as exc:
        raise QueueUnusableError(f"{exc} (AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID ...)") from exc
    try:
        yield client
    finally:
        await opening.__aexit__(None, None, None)
