"""The handling of one delivery of a message, in a front end's core, with a queue service that the test controls."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import sys
import time
from typing import Final, NoReturn

import pytest

from proxy import log
from proxy.jobs.entrance import JobRequest
from proxy.jobs.job import Job, new_id
from proxy.sqs.counts import Fate
from proxy.sqs.message import Message
from proxy.store.record import Record
from shared.errors import Code, QueueError
from shared.job_server.client_jobs import ClientJobs
from shared.lifecycle import Submitted
from shared.outcome import Failed, Outcome, Succeeded
from tests.support.handled_messages import DEAD, OTHER, REPLIES, TTL_S, Handled
from tests.support.instances import Cluster, Instance
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.runners import SUBMIT, AnsweringRunner
from tests.support.stated_queue import a_message

BASE64: Final = {"Content-Transfer-Encoding": "base64"}
DONE: Final = Succeeded(body=b'{"state": "completed"}')


def failed(code: Code, submitted: Submitted) -> Failed:
    """Return such an outcome."""
    return Failed(code=code, detail="it failed", submitted=submitted)


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        (DONE, "succeeded"),
        (failed(Code.DEADLINE_EXCEEDED, Submitted.YES), "deadline-exceeded"),
        (failed(Code.JOB_SERVER_UNAVAILABLE, Submitted.UNKNOWN), "job-server-unavailable"),
        (failed(Code.CANCELLED, Submitted.NO), "cancelled"),
    ],
)
async def test_what_is_over_is_replied_to_then_deleted(outcome: Outcome, what: str) -> None:
    """Anything that may have run; and a cancelled job, which nobody wants any more."""
    handled = Handled(Instance(AnsweringRunner(outcome)))

    await handled.take(a_message())

    (reply,) = handled.sent()
    assert reply.get("Code", reply["Outcome"]) == what
    assert handled.queue.deleted == ["handle-1"]
    assert handled.queue.hidden == []
    assert (handled.count(Fate.GIVEN_BACK), handled.count(Fate.DELETED)) == (0, 1)


@pytest.mark.parametrize(("receives", "pause_s"), [(1, 2), (3, 8), (9, 512), (10, 900), (500, 900)])
async def test_what_was_not_submitted_is_given_back_with_a_pause_that_doubles(receives: int, pause_s: int) -> None:
    """It is neither replied to nor deleted."""
    handled = Handled(Instance(AnsweringRunner(failed(Code.NO_WORKER, Submitted.NO))))

    await handled.take(a_message(receives=receives, sent_at=handled.now))

    assert handled.queue.hidden == [("handle-1", pause_s)]
    assert (handled.sent(), handled.queue.deleted) == ([], [])
    assert (handled.count(Fate.GIVEN_BACK), handled.count(Fate.DELETED)) == (1, 0)


@pytest.mark.parametrize("attributes", [{}, {"Idempotency-Key": "n"}], ids=["", "key"])
async def test_what_was_not_submitted_is_run_again_when_it_is_delivered_again(attributes: dict[str, str]) -> None:
    """The failure is no outcome: what counts is that of the last attempt."""
    handled = Handled()
    for receives in (1, 2, 3):
        delivery = handled.take(a_message(attributes=attributes, receives=receives, sent_at=handled.now))
        await nothing_moves()
        (job,) = handled.instance.in_flight
        handled.instance.stepped.tell(job, *((Code.NO_WORKER,) if receives < 3 else (*SUBMIT, DONE)))
        await delivery

    assert handled.queue.hidden == [("handle-1", 2), ("handle-1", 4)]
    *_, last = ran = handled.instance.stepped.ran
    assert [(reply["Outcome"], reply["Job-Id"]) for reply in handled.sent()] == [("succeeded", last)]
    assert len(set(ran)) == 3


async def test_a_message_may_have_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a request over HTTP."""
    handled = Handled(Instance(AnsweringRunner(DONE)))
    monkeypatch.setattr(ClientJobs, "query", lambda _self, text: f"read {text}")
    queries: list[str] = []
    submit = handled.instance.dispatcher.submit_under_key

    async def submit_under_key(request: JobRequest, fingerprint: bytes) -> Job:
        queries.append(request.query)
        return await submit(request, fingerprint)

    monkeypatch.setattr(handled.instance.dispatcher, "submit_under_key", submit_under_key)

    await handled.take(a_message(attributes={"Query": "model=a"}))

    assert queries == ["read model=a"]


async def test_while_nothing_can_be_recorded_a_message_is_given_back() -> None:
    """It cannot be known whether it ran."""
    handled = Handled()
    handled.instance.store.failing = True

    await handled.take(a_message())

    assert handled.queue.hidden == [("handle-1", 2)]
    assert handled.instance.notes.began == []


@pytest.mark.parametrize("how", ["drained", "paused"])
async def test_a_proxy_that_takes_no_jobs_gives_back_at_once(how: str) -> None:
    """Other instances can take it at once."""
    handled = Handled()
    if how == "drained":
        handled.instance.dispatcher.draining = True
    else:
        handled.instance.dispatcher.pause.begin("anna", "")
    assert handled.instance.dispatcher.room() == 0, "and no further message is taken"

    handled.take(a_message())
    await nothing_moves()

    assert handled.queue.hidden == [("handle-1", 0)]


async def test_room_that_others_took_is_waited_for() -> None:
    """A delivery counts towards `maxReceiveCount`, so it should not be wasted."""
    handled = Handled(Instance(max_jobs=1))
    first = handled.instance.submit()
    task = handled.take(a_message())
    await time_passes(3.0)
    assert not task.done()
    handled.instance.stepped.tell(first, *SUBMIT, DONE)
    await time_passes(1.0)
    (job,) = handled.instance.in_flight
    handled.instance.stepped.tell(job, *SUBMIT, DONE)
    await task
    assert handled.queue.deleted == ["handle-1"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (a_message(body="no JSON"), Code.INVALID_REQUEST),
        (a_message(body="[]"), Code.INVALID_REQUEST),
        (a_message(body='{"a": "' + "x" * 1_000 + '"}'), Code.PAYLOAD_TOO_LARGE),
        (a_message(attributes={"Profile": "nobody"}), Code.NOT_FOUND),
        (a_message(attributes={"Path": "more"}), Code.NOT_FOUND),
        (a_message(attributes={"Content-Type": "text/plain"}), Code.UNSUPPORTED_MEDIA_TYPE),
        (a_message(attributes={"Content-Transfer-Encoding": "gzip"}), Code.UNSUPPORTED_MEDIA_TYPE),
        (a_message(attributes=BASE64), Code.INVALID_REQUEST),
        (a_message(body="\xe9===", attributes=BASE64), Code.INVALID_REQUEST),
        (a_message(attributes={"ReplyTo": "http://queues/1/strangers"}), Code.FORBIDDEN),
        (a_message(attributes={"Idempotency-Key": "x" * 256}), Code.INVALID_REQUEST),
    ],
)
async def test_what_cannot_be_a_job_goes_to_the_dead_letters(message: Message, code: Code) -> None:
    """With the reason; then it is deleted."""
    handled = Handled()

    await handled.take(message)

    (letter,) = handled.sent(DEAD)
    assert (letter["Code"], letter["Submitted"], letter["Message-Id"]) == (code, "no", "message-1")
    assert handled.queue.sent[DEAD][0].body == message.body
    assert (handled.queue.deleted, handled.sent()) == (["handle-1"], [])
    assert handled.instance.notes.began == []


async def test_without_a_queue_for_the_dead_it_is_replied_to_and_without_any_it_is_kept() -> None:
    """Nothing is lost."""
    handled = Handled(dead=False)
    await handled.take(a_message(body="no JSON"))
    (reply,) = handled.sent()
    assert (reply["Outcome"], reply["Code"]) == ("failed", "invalid-request")
    assert json.loads(handled.queue.sent[REPLIES][0].body)["code"] == "invalid-request"
    assert handled.queue.deleted == ["handle-1"]

    handled = Handled(dead=False, replies=False)
    await handled.take(a_message(body="no JSON"))
    assert (handled.queue.hidden, handled.queue.deleted) == ([("handle-1", 900)], [])


async def test_a_message_may_name_one_of_the_allowed_queues_for_its_reply() -> None:
    """And no other queue gets it."""
    handled = Handled(Instance(AnsweringRunner(DONE)))

    await handled.take(a_message(attributes={"ReplyTo": OTHER}))

    assert (len(handled.sent(OTHER)), handled.sent()) == (1, [])


async def test_a_base64_body_is_the_job() -> None:
    """So a body need not be text."""
    runner = AnsweringRunner(DONE)
    handled = Handled(Instance(runner))
    await handled.take(a_message(body="eyJhIjogMX0=", attributes=BASE64))
    assert [json.loads(body) for body in runner.submitted] == [{"a": 1}]


async def test_a_base64_body_may_be_compressed() -> None:
    """Otherwise a job of more than a mebibyte would fit into no message."""
    runner = AnsweringRunner(DONE)
    handled = Handled(Instance(runner))
    body = base64.b64encode(gzip.compress(b'{"a": 1}')).decode()
    await handled.take(a_message(body=body, attributes=BASE64 | {"Content-Encoding": "gzip"}))
    assert [json.loads(body) for body in runner.submitted] == [{"a": 1}]


async def test_the_job_is_known_by_the_messages_key_its_deduplication_id_or_its_id() -> None:
    """In this order; and the kinds of keys are never mixed up."""
    runner = AnsweringRunner(DONE)
    handled = Handled(Instance(runner))
    named = {"Idempotency-Key": "n"}
    for message in (
        a_message(1, attributes=named),
        a_message(2, attributes=named, deduplication_id="other"),
        a_message(3, deduplication_id="n"),
        a_message(4, deduplication_id="n"),
        a_message(5, id="n"),
        a_message(6, id="n"),
    ):
        await handled.take(message)

    assert runner.submitted.total() == 3
    assert (handled.count(Fate.BEGUN), handled.count(Fate.JOINED)) == (3, 3)
    assert len(handled.sent()) == len(handled.queue.deleted) == 6
    for message_id in ("message-2", "message-4", "n"):
        assert await handled.message_jobs.find(message_id) is not None
    assert await handled.message_jobs.find("nobody") is None


@pytest.mark.parametrize(("by_group", "jobs"), [(True, 2), (False, 1)])
async def test_a_deduplication_id_counts_as_far_as_the_queue_says(*, by_group: bool, jobs: int) -> None:
    """In one message group, or in all of them; a key that the sender chose counts in all."""
    runner = AnsweringRunner(DONE)
    handled = Handled(Instance(runner), by_group=by_group)
    for number, group in enumerate(("customer-a", "customer-b", "customer-a")):
        await handled.take(a_message(number, deduplication_id="order-1", group=group))
    assert runner.submitted.total() == jobs

    for number, group in enumerate(("customer-a", "customer-b"), start=3):
        await handled.take(a_message(number, attributes={"Idempotency-Key": "n"}, deduplication_id="x", group=group))
    assert runner.submitted.total() == jobs + 1


async def test_the_job_of_a_message_is_found_at_any_instance_also_if_the_message_has_a_key() -> None:
    """The newest, if it was begun again; each has its own id."""
    here, there = (Handled(instance) for instance in Cluster(2).instances)
    ids = []
    for _ in range(2):
        message = a_message(1, attributes={"Idempotency-Key": "n"})
        delivery = here.take(message)
        await nothing_moves()
        found = await here.message_jobs.find(message.id)
        assert isinstance(found, Job)
        elsewhere = await there.message_jobs.find(message.id)
        assert isinstance(elsewhere, Record)
        assert elsewhere.id == found.id
        ids.append(found.id)
        here.instance.dispatcher.cancel(found.id)  # so that the key may get another job
        await delivery

    assert len(set(ids)) == 2
    assert {len(job_id) for job_id in ids} == {len(new_id())}
    assert await there.message_jobs.find("another") is None


async def test_a_message_that_is_delivered_again_while_its_job_runs_joins_it() -> None:
    """Both deliveries end with the same reply, after one submission."""
    handled = Handled()
    first = handled.take(a_message())
    await nothing_moves()
    second = handled.take(a_message(receives=2, handle="again"))
    await nothing_moves()
    (job,) = handled.instance.in_flight

    handled.instance.stepped.tell(job, *SUBMIT, DONE)
    await asyncio.gather(first, second)

    assert {reply["Job-Id"] for reply in handled.sent()} == {job.id}
    assert sorted(handled.queue.deleted) == ["again", "handle-1"]


@pytest.mark.parametrize("attributes", [{}, {"Idempotency-Key": "n"}], ids=["", "key"])
async def test_a_message_whose_job_was_cancelled_is_not_run_when_it_is_delivered_again(
    attributes: dict[str, str],
) -> None:
    """Its reply may have been sent, and only its deletion failed; another message with its key is another job."""
    handled = Handled()
    delivery = handled.take(a_message(attributes=attributes))
    await nothing_moves()
    (job,) = handled.instance.in_flight
    handled.instance.dispatcher.cancel(job.id)
    await delivery

    await handled.take(a_message(attributes=attributes, receives=2, handle="again"))

    first, second = handled.sent()
    assert first == second
    assert (first["Code"], first["Submitted"], first["Job-Id"]) == ("cancelled", "no", job.id)
    assert handled.queue.deleted == ["handle-1", "again"]
    handled.take(a_message(2, attributes=attributes, receives=2, sent_at=handled.now))
    await nothing_moves()
    assert len(handled.instance.in_flight) == 1


async def test_a_body_is_freed_once_its_job_has_it() -> None:
    """The job may wait for long, and frees it once the job server has it."""
    handled = Handled()
    message = a_message()
    handled.take(message)
    await nothing_moves()
    (job,) = handled.instance.in_flight
    alone = bytes(bytearray(job.body))

    body, job.body = job.body, b""

    assert sys.getrefcount(body) == sys.getrefcount(alone)
    assert message.body == ""


async def test_an_old_message_whose_job_may_be_forgotten_is_not_run() -> None:
    """It cannot be known whether it ran before; while its job is remembered, it gets the outcome."""
    runner = AnsweringRunner(DONE)
    handled = Handled(Instance(runner))
    sent_at = handled.now - TTL_S

    await handled.take(a_message(1, receives=2, sent_at=sent_at))
    (letter,) = handled.sent(DEAD)
    assert (letter["Code"], letter["Submitted"]) == ("interrupted", "unknown")
    assert runner.submitted.total() == 0

    await handled.take(a_message(2, receives=1, sent_at=sent_at))  # never delivered before
    await handled.take(a_message(3, receives=9, sent_at=handled.now - TTL_S + 100))  # its job would be remembered
    assert runner.submitted.total() == 2
    handled.now = time.time()
    await handled.take(a_message(2, receives=2, sent_at=0.0))
    assert (runner.submitted.total(), len(handled.sent(DEAD))) == (2, 1)
    handled.now += TTL_S  # it is remembered, but not for long enough to be sure
    await handled.take(a_message(2, receives=3, sent_at=0.0))
    assert (runner.submitted.total(), len(handled.sent(DEAD))) == (2, 2)


async def test_an_old_message_whose_job_runs_at_another_instance_waits_for_it() -> None:
    """Its job is not forgotten."""
    here, there = (Handled(instance) for instance in Cluster(2).instances)
    sent_at = here.now - TTL_S
    first = here.take(a_message(sent_at=sent_at))
    await nothing_moves()
    (job,) = here.instance.in_flight
    here.instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    again = there.take(a_message(receives=2, handle="again", sent_at=sent_at))
    await nothing_moves()
    await here.instance.call_back(job)
    await asyncio.gather(first, again)
    assert there.sent() == here.sent()
    assert (there.queue.deleted, there.sent(DEAD)) == (["again"], [])


async def test_a_lost_reply_is_sent_again_and_only_then_is_the_message_deleted() -> None:
    """The service may be unavailable for a while."""
    handled = Handled(Instance(AnsweringRunner(DONE)))
    handled.queue.errors = [QueueError("away")] * 4

    await handled.take(a_message())

    assert (len(handled.sent()), handled.queue.deleted) == (1, ["handle-1"])
    assert handled.queue.calls == 6


@pytest.mark.parametrize("fifo", [False, True])
async def test_deletions_wait_for_others_unless_the_next_message_of_the_group_waits_for_them(*, fifo: bool) -> None:
    """It is not delivered before."""
    handled = Handled(Instance(AnsweringRunner(DONE)), fifo=fifo)

    delivery = handled.take(a_message(group="g", deduplication_id="d"))
    await time_passes(0.1)

    assert (len(handled.sent()), handled.queue.deleted) == (1, ["handle-1"] if fifo else [])
    await delivery
    assert handled.queue.deleted == ["handle-1"]


async def test_what_cannot_be_replied_to_in_time_is_delivered_again() -> None:
    """It is not deleted, and the next delivery gets the same outcome."""
    runner = AnsweringRunner(DONE)
    handled = Handled(Instance(runner))
    handled.queue.errors = [QueueError("away")] * 1_000
    await handled.take(a_message())
    assert handled.queue.deleted == []
    assert handled.count(Fate.OVERDUE) == 1

    handled.queue.errors = [QueueError("no such queue", refused=True)]
    await handled.take(a_message(receives=2))
    assert handled.queue.deleted == []

    await handled.take(a_message(receives=3))
    assert (runner.submitted.total(), len(handled.sent()), handled.queue.deleted) == (1, 1, ["handle-1"])


async def test_nothing_is_deleted_before_its_outcome_is_recorded() -> None:
    """Otherwise a second message with its key would find a job whose `submitted` is unknown."""
    handled = Handled()
    task = handled.take(a_message())
    await nothing_moves()
    (job,) = handled.instance.in_flight
    handled.instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    handled.instance.store.failing = True
    handled.instance.stepped.tell(job, failed(Code.DEADLINE_EXCEEDED, Submitted.YES))
    await job.outcome
    await time_passes(5.0)
    assert (handled.sent(), handled.queue.deleted) == ([], [])

    handled.instance.store.failing = False
    await task
    assert (len(handled.sent()), handled.queue.deleted) == (1, ["handle-1"])


async def test_what_has_no_recorded_outcome_in_time_is_delivered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the log says so: this is no bug."""
    lines: list[tuple[str, object]] = []
    monkeypatch.setattr(log, "event", lambda level, _what, **fields: lines.append((level, fields.get("reason"))))
    handled = Handled()
    await handled.take(a_message(), for_s=5.0)

    assert lines == [("warning", "its job has no recorded outcome yet")]
    assert (handled.queue.deleted, handled.queue.hidden, handled.count(Fate.OVERDUE)) == ([], [], 1)


async def test_a_bug_costs_one_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is delivered again."""

    async def run(_: JobRequest) -> NoReturn:
        raise AssertionError

    handled = Handled()
    monkeypatch.setattr(handled.instance.entrance, "submit_or_join", run)
    await handled.take(a_message())
    assert handled.count(Fate.OVERDUE) == 1
