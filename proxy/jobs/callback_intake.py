"""Handles callbacks: which job one is for, whether it is the first, and when it may be answered.

The first callback of a job is recorded, then delivered to the job's runner, then answered. If the store takes long, or
cannot record it, it is still delivered, because a client waits for it; but its sender is told that it was not stored,
and can retry. None of this depends on the sender's connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from msgspec import Struct
from msgspec.structs import replace

from proxy import log
from proxy.jobs import log_lines
from proxy.jobs.trail import trail_of, trail_with
from proxy.store.protocol import TakenError
from proxy.store.record import Record
from shared.errors import Code, RequestError, StoreUnavailableError
from shared.job_server.callback_tokens import bytes_without_tokens
from shared.job_server.documents import kept_content_type
from shared.job_server.verdict import FINAL, Kind, Verdict
from shared.lifecycle import Event, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy.jobs.delivery import Delivery
    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.job import Job
    from proxy.jobs.polling import Poller
    from proxy.jobs.recorder import Recorder
    from proxy.store.protocol import JobStore
    from shared.messages import Told

__all__ = ["CallbackFate", "CallbackIntake"]

#: How long a callback waits for the store before its job gets it, recorded or not.
_PATIENCE_S: Final = 1.0


class CallbackFate(StrEnum):
    """What a callback turned out to be, or that one never came."""

    #: The first for its job, in time.
    ACCEPTED = "accepted"
    #: Accepted before the reply to the submission had been read; counted in both.
    EARLY = "early"
    #: It says that the job is not finished; more will follow.
    PROGRESS = "progress"
    #: Not the first that says that the job is finished.
    DUPLICATE = "duplicate"
    #: The first for its job, after the job had been finished without it. Kept, and from then on the job's outcome.
    LATE = "late"
    #: With an unknown token.
    UNKNOWN = "unknown"
    #: Too large, too slow, or not JSON; another one may follow.
    REFUSED = "refused"
    #: It does not prove who sent it, as the profile requires.
    FORGED = "forged"
    #: It could not be recorded, and its sender was told so.
    UNRECORDED = "unrecorded"
    #: A job was finished without any, although it was or may have been submitted. It may still come late.
    NEVER = "never"


class _Called(Struct, frozen=True, kw_only=True):
    verdict: Verdict
    body: bytes
    content_type: str
    #: It is the answer to a status or result call, not a callback.
    asked: bool = False


class CallbackIntake:
    """Handles callbacks that have been read and validated."""

    def __init__(self, in_flight: InFlight, store: JobStore, delivery: Delivery, poller: Poller) -> None:
        self._in_flight = in_flight
        self._store = store
        self._delivery = delivery
        self._poller = poller
        #: Called with the id of a job that is not in flight here when a callback shows that the job server has it.
        self.on_proof: Callable[[str], None] = lambda _job_id: None
        #: Called with the record of a job that ended without an outcome once the job server announces one.
        self.on_announced: Callable[[Record], None] = lambda _record: None
        #: Called with the record of a job that was given up once the job server can be told to cancel it.
        self.on_named: Callable[[Record], None] = lambda _record: None
        #: The number of callbacks for each `CallbackFate`.
        self.counts: Counter[str] = Counter()
        #: One at a time for each token whose job is not in flight here.
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count the callback as one that could not be recorded, if the store is unavailable."""
        try:
            yield
        except StoreUnavailableError:
            self.counts[CallbackFate.UNRECORDED] += 1
            raise

    async def find(self, hashed: bytes) -> Job | Record | None:
        """Return the job that a token with this hash belongs to. Raises StoreUnavailableError."""
        job = self._in_flight.by_token(hashed)
        if job is not None:
            return job
        with self.counted():
            return await self._store.by_token(hashed)

    async def refuse(self, hashed: bytes, reason: str, *, counted: bool = False, proves: bool = True) -> None:
        """Note that a callback for the job of this token was refused, and why, so that its client can find out.

        `counted`: it is already counted as something else; `proves`: only the job server can have sent it.
        """
        if not counted:
            self.counts[CallbackFate.REFUSED] += 1
        job = self._in_flight.by_token(hashed)
        if job is not None:
            if proves:
                job.proven()
            job.recorder.refused(reason)
            record: Record | None = job.recorder.record
        else:  # looked up only now: another callback may have been recorded while this one was read
            async with self._lock(hashed):
                known = record = await self._store.by_token(hashed)
                if known is not None:
                    proven = known.proven() if proves else known
                    record = replace(proven, refused=known.refused + 1, refusal=reason)
                    self._store.note(record)
                    self._tell_of(record, known)
                    if proves:
                        self.on_proof(known.id)
        if record is not None and (proves or record.refused == 1):  # nobody may fill the log
            log.event("warning", "a callback was refused", job_id=record.id, reason=reason, refused=record.refused)

    def _lock(self, hashed: bytes) -> asyncio.Lock:
        return self._locks.setdefault(hashed, asyncio.Lock())

    async def take(self, hashed: bytes, body: bytes, verdict: Verdict, content_type: str = "") -> CallbackFate:
        """Accept a callback with this `verdict`; it is recorded when this returns.

        `body` is the part of it that the client gets or is shown; `content_type` its media type, empty for JSON.

        Raises:
            StoreUnavailableError: it could not be recorded.
            RequestError: the job was deleted meanwhile.
        """
        called = _Called(verdict=verdict, body=body, content_type=content_type)
        job = self._in_flight.by_token(hashed)
        with self.counted():
            if job is None:
                fate = await self._for_record(hashed, called)
            else:
                fate = await self._for_job(job, called)
        self.counts[fate] += 1
        return fate

    async def take_answer(self, hashed: bytes, told: Told) -> None:
        """Accept the job server's answer to a call about how a job ended that is not in flight here.

        Raises:
            StoreUnavailableError: it could not be recorded.
            RequestError: the job was deleted meanwhile.
        """
        verdict = Verdict(kind=Kind(told.kind), state=told.state, error=told.error)
        content_type = kept_content_type(told.content_type, told.body)
        await self._for_record(hashed, _Called(verdict=verdict, body=told.body, content_type=content_type, asked=True))

    async def _for_job(self, job: Job, called: _Called) -> CallbackFate:
        recorder, verdict = job.recorder, called.verdict
        if verdict.kind not in FINAL:
            job.progress(verdict.state, job.without_token(called.body), verdict.outputs)
            job.unread = verdict.error
            if verdict.kind is Kind.NOTIFICATION:
                job.notify()
            return CallbackFate.PROGRESS
        if recorder.called_back:
            try:
                await asyncio.shield(recorder.duplicate())
            except TakenError as exc:  # another instance was faster than the first one here
                self._note_duplicate(exc.record)
            return CallbackFate.DUPLICATE
        late = job.state is State.FINISHED
        early = job.state in {State.ASSIGNED, State.SUBMITTING} and not job.adopted
        job.learn(verdict.outputs)
        stored = recorder.callback(
            job.without_token(called.body) if verdict.failed else called.body,
            failed=verdict.failed,
            early=early,
            content_type=called.content_type,
            error=verdict.error,
            trail=trail_of(job, Event.CALLBACK),
        )
        asks_why = verdict.failed and not verdict.error and not late and self._poller.can_find_reason(job)
        if asks_why:
            self._poller.find_reason_before(job, lambda: self._delivery.deliver(recorder.record))
        else:
            job.arrive()  # the worker is told while it is being recorded
            self._deliver_when_stored(stored, recorder)
        try:
            await asyncio.shield(stored)
        except TakenError as exc:  # another instance was faster
            self._note_duplicate(exc.record)
            return CallbackFate.DUPLICATE
        late = late or (job.state is State.FINISHED and not job.callback.done())
        if late:
            log_lines.job_event("warning", "a late result arrived and was kept", job, late=True)
        self.counts[CallbackFate.EARLY] += early and not late
        return CallbackFate.LATE if late else CallbackFate.ACCEPTED

    def _deliver_when_stored(self, stored: asyncio.Future[None], recorder: Recorder) -> None:
        """Deliver before tasks that await `stored` continue, and even if none does any more; or when it takes long.

        Delivers the callback on record by then, which may have come to another instance.
        """
        if stored.done():
            self._delivery.deliver(recorder.record)
            return

        def deliver(_: asyncio.Future[None] | None = None) -> None:
            patience.cancel()
            self._delivery.deliver(recorder.record)

        patience = asyncio.get_running_loop().call_later(_PATIENCE_S, deliver)
        stored.add_done_callback(deliver)

    def _deliver_if_stored(self, record: Record, stored: asyncio.Future[None]) -> None:
        """Deliver the record of a job that is not in flight here, even if nobody awaits `stored` any more."""
        if not stored.cancelled() and stored.exception() is None:
            self._delivery.deliver(record)

    async def _for_record(self, hashed: bytes, called: _Called) -> CallbackFate:
        verdict = called.verdict
        async with self._lock(hashed):
            record = await self._store.by_token(hashed)
            if record is None:
                raise RequestError(Code.NOT_FOUND, "there is no such callback")
            self.on_proof(record.id)
            if verdict.kind not in FINAL:
                self._progress_elsewhere(record, verdict)
                return CallbackFate.PROGRESS
            if record.callback is not None:
                try:
                    await asyncio.shield(self._store.put(record))  # it may still wait for an unavailable store
                except TakenError as exc:
                    record = exc.record
                self._again(record, called)
                return CallbackFate.DUPLICATE
            late = record.state is State.FINISHED
            called_back = replace(
                record,
                state=State.FINISHED,
                finished_at=record.finished_at or time.time(),
                callback=bytes_without_tokens(called.body) if verdict.failed else called.body,
                says_failed=verdict.failed,
                content_type=called.content_type,
                error=verdict.error,
                outputs={**verdict.outputs, **record.outputs},
                trail=trail_with(record, Event.CALLBACK),
            )
            stored = self._store.put(called_back)
            stored.add_done_callback(partial(self._deliver_if_stored, called_back))
            try:
                await asyncio.shield(stored)
            except TakenError as exc:  # another instance was faster
                self._again(exc.record, called)
                return CallbackFate.DUPLICATE
            if not late:  # another instance runs the job
                return CallbackFate.ACCEPTED
            log.event(
                "warning",
                "a late result arrived and was kept",
                job_id=record.id,
                worker_pid=None,
                state=State.FINISHED,
                late=True,
            )
            return CallbackFate.LATE

    def _again(self, record: Record, called: _Called) -> None:
        if not called.asked:
            self._note_duplicate(record)

    def _note_duplicate(self, record: Record) -> None:
        self._store.note(replace(record, duplicates=record.duplicates + 1))

    def _progress_elsewhere(self, record: Record, verdict: Verdict) -> None:
        """Tell other instances that the job server has a job, and that there may be an outcome to ask for.

        Of a job that nobody waits for any more, the callback may have what is needed to cancel it, or announce its end.
        """
        proven = record.proven()
        if record.callback is None:
            proven = replace(proven, outputs={**verdict.outputs, **record.outputs})
        if record.owner and record.state is not State.FINISHED:
            self._store.note(proven)
            self._tell_of(record, record)
            return
        if proven != record:
            self._store.note(proven)
            self._tell_of(proven, record)
        if self._poller.is_named_late(record, proven.outputs):
            self.on_named(proven)
        if verdict.kind is Kind.NOTIFICATION and record.state is State.FINISHED:
            self.on_announced(proven)

    def _tell_of(self, record: Record, known: Record) -> None:
        """Tell the instance that runs a job that something was noted about it here, or the one that said `no` of it."""
        if record.owner and (record.state is not State.FINISHED or record.submitted is not known.submitted):
            self._delivery.deliver(record)
