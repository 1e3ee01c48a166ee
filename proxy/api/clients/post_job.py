"""The client's routes: post a job, get its result in the answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from proxy.api.clients.idempotency_key import key_of
from proxy.api.clients.preferences import preference
from proxy.http.asgi import header
from proxy.http.bodies import Bodies
from proxy.jobs.entrance import JobRequest
from shared.errors import Code, RequestError
from shared.job_server.documents import TooLargeError, inflate

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.api.clients.answers import Answers
    from proxy.api.clients.authorization import Authorization
    from proxy.jobs.entrance import Entrance
    from proxy.jobs.job_server import ServedJobServer, ServedJobServers

__all__ = ["QueueJob"]

#: W3C Trace Context, level 1; what does not look like this is dropped, as the recommendation says.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE_BYTES: Final = 512


class QueueJob:
    """`POST /queueJob` and `POST /start`; also `/queueJob/<profile>` and `/queueJob/<profile>/<path>`."""

    def __init__(
        self,
        entrance: Entrance,
        authorization: Authorization,
        answers: Answers,
        job_servers: ServedJobServers,
        *,
        max_body_bytes: int,
    ) -> None:
        self._entrance = entrance
        self._authorization = authorization
        self._answers = answers
        self._job_servers = job_servers
        self._max_body_bytes = max_body_bytes
        self._bodies = Bodies(max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a job, wait for its outcome as long as the client prefers, answer with it."""
        holder = self._authorization.check(scope)
        content_type = header(scope, b"content-type")
        server, path = self._addressed(scope)
        server.client_jobs.check_media_type(content_type)
        key = key_of(scope, holder)
        if key is None:  # one with a key may ask for a job that is here already
            self._entrance.check_admission()  # before the body is read: an overload is answered at once
        body = await self._bodies.read(scope, receive)
        job = server.client_jobs.read(self._decoded(scope, body), content_type)
        del body
        wish = preference(scope, asynchronous=job.respond_async)
        traceparent, tracestate = _trace_context(scope)
        request = JobRequest(
            profile=server.name,
            body=job.body,
            content_type=job.content_type,
            path=path,
            labels=job.labels,
            key=key,
            traceparent=traceparent,
            tracestate=tracestate,
        )
        found, replayed = await self._entrance.submit_or_join(request)
        del job, request  # a job keeps its body, and who joins one needs none while it waits
        await self._answers.of_job(scope, send, found, limit_s=wish.limit_s, applied=wish.applied, replayed=replayed)

    def _decoded(self, scope: Scope, body: bytes) -> bytes:
        """Return the body without its content coding, which may be gzip. Raises RequestError."""
        coding = header(scope, b"content-encoding").strip().lower()
        if coding in {"", "identity"}:
            return body
        if coding not in {"gzip", "x-gzip"}:
            raise RequestError(Code.UNSUPPORTED_MEDIA_TYPE, "the job's `Content-Encoding` is neither gzip nor identity")
        try:
            return inflate(body, {"content-encoding": coding}, self._max_body_bytes)
        except TooLargeError as exc:
            raise RequestError(Code.PAYLOAD_TOO_LARGE, f"the body is too large: {exc}") from exc

    def _addressed(self, scope: Scope) -> tuple[ServedJobServer, str]:
        """Return the job server that a request's path names, and what the path has beyond that. Raises RequestError."""
        params = scope["path_params"]
        name, path = params.get("profile"), params.get("path", "")
        server = self._job_servers.first if name is None else self._job_servers.by_name(name)
        if server is None:
            raise RequestError(Code.NOT_FOUND, f"no job server is served under this name; PROFILE names {self._names}")
        if server.needs_path is not bool(path):
            wanted = "a path after the profile's name" if server.needs_path else "nothing after the profile's name"
            raise RequestError(Code.NOT_FOUND, f"the profile {server.name} takes {wanted}")
        return server, path

    @property
    def _names(self) -> str:
        return ", ".join(one.name for one in self._job_servers)


def _trace_context(scope: Scope) -> tuple[str, str]:
    traceparent = header(scope, b"traceparent")
    if not _TRACEPARENT.fullmatch(traceparent):
        return "", ""
    tracestate = header(scope, b"tracestate")
    fits = len(tracestate) <= _TRACESTATE_BYTES and tracestate.isascii() and tracestate.isprintable()
    return traceparent, tracestate if fits else ""
