"""What the store is told of one job, and what happens when the store does not do its part."""

from __future__ import annotations

import asyncio

import pytest

from proxy.jobs.recorder import Entry
from proxy.store.memory import MemoryStore
from proxy.store.record import Record
from shared.errors import AdmissionError, Code, StoreUnavailableError
from shared.job_server.verdict import job_failed
from shared.lifecycle import State, Submitted
from shared.outcome import Failed, Succeeded
from tests.support.records import a_record
from tests.support.waiting import IN_VAIN_S

FAILURE = Failed(code=Code.WORKER_DIED, detail="it is gone", submitted=Submitted.YES)


class Disk(MemoryStore):
    """A store whose puts succeed, fail, or take for ever, as the test says."""

    def __init__(self) -> None:
        super().__init__(3600)
        self.mood = "well"
        #: What it was given, kept or not.
        self.puts: list[tuple[Record, bool]] = []
        self.notes: list[Record] = []

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """Do as the mood is."""
        self.puts.append((record, keep))
        if self.mood == "well":
            return super().put(record)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.mood == "full":
            done.set_exception(StoreUnavailableError("the disk is full"))
            done.exception()
        return done

    def note(self, record: Record) -> None:
        """Remember what is noted."""
        self.notes.append(record)
        super().note(record)


@pytest.fixture
def disk() -> Disk:
    """A store that is well at first."""
    return Disk()


@pytest.fixture
async def entry(disk: Disk) -> Entry:
    """A job that nothing is recorded of."""
    return Entry(disk, a_record())


async def test_a_job_is_on_record_as_unknown_before_it_may_be_submitted(entry: Entry, disk: Disk) -> None:
    """The first thing recorded of a job that need not queue."""
    await entry.assign()

    ((record, _),) = disk.puts
    assert (record.state, record.submitted) == (State.ASSIGNED, Submitted.UNKNOWN)
    assert entry.known.done()


async def test_a_job_that_cannot_be_recorded_must_not_be_submitted(entry: Entry, disk: Disk) -> None:
    """Whoever runs it is told, and its id is not given away."""
    disk.mood = "full"

    with pytest.raises(AdmissionError) as caught:
        await entry.assign()

    assert caught.value.code is Code.JOURNAL_UNAVAILABLE
    assert not entry.known.done()


async def test_queueing_is_recorded_only_where_nothing_else_is(entry: Entry, disk: Disk) -> None:
    """A job that has its worker at once costs no second record."""
    await entry.assign()
    entry.queue()

    assert len(disk.puts) == 1


async def test_a_success_costs_two_records_that_are_waited_for(entry: Entry, disk: Disk) -> None:
    """Assigned and called back; that the reply was read is noted."""
    await entry.assign()
    entry.wait()
    await entry.take_callback(b"{}", says_failed=False, early=False)
    await entry.finish(Succeeded(body=b"{}"))

    assert (len(disk.puts), len(disk.notes)) == (2, 1)
    record = await disk.by_id(entry.record.id)
    assert record is not None
    assert (record.state, record.outcome, record.late) == (State.FINISHED, Succeeded(body=b"{}"), False)


async def test_a_failure_is_answered_though_the_store_never_is_done(entry: Entry, disk: Disk) -> None:
    """A job in flight does not wait for a sick disk; the record is kept for when it is well."""
    await entry.assign()
    disk.mood = "stuck"

    await asyncio.wait_for(entry.finish(FAILURE), IN_VAIN_S)

    record, kept = disk.puts[-1]
    assert (record.failure, kept) == (FAILURE, True)


async def test_a_callback_that_could_not_be_recorded_is_tried_again_with_the_next(entry: Entry, disk: Disk) -> None:
    """Its sender was told that it did not arrive safely, and sends it again."""
    await entry.assign()
    disk.mood = "full"
    with pytest.raises(StoreUnavailableError):
        await entry.take_callback(b"{}", says_failed=False, early=False)
    with pytest.raises(StoreUnavailableError):
        await entry.take_duplicate()

    disk.mood = "well"
    await entry.take_duplicate()

    record = await disk.by_id(entry.record.id)
    assert record is not None
    assert (record.callback, record.duplicates) == (b"{}", 2)


async def test_a_success_that_could_not_be_recorded_in_time_is_kept(entry: Entry, disk: Disk) -> None:
    """The client has its answer; the record follows when the store is well."""
    await entry.assign()
    disk.mood = "full"
    with pytest.raises(StoreUnavailableError):
        await entry.take_callback(b"{}", says_failed=False, early=False)

    await entry.finish(Succeeded(body=b"{}"))

    record, kept = disk.puts[-1]
    assert (record.outcome, kept) == (Succeeded(body=b"{}"), True)


async def test_a_callback_outlives_the_worker_it_was_given_to(entry: Entry, disk: Disk) -> None:
    """The client was told of the failure; the outcome is the callback, and late."""
    await entry.assign()
    await entry.take_callback(b"{}", says_failed=False, early=True)

    await entry.finish(FAILURE)

    record = await disk.by_id(entry.record.id)
    assert record is not None
    assert (record.outcome, record.late, record.failure, record.early) == (Succeeded(body=b"{}"), True, FAILURE, True)


async def test_a_job_that_failed_by_its_own_account_is_not_late(entry: Entry, disk: Disk) -> None:
    """The callback itself is the failure."""
    body = b'{"state": "failed"}'
    await entry.assign()
    await entry.take_callback(body, says_failed=True, early=False)

    await entry.finish(job_failed(body))

    assert (entry.record.outcome, entry.record.late, len(disk.puts)) == (job_failed(body), False, 2)


async def test_an_outcome_from_another_kind_of_runner_is_recorded_whole(entry: Entry, disk: Disk) -> None:
    """One that has its result without a callback of ours."""
    await entry.assign()

    await entry.finish(Succeeded(body=b"[1]"))

    record = await disk.by_id(entry.record.id)
    assert record is not None
    assert record.outcome == Succeeded(body=b"[1]")
