"""How many messages are taken, and when."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest

from proxy import log
from proxy.jobs.entrance import JobReader, JobRequest
from proxy.jobs.job_server import ServedJobServers
from proxy.sqs.consumer import Consumer
from proxy.sqs.message_jobs import MessageJobs
from proxy.sqs.queues import Queue, Queues
from shared import settings
from shared.errors import QueueError
from shared.outcome import Succeeded
from tests.support.instances import Instance, a_job_server
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.runners import SUBMIT
from tests.support.stated_queue import StatedQueue, a_message

JOBS = "http://queues/1/jobs"


class Consumed:
    """A front end's core, and its consumer of messages."""

    def __init__(self, *, max_jobs: int = 100) -> None:
        self.instance = Instance(max_jobs=max_jobs)
        self.queue = StatedQueue()
        self.on_hold = ""
        reader = JobReader(ServedJobServers([a_job_server("spreedly")]), max_body_bytes=1_000)
        message_jobs = MessageJobs(
            self.queue,
            self.instance.entrance,
            reader,
            self.instance.store,
            queue_url=JOBS,
            result_ttl_s=3_600.0,
            granular_errors=False,
        )
        self.settings = settings.load({"SQS_QUEUE_URL": JOBS, "MAX_JOBS": str(max_jobs)})
        self.consumer = Consumer(self.queue, self.settings, self.instance.entrance, message_jobs, lambda: self.on_hold)

    async def end(self) -> None:
        """Stop, let the poll end, and finish the jobs."""
        self.consumer.stop()
        self.queue.deliveries.put_nowait([])
        await self.finish()
        await self.consumer.ended()

    async def finish(self) -> None:
        """Let every job in flight succeed."""
        for job in list(self.instance.in_flight):
            self.instance.stepped.tell(job, *SUBMIT, Succeeded(body=b"{}"))
        await time_passes(1.0)


@asynccontextmanager
async def consuming(*, fifo: bool = False, max_jobs: int = 100) -> AsyncIterator[Consumed]:
    """Take messages within the block."""
    consumed = Consumed(max_jobs=max_jobs)
    consumed.consumer.start(Queues(jobs=Queue(url=JOBS, fifo=fifo)))
    await nothing_moves()
    yield consumed
    await consumed.end()


async def test_no_more_messages_are_taken_than_there_is_room_for() -> None:
    """Ten at a time; and none while there is no room."""
    async with consuming(max_jobs=12) as consumed:
        consumed.queue.deliveries.put_nowait([a_message(number) for number in range(10)])
        await nothing_moves()
        assert consumed.queue.asked == [10, 2]
        consumed.queue.deliveries.put_nowait([a_message(10), a_message(11)])
        await time_passes(5.0)
        assert consumed.queue.asked == [10, 2]
        assert len(consumed.instance.in_flight) == 12
        await consumed.finish()
        assert consumed.queue.asked == [10, 2, 10]
        consumed.queue.deliveries.put_nowait([a_message(number) for number in range(20, 30)])
        await nothing_moves()
        assert consumed.queue.asked == [10, 2, 10, 2]


async def test_a_message_that_meets_a_bug_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is delivered again."""

    async def fail(_: JobRequest) -> NoReturn:
        raise AssertionError

    async with consuming(max_jobs=2) as consumed:
        monkeypatch.setattr(consumed.instance.entrance, "submit_or_join", fail)
        for number in range(3):
            consumed.queue.deliveries.put_nowait([a_message(number)])
            await nothing_moves()
        assert (len(consumed.queue.asked), consumed.consumer.counts.in_hand) == (4, 0)


async def test_no_more_messages_are_taken_than_may_wait_for_a_job_of_others_or_for_their_reply() -> None:
    """Such a message needs no room for a job, but memory."""
    async with consuming(max_jobs=100) as consumed:
        for number in range(120):
            ten = [a_message(10 * number + i, attributes={"Idempotency-Key": "one"}) for i in range(10)]
            consumed.queue.deliveries.put_nowait(ten)
        await time_passes(5.0)
        assert consumed.consumer.counts.in_hand == consumed.settings.max_jobs + 1_000
        await consumed.finish()
        await time_passes(5.0)
        assert len(consumed.queue.deleted) == 1_200


async def test_a_message_that_cannot_be_a_job_takes_no_room_while_the_queue_it_is_sent_to_does_not_answer() -> None:
    """Otherwise a few of them would keep all others from being taken."""
    async with consuming(max_jobs=2) as consumed:
        consumed.queue.errors += [QueueError("the service does not answer")] * 1_000
        consumed.queue.deliveries.put_nowait([a_message(number, body="no JSON") for number in range(2)])
        await time_passes(5.0)
        assert consumed.queue.asked == [2, 2]
        consumed.queue.errors.clear()


async def test_a_service_that_does_not_wait_for_messages_is_not_asked_all_the_time() -> None:
    """Some stand-ins do not; nor does whatever else may answer at the address."""
    async with consuming() as consumed:
        for _ in range(1_000):
            consumed.queue.deliveries.put_nowait([])
        await time_passes(10.0)
        assert len(consumed.queue.asked) == 21
        consumed.queue.deliveries = asyncio.Queue()


async def test_after_a_poll_that_waited_in_vain_the_next_one_follows_at_once() -> None:
    """A message that comes in between would wait."""
    async with consuming() as consumed:
        await time_passes(5.0)
        consumed.queue.deliveries.put_nowait([])
        await nothing_moves()
        assert consumed.queue.asked == [10, 10]


async def test_the_age_of_the_oldest_message_of_the_last_delivery_is_known() -> None:
    """Until the queue is empty."""
    async with consuming() as consumed:
        now = time.time()
        consumed.queue.deliveries.put_nowait(
            [a_message(number, sent_at=now - age_s) for number, age_s in ((1, 4), (2, 400))]
        )
        await nothing_moves()
        assert consumed.consumer.counts.oldest_s == pytest.approx(400, abs=0.1)
        consumed.queue.deliveries.put_nowait([])
        await nothing_moves()
        assert consumed.consumer.counts.oldest_s == 0


async def test_the_last_place_is_taken() -> None:
    """A proxy may be made for one job at a time."""
    async with consuming(max_jobs=1) as consumed:
        assert consumed.queue.asked == [1]


async def test_a_bug_does_not_end_the_entrance(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown until messages are taken again."""
    async with consuming() as consumed:
        with monkeypatch.context() as patch:
            patch.setattr(consumed.instance.entrance, "room", lambda: 1 // 0)
            consumed.queue.deliveries.put_nowait([])
            await time_passes(10.0)
            assert (consumed.queue.asked, consumed.consumer.counts.trouble) == ([10], "ZeroDivisionError")
        await time_passes(30.0)
        assert consumed.queue.asked == [10, 10]
        consumed.queue.deliveries.put_nowait([])
        await nothing_moves()
        assert consumed.consumer.counts.trouble == ""


async def test_of_a_fifo_queue_one_message_is_taken_at_a_time() -> None:
    """Otherwise two of one group would run at once."""
    async with consuming(fifo=True) as consumed:
        assert consumed.queue.asked == [1]


async def test_none_are_taken_while_a_job_would_be_refused() -> None:
    """Each delivery counts towards `maxReceiveCount`."""
    consumed = Consumed()
    consumed.instance.store.failing = True
    consumed.consumer.start(Queues(jobs=Queue(url=JOBS)))
    await time_passes(5.0)
    assert consumed.queue.asked == []
    consumed.instance.store.failing = False
    consumed.instance.headroom.short_of = "memory"
    await time_passes(5.0)
    assert consumed.queue.asked == []
    consumed.instance.headroom.short_of = ""
    consumed.on_hold = "no worker can be started"
    await time_passes(5.0)
    assert consumed.queue.asked == []
    consumed.on_hold = ""
    await time_passes(1.0)
    assert consumed.queue.asked == [10]
    await consumed.end()


async def test_at_the_end_the_poll_is_waited_for_and_what_it_brings_is_given_back_at_once() -> None:
    """A cancelled poll may lose a message until its visibility timeout."""
    consumed = Consumed()
    consumed.consumer.start(Queues(jobs=Queue(url=JOBS)))
    await nothing_moves()
    consumed.consumer.stop()
    ending = asyncio.create_task(consumed.consumer.ended())
    await time_passes(4.0)
    assert not ending.done()

    consumed.queue.deliveries.put_nowait([a_message()])
    await ending

    assert consumed.queue.hidden == [("handle-1", 0)]
    assert consumed.queue.asked == [10]
    assert consumed.instance.notes.began == []


async def test_the_end_waits_no_longer_than_for_a_poll_if_the_service_does_not_answer() -> None:
    """But for what runs."""
    consumed = Consumed()
    consumed.consumer.start(Queues(jobs=Queue(url=JOBS)))
    consumed.queue.deliveries.put_nowait([a_message()])
    await nothing_moves()
    consumed.consumer.stop()
    ending = asyncio.create_task(consumed.consumer.ended())
    await time_passes(8.0)
    assert not ending.done()
    await consumed.finish()
    assert ending.done()
    assert (consumed.queue.asked, consumed.queue.deleted) == ([10, 10], ["handle-1"])


async def test_the_end_waits_for_the_replies_of_what_runs() -> None:
    """A started job is finished, and its message deleted."""
    consumed = Consumed()
    consumed.consumer.start(Queues(jobs=Queue(url=JOBS)))
    consumed.queue.deliveries.put_nowait([a_message()])
    await nothing_moves()
    await consumed.end()
    assert consumed.queue.deleted == ["handle-1"]


async def test_the_end_does_not_wait_long_for_a_service_that_takes_nothing_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What stops the proxy often kills it after half a minute. The message is delivered again."""
    lines: list[tuple[str, object]] = []
    monkeypatch.setattr(log, "event", lambda _, what, **fields: lines.append((what, fields.get("messages"))))
    consumed = Consumed()
    consumed.consumer.start(Queues(jobs=Queue(url=JOBS)))
    consumed.queue.deliveries.put_nowait([a_message()])
    await nothing_moves()
    consumed.queue.errors = [QueueError("connection refused")] * 1_000
    consumed.consumer.stop()
    consumed.queue.deliveries.put_nowait(QueueError("connection refused"))
    await consumed.finish()
    began = time.monotonic()
    await consumed.consumer.ended()
    assert round(time.monotonic() - began) == 5
    assert ("messages were left, and are delivered again", 1) in lines
    assert consumed.queue.deleted == []


async def test_a_service_that_is_away_is_asked_less_and_less_often() -> None:
    """The trouble is shown and counted, and then reset."""
    async with consuming() as consumed:
        for _ in range(8):
            consumed.queue.deliveries.put_nowait(QueueError("away"))
        await time_passes(0.4)
        early = len(consumed.queue.asked)
        await time_passes(45.0)
        assert early <= 3
        assert len(consumed.queue.asked) < 9
        await time_passes(75.0)
        assert len(consumed.queue.asked) == 9
        assert consumed.consumer.counts.receive_errors == 8
        assert consumed.consumer.counts.trouble == "away"
        consumed.queue.deliveries.put_nowait([])
        await nothing_moves()
        assert consumed.consumer.counts.trouble == ""


async def test_queues_that_could_not_be_looked_up_at_the_start_are_looked_up_later() -> None:
    """Meanwhile the proxy serves."""
    consumed = Consumed()
    redrive = {"deadLetterTargetArn": "arn:aws:sqs:r:1:dead", "maxReceiveCount": 5}
    consumed.queue.about[JOBS] = {"RedrivePolicy": json.dumps(redrive)}
    consumed.queue.about["http://queues/1/dead"] = {}
    consumed.queue.errors = [QueueError("away")] * 3
    consumed.consumer.start(None)
    await time_passes(0.1)
    assert (consumed.queue.asked, consumed.consumer.counts.trouble != "") == ([], True)
    await time_passes(10.0)
    assert consumed.queue.asked == [10]
    await consumed.end()
