"""Runners without processes: further implementations of `Runner`, and some that break its rules."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum, auto
from typing import Any, Final

from proxy.jobs.job import Job
from shared.errors import Code, StoreUnavailableError
from shared.lifecycle import Event
from shared.outcome import Outcome

__all__ = ["SUBMIT", "AnsweringRunner", "FreeRunner", "InProcessRunner", "RefusedError", "Step", "SteppedRunner"]


class FreeRunner:
    """Runs each job by a function, which may break the rules."""

    def __init__(self, run: Callable[[Job], Awaitable[Outcome]]) -> None:
        self._run = run

    async def run(self, job: Job) -> Outcome:
        """Call the function."""
        return await self._run(job)


class AnsweringRunner:
    """Returns the outcome of every job at once, without any callback."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        #: How many jobs were run, by their bodies.
        self.submitted: Counter[bytes] = Counter()

    async def run(self, job: Job) -> Outcome:
        """Record that the job is running, then return its outcome."""
        job.advance(Event.ASSIGN)
        await job.recorder.submitting()
        job.advance(Event.CONNECTED)
        self.submitted[job.body] += 1
        job.advance(Event.REPLY_READ)
        return self._outcome


class RefusedError(Exception):
    """Raised by the function of an `InProcessRunner`: this job was certainly not started."""


class InProcessRunner:
    """Submits jobs to a function of this process, which runs them and calls back."""

    def __init__(self, submit: Callable[[bytes, str], Awaitable[None]]) -> None:
        """`submit` takes the job's body and its callback token; it may raise RefusedError."""
        self._submit = submit

    async def run(self, job: Job) -> Outcome:
        """Submit `job`, and wait for its callback; return the outcome by the deadline."""
        return await _until_over(job, self._submitted(job))

    async def _submitted(self, job: Job) -> Outcome | None:
        job.advance(Event.ASSIGN)
        await job.recorder.submitting()
        job.advance(Event.CONNECTED)
        try:
            await self._submit(job.body, job.token)
        except RefusedError:
            job.advance(Event.REFUSED)
            return job.failure(Code.JOB_REJECTED, "the job server does not want it")
        job.advance(Event.REPLY_READ)
        job.recorder.waiting()
        return None


class Step(Enum):
    """The steps of a runner with a job."""

    QUEUE = auto()
    ASSIGN = auto()
    RECORD = auto()
    CONNECT = auto()
    REFUSE = auto()
    REPLY = auto()


Order = Step | Code | Outcome | Exception

#: All steps until the job server has the job.
SUBMIT: Final = (Step.ASSIGN, Step.RECORD, Step.CONNECT, Step.REPLY)


class SteppedRunner:
    """Continues with a job only as the test says."""

    def __init__(self) -> None:
        self._orders: dict[str, asyncio.Queue[Order]] = {}
        #: The ids of the jobs that were run, in order.
        self.ran: list[str] = []
        #: How many submissions were sent, by the job's id, including refused ones.
        self.submitted: Counter[str] = Counter()

    def tell(self, job: Job, *orders: Order) -> None:
        """Order these steps for `job`, one after the other; any other order is its end.

        A code means a failure whose `submitted` is what is known by then.
        """
        queue = self._orders.setdefault(job.id, asyncio.Queue())
        for order in orders:
            queue.put_nowait(order)

    async def run(self, job: Job) -> Outcome:
        """Run `job` as the test says, until an order, the callback, the deadline or a cancellation ends it."""
        self.ran.append(job.id)
        return await _until_over(job, self._obeyed(job))

    async def _obeyed(self, job: Job) -> Outcome | None:
        queue = self._orders.setdefault(job.id, asyncio.Queue())
        while True:
            order = await queue.get()
            if isinstance(order, Step):
                await self._do(job, order)
            elif isinstance(order, Code):
                return job.failure(order, "because")
            elif isinstance(order, Exception):
                raise order
            else:
                return order

    async def _do(self, job: Job, step: Step) -> None:
        match step:
            case Step.QUEUE:
                job.recorder.queued()
            case Step.ASSIGN:
                job.advance(Event.ASSIGN)
            case Step.RECORD:
                await job.recorder.submitting()
            case Step.CONNECT:
                job.advance(Event.CONNECTED)
                self.submitted[job.id] += 1
            case Step.REFUSE:
                job.advance(Event.REFUSED)
            case Step.REPLY:
                job.advance(Event.REPLY_READ)
                job.recorder.waiting()


async def _until_over(job: Job, work: Coroutine[Any, Any, Outcome | None]) -> Outcome:
    """Return the outcome of `work` if it returns one; otherwise wait for the callback. Ends as every runner must."""
    working = asyncio.create_task(work)
    try:
        async with asyncio.timeout_at(job.deadline):
            return await _first_end(job, working)
    except TimeoutError:
        return job.failure(Code.DEADLINE_EXCEEDED, "it took too long")
    except StoreUnavailableError as exc:
        return job.failure(Code.JOURNAL_UNAVAILABLE, str(exc))
    finally:
        working.cancel()


async def _first_end(job: Job, working: asyncio.Task[Outcome | None]) -> Outcome:
    waiting: set[asyncio.Future[Any]] = {job.callback, job.cancelled, working}
    while True:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        outcome = job.recorder.record.outcome
        if job.callback.done() and outcome is not None:
            return outcome
        if job.cancelled.done():
            return job.cancellation()
        over = working.result()
        if over is not None:
            return over
        waiting.remove(working)
