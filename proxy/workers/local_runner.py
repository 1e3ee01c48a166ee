"""The life of one job: hand it to a worker, watch, deadline, stop, outcome.

Theory of operation
-------------------
`Supervisor.run` is the `Runner` of this machine. It waits for a worker, then for the first of four things:

1. the worker reports an outcome (`Answered`, `Failure`): that is the outcome;
2. the worker ends without one, whatever ended it: `worker-died`;
3. the deadline comes: `deadline-exceeded`;
4. somebody cancels the job: `cancelled`.

What the failure says about the job server (`submitted`) is read from the job's state at that moment, so all that the
worker wrote before is read first (see proxy/workers/worker.py, invariant 2).

Whatever happened, the worker goes back to the pool exactly once: reusable after a success, to be stopped after anything
else, since nobody knows what a failed job left behind in it. The outcome is not kept waiting for that.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, assert_never

from shared.errors import AdmissionError, Code
from shared.job_server.verdict import job_failed
from shared.lifecycle import Event, IllegalEventError, State
from shared.messages import Answered, Assign, Callback, Failure, FromWorker, Log, Progress
from shared.outcome import Failed, Outcome, Succeeded

if TYPE_CHECKING:
    from proxy.jobs.job import Job
    from proxy.workers.pool import Pool
    from proxy.workers.worker import Worker

__all__ = ["Supervisor"]


class Supervisor:
    """Runs jobs in the workers of a pool."""

    def __init__(self, pool: Pool, callback_url: str) -> None:
        """`callback_url` is the base address to which a job's token is appended."""
        self._pool = pool
        self._callback_url = callback_url

    async def run(self, job: Job) -> Outcome:
        """Run `job`; return its outcome, by its deadline."""
        worker: Worker | None = None
        outcome: Outcome | None = None
        try:
            async with asyncio.timeout_at(job.deadline):
                worker = await self._worker_for(job)
                outcome = await self._watch(job, worker) if worker is not None else _cancelled(job)
        except TimeoutError:
            outcome = _overdue(job)
        except AdmissionError as exc:
            outcome = job.failure(exc.code, exc.detail)
        finally:
            if worker is not None:
                self._pool.release(worker, reusable=isinstance(outcome, Succeeded))
        return outcome

    async def _worker_for(self, job: Job) -> Worker | None:
        """Return a worker, or None where the job is cancelled first."""
        ticket = self._pool.request()

        def on_cancel(_: asyncio.Future[None]) -> None:
            ticket.cancel()

        job.cancelled.add_done_callback(on_cancel)
        try:
            return await ticket
        except asyncio.CancelledError:
            self._pool.withdraw(ticket)
            if job.cancelled.done():
                return None
            raise
        finally:
            job.cancelled.remove_done_callback(on_cancel)

    async def _watch(self, job: Job, worker: Worker) -> Outcome:
        watch = _Watch(job, worker)
        job.worker_pid = worker.pid
        job.advance(Event.ASSIGN)
        worker.handler = watch
        job.cancelled.add_done_callback(watch.on_cancel)
        try:
            return await self._outcome(job, worker, watch)
        finally:
            # A job that holds what holds it would stay until a garbage collection, which would then have thousands of
            # jobs to free, with the event loop waiting.
            job.cancelled.remove_done_callback(watch.on_cancel)
            job.callback.remove_done_callback(watch.on_callback)

    async def _outcome(self, job: Job, worker: Worker, watch: _Watch) -> Outcome:
        if worker.gone:  # it ended while the ticket was on its way, and its end was reported to nobody
            watch.on_death("it ended before it had the job")
        await job.before_assign()
        if watch.outcome.done():  # cancelled, or the worker died, before it had anything to do
            return watch.outcome.result()
        worker.send(
            Assign(
                job_id=job.id,
                callback_url=f"{self._callback_url}/{job.token}",
                deadline=job.deadline,
                traceparent=job.traceparent,
                tracestate=job.tracestate,
                body=job.body,
            )
        )
        job.callback.add_done_callback(watch.on_callback)
        return await watch.outcome


class _Watch:
    """What one job waits for while a worker has it."""

    def __init__(self, job: Job, worker: Worker) -> None:
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._job = job
        self._worker = worker

    @property
    def job_id(self) -> str:
        return self._job.id

    @property
    def state_name(self) -> str:
        return str(self._job.state)

    def on_message(self, message: FromWorker) -> None:
        job = self._job
        match message:
            case Progress():
                self._progress(message.event)
            case Answered(success=True):
                self._finish(Succeeded(body=message.body))
            case Answered():
                self._finish(job_failed(message.body))
            case Failure():
                self._finish(job.failure(message.code, message.detail))
            case Log():
                pass
            case _:
                assert_never(message)

    def on_death(self, reason: str) -> None:
        detail = f"the worker with pid {self._worker.pid} did not finish the job: {reason}"
        self._finish(self._job.failure(Code.WORKER_DIED, detail))

    def on_callback(self, callback: asyncio.Future[bytes]) -> None:
        if not callback.cancelled() and not self.outcome.done():
            self._worker.send(Callback(job_id=self.job_id, body=callback.result()))

    def on_cancel(self, _: asyncio.Future[None]) -> None:
        self._finish(_cancelled(self._job))

    def _progress(self, event: Event) -> None:
        try:
            self._job.advance(event)
        except IllegalEventError as exc:
            # A worker that says what cannot be is not to be believed in anything.
            self._finish(self._job.failure(Code.WORKER_DIED, f"the worker contradicted itself: {exc}"))

    def _finish(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


def _cancelled(job: Job) -> Failed:
    return job.failure(Code.CANCELLED, "the job was cancelled; the job server is not told, as it has no such call")


def _overdue(job: Job) -> Failed:
    match job.state:
        case State.ACCEPTED:
            detail = "no worker was free in time"
        case State.ASSIGNED:
            detail = "the submission could not be sent in time"
        case State.SUBMITTING:
            detail = "the job server did not reply to the submission in time"
        case _:
            detail = "no callback came in time"
    return job.failure(Code.DEADLINE_EXCEEDED, detail)
