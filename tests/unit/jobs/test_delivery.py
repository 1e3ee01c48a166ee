"""How a callback reaches the waiting client: in one process, and among several instances that share a store."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import pytest
from msgspec.structs import replace

from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.in_flight import InFlight
from proxy.jobs.job import Job
from proxy.store.record import Record
from shared.errors import Code, StoreUnavailableError
from shared.lifecycle import State
from shared.outcome import Failed, Succeeded
from tests.support.instances import Cluster, Instance
from tests.support.jobs import a_job
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.records import finished
from tests.support.runners import SUBMIT

BODY: Final = b'{"state": "completed", "cost": 1.10}'
OTHER: Final = b'{"state": "completed", "cost": 2}'


@pytest.fixture
async def cluster() -> Cluster:
    """Three instances that share a store."""
    return Cluster(3)


async def a_job_at(instance: Instance) -> Job:
    """Begin a job there; the job server has it."""
    job = instance.submit()
    instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    return job


async def on_record(cluster: Cluster, job: Job) -> Record:
    """Return the store's record of `job`."""
    record = await cluster.store.by_id(job.id)
    assert record is not None
    return record


# --- in this process -------------------------------------------------------------------------------------------------


async def test_a_record_reaches_the_job_that_it_is_of() -> None:
    """And no other; the job learns what was recorded elsewhere."""
    in_flight, job, other = InFlight(), a_job(), a_job()
    for each in (job, other):
        in_flight.add(each)
    record = finished(id=job.id, token_hash=job.token_hash, callback=BODY)

    in_flight.deliver(record)

    assert (job.callback.done(), other.callback.done()) == (True, False)
    assert job.recorder.record.outcome == Succeeded(body=BODY)


@pytest.mark.parametrize("state", [State.ACCEPTED, State.ASSIGNED, State.SUBMITTING, State.WAITING, State.FINISHED])
async def test_progress_on_record_is_proof_in_every_state(state: State) -> None:
    """Even for a job that has lost its worker and waits for another one."""
    job = a_job()
    job.state = state

    job.hear(replace(job.recorder.record, state=State.WAITING))

    assert job.state is (State.FINISHED if state is State.FINISHED else State.WAITING)


async def test_a_record_of_a_job_that_is_not_here_is_nobodys() -> None:
    """It is in the store, where it will be found."""
    InFlight().deliver(finished())


async def test_a_record_that_is_delivered_twice_is_delivered_once() -> None:
    """The first one stays."""
    in_flight, job = InFlight(), a_job()
    in_flight.add(job)
    for body in (BODY, OTHER):
        in_flight.deliver(finished(id=job.id, token_hash=job.token_hash, callback=body))

    assert job.recorder.record.callback == BODY


async def test_what_a_client_was_told_stays_beside_a_record_from_elsewhere() -> None:
    """The job had ended here, and its end was being recorded, when the callback was recorded elsewhere."""
    in_flight, job = InFlight(), a_job()
    in_flight.add(job)
    told = Failed(code=Code.DEADLINE_EXCEEDED, detail="late", submitted=job.submitted)
    await job.recorder.finished(told)

    in_flight.deliver(finished(id=job.id, token_hash=job.token_hash, callback=BODY))

    record = job.recorder.record
    assert (record.callback, record.failure, record.late) == (BODY, told, True)


# --- among instances -------------------------------------------------------------------------------------------------


async def test_a_callback_is_accepted_where_it_arrives_and_answered_where_the_client_waits(cluster: Cluster) -> None:
    """A load balancer may send it to any instance."""
    here, there, _ = cluster.instances
    job = await a_job_at(here)

    assert await there.call_back(job, BODY) is CallbackFate.ACCEPTED

    assert await job.outcome == Succeeded(body=BODY)
    assert here.notes.finished == [(job, Succeeded(body=BODY))]
    record = await on_record(cluster, job)
    assert (record.state, record.outcome, record.late) == (State.FINISHED, Succeeded(body=BODY), False)


@pytest.mark.parametrize("where", [0, 1, 2])
async def test_a_callback_that_comes_again_is_a_duplicate_at_every_instance(cluster: Cluster, where: int) -> None:
    """After the first one was delivered to the job, and after the job has ended."""
    job = await a_job_at(cluster.instances[0])
    fates = [await cluster.instances[1].call_back(job, BODY)]
    await job.callback
    for _ in range(2):
        fates.append(await cluster.instances[where].call_back(job, OTHER))
        await job.outcome

    assert fates == [CallbackFate.ACCEPTED, CallbackFate.DUPLICATE, CallbackFate.DUPLICATE]
    record = await on_record(cluster, job)
    assert (record.callback, record.duplicates) == (BODY, 2)


async def test_a_callback_is_late_at_every_instance_once_the_client_has_been_told(cluster: Cluster) -> None:
    """And then found at every instance."""
    here, there, elsewhere = cluster.instances
    job = await a_job_at(here)
    told = await job.outcome

    fates = [await instance.call_back(job, BODY) for instance in (there, here, elsewhere)]

    assert fates == [CallbackFate.LATE, CallbackFate.DUPLICATE, CallbackFate.DUPLICATE]
    record = await elsewhere.store.by_id(job.id)
    assert record is not None
    assert (record.outcome, record.failure, record.late) == (Succeeded(body=BODY), told, True)


async def test_what_the_runner_reports_meanwhile_takes_no_callback_back(cluster: Cluster) -> None:
    """The callback was recorded elsewhere, its notice is on the way; the reply to the submission is read only now."""
    here, there, _ = cluster.instances
    job = here.submit()
    here.stepped.tell(job, *SUBMIT[:3])
    await nothing_moves()
    taken = asyncio.create_task(there.call_back(job, BODY))
    here.stepped.tell(job, *SUBMIT[3:])

    assert await taken is CallbackFate.ACCEPTED
    assert await job.outcome == Succeeded(body=BODY)
    assert (await on_record(cluster, job)).outcome == Succeeded(body=BODY)


async def test_a_callback_at_the_instance_that_runs_the_job_is_in_time(cluster: Cluster) -> None:
    """Only instances that own or accepted the job are notified."""
    here = cluster.instances[0]
    job = await a_job_at(here)

    assert await here.call_back(job, BODY) is CallbackFate.ACCEPTED

    assert await job.outcome == Succeeded(body=BODY)
    assert cluster.members[here].told == 0


async def test_a_callback_reaches_the_client_though_its_sender_has_left(cluster: Cluster) -> None:
    """It was read completely, at another instance, whose store is slow."""
    here, there, _ = cluster.instances
    job = await a_job_at(here)
    there.store.hanging = True
    taken = asyncio.create_task(there.call_back(job, BODY))
    await nothing_moves()
    there.store.answer_once()  # the job is found, and its callback is being recorded
    await nothing_moves()
    taken.cancel()
    await nothing_moves()
    assert (taken.cancelled(), job.callback.done()) == (True, False)

    there.store.hanging = False
    await nothing_moves()

    assert await job.outcome == Succeeded(body=BODY)


async def test_a_callback_that_one_instance_cannot_record_is_taken_by_another(cluster: Cluster) -> None:
    """The first one answers its sender that it failed."""
    here, there, elsewhere = cluster.instances
    job = await a_job_at(here)
    there.store.failing = True
    with pytest.raises(StoreUnavailableError):
        await there.call_back(job, BODY)
    assert not job.callback.done()

    assert await elsewhere.call_back(job, BODY) is CallbackFate.ACCEPTED
    assert await job.outcome == Succeeded(body=BODY)


# --- an instance dies ------------------------------------------------------------------------------------------------


async def test_a_callback_reaches_whoever_has_taken_the_job_up(cluster: Cluster) -> None:
    """The instance that began it is gone; another one waits for the callback now."""
    here, there, elsewhere = cluster.instances
    job = await a_job_at(here)
    cluster.kill(here)
    cluster.take_over(there, here)
    assert there.in_flight.by_id(job.id) is not None

    assert await elsewhere.call_back(job, BODY) is CallbackFate.ACCEPTED
    await nothing_moves()

    ((_, outcome),) = there.notes.finished
    assert outcome == Succeeded(body=BODY)
    assert here.notes.finished == []


async def test_a_callback_between_the_death_and_the_takeover_is_kept(cluster: Cluster) -> None:
    """No instance runs the job at that moment; it has ended, and is not taken over."""
    here, there, elsewhere = cluster.instances
    job = await a_job_at(here)
    cluster.kill(here)

    assert await elsewhere.call_back(job, BODY) is CallbackFate.ACCEPTED
    cluster.take_over(there, here)

    assert len(there.in_flight) == 0
    assert (await on_record(cluster, job)).outcome == Succeeded(body=BODY)


async def test_a_job_that_was_taken_up_is_taken_up_once(cluster: Cluster) -> None:
    """By the first instance that asks; the others do not get it."""
    here, there, elsewhere = cluster.instances
    job = await a_job_at(here)
    cluster.kill(here)
    for instance in (there, elsewhere):
        cluster.take_over(instance, here)
    assert Counter(len(instance.in_flight) for instance in cluster.instances) == {1: 1, 0: 1}

    await time_passes(31)

    ((_, outcome),) = [*there.notes.finished, *elsewhere.notes.finished]
    assert isinstance(outcome, Failed)
    assert outcome.code is Code.INTERRUPTED
    assert (await on_record(cluster, job)).outcome == outcome
