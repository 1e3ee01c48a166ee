"""Asking the job server about jobs: when, how often, and the effects of its answers."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from proxy import log
from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import Job
from proxy.jobs.job_server import ServedJobServers
from proxy.jobs.polling import Poller, Schedule
from shared.errors import Code
from shared.job_server.verdict import Kind, Verdict, job_failed
from shared.lifecycle import State, Submitted
from shared.messages import Told
from shared.outcome import Failed, Succeeded
from tests.support import instances
from tests.support.failing_store import FailingStore
from tests.support.instances import FAILED, PROGRESS, SUCCEEDED, Instance
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.left_open_store import LeftOpenStore
from tests.support.records import a_record
from tests.support.runners import SUBMIT, Step

NOTIFICATION = Verdict(kind=Kind.NOTIFICATION, state="done")
RESULT = b'{"n": 1.50}'


def told(kind: str, body: bytes = b"", **more: Any) -> Told:
    """Return an answer."""
    return Told(job_id="", call="", kind=kind, body=body, **more)


async def waiting(instance: Instance, profile: str = "", **outputs: str) -> Job:
    """Return a job that the job server has, and whose reply had these `outputs`."""
    job = instance.submit(profile=profile)
    instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    job.learn(outputs)
    await nothing_moves()
    return job


def now() -> float:
    """Return the time."""
    return asyncio.get_running_loop().time()


def asked_at(instance: Instance, since: float) -> list[float]:
    """Return when the job server was asked, in seconds."""
    return [round(at - since, 1) for at in instance.asker.at]


# --- the schedule ----------------------------------------------------------------------------------------------------


def a_schedule(chance: float = 0.5) -> Schedule:
    """Return a schedule from 0 to 100."""
    return Schedule(after_s=30, every_s=10, deadline=100, chance=lambda: chance)


def moments(schedule: Schedule, submitted_at: float | None = 0, *, notified: bool = False) -> list[float]:
    """Return the times of the calls, if each answer takes no time."""
    found: list[float] = []
    moment = 0.0
    for _ in range(1_000):
        at = schedule.next_at(moment, submitted_at, notified=notified)
        if at is None:
            return found
        moment = max(moment, at)
        found.append(round(moment, 1))
        schedule.asked(moment, notified=notified)
    raise AssertionError("it would never end")


def test_a_job_is_asked_for_after_a_while_then_again_and_again_and_last_before_the_deadline() -> None:
    """A second before it."""
    assert moments(a_schedule()) == [30, 40, 50, 60, 70, 80, 90, 99]


@pytest.mark.parametrize(("chance", "second"), [(0, 38), (1, 42)])
def test_chance_keeps_jobs_from_asking_together(chance: float, second: float) -> None:
    """By a fifth, either way."""
    assert moments(a_schedule(chance))[:2] == [30, second]


def test_a_job_that_was_not_submitted_is_not_asked_for() -> None:
    """No job server has it."""
    assert moments(a_schedule(), None) == []


def test_after_a_notification_is_asked_at_once_and_then_after_pauses_that_grow() -> None:
    """Up to the intervals of any other job, and until shortly before the deadline: there is an outcome to fetch."""
    found = moments(a_schedule(), notified=True)
    assert found[:9] == [0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7, 22.7]
    assert found[-1] == 99.9


def test_a_notification_after_the_last_call_is_asked_about() -> None:
    """The last second before the deadline is enough for a call."""
    schedule = Schedule(after_s=30, every_s=10, deadline=5)
    assert moments(schedule) == [4]
    assert schedule.next_at(4.3, 0, notified=False) is None
    due = schedule.next_at(4.3, 0, notified=True)
    assert due is not None
    assert due <= 4.3


def test_a_pause_that_the_job_server_asks_for_is_made() -> None:
    """But not beyond the last call, nor once it has announced an outcome since."""
    schedule = a_schedule()
    schedule.asked(30, notified=False, pause_s=25)
    assert schedule.next_at(30, 0, notified=False) == 55
    assert schedule.next_at(31, 0, notified=True) == 55
    schedule.announced()
    assert schedule.next_at(31, 0, notified=True) == 30
    schedule.asked(31, notified=True, pause_s=86_400)
    assert schedule.next_at(31, 0, notified=True) == 99.9
    schedule.asked(99.9, notified=True)
    assert schedule.next_at(99.9, 0, notified=True) is None


def test_the_last_moment_is_never_later_than_the_deadline_allows() -> None:
    """A job with less time than `after` is asked about anyway."""
    assert moments(Schedule(after_s=30, every_s=10, deadline=5)) == [4]
    assert moments(Schedule(after_s=30, every_s=10, deadline=0.5)) == [0]


# --- what is done ----------------------------------------------------------------------------------------------------


async def test_a_job_server_that_cannot_be_asked_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs such a job nothing."""
    followed: list[Job] = []
    monkeypatch.setattr(Poller, "follow", lambda _, job: followed.append(job))
    instance = Instance()
    job = await waiting(instance)
    await job.outcome
    assert followed == []


async def test_a_lost_callback_is_made_up_for() -> None:
    """The answer is recorded, and becomes the outcome, like a callback."""
    instance = Instance(profile="replicate", job_timeout_s=100)
    since = now()
    instance.asker.answers = [
        told("unavailable", error="no"),
        told(Kind.PROGRESS, state="processing"),
        told(Kind.SUCCEEDED, RESULT),
    ]
    job = await waiting(instance, status_url="http://job-server/1")

    assert await job.outcome == Succeeded(body=RESULT)

    assert [call for _, call, _ in instance.asker.asked] == ["outcome"] * 3
    assert asked_at(instance, since)[0] == 30
    assert job.remote_state == "processing"
    record = await instance.store.by_id(job.id)
    assert record is not None
    assert (record.outcome, record.state) == (Succeeded(body=RESULT), State.FINISHED)
    assert await instance.call_back(job, b"late") is CallbackFate.DUPLICATE


async def test_a_failure_that_was_asked_for_has_its_reason_and_a_result_its_media_type() -> None:
    """Like those of callbacks."""
    instance = Instance(profile="replicate")
    instance.asker.answers = [told(Kind.FAILED, b'{"a": 1}', error="out of memory")]
    failed = await (await waiting(instance, status_url="/1")).outcome
    assert isinstance(failed, Failed)
    assert (failed.code, failed.result, failed.submitted) == (Code.JOB_FAILED, b'{"a": 1}', Submitted.YES)
    assert failed.detail.endswith(": out of memory")

    instance.asker.answers = [told(Kind.SUCCEEDED, b"%PDF", content_type="application/pdf")]
    job = await waiting(instance, status_url="/1")
    assert await job.outcome == Succeeded(body=b"%PDF", content_type="application/pdf")


async def test_a_profile_says_when_its_jobs_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time, and how often after that, give or take a fifth."""
    server = instances.a_job_server("replicate")
    assert server.profile.status is not None
    profile = replace(server.profile, status=replace(server.profile.status, after=5, every=20))
    served = ServedJobServers([replace(server, profile=profile)], ())
    monkeypatch.setattr(instances, "served_job_servers", lambda _: served)
    instance, since = Instance(profile="replicate", job_timeout_s=1_000), now()
    await waiting(instance, status_url="/1")
    await time_passes(100)
    at = asked_at(instance, since)
    assert at[0] == 5
    assert all(15.9 <= later - earlier <= 24.1 for earlier, later in itertools.pairwise(at))
    assert len(at) > 3


async def test_nothing_is_asked_of_a_job_whose_callback_comes() -> None:
    """However long similar jobs take."""
    instance = Instance(profile="replicate")
    job = await waiting(instance, status_url="/1")
    await time_passes(20)
    await instance.call_back(job, RESULT)
    await job.outcome
    await time_passes(100)
    assert instance.asker.asked == []


async def test_a_person_can_have_it_asked_now() -> None:
    """The answer counts as at any other time; if the job server cannot be asked, the error says why."""
    instance = Instance(profile="replicate", job_timeout_s=100)
    job = await waiting(instance)
    assert (await instance.poller.ask_now(job)).error == "the job server has not given its id for the job yet"
    job.learn({"status_url": "/1"})
    instance.asker.answers = [told(Kind.PROGRESS, state="processing"), told(Kind.SUCCEEDED, RESULT)]
    assert (await instance.poller.ask_now(job)).kind == Kind.PROGRESS
    assert (job.remote_state, job.progress_count) == ("processing", 1)
    assert (await instance.poller.ask_now(job)).kind == Kind.SUCCEEDED
    assert await job.outcome == Succeeded(body=RESULT)

    other = Instance()
    answer = await other.poller.ask_now(await waiting(other))
    assert (answer.kind, answer.error) == ("unavailable", "the job server has no call for a job's status")
    assert other.asker.asked == []


@pytest.mark.parametrize(("job_timeout_s", "within_s"), [(1_000.0, 10), (5.0, 5)])
async def test_a_call_on_request_takes_no_longer_than_a_person_waits(job_timeout_s: float, within_s: int) -> None:
    """Nor longer than the job's deadline."""
    instance, since = Instance(profile="replicate", job_timeout_s=job_timeout_s), now()
    await instance.poller.ask_now(await waiting(instance, status_url="/1"))
    ((_, _, deadline),) = instance.asker.asked
    assert round(deadline - since) == within_s


async def test_nothing_is_asked_before_the_names_are_there() -> None:
    """They come with the reply, or with a callback."""
    instance = Instance(profile="replicate", job_timeout_s=100)
    since = now()
    instance.asker.answers = [told(Kind.SUCCEEDED, RESULT)]
    job = await waiting(instance)
    await time_passes(50)
    assert instance.asker.asked == []
    assert job.heard_instead().endswith("the job server has not given its id for the job yet")
    await instance.call_back(job, b"{}", Verdict(kind=Kind.PROGRESS, state="x", outputs={"status_url": "/1"}))
    await job.outcome
    assert asked_at(instance, since) == [50]


async def test_a_job_whose_names_are_missing_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands may wait for the first callback, which gives the names."""
    looks = Counter[str]()
    next_at = Schedule.next_at

    def counted(schedule: Schedule, *args: Any, **more: Any) -> float | None:
        looks["all"] += 1
        return next_at(schedule, *args, **more)

    monkeypatch.setattr(Schedule, "next_at", counted)
    await waiting(Instance(profile="replicate", job_timeout_s=100))
    await time_passes(80)
    assert looks["all"] < 80


async def test_what_the_reply_named_counts_for_more_than_what_a_callback_does() -> None:
    """A callback only adds outputs that the reply did not have."""
    instance = Instance(profile="replicate")
    job = await waiting(instance, id="reply")
    await instance.call_back(job, b"{}", Verdict(kind=Kind.PROGRESS, outputs={"id": "callback", "status_url": "/1"}))
    assert job.recorder.record.outputs == {"id": "reply", "status_url": "/1"}
    job.recorder.waiting({"status_url": "/2"})
    assert job.recorder.record.outputs == {"id": "reply", "status_url": "/2"}


async def test_a_lost_reply_is_made_up_for_where_only_our_names_are_needed() -> None:
    """An answer that the job has not ended also proves that the job server has it."""
    instance = Instance(profile="langgraph")
    instance.asker.answers = [told(Kind.PROGRESS, state="busy"), told("unavailable", error="no")]
    job = instance.submit()
    instance.stepped.tell(job, *SUBMIT[:3])
    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.submitted) == (Code.DEADLINE_EXCEEDED, Submitted.YES)


async def test_an_answer_without_a_state_proves_nothing() -> None:
    """It may be from anybody: HTML, an error, a lie."""
    instance = Instance(profile="langgraph")
    instance.asker.answers = [told(Kind.PROGRESS)]
    job = instance.submit()
    instance.stepped.tell(job, *SUBMIT[:3])
    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.submitted) == (Code.DEADLINE_EXCEEDED, Submitted.UNKNOWN)


async def test_whoever_waited_in_vain_is_told_why_nothing_counted() -> None:
    """The last callback and the last answer each have a reason, unless they are good."""
    instance = Instance(profile="langgraph")
    job = await waiting(instance, id="7")
    instance.asker.answers = [told(Kind.PROGRESS, error="it answered 404")]
    await instance.call_back(job, b"{", Verdict(kind=Kind.PROGRESS, error="it could not be read"))
    await instance.poller.ask_now(job)
    assert job.heard_instead().endswith(": 1, the last one without a state; it could not be read; it answered 404")

    instance.asker.answers = [told("unavailable", error="no")]
    await instance.call_back(job, b"{}", Verdict(kind=Kind.PROGRESS, state="running"))
    await instance.poller.ask_now(job)
    assert job.heard_instead().endswith("the state 'running'; the job server could not be asked: no")

    instance.asker.answers = [told(Kind.PROGRESS, state="busy")]
    await instance.poller.ask_now(job)
    assert job.heard_instead().endswith("the state 'busy'")


async def test_a_notification_is_followed_by_a_question() -> None:
    """At once, and soon again while there is no answer."""
    instance = Instance(profile="docling-serve")
    since = now()
    instance.asker.answers = [told(Kind.PROGRESS), told(Kind.PROGRESS), told(Kind.SUCCEEDED, RESULT)]
    job = await waiting(instance, id="7")
    assert await instance.call_back(job, b"{}", NOTIFICATION) is CallbackFate.PROGRESS
    assert await job.outcome == Succeeded(body=RESULT)
    assert asked_at(instance, since) == [0, 0.1, 0.3]


async def test_each_notification_is_followed_by_a_question() -> None:
    """The first ones may come long before there is an outcome, where any callback is a notification."""
    instance = Instance(profile="docling-serve")
    since = now()
    job = await waiting(instance, id="7")
    instance.asker.answers = [told(Kind.PROGRESS)] * 9
    await instance.call_back(job, b"{}", NOTIFICATION)
    await time_passes(15)
    assert asked_at(instance, since)[-1] == 12.7
    instance.asker.answers = [told(Kind.SUCCEEDED, RESULT)]
    await instance.call_back(job, b"{}", NOTIFICATION)
    assert await job.outcome == Succeeded(body=RESULT)
    assert asked_at(instance, since)[-1] == 15


async def test_very_many_notifications_are_not_very_many_questions() -> None:
    """A job server may send one for each step of its job."""
    instance = Instance(profile="docling-serve")
    job = await waiting(instance, id="7")
    instance.asker.answers = [told(Kind.PROGRESS)] * 100
    for _ in range(200):
        await instance.call_back(job, b"{}", NOTIFICATION)
        await time_passes(0.1)
    assert len(instance.asker.asked) < 30


async def test_a_job_server_that_asks_for_a_pause_is_not_asked_in_it() -> None:
    """It may limit how often it can be asked, for all jobs together."""
    instance = Instance(profile="docling-serve")
    since = now()
    instance.asker.answers = [told(Kind.PROGRESS, pause_s=5.0), told(Kind.SUCCEEDED, RESULT)]
    job = await waiting(instance, id="7")
    await instance.call_back(job, b"{}", NOTIFICATION)
    assert await job.outcome == Succeeded(body=RESULT)
    assert asked_at(instance, since) == [0, 5]


async def test_a_notification_before_the_reply_waits_for_the_names() -> None:
    """Without them, the job server cannot be asked."""
    instance = Instance(profile="docling-serve")
    instance.asker.answers = [told(Kind.SUCCEEDED, RESULT)]
    job = await waiting(instance)
    await instance.call_back(job, b"{}", NOTIFICATION)
    await time_passes(5)
    assert instance.asker.asked == []
    job.learn({"id": "7"})
    assert await job.outcome == Succeeded(body=RESULT)


async def test_a_notification_at_a_fixed_url_may_come_before_its_job_has_the_name() -> None:
    """The name is kept for it, for a while."""
    instance = Instance(profile="openai-background")
    instance.asker.answers = [told(Kind.SUCCEEDED, RESULT)]
    server = instance.served.first
    job = await waiting(instance)
    assert await instance.named_callbacks.find(server, "resp_1") is None
    job.learn({"id": "resp_1"})
    assert await job.outcome == Succeeded(body=RESULT)
    assert instance.asker.asked
    again = await waiting(instance, id="resp_2")
    assert await instance.named_callbacks.find(server, "resp_2") is again


async def test_a_notification_while_the_store_is_searched_is_not_lost() -> None:
    """Its job may get its name meanwhile."""
    instance = Instance(profile="openai-background")
    instance.asker.answers = [told(Kind.SUCCEEDED, RESULT)]
    job = await waiting(instance)
    instance.store.hanging = True
    finding = asyncio.create_task(instance.named_callbacks.find(instance.served.first, "resp_1"))
    await nothing_moves()
    job.learn({"id": "resp_1"})
    await time_passes(0.2)
    assert instance.asker.asked
    instance.store.hanging = False
    assert await job.outcome == Succeeded(body=RESULT)
    await finding


async def test_the_reason_of_a_failure_is_asked_for_where_the_callback_has_none() -> None:
    """The callback's sender does not wait for that, the client waits a little."""
    instance = Instance(profile="ogc-processes")
    instance.asker.answers = [told(Kind.FAILED, error="no such input")]
    job = await waiting(instance, id="1")
    assert await instance.call_back(job, b"{}", FAILED) is CallbackFate.ACCEPTED
    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert outcome.detail.endswith(": no such input")
    assert [call for _, call, _ in instance.asker.asked] == ["status"]
    assert instance.poller.counts == {("ogc-processes", "status", "failed"): 1}
    record = await instance.store.by_id(job.id)
    assert record is not None
    assert record.outcome == outcome


@pytest.mark.parametrize(
    "answer", [told("unavailable", error="nobody there"), told(Kind.PROGRESS, state="running"), told(Kind.FAILED)]
)
async def test_only_a_failure_has_the_reason_of_a_failure(answer: Told) -> None:
    """That the job server could not be asked is not why the job failed."""
    instance = Instance(profile="ogc-processes")
    instance.asker.answers = [answer]
    job = await waiting(instance, id="1")
    await instance.call_back(job, b"{}", FAILED)
    assert await job.outcome == job_failed(b"{}")
    record = await instance.store.by_id(job.id)
    assert record is not None
    assert record.error == ""


async def test_a_reason_that_cannot_be_had_keeps_a_client_for_two_seconds() -> None:
    """And is then omitted."""
    instance = Instance(profile="ogc-processes")
    job = await waiting(instance)
    since = now()
    await instance.call_back(job, b"{}", FAILED)
    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert outcome.code is Code.JOB_FAILED
    assert round(now() - since, 1) == 2


async def test_a_reason_is_not_waited_for_until_the_deadline() -> None:
    """The failure is known, so the client gets it in time."""
    instance = Instance(profile="ogc-processes", job_timeout_s=3)
    job = await waiting(instance)
    since = now()
    await time_passes(2)
    await instance.call_back(job, b"{}", FAILED)
    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert outcome.code is Code.JOB_FAILED
    assert round(now() - since, 2) == 2.75


@pytest.mark.parametrize("how", ["cancelled", "overdue"])
async def test_a_job_that_is_given_up_is_cancelled_at_the_job_server(how: str) -> None:
    """Its client does not wait for that; draining does."""
    instance = Instance(profile="cog")
    instance.asker.answers = [told("cancelled")]
    job = await waiting(instance, id="1")
    if how == "cancelled":
        instance.dispatcher.cancel(job.id)
    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert instance.asker.asked == []
    assert (how == "cancelled") is ("the job server is told" in outcome.detail)
    await instance.dispatcher.drain()
    assert [call for _, call, _ in instance.asker.asked] == ["cancel"]


@pytest.mark.parametrize(("named", "after_s"), [(True, 1), (False, 1.5)])
async def test_a_job_that_is_cancelled_before_its_reply_is_cancelled_after_it(named: bool, after_s: float) -> None:
    """Without its name, the job server could not be told; but a reply that does not come is not waited for."""
    instance = Instance(profile="replicate")
    instance.asker.answers = [told("cancelled")]
    job = instance.submit()
    instance.stepped.tell(job, Step.ASSIGN, Step.RECORD, Step.CONNECT)
    await nothing_moves()
    since = now()
    instance.dispatcher.cancel(job.id)
    await time_passes(1)
    assert not job.outcome.done()
    if named:
        instance.stepped.tell(job, Step.REPLY)
        job.learn({"cancel_url": "http://job-server/1/cancel"})
    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.submitted) == (Code.CANCELLED, "yes" if named else "unknown")
    assert named is outcome.detail.endswith("the job server is told")
    assert round(now() - since, 1) == after_s
    await instance.dispatcher.drain()
    assert [call for _, call, _ in instance.asker.asked] == ["cancel"] * named


@pytest.mark.parametrize("how", ["cancelled", "overdue"])
async def test_a_job_that_is_named_only_after_it_was_given_up_is_cancelled_then(how: str) -> None:
    """It may have been in a queue, from which it would start although nobody waits for it."""
    instance = Instance(profile="github-actions")
    instance.asker.answers = [told("cancelled")] * 2
    job = await waiting(instance)
    if how == "cancelled":
        instance.dispatcher.cancel(job.id)
    assert isinstance(await job.outcome, Failed)
    await instance.dispatcher.drain()
    assert instance.asker.asked == []
    unnamed = Verdict(kind=Kind.PROGRESS, state="queued")
    named = Verdict(kind=Kind.PROGRESS, state="in_progress", outputs={"cancel_url": "https://api.github.com/1/cancel"})
    for verdict in (unnamed, named, named):
        assert await instance.call_back(job, b"{}", verdict) is CallbackFate.PROGRESS
        await instance.dispatcher.drain()
    assert [call for _, call, _ in instance.asker.asked] == ["cancel"]
    record = await instance.store.by_id(job.id)
    assert record is not None
    assert record.outputs["cancel_url"].endswith("/1/cancel")


async def test_a_job_that_ended_there_is_not_cancelled_when_it_is_named_late() -> None:
    """Its end has come meanwhile; and a job that failed otherwise was not given up."""
    instance = Instance(profile="github-actions")
    named = Verdict(kind=Kind.PROGRESS, outputs={"cancel_url": "https://api.github.com/1/cancel"})
    ended, died = await waiting(instance), await waiting(instance)
    instance.dispatcher.cancel(ended.id)
    instance.stepped.tell(died, died.failure(Code.WORKER_DIED, "it died"))
    await asyncio.gather(ended.outcome, died.outcome)
    assert await instance.call_back(ended) is CallbackFate.LATE
    for job in (ended, died):
        await instance.call_back(job, b"{}", named)
    await instance.dispatcher.drain()
    assert instance.asker.asked == []


async def test_a_job_that_was_left_open_is_cancelled_there_at_its_deadline() -> None:
    """Nobody waits for it any more."""
    record = a_record(state=State.WAITING, profile="cog")
    instance = Instance(store=FailingStore(LeftOpenStore(record)), profile="cog")
    instance.asker.answers = [told("cancelled")]
    await instance.dispatcher.restore()
    job = instance.in_flight.by_id(record.id)
    assert job is not None
    await job.outcome
    await instance.dispatcher.drain()
    assert [call for _, call, _ in instance.asker.asked] == ["cancel"]


async def test_a_job_that_was_not_submitted_is_not_cancelled_there() -> None:
    """Nor one whose outputs are unknown."""
    instance = Instance(profile="replicate")
    unsubmitted, unnamed = instance.submit(), await waiting(instance)
    for job in (unsubmitted, unnamed):
        instance.dispatcher.cancel(job.id)
        await job.outcome
    await instance.dispatcher.drain()
    assert instance.asker.asked == []


async def test_a_job_of_a_job_server_that_cancels_nothing_is_cancelled_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits for its name there, and no line of the log says that there was a call."""
    lines: list[str] = []
    monkeypatch.setattr(log, "event", lambda _level, what, **_: lines.append(what))
    instance = Instance()
    job = instance.submit()
    instance.stepped.tell(job, *SUBMIT[:3])
    await nothing_moves()
    instance.dispatcher.cancel(job.id)
    await nothing_moves()
    assert job.outcome.done()
    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.submitted) == (Code.CANCELLED, Submitted.UNKNOWN)
    assert (instance.asker.asked, lines) == ([], [])


async def test_a_job_that_ended_otherwise_is_not_cancelled() -> None:
    """By its callback, or by a worker that died with it."""
    instance = Instance(profile="cog")
    job = await waiting(instance, id="1")
    await instance.call_back(job)
    await job.outcome
    died = await waiting(instance, id="2")
    instance.stepped.tell(died, died.failure(Code.WORKER_DIED, "it died"))
    await died.outcome
    await instance.dispatcher.drain()
    assert instance.asker.asked == []


@pytest.mark.parametrize("how", ["its client cancels it", "its deadline passes"])
async def test_a_job_that_is_given_up_after_its_callback_came_is_not_cancelled_there(how: str) -> None:
    """It is over there."""
    instance = Instance(profile="cog", job_timeout_s=3)
    job = await waiting(instance, id="1")
    instance.store.hanging = True
    callback = asyncio.create_task(instance.call_back(job))
    await nothing_moves()
    if how == "its client cancels it":
        instance.dispatcher.cancel(job.id)
    else:
        instance.stepped.tell(job, job.failure(Code.DEADLINE_EXCEEDED, "no callback came in time"))
    assert isinstance(await job.outcome, Failed)
    instance.store.hanging = False
    assert await callback is CallbackFate.LATE
    await instance.dispatcher.drain()
    assert instance.asker.asked == []


async def test_after_a_restart_jobs_are_asked_for_but_not_all_at_once() -> None:
    """By the recorded outputs; the calls for a thousand jobs are spread over the time that a poll may take."""
    members = {"profile": "replicate", "outputs": {"status_url": "http://job-server/1"}}
    left_open = LeftOpenStore(*(a_record(state=State.WAITING, **members) for _ in range(1_000)))
    instance = Instance(store=FailingStore(left_open), profile="replicate", max_jobs=2_000)
    instance.asker.answers = [told(Kind.SUCCEEDED, RESULT)]
    await instance.dispatcher.restore()
    await time_passes(100)

    assert len(instance.asker.asked) == 1_000
    assert len(instance.in_flight) == 0
    in_each_second = [len(list(group)) for _, group in itertools.groupby(sorted(map(int, instance.asker.at)))]
    assert max(in_each_second) < 200


async def test_a_flood_of_progress_is_shown_and_costs_nothing_that_grows() -> None:
    """Ten thousand callbacks: one line in the store, and the last body, unless it is long."""
    instance = Instance(profile="replicate")
    job = await waiting(instance, status_url="/1")
    before = len(instance.store.puts), len(instance.store.notes)
    for number in range(10_000):
        await instance.call_back(job, b'{"n": %d}' % number, PROGRESS)
    assert (len(instance.store.puts), len(instance.store.notes)) == before
    assert (job.progress_count, job.last_progress, job.remote_state) == (10_000, b'{"n": 9999}', "running")
    await instance.call_back(job, b"x" * 20_000, PROGRESS)
    assert job.last_progress == b""
    await instance.call_back(job)
    assert await job.outcome == Succeeded(body=b'{"state": "completed"}')
    assert len(job.life) < 600


async def test_the_token_is_not_shown_where_the_job_server_repeats_it() -> None:
    """A result is not changed, byte for byte."""
    instance = Instance(profile="replicate")
    job = await waiting(instance)
    body = b'{"webhook": "http://proxy/callback/%b"}' % job.token.encode()
    await instance.call_back(job, body, PROGRESS)
    assert job.last_progress == b'{"webhook": "http://proxy/callback/***"}'
    failing = await waiting(instance, status_url="/1")
    await instance.call_back(failing, b'{"a": "%b"}' % failing.token.encode(), Verdict(kind=Kind.FAILED, error="so"))
    failed = await failing.outcome
    assert isinstance(failed, Failed)
    assert failed.result == b'{"a": "***"}'
    await instance.call_back(job, body)
    assert await job.outcome == Succeeded(body=body)


async def test_a_job_server_that_could_not_call_back_may_say_with_which_url() -> None:
    """The token in it is not shown either; here, only the hash of the job's token is known."""
    instance = Instance(profile="replicate")
    job = await waiting(instance, status_url="/1")
    url, job.token = f"http://proxy/callback/{job.token}", ""
    instance.asker.answers = [told(Kind.FAILED, b'{"error": "no connection to %b"}' % url.encode())]
    failed = await job.outcome
    assert isinstance(failed, Failed)
    assert failed.result == b'{"error": "no connection to http://proxy/callback/***"}'


async def test_a_bug_in_asking_does_not_end_a_job() -> None:
    """Its callback still counts."""
    instance = Instance(profile="replicate")

    async def broken(*_: object) -> Told:
        raise ZeroDivisionError

    instance.asker.ask = broken  # type: ignore[assignment,method-assign] # that is the point
    job = await waiting(instance, status_url="/1")
    await time_passes(29.5)
    await instance.call_back(job, RESULT, SUCCEEDED)
    assert await job.outcome == Succeeded(body=RESULT)
