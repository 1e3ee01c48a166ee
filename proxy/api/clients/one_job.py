"""The routes of one job: its status, its result, and its cancellation.

Anybody with a job's id may ask: ids cannot be guessed. If API keys are in use, one of them is needed as well.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from proxy.api.clients.answers import send_status
from proxy.api.clients.request_headers import preference
from proxy.jobs.job import BY_CLIENT, is_id
from proxy.store.record import Record
from shared.errors import Code, RequestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from proxy.api.clients.answers import Answers
    from proxy.api.clients.request_headers import Authorization
    from proxy.jobs.dispatcher import Dispatcher
    from proxy.jobs.elsewhere import Elsewhere
    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.job import Job
    from proxy.store.protocol import JobStore

__all__ = ["JobOfMessage", "JobResult", "JobStatus", "Jobs"]


class Jobs:
    """Finds a job by the id in the request's path."""

    def __init__(self, in_flight: InFlight, store: JobStore, authorization: Authorization) -> None:
        self._in_flight = in_flight
        self._store = store
        self._authorization = authorization

    def check(self, scope: Scope) -> None:
        """Raise RequestError if the request has no key."""
        self._authorization.check(scope)

    async def find(self, scope: Scope) -> Job | Record:
        """Return the job: in flight here, or its record.

        Raises:
            RequestError: there is no job with this id, or the request has no key.
            StoreUnavailableError: the store cannot be read now.
        """
        self.check(scope)
        job_id = scope["path_params"]["id"]
        job = self._in_flight.by_id(job_id)
        if job is not None:
            return job
        record = await self._store.by_id(job_id) if is_id(job_id) else None
        if record is None:
            raise RequestError(Code.NOT_FOUND, "there is no job with this id, or it is no longer remembered")
        return record


class JobOfMessage:
    """`GET /jobs?message=<MessageId>`: the status document of the job that came in this message of the queue."""

    def __init__(self, jobs: Jobs, find: Callable[[str], Awaitable[Job | Record | None]] | None) -> None:
        """`find` returns the job of a message; None: there is no queue."""
        self._jobs = jobs
        self._find = find

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the status of the job."""
        self._jobs.check(scope)
        ids = parse_qs(scope["query_string"].decode("latin-1")).get("message", [])
        if len(ids) != 1:
            raise RequestError(Code.NOT_FOUND, "jobs are not listed; `GET /jobs?message=<MessageId>` finds one")
        found = await self._find(ids[0]) if self._find is not None else None
        if found is None:
            raise RequestError(
                Code.NOT_FOUND,
                "no job has come from this message so far, or it is no longer remembered",
            )
        await send_status(scope, send, found)


class JobStatus:
    """`GET /jobs/<id>`: the status document. `DELETE /jobs/<id>`: cancel the job, then the same."""

    def __init__(self, jobs: Jobs, dispatcher: Dispatcher, elsewhere: Elsewhere) -> None:
        self._jobs = jobs
        self._dispatcher = dispatcher
        self._elsewhere = elsewhere

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the status of the job."""
        known = await self._jobs.find(scope)
        if scope["method"] == "DELETE":
            job = self._dispatcher.cancel(known.id, by=BY_CLIENT)
            if job is not None:
                await asyncio.wait((job.outcome,))
            elif isinstance(known, Record) and known.owner:
                known = await self._elsewhere.cancel(known, by=BY_CLIENT)
        await send_status(scope, send, known)


class JobResult:
    """`GET /jobs/<id>/result`: the answer to the original request; 202 until there is one."""

    def __init__(self, jobs: Jobs, answers: Answers) -> None:
        self._jobs = jobs
        self._answers = answers

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the job's outcome; with `Prefer: wait=N`, wait for it."""
        known = await self._jobs.find(scope)
        wish = preference(scope)
        # Without a preference, a request for the result does not wait: it gets the current state.
        await self._answers.of_job(scope, send, known, limit_s=wish.wait_s or 0, applied=wish.applied, joined=True)
