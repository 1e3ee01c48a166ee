"""What every entrance calls to run a job, HTTP or another: submit a job, or join the one with the same key."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec import Struct, field

from proxy.jobs.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.jobs.dispatcher import Dispatcher
    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.job import Job
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["Entrance", "JobRequest"]


class JobRequest(Struct, frozen=True, kw_only=True):
    """A request to run a job, however it came."""

    #: The name of the profile of the job server that is to have it; empty: the first one.
    profile: str = ""
    #: A JSON object has every member in its exact text, without those that are the proxy's to set.
    body: bytes
    #: The media type of the body; empty: JSON.
    content_type: str = ""
    #: What the request's path has beyond the route.
    path: str = ""
    #: The hash of the idempotency key; None: there is none, and each request is a new job.
    key: bytes | None = None
    #: What the job's id is to begin with (`Record.beginning`), so that the job can be found by it; empty: anything.
    beginning: str = ""
    #: Its labels: names and values that may be shown.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: W3C trace context; empty if none.
    traceparent: str = ""
    tracestate: str = ""


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
        """Raise AdmissionError if not even a request for a job that is here already may hold its connection now."""
        self._dispatcher.check_descriptors()

    def room(self) -> int:
        """Return how many new jobs would be taken now: to be asked by who fetches jobs, before it does."""
        return self._dispatcher.room()

    async def find(self, key: bytes) -> Job | Record | None:
        """Return the job of this key, in flight or remembered, if there is one. Raises StoreUnavailableError."""
        return await self._keys.find(key)

    async def find_beginning(self, beginning: str) -> Job | Record | None:
        """Return the last job that was begun with this `beginning`, if there is one. Raises StoreUnavailableError."""
        return self._in_flight.by_beginning(beginning) or await self._store.by_beginning(beginning)

    async def submit_or_join(self, request: JobRequest) -> tuple[Job | Record, bool]:
        """Return the request's job, and whether it was there before.

        A record is that of a job that has ended, or of one at another instance: `Elsewhere.end_of` waits for its end.

        Raises:
            AdmissionError: it is not taken; nothing was started.
            RequestError: its key was used with another body.
            StoreUnavailableError: nobody can tell now whether its key was used.
        """
        if request.key is None:
            return self._dispatcher.submit(request), False
        printed = request.body
        if request.path or request.content_type:
            printed = b"\0".join((request.path.encode(), request.content_type.encode(), request.body))
        fingerprint = hashlib.sha256(printed).digest()
        return await self._keys.join_or_begin(
            request.key, fingerprint, lambda: self._dispatcher.submit_under_key(request, fingerprint)
        )
