"""The call to the job server: one submission, its retries, its reply; foreign errors end here.

The job server serves one connection at a time per account, so no connection outlives the reply. It may be hostile or
broken: redirects are not followed, compressed replies not asked for and not inflated, the reply is capped, and the
whole of it has to be done by the job's deadline.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, assert_never

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential
from yarl import URL

from shared.errors import BadReplyError, JobServerError, RejectedError, UnavailableError
from shared.job_server.calls import Request
from shared.job_server.placeholders import UnfilledError
from shared.job_server.replies import Replies, Reply, ReplyKind
from shared.job_server.submissions import Submissions
from shared.job_server.tls import tls_trouble, trusting
from shared.lifecycle import Event

if TYPE_CHECKING:
    from aiohttp.connector import Connection

    from shared.messages import Assign
    from shared.worker_config import WorkerConfig

__all__ = ["JobClient", "translate"]

OnEvent = Callable[[Event], None]

#: Seconds: the first pause is up to _PAUSE_S, each further one up to twice as long, none over _MAX_PAUSE_S.
_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 5.0


class _Connector(aiohttp.TCPConnector):
    """Says when a connection stands, before anything is written to it."""

    on_connected: Callable[[], None] = staticmethod(lambda: None)

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        self.on_connected()
        return connection


class JobClient:
    """Submits jobs to one job server, one at a time."""

    def __init__(self, config: WorkerConfig) -> None:
        """Make the client; must run inside an event loop."""
        self._config = config
        self._secrets = config.secrets
        self._submissions = Submissions(config.profile, config.job_server_url)
        self._replies = Replies(config.profile.submit)
        cafile = config.job_server_cafile
        trust = trusting(cafile) if cafile else True  # aiohttp's own context has the system's authorities
        self._connector = _Connector(force_close=True, limit=0, use_dns_cache=False, ssl=trust)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept"),
            headers={
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Connection": "close",
                "User-Agent": "async-job-proxy",
            },
        )

    @property
    def lost_reply_wait_s(self) -> float:
        """How long the callback is waited for after the connection broke before the reply."""
        return self._config.lost_reply_wait_s

    async def close(self) -> None:
        """Close what is left open."""
        await self._session.close()

    async def submit(self, job: Assign, on_event: OnEvent) -> None:
        """Submit `job`; return when the job server's reply says that it runs.

        `on_event` hears CONNECTED before the first byte leaves and REFUSED when an attempt certainly started nothing.

        Raises:
            JobServerError: the submission failed, after any retries.
            TimeoutError: the deadline came first.
        """
        request = self._request(job)
        self._connector.on_connected = lambda: on_event(Event.CONNECTED)
        async with asyncio.timeout(job.deadline - time.monotonic()):
            try:
                await self._attempt(job, request, on_event)
            except JobServerError as exc:
                if not _retryable(exc) or not self._config.submit_retries:
                    raise
                await self._retry(exc, job, request, on_event)

    async def _retry(self, first: JobServerError, job: Assign, request: Request, on_event: OnEvent) -> None:
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
                await self._attempt(job, request, on_event)

    async def _attempt(self, job: Assign, request: Request, on_event: OnEvent) -> None:
        try:
            await self._send(job, request)
        except JobServerError as exc:
            if exc.refused:
                on_event(Event.REFUSED)
            raise

    def _request(self, job: Assign) -> Request:
        token = job.callback_url.rpartition("/")[2]
        values = self._secrets | {"callback_url": job.callback_url, "callback_token": token, "job_id": job.job_id}
        try:
            return self._submissions.compose(job.body, values)
        except UnfilledError as exc:
            raise UnavailableError(f"the submission cannot be composed: {exc}", refused=True) from exc

    async def _send(self, job: Assign, request: Request) -> None:
        headers = {"traceparent": job.traceparent, "tracestate": job.tracestate, **request.headers}
        try:
            async with self._session.request(
                request.method,
                URL(request.url),
                data=request.body,
                headers={name: value for name, value in headers.items() if value},
                allow_redirects=False,
            ) as response:
                self._check_status(response)
                reply = self._replies.read(response.status, response.headers, await self._read(response))
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            if isinstance(exc, TimeoutError) and not isinstance(exc, aiohttp.ClientError):
                raise
            raise translate(exc) from exc
        _check(reply)

    def _check_status(self, response: aiohttp.ClientResponse) -> None:
        pause_s = _retry_after_s(response.headers.get("Retry-After"))
        reply = self._replies.read_status(response.status, retry_after=pause_s is not None)
        if reply is not None:
            _check(reply, pause_s)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        cap_bytes = self._config.max_body_bytes
        reply = bytearray()
        async for chunk in response.content.iter_any():
            reply += chunk
            if len(reply) > cap_bytes:
                raise BadReplyError(f"the job server's reply is larger than {cap_bytes} bytes")
        return bytes(reply)

    def _exhausted(self, state: RetryCallState, deadline: float) -> bool:
        """Stop after the configured retries, and where the pause would outlast the deadline."""
        past_deadline = time.monotonic() + state.upcoming_sleep >= deadline
        return state.attempt_number > self._config.submit_retries or past_deadline


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


#: Foreign error -> ours; the first line that fits counts. A test holds that every error of aiohttp's is covered.
_TRANSLATION: Final[tuple[tuple[type[BaseException], Callable[[BaseException], JobServerError]], ...]] = (
    (
        aiohttp.ClientConnectorDNSError,
        lambda _: UnavailableError("the job server's name could not be resolved", refused=True, retryable=True),
    ),
    (
        aiohttp.ClientSSLError,
        lambda exc: UnavailableError(f"no TLS connection to the job server: {tls_trouble(exc)}", refused=True),
    ),
    (
        aiohttp.ClientConnectorError,
        lambda exc: UnavailableError(f"no connection to the job server: {_errno(exc)}", refused=True, retryable=True),
    ),
    (
        aiohttp.InvalidURL,
        lambda _: UnavailableError("the job server's address is not a URL", refused=True),
    ),
    (
        aiohttp.ServerTimeoutError,
        lambda _: UnavailableError("the job server did not answer in time", lost_reply=True),
    ),
    (
        aiohttp.ServerConnectionError,
        lambda _: UnavailableError("the job server closed the connection before its reply", lost_reply=True),
    ),
    (
        aiohttp.ClientOSError,
        lambda exc: UnavailableError(f"the connection to the job server broke: {_errno(exc)}", lost_reply=True),
    ),
    (
        aiohttp.ClientPayloadError,
        lambda _: BadReplyError("the job server's reply was cut off or is malformed"),
    ),
    (
        aiohttp.ClientResponseError,
        lambda _: BadReplyError("the job server's reply is not valid HTTP"),
    ),
    (
        aiohttp.ClientConnectionError,
        lambda _: UnavailableError("the connection to the job server broke", lost_reply=True),
    ),
    (
        aiohttp.ClientError,
        lambda _: BadReplyError("the communication with the job server failed"),
    ),
    (
        OSError,
        lambda exc: UnavailableError(f"the connection to the job server broke: {_errno(exc)}", lost_reply=True),
    ),
    (
        ValueError,
        lambda _: BadReplyError("the job server's reply could not be read"),
    ),
)


def translate(exc: BaseException) -> JobServerError:
    """Return our error for a foreign one."""
    for foreign, ours in _TRANSLATION:
        if isinstance(exc, foreign):
            return ours(exc)
    raise TypeError(type(exc).__name__) from exc


def _errno(exc: BaseException) -> str:
    """Return an OSError's reason without addresses or names."""
    number = getattr(exc, "errno", None)
    return os.strerror(number).lower() if isinstance(number, int) and number > 0 else "unknown reason"
