"""The clients of the job servers, one for each profile: the submission of the profile, its retries, its reply.

A submission is retried only if it is certain that nothing was started, and everything has to be finished by the job's
deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, assert_never

from shared.errors import BadReplyError, JobServerError, RejectedError, UnavailableError
from shared.job_server.calls import Call, Request, bytes_without_secrets, without_secrets
from shared.job_server.placeholders import UnfilledError
from shared.job_server.submissions import Replies, Reply, ReplyKind, Submissions, with_pause
from shared.lifecycle import Event
from worker.exchange import Exchange, Refusal

if TYPE_CHECKING:
    from shared.messages import Assign
    from shared.worker_config import JobServer, WorkerConfig
    from worker.asking import Asker

__all__ = ["JobClient", "JobServers", "current_secrets", "retry_after_s"]

OnEvent = Callable[[Event], None]
BeforeRetry = Callable[[], Awaitable[object]]

#: Seconds: the first pause is up to _PAUSE_S, each further one up to twice as long, none over _MAX_PAUSE_S.
_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 5.0
_DOUBLINGS: Final = 10
_DAY_S: Final = 86_400.0
#: Not the default generator: after the fork, it gives every worker the same numbers.
_random: Final = random.SystemRandom()


class JobClient:
    """Submits jobs to one job server, one at a time."""

    def __init__(self, config: WorkerConfig, job_server: JobServer) -> None:
        profile = job_server.profile
        self.job_server = job_server
        #: A worker for one job does not need the connection after it.
        keep_alive = profile.server.keep_alive and config.max_jobs != 1
        self.exchange = Exchange(
            keep_alive=keep_alive, max_body_bytes=config.max_body_bytes, cafile=config.job_server_cafile
        )
        self._config = config
        self._submissions = Submissions(profile, job_server.url)
        self._replies = Replies(profile.submit)
        self.exchange.prepare(profile.submit.method, self._submissions.url or job_server.url)
        #: A profile that defines the busy statuses means a job server that is often busy.
        self._waits_while_busy = profile.submit.busy is not None

    async def submit(self, job: Assign, on_event: OnEvent, before_retry: BeforeRetry) -> Reply:
        """Submit `job`; return the job server's reply, which says that the job runs or ran.

        `on_event` gets CONNECTED before the first byte is sent, and REFUSED when an attempt certainly started nothing.
        Only then is there a retry, after `before_retry`, which does not return if the job server has the job after all.
        The caller enforces the job's deadline.

        Raises:
            JobServerError: the submission failed, after any retries.
        """
        for retries in itertools.count():
            secrets = current_secrets(self.job_server)
            request = self._request(job, secrets)
            try:
                return await self._attempt(job, request, on_event, secrets.values())
            except JobServerError as exc:
                if exc.refused:
                    on_event(Event.REFUSED)
                pause_s = _pause_s(exc, retries)
                if not self._may_retry(exc, retries) or time.monotonic() + pause_s >= job.deadline:
                    raise
            await asyncio.sleep(pause_s)
            await before_retry()
        raise AssertionError  # the last attempt has returned or raised

    def _request(self, job: Assign, secrets: dict[str, str]) -> Request:
        values = secrets | {
            "callback_url": job.callback_url,
            "callback_token": job.callback_url.rpartition("/")[2],
            "job_id": job.job_id,
            "job_uuid": _uuid(job.job_id),
        }
        if job.path:
            values["path"] = job.path
        try:
            return self._submissions.compose(job.body, values, job.content_type, job.query)
        except UnfilledError as exc:
            raise UnavailableError(f"the submission cannot be composed: {exc}", refused=True) from exc

    async def _attempt(self, job: Assign, request: Request, on_event: OnEvent, sent: Iterable[str]) -> Reply:
        secrets = (job.callback_url.rpartition("/")[2], *sent)
        trace = {"traceparent": job.traceparent, "tracestate": job.tracestate}
        try:
            answer = await self.exchange.make(
                request,
                # An invalid trace context is not passed on (W3C Trace Context, 3.2.2).
                headers={name: value for name, value in trace.items() if value and value.isprintable()},
                on_connected=lambda: on_event(Event.CONNECTED),
                check_status=self._check_status,
            )
            reply = self._replies.read(answer.status, answer.headers, answer.body)
            error = _error_of(reply)
            if error is not None:
                raise error
        except JobServerError as exc:
            exc.detail = without_secrets(exc.detail, secrets)
            raise
        return _without_secrets(reply, secrets)

    def _check_status(self, status: int, headers: Mapping[str, str]) -> Refusal | None:
        pause_s = retry_after_s(headers)
        reply = self._replies.read_status(status, retry_after=pause_s is not None)
        error = None if reply is None else _error_of(reply, pause_s)
        return None if error is None else Refusal(error, self._replies.reason)

    def _may_retry(self, exc: JobServerError, retries: int) -> bool:
        if not exc.refused or not exc.retryable:
            return False
        is_busy = isinstance(exc, RejectedError) and self._waits_while_busy
        return is_busy or retries < self._config.submit_retries


class JobServers:
    """The job servers that a worker can use, by the names of their profiles; most workers have one.

    They are prepared before the fork, so that no worker bears the cost.
    """

    def __init__(self, config: WorkerConfig) -> None:
        #: What all of them have in common.
        self.config = config
        self._clients = {one.profile.name: JobClient(config, one) for one in config.job_servers}
        self._first = self._clients[config.job_servers[0].profile.name]
        self._askers: dict[str, Asker] = {}

    def client(self, profile: str) -> JobClient:
        """Return the client for this profile's job server; empty: for the first one."""
        return self._clients[profile] if profile else self._first

    def asker(self, profile: str) -> Asker:
        """Return the asker for this profile's job server."""
        from worker.asking import Asker  # noqa: PLC0415 - jobs that get their callback do not need it

        if profile not in self._askers:
            client = self.client(profile)
            self._askers[profile] = Asker(client.job_server, client.exchange)
        return self._askers[profile]

    def finds_lost_jobs(self, profile: str) -> bool:
        """Return whether a job whose reply was lost can be asked for with our own names alone."""
        server = self.client(profile).job_server
        status = server.profile.status
        return status is not None and not Call(server.url, server.profile.server, status).needs

    def close(self) -> None:
        """Close the connections that were kept open."""
        for client in self._clients.values():
            client.exchange.close()


def current_secrets(job_server: JobServer) -> dict[str, str]:
    """Return a job server's secrets: those from files as they are now, or as they were if a file cannot be used now."""
    if not job_server.secret_files:
        return job_server.secrets
    from shared.job_server.secret_values import secret_in  # noqa: PLC0415 - few workers need it

    current = dict(job_server.secrets)
    for name, file in job_server.secret_files.items():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            current[name] = secret_in(file) or job_server.secrets[name]
    return current


def _uuid(job_id: str) -> str:
    """Return an id of 32 hexadecimal digits in UUID notation."""
    return f"{job_id[:8]}-{job_id[8:12]}-{job_id[12:16]}-{job_id[16:20]}-{job_id[20:]}"


def _without_secrets(reply: Reply, secrets: Collection[str]) -> Reply:
    """Return a reply without the secrets that were sent, if it is a failure that repeats them."""
    verdict = reply.verdict
    if verdict is None or not verdict.failed:
        return reply
    result = None if verdict.result is None else bytes_without_secrets(verdict.result, secrets)
    verdict = replace(verdict, error=without_secrets(verdict.error, secrets), result=result)
    return replace(reply, verdict=verdict, body=bytes_without_secrets(reply.body, secrets))


def _error_of(reply: Reply, pause_s: float | None = None) -> JobServerError | None:
    """Return the error that a reply means; None: the job runs. `pause_s`: the pause of its Retry-After."""
    detail = reply.detail if pause_s is None else with_pause(reply.detail, pause_s)
    match reply.kind:
        case ReplyKind.RUNNING | ReplyKind.FINAL:
            return None
        case ReplyKind.BAD:
            return BadReplyError(reply.detail)
        case ReplyKind.BUSY:
            return RejectedError(detail, refused=True, retryable=True, retry_after_s=pause_s)
        case ReplyKind.REFUSED:
            return RejectedError(detail, refused=True)
        case ReplyKind.ERROR:
            return RejectedError(detail)
        case _:
            assert_never(reply.kind)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the pause of a Retry-After header (RFC 9110, 10.2.3) in seconds; None if there is none.

    A date is compared with that of the answer, because the two clocks may differ. At most a day: no job lasts longer.
    """
    value = headers.get("Retry-After")
    if value is None:  # as in nearly all answers
        return None
    if value.strip().isdecimal():
        return min(float(value), _DAY_S)
    when, now = _unix_s(value), _unix_s(headers.get("Date", ""))
    if when is None:
        return None
    return min(max(0.0, when - (time.time() if now is None else now)), _DAY_S)


def _unix_s(date: str) -> float | None:
    """Return an HTTP date in Unix seconds; None if it is none."""
    try:
        when = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:  # `-0000` means an unknown time zone
        when = when.replace(tzinfo=UTC)
    return when.timestamp()


def _pause_s(exc: JobServerError, retries: int) -> float:
    """Return how long to wait before the next attempt: twice as long each time, with jitter; longer if requested."""
    jitter_s = _random.uniform(0, min(_PAUSE_S * 2 ** min(retries, _DOUBLINGS), _MAX_PAUSE_S))
    return max(jitter_s, exc.retry_after_s or 0.0)
