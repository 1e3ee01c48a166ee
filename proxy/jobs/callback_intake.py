"""What becomes of a callback: whose it is, whether it is the first, and when it may be answered.

The first callback of a job is recorded, then given to the job, then answered. If it cannot be recorded it is given to
the job all the same, since a client waits for it, but its sender is told that it did not arrive safely and may send it
again. None of that hangs on the sender's connection.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from proxy import log
from proxy.jobs import log_lines
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError
from shared.lifecycle import Event, State, Submitted

if TYPE_CHECKING:
    from proxy.jobs.in_flight import Registry
    from proxy.jobs.job import Job
    from proxy.jobs.recorder import Entry
    from proxy.store.protocol import JobStore
    from shared.job_server.verdict import Verdict

__all__ = ["Intake", "Kind"]


class Kind(StrEnum):
    """What a callback was, or that one never was."""

    #: The first for its job, in time.
    ACCEPTED = "accepted"
    #: Accepted before the reply to the submission had been read; counted in both.
    EARLY = "early"
    #: Not the first for its job.
    DUPLICATE = "duplicate"
    #: The first for its job, after the job had ended without it. Kept, and from then on the job's outcome.
    LATE = "late"
    #: With a token that is nobody's.
    UNKNOWN = "unknown"
    #: Too large, too slow, or not JSON; another one may follow.
    REFUSED = "refused"
    #: It could not be recorded; its sender was told so.
    UNRECORDED = "unrecorded"
    #: A job ended without any, though it was or may have been submitted. It may still come late.
    NEVER = "never"


class Intake:
    """Takes callbacks that are sound."""

    def __init__(self, registry: Registry, store: JobStore) -> None:
        self._registry = registry
        self._store = store
        #: How many callbacks of which `Kind`.
        self.counts: Counter[str] = Counter()
        #: One at a time for each token whose job is over.
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    async def is_known(self, hashed: bytes) -> bool:
        """Return whether a token with this hash is or was a job's. Raises AdmissionError if that cannot be told."""
        try:
            return self._registry.by_token(hashed) is not None or await self._store.by_token(hashed) is not None
        except StoreUnavailableError as exc:
            raise self._unrecorded(exc) from exc

    async def take(self, hashed: bytes, body: bytes, verdict: Verdict) -> Kind:
        """Take a callback, which says `verdict` and is recorded when this returns.

        Raises:
            AdmissionError: it could not be recorded.
            RequestError: the job was forgotten meanwhile.
        """
        job = self._registry.by_token(hashed)
        try:
            if job is None or job.entry is None:
                kind = await self._for_record(hashed, body, verdict)
            else:
                kind = await self._for_job(job, job.entry, body, verdict)
        except StoreUnavailableError as exc:
            raise self._unrecorded(exc) from exc
        self.counts[kind] += 1
        return kind

    async def _for_job(self, job: Job, entry: Entry, body: bytes, verdict: Verdict) -> Kind:
        if entry.called_back:
            await asyncio.shield(entry.take_duplicate())
            return Kind.DUPLICATE
        late = job.state is State.FINISHED
        early = job.state in {State.ASSIGNED, State.SUBMITTING} and not job.adopted
        saved = entry.take_callback(body, says_failed=verdict.failed, early=early)
        if saved.done():
            _deliver(job, body)
        else:  # before whoever awaits `saved` goes on, and also when nobody does any more
            saved.add_done_callback(lambda _: _deliver(job, body))
        await asyncio.shield(saved)
        late = late or not job.callback.done()
        if late:
            log_lines.job_event("warning", "a late result came and is kept", job, late=True)
        self.counts[Kind.EARLY] += early and not late
        return Kind.LATE if late else Kind.ACCEPTED

    async def _for_record(self, hashed: bytes, body: bytes, verdict: Verdict) -> Kind:
        lock = self._locks.setdefault(hashed, asyncio.Lock())
        async with lock:
            record = await self._store.by_token(hashed)
            if record is None:
                raise RequestError(Code.NOT_FOUND, "there is no such callback")
            if record.callback is not None:
                self._store.note(replace(record, duplicates=record.duplicates + 1))
                return Kind.DUPLICATE
            await self._store.put(replace(record, callback=body, says_failed=verdict.failed, submitted=Submitted.YES))
            log.event(
                "warning",
                "a late result came and is kept",
                job_id=record.id,
                worker_pid=None,
                state=State.FINISHED,
                late=True,
            )
            return Kind.LATE

    def _unrecorded(self, exc: StoreUnavailableError) -> AdmissionError:
        self.counts[Kind.UNRECORDED] += 1
        return AdmissionError(Code.JOURNAL_UNAVAILABLE, str(exc))


def _deliver(job: Job, body: bytes) -> None:
    if job.state is not State.FINISHED and not job.callback.done():
        job.advance(Event.CALLBACK)
        job.callback.set_result(body)
