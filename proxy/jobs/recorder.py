"""What the store is told about one job, and when.

Whatever happens to a job must be known after the death of this process. So two things are awaited: before a worker gets
the job, it is recorded as SUBMITTING (from then on, readers of the record cannot know whether it was submitted); and
before a callback is answered 2xx, its body is recorded. With that body the record is complete, and says FINISHED: its
outcome is the callback, and that is what the client gets. A failure is recorded before its client is told, but for no
longer than `_PATIENCE_S`: a job in flight is answered, journal or not.

Everything else is recorded when there is time: that a job waits for a worker, that the reply was read, that a callback
came again.

Whoever runs a job calls this recorder at each of these moments; nothing is recorded behind the scenes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from shared.errors import Code
from shared.lifecycle import State
from shared.outcome import Failed, Outcome, Succeeded

if TYPE_CHECKING:
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["Recorder"]

_PATIENCE_S: Final = 0.3


class Recorder:
    """Keeps the record of one job in flight, here and in the store."""

    def __init__(self, store: JobStore, record: Record, *, stored: bool = False) -> None:
        """Start with `record`; `stored`: it is already in the store."""
        #: The current record; the store has it, or will have it soon.
        self.record = record
        #: Done when the store has the job: from then on its id may be sent in an answer.
        self.stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if stored:
            self.stored.set_result(None)
        self._store = store
        self._put = stored
        self._callback_stored: asyncio.Future[None] | None = None

    def queued(self) -> None:
        """Record soon that the job waits for a worker, unless more has been recorded already."""
        if not self._put:
            self._save()

    async def submitting(self) -> None:
        """Record that the job may be submitted from now on; it must not be before this returns.

        Raises:
            StoreUnavailableError: it cannot be recorded now.
        """
        if self.record.state is State.ACCEPTED:
            self.record = replace(self.record, state=State.SUBMITTING)
            await self._save()

    def waiting(self) -> None:
        """Record soon that the job server has the job."""
        if self.record.state is not State.FINISHED:
            self.record = replace(self.record, state=State.WAITING)
            self._store.note(self.record)

    @property
    def called_back(self) -> bool:
        """Whether a callback came, recorded or not."""
        return self.record.callback is not None

    def outputs(self, outputs: Mapping[str, str]) -> None:
        """Record, some time, what the job server has named."""
        self.record = replace(self.record, outputs=outputs)
        self._store.note(self.record)

    def reason(self, error: str) -> None:
        """Record, some time, the reason of the failure that a callback told without one."""
        self.record = replace(self.record, error=error)
        self._store.note(self.record)

    def callback(
        self, body: bytes, *, failed: bool, early: bool, content_type: str = "", error: str = ""
    ) -> asyncio.Future[None]:
        """Record the first callback; the future is done when it is recorded, or fails with StoreUnavailableError."""
        self.record = replace(
            self.record,
            state=State.FINISHED,
            finished_at=self.record.finished_at or time.time(),
            callback=body,
            says_failed=failed,
            early=early,
            content_type=content_type,
            error=error,
        )
        self._callback_stored = self._save()
        return self._callback_stored

    def callback_elsewhere(self, record: Record) -> None:
        """Learn of a callback that another part or process has recorded."""
        if not self.called_back:
            self.record = replace(record, failure=self.record.failure)  # who told the client so is here
            self._callback_stored = self.stored

    def refused(self, reason: str) -> None:
        """Record, some time, that a callback was refused, and why."""
        self.record = replace(self.record, refused=self.record.refused + 1, refusal=reason)
        self._store.note(self.record)

    def duplicate(self) -> asyncio.Future[None]:
        """Record, some time, one more callback; the future is that of the first one, which is tried again if needed."""
        self.record = replace(self.record, duplicates=self.record.duplicates + 1)
        first = self._callback_stored
        if first is None or (first.done() and first.exception() is not None):
            first = self._callback_stored = self._save()
        else:
            self._store.note(self.record)
        return first

    async def finished(self, outcome: Outcome) -> None:
        """Record the outcome of the job."""
        record = self.record
        failure = outcome if isinstance(outcome, Failed) and outcome.code is not Code.JOB_FAILED else None
        if failure is None and self.called_back and self._is_callback_stored():
            return  # everything is recorded
        body = outcome.body if isinstance(outcome, Succeeded) else outcome.result
        if failure is None and not self.called_back and body is not None:
            content_type = outcome.content_type if isinstance(outcome, Succeeded) else ""
            record = replace(record, callback=body, says_failed=isinstance(outcome, Failed), content_type=content_type)
        self.record = replace(
            record,
            state=State.FINISHED,
            finished_at=record.finished_at or time.time(),
            failure=failure,
        )
        await asyncio.wait((self._save(keep=True),), timeout=_PATIENCE_S)

    def _is_callback_stored(self) -> bool:
        stored = self._callback_stored
        return stored is not None and stored.done() and stored.exception() is None

    def _save(self, *, keep: bool = False) -> asyncio.Future[None]:
        self._put = True
        saved = self._store.put(self.record, keep=keep)
        if saved.done():
            self._on_saved(saved)
        elif not self.stored.done():
            saved.add_done_callback(self._on_saved)
        return saved

    def _on_saved(self, saved: asyncio.Future[None]) -> None:
        if not saved.cancelled() and saved.exception() is None and not self.stored.done():
            self.stored.set_result(None)
