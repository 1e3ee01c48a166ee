"""From an admitted request to a remembered outcome: admission, the runner, the store, draining.

A job belongs to the front end, not to the connection that brought it: it runs in a task of its own, so a client that
leaves changes nothing. Whatever happens, each job gets exactly one outcome and gives its place back.

The way of a job, from the request to the answer::

    api/clients/post_job        reads the request: who asks, the body, the key, how long the client waits
      jobs/entrance, keys       a new job, or the one that this key has already
        jobs/dispatcher         may it be taken (headroom)? in_flight knows it from now on
          workers/local_runner  the `Runner`: waits for a worker (pool)
            jobs/recorder       SUBMITTING is recorded (store/...) before the worker hears of the job
            workers/worker      Assign, through the worker's inbox (shared/messages, frames)
              worker/main       in the worker: takes it from its inbox,
              worker/job_client submits it, reads the reply, and waits on its inbox
    api/callbacks               meanwhile, in the front end: reads the callback, once
      jobs/callback_intake      the recorder records it; the `Delivery` finds who runs the job
          workers/local_runner  tells the worker, which says that it is done
        jobs/dispatcher         the outcome is what was recorded; observe/observers hear of it
    api/clients/answers         the outcome becomes the answer
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from proxy import log
from proxy.jobs import log_lines
from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import Job, new_id, new_token, token_hash
from proxy.jobs.left_open import LeftOpen, adopt, never_submitted
from proxy.jobs.recorder import Recorder
from proxy.store.record import Record
from shared.errors import AdmissionError, Code
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from proxy.jobs.entrance import JobRequest
    from proxy.jobs.headroom import Headroom
    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.polling import Poller
    from proxy.jobs.runner import Runner
    from proxy.store.protocol import JobStore

__all__ = ["Dispatcher", "Observer"]


class Observer(Protocol):
    """Is told about jobs. Nothing that it does can affect them."""

    def job_began(self, job: Job) -> None:
        """Called for an accepted job, before anything is done with it."""

    def job_finished(self, job: Job, outcome: Outcome) -> None:
        """Called for a finished job."""


class Dispatcher:
    """Accepts jobs and sees them through to their end."""

    def __init__(  # noqa: PLR0913 - the parts that it brings together
        self,
        *,
        runner: Runner,
        store: JobStore,
        in_flight: InFlight,
        headroom: Headroom,
        observer: Observer,
        poller: Poller,
        callback_counts: Counter[str],
        max_jobs: int,
        job_timeout_s: float,
    ) -> None:
        """`callback_counts`: how many callbacks had which fate; those that never came are counted here."""
        self._runner = runner
        self._store = store
        self._in_flight = in_flight
        self._headroom = headroom
        self._observer = observer
        self._poller = poller
        self._callback_counts = callback_counts
        self._max_jobs = max_jobs
        self._job_timeout_s = job_timeout_s
        self._left_open = LeftOpen()
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False

    def check_admission(self) -> None:
        """Raise AdmissionError if a job would not be accepted now."""
        if self.draining:
            raise AdmissionError(Code.SHUTTING_DOWN, "the proxy is shutting down and accepts no new jobs")
        if len(self._in_flight) >= self._max_jobs:
            raise AdmissionError(Code.OVERLOADED, f"{self._max_jobs} jobs are in flight, which is the limit")
        if self._store.trouble:
            raise AdmissionError(Code.JOURNAL_UNAVAILABLE, self._store.trouble)
        shortage = self._headroom.shortage()
        if shortage:
            raise AdmissionError(Code.OVERLOADED, f"the machine is short of {shortage}")

    def submit(self, request: JobRequest, fingerprint: bytes = b"") -> Job:
        """Admit a job and start it; its outcome is `job.outcome`. `fingerprint`: what its key's body is compared by.

        Raises:
            AdmissionError: it is not taken; nothing was started.
        """
        self.check_admission()
        token, now = new_token(), time.time()
        record = Record(
            id=new_id(),
            token_hash=token_hash(token),
            key=request.key,
            fingerprint=fingerprint,
            accepted_at=now,
            deadline_at=now + self._job_timeout_s,
            profile=request.profile,
            labels=request.labels,
            outputs={"path": request.path} if request.path else {},
        )
        job = Job(
            body=request.body,
            content_type=request.content_type,
            deadline=time.monotonic() + self._job_timeout_s,
            recorder=Recorder(self._store, record),
            token=token,
            traceparent=request.traceparent,
            tracestate=request.tracestate,
        )
        self._observer.job_began(job)
        self._start(job, self._runner)
        return job

    async def restore(self) -> None:
        """Take over the jobs that an earlier front end left open. To be called before anything is served."""
        open_jobs = await self._store.unfinished()
        for record in open_jobs:
            if record.state is State.ACCEPTED:
                await Recorder(self._store, record, stored=True).finished(never_submitted())
            else:
                self._start(adopt(self._store, record), self._left_open)
        if open_jobs:
            never = sum(record.state is State.ACCEPTED for record in open_jobs)
            log.event(
                "warning",
                "open jobs of an earlier run were found",
                never_submitted=never,
                waiting_for_callbacks=len(open_jobs) - never,
            )

    def cancel(self, job_id: str, *, by: str = "its client") -> Job | None:
        """Cancel a job in flight and return it, if there is one; it is over when it has its outcome. `by`: who does."""
        job = self._in_flight.by_id(job_id)
        if job is not None and not job.cancelled.done():
            job.is_cancellable = self._poller.can_cancel(job)
            job.cancelled.set_result(by)
        return job

    async def drain(self) -> None:
        """Accept no more jobs and wait until those in flight have their outcome."""
        self.draining = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, job: Job, runner: Runner) -> None:
        self._in_flight.add(job)
        self._run(self._see_through(job, runner))

    def _run(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _see_through(self, job: Job, runner: Runner) -> None:
        outcome: Outcome = Failed(code=Code.INTERNAL_ERROR, detail="the proxy failed", submitted=Submitted.UNKNOWN)
        following = self._run(self._follow(job)) if self._poller.wants_to_follow(job) else None
        try:
            outcome = await runner.run(job)
        except Exception as exc:  # noqa: BLE001 - a bug of ours must not leave a client without an answer
            log_lines.job_event("error", "unhandled exception in a job", job, **log.exception_fields(exc))
        finally:
            if job.state is not State.FINISHED:  # else the runner has said so, which is not its business
                job.advance(Event.FINISH)
            try:
                await _record_end(job, outcome)
            finally:
                # Only now: a request for the job finds it here or in the store.
                self._in_flight.remove(job)
                if not job.callback.done() and isinstance(outcome, Failed) and outcome.submitted is not Submitted.NO:
                    self._callback_counts[CallbackFate.NEVER] += 1
                job.outcome.set_result(outcome)
                self._observer.job_finished(job, outcome)
                if following is not None:
                    following.cancel()
                if _is_given_up(outcome) and self._poller.can_cancel(job):
                    self._run(self._poller.cancel(job))

    async def _follow(self, job: Job) -> None:
        try:
            await self._poller.follow(job)
        except Exception as exc:  # noqa: BLE001 - the callback may still come
            log_lines.job_event("error", "a job could not be followed", job, **log.exception_fields(exc))


def _is_given_up(outcome: Outcome) -> bool:
    """Return whether the job may run at the job server with nobody to wait for it."""
    codes = {Code.CANCELLED, Code.DEADLINE_EXCEEDED}
    return isinstance(outcome, Failed) and outcome.code in codes and outcome.submitted is not Submitted.NO


async def _record_end(job: Job, outcome: Outcome) -> None:
    try:
        await job.recorder.finished(outcome)
    except Exception as exc:  # noqa: BLE001 - as above: whatever it is, the client gets its answer
        log_lines.job_event("error", "the outcome of a job could not be recorded", job, **log.exception_fields(exc))
