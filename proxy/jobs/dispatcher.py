"""From an admitted request to a remembered outcome: admission, the runner, the store, draining.

A job belongs to the front end, not to the connection that brought it: it runs in a task of its own, so a client that
leaves changes nothing. Whatever happens, each job gets exactly one outcome and gives its place back.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

from proxy import log
from proxy.jobs import log_lines
from proxy.jobs.callback_intake import Kind
from proxy.jobs.job import Job
from proxy.jobs.left_open import Adoption, adopt, never_submitted
from proxy.jobs.recorder import Entry
from proxy.jobs.runner import Runner
from proxy.store.record import Record
from shared.errors import AdmissionError, Code
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.jobs.headroom import Headroom
    from proxy.jobs.in_flight import Registry
    from proxy.store.protocol import JobStore

__all__ = ["Dispatcher"]


class Dispatcher:
    """Admits jobs and sees them through."""

    def __init__(
        self,
        *,
        runner: Runner,
        store: JobStore,
        registry: Registry,
        headroom: Headroom,
        max_jobs: int,
        job_timeout_s: float,
        callback_counts: Counter[str] | None = None,
        on_finish: Callable[[Job, Outcome], None] = log_lines.job_line,
    ) -> None:
        self._runner = runner
        self._store = store
        self._registry = registry
        self._headroom = headroom
        self._max_jobs = max_jobs
        self._job_timeout_s = job_timeout_s
        self._callback_counts = callback_counts if callback_counts is not None else Counter()
        #: Hears of each admitted job before anything is done with it.
        self.on_begin: Callable[[Job], None] | None = None
        self._on_finish = on_finish
        self._adoption = Adoption()
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False

    @property
    def journal_trouble(self) -> str:
        """Why no job can be recorded now; empty if nothing stands against it."""
        return f"the journal cannot be written: {self._store.trouble}" if self._store.trouble else ""

    def check_admission(self) -> None:
        """Raise AdmissionError if a job would not be taken now."""
        if self.draining:
            raise AdmissionError(Code.SHUTTING_DOWN, "the proxy is shutting down and takes no new jobs")
        if len(self._registry) >= self._max_jobs:
            raise AdmissionError(Code.OVERLOADED, f"{self._max_jobs} jobs are in flight, and more are not taken")
        if self.journal_trouble:
            raise AdmissionError(Code.JOURNAL_UNAVAILABLE, self.journal_trouble)
        shortage = self._headroom.shortage()
        if shortage:
            raise AdmissionError(Code.OVERLOADED, f"the machine is short of {shortage}")

    def submit(
        self,
        body: bytes,
        *,
        traceparent: str = "",
        tracestate: str = "",
        key: bytes | None = None,
        fingerprint: bytes = b"",
    ) -> Job:
        """Admit a job and start it; its outcome is `job.outcome`.

        Raises:
            AdmissionError: it is not taken; nothing was started.
        """
        self.check_admission()
        job = Job(
            body=body,
            deadline=time.monotonic() + self._job_timeout_s,
            traceparent=traceparent,
            tracestate=tracestate,
            key=key,
            fingerprint=fingerprint,
        )
        if self.on_begin is not None:
            self.on_begin(job)
        job.entry = entry = Entry(self._store, self._record(job))
        job.before_assign = entry.assign
        job.on_event = _note_progress
        self._start(job, self._runner)
        # Not at once: where a worker is ready, the first thing recorded is that it has the job.
        asyncio.get_running_loop().call_soon(_note_queueing, job)
        return job

    async def restore(self) -> None:
        """Take up the jobs that an earlier front end left open. To be called before anything is served."""
        open_jobs = await self._store.unfinished()
        for record in open_jobs:
            if record.state is State.ACCEPTED:
                await Entry(self._store, record, known=True).finish(never_submitted())
            else:
                self._start(adopt(self._store, record), self._adoption)
        if open_jobs:
            never = sum(record.state is State.ACCEPTED for record in open_jobs)
            log.event(
                "warning",
                "jobs of an earlier run were found open",
                never_submitted=never,
                waiting_for_callbacks=len(open_jobs) - never,
            )

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job in flight and return it, if there is one; it is over when it has its outcome."""
        job = self._registry.by_id(job_id)
        if job is not None and not job.cancelled.done():
            job.cancelled.set_result(None)
        return job

    async def drain(self) -> None:
        """Take no more jobs and wait until those in flight have their outcome."""
        self.draining = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, job: Job, runner: Runner) -> None:
        self._registry.add(job)
        task = asyncio.get_running_loop().create_task(self._see_through(job, runner))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _record(self, job: Job) -> Record:
        now = time.time()
        return Record(
            id=job.id,
            token_hash=job.token_hash,
            key=job.key,
            fingerprint=job.fingerprint,
            state=job.state,
            submitted=job.submitted,
            accepted_at=now,
            deadline_at=now + self._job_timeout_s,
        )

    async def _see_through(self, job: Job, runner: Runner) -> None:
        outcome: Outcome = Failed(code=Code.INTERNAL_ERROR, detail="the proxy failed", submitted=Submitted.UNKNOWN)
        try:
            outcome = await runner.run(job)
        except Exception as exc:  # noqa: BLE001 - a bug of ours must not leave a client without an answer
            log_lines.job_event("error", "a job ended in a bug of the proxy", job, kind=type(exc).__name__)
        finally:
            job.advance(Event.FINISH)
            await _record_end(job, outcome)
            # Only now: whoever asks for the job finds it here or in the store.
            self._registry.remove(job)
            if not job.callback.done() and isinstance(outcome, Failed) and outcome.submitted is not Submitted.NO:
                self._callback_counts[Kind.NEVER] += 1
            job.outcome.set_result(outcome)
            self._on_finish(job, outcome)


async def _record_end(job: Job, outcome: Outcome) -> None:
    if job.entry is None:
        return
    try:
        await job.entry.finish(outcome)
    except Exception as exc:  # noqa: BLE001 - as above: whatever it is, the client gets its answer
        log_lines.job_event("error", "a job's end could not be recorded", job, kind=type(exc).__name__)


def _note_queueing(job: Job) -> None:
    if job.entry is not None and job.state is State.ACCEPTED:
        job.entry.queue()


def _note_progress(job: Job, event: Event) -> None:
    if job.entry is not None and event is Event.REPLY_READ:
        job.entry.wait()
