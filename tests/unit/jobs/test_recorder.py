"""What is recorded of one job, and what happens if the store fails."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from proxy.jobs.recorder import Recorder
from proxy.store.protocol import TakenError
from shared.errors import Code, StoreUnavailableError
from shared.job_server.verdict import job_failed
from shared.lifecycle import State, Submitted
from shared.outcome import Failed, Succeeded
from tests.support.failing_store import FailingStore
from tests.support.instances import Cluster
from tests.support.jumping_loop import nothing_moves
from tests.support.records import a_record
from tests.support.runners import SUBMIT
from tests.support.waiting import IN_VAIN_S

FAILURE = Failed(code=Code.WORKER_DIED, detail="it is gone", submitted=Submitted.YES)


@pytest.fixture
def disk() -> FailingStore:
    """A store that works at first."""
    return FailingStore()


@pytest.fixture
async def recorder(disk: FailingStore) -> Recorder:
    """A job of which nothing is recorded."""
    return Recorder(disk, a_record())


async def test_a_job_is_on_record_as_unknown_before_it_may_be_submitted(recorder: Recorder, disk: FailingStore) -> None:
    """The first record of a job that need not queue."""
    await recorder.submitting()

    ((record, _),) = disk.puts
    assert (record.state, record.submitted) == (State.SUBMITTING, Submitted.UNKNOWN)
    assert recorder.stored.done()


async def test_a_job_that_an_earlier_process_recorded_need_not_be_recorded(disk: FailingStore) -> None:
    """Whoever asks for it waits for nothing."""
    recorder = Recorder(disk, a_record(), stored=True)
    recorder.queued()

    assert (recorder.soon_stored().done(), disk.puts, disk.notes) == (True, [], [])


async def test_a_job_that_cannot_be_recorded_must_not_be_submitted(recorder: Recorder, disk: FailingStore) -> None:
    """Its runner gets an error, and its id is not given to the client."""
    disk.failing = True

    with pytest.raises(StoreUnavailableError):
        await recorder.submitting()

    assert not recorder.stored.done()


async def test_a_record_is_written_though_its_runner_waits_no_longer(recorder: Recorder, disk: FailingStore) -> None:
    """The deadline came first; a look-up of the job waits for the same record, and must not be cancelled with it."""
    disk.hanging = True
    submitting = asyncio.create_task(recorder.submitting())
    await nothing_moves()
    submitting.cancel()
    await nothing_moves()
    disk.hanging = False
    await nothing_moves()

    assert submitting.cancelled()
    assert recorder.stored.done()


async def test_queueing_is_recorded_only_where_nothing_else_is(recorder: Recorder, disk: FailingStore) -> None:
    """A job that gets its worker at once costs no second record."""
    await recorder.submitting()
    recorder.queued()

    assert len(disk.puts) == 1


@pytest.mark.parametrize("key", [None, b"key"])
async def test_that_a_job_waits_is_recorded_at_once_if_it_has_a_key(disk: FailingStore, key: bytes | None) -> None:
    """A client may ask for it by that; otherwise it is only noted."""
    recorder = Recorder(disk, replace(a_record(), key=key))
    recorder.queued()

    assert (len(disk.puts), len(disk.notes)) == ((1, 0) if key else (0, 1))


async def test_whoever_wants_to_give_a_jobs_id_away_has_it_recorded(recorder: Recorder, disk: FailingStore) -> None:
    """A job that was only noted is put, once."""
    recorder.queued()
    assert not recorder.stored.done()

    await recorder.soon_stored()
    await recorder.soon_stored()

    assert len(disk.puts) == 1


async def test_a_success_costs_two_records_that_are_waited_for(recorder: Recorder, disk: FailingStore) -> None:
    """Assigned and called back; that the reply was read is only noted."""
    await recorder.submitting()
    recorder.waiting()
    await recorder.callback(b"{}", failed=False, early=False)
    await recorder.finished(Succeeded(body=b"{}"))

    assert (len(disk.puts), len(disk.notes)) == (2, 1)
    record = await disk.by_id(recorder.record.id)
    assert record is not None
    assert (record.state, record.outcome, record.late) == (State.FINISHED, Succeeded(body=b"{}"), False)


async def test_a_failure_is_answered_though_the_store_never_is_done(recorder: Recorder, disk: FailingStore) -> None:
    """A job in flight does not wait for a broken disk; the record is kept until it works again."""
    await recorder.submitting()
    disk.hanging = True

    await asyncio.wait_for(recorder.finished(FAILURE), IN_VAIN_S)

    record, kept = disk.puts[-1]
    assert (record.failure, kept) == (FAILURE, True)


async def test_a_job_is_known_as_recorded_when_the_store_says_so(recorder: Recorder, disk: FailingStore) -> None:
    """Which takes time, on a disk."""
    disk.hanging = True
    stored = recorder.soon_stored()
    await nothing_moves()
    assert not stored.done()
    disk.hanging = False
    await nothing_moves()
    assert stored.done()


async def test_another_instances_record_counts_when_the_store_says_so() -> None:
    """It has taken the job over meanwhile."""
    here, there = (cluster := Cluster(2)).instances
    job = here.submit()
    here.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    here.store.hanging = True
    ending = asyncio.create_task(job.recorder.finished(FAILURE))
    await nothing_moves()
    cluster.take_over(there, here)
    here.store.hanging = False
    with pytest.raises(TakenError):
        await ending
    assert (job.recorder.record.owner, job.recorder.is_taken) == (cluster.members[there].instance, True)


@pytest.mark.parametrize("trail", ["", "a later one"])
async def test_the_history_of_a_job_is_recorded_with_its_end(
    recorder: Recorder, disk: FailingStore, trail: str
) -> None:
    """The one that came with its callback, unless there is a later one."""
    await recorder.submitting()
    await recorder.callback(b"{}", failed=False, early=False, trail="an early one")
    await recorder.finished(FAILURE, trail=trail)
    record = await disk.by_id(recorder.record.id)
    assert record is not None
    assert record.trail == (trail or "an early one")


async def test_a_callback_that_could_not_be_recorded_is_tried_again_with_the_next(
    recorder: Recorder, disk: FailingStore
) -> None:
    """Its sender got an error, and sends it again."""
    await recorder.submitting()
    disk.failing = True
    with pytest.raises(StoreUnavailableError):
        await recorder.callback(b"{}", failed=False, early=False)
    with pytest.raises(StoreUnavailableError):
        await recorder.duplicate()

    disk.failing = False
    await recorder.duplicate()

    record = await disk.by_id(recorder.record.id)
    assert record is not None
    assert (record.callback, record.duplicates) == (b"{}", 2)


async def test_a_success_that_could_not_be_recorded_in_time_is_kept(recorder: Recorder, disk: FailingStore) -> None:
    """The client gets its answer; the record follows when the store works again."""
    await recorder.submitting()
    disk.failing = True
    with pytest.raises(StoreUnavailableError):
        await recorder.callback(b"{}", failed=False, early=False)

    await recorder.finished(Succeeded(body=b"{}"))

    record, kept = disk.puts[-1]
    assert (record.outcome, kept) == (Succeeded(body=b"{}"), True)


@pytest.mark.parametrize("owner", ["", "one of several instances"])
async def test_a_success_that_could_not_be_recorded_is_not_said_to_be(owner: str, disk: FailingStore) -> None:
    """The queue's message must not be deleted yet."""
    recorder = Recorder(disk, a_record(owner=owner))
    await recorder.submitting()
    disk.failing = True
    with pytest.raises(StoreUnavailableError):
        await recorder.callback(b"{}", failed=False, early=False)

    assert await recorder.finished(Succeeded(body=b"{}")) == Succeeded(body=b"{}")

    assert not await recorder.outcome_stored()


async def test_a_callback_outlives_the_worker_it_was_given_to(recorder: Recorder, disk: FailingStore) -> None:
    """The client got the failure; the outcome is the callback, and late."""
    await recorder.submitting()
    await recorder.callback(b"{}", failed=False, early=True)

    await recorder.finished(FAILURE)

    record = await disk.by_id(recorder.record.id)
    assert record is not None
    assert (record.outcome, record.late, record.failure, record.early) == (Succeeded(body=b"{}"), True, FAILURE, True)


async def test_a_job_that_failed_by_its_own_account_is_not_late(recorder: Recorder, disk: FailingStore) -> None:
    """The callback itself is the failure."""
    body = b'{"state": "failed"}'
    await recorder.submitting()
    await recorder.callback(body, failed=True, early=False)

    await recorder.finished(job_failed(body))

    assert (recorder.record.outcome, recorder.record.late, len(disk.puts)) == (job_failed(body), False, 2)


async def test_an_outcome_from_another_kind_of_runner_is_recorded_whole(recorder: Recorder, disk: FailingStore) -> None:
    """A runner that has its result without a callback of ours."""
    await recorder.submitting()

    await recorder.finished(Succeeded(body=b"[1]"))

    record = await disk.by_id(recorder.record.id)
    assert record is not None
    assert record.outcome == Succeeded(body=b"[1]")
