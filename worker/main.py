"""A worker's life: take a job, submit it, wait on the inbox for the callback, report; exit after the last job.

A worker exits with `os._exit`: a hanging name look-up would block the interpreter's normal exit, and the kernel cleans
up everything. It exits as soon as its inbox shows that the front end is gone; if the next front end will know the job,
it first finishes a submission in progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from typing import TYPE_CHECKING, Any, NoReturn

from shared.errors import Code, JobServerError
from shared.lifecycle import Event
from shared.messages import Answered, Ask, Assign, Failure, FromWorker, Log, MayRetry, Progress, Retry, Told, encode
from shared.stack import origin
from worker.pipes import Inbox, Post

if TYPE_CHECKING:
    from shared.job_server.submissions import Reply
    from worker.job_client import JobServers
    from worker.pipes import Outbox

__all__ = ["Worker", "run"]


def run(loop: asyncio.AbstractEventLoop, worker: Worker, inbox: Inbox) -> NoReturn:
    """Let `worker` serve jobs until it has done its number of jobs or the inbox ends; never return."""
    try:
        loop.run_until_complete(worker.serve(inbox))
    except (EOFError, BrokenPipeError):
        os._exit(0)  # the front end is gone; there is nobody to report to
    except BaseException as exc:  # noqa: BLE001 - last resort: report the exception, then exit
        worker.report_crash(exc)
        os._exit(1)
    os._exit(0)


class Worker:
    """Serves one job after the other."""

    def __init__(self, job_servers: JobServers, outbox: Outbox, max_jobs: int, linger_s: float = 0.0) -> None:
        """Serve `max_jobs` jobs (0: no limit).

        A submission in progress when the inbox ends gets `linger_s` more seconds.
        """
        self._job_servers = job_servers
        self._asking: set[asyncio.Task[None]] = set()
        self._outbox = outbox
        self._max_jobs = max_jobs
        self._linger_s = linger_s
        self._job_id = ""
        #: Done when the front end permits a retry of the submission.
        self._permit: asyncio.Future[None] | None = None

    async def serve(self, inbox: Inbox) -> None:
        """Serve jobs. Raises EOFError when the front end is gone."""
        if self._max_jobs != 1:
            gc.enable()  # a process for one job exits before its garbage matters; a reused one must collect it
        post = Post(inbox, self._ask, self._on_retry)
        done = 0
        while True:
            job, callback = await post.assignment()
            self._job_id = job.job_id
            try:
                answer = await self._serve_one(job, callback)
            except (EOFError, BrokenPipeError, MemoryError):  # the front end is gone; or nothing is reliable any more
                raise
            except Exception as exc:  # a bug of ours: the job is answered according to its state
                self._report(_unhandled(job, exc))
                raise
            self._report(answer)
            done += 1
            if done == self._max_jobs:
                os._exit(0)  # closing the client and the loop would only cost time

    async def _serve_one(self, job: Assign, callback: asyncio.Future[None]) -> Answered | Failure:
        failure: Failure | None = None
        try:
            reply = await self._submit(job, callback)
        except TimeoutError:
            # The front end says which step the job did not get past.
            failure = Failure(job_id=job.job_id, code=Code.DEADLINE_EXCEEDED, detail="")
        except JobServerError as exc:
            failure = await self._failure(job, exc, callback)
        except Exception as exc:
            if not callback.done():
                raise
            self._report_exception("unhandled exception in a worker", exc)  # a bug of ours; the job has its answer
        else:
            if not callback.done():  # the callback is the answer; the reply adds nothing
                failure = self._report_reply(job, reply)
        if failure is not None and not callback.done():
            return failure
        await callback
        return Answered(job_id=job.job_id)

    async def _submit(self, job: Assign, callback: asyncio.Future[None]) -> Reply:
        """Submit `job`, until its deadline at most, or until its callback comes.

        Raises:
            JobServerError: it failed.
            TimeoutError: the deadline or the callback came first.
        """
        async with asyncio.timeout(job.deadline - time.monotonic()) as limit:

            def on_callback(callback: asyncio.Future[None]) -> None:
                left_s = 0.0 if callback.exception() is None else self._linger_s  # otherwise the front end is gone
                with contextlib.suppress(RuntimeError):  # the submission is over
                    limit.reschedule(asyncio.get_running_loop().time() + left_s)

            callback.add_done_callback(on_callback)
            try:
                return await self._job_servers.client(job.profile).submit(job, self._on_event, self._before_retry)
            finally:
                callback.remove_done_callback(on_callback)

    async def _failure(self, job: Assign, exc: JobServerError, callback: asyncio.Future[None]) -> Failure | None:
        """Return what a failed submission means, or None if the callback is there or may still come."""
        if exc.lost_reply and self._job_servers.finds_lost_jobs(job.profile):
            return None  # the front end asks the job server
        if exc.lost_reply:
            await asyncio.wait((callback,), timeout=self._job_servers.config.lost_reply_wait_s)
        return Failure(job_id=job.job_id, code=exc.code, detail=exc.detail)

    def _report_reply(self, job: Assign, reply: Reply) -> Failure | None:
        """Report what a reply says; return the job's failure if it is over, but its result cannot be passed on."""
        self._tell(Progress(job_id=job.job_id, event=Event.REPLY_READ, outputs=dict(reply.outputs)))
        verdict = reply.verdict
        if verdict is None:
            return None
        body, limit = reply.body if verdict.result is None else verdict.result, self._job_servers.config.max_body_bytes
        if len(body) > limit:  # an expression may repeat parts, or add spaces
            detail = f"the result in the job server's reply is larger than {limit} bytes"
            return Failure(job_id=job.job_id, code=Code.BAD_JOB_SERVER_REPLY, detail=detail)
        # The job is over; the front end records that and acts as if a callback had come.
        self._tell(
            Told(
                job_id=job.job_id,
                call="submit",
                kind=verdict.kind,
                state=verdict.state,
                error=verdict.error,
                content_type=reply.content_type if verdict.result is None else "",
                body=body,
            )
        )
        return None

    def _ask(self, ask: Ask) -> None:
        """Make a call in parallel to the worker's job, and report the result."""

        async def make() -> None:
            try:
                told = await self._job_servers.asker(ask.profile).tell(ask)
            except Exception as exc:  # noqa: BLE001 - a bug of ours: the caller waits for an answer
                self._report_exception("unhandled exception in a worker", exc)
                told = Told(job_id=ask.job_id, call=ask.call, kind="unavailable", error=_words(exc))
            self._tell(told)

        task = asyncio.ensure_future(make())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _before_retry(self) -> None:
        """Wait until the front end permits a retry; it does not if it has heard of the job meanwhile."""
        self._permit = asyncio.get_running_loop().create_future()
        self._tell(MayRetry(job_id=self._job_id))
        await self._permit

    def _on_retry(self, retry: Retry) -> None:
        if retry.job_id == self._job_id and self._permit is not None and not self._permit.done():
            self._permit.set_result(None)

    def _on_event(self, event: Event) -> None:
        self._tell(Progress(job_id=self._job_id, event=event))

    def _tell(self, message: FromWorker) -> None:
        try:
            self._report(message)
        except BrokenPipeError:
            if not self._linger_s:
                raise
            # The front end is gone; the inbox says so, too, and that is no reason to abort a submission.

    def _report(self, message: FromWorker) -> None:
        self._outbox.send_bytes(encode(message))

    def report_crash(self, exc: BaseException) -> None:
        """Report the crash of this worker to the front end's log: the exception's type and place, never its message."""
        self._report_exception(f"worker ended by {type(exc).__qualname__}", exc)

    def on_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report an unhandled error that asyncio caught to the front end's log."""
        self._report_exception("unhandled exception in a worker", context.get("exception"))

    def _report_exception(self, event: str, exc: BaseException | None) -> None:
        at = origin(exc) if exc is not None else ""
        with contextlib.suppress(OSError):
            self._report(Log(level="error", event=event, job_id=self._job_id, at=at))


def _unhandled(job: Assign, exc: Exception) -> Failure:
    return Failure(job_id=job.job_id, code=Code.INTERNAL_ERROR, detail=_words(exc))


def _words(exc: Exception) -> str:
    return f"unhandled exception in a worker: {type(exc).__qualname__}"
