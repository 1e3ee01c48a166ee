"""Admission, and a job from its acceptance to its one outcome, whatever its runner does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import Job
from proxy.store.record import Record
from shared.errors import AdmissionError, Code
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Outcome, Succeeded
from tests.support.failing_store import FailingStore
from tests.support.instances import FAILED, Instance
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.runners import SUBMIT, AnsweringRunner, FreeRunner, InProcessRunner, RefusedError, Step

DONE: Final = Succeeded(body=b'{"state": "completed"}')
LOST: Final = Failed(code=Code.WORKER_DIED, detail="it is gone", submitted=Submitted.YES)
BUG: Final = Failed(code=Code.INTERNAL_ERROR, detail="the proxy failed", submitted=Submitted.UNKNOWN)


async def its_end(instance: Instance, job: Job) -> Outcome:
    """Return the outcome of a job, and check that it is the same everywhere."""
    outcome = await job.outcome
    assert instance.notes.finished == [(job, outcome)]
    assert (len(instance.in_flight), job.state) == (0, State.FINISHED)
    record = await instance.store.by_id(job.id)
    assert record is not None
    assert (record.state, record.outcome) == (State.FINISHED, outcome)
    return outcome


# --- admission -------------------------------------------------------------------------------------------------------


def paused(instance: Instance) -> None:
    """An operator has paused the intake."""
    instance.dispatcher.pause.begin("anna", "")


def draining(instance: Instance) -> None:
    """The proxy shuts down."""
    instance.dispatcher.draining = True


def full(instance: Instance) -> None:
    """The limit of jobs in flight is reached."""
    for _ in range(3):
        instance.submit()


def without_store(instance: Instance) -> None:
    """Nothing can be recorded."""
    instance.store.failing = True


def short_of_memory(instance: Instance) -> None:
    """The machine has no room."""
    instance.headroom.short_of = "memory"


@pytest.mark.parametrize(
    ("hinder", "code", "word"),
    [
        (draining, Code.SHUTTING_DOWN, "shutting down"),
        (paused, Code.INTAKE_PAUSED, "an operator has paused"),
        (full, Code.OVERLOADED, "3 jobs"),
        (without_store, Code.JOURNAL_UNAVAILABLE, "the disk is full"),
        (short_of_memory, Code.OVERLOADED, "memory"),
    ],
)
async def test_a_job_that_is_not_admitted_leaves_nothing_behind(
    hinder: Callable[[Instance], None], code: Code, word: str
) -> None:
    """It is refused with the reason; nobody is notified, nothing is recorded, nothing is run."""
    instance = Instance(max_jobs=3)
    hinder(instance)
    await nothing_moves()
    before = (len(instance.in_flight), len(instance.notes.began), len(instance.stepped.ran), len(instance.store.puts))

    with pytest.raises(AdmissionError, match=word) as refusal:
        instance.submit()

    await nothing_moves()
    retry_after_s = 30 if code is Code.INTAKE_PAUSED else 1  # a person ends it, so it takes longer
    assert (refusal.value.code, refusal.value.retry_after_s) == (code, retry_after_s)
    after = (len(instance.in_flight), len(instance.notes.began), len(instance.stepped.ran), len(instance.store.puts))
    assert after == before
    with pytest.raises(AdmissionError):
        instance.entrance.check_admission()
    assert instance.dispatcher.room() == 0


async def test_a_job_gives_its_place_back_when_it_has_its_outcome() -> None:
    """Not before: a job whose end is being recorded still counts."""
    instance = Instance(max_jobs=1)
    job = instance.submit()
    with pytest.raises(AdmissionError):
        instance.submit()
    instance.stepped.tell(job, *SUBMIT, DONE)
    await job.outcome

    assert instance.submit() in instance.in_flight


async def test_jobs_are_taken_again_when_what_hindered_is_over() -> None:
    """The problem leaves no trace."""
    instance = Instance()
    without_store(instance)
    short_of_memory(instance)
    with pytest.raises(AdmissionError):
        instance.submit()
    instance.store.failing = False
    with pytest.raises(AdmissionError):
        instance.submit()
    instance.headroom.short_of = ""

    instance.submit()

    assert len(instance.in_flight) == 1


async def test_a_job_is_found_by_all_its_names_from_the_moment_it_is_admitted() -> None:
    """A callback may be faster than everything else."""
    instance = Instance(job_timeout_s=30)
    loop = asyncio.get_running_loop()

    job, _ = await instance.join(b'{"a": 1}', "a key")

    assert isinstance(job, Job)
    assert instance.in_flight.by_id(job.id) is job
    assert instance.in_flight.by_token(job.token_hash) is job
    assert job.key is not None
    assert instance.in_flight.by_key(job.key) is job
    assert instance.notes.began == [job]
    assert (job.body, job.deadline) == (b'{"a": 1}', loop.time() + 30)
    record = job.recorder.record
    assert record.deadline_at - record.accepted_at == pytest.approx(30)


# --- one outcome, whatever the runner does ---------------------------------------------------------------------------


async def raises(_: Job) -> Outcome:
    """A bug in the runner."""
    raise KeyError("a secret")


async def raises_after_the_submission(job: Job) -> Outcome:
    """A bug after the submission."""
    job.advance(Event.ASSIGN)
    await job.recorder.submitting()
    job.advance(Event.CONNECTED)
    raise ZeroDivisionError


async def is_cancelled(_: Job) -> Outcome:
    """Something in the runner was cancelled."""
    raise asyncio.CancelledError


async def finishes_by_itself(job: Job) -> Outcome:
    """A runner must not report FINISH."""
    job.advance(Event.FINISH)
    return DONE


async def is_late(job: Job) -> Outcome:
    """Returns long after the deadline."""
    await asyncio.sleep(job.deadline - asyncio.get_running_loop().time() + 100)
    return DONE


@pytest.mark.parametrize(
    ("run", "outcome"),
    [
        (AnsweringRunner(DONE).run, DONE),
        (AnsweringRunner(LOST).run, LOST),
        (raises, BUG),
        (raises_after_the_submission, BUG),
        (is_cancelled, BUG),
        (finishes_by_itself, DONE),
        (is_late, DONE),
    ],
)
async def test_a_job_has_one_outcome_whatever_its_runner_does(
    run: Callable[[Job], Awaitable[Outcome]], outcome: Outcome
) -> None:
    """It is recorded, reported to clients and the observer, and the job does not count any more."""
    instance = Instance(FreeRunner(run))
    job = instance.submit()

    assert await its_end(instance, job) == outcome


async def test_what_a_bug_says_is_logged_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception may contain a token; its type is enough to begin with."""
    lines: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("proxy.log.event", lambda level, _what, **fields: lines.append((level, fields)))
    instance = Instance(FreeRunner(raises))
    job = instance.submit()
    await job.outcome

    (fields,) = (fields for level, fields in lines if level == "error")
    assert fields["job_id"] == job.id
    assert "KeyError" in str(fields)
    assert "a secret" not in str(fields)


async def test_a_job_is_run_and_called_back_without_any_process() -> None:
    """The complete way, with a job server that is a function."""
    calls: list[tuple[bytes, str]] = []

    async def submit(body: bytes, token: str) -> None:
        calls.append((body, token))

    instance = Instance(InProcessRunner(submit))
    job = instance.submit(b'{"a": 1}')
    await nothing_moves()
    assert (calls, job.state) == ([(b'{"a": 1}', job.token)], State.WAITING)

    fate = await instance.call_back(job, b'{"state": "completed", "n": 1.10}')

    assert fate is CallbackFate.ACCEPTED
    assert await its_end(instance, job) == Succeeded(body=b'{"state": "completed", "n": 1.10}')


async def test_a_job_that_was_refused_was_not_submitted() -> None:
    """The job server's refusal is the only thing that makes a retry safe."""

    async def refuse(_body: bytes, _token: str) -> None:
        raise RefusedError

    instance = Instance(InProcessRunner(refuse))

    outcome = await its_end(instance, instance.submit())

    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.submitted) == (Code.JOB_REJECTED, Submitted.NO)


async def test_a_runner_that_loses_its_store_submits_nothing() -> None:
    """What cannot be recorded before is not submitted, and may be retried."""
    instance = Instance()
    job = instance.submit()
    instance.store.failing = True
    instance.stepped.tell(job, *SUBMIT)
    outcome = await job.outcome

    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.submitted) == (Code.JOURNAL_UNAVAILABLE, Submitted.NO)
    assert not instance.stepped.submitted


# --- the end of a job and its store ----------------------------------------------------------------------------------


async def test_an_outcome_does_not_wait_for_a_store_that_hangs_and_is_recorded_when_it_goes_on() -> None:
    """After a moment, clients get it anyway; until then the job is found in flight, afterwards in the store."""
    instance = Instance()
    job = instance.submit()
    instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    instance.store.hanging = True
    instance.stepped.tell(job, LOST)

    await time_passes(0.2)
    assert (job.outcome.done(), instance.in_flight.by_id(job.id)) == (False, job)
    await time_passes(0.2)
    assert (job.outcome.result(), instance.in_flight.by_id(job.id)) == (LOST, None)

    instance.store.hanging = False
    record = await instance.store.by_id(job.id)
    assert record is not None
    assert record.outcome == LOST


async def test_an_outcome_that_could_not_be_recorded_is_recorded_later() -> None:
    """The client gets its answer at once; the record follows when the disk has room again."""
    instance = Instance()
    job = instance.submit()
    instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    instance.store.failing = True
    instance.stepped.tell(job, LOST)
    assert await job.outcome == LOST

    instance.store.failing = False
    assert await its_end(instance, job) == LOST


async def test_a_job_has_its_outcome_though_its_task_is_cancelled_to_the_last() -> None:
    """As when the event loop is about to close; waiting clients get it anyway."""
    before = asyncio.all_tasks()
    instance = Instance()
    job = instance.submit()
    instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    instance.store.hanging = True
    for _ in range(2):
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await nothing_moves()

    assert job.outcome.result() == BUG
    assert len(instance.in_flight) == 0


class BrokenStore(FailingStore):
    """A store with a bug."""

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """Raise an exception that no store should raise."""
        if record.state is State.FINISHED:
            raise TypeError
        return super().put(record, keep=keep)


async def test_a_bug_in_the_store_costs_no_client_its_answer() -> None:
    """It is logged; the job does not count any more."""
    instance = Instance(AnsweringRunner(DONE), BrokenStore())
    job = instance.submit()

    assert await job.outcome == DONE
    assert len(instance.in_flight) == 0


@pytest.mark.parametrize(
    ("steps", "outcome", "never"),
    [
        ((), Failed(code=Code.NO_WORKER, detail="none", submitted=Submitted.NO), 0),
        (SUBMIT[:3], Failed(code=Code.WORKER_DIED, detail="dead", submitted=Submitted.UNKNOWN), 1),
        (SUBMIT, LOST, 1),
        (SUBMIT, DONE, 0),
    ],
)
async def test_a_callback_that_never_came_is_counted_where_there_may_have_been_a_job(
    steps: tuple[Step, ...], outcome: Outcome, never: int
) -> None:
    """Not for a job that was not submitted, and not for one that needed none."""
    instance = Instance()
    job = instance.submit()
    instance.stepped.tell(job, *steps, outcome)
    await job.outcome

    assert instance.callback_intake.counts[CallbackFate.NEVER] == never


async def test_a_callback_that_says_that_the_job_failed_has_come() -> None:
    """A job that fails by its callback is none whose callback never came."""
    instance = Instance()
    job = instance.submit()
    instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    await instance.call_back(job, b'{"state": "failed"}', FAILED)
    await job.outcome

    assert +instance.callback_intake.counts == {CallbackFate.ACCEPTED: 1}


# --- cancelling and draining -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "submitted"),
    [
        ((), Submitted.NO),
        ((Step.QUEUE,), Submitted.NO),
        (SUBMIT[:2], Submitted.NO),
        (SUBMIT[:3], Submitted.UNKNOWN),
        ((*SUBMIT[:3], Step.REFUSE), Submitted.NO),
        (SUBMIT, Submitted.YES),
    ],
)
async def test_a_job_that_is_cancelled_says_what_had_been_submitted(
    steps: tuple[Step, ...], submitted: Submitted
) -> None:
    """In each state; cancelling again changes nothing."""
    instance = Instance()
    job = instance.submit()
    instance.stepped.tell(job, *steps)
    await nothing_moves()

    assert instance.dispatcher.cancel(job.id) is job
    assert instance.dispatcher.cancel(job.id) is job
    outcome = await its_end(instance, job)

    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.submitted) == (Code.CANCELLED, submitted)
    assert instance.dispatcher.cancel(job.id) is None


async def test_nothing_is_cancelled_where_there_is_no_job() -> None:
    """Only jobs in flight here can be cancelled."""
    assert Instance().dispatcher.cancel("0" * 32) is None


async def test_draining_waits_for_the_jobs_in_flight_and_their_callbacks() -> None:
    """No new job is accepted, and each job in flight gets its outcome."""
    instance = Instance()
    called, failing = instance.submit(), instance.submit()
    for job in (called, failing):
        instance.stepped.tell(job, *SUBMIT)
    drain = asyncio.create_task(instance.dispatcher.drain())
    await nothing_moves()
    with pytest.raises(AdmissionError, match="shutting down"):
        instance.submit()

    await instance.call_back(called)
    await nothing_moves()
    assert (called.outcome.done(), failing.outcome.done(), drain.done()) == (True, False, False)
    await time_passes(30)

    await drain
    assert isinstance(failing.outcome.result(), Failed)
    assert len(instance.notes.finished) == 2


async def test_draining_ends_at_once_where_nothing_is_in_flight() -> None:
    """And can be called twice."""
    dispatcher = Instance().dispatcher
    await dispatcher.drain()
    await dispatcher.drain()
    assert dispatcher.draining
