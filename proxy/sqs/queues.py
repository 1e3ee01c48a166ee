"""The queues that the settings name: their attributes, looked up at the start, and warnings about them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from shared.errors import QueueError

if TYPE_CHECKING:
    from proxy.sqs.service import QueueService
    from shared.settings import Settings

__all__ = ["SLACK_S", "Queue", "Queues", "doubts", "look_up", "visibility_s"]

#: A message is hidden for the job timeout plus this, which covers the time before the job, and the reply.
SLACK_S: Final = 15
_MAX_BYTES: Final = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The attributes of a queue that are used here."""

    url: str
    fifo: bool = False
    #: Whether a deduplication id counts only within its message group (`DeduplicationScope`).
    deduplicates_by_group: bool = False
    #: The largest message, attributes included.
    max_bytes: int = _MAX_BYTES
    #: How long a message is kept, in seconds.
    retention_s: int = 345_600
    #: The dead-letter queue, and after how many receives a message goes there; empty: messages are delivered forever.
    dead_letter_arn: str = ""
    max_receives: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """Where jobs come from, and where replies and dead letters go."""

    jobs: Queue
    #: The dead-letter queue of that queue.
    dead: Queue | None = None
    #: Where replies go unless a message names another queue.
    replies: Queue | None = None
    #: The queues that a message may name for its reply, by address.
    allowed: Mapping[str, Queue] = field(default_factory=dict)


def visibility_s(job_timeout_s: float) -> int:
    """Return for how long a message is hidden from others once it is received."""
    return int(job_timeout_s) + SLACK_S


async def look_up(service: QueueService, settings: Settings) -> Queues:
    """Return the queues that the settings name.

    Raises:
        QueueError: one cannot be used; the message names the setting.
    """
    jobs = await _look_up(service, "SQS_QUEUE_URL", settings.sqs_queue_url)
    dead = None
    if jobs.dead_letter_arn:
        dead = await _dead_letters(service, jobs.dead_letter_arn)
    replies = None
    if settings.sqs_reply_queue_url:
        replies = await _look_up(service, "SQS_REPLY_QUEUE_URL", settings.sqs_reply_queue_url)
    allowed = {url: await _look_up(service, "SQS_REPLY_TO", url) for url in settings.sqs_reply_to}
    if replies is not None:
        allowed[replies.url] = replies
    return Queues(jobs=jobs, dead=dead, replies=replies, allowed=allowed)


async def _dead_letters(service: QueueService, arn: str) -> Queue:
    try:
        url = await service.url_of(arn)
    except QueueError as exc:
        words = f"SQS_QUEUE_URL: its dead-letter queue {arn} cannot be found: {exc}"
        raise QueueError(words, code=exc.code, refused=exc.refused) from exc
    return await _look_up(service, "SQS_QUEUE_URL, its dead-letter queue", url)


async def _look_up(service: QueueService, name: str, url: str) -> Queue:
    try:
        found = await service.attributes(url)
    except QueueError as exc:
        raise QueueError(f"{name}: {url} cannot be used: {exc}", code=exc.code, refused=exc.refused) from exc
    arn, receives = _redrive(found.get("RedrivePolicy", ""))
    return Queue(
        url=url,
        fifo=url.rstrip("/").endswith(".fifo"),
        deduplicates_by_group=found.get("DeduplicationScope") == "messageGroup",
        max_bytes=int(found.get("MaximumMessageSize", _MAX_BYTES)),
        retention_s=int(found.get("MessageRetentionPeriod", 345_600)),
        dead_letter_arn=arn,
        max_receives=receives,
    )


def _redrive(policy: str) -> tuple[str, int]:
    try:
        document = json.loads(policy or "{}")
        return str(document.get("deadLetterTargetArn", "")), int(document.get("maxReceiveCount", 0))
    except (ValueError, AttributeError, TypeError):
        return "", 0


def doubts(queues: Queues, settings: Settings) -> Iterator[str]:
    """Yield warnings about settings that work but are hardly intended, one sentence each."""
    refused = "goes to the dead-letter queue"
    if queues.dead is None:
        refused = "is replied to" if queues.replies is not None else "is given back until its retention ends"
        yield (
            "SQS_QUEUE_URL: the queue has no dead-letter queue: a message that is never submitted is retried until its "
            f"retention ends, and one that cannot be a job {refused}"
        )
    elif queues.jobs.max_receives == 1:
        yield "SQS_QUEUE_URL: the queue's maxReceiveCount is 1: no job is ever retried; set 5 or more"
    if queues.dead is not None and queues.dead.retention_s < queues.jobs.retention_s:
        yield (
            "SQS_QUEUE_URL: the dead-letter queue keeps messages for less time than the queue, and their age counts "
            "from when they were first sent"
        )
    if settings.result_ttl < queues.jobs.retention_s:
        yield (
            f"RESULT_TTL: jobs are remembered for {settings.result_ttl:.10g} s and the queue keeps messages for "
            f"{queues.jobs.retention_s} s: a message that is delivered again after its job was forgotten "
            f"{refused}, because it is unknown whether it ran"
        )
    if queues.replies is None and not queues.allowed:
        yield "SQS_REPLY_QUEUE_URL: it is empty, so no replies are sent; `GET /jobs?message=ID` finds the job"
