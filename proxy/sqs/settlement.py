"""How a delivery of a message is settled: answered and deleted, given back, or sent to the dead-letter queue."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

from proxy import log
from proxy.sqs import replies
from proxy.sqs.batches import Batches
from proxy.sqs.counts import Counts, Fate
from shared.errors import Code, QueueError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.sqs.message import Message, Outgoing
    from proxy.sqs.queues import Queue, Queues
    from proxy.sqs.service import QueueService
    from shared.lifecycle import Submitted
    from shared.outcome import Outcome

__all__ = ["LONGEST_PAUSE_S", "Settlement"]

#: The longest pause before a message is delivered again, in seconds.
LONGEST_PAUSE_S: Final = 900
#: The pauses between attempts: the first, and the longest.
_PAUSES_S: Final = (0.2, 5.0)
#: Nobody waits for a deletion, so it can wait for others. If the process dies before, replies are sent twice. In a FIFO
#: queue, the next message of its group waits for it.
_DELETE_GATHER_S: Final = 0.5
#: Negligible for the recipient, and long enough to batch most replies of jobs that end at about the same time.
_SEND_GATHER_S: Final = 0.02


class Settlement:
    """Settles deliveries. Calls are repeated until they succeed, or it is too late, or the service refuses them.

    `until` is when the message will be delivered again, in monotonic seconds. Raises QueueError.
    """

    def __init__(self, service: QueueService, queues: Queues, counts: Counts, *, granular_errors: bool) -> None:
        url = queues.jobs.url
        delete_gather_s = 0.0 if queues.jobs.fifo else _DELETE_GATHER_S
        self._queues = queues
        self._counts = counts
        self._granular = granular_errors
        self._deletions: Batches[str] = Batches(lambda handles: service.delete(url, handles), gather_s=delete_gather_s)
        self._pauses: Batches[tuple[str, int]] = Batches(lambda pauses: service.hide(url, pauses))
        others = (queues.dead, *queues.allowed.values())
        self._senders = {queue.url: _sender(service, queue) for queue in others if queue is not None}

    async def answer(
        self, message: Message, job_id: str, outcome: Outcome, reply_to: Queue | None, until: float
    ) -> None:
        """Reply with the outcome of the message's job, if there is a queue for that, and delete the message."""
        if reply_to is not None:
            max_bytes = reply_to.max_bytes
            outgoing = replies.reply(message, job_id, outcome, max_bytes=max_bytes, granular=self._granular)
            await self._send(reply_to, outgoing, until)
            self._counts.by_fate[Fate.REPLIED] += 1
        await self._delete(message, until)

    async def give_back(self, message: Message, pause_s: int, until: float, *, reason: str) -> None:
        """Have the message delivered again after `pause_s`, to any instance."""
        self._counts.by_fate[Fate.GIVEN_BACK] += 1
        log.event("info", "a message was given back", message=message.id, pause_s=pause_s, reason=reason)
        await _until(until, lambda: self._pauses.add((message.handle, pause_s)))

    async def refuse(self, message: Message, code: Code, detail: str, submitted: Submitted, until: float) -> None:
        """Send the message to the dead-letter queue; if there is none, reply; with no reply queue, give it back."""
        queues = self._queues
        log.event(
            "warning", "a message cannot be a job", message=message.id, code=code, submitted=submitted, reason=detail
        )
        if queues.dead is not None:
            letter = replies.dead_letter(message, code, detail, submitted, max_bytes=queues.dead.max_bytes)
            await self._send(queues.dead, letter, until)
            self._counts.by_fate[Fate.DEAD] += 1
        elif queues.replies is not None:
            await self._send(queues.replies, replies.refusal(message, code, detail, submitted), until)
            self._counts.by_fate[Fate.REPLIED] += 1
        else:
            await self.give_back(message, LONGEST_PAUSE_S, until, reason="there is no dead-letter queue")
            return
        await self._delete(message, until)

    async def _send(self, queue: Queue, outgoing: Outgoing, until: float) -> None:
        await _until(until, lambda: self._senders[queue.url].add(outgoing))

    async def _delete(self, message: Message, until: float) -> None:
        await _until(until, lambda: self._deletions.add(message.handle))
        self._counts.by_fate[Fate.DELETED] += 1


def _sender(service: QueueService, queue: Queue) -> Batches[Outgoing]:
    return Batches(
        lambda messages: service.send(queue.url, messages, fifo=queue.fifo),
        gather_s=_SEND_GATHER_S,
        size_of=lambda outgoing: outgoing.size_bytes,
        max_bytes=queue.max_bytes,
    )


async def _until(until: float, attempt: Callable[[], Awaitable[None]]) -> None:
    pause_s, longest_s = _PAUSES_S
    while True:
        try:
            await attempt()
        except QueueError as exc:
            if exc.refused or time.monotonic() + pause_s > until:
                raise
        else:
            return
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all retry at once
        pause_s = min(pause_s * 2, longest_s)
