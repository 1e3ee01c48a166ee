"""Jobs that an earlier front end left open: which instance continues them, and how they end."""

from __future__ import annotations

import asyncio
import time
from typing import Final, cast

import pytest

from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import Job, new_token, token_hash
from proxy.store.record import Record
from shared.errors import AdmissionError, Code
from shared.job_server.verdict import Kind, Verdict
from shared.lifecycle import State, Submitted
from shared.outcome import Failed, Succeeded
from tests.support.failing_store import FailingStore
from tests.support.instances import PROGRESS, SUCCEEDED, Cluster, Instance
from tests.support.jumping_loop import JumpingLoop, nothing_moves, time_passes
from tests.support.left_open_store import LeftOpenStore
from tests.support.records import a_record, finished
from tests.support.runners import SUBMIT

BODY: Final = b'{"state": "completed"}'


async def restored(*records: Record) -> Instance:
    """Return a front end that has found these jobs open."""
    instance = Instance(store=FailingStore(LeftOpenStore(*records)))
    await instance.dispatcher.restore()
    return instance


async def on_record(instance: Instance, record: Record) -> Record:
    """Return the store's current record of a job."""
    found = await instance.store.by_id(record.id)
    assert found is not None
    return found


def failure(record: Record) -> tuple[Code, Submitted]:
    """Return how a job failed."""
    assert isinstance(record.outcome, Failed), record
    return record.outcome.code, record.outcome.submitted


async def test_a_job_that_no_worker_had_was_not_submitted() -> None:
    """It ends at once, and may be retried; it is not run."""
    record = a_record(state=State.ACCEPTED)

    instance = await restored(record)

    assert failure(await on_record(instance, record)) == (Code.INTERRUPTED, Submitted.NO)
    assert (len(instance.in_flight), instance.stepped.ran) == (0, [])


@pytest.mark.parametrize(
    ("state", "submitted"), [(State.SUBMITTING, Submitted.UNKNOWN), (State.WAITING, Submitted.YES)]
)
async def test_a_job_that_may_run_stays_open_until_its_deadline(state: State, submitted: Submitted) -> None:
    """Nothing is submitted again; if no callback comes, the answer says what is known, and no more."""
    record = a_record(state=state)
    instance = await restored(record)
    job = instance.in_flight.by_id(record.id)
    assert job is not None
    assert (job.state, job.submitted, job.adopted) == (state, submitted, True)

    await time_passes(29)
    assert not job.outcome.done()
    await time_passes(1.1)

    assert failure(await on_record(instance, record)) == (Code.INTERRUPTED, submitted)
    assert (len(instance.in_flight), instance.stepped.ran) == (0, [])
    assert instance.callback_intake.counts[CallbackFate.NEVER] == 1


async def test_whoever_waited_in_vain_is_told_what_the_job_server_said_instead() -> None:
    """An unknown state may be the end by another name; a token in it is not shown."""
    token = new_token()
    record = a_record(state=State.WAITING, token_hash=token_hash(token))
    instance = await restored(record)
    job = instance.in_flight.by_id(record.id)
    assert job is not None
    job.token = token
    for state in ("running", f"COMPLETED {token}"):
        verdict = Verdict(kind=Kind.PROGRESS, state=state)
        assert await instance.callback_intake.take(job.token_hash, b"{}", verdict) is CallbackFate.PROGRESS

    await time_passes(31)

    ended = await on_record(instance, record)
    assert isinstance(ended.failure, Failed)
    assert ended.failure.detail == (
        "the proxy was restarted, and no callback came afterwards; the job server's reports taken as progress: 2, "
        "the last one with the state 'COMPLETED ***'"
    )


@pytest.mark.parametrize("state", [State.SUBMITTING, State.WAITING])
async def test_a_job_that_was_taken_up_ends_with_its_callback(state: State) -> None:
    """Only its token's hash is known; whether the callback was early is unknown."""
    token = new_token()
    record = a_record(state=state, token_hash=token_hash(token))
    instance = await restored(record)
    job = instance.in_flight.by_id(record.id)
    assert job is not None

    assert await instance.callback_intake.take(token_hash(token), BODY, SUCCEEDED) is CallbackFate.ACCEPTED

    assert await job.outcome == Succeeded(body=BODY)
    kept = await on_record(instance, record)
    assert (kept.outcome, kept.early, kept.late) == (Succeeded(body=BODY), False, False)


async def test_a_callback_that_came_while_the_process_was_stopped_counts() -> None:
    """The deadline's timer runs before the callback is read."""
    record = a_record(state=State.WAITING)
    instance = await restored(record)
    job = instance.in_flight.by_id(record.id)
    assert job is not None
    await time_passes(1)
    cast("JumpingLoop", asyncio.get_running_loop()).jump(60)
    await nothing_moves()

    assert await instance.callback_intake.take(record.token_hash, BODY, SUCCEEDED) is CallbackFate.ACCEPTED

    assert await job.outcome == Succeeded(body=BODY)


async def test_a_callback_that_says_failed_ends_a_job_that_was_taken_up() -> None:
    """Like any other job."""
    record = a_record(state=State.WAITING)
    instance = await restored(record)

    await instance.callback_intake.take(record.token_hash, BODY, Verdict(kind=Kind.FAILED))
    await nothing_moves()

    assert failure(await on_record(instance, record)) == (Code.JOB_FAILED, Submitted.YES)


async def test_progress_is_proof_for_a_job_whose_fate_was_unknown() -> None:
    """From then on the answer says that the job server has it."""
    record = a_record(state=State.SUBMITTING)
    instance = await restored(record)

    assert await instance.callback_intake.take(record.token_hash, b"{}", PROGRESS) is CallbackFate.PROGRESS
    await time_passes(31)

    assert failure(await on_record(instance, record)) == (Code.INTERRUPTED, Submitted.YES)


@pytest.mark.parametrize(
    ("state", "submitted"), [(State.SUBMITTING, Submitted.UNKNOWN), (State.WAITING, Submitted.YES)]
)
async def test_a_job_that_was_taken_up_can_be_cancelled(state: State, submitted: Submitted) -> None:
    """A callback that comes afterwards is late."""
    record = a_record(state=state)
    instance = await restored(record)

    job = instance.dispatcher.cancel(record.id)
    assert job is not None
    await job.outcome

    assert failure(await on_record(instance, record)) == (Code.CANCELLED, submitted)
    assert await instance.callback_intake.take(record.token_hash, BODY, SUCCEEDED) is CallbackFate.LATE


async def test_a_job_whose_deadline_is_over_ends_at_once() -> None:
    """The proxy was down for longer than the job's time."""
    now = time.time()
    record = a_record(state=State.WAITING, accepted_at=now - 100, deadline_at=now - 70)
    instance = await restored(record)
    await nothing_moves()

    assert failure(await on_record(instance, record)) == (Code.INTERRUPTED, Submitted.YES)


@pytest.mark.parametrize("set_by_s", [-86_400, 86_400])
async def test_a_wall_clock_that_was_set_gives_no_job_more_time_than_it_had(set_by_s: float) -> None:
    """If it was set back by a day, the job would have a day; if it was set forward, none."""
    record = a_record(state=State.WAITING)
    loop = cast("JumpingLoop", asyncio.get_running_loop())
    begun = loop.time()
    loop.set_wall_clock(set_by_s)
    instance = await restored(record)
    job = instance.in_flight.by_id(record.id)
    assert job is not None

    await job.outcome

    assert loop.time() - begun <= 30.1


async def test_a_key_joins_the_job_that_was_taken_up() -> None:
    """A client whose connection broke retries at any instance; nothing is submitted twice."""
    cluster = Cluster(2)
    here, there = cluster.instances
    lost, _ = await here.join()
    assert isinstance(lost, Job)
    here.stepped.tell(lost, *SUBMIT)
    await nothing_moves()
    cluster.kill(here)
    cluster.take_over(there, here)

    found, joined = await there.join()

    assert isinstance(found, Job)
    assert (found.id, joined, there.stepped.ran) == (lost.id, True, [])


async def test_jobs_that_are_taken_over_leave_room_for_new_ones() -> None:
    """They have no worker. Otherwise the loss of one instance would close another one until their deadlines."""
    cluster = Cluster(2, max_jobs=2)
    here, there = cluster.instances
    left = [here.submit() for _ in range(2)]
    for job in left:
        here.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    own = there.submit()
    cluster.kill(here)
    cluster.take_over(there, here)
    assert (len(there.in_flight), there.in_flight.left_open, there.dispatcher.room()) == (3, 2, 1)

    there.submit()
    with pytest.raises(AdmissionError, match="2 jobs are in flight"):
        there.submit()
    await there.call_back(left[0])
    await nothing_moves()
    assert (there.in_flight.left_open, there.dispatcher.room()) == (1, 0)
    there.stepped.tell(own, *SUBMIT, Succeeded(body=BODY))
    await own.outcome
    assert there.dispatcher.room() == 1


async def test_jobs_of_an_earlier_process_leave_room_for_new_ones() -> None:
    """As after a restart with as many open jobs as there may be."""
    instance = await restored(*(a_record(state=State.WAITING) for _ in range(150)))
    assert (len(instance.in_flight), instance.dispatcher.room()) == (150, 100)
    assert instance.submit() in instance.in_flight


async def test_each_of_many_jobs_is_taken_up_once_and_draining_waits_for_them() -> None:
    """Finished jobs do not change."""
    states = (State.ACCEPTED, State.SUBMITTING, State.WAITING)
    records = [a_record(state=states[number % 3]) for number in range(30)]
    over = finished()
    instance = await restored(*records, over)
    assert len(instance.in_flight) == 20

    drain = asyncio.create_task(instance.dispatcher.drain())
    await time_passes(29)
    assert not drain.done()
    await drain

    ends = [failure(await on_record(instance, record)) for record in records]
    assert [code for code, _ in ends] == [Code.INTERRUPTED] * 30
    assert [ends.count((Code.INTERRUPTED, said)) for said in Submitted] == [10, 10, 10]
    assert await instance.store.by_id(over.id) is not None


async def test_a_job_that_was_never_submitted_ends_though_the_store_hangs() -> None:
    """A front end that should serve does not wait for its disk; the end is recorded when the store continues."""
    record = a_record(state=State.ACCEPTED)
    instance = Instance(store=FailingStore(LeftOpenStore(record)))
    instance.store.hanging = True
    restore = asyncio.create_task(instance.dispatcher.restore())
    await nothing_moves()
    instance.store.answer_once()

    await restore

    instance.store.hanging = False
    assert failure(await on_record(instance, record)) == (Code.INTERRUPTED, Submitted.NO)
