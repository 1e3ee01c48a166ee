"""Has workers make calls to job servers about jobs: the job's own worker, or one that is borrowed from the pool.

So a job server's answer is parsed where it can do no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

from shared.errors import AdmissionError
from shared.messages import Ask, FromWorker, Told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.jobs.job import Job
    from proxy.workers.local_runner import LocalRunner
    from proxy.workers.pool import Pool
    from proxy.workers.worker import Worker

__all__ = ["Call", "LocalAsker"]

#: How many workers may be borrowed at the same time, so that the others stay free for new jobs.
_BORROWED: Final = 4
#: The longest call. One whose connection was lost unnoticed would last until the job's deadline: until then, its job is
#: not asked about again; nor is any other job, if such calls keep all borrowed workers.
_CALL_S: Final = 60.0
#: How long to wait for the answer to a call after its deadline.
_ANSWER_S: Final = 1.0
#: After this long, a worker that has not even read the call hangs, or is stopped.
_READ_S: Final = 2.0


class LocalAsker:
    """The `Asker` of this machine."""

    def __init__(self, pool: Pool, runner: LocalRunner) -> None:
        """`runner` knows which worker has a job."""
        self._pool = pool
        self._runner = runner
        self._borrowed = asyncio.Semaphore(_BORROWED)

    async def ask(self, job: Job, call: str, deadline: float) -> Told:
        """See `Asker`."""
        try:
            async with asyncio.timeout_at(deadline + _ANSWER_S):
                watch = self._runner.watches.get(job.id)
                if watch is not None and (watch.call is None or watch.call.is_over):
                    own = watch.call = Call()
                    with contextlib.suppress(_HangsError):
                        return await _told(job, call, deadline, partial(own.make, watch.worker))
                async with self._borrowed:
                    return await _told(job, call, deadline, self._ask_by_another)
        except TimeoutError:
            reason = "no worker reported the answer in time"
        except (AdmissionError, _LostError, _HangsError) as exc:
            reason = str(exc)
        return Told(job_id=job.id, call=call, kind="unavailable", error=reason)

    async def _ask_by_another(self, ask: Ask) -> Told:
        ticket = self._pool.request()
        try:
            worker = await ticket
        except asyncio.CancelledError:
            self._pool.withdraw(ticket)
            raise
        told = None
        errand = _Errand(ask.job_id)
        try:
            worker.handler = errand
            if worker.gone:
                errand.on_death("it exited before it got the call")
            told = await errand.call.make(worker, ask)
        finally:
            self._pool.release(worker, reusable=told is not None)
        return told


class _LostError(Exception):
    """The worker that was to make a call is gone, or is done with the job."""


class _HangsError(Exception):
    """The worker that was to make a call does not read its messages."""


class Call:
    """A call that a worker makes."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        #: Whether the worker is free for another one; one that hangs never is.
        self.is_over = False

    async def make(self, worker: Worker, ask: Ask) -> Told:
        """Have `worker` make it; return the answer. Raises _LostError, _HangsError."""
        worker.send(ask)
        look = asyncio.get_running_loop().call_later(_READ_S, self._look, worker)
        try:
            return await self._answer
        finally:
            look.cancel()

    def _look(self, worker: Worker) -> None:
        if worker.has_unread and not self._answer.done():
            self._answer.set_exception(_HangsError("the worker that was to make the call hangs"))

    def end(self, told: Told) -> None:
        """Take the answer."""
        self.is_over = True
        if not self._answer.done():
            self._answer.set_result(told)

    def leave(self, reason: str) -> None:
        """End without an answer."""
        if not self._answer.done():
            self._answer.set_exception(_LostError(reason))


class _Errand:
    """The task of a borrowed worker: one call."""

    state_name = "asking"

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.call = Call()

    def on_message(self, message: FromWorker) -> None:
        if isinstance(message, Told):
            self.call.end(message)

    def on_death(self, reason: str) -> None:
        self.call.leave(f"the worker did not make the call: {reason}")


async def _told(job: Job, call: str, deadline: float, make: Callable[[Ask], Awaitable[Told]]) -> Told:
    """Make a call now; return its answer. Raises TimeoutError if the worker says nothing at all."""
    until = min(deadline, time.monotonic() + _CALL_S)
    ask = Ask(job_id=job.id, profile=job.profile, call=call, values=json.dumps(_values(job)), deadline=until)
    async with asyncio.timeout_at(until + _ANSWER_S):
        return await make(ask)


def _values(job: Job) -> dict[str, str]:
    """Return the values of the profile's placeholders for this job, without the secrets."""
    values = {"job_id": job.id, "job_uuid": str(UUID(job.id)), **job.recorder.record.outputs}
    return values | {"callback_token": job.token} if job.token else values
