"""Turns what a client sent, by any entrance, into a request for a job: one set of rules for all entrances."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from proxy.jobs.entrance import JobRequest
from shared.errors import Code, RequestError
from shared.job_server.documents import TooLargeError, codings_of, inflate

if TYPE_CHECKING:
    from proxy.jobs.job_server import ServedJobServer, ServedJobServers

__all__ = ["JobReader", "Sent"]

#: W3C Trace Context, level 1; what does not look like this is dropped, as the recommendation says.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE_BYTES: Final = 512


class Sent(Struct, frozen=True, kw_only=True):
    """What a client sent: texts as they came, empty where there is none."""

    server: ServedJobServer
    path: str
    body: bytes
    content_type: str
    content_encoding: str = ""
    #: The hash of the idempotency key; None: there is none.
    key: bytes | None
    traceparent: str = ""
    tracestate: str = ""


class JobReader:
    """Reads what clients send."""

    def __init__(self, job_servers: ServedJobServers, *, max_body_bytes: int) -> None:
        self._job_servers = job_servers
        self._max_body_bytes = max_body_bytes

    def addressed(self, profile: str | None, path: str) -> ServedJobServer:
        """Return the job server of the profile with this name, or the first one; `path` is what it is to get besides.

        Raises:
            RequestError: there is none of this name, or it takes no path, or needs one.
        """
        server = self._job_servers.first if profile is None else self._job_servers.by_name(profile)
        if server is None:
            names = ", ".join(one.name for one in self._job_servers)
            raise RequestError(Code.NOT_FOUND, f"no job server is served under this name; PROFILE names {names}")
        if server.needs_path is not bool(path):
            wanted = "a path after the profile's name" if server.needs_path else "nothing after the profile's name"
            raise RequestError(Code.NOT_FOUND, f"the profile {server.name} takes {wanted}")
        return server

    def read(self, sent: Sent) -> tuple[JobRequest, bool]:
        """Return the request, and whether the job itself asks not to be waited for.

        Raises:
            RequestError: it cannot become a job of this job server.
        """
        if len(sent.body) > self._max_body_bytes:
            raise RequestError(Code.PAYLOAD_TOO_LARGE, f"the body is larger than {self._max_body_bytes} bytes")
        job = sent.server.client_jobs.read(self._decoded(sent), sent.content_type)
        traceparent, tracestate = _trace_context(sent.traceparent, sent.tracestate)
        request = JobRequest(
            profile=sent.server.name,
            body=job.body,
            content_type=job.content_type,
            path=sent.path,
            labels=job.labels,
            key=sent.key,
            traceparent=traceparent,
            tracestate=tracestate,
        )
        return request, job.respond_async

    def _decoded(self, sent: Sent) -> bytes:
        """Return the body without its content coding, which may be gzip. Raises RequestError."""
        codings = codings_of(sent.content_encoding)
        if not codings:
            return sent.body
        if codings not in (["gzip"], ["x-gzip"]):
            raise RequestError(Code.UNSUPPORTED_MEDIA_TYPE, "the job's `Content-Encoding` is neither gzip nor identity")
        try:
            return inflate(sent.body, {"content-encoding": codings[0]}, self._max_body_bytes)
        except TooLargeError as exc:
            raise RequestError(Code.PAYLOAD_TOO_LARGE, f"the body is too large: {exc}") from exc


def _trace_context(traceparent: str, tracestate: str) -> tuple[str, str]:
    if not _TRACEPARENT.fullmatch(traceparent):
        return "", ""
    fits = len(tracestate) <= _TRACESTATE_BYTES and tracestate.isascii() and tracestate.isprintable()
    return traceparent, tracestate if fits else ""
