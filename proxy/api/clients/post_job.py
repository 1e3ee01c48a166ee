"""The client's routes: post a job, get its result in the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.api.clients.request_headers import key_of, preference
from proxy.http.asgi import Bodies, header, headers_of
from proxy.jobs.entrance import Entrance, JobReader, Sent

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.api.clients.answers import Answers
    from proxy.api.clients.request_headers import Authorization

__all__ = ["QueueJob"]


class QueueJob:
    """`POST /queueJob` and `POST /start`; also `/queueJob/<profile>` and `/queueJob/<profile>/<path>`."""

    def __init__(
        self,
        entrance: Entrance,
        authorization: Authorization,
        answers: Answers,
        reader: JobReader,
        *,
        max_body_bytes: int,
    ) -> None:
        self._entrance = entrance
        self._authorization = authorization
        self._answers = answers
        self._reader = reader
        self._bodies = Bodies(max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept a job, wait for its outcome as long as the client prefers, and answer with it."""
        holder = self._authorization.check(scope)
        content_type = header(scope, b"content-type")
        params = scope["path_params"]
        path = params.get("path", "")
        server = self._reader.addressed(params.get("profile"), path)
        server.client_jobs.check_media_type(content_type)
        key = key_of(scope, holder)
        if key is None:  # a request with a key may be for an existing job
            self._entrance.check_admission()  # before the body is read: an overload is answered at once
        else:
            self._entrance.check_descriptors()
        request, respond_async = self._reader.read(
            Sent(
                server=server,
                path=path,
                query=scope["query_string"].decode("latin-1"),
                body=await self._bodies.read(scope, receive),
                content_type=content_type,
                content_encoding=",".join(headers_of(scope, b"content-encoding")),
                key=key,
                traceparent=header(scope, b"traceparent"),
                tracestate=header(scope, b"tracestate"),
            )
        )
        wish = preference(scope, asynchronous=respond_async)
        found, replayed = await self._entrance.submit_or_join(request)
        del request  # the job keeps its body, and a request that joins a job needs none while it waits
        await self._answers.of_job(scope, send, found, limit_s=wish.limit_s, applied=wish.applied, replayed=replayed)
