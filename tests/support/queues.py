"""Queues at a stand-in for Amazon SQS, for sending jobs and reading replies with the SDK alone."""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from cluster.sqs import CREDENTIALS, DEAD, QUEUE, REPLIES, SqsStandIn
from tests.support.waiting import eventually

__all__ = ["LOOK_S", "Reply", "SomeQueues"]

#: How often to look: a call takes the stand-in as much CPU as a job takes the proxy.
LOOK_S: Final = 0.1
NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Reply:
    """A message that was found in a queue."""

    body: str
    attributes: dict[str, str]
    group: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """The body, parsed."""
        document: dict[str, Any] = json.loads(self.body)
        return document


@dataclass
class SomeQueues:
    """A queue of jobs with its dead-letter queue, and one for replies; their names are unique."""

    sqs: SqsStandIn
    client: Any
    jobs: str
    dead: str
    replies: str
    #: Everything that was read from the reply queue and the dead-letter queue so far.
    read: dict[str, list[Reply]] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def made(
        cls, sqs: SqsStandIn, *, fifo: bool = False, max_receives: int = 5, redrive: bool = True
    ) -> AsyncIterator[Self]:
        """Create the queues; `redrive`: whether there is a dead-letter queue."""
        async with _opening(sqs) as client:
            mark, suffix = uuid.uuid4().hex[:8], ".fifo" if fifo else ""
            attributes = {"FifoQueue": "true"} if fifo else {}
            urls = []
            for kind in ("dead", "replies"):
                made = await client.create_queue(QueueName=f"{kind}-{mark}{suffix}", Attributes=attributes)
                urls.append(made["QueueUrl"])
            if redrive:
                found = await client.get_queue_attributes(QueueUrl=urls[0], AttributeNames=["QueueArn"])
                arn = found["Attributes"]["QueueArn"]
                policy = {"deadLetterTargetArn": arn, "maxReceiveCount": max_receives}
                attributes = attributes | {"RedrivePolicy": json.dumps(policy)}
            jobs = await client.create_queue(QueueName=f"jobs-{mark}{suffix}", Attributes=attributes)
            yield cls(sqs, client, jobs["QueueUrl"], *urls)

    @classmethod
    @asynccontextmanager
    async def of_a_cluster(cls, sqs: SqsStandIn) -> AsyncIterator[Self]:
        """Use the queues that a cluster has created."""
        async with _opening(sqs) as client:
            yield cls(sqs, client, sqs.queue_url(QUEUE), sqs.queue_url(DEAD), sqs.queue_url(REPLIES))

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a proxy that takes jobs from there."""
        return {**CREDENTIALS, "SQS_QUEUE_URL": self.jobs, "SQS_REPLY_QUEUE_URL": self.replies}

    async def send(self, body: str, attributes: Mapping[str, str] = NONE, **members: Any) -> str:
        """Send a message and return its id."""
        sent = await self.client.send_message(
            QueueUrl=self.jobs,
            MessageBody=body,
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
            },
            **members,
        )
        return str(sent["MessageId"])

    async def send_all(self, bodies: Sequence[str]) -> list[str]:
        """Send messages, ten with each call, and return their ids."""
        ids = []
        for some in (bodies[first : first + 10] for first in range(0, len(bodies), 10)):
            entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(some)]
            sent = await self.client.send_message_batch(QueueUrl=self.jobs, Entries=entries)
            ids += [each["MessageId"] for each in sent["Successful"]]
        assert len(ids) == len(bodies)
        return ids

    async def messages(self, url: str) -> list[Reply]:
        """Return everything that was ever found in a queue; new messages are deleted there."""
        kept = self.read.setdefault(url, [])
        while received := await self._receive(url):
            for message in received:
                attributes = {name: it["StringValue"] for name, it in message.get("MessageAttributes", {}).items()}
                group = message.get("Attributes", {}).get("MessageGroupId", "")
                kept.append(Reply(message["Body"], attributes, group))
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                for number, message in enumerate(received)
            ]
            answer = await self.client.delete_message_batch(QueueUrl=url, Entries=entries)
            assert not answer.get("Failed"), answer
        return kept

    async def _receive(self, url: str) -> list[dict[str, Any]]:
        answer = await self.client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
            WaitTimeSeconds=0,
        )
        received: list[dict[str, Any]] = answer.get("Messages", [])
        return received

    async def reply(self, message_id: str, url: str = "") -> Reply:
        """Wait for the reply to a message."""
        url = url or self.replies

        def of(replies: list[Reply]) -> Reply | None:
            return next((one for one in replies if one.attributes["Message-Id"] == message_id), None)

        async def look() -> Reply | None:
            return of(self.read.get(url, [])) or of(await self.messages(url))

        found: Reply = await eventually(look, every_s=LOOK_S)
        return found

    async def dead_letter(self, message_id: str) -> Reply:
        """Wait for a message to be in the dead-letter queue, with a reason."""
        return await self.reply(message_id, self.dead)

    async def left(self, url: str = "") -> tuple[int, int]:
        """Return how many messages wait in a queue, and how many are in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = await self.client.get_queue_attributes(QueueUrl=url or self.jobs, AttributeNames=names)
        visible, hidden = (int(found["Attributes"][name]) for name in names)
        return visible, hidden

    async def empty(self) -> None:
        """Wait until no message is left in the queue of jobs."""

        async def look() -> bool:
            return await self.left() == (0, 0)

        await eventually(look, every_s=LOOK_S)


@functools.cache
def _session() -> Any:  # noqa: ANN401 - the SDK has no types
    """Return the session of all clients, which reads the SDK's data for the first one only."""
    from aiobotocore.session import get_session  # noqa: PLC0415 - most processes of tests have no use for it

    return get_session()


def _opening(sqs: SqsStandIn) -> Any:  # noqa: ANN401 - as above
    return _session().create_client(
        "sqs",
        endpoint_url=sqs.url,
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
