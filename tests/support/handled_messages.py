"""The core of a front end and its queues, with a queue service that the test controls."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from proxy.jobs.entrance import JobReader
from proxy.sqs.counts import Fate
from proxy.sqs.message import Message
from proxy.sqs.message_jobs import MessageJobs
from proxy.sqs.queues import Queue, Queues
from tests.support.instances import Instance, served_job_servers
from tests.support.stated_queue import StatedQueue

__all__ = ["DEAD", "JOBS", "OTHER", "REPLIES", "TTL_S", "Handled"]

JOBS, DEAD, REPLIES, OTHER = (f"http://queues/1/{name}" for name in ("jobs", "dead", "replies", "other"))
TTL_S: Final = 3_600.0


class Handled:
    """A front end's core and its queues."""

    def __init__(
        self,
        instance: Instance | None = None,
        *,
        dead: bool = True,
        replies: bool = True,
        fifo: bool = False,
        by_group: bool = False,
    ) -> None:
        """`by_group`: a deduplication id counts only within its message group."""
        self.instance = instance or Instance()
        self.queue = StatedQueue()
        #: Unix seconds.
        self.now = 1_000_000.0
        reader = JobReader(served_job_servers("spreedly", labels=("account",)), max_body_bytes=1_000)
        self.message_jobs = MessageJobs(
            self.queue,
            self.instance.entrance,
            reader,
            self.instance.store,
            queue_url=JOBS,
            result_ttl_s=TTL_S,
            granular_errors=False,
            clock=lambda: self.now,
        )
        reply_queue = Queue(url=REPLIES) if replies else None
        self.message_jobs.use(
            Queues(
                jobs=Queue(url=JOBS, fifo=fifo, deduplicates_by_group=by_group),
                dead=Queue(url=DEAD) if dead else None,
                replies=reply_queue,
                allowed={queue.url: queue for queue in (Queue(url=OTHER), reply_queue) if queue is not None},
            )
        )

    def take(self, message: Message, for_s: float = 45.0) -> asyncio.Task[None]:
        """Handle a delivery in the background."""
        until = time.monotonic() + for_s
        return asyncio.create_task(self.message_jobs.deal_with(message, until, lambda: None))

    def sent(self, url: str = REPLIES) -> list[dict[str, str]]:
        """Return the attributes of the messages that were sent to a queue."""
        sent = self.queue.sent.get(url, [])
        return [{name: it["StringValue"] for name, it in one.attributes.items()} for one in sent]

    def count(self, fate: Fate) -> int:
        """Return how many deliveries had this fate."""
        return self.message_jobs.counts.by_fate[fate]
