"""No reply and no dead letter says `Submitted: no` of a job that was or may have been submitted, and no job runs twice.

A sender that reads `no` sends its message again. So each message here has a job that an earlier delivery, or another
message with the same key, has begun; then it is delivered again at every moment of that job, with other faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest

from proxy.jobs.job import Job
from proxy.sqs.message import Message, Outgoing
from proxy.store.memory import MemoryStore
from shared.errors import Code, StoreUnavailableError
from shared.lifecycle import Submitted
from shared.outcome import Failed
from tests.support.failing_store import FailingStore
from tests.support.handled_messages import OTHER, TTL_S, Handled
from tests.support.instances import FAILED, PROGRESS, Instance
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.runners import SUBMIT, Step
from tests.support.stated_queue import a_message

#: How long a delivery lasts.
FOR_S: Final = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A message whose job was begun: the front end, the job, and the handling of its first delivery."""

    handled: Handled
    job: Job
    delivery: asyncio.Task[None]

    async def tell(self, *orders: Any) -> None:
        """Order steps of the job's runner."""
        self.handled.instance.stepped.tell(self.job, *orders)
        await nothing_moves()

    async def end(self, outcome: Failed) -> None:
        """Let the runner report this outcome."""
        await self.tell(outcome)
        await self.job.outcome


async def begun(members: Mapping[str, Any], *, dead: bool) -> Begun:
    """Deliver a message for the first time."""
    memory = MemoryStore(TTL_S)
    handled = Handled(Instance(store=FailingStore(memory), max_jobs=10), dead=dead)
    delivery = handled.take(a_message(1, **members), FOR_S)
    await nothing_moves()
    (job,) = handled.instance.in_flight
    return Begun(handled=handled, job=job, delivery=delivery)


# --- moments ---------------------------------------------------------------------------------------------------------


async def under_way(it: Begun) -> None:
    """The submission is on its way."""
    await it.tell(*SUBMIT[:3])


async def waiting(it: Begun) -> None:
    """The job server has it."""
    await it.tell(*SUBMIT)


async def ending(it: Begun) -> None:
    """Its end is being recorded."""
    await it.tell(*SUBMIT)
    it.handled.instance.store.hanging = True
    it.handled.instance.dispatcher.cancel(it.job.id)
    await nothing_moves()


async def succeeded(it: Begun) -> None:
    """It has ended."""
    await it.tell(*SUBMIT)
    await it.handled.instance.call_back(it.job)
    await it.job.outcome


async def failed(it: Begun) -> None:
    """It has ended, and its callback reported a failure."""
    await it.tell(*SUBMIT)
    await it.handled.instance.call_back(it.job, b'{"state": "failed"}', FAILED)
    await it.job.outcome


async def overdue(it: Begun) -> None:
    """Its deadline has passed."""
    await it.tell(*SUBMIT)
    await it.job.outcome


async def lost(it: Begun) -> None:
    """Its worker died, and it is unknown at which moment."""
    await it.tell(*SUBMIT[:3])
    await it.end(Failed(code=Code.WORKER_DIED, detail="because", submitted=Submitted.UNKNOWN))


async def cancelled(it: Begun) -> None:
    """An operator or a client has cancelled it."""
    await it.tell(*SUBMIT)
    it.handled.instance.dispatcher.cancel(it.job.id)
    await it.job.outcome


async def refused_and_run(it: Begun) -> None:
    """The job server refused it, but calls back."""
    await refused(it)
    await it.handled.instance.call_back(it.job)


async def refused_and_running(it: Begun) -> None:
    """The job server refused it, and then reports that it is running."""
    await refused(it)
    await it.handled.instance.call_back(it.job, b'{"state": "running"}', PROGRESS)


async def refused(it: Begun) -> None:
    """The job server refused it."""
    await it.tell(*SUBMIT[:3], Step.REFUSE)
    await it.end(Failed(code=Code.JOB_REJECTED, detail="because", submitted=Submitted.NO))


async def a_bug(it: Begun) -> None:
    """The runner raised an unexpected exception."""
    await it.tell(*SUBMIT[:3], ZeroDivisionError())
    await it.job.outcome


async def forgotten_early(it: Begun) -> None:
    """It has ended, and there was no room to remember it."""
    await succeeded(it)
    it.handled.instance.store.memory = MemoryStore(TTL_S, lost_before=time.time())


async def forgotten(it: Begun) -> None:
    """It has ended, and its time is over."""
    await succeeded(it)
    it.handled.instance.store.memory = MemoryStore(TTL_S)
    it.handled.now += TTL_S


MOMENTS: Final = (
    under_way, waiting, ending, succeeded, failed, overdue, lost, cancelled, refused_and_run, refused_and_running,
    a_bug, forgotten_early, forgotten,
)  # fmt: skip
#: Jobs whose bodies are forgotten, so that bodies cannot be compared.
FORGOTTEN: Final = (forgotten_early, forgotten)


# --- circumstances ---------------------------------------------------------------------------------------------------


def all_is_well(_: Handled) -> None:
    """Nothing else is wrong."""


def shutting_down(handled: Handled) -> None:
    """The proxy is draining."""
    handled.instance.dispatcher.draining = True


def short_of_memory(handled: Handled) -> None:
    """The machine has no room."""
    handled.instance.headroom.short_of = "memory"


def the_store_fails(handled: Handled) -> None:
    """Nothing can be recorded or found."""
    handled.instance.store.hanging = False
    handled.instance.store.failing = True


CIRCUMSTANCES: Final = (all_is_well, shutting_down, short_of_memory, the_store_fails)

#: The names of a job: the message's own id, or keys that senders choose.
NAMES: Final[tuple[Mapping[str, Any], ...]] = (
    {}, {"deduplication_id": "n"}, {"attributes": {"Idempotency-Key": "n"}}
)  # fmt: skip


def deliveries(named: Mapping[str, Any], sent_at: float) -> Iterator[Message]:
    """Yield messages of the job: unchanged, and changed so that they cannot be a job, or not this one."""
    attributes = named.get("attributes", {})
    changes: tuple[Mapping[str, Any], ...] = (
        {}, {"body": "no JSON"}, {"body": '{"another": 1}'}, {"body": "{" + " " * 2_000 + "}"},
        {"attributes": {"Profile": "gone"}}, {"attributes": {"Path": "gone"}},
        {"attributes": {"Content-Type": "text/plain"}}, {"attributes": {"Content-Transfer-Encoding": "base64"}},
        {"attributes": {"ReplyTo": "http://queues/1/gone"}}, {"attributes": {"ReplyTo": OTHER}},
    )  # fmt: skip
    for change in changes:
        members = {**named, **change, "attributes": {**attributes, **change.get("attributes", {})}, "sent_at": sent_at}
        yield a_message(1, receives=2, handle="again", **members)
        if named:
            yield a_message(2, receives=1, handle="another", **members)


def says_no(outgoing: Outgoing) -> bool:
    """Return whether a sender that reads this would send its message again."""
    if outgoing.attributes.get("Submitted", {}).get("StringValue") == "no":
        return True
    try:
        document = json.loads(outgoing.body)
    except ValueError:
        return False
    return isinstance(document, dict) and (document.get("submitted") == "no" or document.get("retry_safe") is True)


@pytest.mark.parametrize("circumstance", CIRCUMSTANCES, ids=lambda function: function.__name__)
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda function: function.__name__)
async def test_no_message_says_no_of_a_job_that_may_have_been_submitted(
    moment: Callable[[Begun], Awaitable[None]], circumstance: Callable[[Handled], None]
) -> None:
    """Each delivery is about a new job at that moment; with and without a dead-letter queue, in turn."""
    wrong: list[tuple[Message, Outgoing | str]] = []
    asked, dead_letters = 0, itertools.cycle((True, False, False))
    for named in NAMES:
        for message in deliveries(named, sent_at=1_000_000.0 - 1.0):
            if moment in FORGOTTEN and message.receives == 1:
                continue  # its key is free again
            it = await begun({**named, "sent_at": 1_000_000.0 - 1.0}, dead=next(dead_letters))
            handled = it.handled
            await moment(it)
            circumstance(handled)
            again = handled.take(message, FOR_S)
            await time_passes(1.0)
            handled.instance.store.hanging = False
            if moment in {under_way, waiting}:
                with contextlib.suppress(StoreUnavailableError):
                    await handled.instance.call_back(it.job)
            await time_passes(2 * FOR_S)
            assert again.done()
            sent = [outgoing for queue in handled.queue.sent.values() for outgoing in queue]
            wrong += [(message, outgoing) for outgoing in sent if says_no(outgoing)]
            if handled.instance.stepped.ran != [it.job.id]:
                wrong.append((message, "was run again"))
            asked += 1
    assert asked > 25
    assert not wrong


async def test_a_message_says_no_of_a_job_that_was_certainly_not_submitted() -> None:
    """Otherwise the test above would pass if nothing ever said `no`."""
    handled = Handled()
    await handled.take(a_message(body="no JSON"))
    it = await begun({}, dead=True)
    it.handled.instance.dispatcher.cancel(it.job.id)
    await it.delivery
    sent = [*handled.queue.sent.values(), *it.handled.queue.sent.values()]
    assert [says_no(outgoing) for queue in sent for outgoing in queue] == [True, True]
