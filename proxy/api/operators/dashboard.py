"""Routes for the operators' pages: events, the search for a job, stopping a job, and asking about one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from starlette.routing import Route

from proxy.api.clients.request_headers import hash_of_key
from proxy.api.operators import pages
from proxy.api.operators.access.operator import operator_of
from proxy.api.operators.watchers import Watchers
from proxy.api.operators.whole_job import in_flight, of_past, on_record
from proxy.http.asgi import NO_STORE, ClientGoneError, peer_of, send_json
from proxy.jobs.job import is_id
from proxy.store.names import Called
from shared.errors import Code, RequestError, StoreUnavailableError
from shared.lifecycle import State, Submitted

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.api.clients.request_headers import Authorization
    from proxy.api.operators.snapshots import Snapshots
    from proxy.jobs.dispatcher import Dispatcher
    from proxy.jobs.elsewhere import Elsewhere
    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.inquiry import Inquiry
    from proxy.jobs.job_server import ServedJobServers
    from proxy.jobs.shown_bodies import ShownBodies
    from proxy.observe.history import History, PastJob
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["AskJobServer", "Events", "FindJob", "StopJob", "routes"]

#: A page that reads nothing for this long is disconnected.
_PATIENCE_S: Final = 10.0
_STOP_WAIT_S: Final = 2.0
#: Without this, nginx would buffer events.
_EVENTS_HEADERS: Final = ((b"content-type", b"text/event-stream"), NO_STORE, (b"x-accel-buffering", b"no"))


def routes(snapshots: Snapshots, find: FindJob, stop: StopJob, ask: AskJobServer) -> list[Route]:
    """Return the dashboard's routes."""
    return [
        *pages.routes(),
        Route("/events", Events(snapshots), methods=["GET"]),
        Route("/jobs/{id:path}", find, methods=["GET"]),  # a label or a key may have slashes
        Route("/jobs/{id}/stop", stop, methods=["POST"]),
        Route("/jobs/{id}/ask", ask, methods=["POST"]),
    ]


class Events:
    """`GET /events`: a snapshot of jobs and workers each second, as server-sent events, until the client leaves."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._watchers = Watchers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send snapshots."""
        snapshots = self._snapshots
        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS_HEADERS})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        with self._watchers.admitted(peer_of(scope)) as leave:
            snapshots.watchers += 1
            gone = [asyncio.ensure_future(_disconnected(receive)), asyncio.ensure_future(snapshots.closed.wait())]
            try:
                await self._send_all(send, [leave, *gone])
            finally:
                snapshots.watchers -= 1
                for task in gone:
                    task.cancel()

    async def _send_all(self, send: Send, gone: Sequence[asyncio.Future[Any]]) -> None:
        snapshot = self._snapshots.first()
        while True:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await send(
                        {"type": "http.response.body", "body": b"data: " + snapshot + b"\n\n", "more_body": True}
                    )
            except TimeoutError:
                raise ClientGoneError from None
            coming = asyncio.ensure_future(self._snapshots.next())
            await asyncio.wait((coming, *gone), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() or any(task.done() for task in gone):
                coming.cancel()
                break
            snapshot = coming.result()
        await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class FindJob:
    """`GET /jobs/<id>`: everything that is known about a job; its request and result, too, with `RECORD_BODIES`."""

    def __init__(
        self,
        in_flight: InFlight,
        history: History,
        store: JobStore,
        authorization: Authorization,
        bodies: ShownBodies | None,
        served: ServedJobServers,
        inquiry: Inquiry,
    ) -> None:
        """`bodies`: how requests and results are shown; None: they are not."""
        self._served = served
        self._inquiry = inquiry
        self._authorization = authorization
        self._bodies = bodies
        self._in_flight = in_flight
        self._history = history
        self._store = store

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the job."""
        found = await self.find(scope["path_params"]["id"])
        await send_json(scope, send, found)

    async def find(self, job_id: str) -> dict[str, Any]:
        """Return what is known about a job, by its id or its idempotency key.

        It is also found by the job server's id, a label, or the beginning of its id. Of several, jobs in flight come
        first, then recently finished ones; then the newest.

        Raises:
            RequestError: there is no such job.
        """
        job = self._in_flight.by_id(job_id) or self._in_flight.by_name(job_id)
        past = None if job else self._history.by_id(job_id)
        record = None if job or past else await self._recorded(job_id)
        if record is not None:  # found by its key, or by something that only the store knows
            job = self._in_flight.by_id(record.id)
            past = None if job else self._history.by_id(record.id)
        if job is not None:
            return in_flight(job, self._bodies) | self._there(job.recorder.record)
        if past is not None:
            return await self._past(past)
        if record is None:
            raise RequestError(Code.NOT_FOUND, "no job has this name, or it is no longer remembered")
        return on_record(record, self._bodies) | self._there(record)

    def _there(self, record: Record | None) -> dict[str, Any]:
        """Return whether the job server can be asked about a job, and the link to the job there."""
        if record is None:
            return {"can_ask": False, "remote_link": None}
        server = self._served.of(record)
        page = "" if server is None else server.page_of(record)
        return {"can_ask": self._inquiry.can_ask(record), "remote_link": page or None}

    async def record(self, job_id: str) -> Record | None:
        """Return the store's record of a job. Raises StoreUnavailableError."""
        return await self._store.by_id(job_id) if is_id(job_id) else None

    async def _recorded(self, text: str) -> Record | None:
        if not text or "\0" in text:  # no name has one, and PostgreSQL has no such texts
            return None
        return await self.record(text) or await self._of_key(text) or await self._store.by_name(Called(text))

    async def _of_key(self, key: str) -> Record | None:
        """Return the job with this idempotency key, whichever API key it was sent with."""
        if not key.isascii():
            return None
        for holder in self._authorization.holders:
            record = await self._store.by_key(hash_of_key(holder, key))
            if record is not None:
                return record
        return None

    async def _past(self, past: PastJob) -> dict[str, Any]:
        """Return a recently finished job, together with its current record: its result may have come late.

        Without a record, nobody knows whether a callback has shown since that the job ran.
        """
        record = None
        with contextlib.suppress(StoreUnavailableError):
            record = await self._store.by_id(past.id)
        shown = of_past(past, record, self._bodies) | self._there(record)
        if record is None and shown["submitted"] == Submitted.NO:
            shown["submitted"] = Submitted.UNKNOWN
        return shown


class StopJob:
    """`POST /jobs/<id>/stop`: cancel a job."""

    def __init__(self, dispatcher: Dispatcher, elsewhere: Elsewhere, find: FindJob) -> None:
        self._dispatcher = dispatcher
        self._elsewhere = elsewhere
        self._find = find

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Stop the job and answer with its state."""
        job_id, by = scope["path_params"]["id"], operator_of(scope).words
        job = self._dispatcher.cancel(job_id, by=by)
        if job is None:
            await self._stop_elsewhere(job_id, by)
        else:
            await asyncio.wait((job.outcome,), timeout=_STOP_WAIT_S)
        found = await self._find.find(job_id)
        await send_json(scope, send, found)

    async def _stop_elsewhere(self, job_id: str, by: str) -> None:
        record = await self._find.record(job_id)
        if record is None or not record.owner or record.state is State.FINISHED:
            raise RequestError(Code.NOT_FOUND, "there is no such job in flight")
        await self._elsewhere.cancel(record, by=by)


class AskJobServer:
    """`POST /jobs/<id>/ask`: ask the job server now about a job; a final state in its answer ends the job."""

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the job server's answer.

        Raises:
            RequestError: there is no such job.
            StoreUnavailableError: the job cannot be looked up now, or the answer cannot be recorded.
        """
        told = await self._inquiry.ask(scope["path_params"]["id"])
        if told is None:
            raise RequestError(Code.NOT_FOUND, "there is no such job, or it is no longer remembered")
        await send_json(scope, send, {"kind": str(told.kind), "state": told.state, "error": told.error})
