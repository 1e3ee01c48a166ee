"""The submission of jobs: composed by the job server's profile, its retries, its reply.

A submission is sent again only where it is certain that nothing was started, and the whole of it has to be done by the
job's deadline.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, assert_never

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from shared.errors import BadReplyError, JobServerError, RejectedError, UnavailableError
from shared.job_server.placeholders import UnfilledError
from shared.job_server.replies import Replies, Reply, ReplyKind
from shared.job_server.submissions import Submissions
from shared.lifecycle import Event
from worker.exchange import Exchange

if TYPE_CHECKING:
    from shared.job_server.calls import Request
    from shared.messages import Assign
    from shared.worker_config import JobServer, WorkerConfig

__all__ = ["JobClient"]

OnEvent = Callable[[Event], None]

#: Seconds: the first pause is up to _PAUSE_S, each further one up to twice as long, none over _MAX_PAUSE_S.
_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 5.0


class JobClient:
    """Submits jobs to one job server, one at a time."""

    def __init__(self, config: WorkerConfig, job_server: JobServer) -> None:
        """Make the client; must run inside an event loop."""
        profile = job_server.profile
        self.job_server = job_server
        #: A worker for one job has no use for a connection after that.
        keep_alive = profile.server.keep_alive and config.max_jobs != 1
        self.exchange = Exchange(
            keep_alive=keep_alive, max_body_bytes=config.max_body_bytes, cafile=config.job_server_cafile
        )
        self._config = config
        self._submissions = Submissions(profile, job_server.url)
        self._replies = Replies(profile.submit)
        #: A profile that says by what its job server is busy means a job server that often is.
        self._waits_while_busy = profile.submit.busy is not None

    async def close(self) -> None:
        """Close what is left open."""
        await self.exchange.close()

    async def submit(self, job: Assign, on_event: OnEvent) -> Reply:
        """Submit `job`; return the job server's reply, which says that the job runs or ran.

        `on_event` hears CONNECTED before the first byte leaves and REFUSED when an attempt certainly started nothing.

        Raises:
            JobServerError: the submission failed, after any retries.
            TimeoutError: the deadline came first.
        """
        request = self._request(job)
        async with asyncio.timeout(job.deadline - time.monotonic()):
            try:
                return await self._attempt(job, request, on_event)
            except JobServerError as exc:
                if not _retryable(exc) or not self._may_retry(exc, 1):
                    raise
                return await self._retry(exc, job, request, on_event)

    async def _retry(self, first: JobServerError, job: Assign, request: Request, on_event: OnEvent) -> Reply:
        """Go on after a first attempt that ended in `first`: pause, try again, and so on."""
        random.seed()  # every worker was forked with the same numbers to come, and they are to pause differently
        failed: list[JobServerError] = [first]
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_retryable),
            wait=_pause,
            stop=lambda state: self._exhausted(state, job.deadline),
            reraise=True,
        ):
            with attempt:
                if failed:
                    raise failed.pop()  # the first attempt is over; it only sets the first pause
                return await self._attempt(job, request, on_event)
        raise AssertionError  # the last attempt has returned or raised

    async def _attempt(self, job: Assign, request: Request, on_event: OnEvent) -> Reply:
        try:
            return await self._send(job, request, on_event)
        except JobServerError as exc:
            if exc.refused:
                on_event(Event.REFUSED)
            raise

    def _request(self, job: Assign) -> Request:
        values = self.job_server.secrets | {
            "callback_url": job.callback_url,
            "callback_token": job.callback_url.rpartition("/")[2],
            "job_id": job.job_id,
            "job_uuid": _uuid(job.job_id),
        }
        if job.path:
            values["path"] = job.path
        try:
            return self._submissions.compose(job.body, values, job.content_type)
        except UnfilledError as exc:
            raise UnavailableError(f"the submission cannot be composed: {exc}", refused=True) from exc

    async def _send(self, job: Assign, request: Request, on_event: OnEvent) -> Reply:
        trace = {"traceparent": job.traceparent, "tracestate": job.tracestate}
        answer = await self.exchange.make(
            request,
            headers={name: value for name, value in trace.items() if value},
            on_connected=lambda: on_event(Event.CONNECTED),
            check_status=self._check_status,
        )
        reply = self._replies.read(answer.status, answer.headers, answer.body)
        _check(reply)
        return reply

    def _check_status(self, status: int, headers: Mapping[str, str]) -> None:
        pause_s = _retry_after_s(headers.get("Retry-After"))
        reply = self._replies.read_status(status, retry_after=pause_s is not None)
        if reply is not None:
            _check(reply, pause_s)

    def _may_retry(self, error: BaseException | None, attempts: int) -> bool:
        is_busy = isinstance(error, RejectedError) and self._waits_while_busy
        return is_busy or attempts <= self._config.submit_retries

    def _exhausted(self, state: RetryCallState, deadline: float) -> bool:
        """Stop after the configured retries, and where the pause would outlast the deadline."""
        error = state.outcome.exception() if state.outcome else None
        past_deadline = time.monotonic() + state.upcoming_sleep >= deadline
        return past_deadline or not self._may_retry(error, state.attempt_number)


def _uuid(job_id: str) -> str:
    """Return an id of 32 hexadecimal digits as a UUID is written."""
    return f"{job_id[:8]}-{job_id[8:12]}-{job_id[12:16]}-{job_id[16:20]}-{job_id[20:]}"


def _check(reply: Reply, pause_s: float | None = None) -> None:
    """Raise the error that a reply stands for, unless it says that the job runs."""
    match reply.kind:
        case ReplyKind.RUNNING | ReplyKind.FINAL:
            return
        case ReplyKind.BAD:
            raise BadReplyError(reply.detail)
        case ReplyKind.BUSY:
            raise RejectedError(reply.detail, refused=True, retryable=True, retry_after_s=pause_s)
        case ReplyKind.REFUSED:
            raise RejectedError(reply.detail, refused=True)
        case ReplyKind.ERROR:
            raise RejectedError(reply.detail)
        case _:
            assert_never(reply.kind)


def _retry_after_s(value: str | None) -> float | None:
    """Return the pause that a Retry-After header asks for (RFC 9110, 10.2.3), in seconds."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), 86_400.0)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.astimezone(UTC) - datetime.now(UTC)).total_seconds())


_jitter: Final = wait_random_exponential(multiplier=_PAUSE_S, max=_MAX_PAUSE_S)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, JobServerError) else None
    return max(_jitter(state), asked_s or 0.0)


def _retryable(error: BaseException) -> bool:
    return isinstance(error, JobServerError) and error.refused and error.retryable
