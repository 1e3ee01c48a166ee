"""The client's routes: post a job, get its result in the answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from proxy.api.clients.idempotency_key import fingerprint, key_of
from proxy.api.clients.preferences import preference
from proxy.http.asgi import header, read_body

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.api.clients.answers import Answers
    from proxy.api.clients.authorization import Authorization
    from proxy.jobs.dispatcher import Dispatcher
    from proxy.jobs.job import Job
    from proxy.jobs.keys import Keys
    from proxy.store.record import Record
    from shared.job_server.client_jobs import ClientJobs

__all__ = ["QueueJob"]

#: W3C Trace Context, level 1; what does not look like this is dropped, as the recommendation says.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE_BYTES: Final = 512


class QueueJob:
    """`POST /queueJob` and `POST /start`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        authorization: Authorization,
        keys: Keys,
        answers: Answers,
        client_jobs: ClientJobs,
        *,
        max_body_bytes: int,
    ) -> None:
        self._dispatcher = dispatcher
        self._authorization = authorization
        self._keys = keys
        self._answers = answers
        self._client_jobs = client_jobs
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a job, wait for its outcome as long as the client prefers, answer with it."""
        holder = self._authorization.check(scope)
        content_type = header(scope, b"content-type")
        self._client_jobs.check_media_type(content_type)
        key = key_of(scope, holder)
        if key is None:  # one with a key may ask for a job that is here already
            self._dispatcher.check_admission()  # before the body is read: an overload is answered at once
        job = self._client_jobs.read(await read_body(scope, receive, self._max_body_bytes), content_type)
        wish = preference(scope, asynchronous=job.respond_async)
        known, replayed = await self._job(scope, job.body, key)
        await self._answers.of_job(scope, send, known, limit_s=wish.limit_s, applied=wish.applied, replayed=replayed)

    async def _job(self, scope: Scope, body: bytes, key: bytes | None) -> tuple[Job | Record, bool]:
        """Return the request's job, and whether it was there before."""
        traceparent, tracestate = _trace_context(scope)
        if key is None:
            return self._dispatcher.submit(body, traceparent=traceparent, tracestate=tracestate), False
        printed = fingerprint(body)

        def begin() -> Job:
            return self._dispatcher.submit(
                body, traceparent=traceparent, tracestate=tracestate, key=key, fingerprint=printed
            )

        return await self._keys.job(key, printed, begin)


def _trace_context(scope: Scope) -> tuple[str, str]:
    traceparent = header(scope, b"traceparent")
    if not _TRACEPARENT.fullmatch(traceparent):
        return "", ""
    tracestate = header(scope, b"tracestate")
    fits = len(tracestate) <= _TRACESTATE_BYTES and tracestate.isascii() and tracestate.isprintable()
    return traceparent, tracestate if fits else ""
