"""A worker's life: take a job, submit it, wait on the inbox for the callback, report; leave after the last job.

A worker leaves by `os._exit`: a name look-up that hangs would hold the interpreter's ordinary exit up, and there is
nothing to tidy that the kernel does not tidy. It leaves as soon as its inbox says that the front end is gone; where the
next front end will know the job, it first finishes the submission it is at.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from typing import TYPE_CHECKING, NoReturn

from shared.errors import Code, JobServerError
from shared.lifecycle import Event
from shared.messages import Answered, Assign, Failure, FromWorker, Log, Progress, encode
from worker.inbox import Inbox, Post

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from worker.job_client import JobClient

__all__ = ["Worker", "run"]


def run(loop: asyncio.AbstractEventLoop, worker: Worker, inbox: Inbox) -> NoReturn:
    """Let `worker` serve jobs until it has done its number of them or the inbox ends; never return."""
    try:
        loop.run_until_complete(worker.serve(inbox))
    except (EOFError, BrokenPipeError):
        os._exit(0)  # the front end is gone; there is nobody to tell
    except BaseException as exc:  # noqa: BLE001 - the last resort of a process: say what it was, then die of it
        worker.report_crash(exc)
        os._exit(1)
    os._exit(0)


class Worker:
    """Serves one job after the other."""

    def __init__(self, client: JobClient, outbox: Connection, max_jobs: int, linger_s: float = 0.0) -> None:
        """Serve `max_jobs` jobs (0: no limit).

        A submission under way when the inbox ends gets `linger_s` more seconds.
        """
        self._client = client
        self._outbox = outbox
        self._max_jobs = max_jobs
        self._linger_s = linger_s
        self._job_id = ""

    async def serve(self, inbox: Inbox) -> None:
        """Serve jobs. Raises EOFError when the front end is gone."""
        if self._max_jobs != 1:
            gc.enable()  # a process for one job ends before its garbage matters; a reused one must collect it
        post = Post(inbox)
        done = 0
        while True:
            job, callback = await post.assignment()
            self._job_id = job.job_id
            self._report(await self._serve_one(job, callback))
            done += 1
            if done == self._max_jobs:
                os._exit(0)  # closing the client and the loop would cost time and bring nothing

    async def _serve_one(self, job: Assign, callback: asyncio.Future[None]) -> Answered | Failure:
        submission = asyncio.ensure_future(self._client.submit(job, self._on_event))
        await asyncio.wait((submission, callback), return_when=asyncio.FIRST_COMPLETED)
        if not callback.done():
            failure = await self._read_submission(job, submission, callback)
            if failure is not None:
                return failure
        else:
            if callback.exception() is not None:  # the front end is gone
                await asyncio.wait((submission,), timeout=self._linger_s)
            await _cancel(submission)  # the callback is the answer; the reply can add nothing to it
        await callback
        return Answered(job_id=job.job_id)

    async def _read_submission(
        self, job: Assign, submission: asyncio.Future[None], callback: asyncio.Future[None]
    ) -> Failure | None:
        """Return the failure of a finished submission, or None if the callback is there or will come."""
        try:
            submission.result()
        except TimeoutError:
            return Failure(
                job_id=job.job_id, code=Code.DEADLINE_EXCEEDED, detail="the job server did not reply in time"
            )
        except JobServerError as exc:
            if exc.lost_reply:
                await asyncio.wait((callback,), timeout=self._client.lost_reply_wait_s)
            if callback.done():
                return None
            return Failure(job_id=job.job_id, code=exc.code, detail=exc.detail)
        self._on_event(Event.REPLY_READ)
        return None

    def _on_event(self, event: Event) -> None:
        try:
            self._report(Progress(job_id=self._job_id, event=event))
        except BrokenPipeError:
            if not self._linger_s:
                raise
            # The front end is gone, which the inbox says as well; this is no reason to cut a submission off.

    def _report(self, message: FromWorker) -> None:
        self._outbox.send_bytes(encode(message))

    def report_crash(self, exc: BaseException) -> None:
        """Tell the front end's log what ended this worker: the kind of error only, as its text may hold a secret."""
        with contextlib.suppress(OSError):
            self._report(Log(level="error", event=f"worker ended by {type(exc).__name__}", job_id=self._job_id))


async def _cancel(future: asyncio.Future[None]) -> None:
    future.cancel()
    with contextlib.suppress(asyncio.CancelledError, JobServerError, TimeoutError):
        await future
