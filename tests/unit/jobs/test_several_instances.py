"""Instances that share a store: one job per key, ends that others record, fences, takeovers, an unavailable store."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import pytest

from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import Job
from proxy.store.record import Record
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError
from shared.job_server.verdict import Kind, Verdict
from shared.lifecycle import State, Submitted
from shared.messages import Told
from shared.outcome import Failed, Outcome, Succeeded
from tests.support.instances import FAILED, PROGRESS, SUCCEEDED, Cluster, Instance
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.records import a_record
from tests.support.runners import SUBMIT, Step

BODY: Final = b'{"state": "completed"}'
OTHER: Final = b'{"state": "completed", "cost": 2}'


@pytest.fixture
async def cluster() -> Cluster:
    """Three instances that share a store."""
    return Cluster(3)


async def begun(instance: Instance, *steps: Step) -> Job:
    """Begin a job and let it run these steps."""
    job = instance.submit()
    instance.stepped.tell(job, *steps)
    await nothing_moves()
    return job


async def on_record(cluster: Cluster, job: Job | Record) -> Record:
    """Return the store's record of a job."""
    record = await cluster.store.by_id(job.id)
    assert record is not None
    return record


def failure(outcome: Outcome | None) -> tuple[Code, Submitted]:
    """Return how a job failed."""
    assert isinstance(outcome, Failed), outcome
    return outcome.code, outcome.submitted


def submissions(cluster: Cluster) -> int:
    """Return how many submissions were sent, by all instances."""
    return sum(instance.stepped.submitted.total() for instance in cluster.members)


# --- keys ------------------------------------------------------------------------------------------------------------


async def test_of_two_instances_that_begin_a_key_at_once_one_does(cluster: Cluster) -> None:
    """The client of the other one joins that job; so do later ones, at any instance."""
    found = await asyncio.gather(*(instance.join() for instance in cluster.instances))

    (job,) = [found for found, joined in found if not joined]
    assert isinstance(job, Job)
    assert {each.id for each, _ in found} == {job.id}
    assert [len(instance.in_flight) for instance in cluster.instances] == [1, 0, 0]
    cluster.instances[0].stepped.tell(job, *SUBMIT)
    waiting = [
        asyncio.create_task(instance.elsewhere.end_of(record, None))
        for instance, (record, joined) in zip(cluster.instances, found, strict=True)
        if joined and isinstance(record, Record)
    ]
    await nothing_moves()
    await cluster.instances[2].call_back(job, BODY)

    assert [(await each).outcome for each in waiting] == [Succeeded(body=BODY)] * 2
    again, joined = await cluster.instances[1].join()
    assert (again.id, again.outcome, joined) == (job.id, Succeeded(body=BODY), True)
    assert submissions(cluster) == 1


async def test_another_body_under_a_key_of_another_instance_is_refused(cluster: Cluster) -> None:
    """Also if both come at once."""
    here, there, _ = cluster.instances
    found = await asyncio.gather(here.join(b"1"), there.join(b"2"), return_exceptions=True)

    (refused,) = [each for each in found if isinstance(each, RequestError)]
    assert (refused.code, refused.fate_known) == (Code.IDEMPOTENCY_KEY_REUSED, False)


async def test_a_job_that_certainly_was_not_submitted_leaves_its_key_to_all(cluster: Cluster) -> None:
    """And one whose `submitted` is unknown does not."""
    here, there, elsewhere = cluster.instances
    job, _ = await here.join()
    assert isinstance(job, Job)
    here.stepped.tell(job, Step.ASSIGN, job.failure(Code.JOB_REJECTED, "no"))
    await job.outcome

    again, joined = await there.join()
    assert (isinstance(again, Job), joined) == (True, False)
    assert again.id != job.id
    assert isinstance(again, Job)
    there.stepped.tell(again, Step.ASSIGN, Step.RECORD, Step.CONNECT)
    await nothing_moves()
    there.stepped.tell(again, again.failure(Code.WORKER_DIED, "gone"))
    await again.outcome

    last, joined = await elsewhere.join()
    assert (last.id, joined) == (again.id, True)
    assert isinstance(last, Record)
    assert failure(last.outcome) == (Code.WORKER_DIED, Submitted.UNKNOWN)


async def test_a_key_whose_claim_got_no_answer_is_free_when_the_store_is_back(cluster: Cluster) -> None:
    """The claim may be recorded, for a job that no instance runs."""
    here, there, _ = cluster.instances
    here.store.loses_answers = True
    with pytest.raises(StoreUnavailableError):
        await here.join()
    here.store.loses_answers = False
    await time_passes(1)

    assert len(here.in_flight) == 0
    _, joined = await there.join()
    assert not joined


async def test_a_job_without_a_key_costs_no_claim_and_one_instance_needs_none() -> None:
    """With one instance, a key is only looked up."""
    cluster = Cluster(1)
    await begun(cluster.instances[0], *SUBMIT)
    assert [record.state for record, _ in cluster.instances[0].store.puts] == [State.SUBMITTING]

    alone = Instance()
    await alone.join()
    assert alone.store.puts == []


async def test_a_claim_counts_for_the_limit_and_for_draining() -> None:
    """It soon becomes a job."""
    cluster = Cluster(1, max_jobs=1)
    (here,) = cluster.instances
    here.store.hanging = True
    joining = asyncio.create_task(here.join())
    await nothing_moves()
    here.store.answer_once()  # the key is looked up, and is being claimed
    await nothing_moves()
    assert here.dispatcher.room() == 0
    with pytest.raises(Exception, match="the limit"):
        here.submit()
    drained = asyncio.create_task(here.dispatcher.drain())
    joining.cancel()  # its client has left
    await nothing_moves()
    assert not drained.done()

    here.store.hanging = False
    await nothing_moves()
    assert len(here.in_flight) == 1
    await drained
    assert len(here.in_flight) == 0


async def test_a_claim_keeps_no_place_after_its_end() -> None:
    """Otherwise each job with a key would lower the limit, until all others are refused."""
    cluster = Cluster(1, max_jobs=1)
    (here,) = cluster.instances
    for number in range(2):
        job, _ = await here.join(key=f"key {number}")
        assert isinstance(job, Job)
        here.stepped.tell(job, Code.NO_WORKER)
        await job.outcome
    here.store.loses_answers = True
    with pytest.raises(StoreUnavailableError):
        await here.join()
    here.store.loses_answers = False
    await time_passes(1)

    assert here.dispatcher.room() == 1


async def test_a_job_with_a_key_is_refused_before_it_claims_the_key(cluster: Cluster) -> None:
    """For the same reasons as others: a claim would outlast the refusal."""
    here, there, _ = cluster.instances
    here.dispatcher.draining = True

    with pytest.raises(AdmissionError, match="shutting down"):
        await here.join()

    assert here.store.puts == []
    _, joined = await there.join()
    assert not joined


# --- callbacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second_body", [OTHER, BODY], ids=["another", "the same"])
async def test_of_two_callbacks_at_two_instances_at_once_one_is_a_duplicate(
    cluster: Cluster, second_body: bytes
) -> None:
    """The instance that is slower hears of it from the store; none of them runs the job."""
    here, there, elsewhere = cluster.instances
    job = await begun(here, *SUBMIT)
    there.store.hanging = True
    second = asyncio.create_task(there.call_back(job, second_body))
    await nothing_moves()
    there.store.answer_once()  # the job is found, and its callback is being recorded
    await nothing_moves()
    assert await elsewhere.call_back(job, BODY) is CallbackFate.ACCEPTED
    there.store.hanging = False

    assert await second is CallbackFate.DUPLICATE
    record = await on_record(cluster, job)
    assert (record.outcome, record.duplicates) == (Succeeded(body=BODY), 1)


async def test_a_callback_is_found_though_nobody_is_told_of_it(cluster: Cluster) -> None:
    """Notices are hints; the store is polled as well."""
    here, there, _ = cluster.instances
    cluster.store.deaf = True
    job = await begun(here, *SUBMIT)
    assert await there.call_back(job, BODY) is CallbackFate.ACCEPTED

    before = time.monotonic()
    assert await job.outcome == Succeeded(body=BODY)
    assert time.monotonic() - before <= 0.5
    assert (here.elsewhere.callbacks, there.elsewhere.callbacks) == (1, 0)


@pytest.mark.parametrize("first_waits", [False, True])
async def test_of_two_callbacks_at_once_the_first_on_record_wins(cluster: Cluster, *, first_waits: bool) -> None:
    """The other one is a duplicate, wherever it came, and the client gets what is recorded."""
    here, there, _ = cluster.instances
    cluster.store.deaf = True
    job = await begun(here, *SUBMIT)
    here.store.hanging = first_waits
    fates = [asyncio.create_task(here.call_back(job, BODY)), asyncio.create_task(there.call_back(job, OTHER))]
    await nothing_moves()
    here.store.hanging = False

    assert {await each for each in fates} == {CallbackFate.ACCEPTED, CallbackFate.DUPLICATE}
    record = await on_record(cluster, job)
    assert record.callback == (OTHER if first_waits else BODY)
    assert record.duplicates == 1
    assert await job.outcome == record.outcome


async def test_a_callback_that_comes_twice_here_and_was_recorded_elsewhere_is_a_duplicate_twice(
    cluster: Cluster,
) -> None:
    """Both wait for the first one here to be recorded, which the store refuses."""
    here, there, _ = cluster.instances
    cluster.store.deaf = True
    job = await begun(here, *SUBMIT)
    here.store.hanging = True
    again = [asyncio.create_task(here.call_back(job, BODY)) for _ in range(2)]
    assert await there.call_back(job, OTHER) is CallbackFate.ACCEPTED
    await nothing_moves()
    here.store.hanging = False

    assert [await each for each in again] == [CallbackFate.DUPLICATE] * 2
    assert await job.outcome == Succeeded(body=OTHER)


async def test_a_callback_that_is_repeated_because_its_answer_was_lost_is_a_duplicate(cluster: Cluster) -> None:
    """It was recorded, but its sender was told that nobody knows."""
    here = cluster.instances[0]
    job = await begun(here, *SUBMIT)
    here.store.loses_answers = True
    with pytest.raises(StoreUnavailableError):
        await here.call_back(job, BODY)
    here.store.loses_answers = False

    assert await here.call_back(job, BODY) is CallbackFate.DUPLICATE
    record = await on_record(cluster, job)
    assert (record.callback, record.duplicates) == (BODY, 1)


async def test_a_callback_that_waited_to_be_recorded_and_comes_again_adds_nothing_to_the_one_on_record(
    cluster: Cluster,
) -> None:
    """That came to another instance meanwhile, and is another one."""
    here, there, _ = cluster.instances
    job = await begun(here, *SUBMIT)
    cluster.cut_off(here)
    with pytest.raises(StoreUnavailableError):
        await here.call_back(job, BODY, Verdict(kind=Kind.FAILED, error="out of memory"))
    await job.outcome
    await there.call_back(job, OTHER)
    cluster.cut_off(here, on=False)
    vars(here.store)["_kept"].append(job.recorder.record)  # it is being written

    assert await here.call_back(job, BODY) is CallbackFate.DUPLICATE
    record = await on_record(cluster, job)
    assert (record.callback, record.error, record.duplicates) == (OTHER, "", 1)


async def test_a_callback_on_record_counts_though_the_deadline_comes_before_it_is_heard_of(cluster: Cluster) -> None:
    """The job's own end is refused; the client gets what the record says."""
    here, there, _ = cluster.instances
    cluster.store.deaf = True
    job = await begun(here, *SUBMIT)
    await time_passes(29.99)
    assert not job.outcome.done()
    await there.call_back(job, BODY)

    assert await job.outcome == Succeeded(body=BODY)
    assert not (await on_record(cluster, job)).late


async def test_progress_at_another_instance_is_proof_at_the_one_that_runs_the_job(cluster: Cluster) -> None:
    """From then on the job server has it."""
    here, there, elsewhere = cluster.instances
    job = await begun(here, *SUBMIT[:3])
    before = job.submitted

    assert await there.call_back(job, b"{}", PROGRESS) is CallbackFate.PROGRESS
    await nothing_moves()

    assert (before, job.submitted) == (Submitted.UNKNOWN, Submitted.YES)
    record = await elsewhere.store.by_id(job.id)
    assert record is not None
    assert record.submitted is Submitted.YES


async def test_a_refused_callback_at_another_instance_is_known_to_the_job(cluster: Cluster) -> None:
    """The client can see why its callback does not come."""
    here, there, _ = cluster.instances
    job = await begun(here, *SUBMIT)

    await there.callback_intake.refuse(job.token_hash, "it is not JSON")
    await nothing_moves()

    assert (job.recorder.record.refused, job.recorder.record.refusal) == (1, "it is not JSON")


async def test_a_job_that_ends_elsewhere_unsubmitted_is_proof_of_nothing(cluster: Cluster) -> None:
    """The dashboard shows it as `no`."""
    here = cluster.instances[0]
    proven: list[str] = []
    here.elsewhere.on_proof = proven.append
    never, perhaps, surely = [
        a_record(state=State.FINISHED, failure=Failed(code=Code.CANCELLED, detail="", submitted=submitted))
        for submitted in (Submitted.NO, Submitted.UNKNOWN, Submitted.YES)
    ]

    for record in (never, perhaps, surely):
        here.elsewhere.hear(record)

    assert proven == [surely.id]


async def test_an_instance_that_hears_of_its_own_callback_does_nothing(cluster: Cluster) -> None:
    """It is being delivered."""
    here = cluster.instances[0]
    job = await begun(here, *SUBMIT)
    taking = asyncio.create_task(here.call_back(job, BODY))
    await nothing_moves()
    here.elsewhere.hear(await on_record(cluster, job))

    assert await taking is CallbackFate.ACCEPTED
    assert here.elsewhere.callbacks == 0


@pytest.mark.parametrize(("profile", "notified"), [("assemblyai", 1), ("replicate", 0)])
async def test_a_notification_at_another_instance_is_one_where_the_job_runs(profile: str, notified: int) -> None:
    """If the job server only says that there is an outcome, the instance that runs the job asks for it."""
    here, there = Cluster(2, profile=profile).instances
    job = await begun(here, *SUBMIT)

    await there.call_back(job, b"{}", Verdict(kind=Kind.NOTIFICATION, state="completed") if notified else PROGRESS)
    await nothing_moves()

    assert job.notifications == notified


@pytest.mark.parametrize("how", ["late", "progress", "refused"])
@pytest.mark.parametrize("at", [0, 1])
async def test_a_callback_at_any_instance_is_proof_at_all(cluster: Cluster, how: str, at: int) -> None:
    """One of them said `no`, and the dashboards of the others may show the failed job as well, if they began later."""
    here = cluster.instances[0]
    proven: list[list[str]] = [[] for _ in cluster.instances]
    for instance, heard in zip(cluster.instances, proven, strict=True):
        instance.elsewhere.on_proof = instance.callback_intake.on_proof = heard.append
    job = await begun(here, Step.ASSIGN, Step.RECORD, Step.CONNECT, Step.REFUSE)
    here.stepped.tell(job, Code.JOB_REJECTED)
    assert failure(await job.outcome) == (Code.JOB_REJECTED, Submitted.NO)
    await nothing_moves()

    if how == "refused":
        await cluster.instances[at].callback_intake.refuse(job.token_hash, "too large")
    else:
        await cluster.instances[at].call_back(job, BODY, PROGRESS if how == "progress" else SUCCEEDED)
    await nothing_moves()

    assert [set(heard) for heard in proven] == [{job.id}] * 3
    assert (await on_record(cluster, job)).submitted is Submitted.YES


async def test_the_reason_of_a_failure_is_asked_for_where_the_client_waits() -> None:
    """The callback came elsewhere, and only says that the job failed."""
    cluster = Cluster(2, profile="replicate")
    here, there = cluster.instances
    job = await begun(here, *SUBMIT)
    job.learn({"status_url": "http://job-server/1"})
    here.asker.answers = [Told(job_id="", call="status", kind=str(Kind.FAILED), error="out of memory", body=b"{}")]

    await there.call_back(job, BODY, verdict=FAILED)

    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert outcome.detail.endswith("out of memory")
    assert [call for _, call, _ in here.asker.asked] == ["status"]


async def test_a_reason_that_came_with_the_callback_is_not_asked_for() -> None:
    """Wherever it came."""
    here, there = Cluster(2, profile="replicate").instances
    job = await begun(here, *SUBMIT)
    job.learn({"status_url": "http://job-server/1"})

    await there.call_back(job, BODY, verdict=Verdict(kind=Kind.FAILED, error="out of memory"))

    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert outcome.detail.endswith("out of memory")
    assert here.asker.asked == []


async def test_a_failure_is_asked_about_once_though_it_is_heard_of_again() -> None:
    """By the notice, and by looking, while the job server takes its time."""
    here, there = (cluster := Cluster(2, profile="replicate")).instances
    job = await begun(here, *SUBMIT)
    await there.call_back(job, BODY, verdict=FAILED)
    await nothing_moves()
    assert not job.outcome.done()  # it waits for the name that a call needs

    here.elsewhere.hear(await on_record(cluster, job))

    assert here.elsewhere.callbacks == 1


# --- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "submitted"),
    [((), Submitted.NO), (SUBMIT[:3], Submitted.UNKNOWN), (SUBMIT, Submitted.YES)],
)
async def test_a_job_is_cancelled_from_any_instance(
    cluster: Cluster, steps: tuple[Step, ...], submitted: Submitted
) -> None:
    """With what is known of its submission; the instance that runs it stops, and its client gets the same."""
    here, there, elsewhere = cluster.instances
    job = await begun(here, Step.QUEUE, *steps)
    record = await there.store.by_id(job.id)
    assert record is not None

    held = await there.elsewhere.cancel(record, by="its client")

    assert failure(held.outcome) == (Code.CANCELLED, submitted)
    assert await job.outcome == held.outcome
    assert len(here.in_flight) == 0
    assert (await on_record(cluster, job)).outcome == held.outcome
    assert await elsewhere.call_back(job, BODY) is CallbackFate.LATE


async def test_an_operator_who_cancels_elsewhere_is_named_on_record_only(cluster: Cluster) -> None:
    """The job's client learns that an operator did it, not which one."""
    here, there, _ = cluster.instances
    job = await begun(here, *SUBMIT)
    record = await there.store.by_id(job.id)
    assert record is not None

    held = await there.elsewhere.cancel(record, by="the operator anna")

    assert held.cancelled_by == "the operator anna"
    told = await job.outcome
    assert isinstance(told, Failed)
    assert "cancelled by an operator;" in told.detail


async def test_a_cancellation_says_what_is_on_record_when_it_is_written(cluster: Cluster) -> None:
    """The job has advanced since it was looked up."""
    here, there, _ = cluster.instances
    job = await begun(here, Step.QUEUE)
    before = await there.store.by_id(job.id)
    assert before is not None
    here.stepped.tell(job, *SUBMIT)
    await nothing_moves()

    held = await there.elsewhere.cancel(before, by="its client")

    assert failure(held.outcome) == (Code.CANCELLED, Submitted.YES)


async def test_a_cancellation_comes_too_late_for_a_job_that_has_ended(cluster: Cluster) -> None:
    """The stored end is returned."""
    here, there, elsewhere = cluster.instances
    job = await begun(here, *SUBMIT)
    before = await there.store.by_id(job.id)
    assert before is not None
    await elsewhere.call_back(job, BODY)

    held = await there.elsewhere.cancel(before, by="its client")

    assert held.outcome == Succeeded(body=BODY)


async def test_the_job_server_is_told_of_a_cancellation_by_whoever_runs_the_job() -> None:
    """If its profile has a call for that."""
    cluster = Cluster(2, profile="replicate")
    here, there = cluster.instances
    job = await begun(here, *SUBMIT)
    job.learn({"cancel_url": "http://job-server/1/cancel", "id": "1"})
    record = await there.store.by_id(job.id)
    assert record is not None

    await there.elsewhere.cancel(record, by="its client")
    await time_passes(1)

    assert [call for _, call, _ in here.asker.asked] == ["cancel"]
    assert there.asker.asked == []


@pytest.mark.parametrize("how", ["cancelled where it was begun", "cancelled where it is now", "overdue"])
async def test_the_job_server_is_told_once_that_a_job_that_was_taken_over_is_given_up(how: str) -> None:
    """By its new owner, although the instance where the client waits gives it up as well."""
    cluster = Cluster(2, profile="replicate")
    here, there = cluster.instances
    job = await begun(here, *SUBMIT)
    job.learn({"cancel_url": "http://job-server/1/cancel", "id": "1"})
    cluster.sleeps_through_its_lease(here, there)

    if how == "overdue":
        await time_passes(30)
    else:
        (here if how == "cancelled where it was begun" else there).dispatcher.cancel(job.id)
    await job.outcome
    await time_passes(1)

    calls = [[call for _, call, _ in instance.asker.asked] for instance in cluster.instances]
    assert [each.count("cancel") for each in calls] == [0, 1]


@pytest.mark.parametrize("wakes", [False, True])
async def test_the_job_server_is_told_once_of_a_cancellation_that_the_jobs_instance_did_not_hear_of(
    *, wakes: bool
) -> None:
    """It is told by the instance that finds the lease expired; what was not submitted needs no call."""
    cluster = Cluster(3, profile="replicate")
    here, there, elsewhere = cluster.instances
    job, queued = await begun(here, *SUBMIT), await begun(here, Step.QUEUE)
    job.learn({"cancel_url": "http://job-server/1/cancel", "id": "1"})
    queued.learn({"cancel_url": "http://job-server/2/cancel", "id": "2"})
    await nothing_moves()
    cluster.pause(here)
    for each in (job, queued):
        await there.elsewhere.cancel(await on_record(cluster, each), by="its client")
    for heir in (there, elsewhere):
        cluster.take_over(heir, here)
    if wakes:
        cluster.wake(here)
    await time_passes(1)

    asked = [[(each.id, call) for each, call, _ in instance.asker.asked] for instance in (here, there, elsewhere)]
    assert asked == [[], [(job.id, "cancel")], []]


# --- fences ----------------------------------------------------------------------------------------------------------


async def test_an_instance_that_was_paused_does_not_submit_what_was_taken_over(cluster: Cluster) -> None:
    """The job has ended as not submitted, and its key is used again elsewhere."""
    here, there, _ = cluster.instances
    job, _ = await here.join()
    assert isinstance(job, Job)
    cluster.pause(here)
    here.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    cluster.take_over(there, here)
    again, joined = await there.join()
    assert isinstance(again, Job)
    assert not joined
    there.stepped.tell(again, *SUBMIT)
    await nothing_moves()

    cluster.wake(here)

    assert failure(await job.outcome) == (Code.INTERRUPTED, Submitted.NO)
    assert (here.stepped.submitted.total(), there.stepped.submitted.total()) == (0, 1)
    assert [(who, record.state) for who, record in cluster.store.refused] == [("instance 1", State.SUBMITTING)]
    assert there.dispatcher.taken_over == 1


async def test_a_job_that_was_taken_over_while_it_ran_ends_as_its_record_does(cluster: Cluster) -> None:
    """The paused instance cannot record its end; but it gets the callback."""
    here, there, elsewhere = cluster.instances
    job = await begun(here, *SUBMIT)
    cluster.pause(here)
    cluster.take_over(there, here)
    assert [len(instance.in_flight) for instance in cluster.instances] == [1, 1, 0]
    cluster.wake(here)

    await elsewhere.call_back(job, BODY)

    assert await job.outcome == Succeeded(body=BODY)
    await nothing_moves()
    assert [outcome for _, outcome in there.notes.finished] == [Succeeded(body=BODY)]


async def test_a_failure_is_refused_to_an_instance_whose_job_was_taken_over(cluster: Cluster) -> None:
    """The job is waited for until its deadline, because a callback may still come."""
    here, there, elsewhere = cluster.instances
    job = await begun(here, *SUBMIT)
    cluster.sleeps_through_its_lease(here, there)

    here.stepped.tell(job, job.failure(Code.WORKER_DIED, "gone"))
    await time_passes(10)
    assert not job.outcome.done()
    assert (await on_record(cluster, job)).state is not State.FINISHED
    await elsewhere.call_back(job, BODY)

    assert await job.outcome == Succeeded(body=BODY)
    assert here.elsewhere.fenced == 1


async def test_a_job_that_was_taken_over_gets_no_second_worker_but_its_callback(cluster: Cluster) -> None:
    """Its first worker was lost before it connected, but another instance must assume that the job was submitted."""
    here, there, elsewhere = cluster.instances
    job = await begun(here, *SUBMIT[:2])
    cluster.sleeps_through_its_lease(here, there)
    await elsewhere.call_back(job, b"{}", PROGRESS)
    await nothing_moves()
    assert job.recorder.is_taken
    here.stepped.tell(job, Step.RECORD, Step.CONNECT)
    await time_passes(1)
    assert (job.outcome.done(), here.stepped.submitted.total(), here.elsewhere.fenced) == (False, 0, 1)

    await elsewhere.call_back(job, BODY)

    assert await job.outcome == Succeeded(body=BODY)


async def test_what_was_about_to_be_submitted_when_it_was_taken_over_is_unknown(cluster: Cluster) -> None:
    """Its record says so since before the worker got it, and nothing can be fenced after that."""
    here, there, _ = cluster.instances
    job = await begun(here, *SUBMIT[:2])
    cluster.sleeps_through_its_lease(here, there)
    here.stepped.tell(job, *SUBMIT[2:])

    assert failure(await job.outcome)[1] is not Submitted.NO
    await time_passes(1)
    record = await on_record(cluster, job)
    assert failure(record.outcome) == (Code.INTERRUPTED, Submitted.UNKNOWN)


async def test_a_client_can_cancel_where_its_job_was_taken_over_from(cluster: Cluster) -> None:
    """Whichever instance owns it."""
    here, there, _ = cluster.instances
    job = await begun(here, *SUBMIT)
    cluster.sleeps_through_its_lease(here, there)

    here.dispatcher.cancel(job.id)
    await nothing_moves()

    assert failure(await job.outcome) == (Code.CANCELLED, Submitted.YES)
    assert failure((await on_record(cluster, job)).outcome) == (Code.CANCELLED, Submitted.YES)
    assert [len(instance.in_flight) for instance in cluster.instances] == [0, 0, 0]


async def test_a_job_whose_claim_is_lost_is_not_submitted_beside_that_of_another_instance(cluster: Cluster) -> None:
    """The database was restored, or its standby lagged; the other job's end is not this client's."""
    here, there, _ = cluster.instances
    job, _ = await here.join()
    cluster.store.lose(job.id)
    other, joined = await there.join()
    assert isinstance(job, Job)
    assert isinstance(other, Job)
    assert not joined

    here.stepped.tell(job, *SUBMIT)
    await there.call_back(other, BODY)

    assert failure(await job.outcome) == (Code.INTERRUPTED, Submitted.NO)
    assert here.stepped.submitted.total() == 0


@pytest.mark.parametrize(
    ("steps", "code", "submitted"),
    [(SUBMIT[:2], Code.JOB_REJECTED, Submitted.UNKNOWN), (SUBMIT, Code.WORKER_DIED, Submitted.YES)],
)
async def test_a_refused_failure_says_no_less_than_is_known(
    cluster: Cluster, steps: tuple[Step, ...], code: Code, submitted: Submitted
) -> None:
    """Here, or on record: nobody has recorded the end of a job that was taken over when its client has to be told."""
    here, there, _ = cluster.instances
    job = await begun(here, *steps)
    cluster.sleeps_through_its_lease(here, there)
    cluster.kill(there)

    here.stepped.tell(job, job.failure(code, "it is so"))

    assert failure(await job.outcome) == (code, submitted)


# --- takeovers -------------------------------------------------------------------------------------------------------


async def test_the_jobs_of_a_dead_instance_end_by_callback_cancellation_or_deadline(cluster: Cluster) -> None:
    """At the instance that took them over, once."""
    here, there, elsewhere = cluster.instances
    called, cancelled, silent = [await begun(here, *SUBMIT) for _ in range(3)]
    queued = await begun(here, Step.QUEUE)
    cluster.kill(here)
    for heir in (there, elsewhere):
        cluster.take_over(heir, here)
    assert (len(there.in_flight), len(elsewhere.in_flight), there.dispatcher.taken_over) == (3, 0, 4)

    await elsewhere.call_back(called, BODY)
    await elsewhere.elsewhere.cancel(await on_record(cluster, cancelled), by="its client")
    await there.dispatcher.drain()

    ends = [(await on_record(cluster, job)).outcome for job in (cancelled, silent, queued)]
    assert (await on_record(cluster, called)).outcome == Succeeded(body=BODY)
    assert [failure(end) for end in ends] == [
        (Code.CANCELLED, Submitted.YES),
        (Code.INTERRUPTED, Submitted.YES),
        (Code.INTERRUPTED, Submitted.NO),
    ]
    assert isinstance(ends[1], Failed)
    assert ends[1].detail == "the instance that had the job is gone, and no callback came afterwards"


@pytest.mark.parametrize("knows", [False, True])
async def test_a_job_that_comes_back_to_where_it_was_begun_ends_there(cluster: Cluster, *, knows: bool) -> None:
    """It was taken over from here, which may have heard of that, and the other instance is gone as well."""
    here, there, elsewhere = cluster.instances
    job = await begun(here, *SUBMIT)
    cluster.sleeps_through_its_lease(here, there)
    if knows:
        await elsewhere.call_back(job, b"{}", PROGRESS)
    await nothing_moves()
    assert job.recorder.is_taken is knows
    cluster.kill(there)
    cluster.take_over(here, there)
    assert here.in_flight.by_id(job.id) is job

    here.stepped.tell(job, job.failure(Code.WORKER_DIED, "gone"))

    assert failure(await job.outcome) == (Code.WORKER_DIED, Submitted.YES)
    assert (await on_record(cluster, job)).outcome == await job.outcome
    assert len(here.in_flight) == 0


async def test_jobs_that_were_taken_over_are_asked_for() -> None:
    """As after a restart: the new owner asks the job server."""
    cluster = Cluster(2, profile="replicate")
    here, there = cluster.instances
    job = await begun(here, *SUBMIT)
    job.learn({"status_url": "http://job-server/1"})
    await nothing_moves()
    cluster.kill(here)
    cluster.take_over(there, here)
    there.asker.answers = [Told(job_id="", call="outcome", kind=str(Kind.SUCCEEDED), error="", body=BODY)]

    await there.dispatcher.drain()

    assert (await on_record(cluster, job)).outcome == Succeeded(body=BODY)


async def test_an_instance_that_drains_waits_for_its_own_jobs_and_takes_callbacks_of_others(cluster: Cluster) -> None:
    """A rolling upgrade loses nothing."""
    here, there, _ = cluster.instances
    own, others = await begun(here, *SUBMIT), await begun(there, *SUBMIT)
    drained = asyncio.create_task(here.dispatcher.drain())

    assert await here.call_back(others, BODY) is CallbackFate.ACCEPTED
    assert await others.outcome == Succeeded(body=BODY)
    assert not drained.done()
    last = await begun(there, *SUBMIT)
    waiting = asyncio.create_task(here.elsewhere.end_of(await on_record(cluster, last), None))
    await there.call_back(own, BODY)
    await drained
    with pytest.raises(AdmissionError, match="the job continues at another instance"):
        await waiting


async def test_an_instance_that_drains_takes_over_nothing(cluster: Cluster) -> None:
    """It ends as soon as its own jobs have."""
    here, there, elsewhere = cluster.instances
    job = await begun(here, *SUBMIT)
    cluster.kill(here)
    there.dispatcher.draining = True

    for heir in (there, elsewhere):
        cluster.take_over(heir, here)

    assert [len(instance.in_flight) for instance in (there, elsewhere)] == [0, 1]
    await there.dispatcher.drain()
    await elsewhere.call_back(job, BODY)
    assert (await on_record(cluster, job)).outcome == Succeeded(body=BODY)


# --- the store is away -----------------------------------------------------------------------------------------------


async def test_cut_off_from_the_store_an_instance_answers_what_it_has(cluster: Cluster) -> None:
    """No new jobs; a callback reaches the client that waits here, and its sender has to retry, perhaps elsewhere."""
    here, there, elsewhere = cluster.instances
    called, silent, queued = [await begun(here, *SUBMIT), await begun(here, *SUBMIT), await begun(here)]
    cluster.cut_off(here)
    with pytest.raises(Exception, match="the disk is full"):
        here.submit()
    here.stepped.tell(queued, *SUBMIT)
    await nothing_moves()
    with pytest.raises(StoreUnavailableError):
        await here.call_back(called, BODY)
    others = await begun(there, *SUBMIT)
    with pytest.raises(StoreUnavailableError):
        await here.call_back(others, BODY)

    assert await called.outcome == Succeeded(body=BODY)
    assert failure(await queued.outcome) == (Code.JOURNAL_UNAVAILABLE, Submitted.NO)
    assert failure(await silent.outcome) == (Code.DEADLINE_EXCEEDED, Submitted.YES)
    assert here.stepped.submitted[queued.id] == 0

    assert await elsewhere.call_back(called, BODY) is CallbackFate.ACCEPTED
    cluster.cut_off(here, on=False)
    await nothing_moves()
    assert (await on_record(cluster, called)).outcome == Succeeded(body=BODY)
    assert (await on_record(cluster, silent)).outcome == await silent.outcome


async def test_what_is_recorded_elsewhere_while_an_instance_is_cut_off_is_found_afterwards(cluster: Cluster) -> None:
    """It got no notice of it."""
    here, there, _ = cluster.instances
    job = await begun(here, *SUBMIT)
    cluster.cut_off(here)
    await there.call_back(job, BODY)
    await time_passes(5)
    assert not job.outcome.done()

    cluster.cut_off(here, on=False)

    assert await job.outcome == Succeeded(body=BODY)


# --- a client that waits at another instance -------------------------------------------------------------------------


async def test_a_wait_for_a_job_elsewhere_ends_after_its_time_with_the_newest_record(cluster: Cluster) -> None:
    """The job has not ended yet."""
    here, there, _ = cluster.instances
    job = await begun(here, Step.QUEUE)
    record = await on_record(cluster, job)
    here.stepped.tell(job, *SUBMIT)

    found = await there.elsewhere.end_of(record, 2)

    assert (found.state, found.submitted) == (State.WAITING, Submitted.YES)


async def test_a_wait_for_a_job_that_nobody_sees_to_ends_with_the_sweep(cluster: Cluster) -> None:
    """Every job ends, even if its owner neither works nor counts as dead."""
    here, there, _ = cluster.instances
    job = await begun(here, *SUBMIT)
    cluster.pause(here)
    waiting = asyncio.create_task(there.elsewhere.end_of(await on_record(cluster, job), None))
    await time_passes(32.5)
    cluster.store.end_overdue()

    assert failure((await waiting).outcome) == (Code.INTERRUPTED, Submitted.YES)
    cluster.wake(here)
    await nothing_moves()
    assert (await on_record(cluster, job)).outcome == (await waiting).outcome


async def test_a_wait_of_some_seconds_does_not_depend_on_the_store(cluster: Cluster) -> None:
    """It ends with what was known at its beginning."""
    here, there, _ = cluster.instances
    job = await begun(here, *SUBMIT)
    record = await on_record(cluster, job)
    cluster.cut_off(there)

    assert await there.elsewhere.end_of(record, 2) == record


async def test_a_wait_is_given_up_where_the_end_must_be_and_cannot_be_found(cluster: Cluster) -> None:
    """The client may ask again; nothing more is known."""
    here, there, _ = cluster.instances
    job = await begun(here, *SUBMIT)
    record = await on_record(cluster, job)
    cluster.cut_off(there)

    with pytest.raises(StoreUnavailableError, match="the disk is full"):
        await there.elsewhere.end_of(record, None)


def test_the_wall_clock_gives_no_job_more_time_than_it_had() -> None:
    """Whatever another machine's clock says."""
    record: Any = a_record(accepted_at=100.0, deadline_at=130.0)

    assert [record.left_s(now) for now in (90.0, 100.0, 110.0, 140.0)] == [30.0, 30.0, 20.0, -10.0]
