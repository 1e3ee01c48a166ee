"""The life of one job, with a pool and a worker that do what the test says."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Iterator
from typing import Any, cast

import pytest

from proxy.jobs.job import Job
from proxy.workers.local_runner import Supervisor
from proxy.workers.pool import Pool
from shared.errors import AdmissionError, Code
from shared.lifecycle import Event, State, Submitted
from shared.messages import Answered, Assign, Callback, Failure, Progress, ToWorker
from shared.outcome import Failed, Outcome, Succeeded
from tests.support.waiting import eventually


class FakeWorker:
    """Takes what it is sent."""

    pid = 4711

    def __init__(self) -> None:
        self.sent: list[ToWorker] = []
        self.handler: Any = None
        self.gone = False

    def send(self, message: ToWorker) -> None:
        """Note a message."""
        self.sent.append(message)


class FakePool:
    """Gives out one worker, when the test says so."""

    def __init__(self) -> None:
        self.ticket: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.worker = FakeWorker()
        self.withdrawn = 0
        self.released: list[bool] = []

    def request(self) -> asyncio.Future[Any]:
        """Return the one ticket."""
        return self.ticket

    def withdraw(self, ticket: asyncio.Future[Any]) -> None:
        """Note it."""
        assert ticket is self.ticket
        self.withdrawn += 1

    def release(self, worker: FakeWorker, *, reusable: bool) -> None:
        """Note it, and let the worker forget the job."""
        assert worker is self.worker
        worker.handler = None
        self.released.append(reusable)


class Stage:
    """One job on its way."""

    def __init__(self, *, timeout_s: float = 10.0) -> None:
        self.pool = FakePool()
        self.job = Job(body=b'{"a":1}', deadline=time.monotonic() + timeout_s)
        supervisor = Supervisor(cast("Pool", self.pool), "http://proxy/callback")
        self.run: asyncio.Task[Outcome] = asyncio.create_task(supervisor.run(self.job))

    @property
    def worker(self) -> FakeWorker:
        """The worker."""
        return self.pool.worker

    async def assigned(self) -> None:
        """Let the job have its worker."""
        self.pool.ticket.set_result(self.worker)
        await eventually(lambda: self.worker.sent)

    def says(self, *events: Event) -> None:
        """Let the worker report progress."""
        for event in events:
            self.worker.handler.on_message(Progress(job_id=self.job.id, event=event))

    async def failed(self) -> Failed:
        """The outcome, which is a failure."""
        outcome = await asyncio.wait_for(self.run, 5)
        assert isinstance(outcome, Failed)
        return outcome


async def test_the_worker_is_told_everything_and_its_answer_is_the_outcome() -> None:
    """Deadline, body and callback address with the token; then the worker goes back to the pool, once."""
    stage = Stage()
    await stage.assigned()
    (assign,) = stage.worker.sent
    assert isinstance(assign, Assign)
    assert (assign.job_id, assign.body, assign.deadline) == (stage.job.id, b'{"a":1}', stage.job.deadline)
    assert assign.callback_url == f"http://proxy/callback/{stage.job.token}"
    stage.says(Event.CONNECTED, Event.REPLY_READ)
    stage.job.callback.set_result(b"result")
    await eventually(lambda: len(stage.worker.sent) == 2)
    assert stage.worker.sent[1] == Callback(job_id=stage.job.id, body=b"result")
    stage.worker.handler.on_message(Answered(job_id=stage.job.id, success=True, body=b"result"))
    assert await stage.run == Succeeded(body=b"result")
    assert stage.pool.released == [True]


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Nothing is freed but what nobody refers to any more."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("end", ["success", "death", "cancelled", "cancelled before", "deadline"])
async def test_a_job_that_ended_holds_no_memory(end: str) -> None:
    """It is freed with its last user, whatever happened: thousands left to one collection would block the loop."""
    stage = Stage(timeout_s=0.2 if end == "deadline" else 10)
    if end == "cancelled before":
        stage.job.cancelled.set_result(None)
    else:
        await stage.assigned()
        stage.says(Event.CONNECTED, Event.REPLY_READ)
    match end:
        case "success":
            stage.job.callback.set_result(b"result")
            await eventually(lambda: len(stage.worker.sent) == 2)
            stage.worker.handler.on_message(Answered(job_id=stage.job.id, success=True, body=b"result"))
        case "death":
            stage.worker.handler.on_death("it was ended by SIGSEGV")
        case "cancelled":
            stage.job.cancelled.set_result(None)
    await stage.run
    canary = FakeWorker()  # a job has no weak references itself
    held = weakref.ref(canary)
    job, stage.job = stage.job, Job(body=b"{}", deadline=0.0)
    job.span = canary
    del canary, job, stage.run
    await eventually(lambda: held() is None)


@pytest.mark.parametrize(
    ("events", "submitted"),
    [
        ((), Submitted.NO),
        ((Event.CONNECTED,), Submitted.UNKNOWN),
        ((Event.CONNECTED, Event.REFUSED), Submitted.NO),
        ((Event.CONNECTED, Event.REFUSED, Event.CONNECTED), Submitted.UNKNOWN),
        ((Event.CONNECTED, Event.REPLY_READ), Submitted.YES),
    ],
)
@pytest.mark.parametrize("end", ["death", "deadline", "cancelled", "failure"])
async def test_a_failure_says_what_the_state_says(events: tuple[Event, ...], submitted: Submitted, end: str) -> None:
    """Each way to fail at each point: `submitted` is told from how far the job got, and the worker is not reused."""
    stage = Stage(timeout_s=0.2 if end == "deadline" else 10)
    await stage.assigned()
    stage.says(*events)
    match end:
        case "death":
            stage.worker.handler.on_death("it was ended by SIGSEGV")
            code = Code.WORKER_DIED
        case "cancelled":
            stage.job.cancelled.set_result(None)
            code = Code.CANCELLED
        case "failure":
            stage.worker.handler.on_message(Failure(job_id=stage.job.id, code=Code.JOB_REJECTED, detail="no"))
            code = Code.JOB_REJECTED
        case _:
            code = Code.DEADLINE_EXCEEDED
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (code, submitted)
    assert stage.pool.released == [False]


async def test_a_job_that_gets_no_worker_in_time_was_not_submitted() -> None:
    """The ticket is given back, so that no worker is lost."""
    stage = Stage(timeout_s=0.05)
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.DEADLINE_EXCEEDED, Submitted.NO)
    assert (stage.pool.withdrawn, stage.pool.released) == (1, [])


async def test_a_job_that_is_cancelled_while_it_queues_gives_its_ticket_back() -> None:
    """Nothing was submitted."""
    stage = Stage()
    await asyncio.sleep(0)
    stage.job.cancelled.set_result(None)
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.CANCELLED, Submitted.NO)
    assert (stage.pool.withdrawn, stage.pool.released) == (1, [])


async def test_a_job_for_which_no_worker_can_be_made_says_so() -> None:
    """The pool's reason is the job's."""
    stage = Stage()
    stage.pool.ticket.set_exception(AdmissionError(Code.NO_WORKER, "no process ids"))
    outcome = await stage.failed()
    assert (outcome.code, outcome.detail, outcome.submitted) == (Code.NO_WORKER, "no process ids", Submitted.NO)


async def test_a_worker_that_ends_before_it_has_its_job_is_told_at_once() -> None:
    """It was reported gone while the ticket was on its way: nobody would report it again."""
    stage = Stage()
    stage.worker.gone = True
    stage.pool.ticket.set_result(stage.worker)
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.WORKER_DIED, Submitted.NO)


async def test_a_worker_that_contradicts_itself_is_not_believed() -> None:
    """An event that the table does not have ends the job; the state is what it was."""
    stage = Stage()
    await stage.assigned()
    stage.says(Event.REPLY_READ)
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.WORKER_DIED, Submitted.NO)
    assert stage.job.state is State.ASSIGNED


async def test_only_the_first_word_counts() -> None:
    """An answer after the end changes nothing, nor does a death after an answer."""
    stage = Stage()
    await stage.assigned()
    stage.says(Event.CONNECTED)
    handler = stage.worker.handler
    handler.on_message(Answered(job_id=stage.job.id, success=True, body=b"first"))
    handler.on_death("too late")
    handler.on_message(Answered(job_id=stage.job.id, success=True, body=b"second"))
    stage.job.cancelled.set_result(None)
    assert await stage.run == Succeeded(body=b"first")
    assert stage.pool.released == [True]
