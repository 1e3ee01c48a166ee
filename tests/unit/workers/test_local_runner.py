"""The life of one job, with a pool and a worker that the test controls."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from collections.abc import Iterator
from typing import Any, cast

import pytest

from proxy.workers.local_asker import LocalAsker
from proxy.workers.local_runner import LocalRunner
from proxy.workers.pool import Pool
from shared.errors import AdmissionError, Code
from shared.lifecycle import Event, State, Submitted
from shared.messages import Answered, Ask, Assign, Callback, Failure, MayRetry, Progress, Retry, Told, ToWorker
from shared.outcome import Failed, Outcome, Succeeded
from tests.support.failing_store import FailingStore
from tests.support.jobs import a_job
from tests.support.jumping_loop import JumpingLoop, nothing_moves
from tests.support.waiting import IN_VAIN_S, eventually


class FakeWorker:
    """Accepts messages."""

    pid = 4711
    end = "SIGKILL"

    def __init__(self) -> None:
        self.sent: list[ToWorker] = []
        self.handler: Any = None
        self.gone = False
        self.broken = False
        self.has_unread = False
        #: The events that it has written and that were not read yet; and whether even SIGKILL does not end it.
        self.unread: list[Event] = []
        self.stuck = False
        self.killed = False

    def send(self, message: ToWorker) -> None:
        """Record a message."""
        self.sent.append(message)

    def die(self) -> None:
        """End; what was written is read first."""
        handler, self.handler, self.gone = self.handler, None, True
        for event in self.unread:
            handler.on_message(Progress(job_id=handler.job_id, event=event))
        handler.on_death("it was killed by SIGKILL")


class FakePool:
    """Gives out workers when the test says so."""

    def __init__(self) -> None:
        self.tickets: list[asyncio.Future[Any]] = []
        self.workers: list[FakeWorker] = []
        self.withdrawn = 0
        self.released: list[bool] = []

    def request(self) -> asyncio.Future[Any]:
        """Return a ticket."""
        self.tickets.append(asyncio.get_running_loop().create_future())
        return self.tickets[-1]

    def withdraw(self, ticket: asyncio.Future[Any]) -> None:
        """Record it."""
        assert ticket is self.tickets[-1]
        self.withdrawn += 1

    def kill(self, worker: FakeWorker) -> None:
        """Let the worker end, in a later iteration of the loop."""
        worker.killed = True
        if not worker.stuck:
            asyncio.get_running_loop().call_soon(worker.die)

    def release(self, worker: FakeWorker, *, reusable: bool) -> None:
        """Record it, and let the worker forget the job."""
        assert worker in self.workers
        worker.handler = None
        self.released.append(reusable)


class Stage:
    """One job and its workers."""

    def __init__(self, *, timeout_s: float = 10.0) -> None:
        self.pool = FakePool()
        self.store = FailingStore()
        self.job = a_job(body=b'{"a":1}', timeout_s=timeout_s, store=self.store)
        self.runner = LocalRunner(cast("Pool", self.pool), "http://proxy/callback")
        self.asker = LocalAsker(cast("Pool", self.pool), self.runner)
        self.run: asyncio.Task[Outcome] = asyncio.create_task(self.runner.run(self.job))

    @property
    def worker(self) -> FakeWorker:
        """The current or last worker of the job."""
        return self.pool.workers[-1]

    async def given(self, worker: FakeWorker | None = None) -> None:
        """Give a worker to the job."""
        await eventually(lambda: len(self.pool.tickets) > len(self.pool.workers))
        self.pool.workers.append(worker or FakeWorker())
        self.pool.tickets[-1].set_result(self.worker)

    async def assigned(self) -> None:
        """Give a worker to the job, and the job to that worker."""
        await self.given()
        await eventually(lambda: self.worker.sent)

    async def called_back(self, body: bytes = b"result") -> None:
        """Let the callback come and be recorded."""
        await self.job.recorder.callback(body, failed=False, early=False)
        self.job.call_back()
        await eventually(lambda: len(self.worker.sent) == 2)

    def says(self, *events: Event) -> None:
        """Let the worker report progress."""
        for event in events:
            self.worker.handler.on_message(Progress(job_id=self.job.id, event=event))

    async def failed(self) -> Failed:
        """Return the outcome, which is a failure."""
        outcome = await asyncio.wait_for(self.run, IN_VAIN_S)
        assert isinstance(outcome, Failed)
        return outcome


@pytest.mark.parametrize("heard", [False, True])
async def test_a_job_is_submitted_again_unless_the_job_server_has_it_after_all(*, heard: bool) -> None:
    """It refused the job, but a callback came."""
    stage = Stage()
    await stage.assigned()
    stage.says(Event.CONNECTED, Event.REFUSED)
    if heard:
        stage.job.proven()

    stage.worker.handler.on_message(MayRetry(job_id=stage.job.id))

    assert (Retry(job_id=stage.job.id) in stage.worker.sent) is not heard
    stage.run.cancel()


async def test_the_worker_is_told_everything_and_the_outcome_is_what_was_recorded() -> None:
    """Deadline, body, path and callback address with the token; then the worker goes back to the pool, once."""
    stage = Stage()
    stage.job.recorder.outputs({"path": "a/b"})
    await stage.assigned()
    (assign,) = stage.worker.sent
    assert isinstance(assign, Assign)
    assert (assign.job_id, assign.body, assign.deadline) == (stage.job.id, b'{"a":1}', stage.job.deadline)
    assert assign.path == "a/b"
    assert assign.callback_url == f"http://proxy/callback/{stage.job.token}"
    stage.says(Event.CONNECTED, Event.REPLY_READ)
    assert stage.job.body == b"", "it is not needed any more"
    await stage.called_back(b"result")
    assert stage.worker.sent[1] == Callback(job_id=stage.job.id)
    stage.worker.handler.on_message(Answered(job_id=stage.job.id))
    assert await stage.run == Succeeded(body=b"result")
    assert stage.pool.released == [True]


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Only reference counting frees memory."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("end", ["success", "death", "cancelled", "cancelled before", "deadline"])
async def test_a_job_that_ended_holds_no_memory(end: str) -> None:
    """It is freed with its last user, whatever happened: a collection of thousands would block the loop."""
    stage = Stage(timeout_s=0.2 if end == "deadline" else 10)
    if end == "cancelled before":
        stage.job.cancelled.set_result("its client")
    else:
        await stage.assigned()
        stage.says(Event.CONNECTED, Event.REPLY_READ)
    match end:
        case "success":
            await stage.called_back()
            stage.worker.handler.on_message(Answered(job_id=stage.job.id))
        case "death":
            stage.worker.handler.on_death("it was killed by SIGSEGV")
        case "cancelled":
            stage.job.cancelled.set_result("its client")
    await stage.run
    canary = FakeWorker()  # jobs do not support weak references
    held = weakref.ref(canary)
    job, stage.job = stage.job, a_job()
    job.span = canary
    del canary, job, stage.run
    await eventually(lambda: held() is None)


STEPS = [
    ((), Submitted.NO),
    ((Event.CONNECTED,), Submitted.UNKNOWN),
    ((Event.CONNECTED, Event.REFUSED), Submitted.NO),
    ((Event.CONNECTED, Event.REFUSED, Event.CONNECTED), Submitted.UNKNOWN),
    ((Event.CONNECTED, Event.REPLY_READ), Submitted.YES),
]


@pytest.mark.parametrize(
    ("events", "submitted", "end"),
    [
        (*step, end)
        for step in STEPS
        for end in ("death", "deadline", "cancelled", "failure")
        if (step[1], end) != (Submitted.NO, "death")  # then another worker gets the job
    ],
)
async def test_a_failure_says_what_the_state_says(events: tuple[Event, ...], submitted: Submitted, end: str) -> None:
    """Each way to fail at each point: `submitted` follows from how far the job got, and the worker is not reused."""
    stage = Stage(timeout_s=0.2 if end == "deadline" else 10)
    await stage.assigned()
    stage.says(*events)
    match end:
        case "death":
            stage.worker.handler.on_death("it was killed by SIGSEGV")
            code = Code.WORKER_DIED
        case "cancelled":
            stage.job.cancelled.set_result("its client")
            code = Code.CANCELLED
        case "failure":
            stage.worker.handler.on_message(Failure(job_id=stage.job.id, code=Code.JOB_REJECTED, detail="no"))
            code = Code.JOB_REJECTED
        case _:
            code = Code.DEADLINE_EXCEEDED
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (code, submitted)
    assert stage.pool.released == [False]


@pytest.mark.parametrize("end", ["deadline", "cancelled"])
@pytest.mark.parametrize(("unread", "submitted"), [*STEPS, ((Event.REPLY_READ,), Submitted.UNKNOWN)])
async def test_what_a_worker_has_done_in_the_last_moment_counts(
    unread: tuple[Event, ...], submitted: Submitted, end: str
) -> None:
    """It may have submitted the job before its message was read: it is killed, and its messages are read, before `no`.

    One that sends contradictory messages is not believed.
    """
    stage = Stage(timeout_s=0.2 if end == "deadline" else 10)
    await stage.assigned()
    stage.worker.unread = list(unread)
    if end == "cancelled":
        stage.job.cancelled.set_result("its client")
    outcome = await stage.failed()
    assert (outcome.submitted, stage.worker.killed, stage.pool.released) == (submitted, True, [False])


@pytest.mark.parametrize("end", ["deadline", "cancelled"])
async def test_nobody_waits_for_the_worker_of_a_job_that_is_submitted(end: str) -> None:
    """Its end would add nothing to what is known, and one that cannot be killed would make it less."""
    stage = Stage(timeout_s=0.2 if end == "deadline" else 10)
    await stage.assigned()
    stage.says(Event.CONNECTED, Event.REPLY_READ)
    stage.worker.stuck = True
    if end == "cancelled":
        stage.job.cancelled.set_result("its client")
    outcome = await stage.failed()
    assert (outcome.submitted, stage.worker.killed, stage.pool.released) == (Submitted.YES, False, [False])


@pytest.mark.parametrize("end", ["deadline", "cancelled"])
async def test_a_worker_that_cannot_be_killed_may_have_submitted_its_job(end: str) -> None:
    """Clients do not wait for it, and `submitted` is unknown."""
    stage = Stage(timeout_s=0.2 if end == "deadline" else 10)
    await stage.assigned()
    stage.worker.stuck = True
    if end == "cancelled":
        stage.job.cancelled.set_result("its client")
    outcome = await stage.failed()
    assert (outcome.submitted, stage.pool.released) == (Submitted.UNKNOWN, [False])


async def test_a_worker_that_has_not_been_given_the_job_is_not_killed() -> None:
    """It cannot have done anything."""
    stage = Stage()
    stage.store.hanging = True
    await stage.given()
    await eventually(lambda: stage.store.puts)
    stage.job.cancelled.set_result("its client")
    stage.store.hanging = False
    outcome = await stage.failed()
    assert (outcome.submitted, stage.worker.killed, stage.worker.sent) == (Submitted.NO, False, [])


@pytest.mark.parametrize("dies", [False, True])
async def test_a_worker_hears_of_the_callback_while_that_is_recorded(*, dies: bool) -> None:
    """The job ends when both are done; a worker that has answered may end earlier."""
    stage = Stage()
    await stage.assigned()
    stage.says(Event.CONNECTED, Event.REPLY_READ)
    stored = stage.job.recorder.callback(b"result", failed=False, early=False)
    stage.job.arrive()
    await eventually(lambda: Callback(job_id=stage.job.id) in stage.worker.sent)
    stage.worker.handler.on_message(Answered(job_id=stage.job.id))
    if dies:
        stage.worker.die()
    await asyncio.sleep(0)
    assert not stage.run.done()

    await stored
    stage.job.call_back()
    assert await asyncio.wait_for(stage.run, IN_VAIN_S) == Succeeded(body=b"result")
    assert stage.pool.released == [True]


@pytest.mark.parametrize("code", [Code.JOB_REJECTED, Code.INTERNAL_ERROR])
@pytest.mark.parametrize("recorded", [False, True])
async def test_a_callback_outweighs_a_failure_of_the_submission(code: Code, *, recorded: bool) -> None:
    """It came first; the worker did not know yet, as it is told later if the job server is asked for a reason."""
    stage = Stage()
    await stage.assigned()
    stage.says(Event.CONNECTED)
    stored = stage.job.recorder.callback(b"result", failed=False, early=True)
    if recorded:
        await stored
        stage.job.call_back()
    stage.worker.handler.on_message(Failure(job_id=stage.job.id, code=code, detail="no"))
    stage.worker.die()
    await asyncio.sleep(0.01)
    stage.job.call_back()
    assert await asyncio.wait_for(stage.run, IN_VAIN_S) == Succeeded(body=b"result")


@pytest.mark.parametrize("events", [(), (Event.CONNECTED,), (Event.CONNECTED, Event.REFUSED)])
async def test_a_callback_in_the_moment_of_a_failure_proves_the_submission(events: tuple[Event, ...]) -> None:
    """Both are handled in the same iteration of the event loop, before the job ends."""
    stage = Stage()
    await stage.assigned()
    stage.says(*events)
    stage.worker.handler.on_message(Failure(job_id=stage.job.id, code=Code.JOB_REJECTED, detail="no"))
    stage.job.proven()
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.JOB_REJECTED, Submitted.YES)


@pytest.mark.parametrize("late_s", [0.5, 50.0])
@pytest.mark.parametrize("came", [True, False])
async def test_a_callback_that_came_while_the_process_was_stopped_counts(late_s: float, *, came: bool) -> None:
    """The deadline's timer runs before the callback is read, however short the time since the deadline is."""
    stage = Stage(timeout_s=10)
    await stage.assigned()
    stage.says(Event.CONNECTED, Event.REPLY_READ)
    cast("JumpingLoop", asyncio.get_running_loop()).jump(10 + late_s)
    await nothing_moves()
    if came:
        await stage.called_back()
        stage.worker.handler.on_message(Answered(job_id=stage.job.id))
        assert await stage.run == Succeeded(body=b"result")
        assert not stage.worker.killed
        assert stage.pool.released == [True]
    else:
        assert (await stage.failed()).code is Code.DEADLINE_EXCEEDED
        assert time.monotonic() - stage.job.deadline < 60
        assert stage.pool.released == [False]


async def test_an_outcome_that_is_read_as_the_deadline_passes_counts() -> None:
    """Both happen in one iteration of the event loop; the job has an outcome."""
    stage = Stage(timeout_s=10)
    await stage.assigned()
    stage.says(Event.CONNECTED, Event.REPLY_READ)
    await stage.called_back()
    handler = stage.worker.handler
    asyncio.get_running_loop().call_at(stage.job.deadline, handler.on_message, Answered(job_id=stage.job.id))
    assert await stage.run == Succeeded(body=b"result")


@pytest.mark.parametrize(
    ("end", "code", "why"),
    [
        ("death", Code.WORKER_DIED, "the worker with pid 4711 did not finish the job: it was killed by SIGKILL"),
        ("lie", Code.WORKER_DIED, "the worker sent contradictory messages: "),
        ("deadline", Code.DEADLINE_EXCEEDED, "the worker did not confirm the callback in time"),
        ("cancel", Code.CANCELLED, "the job was cancelled by its client; the job server "),
    ],
)
async def test_a_worker_that_does_not_confirm_the_callback_fails_its_job(end: str, code: Code, why: str) -> None:
    """That the callback is recorded does not help its client now; but it is told where the result is."""
    stage = Stage(timeout_s=0.05 if end == "deadline" else 10)
    await stage.assigned()
    stage.says(Event.CONNECTED)
    await stage.called_back()
    match end:
        case "death":
            stage.worker.die()
        case "lie":
            stage.says(Event.WORKER_LOST)
        case "cancel":
            stage.job.cancelled.set_result("its client")
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (code, Submitted.YES)
    assert outcome.detail.startswith(why)
    assert outcome.detail.endswith("; the callback has come and is kept as the job's result: GET /jobs/<job_id>/result")


async def test_a_job_that_gets_no_worker_in_time_was_not_submitted() -> None:
    """The ticket is withdrawn, so that no worker is lost."""
    stage = Stage(timeout_s=0.05)
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.DEADLINE_EXCEEDED, Submitted.NO)
    assert (stage.pool.withdrawn, stage.pool.released) == (1, [])


async def test_a_job_that_is_cancelled_while_it_queues_gives_its_ticket_back() -> None:
    """At once; nothing was submitted."""
    stage = Stage()
    await asyncio.sleep(0)
    stage.job.cancelled.set_result("its client")
    await nothing_moves()
    assert stage.run.done()
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.CANCELLED, Submitted.NO)
    assert (stage.pool.withdrawn, stage.pool.released) == (1, [])


async def test_a_job_for_which_no_worker_can_be_made_says_so() -> None:
    """With the pool's reason."""
    stage = Stage()
    await eventually(lambda: stage.pool.tickets)
    stage.pool.tickets[-1].set_exception(AdmissionError(Code.NO_WORKER, "no process ids"))
    outcome = await stage.failed()
    assert (outcome.code, outcome.detail, outcome.submitted) == (Code.NO_WORKER, "no process ids", Submitted.NO)


async def test_a_job_that_cannot_be_recorded_is_given_to_no_worker() -> None:
    """After a crash of this process, its fate would be unknown."""
    stage = Stage()
    stage.store.failing = True
    await stage.given()
    outcome = await stage.failed()
    assert (outcome.code, outcome.detail, outcome.submitted) == (
        Code.JOURNAL_UNAVAILABLE, "the disk is full", Submitted.NO,
    )  # fmt: skip
    assert (stage.worker.sent, stage.pool.released) == ([], [False])


async def test_each_step_is_recorded_by_who_runs_the_job() -> None:
    """Queueing, that it may be submitted before it may be, and the reply."""
    stage = Stage()
    states = []
    await eventually(lambda: stage.pool.tickets)
    states.append(stage.store.states())
    await stage.assigned()
    states.append(stage.store.states())
    stage.says(Event.CONNECTED, Event.REPLY_READ)
    states.append(stage.store.states())
    assert states == [[State.ACCEPTED], [State.SUBMITTING], [State.WAITING]]
    stage.job.cancelled.set_result("its client")
    await stage.failed()


@pytest.mark.parametrize("way", ["before it has the job", "with the job", "after a refusal"])
async def test_a_worker_lost_before_the_submission_is_nobodys_loss(way: str) -> None:
    """It had sent nothing: another worker gets the job, and the client does not notice."""
    stage = Stage()
    if way == "before it has the job":
        gone = FakeWorker()
        gone.gone = True
        await stage.given(gone)
    else:
        await stage.assigned()
        if way == "after a refusal":
            stage.says(Event.CONNECTED, Event.REFUSED)
        stage.worker.handler.on_death("it was killed by SIGKILL")
    await stage.assigned()
    stage.says(Event.CONNECTED, Event.REPLY_READ)
    await stage.called_back()
    stage.worker.handler.on_message(Answered(job_id=stage.job.id))
    assert await stage.run == Succeeded(body=b"result")
    assert stage.pool.released == [False, True]


@pytest.mark.parametrize("was_stopped", [False, True])
@pytest.mark.parametrize("code", [Code.JOB_SERVER_UNAVAILABLE, Code.JOB_REJECTED, Code.BAD_JOB_SERVER_REPLY])
async def test_a_submission_that_progress_has_proven_has_not_failed(code: Code, *, was_stopped: bool) -> None:
    """The reply was lost, or made no sense, but the job server reports on the job: its end may still come, and counts
    even if the process was stopped until after the deadline.
    """
    stage = Stage(timeout_s=10)
    await stage.assigned()
    stage.says(Event.CONNECTED)
    stage.job.progress("half done")
    stage.worker.handler.on_message(Failure(job_id=stage.job.id, code=code, detail="the reply was lost"))
    await eventually(lambda: stage.pool.released)
    assert not stage.run.done()

    if was_stopped:
        cast("JumpingLoop", asyncio.get_running_loop()).jump(60)
        await nothing_moves()
    await stage.job.recorder.callback(b"result", failed=False, early=False)
    stage.job.call_back()
    assert await stage.run == Succeeded(body=b"result")
    assert (stage.pool.released, len(stage.pool.tickets)) == ([False], 1)


async def test_what_fails_after_the_reply_has_failed() -> None:
    """Or in another way than the submission: nothing else will end the job."""
    for event, code in (Event.REPLY_READ, Code.BAD_JOB_SERVER_REPLY), (Event.PROGRESS, Code.INTERNAL_ERROR):
        stage = Stage()
        await stage.assigned()
        stage.says(Event.CONNECTED, event)
        stage.job.progress("half done")
        stage.worker.handler.on_message(Failure(job_id=stage.job.id, code=code, detail="too large"))
        outcome = await stage.failed()
        assert (outcome.code, outcome.submitted) == (code, Submitted.YES)


async def test_a_job_whose_callback_is_being_recorded_is_given_to_no_other_worker() -> None:
    """Whatever the lost worker had reported: the job was submitted."""
    stage = Stage()
    await stage.assigned()
    stage.store.hanging = True
    stage.job.recorder.callback(b"result", failed=False, early=True)
    stage.worker.handler.on_death("it was killed by SIGKILL")
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted, len(stage.pool.tickets)) == (Code.WORKER_DIED, Submitted.YES, 1)


@pytest.mark.parametrize("when", ["at once", "while it queues", "while no worker can be made"])
@pytest.mark.parametrize("what", ["progress", "callback", "callback that is being recorded"])
async def test_a_job_that_is_reported_on_after_its_worker_was_lost_is_given_to_no_other(what: str, when: str) -> None:
    """The job server refused it, and has it after all: its callback ends it, without a worker."""
    stage = Stage()
    await stage.assigned()
    stage.says(Event.CONNECTED, Event.REFUSED)
    stage.worker.handler.on_death("it was killed by SIGKILL")
    if when != "at once":
        await eventually(lambda: len(stage.pool.tickets) == 2)

    recorded = None
    if what == "progress":
        stage.job.proven()
    else:
        stage.store.hanging = what == "callback that is being recorded"
        recorded = stage.job.recorder.callback(b"result", failed=False, early=True)
        stage.job.arrive()
    if when == "while no worker can be made" and not stage.pool.tickets[-1].done():
        stage.pool.tickets[-1].set_exception(AdmissionError(Code.NO_WORKER, "no process ids"))
    elif len(stage.pool.tickets) == 2 and what == "progress":
        await stage.given()
    await asyncio.sleep(1)

    stage.store.hanging = False
    await (recorded or stage.job.recorder.callback(b"result", failed=False, early=True))
    stage.job.call_back()
    assert await stage.run == Succeeded(body=b"result")
    assert not any(worker.sent for worker in stage.pool.workers[1:])


async def test_a_job_that_has_lost_three_workers_is_given_to_no_other() -> None:
    """It is likely to be the cause. Nothing was submitted."""
    stage = Stage()
    for _ in range(3):
        await stage.assigned()
        stage.worker.handler.on_death("it was killed by SIGSEGV")
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.WORKER_DIED, Submitted.NO)
    assert stage.pool.released == [False] * 3


async def test_a_worker_lost_later_than_the_deadline_is_not_replaced() -> None:
    """The deadline is the job's, however many workers it gets."""
    stage = Stage(timeout_s=0.1)
    await stage.assigned()
    stage.worker.handler.on_death("it was killed by SIGKILL")
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.DEADLINE_EXCEEDED, Submitted.NO)


@pytest.mark.parametrize("lie", ["reply read without a connection", "callback taken where there is none"])
async def test_a_worker_that_contradicts_itself_is_not_believed(lie: str) -> None:
    """Its job ends as possibly submitted; no other worker gets it."""
    stage = Stage()
    await stage.assigned()
    if lie == "reply read without a connection":
        stage.says(Event.REPLY_READ)
    else:
        stage.worker.handler.on_message(Answered(job_id=stage.job.id))
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.WORKER_DIED, Submitted.UNKNOWN)
    assert stage.job.state is State.ASSIGNED


async def test_a_contradiction_takes_back_nothing_that_is_proven() -> None:
    """The job server had accepted the job: its client must not take it for one that may not have been submitted."""
    stage = Stage()
    await stage.assigned()
    stage.says(Event.CONNECTED, Event.REPLY_READ)
    stage.worker.handler.on_message(Answered(job_id=stage.job.id))
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.WORKER_DIED, Submitted.YES)


async def test_the_job_of_a_worker_that_sent_nonsense_is_given_to_no_other() -> None:
    """Missing messages cannot be believed either."""
    stage = Stage()
    await stage.assigned()
    stage.worker.broken = True
    stage.worker.handler.on_death("it sent a message of 1000 bytes and was killed")
    outcome = await stage.failed()
    assert (outcome.code, outcome.submitted) == (Code.WORKER_DIED, Submitted.UNKNOWN)


async def test_a_call_that_hangs_is_cut_off_after_a_minute() -> None:
    """By the job's own worker, which goes on with the job."""
    stage = Stage(timeout_s=1_000)
    await stage.assigned()
    began = time.monotonic()
    call = asyncio.create_task(stage.asker.ask(stage.job, "outcome", stage.job.deadline))
    await eventually(lambda: len(stage.worker.sent) == 2)
    ask = stage.worker.sent[-1]
    assert isinstance(ask, Ask)
    assert round(ask.deadline - began) == 60
    told = await call
    assert (told.kind, told.error) == ("unavailable", "no worker reported the answer in time")
    assert (round(time.monotonic() - began), stage.run.done()) == (61, False)
    stage.run.cancel()


@pytest.mark.parametrize("has_read", [True, False], ids=["after it has read the call", "before"])
async def test_a_job_whose_worker_hangs_is_asked_about_by_another(*, has_read: bool) -> None:
    """If it has not even read the call, soon; otherwise from the second call on, until its own has answered."""
    stage = Stage(timeout_s=1_000)
    await stage.assigned()
    own = stage.worker
    own.has_unread, began = not has_read, time.monotonic()
    first = asyncio.create_task(stage.asker.ask(stage.job, "outcome", stage.job.deadline))
    if not has_read:
        await stage.given()
        await eventually(lambda: stage.worker.sent)
        stage.worker.handler.on_message(told := Told(job_id=stage.job.id, call="outcome", kind="progress", body=b""))
        assert (await first, round(time.monotonic() - began)) == (told, 2)
    else:
        assert (await first).kind == "unavailable"

    second = asyncio.create_task(stage.asker.ask(stage.job, "outcome", stage.job.deadline))
    await stage.given()
    await eventually(lambda: stage.worker.sent)
    told = Told(job_id=stage.job.id, call="outcome", kind="progress", body=b"")
    stage.worker.handler.on_message(told)
    assert (await second, len(own.sent)) == (told, 2)

    own.handler.on_message(told)  # the answer to the first call, late
    third = asyncio.create_task(stage.asker.ask(stage.job, "outcome", stage.job.deadline))
    await eventually(lambda: len(own.sent) == 3)
    own.handler.on_message(told)
    assert await third == told
    stage.run.cancel()


@pytest.mark.parametrize(
    ("events", "detail"),
    [
        ([], "the submission could not be sent in time: there was no connection to the job server"),
        ([Event.CONNECTED], "the job server did not reply to the submission in time"),
    ],
    ids=["assigned", "submitting"],
)
async def test_a_worker_that_is_too_late_by_its_own_clock_fails_its_job_like_the_deadline(
    events: list[Event], detail: str
) -> None:
    """Either may notice it first; the client is told the step that the job did not get past."""
    stage = Stage()
    await stage.assigned()
    stage.says(*events)
    stage.worker.handler.on_message(Failure(job_id=stage.job.id, code=Code.DEADLINE_EXCEEDED, detail=""))
    failed = await stage.failed()
    assert (failed.code, failed.detail) == (Code.DEADLINE_EXCEEDED, detail)


async def test_a_job_that_could_not_be_recorded_in_time_is_not_the_job_servers_fault() -> None:
    """The journal takes long, and the worker may only get the job once it is recorded."""
    stage = Stage()
    stage.store.hanging = True
    await stage.given()
    failed = await stage.failed()
    assert (failed.code, failed.submitted) == (Code.DEADLINE_EXCEEDED, Submitted.NO)
    assert failed.detail == "the submission could not be sent in time: the job could not be recorded"
    assert stage.worker.sent == []


async def test_a_borrowed_worker_that_hangs_is_not_waited_for() -> None:
    """It gets no job either."""
    stage = Stage(timeout_s=1_000)
    job, began = a_job(timeout_s=1_000), time.monotonic()
    call = asyncio.create_task(stage.asker.ask(job, "outcome", job.deadline))
    await eventually(lambda: len(stage.pool.tickets) == 2)
    stage.pool.workers.append(worker := FakeWorker())
    worker.has_unread = True
    stage.pool.tickets[-1].set_result(worker)
    assert (await call).error == "the worker that was to make the call hangs"
    assert (round(time.monotonic() - began), stage.pool.released) == (2, [False])
    stage.run.cancel()


async def test_a_call_ends_with_the_work_of_the_worker_that_makes_it() -> None:
    """Whoever waits for it does not wait for its deadline."""
    stage = Stage()
    await stage.assigned()
    stage.says(Event.CONNECTED, Event.REPLY_READ)
    call = asyncio.create_task(stage.asker.ask(stage.job, "status", stage.job.deadline))
    await nothing_moves()
    assert isinstance(stage.worker.sent[-1], Ask)
    stage.worker.die()
    await nothing_moves()
    assert call.done()
    assert (await call).error == "the worker is done with the job"
    await stage.failed()


async def test_calls_that_hang_do_not_keep_others_from_their_turn() -> None:
    """With four borrowed workers, the fifth job is asked about after a minute, and has a minute of its own."""
    pool, began = FakePool(), time.monotonic()
    asker = LocalAsker(cast("Pool", pool), LocalRunner(cast("Pool", pool), ""))
    jobs = [a_job(timeout_s=1_000) for _ in range(5)]
    calls = [asyncio.create_task(asker.ask(job, "outcome", job.deadline)) for job in jobs]
    for number in range(len(jobs)):
        await asyncio.sleep(61.5 if number == 4 else 0.1)
        pool.tickets[len(pool.workers)].set_result(worker := FakeWorker())
        pool.workers.append(worker)
    await eventually(lambda: pool.workers[-1].sent)
    (ask,) = pool.workers[-1].sent
    assert isinstance(ask, Ask)
    assert ask.job_id == jobs[-1].id
    assert round(ask.deadline - began) == 121
    assert {told.kind for told in await asyncio.gather(*calls)} == {"unavailable"}


@pytest.mark.parametrize(
    ("way", "error"),
    [
        ("answered", ""),
        ("died", "the worker did not make the call: it was killed by SIGKILL"),
        ("gone before", "the worker did not make the call: it exited before it got the call"),
        ("silent", "no worker reported the answer in time"),
    ],
)
async def test_a_borrowed_worker_goes_back_to_the_pool(way: str, error: str) -> None:
    """It is used again only if it has made its call."""
    pool, job = FakePool(), a_job(timeout_s=1_000)
    asker = LocalAsker(cast("Pool", pool), LocalRunner(cast("Pool", pool), ""))
    call = asyncio.create_task(asker.ask(job, "outcome", job.deadline))
    await eventually(lambda: pool.tickets)
    pool.workers.append(worker := FakeWorker())
    worker.gone = way == "gone before"
    pool.tickets[-1].set_result(worker)
    await eventually(lambda: worker.sent)
    if way == "answered":
        worker.handler.on_message(Told(job_id=job.id, call="outcome", kind="progress", body=b""))
    elif way == "died":
        worker.die()
    assert (await call).error == error
    assert pool.released == [way == "answered"]


async def test_a_call_that_gets_no_worker_in_time_gives_its_ticket_back() -> None:
    """A worker that arrives at the same moment would belong to nobody."""
    pool, job = FakePool(), a_job(timeout_s=1_000)
    asker = LocalAsker(cast("Pool", pool), LocalRunner(cast("Pool", pool), ""))
    assert (await asker.ask(job, "outcome", job.deadline)).error == "no worker reported the answer in time"
    assert (len(pool.tickets), pool.withdrawn) == (1, 1)


async def test_a_call_about_an_adopted_job_has_no_callback_token() -> None:
    """Only its hash is known; an empty one would be sent as if it were the job's."""
    pool, job = FakePool(), a_job(timeout_s=1_000)
    job.token = ""
    asker = LocalAsker(cast("Pool", pool), LocalRunner(cast("Pool", pool), ""))
    call = asyncio.create_task(asker.ask(job, "outcome", job.deadline))
    await eventually(lambda: pool.tickets)
    pool.workers.append(worker := FakeWorker())
    pool.tickets[-1].set_result(worker)
    await eventually(lambda: worker.sent)
    (ask,) = worker.sent
    assert isinstance(ask, Ask)
    assert json.loads(ask.values).keys() == {"job_id", "job_uuid"}
    call.cancel()


async def test_only_the_first_word_counts() -> None:
    """A message after the end changes nothing, nor does a death after an answer."""
    stage = Stage()
    await stage.assigned()
    stage.says(Event.CONNECTED)
    handler = stage.worker.handler
    await stage.called_back(b"first")
    handler.on_message(Answered(job_id=stage.job.id))
    handler.on_death("too late")
    handler.on_message(Answered(job_id=stage.job.id))
    stage.job.cancelled.set_result("its client")
    assert await stage.run == Succeeded(body=b"first")
    assert stage.pool.released == [True]


async def test_how_a_lost_worker_ended_is_taken_down() -> None:
    """Whether another worker gets the job or the job fails."""
    stage = Stage()
    await stage.assigned()
    stage.worker.die()
    await stage.assigned()
    assert stage.job.recorder.record.worker_end == "SIGKILL"
    stage.worker.end = "exit 1"
    stage.says(Event.CONNECTED)
    stage.worker.die()
    assert (await stage.failed()).code is Code.WORKER_DIED
    assert stage.job.workers_lost == ["SIGKILL", "exit 1"]
    assert stage.job.recorder.record.worker_end == "exit 1"


@pytest.mark.parametrize("code", [Code.CANCELLED, Code.DEADLINE_EXCEEDED])
async def test_a_worker_that_is_killed_as_its_job_has_ended_is_not_lost(code: Code) -> None:
    """The worker is not to blame."""
    stage = Stage()
    await stage.assigned()
    if code is Code.CANCELLED:
        stage.job.cancelled.set_result("an operator")
    assert (await stage.failed()).code is code
    await eventually(lambda: stage.worker.gone)
    assert (stage.job.workers_lost, stage.job.recorder.record.worker_end) == ([], "")
