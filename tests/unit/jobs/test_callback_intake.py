"""What happens to a callback: whose it is, whether it is the first, and when its sender may be answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import pytest

from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import Job, new_token, token_hash
from proxy.jobs.trail import called_back_at
from proxy.store.record import Record
from shared.errors import Code, RequestError, StoreUnavailableError
from shared.job_server.verdict import Verdict
from shared.lifecycle import State, Submitted
from shared.outcome import Failed, Succeeded
from tests.support.instances import FAILED, PROGRESS, SUCCEEDED, Instance
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.runners import SUBMIT, Step

BODY: Final = b'{"state": "completed", "cost": 1.10}'
OTHER: Final = b'{"state": "completed", "cost": 2}'


@pytest.fixture
async def instance() -> Instance:
    """A front end with a working store."""
    return Instance()


@pytest.fixture
async def job(instance: Instance) -> Job:
    """A job that the job server has."""
    job = instance.submit()
    instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    return job


async def on_record(instance: Instance, job: Job) -> Record:
    """Return the store's record of `job`."""
    record = await instance.store.by_id(job.id)
    assert record is not None
    return record


# --- the first, and those after it -----------------------------------------------------------------------------------


async def test_the_first_callback_is_recorded_and_delivered_when_its_sender_hears_of_it(
    instance: Instance, job: Job
) -> None:
    """Both are done before the answer, because a callback that was answered 2xx is never sent again."""
    fate = await instance.call_back(job, BODY)

    assert (fate, job.callback.done()) == (CallbackFate.ACCEPTED, True)
    record = await on_record(instance, job)
    assert (record.state, record.callback, record.submitted) == (State.FINISHED, BODY, Submitted.YES)
    assert await job.outcome == Succeeded(body=BODY)


async def test_a_callback_is_delivered_as_soon_as_it_is_recorded(instance: Instance, job: Job) -> None:
    """Even if its sender waits no longer; and the job's runner may prepare for it before."""
    instance.store.hanging = True
    taking = asyncio.create_task(instance.call_back(job, BODY))
    await nothing_moves()
    taking.cancel()
    assert (job.arrival.done(), job.callback.done()) == (True, False)

    instance.store.hanging = False
    await nothing_moves()
    assert job.callback.done()


async def test_a_callback_that_says_that_the_job_failed_is_the_outcome_as_well(instance: Instance, job: Job) -> None:
    """With the callback's body, byte for byte."""
    body = b'{"state": "failed", "n": 1.0}'
    assert await instance.call_back(job, body, FAILED) is CallbackFate.ACCEPTED

    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.result, outcome.submitted) == (Code.JOB_FAILED, body, Submitted.YES)
    assert (await on_record(instance, job)).outcome == outcome


async def test_a_callback_that_comes_again_changes_nothing(instance: Instance, job: Job) -> None:
    """Before and after the job's outcome; even with another body."""
    await instance.call_back(job, BODY)
    fates = [await instance.call_back(job, OTHER)]
    await job.outcome
    fates += [await instance.call_back(job, OTHER, FAILED)]

    assert fates == [CallbackFate.DUPLICATE] * 2
    record = await on_record(instance, job)
    assert (record.outcome, record.duplicates, record.late) == (Succeeded(body=BODY), 2, False)
    assert instance.callback_intake.counts == Counter({CallbackFate.ACCEPTED: 1, CallbackFate.DUPLICATE: 2})


async def test_progress_after_the_end_costs_nothing(instance: Instance, job: Job) -> None:
    """However often it comes, nothing is written."""
    await instance.call_back(job, BODY)
    fates = [await instance.call_back(job, OTHER, PROGRESS)]
    await job.outcome
    before = await on_record(instance, job)
    fates += [await instance.call_back(job, OTHER, PROGRESS) for _ in range(100)]

    assert fates == [CallbackFate.PROGRESS] * 101
    assert await on_record(instance, job) is before


@pytest.mark.parametrize("over", [False, True])
async def test_of_fifty_callbacks_at_once_one_is_the_first(instance: Instance, job: Job, *, over: bool) -> None:
    """Whether the job is in flight or finished; the outcome is the first callback's body."""
    if over:
        await time_passes(30)
        await job.outcome
    bodies = [b'{"n": %d}' % n for n in range(50)]

    fates = await asyncio.gather(*(instance.call_back(job, body) for body in bodies))

    first = CallbackFate.LATE if over else CallbackFate.ACCEPTED
    assert Counter(fates) == {first: 1, CallbackFate.DUPLICATE: 49}
    record = await on_record(instance, job)
    assert (record.callback, record.duplicates) == (bodies[fates.index(first)], 49)


@pytest.mark.parametrize(
    ("steps", "early"),
    [((), 0), (SUBMIT[:1], 1), (SUBMIT[:2], 1), (SUBMIT[:3], 1), ((*SUBMIT[:3], Step.REFUSE), 1), (SUBMIT, 0)],
)
async def test_a_callback_before_the_reply_was_read_is_early_and_proof(
    instance: Instance, steps: tuple[Step, ...], early: int
) -> None:
    """It is accepted in every state; early means that it overtook the reply to the submission."""
    job = instance.submit()
    instance.stepped.tell(job, *steps)
    await nothing_moves()

    assert await instance.call_back(job, BODY) is CallbackFate.ACCEPTED

    assert await job.outcome == Succeeded(body=BODY)
    assert (await on_record(instance, job)).early is bool(early)
    assert instance.callback_intake.counts[CallbackFate.EARLY] == early


async def test_a_token_that_is_nobodys_is_known_to_be(instance: Instance, job: Job) -> None:
    """A job's token is known in flight and afterwards; the job's id is no token."""
    hashed = token_hash(job.token)
    assert await instance.callback_intake.find(hashed) is not None
    await instance.call_back(job)
    await job.outcome
    assert await instance.callback_intake.find(hashed) is not None

    for stranger in (token_hash(new_token()), token_hash(job.id), job.token.encode()):
        assert await instance.callback_intake.find(stranger) is None
        with pytest.raises(RequestError) as refusal:
            await instance.callback_intake.take(stranger, BODY, SUCCEEDED)
        assert refusal.value.code is Code.NOT_FOUND


# --- late ------------------------------------------------------------------------------------------------------------


async def test_a_callback_after_the_job_ended_without_it_is_kept_as_the_outcome(instance: Instance, job: Job) -> None:
    """The client's answer stays in the record."""
    told = await job.outcome

    assert await instance.call_back(job, BODY) is CallbackFate.LATE

    record = await on_record(instance, job)
    assert (record.outcome, record.late, record.failure) == (Succeeded(body=BODY), True, told)
    assert instance.callback_intake.counts == Counter({CallbackFate.NEVER: 1, CallbackFate.LATE: 1})


async def test_a_callback_while_the_jobs_end_is_being_recorded_is_late(instance: Instance, job: Job) -> None:
    """The outcome is already decided, even if no client has it yet."""
    instance.store.hanging = True
    assert instance.dispatcher.cancel(job.id) is job
    await nothing_moves()
    taken = asyncio.create_task(instance.call_back(job, BODY))
    await nothing_moves()
    instance.store.hanging = False

    assert await taken is CallbackFate.LATE
    told = await job.outcome
    record = await on_record(instance, job)
    assert (record.outcome, record.late, record.failure) == (Succeeded(body=BODY), True, told)


@pytest.mark.parametrize("cancel_first", [False, True])
async def test_a_callback_in_the_moment_of_the_end_is_on_record_whatever_the_client_gets(
    instance: Instance, job: Job, *, cancel_first: bool
) -> None:
    """Clients get consistent answers: if the client gets a failure, the record says that the result was late."""
    taken = None if cancel_first else asyncio.create_task(instance.call_back(job, BODY))
    instance.dispatcher.cancel(job.id)
    taken = taken or asyncio.create_task(instance.call_back(job, BODY))

    fate, outcome = await taken, await job.outcome

    record = await on_record(instance, job)
    assert record.outcome == Succeeded(body=BODY)
    assert record.late is (outcome != record.outcome)
    assert (fate is CallbackFate.LATE) is record.late
    assert len(instance.notes.finished) == 1


@pytest.mark.parametrize("before_s", [0.0, 0.4, 0.9])
async def test_a_callback_is_recorded_while_the_deadline_passes(instance: Instance, job: Job, before_s: float) -> None:
    """The store is so slow that the job ends meanwhile: the callback is late, and the answer says so."""
    await time_passes(job.deadline - asyncio.get_running_loop().time() - before_s - 0.001)
    instance.store.hanging = True
    taken = asyncio.create_task(instance.call_back(job, BODY))

    outcome = await job.outcome
    instance.store.hanging = False
    fate = await taken

    record = await on_record(instance, job)
    assert isinstance(outcome, Failed)
    assert (outcome.code, fate) == (Code.DEADLINE_EXCEEDED, CallbackFate.LATE)
    assert (record.outcome, record.failure) == (Succeeded(body=BODY), outcome)


# --- the store does not do its part ----------------------------------------------------------------------------------


async def test_a_callback_is_delivered_after_a_moment_though_the_store_hangs(instance: Instance, job: Job) -> None:
    """The client waits for it; only its sender has to wait until it is recorded."""
    instance.store.hanging = True
    taken = asyncio.create_task(instance.call_back(job, BODY))

    await time_passes(0.9)
    assert not job.callback.done()
    await time_passes(0.2)
    assert job.callback.done()
    assert await job.outcome == Succeeded(body=BODY)
    assert not taken.done()

    instance.store.hanging = False
    assert await taken is CallbackFate.ACCEPTED
    assert (await on_record(instance, job)).outcome == Succeeded(body=BODY)


@pytest.mark.parametrize("steps", [(), SUBMIT[:1], SUBMIT[:2], SUBMIT[:3], (*SUBMIT[:3], Step.REFUSE)])
async def test_a_callback_is_proof_of_the_submission_before_it_is_on_record(
    instance: Instance, steps: tuple[Step, ...]
) -> None:
    """If the job is cancelled at that moment, it was submitted, whatever its runner has reported."""
    job = instance.submit()
    instance.stepped.tell(job, *steps)
    await nothing_moves()
    instance.store.hanging = True
    taken = asyncio.create_task(instance.call_back(job, BODY))
    await nothing_moves()
    instance.dispatcher.cancel(job.id)

    outcome = await job.outcome

    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.submitted) == (Code.CANCELLED, Submitted.YES)
    instance.store.hanging = False
    assert await taken is CallbackFate.LATE
    assert (await on_record(instance, job)).outcome == Succeeded(body=BODY)


async def test_callbacks_that_come_while_the_first_is_being_recorded_wait_for_that(
    instance: Instance, job: Job
) -> None:
    """A sender may rely on `duplicate` as much as on `accepted`."""
    instance.store.hanging = True
    taken = [asyncio.create_task(instance.call_back(job, body)) for body in (BODY, OTHER, OTHER)]
    await nothing_moves()
    assert not any(task.done() for task in taken)

    instance.store.hanging = False

    assert Counter(await asyncio.gather(*taken)) == {CallbackFate.ACCEPTED: 1, CallbackFate.DUPLICATE: 2}
    record = await on_record(instance, job)
    assert (record.callback, record.duplicates) == (BODY, 2)


async def test_a_callback_that_cannot_be_recorded_reaches_the_client_and_is_asked_for_again(
    instance: Instance, job: Job
) -> None:
    """The answer says that it was not recorded; the retry is recorded as the first."""
    instance.store.failing = True
    for body in (BODY, OTHER):
        with pytest.raises(StoreUnavailableError):
            await instance.call_back(job, body)
    assert job.callback.done()

    instance.store.failing = False
    assert await instance.call_back(job, OTHER) is CallbackFate.DUPLICATE

    assert await job.outcome == Succeeded(body=BODY)
    assert (await on_record(instance, job)).outcome == Succeeded(body=BODY)
    assert instance.callback_intake.counts == Counter({CallbackFate.UNRECORDED: 2, CallbackFate.DUPLICATE: 1})


async def test_a_callback_of_a_job_that_is_over_and_waits_to_be_recorded_is_asked_for_again(
    instance: Instance, job: Job
) -> None:
    """The store finds the job, but would lose it with the process."""
    instance.store.failing = instance.store.finds_kept = True
    with pytest.raises(StoreUnavailableError):
        await instance.call_back(job, BODY)
    assert await job.outcome == Succeeded(body=BODY)
    with pytest.raises(StoreUnavailableError):
        await instance.call_back(job, BODY)

    instance.store.failing = False
    assert await instance.call_back(job, BODY) is CallbackFate.DUPLICATE
    assert (await on_record(instance, job)).outcome == Succeeded(body=BODY)


async def test_nobody_is_told_that_a_token_is_unknown_while_the_store_cannot_tell(instance: Instance, job: Job) -> None:
    """The token of a job in flight is known without the store."""
    instance.store.failing = True

    assert await instance.callback_intake.find(token_hash(job.token)) is job
    with pytest.raises(StoreUnavailableError):
        await instance.callback_intake.find(token_hash(new_token()))


async def test_a_late_callback_that_cannot_be_recorded_is_none(instance: Instance, job: Job) -> None:
    """Its sender retries until it is recorded."""
    await job.outcome
    instance.store.failing = True
    with pytest.raises(StoreUnavailableError):
        await instance.call_back(job, BODY)
    instance.store.failing = False

    assert await instance.call_back(job, BODY) is CallbackFate.LATE
    assert instance.callback_intake.counts[CallbackFate.UNRECORDED] == 1


@pytest.mark.parametrize("over", [False, True])
async def test_a_callback_is_kept_though_its_sender_has_left(instance: Instance, job: Job, *, over: bool) -> None:
    """It was read completely; its connection does not matter any more."""
    if over:
        await job.outcome
    instance.store.hanging = True
    taken = asyncio.create_task(instance.call_back(job, BODY))
    await nothing_moves()
    if over:
        instance.store.answer_once()  # the job is found, and its callback is being recorded
        await nothing_moves()
    taken.cancel()
    await nothing_moves()
    instance.store.hanging = False
    await nothing_moves()

    assert taken.cancelled()
    assert (await on_record(instance, job)).callback == BODY
    assert over or await job.outcome == Succeeded(body=BODY)


# --- progress --------------------------------------------------------------------------------------------------------


async def test_progress_is_proof_that_the_job_server_has_the_job(instance: Instance) -> None:
    """In any state; the job has not ended."""
    job = instance.submit()
    instance.stepped.tell(job, *SUBMIT[:3])
    await nothing_moves()
    assert job.submitted is Submitted.UNKNOWN

    assert await instance.call_back(job, b'{"state": "running"}', PROGRESS) is CallbackFate.PROGRESS

    assert (job.state, job.submitted, job.remote_state) == (State.WAITING, Submitted.YES, "running")
    record = await on_record(instance, job)
    assert (record.state, record.callback) == (State.WAITING, None)


async def test_any_number_of_progress_callbacks_takes_no_more_memory(instance: Instance, job: Job) -> None:
    """A job server may report every per cent, or every line; the end is noticed anyway."""
    for _ in range(2_000):
        assert await instance.call_back(job, b"{}", PROGRESS) is CallbackFate.PROGRESS
    grown = len(job.life)

    assert await instance.call_back(job, BODY) is CallbackFate.ACCEPTED

    assert await job.outcome == Succeeded(body=BODY)
    assert grown <= len(job.life) <= 510
    assert called_back_at(job) is not None
    assert instance.callback_intake.counts == Counter({CallbackFate.PROGRESS: 2_000, CallbackFate.ACCEPTED: 1})


async def test_progress_after_the_deadline_is_no_result(instance: Instance, job: Job) -> None:
    """The job has ended without one, and a result may still come."""
    told = await job.outcome

    assert await instance.call_back(job, b"{}", PROGRESS) is CallbackFate.PROGRESS
    record = await on_record(instance, job)
    assert (record.outcome, record.callback) == (told, None)
    assert await instance.call_back(job, BODY) is CallbackFate.LATE


# --- refused ones ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("proves", [False, True])
async def test_a_refused_callback_is_proof_only_if_the_job_server_must_have_sent_it(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, *, over: bool, proves: bool
) -> None:
    """Otherwise whoever has the URL could let `submitted` be `yes`, or fill the log."""
    logged: list[int] = []
    monkeypatch.setattr("proxy.jobs.callback_intake.log.event", lambda *_, **fields: logged.append(fields["refused"]))
    job = instance.submit()
    instance.stepped.tell(job, *SUBMIT[:3])
    if over:
        instance.stepped.tell(job, Code.WORKER_DIED)
        await job.outcome
    await nothing_moves()

    for _ in range(3):
        await instance.callback_intake.refuse(token_hash(job.token), "it has no signature", proves=proves)
        await nothing_moves()

    record = await on_record(instance, job)
    assert (record.refused, record.refusal) == (3, "it has no signature")
    assert record.submitted is (Submitted.YES if proves else Submitted.UNKNOWN)
    assert over or job.submitted is record.submitted
    assert logged == ([1, 2, 3] if proves else [1])
    assert instance.callback_intake.counts[CallbackFate.REFUSED] == 3


@pytest.mark.parametrize("verdict", [FAILED, SUCCEEDED])
async def test_a_late_failure_shows_no_callback_token_and_a_late_result_is_unchanged(
    instance: Instance, job: Job, verdict: Verdict
) -> None:
    """As before the job's end; only a failure's body is shown to others than the client."""
    await time_passes(30)
    await job.outcome
    body = b'{"url": "http://proxy/callback/%b"}' % job.token.encode()

    assert await instance.call_back(job, body, verdict) is CallbackFate.LATE

    kept = (await on_record(instance, job)).callback
    assert kept == (body if verdict is SUCCEEDED else body.replace(job.token.encode(), b"***"))
