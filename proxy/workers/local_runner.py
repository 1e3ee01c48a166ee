"""The life of one job in the worker processes of this machine: assignment, watching, deadline, stop, outcome.

Theory of operation
-------------------
`LocalRunner.run` is the `Runner` of this machine. It waits for a worker, then for the first of four things:

1. the worker confirms the callback (`Answered`), and the callback is recorded: the outcome is what was recorded. The
   worker is notified during the recording, so neither waits for the other. Or the worker reports a `Failure`: that is
   the outcome, unless the submission failed and a callback has shown that the job server has the job: then the job is
   only waited for;
2. the worker exits or dies without either: `worker-died`;
3. the deadline passes: `deadline-exceeded`, unless the callback came while this process was stopped;
4. the job is cancelled: `cancelled`.

The failure's `submitted` is read from the job's state at that moment, so everything that the worker wrote before is
read first (see proxy/workers/worker.py, invariant 2). If the deadline or a cancellation comes first, the worker still
runs, and may be about to submit the job. Unless it is known to have sent something, it is killed, and `no` is answered
only after it has exited.

If a worker dies before it sent anything that could start the job, the client does not notice: another worker gets the
job, up to `_MORE_WORKERS` times, within the deadline; unless a callback shows meanwhile that the job server has the job
after all. Then the job is only waited for. A worker that contradicts itself is not trusted at all, and no other worker
gets its job.

In every case, the worker goes back to the pool exactly once: reusable after a success, to be stopped otherwise, because
a failed job may have left something behind in it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, assert_never

from proxy.jobs import log_lines
from proxy.jobs.job import Job
from proxy.jobs.runner import waited_for
from shared.errors import AdmissionError, Code, StoreUnavailableError
from shared.lifecycle import Event, IllegalEventError, State, Submitted
from shared.messages import Answered, Assign, Callback, Failure, FromWorker, Log, MayRetry, Progress, Retry, Told
from shared.outcome import Failed, Outcome, Succeeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.workers.local_asker import Call
    from proxy.workers.pool import Pool
    from proxy.workers.worker import Worker

__all__ = ["LocalRunner"]

#: How often another worker is tried. A job that has lost more workers is likely to be the cause.
_MORE_WORKERS: Final = 2
#: How long to wait for a killed worker's exit; after that, its job's `submitted` is `unknown`.
_EXIT_S: Final = 0.5
#: The failures of a submission.
_OF_A_SUBMISSION: Final = frozenset({Code.JOB_SERVER_UNAVAILABLE, Code.JOB_REJECTED, Code.BAD_JOB_SERVER_REPLY})


class LocalRunner:
    """Runs jobs in the workers of a pool."""

    def __init__(self, pool: Pool, callback_url: str) -> None:
        """`callback_url` is the base address to which a job's token is appended."""
        self._pool = pool
        self._callback_url = callback_url
        #: The watches of the jobs that a worker has now, by job id.
        self.watches: dict[str, _Watch] = {}

    async def run(self, job: Job) -> Outcome:
        """Run `job`; return its outcome, by its deadline."""
        outcome = await self._run_in_one_worker(job)
        for _ in range(_MORE_WORKERS):
            if outcome is not None or job.submitted is Submitted.YES:
                break
            job.advance(Event.WORKER_LOST)
            log_lines.job_event("warning", "a worker was lost before the submission; another one gets the job", job)
            outcome = await self._run_in_one_worker(job)
        if outcome is None and job.submitted is Submitted.YES:
            return await waited_for(job, _overdue)  # not given to another worker: the job server has reported on it
        return outcome or job.failure(
            Code.WORKER_DIED, f"{_MORE_WORKERS + 1} workers died, one after the other, before they submitted the job"
        )

    async def _run_in_one_worker(self, job: Job) -> Outcome | None:
        """Return the outcome; None: the worker was lost before it sent anything, or the job server has the job."""
        try:
            worker = await self._worker_for(job)
        except TimeoutError:
            return _overdue(job)
        except AdmissionError as exc:
            return None if job.submitted is Submitted.YES else job.failure(exc.code, exc.detail)
        if worker is None:
            return job.cancellation() if job.cancelled.done() else None
        outcome: Outcome | None = None
        try:
            outcome = await self._watch(job, worker)
        finally:
            self._pool.release(worker, reusable=isinstance(outcome, Succeeded))
        return outcome

    async def _worker_for(self, job: Job) -> Worker | None:
        """Return a worker; None: the job was cancelled, or its callback came, first.

        Raises AdmissionError, TimeoutError.
        """
        ticket = self._pool.request()
        if ticket.done():
            return ticket.result()
        job.recorder.queued()

        def on_end(_: asyncio.Future[Any]) -> None:
            ticket.cancel()

        ends: tuple[asyncio.Future[Any], ...] = (job.cancelled, job.arrival)
        for end in ends:
            end.add_done_callback(on_end)
        try:
            async with asyncio.timeout_at(job.deadline):
                return await ticket
        except (asyncio.CancelledError, TimeoutError):
            self._pool.withdraw(ticket)
            if any(end.done() for end in ends):
                return None
            raise
        finally:
            for end in ends:
                end.remove_done_callback(on_end)

    async def _watch(self, job: Job, worker: Worker) -> Outcome | None:
        if job.submitted is Submitted.YES:  # a lost worker has submitted it after all: do not submit again
            return None
        watch = _Watch(job, worker)
        job.worker_pid = worker.pid
        job.advance(Event.ASSIGN)
        worker.handler = watch
        self.watches[job.id] = watch
        job.cancelled.add_done_callback(watch.on_cancel)
        try:
            return await self._outcome(job, worker, watch)
        finally:
            # Break reference cycles. Otherwise jobs would stay until a garbage collection, which would have to free
            # thousands of them and block the event loop.
            job.cancelled.remove_done_callback(watch.on_cancel)
            job.arrival.remove_done_callback(watch.on_arrival)
            job.callback.remove_done_callback(watch.on_callback)
            del self.watches[job.id]
            if watch.call is not None:
                watch.call.leave("the worker is done with the job")

    async def _outcome(self, job: Job, worker: Worker, watch: _Watch) -> Outcome | None:
        try:
            async with asyncio.timeout_at(job.deadline):
                await self._hand_over(job, worker, watch)
        except TimeoutError:
            return _overdue(job, "the job could not be recorded")
        except StoreUnavailableError as exc:
            return job.failure(Code.JOURNAL_UNAVAILABLE, str(exc))
        await job.until_deadline(watch.outcome)
        if watch.outcome.cancel():  # from now on, what the worker says changes only the state
            return await self._given_up(job, worker, watch, _overdue)
        outcome = watch.outcome.result()
        if isinstance(outcome, Failed) and outcome.code is Code.CANCELLED:
            return await self._given_up(job, worker, watch, Job.cancellation)
        if isinstance(outcome, Failed) and job.submitted is Submitted.YES:  # a callback may have come since it failed
            return replace(outcome, submitted=Submitted.YES)
        return outcome

    async def _hand_over(self, job: Job, worker: Worker, watch: _Watch) -> None:
        """Give the job to the worker, unless it has ended before."""
        if worker.gone:  # it ended between the ticket's completion and now, when it had no handler to report to
            watch.on_death("it died before it got the job")
        await job.recorder.submitting()
        if watch.outcome.done():  # cancelled, or the worker died, before it got the job
            return
        watch.has_job = True
        worker.send(
            Assign(
                job_id=job.id,
                callback_url=f"{self._callback_url}/{job.token}",
                deadline=job.deadline,
                traceparent=job.traceparent,
                tracestate=job.tracestate,
                profile=job.profile,
                path=job.recorder.record.outputs.get("path", ""),
                query=job.query,
                content_type=job.content_type,
                body=job.body,
            )
        )
        job.arrival.add_done_callback(watch.on_arrival)
        job.callback.add_done_callback(watch.on_callback)

    async def _given_up(self, job: Job, worker: Worker, watch: _Watch, failure: Callable[[Job], Failed]) -> Failed:
        """Return the failure of a job whose worker still has it and may be about to submit it."""
        if watch.has_job and job.submitted is Submitted.NO:
            self._pool.kill(worker)
            await asyncio.wait((watch.exited,), timeout=_EXIT_S)
            if not watch.exited.done() or watch.contradicted:
                return replace(failure(job), submitted=Submitted.UNKNOWN)
        return failure(job)


class _Watch:
    """Waits for one job's outcome while a worker has the job."""

    def __init__(self, job: Job, worker: Worker) -> None:
        #: None: the worker was lost before it sent anything.
        self.outcome: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        #: Whether the worker was sent the job: from then on it may submit it.
        self.has_job = False
        #: Done when the worker has exited, and all its messages have been read.
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: Whether the worker sent contradictory messages.
        self.contradicted = False
        #: Whether the worker has nothing left to do; the job ends when the callback is also recorded.
        self._is_done = False
        #: Whether the reply has been read.
        self._is_replied = False
        self._job = job
        self.worker = worker
        #: The call that the worker makes, or made last.
        self.call: Call | None = None

    @property
    def job_id(self) -> str:
        return self._job.id

    @property
    def state_name(self) -> str:
        return str(self._job.state)

    def on_message(self, message: FromWorker) -> None:
        match message:
            case Progress():
                self._progress(message)
            case Told(call="submit"):
                self._job.ended_by_answer(message)
            case Told() if self.call is not None:
                self.call.end(message)
            case MayRetry():
                self._allow_retry()
            case Answered():
                self._answered()
            case Failure():
                self._failed(message)
            case Told() | Log():
                pass
            case _:
                assert_never(message)

    def on_death(self, reason: str) -> None:
        if not self.exited.done():
            self.exited.set_result(None)
        if self._is_done:
            return
        detail = f"the worker with pid {self.worker.pid} did not finish the job: {reason}"
        if not self.outcome.done():  # otherwise it was killed because the job has ended
            self._job.lose_worker(self.worker.end)
        if self.worker.broken:
            self._disbelieve(detail)
        elif self._job.submitted is Submitted.NO:
            self._finish(None)
        else:
            self._finish(self._job.failure(Code.WORKER_DIED, detail))

    def on_arrival(self, _: asyncio.Future[None]) -> None:
        if not self.outcome.done():
            self.worker.send(Callback(job_id=self.job_id))

    def on_callback(self, _: asyncio.Future[None]) -> None:
        if self._is_done:
            self._end_with_callback()

    def on_cancel(self, _: asyncio.Future[str]) -> None:
        self._finish(self._job.cancellation())

    def _progress(self, message: Progress) -> None:
        try:
            self._job.advance(message.event)
        except IllegalEventError as exc:
            self._disbelieve(f"the worker sent contradictory messages: {exc}")
        else:
            if message.event is Event.REPLY_READ:
                self._is_replied = True
                self._job.body = b""  # it is not submitted again
                self._job.recorder.waiting(message.outputs)

    def _is_disproved(self, code: Code) -> bool:
        """Return whether a callback that was no end has shown that the job server has the job, whatever it replied."""
        return code in _OF_A_SUBMISSION and not self._is_replied and self._job.submitted is Submitted.YES

    def _allow_retry(self) -> None:
        """Let the worker submit the job again, unless a callback has shown that the job server has it after all."""
        if self._job.submitted is not Submitted.YES:
            self.worker.send(Retry(job_id=self.job_id))

    def _answered(self) -> None:
        if self._job.arrival.done():
            self._end_with_callback()
        else:
            self._disbelieve("the worker sent contradictory messages: it has taken a callback that never came")

    def _failed(self, message: Failure) -> None:
        if self._job.recorder.called_back:  # the worker did not know yet; the callback outweighs it
            self._end_with_callback()
        elif self._is_disproved(message.code):  # the job server has the job: its end may still come
            self._finish(None)
        elif message.code is Code.DEADLINE_EXCEEDED:
            self._finish(_overdue(self._job))
        else:
            self._finish(self._job.failure(message.code, message.detail))

    def _end_with_callback(self) -> None:
        """Finish with the callback, once it is recorded: the worker has nothing left to do."""
        self._is_done = True
        if self._job.callback.done():
            self._finish(self._job.recorder.record.outcome)

    def _disbelieve(self, detail: str) -> None:
        """End the job: a worker that sends contradictory messages may have done things that it did not report."""
        self.contradicted = True
        failure = self._job.failure(Code.WORKER_DIED, detail)
        self._finish(failure if failure.submitted is Submitted.YES else replace(failure, submitted=Submitted.UNKNOWN))

    def _finish(self, outcome: Outcome | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


def _overdue(job: Job, obstacle: str = "there was no connection to the job server") -> Failed:
    match job.state:
        case _ if job.recorder.called_back:
            detail = "the worker did not confirm the callback in time"
        case State.ACCEPTED:
            detail = "no worker was free in time"
        case State.ASSIGNED:
            detail = f"the submission could not be sent in time: {obstacle}"
        case State.SUBMITTING:
            detail = "the job server did not reply to the submission in time"
        case _:
            detail = "no callback came in time" + job.heard_instead()
    return job.failure(Code.DEADLINE_EXCEEDED, detail)
