"""What the store is told of one job, and when.

Nothing may happen to a job that could not be told after the death of this process, so two things are awaited: before a
worker may submit the job, it is recorded as assigned (from then on its fate is unknown to whoever reads the record);
and before a callback is answered 2xx, its body is recorded. With that body the record is complete, and says finished:
its outcome is the callback, whatever becomes of the worker that reports it. A failure is recorded before its client
hears of it, but not for longer than `_PATIENCE_S`: a job in flight is answered, journal or not.

Everything else is recorded when there is time: that a job queues, that the reply was read, that a callback came again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from shared.errors import AdmissionError, Code, StoreUnavailableError
from shared.lifecycle import State, Submitted
from shared.outcome import Failed, Outcome, Succeeded

if TYPE_CHECKING:
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["Entry"]

_PATIENCE_S: Final = 0.3


class Entry:
    """One job's place in the store while it is in flight."""

    def __init__(self, store: JobStore, record: Record, *, known: bool = False) -> None:
        """Begin with `record`; `known`: it is in the store already."""
        self.record = record
        #: Done when the store has the job: from then on its id may be given away.
        self.known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if known:
            self.known.set_result(None)
        self._store = store
        self._told = known
        self._callback_saved: asyncio.Future[None] | None = None

    def queue(self) -> None:
        """Record, some time, that the job waits for a worker; unless more has been recorded already."""
        if not self._told:
            self._save()

    async def assign(self) -> None:
        """Record that a worker is about to have the job; it must not before this returns.

        Raises:
            AdmissionError: that cannot be recorded now.
        """
        self.record = replace(self.record, state=State.ASSIGNED, submitted=Submitted.UNKNOWN)
        try:
            await self._save()
        except StoreUnavailableError as exc:
            raise AdmissionError(Code.JOURNAL_UNAVAILABLE, str(exc)) from exc

    def wait(self) -> None:
        """Record, some time, that the job server has the job."""
        if self.record.callback is None and self.record.finished_at is None:
            self.record = replace(self.record, state=State.WAITING, submitted=Submitted.YES)
            self._store.note(self.record)

    @property
    def called_back(self) -> bool:
        """Whether a callback came, recorded or not."""
        return self.record.callback is not None

    def take_callback(self, body: bytes, *, says_failed: bool, early: bool) -> asyncio.Future[None]:
        """Record the first callback; the future is done when that is so, or fails with StoreUnavailableError."""
        self.record = replace(
            self.record,
            state=State.FINISHED,
            submitted=Submitted.YES,
            finished_at=self.record.finished_at or time.time(),
            callback=body,
            says_failed=says_failed,
            early=early,
        )
        self._callback_saved = self._save()
        return self._callback_saved

    def take_duplicate(self) -> asyncio.Future[None]:
        """Record, some time, one more callback; the future is that of the first one, which is tried again if needed."""
        self.record = replace(self.record, duplicates=self.record.duplicates + 1)
        saved = self._callback_saved
        if saved is None or (saved.done() and saved.exception() is not None):
            saved = self._callback_saved = self._save()
        else:
            self._store.note(self.record)
        return saved

    async def finish(self, outcome: Outcome) -> None:
        """Record how the job ended."""
        record = self.record
        failure = outcome if isinstance(outcome, Failed) and outcome.code is not Code.JOB_FAILED else None
        if failure is None and record.callback is not None and self._is_saved():
            return  # all of it is recorded
        body = outcome.body if isinstance(outcome, Succeeded) else outcome.result
        if failure is None and record.callback is None and body is not None:
            record = replace(record, callback=body, says_failed=isinstance(outcome, Failed))
        called_back = record.callback is not None
        self.record = replace(
            record,
            state=State.FINISHED,
            submitted=Submitted.YES if called_back or failure is None else failure.submitted,
            finished_at=record.finished_at or time.time(),
            failure=failure,
        )
        await asyncio.wait((self._save(keep=True),), timeout=_PATIENCE_S)

    def _is_saved(self) -> bool:
        saved = self._callback_saved
        return saved is not None and saved.done() and saved.exception() is None

    def _save(self, *, keep: bool = False) -> asyncio.Future[None]:
        self._told = True
        saved = self._store.put(self.record, keep=keep)
        if saved.done():
            self._on_saved(saved)
        elif not self.known.done():
            saved.add_done_callback(self._on_saved)
        return saved

    def _on_saved(self, saved: asyncio.Future[None]) -> None:
        if not saved.cancelled() and saved.exception() is None and not self.known.done():
            self.known.set_result(None)
