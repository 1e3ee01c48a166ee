"""From an admitted request to a remembered outcome: admission, the runner, the store, draining.

A job belongs to the front end, not to the connection that brought it: it runs in a task of its own, so a client that
leaves changes nothing. Whatever happens, each job gets exactly one outcome and gives its place back.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from proxy import logs
from proxy.job import Job, Runner, token_hash
from proxy.store import JobStore, Record
from shared.errors import AdmissionError, Code
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.headroom import Headroom
    from proxy.registry import Registry

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
        on_finish: Callable[[Job, Outcome], None] = logs.job_line,
    ) -> None:
        self._runner = runner
        self._store = store
        self._registry = registry
        self._headroom = headroom
        self._max_jobs = max_jobs
        self._job_timeout_s = job_timeout_s
        self._on_finish = on_finish
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False

    def check_admission(self) -> None:
        """Raise AdmissionError if a job would not be taken now."""
        if self.draining:
            raise AdmissionError(Code.SHUTTING_DOWN, "the proxy is shutting down and takes no new jobs")
        if len(self._registry) >= self._max_jobs:
            raise AdmissionError(Code.OVERLOADED, f"{self._max_jobs} jobs are in flight, and more are not taken")
        shortage = self._headroom.shortage()
        if shortage:
            raise AdmissionError(Code.OVERLOADED, f"the machine is short of {shortage}")

    def submit(self, body: bytes, *, traceparent: str = "", tracestate: str = "") -> Job:
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
        )
        self._registry.add(job)
        task = asyncio.get_running_loop().create_task(self._see_through(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    def cancel(self, job_id: str) -> bool:
        """Cancel a job in flight; return whether there is one."""
        job = self._registry.by_id(job_id)
        if job is not None and not job.cancelled.done():
            job.cancelled.set_result(None)
        return job is not None

    async def drain(self) -> None:
        """Take no more jobs and wait until those in flight have their outcome."""
        self.draining = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _see_through(self, job: Job) -> None:
        accepted_at = time.time()
        outcome: Outcome = Failed(code=Code.INTERNAL_ERROR, detail="the proxy failed", submitted=Submitted.UNKNOWN)
        submitted = Submitted.UNKNOWN
        try:
            outcome = await self._runner.run(job)
            submitted = outcome.submitted if isinstance(outcome, Failed) else Submitted.YES
        except Exception as exc:  # noqa: BLE001 - a bug of ours must not leave a client without an answer
            logs.job_event("error", "a job ended in a bug of the proxy", job, kind=type(exc).__name__)
        finally:
            job.advance(Event.FINISH)
            self._registry.remove(job)
            await self._store.put(
                Record(
                    id=job.id,
                    token_hash=token_hash(job.token),
                    state=State.FINISHED,
                    submitted=submitted,
                    accepted_at=accepted_at,
                    finished_at=time.time(),
                    outcome=outcome,
                    called_back=job.callback.done(),
                )
            )
            job.outcome.set_result(outcome)
            self._on_finish(job, outcome)
