"""Answers to clients about a job: its outcome, a 202 while it runs, and its status document."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from proxy.http import problems
from proxy.http.asgi import NO_STORE, ClientGoneError, Headers, lost_of, send_problem, send_response
from proxy.http.fair_turns import turns
from proxy.jobs.job import Job
from shared.errors import AdmissionError, Code
from shared.job_server.documents import document_of
from shared.lifecycle import State, Submitted
from shared.outcome import Failed, Outcome, Succeeded

if TYPE_CHECKING:
    from starlette.types import Scope, Send

    from proxy.jobs.elsewhere import Elsewhere
    from proxy.store.record import Record

__all__ = ["Answers", "callback_counts", "earlier_answer", "send_status", "status_document"]

_T = TypeVar("_T")

#: When to ask again for a job that is not done.
_RETRY_AFTER: Final = (b"retry-after", b"1")
#: The most requests that wait for jobs that they did not post; each holds a connection.
_MAX_WAITS: Final = 1_000
_REPLAYED: Final = (b"idempotent-replayed", b"true")
#: The end of a status document's progress, before its body is known; no text in JSON has unescaped quotes.
_NO_BODY: Final = b'"body": null}'
#: The state that is shown of a job whose end is being recorded, by whether it was submitted.
_NOT_OVER: Final = {Submitted.NO: State.ACCEPTED, Submitted.UNKNOWN: State.SUBMITTING, Submitted.YES: State.WAITING}


class Answers:
    """Answers about jobs."""

    def __init__(self, elsewhere: Elsewhere, check_descriptors: Callable[[], None], *, granular_errors: bool) -> None:
        """`check_descriptors` raises AdmissionError if no further request may hold a connection."""
        self._elsewhere = elsewhere
        self._check_descriptors = check_descriptors
        self._granular = granular_errors
        #: How many requests wait for jobs that they did not post.
        self._waits = 0

    async def of_job(
        self,
        scope: Scope,
        send: Send,
        found: Job | Record,
        *,
        limit_s: float | None,
        applied: bytes,
        replayed: bool = False,
        joined: bool = False,
    ) -> None:
        """Answer with the job's outcome; or, if that takes longer than `limit_s`, with its status.

        `applied` is the client's preference behind `limit_s`, if any; `replayed`: a key led to an existing job;
        `joined`: the request is only about the job.

        Raises:
            AdmissionError: too many wait, and there is nothing else to answer.
            ClientGoneError: the client has left.
            StoreUnavailableError: the job must have ended, and it is unknown how.
        """
        if isinstance(found, Job):
            outcome = await self._wait(found, limit_s, joined=joined or replayed, lost=lost_of(scope))
        else:
            found = await self._wait_elsewhere(found, limit_s, lost_of(scope))
            outcome = found.outcome
        headers = _trace_headers(found)
        if replayed:
            headers.append(_REPLAYED)
        if applied:
            headers.append((b"preference-applied", applied))
        if outcome is not None:
            await self._send_outcome(scope, send, found.id, outcome, headers)
            return
        location = (b"location", f"{scope['root_path']}/jobs/{found.id}".encode())
        await send_status(scope, send, found, 202, [*headers, location, _RETRY_AFTER])

    async def _wait(
        self, found: Job, limit_s: float | None, *, joined: bool, lost: asyncio.Future[None] | None = None
    ) -> Outcome | None:
        """Return the outcome, or None if it takes longer than `limit_s`; then the job can still be found.

        `joined`: the request did not post the job, or need not wait for it. The number of these that wait is limited,
        and they wait no longer than their connection lasts.

        Raises:
            AdmissionError: too many wait, and there is nothing else to answer.
            ClientGoneError: the connection was lost.
        """
        if joined and limit_s != 0 and not found.outcome.done():
            with self._one_wait(limit_s) as admitted_s:
                return await _while_connected(lost, _outcome_within(found, admitted_s))
        return await _outcome_within(found, limit_s)

    async def _wait_elsewhere(
        self, found: Record, limit_s: float | None, lost: asyncio.Future[None] | None = None
    ) -> Record:
        """Return the record with its job's end, or the current one if that takes longer than `limit_s`.

        Raises:
            AdmissionError: too many wait, and there is nothing else to answer.
            ClientGoneError: the connection was lost.
            StoreUnavailableError: the job must have ended, and it is unknown how.
        """
        if found.outcome is not None or limit_s == 0 or not found.owner:
            return found
        with self._one_wait(limit_s) as admitted_s:
            return await _while_connected(lost, self._elsewhere.end_of(found, admitted_s))

    @contextlib.contextmanager
    def _one_wait(self, limit_s: float | None) -> Iterator[float | None]:
        """Count a request that waits for a job that it did not post; yield its time limit. Raises AdmissionError."""
        try:
            self._check_wait()
        except AdmissionError:
            if limit_s is None:
                raise
            limit_s = 0
        self._waits += 1
        try:
            yield limit_s
        finally:
            self._waits -= 1

    def _check_wait(self) -> None:
        if self._waits >= _MAX_WAITS:
            raise AdmissionError(Code.OVERLOADED, f"{_MAX_WAITS} requests wait for jobs of others already")
        self._check_descriptors()

    async def _send_outcome(
        self, scope: Scope, send: Send, job_id: str, outcome: Outcome, headers: list[tuple[bytes, bytes]]
    ) -> None:
        match outcome:
            case Succeeded():
                fields = [NO_STORE, (b"job-id", job_id.encode()), *headers]
                content_type = b"application/json"
                if outcome.content_type:  # the job server's type: readers must not guess another one
                    content_type = outcome.content_type.encode()
                    fields.append((b"x-content-type-options", b"nosniff"))
                await send_response(scope, send, 200, outcome.body, content_type, fields)
            case Failed():
                problem = problems.of_failure(outcome, job_id, granular=self._granular)
                problem.headers.extend(headers)
                await send_problem(scope, send, problem)


async def _while_connected(lost: asyncio.Future[None] | None, waiting: Coroutine[Any, Any, _T]) -> _T:
    """Return what `waiting` returns. Raises ClientGoneError if the connection is lost before."""
    if lost is None:
        return await waiting
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait((task, lost), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError("the client has left")
        return task.result()
    finally:
        task.cancel()


async def _outcome_within(found: Job, limit_s: float | None) -> Outcome | None:
    """Return the outcome, or None if it takes longer than `limit_s`."""
    if limit_s is None:
        outcome = await asyncio.shield(found.outcome)  # this request must not cancel the job
        await turns.take()  # hundreds may wait for one job
        return outcome
    if limit_s:
        await asyncio.wait((found.outcome,), timeout=limit_s)
    if not found.outcome.done():
        await asyncio.wait((found.outcome, found.recorder.soon_stored()), return_when=asyncio.FIRST_COMPLETED)
    return found.outcome.result() if found.outcome.done() else None


def _trace_headers(found: Job | Record) -> list[tuple[bytes, bytes]]:
    """Return the job's place in its client's trace, as sent to the job server (W3C Trace Context)."""
    if not isinstance(found, Job) or not found.traceparent:
        return []
    context = found.traceparent.encode()
    return [(b"traceparent", context), (b"traceresponse", context)]


async def send_status(scope: Scope, send: Send, found: Job | Record, status: int = 200, headers: Headers = ()) -> None:
    """Answer with the job's status document."""
    document = status_document(found)
    document["result"] = scope["root_path"] + document["result"]
    body = json.dumps(document).encode()
    if isinstance(found, Job) and document_of(found.last_progress).is_json:
        # Unchanged: parsing could change its numbers.
        body = body.replace(_NO_BODY, b'"body": %b}' % found.last_progress, 1)
    fields = [NO_STORE, (b"job-id", found.id.encode()), *headers]
    await send_response(scope, send, status, body, b"application/json", fields)


def status_document(found: Job | Record) -> dict[str, Any]:
    """Return what is known about a job, for its client; without the body of its progress, which `send_status` adds."""
    record = found.recorder.record if isinstance(found, Job) else found
    running = isinstance(found, Job) and not found.outcome.done()
    outcome = None if running else record.outcome
    failure = outcome if isinstance(outcome, Failed) else None
    is_being_recorded = running and found.state is State.FINISHED  # a client that sees `finished` expects an outcome
    return {
        "id": record.id,
        "state": str(_NOT_OVER[found.submitted] if is_being_recorded else found.state),  # a record may be older
        "submitted": str(found.submitted),
        "accepted_at": _timestamp(record.accepted_at),
        "deadline_at": _timestamp(record.deadline_at),
        "finished_at": None if running else _timestamp(record.finished_at),
        "outcome": None if outcome is None else "failed" if failure else "succeeded",
        "code": str(failure.code) if failure else None,
        "detail": failure.detail if failure else None,
        "late": record.late,
        "earlier_answer": earlier_answer(record),
        "callbacks": callback_counts(record),
        "refused_callbacks": {"count": record.refused, "last": record.refusal} if record.refused else None,
        "labels": dict(record.labels),
        "remote": {name: value for name, value in record.outputs.items() if name != "path"},
        "profile": record.profile,
        "progress": _progress(found),
        "result": f"/jobs/{record.id}/result",
    }


def _progress(found: Job | Record) -> dict[str, Any] | None:
    """Return what the job server last said about an unfinished job, if this process knows it."""
    if not isinstance(found, Job) or not found.progress_count:
        return None
    return {"state": found.remote_state, "count": found.progress_count, "body": None}


def callback_counts(record: Record) -> dict[str, int]:
    """Return how many callbacks for a job were taken, by what they were."""
    return {
        "accepted": int(record.callback is not None),
        "early": int(record.early),
        "late": int(record.late),
        "duplicate": record.duplicates,
    }


def earlier_answer(record: Record) -> dict[str, str] | None:
    """Return what the client was told before the result came late; None: it did not."""
    if not record.late or record.failure is None:
        return None
    failure = record.failure
    return {"code": str(failure.code), "detail": failure.detail, "submitted": str(failure.submitted)}


def _timestamp(unix_s: float | None) -> str | None:
    """Return a Unix time in RFC 3339 notation, in UTC, to the millisecond."""
    if unix_s is None:
        return None
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
