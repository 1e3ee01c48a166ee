"""One key, one job: joins, replays, and when a new job is started."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from proxy.jobs.in_flight import InFlight
from proxy.jobs.job import Job
from proxy.jobs.keys import Keys
from proxy.store.record import Record
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError
from shared.job_server.verdict import job_failed
from shared.lifecycle import State, Submitted
from shared.outcome import Failed
from tests.support.failing_store import FailingStore
from tests.support.jobs import a_job
from tests.support.jumping_loop import nothing_moves
from tests.support.records import a_record, finished

KEY: Final = b"the hash of a key"
OTHER_KEY: Final = b"the hash of another"
PRINT: Final = b"the hash of a body"
NOT_SUBMITTED: Final = Failed(code=Code.NO_WORKER, detail="none", submitted=Submitted.NO)


class Stage:
    """Keys, and a dispatcher that only counts the jobs that it begins."""

    def __init__(self) -> None:
        self.store = FailingStore()
        self.in_flight = InFlight()
        self.keys = Keys(self.in_flight, self.store)
        self.begun: Counter[bytes] = Counter()
        self.refusal: AdmissionError | None = None

    def begin(self, key: bytes) -> Callable[[], Awaitable[Job]]:
        """Return a function that begins a job with `key`."""

        async def begin() -> Job:
            if self.refusal is not None:
                raise self.refusal
            job = a_job(store=self.store, key=key)
            job.recorder.record = Record(
                id=job.id, token_hash=job.token_hash, key=key, fingerprint=PRINT, accepted_at=0, deadline_at=30
            )
            self.in_flight.add(job)
            self.begun[key] += 1
            return job

        return begin

    async def ask(self, key: bytes = KEY, fingerprint: bytes = PRINT) -> tuple[Job | Record, bool]:
        """Ask for the job with `key`."""
        return await self.keys.join_or_begin(key, fingerprint, "", self.begin(key))


@pytest.fixture
async def stage() -> Stage:
    """No job was begun yet."""
    return Stage()


async def test_fifty_requests_at_once_are_one_job(stage: Stage) -> None:
    """Each gets that job, and all but one join it."""
    asked = await asyncio.gather(*(stage.ask() for _ in range(50)))

    assert stage.begun == {KEY: 1}
    assert len({found.id for found, _ in asked}) == 1
    assert sum(joined for _, joined in asked) == 49


async def test_two_keys_do_not_wait_for_each_other(stage: Stage) -> None:
    """A slow look-up for one key does not delay another key."""
    stage.store.hanging = True
    first = asyncio.create_task(stage.ask(KEY))
    await nothing_moves()
    stage.in_flight.add(there := a_job(key=OTHER_KEY))
    there.recorder.record = a_record(key=OTHER_KEY, fingerprint=PRINT)
    stage.in_flight.add(there)

    assert await stage.ask(OTHER_KEY) == (there, True)
    assert not first.done()

    stage.store.hanging = False
    await first
    assert stage.begun == {KEY: 1}


async def test_two_keys_at_once_are_two_jobs(stage: Stage) -> None:
    """However their requests are interleaved."""
    asked = await asyncio.gather(*(stage.ask(key) for _ in range(10) for key in (KEY, OTHER_KEY)))

    assert stage.begun == {KEY: 1, OTHER_KEY: 1}
    assert len({found.id for found, _ in asked}) == 2


@pytest.mark.parametrize("where", ["in flight", "open in the store", "over"])
async def test_another_body_under_a_key_is_refused(stage: Stage, where: str) -> None:
    """Wherever the key's job is; even if it could be begun again."""
    match where:
        case "in flight":
            await stage.ask()
        case "open in the store":
            stage.store.note(a_record(key=KEY, fingerprint=PRINT, state=State.WAITING))
        case _:
            stage.store.note(finished(key=KEY, fingerprint=PRINT, callback=None, failure=NOT_SUBMITTED))
    begun = stage.begun.total()

    with pytest.raises(RequestError) as refusal:
        await stage.ask(fingerprint=b"another")

    assert refusal.value.code is Code.IDEMPOTENCY_KEY_REUSED
    assert stage.begun.total() == begun


async def test_a_job_that_is_over_is_replayed(stage: Stage) -> None:
    """Its record is returned, as often as asked."""
    record = finished(key=KEY, fingerprint=PRINT)
    stage.store.note(record)

    assert [await stage.ask() for _ in range(3)] == [(record, True)] * 3
    assert not stage.begun


@pytest.mark.parametrize("state", [State.ACCEPTED, State.SUBMITTING, State.WAITING])
async def test_a_job_that_runs_elsewhere_is_not_begun_here(stage: Stage, state: State) -> None:
    """Another instance may have it, or none; in neither case may it be begun again."""
    record = a_record(key=KEY, fingerprint=PRINT, state=state)
    stage.store.note(record)

    assert await stage.ask() == (record, True)
    assert not stage.begun


@pytest.mark.parametrize("code", Code)
@pytest.mark.parametrize("submitted", Submitted)
async def test_only_what_was_certainly_not_submitted_is_begun_anew(
    stage: Stage, code: Code, submitted: Submitted
) -> None:
    """Whatever its failure was."""
    failure = Failed(code=code, detail="because", submitted=submitted)
    record = finished(key=KEY, fingerprint=PRINT, callback=None, failure=failure)
    stage.store.note(record)

    found, joined = await stage.ask()

    assert joined is (submitted is not Submitted.NO)
    assert (found is record) is joined
    assert stage.begun.total() == (not joined)


async def test_a_late_result_settles_that_a_job_was_submitted(stage: Stage) -> None:
    """Its client got `no`, which was wrong; the late result is kept."""
    record = finished(key=KEY, fingerprint=PRINT, failure=NOT_SUBMITTED)
    stage.store.note(record)

    assert await stage.ask() == (record, True)


async def test_a_job_that_failed_by_its_own_account_is_not_begun_anew(stage: Stage) -> None:
    """It was submitted."""
    record = finished(key=KEY, fingerprint=PRINT, says_failed=True, callback=b"{}")
    stage.store.note(record)

    assert (await stage.ask())[0].outcome == job_failed(b"{}")
    assert not stage.begun


async def test_of_fifty_that_begin_a_job_anew_one_does(stage: Stage) -> None:
    """As for the first job."""
    stage.store.note(finished(key=KEY, fingerprint=PRINT, callback=None, failure=NOT_SUBMITTED))

    asked = await asyncio.gather(*(stage.ask() for _ in range(50)))

    assert stage.begun == {KEY: 1}
    assert sum(joined for _, joined in asked) == 49


async def test_nothing_is_begun_where_nobody_can_tell_whether_the_key_was_used(stage: Stage) -> None:
    """Each request fails, including those that waited for the first look-up; later ones are not delayed."""
    stage.store.failing = True

    asked = await asyncio.gather(*(stage.ask() for _ in range(5)), return_exceptions=True)

    assert [type(answer) for answer in asked] == [StoreUnavailableError] * 5
    stage.store.failing = False
    await stage.ask()
    assert stage.begun == {KEY: 1}


async def test_a_job_in_flight_is_joined_though_the_store_fails(stage: Stage) -> None:
    """It need not be looked up."""
    found, _ = await stage.ask()
    stage.store.failing = True

    assert await stage.ask() == (found, True)


async def test_a_job_that_is_not_admitted_leaves_its_key_free(stage: Stage) -> None:
    """Concurrent requests are all refused, and a later one begins it."""
    stage.refusal = AdmissionError(Code.OVERLOADED, "full")
    asked = await asyncio.gather(*(stage.ask() for _ in range(5)), return_exceptions=True)
    assert [type(answer) for answer in asked] == [AdmissionError] * 5

    stage.refusal = None
    _, joined = await stage.ask()
    assert (joined, stage.begun) == (False, {KEY: 1})


@pytest.mark.parametrize("lost", [False, True])
async def test_a_refused_key_has_no_job_unless_the_store_has_lost_some(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, *, lost: bool
) -> None:
    """The client is told so: an earlier request with the key may have been the first."""
    monkeypatch.setattr(stage.store, "may_have_lost", lambda: lost)
    stage.refusal = AdmissionError(Code.OVERLOADED, "full")
    with pytest.raises(AdmissionError) as refused:
        await stage.ask()
    assert refused.value.fate_known is not lost


@pytest.mark.parametrize("where", ["in flight", "on record"])
async def test_a_key_is_used_for_one_job_server(stage: Stage, where: str) -> None:
    """The same body for another one is another job. A record from before there were profiles is for any."""
    for number, used_for in enumerate(("replicate", "")):
        key = b"%d" % number
        record = a_record(key=key, fingerprint=PRINT, profile=used_for)
        if where == "in flight":
            job = a_job(store=stage.store, key=key)
            job.recorder.record = record
            stage.in_flight.add(job)
        else:
            await stage.store.put(record)
    with pytest.raises(RequestError, match="was used for the profile replicate") as refused:
        await stage.keys.join_or_begin(b"0", PRINT, "fal", stage.begin(b"0"))
    assert (refused.value.code, refused.value.fate_known) == (Code.IDEMPOTENCY_KEY_REUSED, False)
    for key, profile in ((b"0", "replicate"), (b"1", "fal")):
        _, joined = await stage.keys.join_or_begin(key, PRINT, profile, stage.begin(key))
        assert joined
    assert not stage.begun


async def test_whoever_leaves_while_it_looks_leaves_the_key_to_the_next(stage: Stage) -> None:
    """A client that disconnects must not block those that wait behind it."""
    stage.store.hanging = True
    first, second = (asyncio.create_task(stage.ask()) for _ in range(2))
    await nothing_moves()
    first.cancel()
    await nothing_moves()
    stage.store.hanging = False

    _, joined = await second

    assert (first.cancelled(), joined, stage.begun) == (True, False, {KEY: 1})


async def test_a_job_that_ends_between_two_looks_is_found_in_the_store(stage: Stage) -> None:
    """It stays in flight until it is recorded, so its key never looks free."""
    found, _ = await stage.ask()
    assert isinstance(found, Job)
    await found.recorder.finished(job_failed(b"{}"))
    stage.in_flight.remove(found)

    record, joined = await stage.ask()

    assert (record.id, joined, stage.begun) == (found.id, True, {KEY: 1})
