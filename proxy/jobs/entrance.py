"""What every entrance, HTTP or another, calls to run a job: one set of rules for all of them.

What a client sent becomes a job request (`JobReader`); the request is submitted, or joins the job with the same key
(`Entrance`).
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from proxy.jobs.keys import Keys
from shared.errors import Code, RequestError
from shared.job_server.documents import TooLargeError, codings_of, inflate
from shared.job_server.forms import without_boundary
from shared.job_server.placeholders import is_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.jobs.dispatcher import Dispatcher
    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.job import Job
    from proxy.jobs.job_server import ServedJobServer, ServedJobServers
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["Entrance", "JobReader", "JobRequest", "Sent"]

#: W3C Trace Context, level 1; invalid values are dropped, as the recommendation says.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE_BYTES: Final = 512


class Sent(Struct, frozen=True, kw_only=True):
    """What a client sent: unchanged texts, empty if missing."""

    server: ServedJobServer
    path: str
    query: str = ""
    body: bytes
    content_type: str
    content_encoding: str = ""
    #: The hash of the idempotency key; None: there is none.
    key: bytes | None
    traceparent: str = ""
    tracestate: str = ""


class JobRequest(Struct, frozen=True, kw_only=True):
    """A request to run a job, from any entrance."""

    #: The name of the job server's profile; empty: the first one.
    profile: str = ""
    #: A JSON object has every member in its exact text, without those that only the proxy may set.
    body: bytes
    #: The media type of the body; empty: JSON.
    content_type: str = ""
    #: What follows the route in the request's path.
    path: str = ""
    #: What is passed on of the request's query.
    query: str = ""
    #: The hash of the idempotency key; None: there is none, and each request is a new job.
    key: bytes | None = None
    #: How the job's id begins (`Record.beginning`), so that the job can be found by it; empty: anything.
    beginning: str = ""
    #: Its labels: names and values that may be shown.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: W3C trace context; empty if none.
    traceparent: str = ""
    tracestate: str = ""


class JobReader:
    """Turns what a client sent into a job request."""

    def __init__(self, job_servers: ServedJobServers, *, max_body_bytes: int) -> None:
        self._job_servers = job_servers
        self._max_body_bytes = max_body_bytes

    def addressed(self, profile: str | None, path: str) -> ServedJobServer:
        """Return the job server of the profile with this name, or the first one; `path` is the additional path for it.

        Raises:
            RequestError: there is no such profile, or it takes no path, or requires another one.
        """
        server = self._job_servers.first if profile is None else self._job_servers.by_name(profile)
        if server is None:
            names = ", ".join(one.name for one in self._job_servers)
            raise RequestError(Code.NOT_FOUND, f"no job server is served under this name; PROFILE names {names}")
        if server.needs_path is not bool(path):
            wanted = "a path after the profile's name" if server.needs_path else "nothing after the profile's name"
            raise RequestError(Code.NOT_FOUND, f"the profile {server.name} takes {wanted}")
        if path and not is_path(path):
            raise RequestError(Code.NOT_FOUND, "the path after the profile's name has an empty segment, `.` or `..`")
        if server.path_in_field and not path.isprintable():
            raise RequestError(
                Code.NOT_FOUND, "the path after the profile's name has a character that no header or field can have"
            )
        return server

    def read(self, sent: Sent) -> tuple[JobRequest, bool]:
        """Return the request, and whether the job itself asks not to wait.

        Raises:
            RequestError: it cannot be a job for this job server.
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
            query=sent.server.client_jobs.query(sent.query),
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


class Entrance:
    """Accepts jobs."""

    def __init__(self, dispatcher: Dispatcher, in_flight: InFlight, store: JobStore) -> None:
        self._dispatcher = dispatcher
        self._in_flight = in_flight
        self._store = store
        self._keys = Keys(in_flight, store)

    def check_admission(self) -> None:
        """Raise AdmissionError if a new job would be refused now: checked before the request is read."""
        self._dispatcher.check_admission()

    def check_descriptors(self) -> None:
        """Raise AdmissionError if not even a request for an existing job may hold its connection now."""
        self._dispatcher.check_descriptors()

    def room(self) -> int:
        """Return how many new jobs would be accepted now: for code that fetches jobs, before it does."""
        return self._dispatcher.room()

    async def find(self, key: bytes) -> Job | Record | None:
        """Return the job of this key, in flight or remembered, if there is one. Raises StoreUnavailableError."""
        return await self._keys.find(key)

    async def find_beginning(self, beginning: str) -> Job | Record | None:
        """Return the last job whose id begins with `beginning`, if there is one. Raises StoreUnavailableError."""
        return self._in_flight.by_beginning(beginning) or await self._store.by_beginning(beginning)

    async def submit_or_join(self, request: JobRequest) -> tuple[Job | Record, bool]:
        """Return the request's job, and whether it existed before.

        A record is that of a finished job, or of one at another instance: `Elsewhere.end_of` waits for its end.

        Raises:
            AdmissionError: it is not accepted; nothing was started.
            RequestError: its key was used with another body, or for another profile.
            StoreUnavailableError: it cannot be determined now whether its key was used.
        """
        if request.key is None:
            return self._dispatcher.submit(request), False
        fingerprint = _fingerprint(request)
        return await self._keys.join_or_begin(
            request.key, fingerprint, request.profile, lambda: self._dispatcher.submit_under_key(request, fingerprint)
        )


def _fingerprint(request: JobRequest) -> bytes:
    """Return the hash of what two requests with one key must have in common to be the same job."""
    printed, content_type = without_boundary(request.body, request.content_type)
    if request.path or content_type or request.query:
        query = [request.query.encode()] if request.query else []
        printed = b"\0".join((request.path.encode(), content_type.encode(), *query, printed))
    return hashlib.sha256(printed).digest()


def _trace_context(traceparent: str, tracestate: str) -> tuple[str, str]:
    if not _TRACEPARENT.fullmatch(traceparent):
        return "", ""
    fits = len(tracestate) <= _TRACESTATE_BYTES and tracestate.isascii() and tracestate.isprintable()
    return traceparent, tracestate if fits else ""
