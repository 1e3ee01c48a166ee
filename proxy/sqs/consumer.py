"""Takes messages from the queue, never more than can run: each delivery counts towards `maxReceiveCount`.

One long poll at a time. It is not cancelled, because messages that the service has sent are hidden even if nobody
received them. So it is short, and a shutdown waits for its end; messages that it still returns are given back at once.
Only a service that does not answer is not waited for, nor, for long, are messages in hand that it does not take back.

From a FIFO queue, one message is taken at a time: the service then delivers no other message of its group before that
one is done, which keeps their order.
"""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from proxy import log
from proxy.sqs.counts import Fate
from proxy.sqs.queues import doubts, look_up, visibility_s
from proxy.sqs.service import BATCH
from shared.errors import QueueError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from proxy.jobs.entrance import Entrance
    from proxy.sqs.message import Message
    from proxy.sqs.message_jobs import MessageJobs
    from proxy.sqs.queues import Queues
    from proxy.sqs.service import QueueService
    from shared.settings import Settings

__all__ = ["POLL_S", "Consumer"]

#: The longest poll; a shutdown may have to wait for it. Twelve a minute take 0.03 % of a core.
POLL_S: Final = 5
#: How much later than that an answer may come during a shutdown.
_LATE_S: Final = 2.0
#: How long a shutdown waits for messages once the jobs of this process are done: for their replies and deletions.
_SETTLE_S: Final = 5.0
#: How often to check for room while there is none.
_LOOK_S: Final = 0.1
_PAUSES_S: Final = (0.5, 30.0)
#: How many messages may be in hand beyond MAX_JOBS: that wait for the job of another message, or for their reply.
_MOST_BESIDE: Final = 1_000
#: By how much the clocks of the service and of this machine may disagree about how long a message is hidden.
_MARGIN_S: Final = 1.0


class Consumer:
    """Takes messages from `start` until `stop`."""

    def __init__(
        self,
        service: QueueService,
        settings: Settings,
        entrance: Entrance,
        message_jobs: MessageJobs,
        on_hold: Callable[[], str],
    ) -> None:
        """`on_hold` returns why no worker can be started now; an empty string if all is well."""
        self._service = service
        self._settings = settings
        self._entrance = entrance
        self._message_jobs = message_jobs
        self._on_hold = on_hold
        self._visibility_s = visibility_s(settings.job_timeout)
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        #: Messages that were taken and have no job yet, by their handles.
        self._fresh: set[str] = set()
        self._troubled_since: float | None = None
        self.counts = message_jobs.counts

    def start(self, queues: Queues | None) -> None:
        """Start taking messages; `queues`: None if they could not be looked up yet."""
        self._loop = asyncio.get_running_loop().create_task(self._run(queues))

    def stop(self) -> None:
        """Take no more messages, except those that a poll in progress returns."""
        self._stopping.set()
        if self._loop is not None:
            asyncio.get_running_loop().call_later(POLL_S + _LATE_S, self._loop.cancel)

    async def ended(self) -> None:
        """After `stop` and the end of the jobs, wait until every message that was taken is done, but not for long.

        The service may be away, or a message may wait for a job of another instance: it is delivered again.
        """
        if self._loop is not None:
            await asyncio.wait((self._loop,))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_SETTLE_S)
        if self._tasks:
            log.event("warning", "messages were left, and are delivered again", messages=len(self._tasks))

    async def _run(self, queues: Queues | None) -> None:
        pause_s, longest_s = _PAUSES_S
        while not self._stopping.is_set():
            try:
                if queues is None:
                    queues = await look_up(self._service, self._settings)
                self._message_jobs.use(queues)
                for words in doubts(queues, self._settings):
                    log.event("warning", "the queue's settings do not fit", reason=words)
                await self._take_all(queues)
            except QueueError as exc:
                self._begin_trouble(exc)
            except Exception as exc:  # noqa: BLE001 - a bug of ours must not end the entrance unnoticed
                self._begin_trouble(exc)
                log.event("error", "unhandled exception in the queue entrance", **log.exception_fields(exc))
            await self._pause(pause_s)
            pause_s = min(pause_s * 2, longest_s)

    async def _take_all(self, queues: Queues) -> None:
        """Take messages until `stop`, whatever the service answers."""
        pause_s, longest_s = _PAUSES_S
        while not self._stopping.is_set():
            room = self._room()
            if room < 1:
                await self._pause(_LOOK_S)
                continue
            began = time.monotonic()
            try:
                messages = await self._service.receive(
                    queues.jobs.url,
                    count=1 if queues.jobs.fifo else min(room, BATCH),
                    wait_s=POLL_S,
                    visibility_s=self._visibility_s,
                )
            except QueueError as exc:
                self.counts.receive_errors += 1
                self._begin_trouble(exc)
                await self._pause(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all retry at once
                pause_s = min(pause_s * 2, longest_s)
                continue
            pause_s = _PAUSES_S[0]
            self._end_trouble()
            self._took(messages)
            if not messages and time.monotonic() - began < _LOOK_S:  # not every service waits; a wrong one need not
                await self._pause(pause_s)

    def _room(self) -> int:
        """Return how many messages may be taken now."""
        if self._on_hold():
            return 0
        most = self._settings.max_jobs + _MOST_BESIDE
        return min(self._entrance.room() - len(self._fresh), most - self.counts.in_hand)

    def _took(self, messages: list[Message]) -> None:
        counts, until = self.counts, time.monotonic() + self._visibility_s - _MARGIN_S
        counts.receives += 1
        counts.by_fate[Fate.RECEIVED] += len(messages)
        oldest = min((message.sent_at for message in messages), default=0.0)
        counts.oldest_s = max(0.0, time.time() - oldest) if oldest else 0.0
        for message in messages:
            self._fresh.add(message.handle)
            counts.in_hand += 1
            self._start(self._deal_with(message, until))

    async def _deal_with(self, message: Message, until: float) -> None:
        on_begun = partial(self._fresh.discard, message.handle)
        try:
            if self._stopping.is_set():
                await self._message_jobs.return_at_once(message, until)
            else:
                await self._message_jobs.deal_with(message, until, on_begun)
        finally:
            on_begun()
            self.counts.in_hand -= 1

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pause(self, pause_s: float) -> None:
        """Wait this long, or until `stop`."""
        try:
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _begin_trouble(self, exc: Exception) -> None:
        self.counts.trouble = str(exc) if isinstance(exc, QueueError) else type(exc).__name__
        if self._troubled_since is None:
            self._troubled_since = time.monotonic()
            log.event("error", "no messages can be taken from the queue", reason=self.counts.trouble)

    def _end_trouble(self) -> None:
        if self._troubled_since is not None:
            lasted_s = round(time.monotonic() - self._troubled_since, 1)
            self._troubled_since, self.counts.trouble = None, ""
            log.event("info", "messages are taken from the queue again", after_s=lasted_s)
