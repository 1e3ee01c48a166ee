"""Records one job in the store: what, and when.

Whatever happens to a job must be known after the death of this process. So two things are awaited: before a worker gets
the job, it is recorded as SUBMITTING (from then on, readers of the record cannot know whether it was submitted); and
before a callback is answered 2xx, its body is recorded. With that body, the record is complete and says FINISHED: the
callback is the outcome that the client gets. A failure is recorded before its client is told, but for no longer than
`_PATIENCE_S`: a job in flight is answered, with or without the journal.

Everything else is recorded later: that a job waits for a worker, that the reply was read, that a callback was repeated.

If several instances share a store, it may refuse a record (`TakenError`): another instance owns the job now, or has
recorded its end. Then the stored record counts, and replaces the one here. From then on, only a callback of such a job
is put.

The job's runner calls this recorder at each of these moments; nothing is recorded implicitly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from proxy.store.protocol import TakenError
from shared.errors import Code
from shared.lifecycle import State
from shared.outcome import Failed, Outcome, Succeeded

if TYPE_CHECKING:
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["Recorder"]

_PATIENCE_S: Final = 0.3
#: An end this long after the deadline comes from an instance that was stopped meanwhile. It first has to reach its
#: store again, because its clients have to be told what is recorded there by now; this is how long it tries.
_STOPPED_S: Final = 1.0
_STOPPED_PATIENCE_S: Final = 3.0


class Recorder:
    """Keeps the record of one job in flight, here and in the store."""

    def __init__(self, store: JobStore, record: Record, *, stored: bool = False) -> None:
        """Start with `record`; `stored`: it is already in the store."""
        #: The current record; the store has it, or will have it soon.
        self.record = record
        #: Done when the store has the job: from then on, an answer may contain its id.
        self.stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if stored:
            self.stored.set_result(None)
        self._store = store
        self._owner = record.owner
        self._put = stored
        self._callback_stored: asyncio.Future[None] | None = None
        self._end_stored: asyncio.Future[None] | None = None
        self._ended_elsewhere = False

    async def claim(self) -> None:
        """Record the job before anything is done with it: from then on, no other instance starts one with its key.

        Raises:
            TakenError: another job has the key.
            StoreUnavailableError: it cannot be recorded now, or it is unknown whether it was.
        """
        await self._save()

    def queued(self) -> None:
        """Record that the job waits for a worker, unless more is already recorded.

        At once, if it has a key: another request may have the same one. Otherwise later: nobody knows its id yet, and
        the job may well have begun by then.
        """
        if self._put:
            return
        if self.record.key is not None:
            self._save()
        else:
            self._store.note(self.record)

    def soon_stored(self) -> asyncio.Future[None]:
        """Record the job at once, unless that has begun; return `stored`."""
        if not self._put:
            self._save()
        return self.stored

    async def submitting(self) -> None:
        """Record that the job may be submitted from now on; it must not be submitted before this returns.

        Raises:
            StoreUnavailableError: it cannot be recorded now.
            TakenError: another instance owns the job, or it has ended; this one must not submit it.
        """
        if self.is_taken:
            raise TakenError(self.record)
        if self.record.state is State.ACCEPTED:
            self.record = replace(self.record, state=State.SUBMITTING)
            await asyncio.shield(self._save())  # look-ups of the job also wait for it, and the deadline may come first

    def waiting(self, outputs: Mapping[str, str] | None = None) -> None:
        """Record soon that the job server has the job, with the reply's outputs, which take precedence over others."""
        known = self.record
        state = known.state if known.state is State.FINISHED else State.WAITING
        named = {**known.outputs, **outputs} if outputs else known.outputs
        if state is not known.state or named != known.outputs:
            self.record = replace(known, state=state, outputs=named)
            self._store.note(self.record)

    @property
    def is_owned_elsewhere(self) -> bool:
        """Whether another instance owns the job."""
        return self.record.owner != self._owner

    @property
    def is_taken(self) -> bool:
        """Whether another instance owns the job, or has recorded its end."""
        return self.is_owned_elsewhere or self._ended_elsewhere

    @property
    def called_back(self) -> bool:
        """Whether a callback came, recorded or not."""
        return self.record.callback is not None

    def outputs(self, outputs: Mapping[str, str]) -> None:
        """Record, some time later, the outputs that the job server has provided."""
        self.record = replace(self.record, outputs=outputs)
        self._store.note(self.record)

    def worker_lost(self, end: str) -> None:
        """Note how the worker that had the job ended; the note is part of the next record."""
        if self.record.state is not State.FINISHED:
            self.record = replace(self.record, worker_end=end)

    def reason(self, error: str) -> None:
        """Record later the reason of a failure whose callback had none."""
        self.record = replace(self.record, error=error)
        self._store.note(self.record)

    def callback(
        self, body: bytes, *, failed: bool, early: bool, content_type: str = "", error: str = "", trail: str = ""
    ) -> asyncio.Future[None]:
        """Record the first callback, and the history of the job (`trail`, trail.py).

        The future is done when that is recorded, or fails with StoreUnavailableError.
        """
        self.record = replace(
            self.record,
            state=State.FINISHED,
            finished_at=self.record.finished_at or time.time(),
            callback=body,
            says_failed=failed,
            early=early,
            content_type=content_type,
            error=error,
            trail=trail or self.record.trail,
        )
        self._callback_stored = self._save()
        return self._callback_stored

    def callback_elsewhere(self, record: Record) -> None:
        """Take over a callback that another part or instance has recorded."""
        if not self.called_back:
            told = self.record.failure  # its client was told here
            self.record = replace(record, failure=told or record.failure)
            self._callback_stored = self.stored

    def ended_elsewhere(self, record: Record) -> None:
        """Take over an end without a callback that another instance has recorded."""
        if self.record.state is not State.FINISHED:
            self.record = record
            self._ended_elsewhere = True

    def waits_elsewhere(self, record: Record) -> None:
        """Update the owner of the open job, and what is known about it."""
        if self.record.state is not State.FINISHED:
            state = record.state if record.state is State.WAITING else self.record.state
            refused = max((self.record, record), key=lambda each: each.refused)
            self.record = replace(
                self.record,
                owner=record.owner,
                state=state,
                outputs={**record.outputs, **self.record.outputs},
                refused=refused.refused,
                refusal=refused.refusal,
            )

    def refused(self, reason: str) -> None:
        """Record, some time later, that a callback was refused, and why."""
        self.record = replace(self.record, refused=self.record.refused + 1, refusal=reason)
        self._store.note(self.record)

    def proven(self) -> None:
        """Record, some time later, that the job server has the job, because a callback came that does not end it."""
        proven = self.record.proven()
        if proven != self.record:
            self.record = proven
            self._store.note(proven)

    def duplicate(self) -> asyncio.Future[None]:
        """Record a repeated callback later; the future is that of the first one, which is retried if necessary."""
        self.record = replace(self.record, duplicates=self.record.duplicates + 1)
        first = self._callback_stored
        if first is None or (first.done() and first.exception() is not None):
            first = self._callback_stored = self._save()
        else:
            self._store.note(self.record)
        return first

    async def finished(self, outcome: Outcome, *, trail: str = "", cancelled_by: str = "") -> Outcome:
        """Record how the job ended, and its history (`trail`, trail.py); return what its client gets.

        That is `outcome`; but if instances share a store, a callback counts, whatever else has happened meanwhile.

        Raises:
            TakenError: another instance owns the job, or has recorded its end.
        """
        if self.record.owner and self.called_back:
            if not self._is_callback_stored():
                self._end_stored = self._save(keep=True)
                await asyncio.wait((self._end_stored,), timeout=self._patience_s())
            return self.record.outcome or outcome
        if self.is_taken:
            raise TakenError(self.record)
        failure = outcome if isinstance(outcome, Failed) and outcome.code is not Code.JOB_FAILED else None
        if failure is None and self.called_back and self._is_callback_stored():
            return outcome  # everything is recorded
        record = self.record
        body = outcome.body if isinstance(outcome, Succeeded) else outcome.result
        if failure is None and not self.called_back and body is not None:
            content_type = outcome.content_type if isinstance(outcome, Succeeded) else ""
            record = replace(record, callback=body, says_failed=isinstance(outcome, Failed), content_type=content_type)
        self.record = replace(
            record,
            state=State.FINISHED,
            finished_at=record.finished_at or time.time(),
            failure=failure,
            trail=trail or record.trail,
            cancelled_by=cancelled_by if failure is not None and failure.code is Code.CANCELLED else "",
        )
        saved = self._end_stored = self._save(keep=True)
        await asyncio.wait((saved,), timeout=self._patience_s())
        if saved.done() and isinstance(exc := saved.exception(), TakenError):
            raise exc
        if failure is None:
            return outcome
        # A callback that came meanwhile proves more than was known at the end.
        told = self.record.proven() if self.called_back else self.record
        return told.failure or outcome

    async def outcome_stored(self) -> bool:
        """Wait for the store's answer about recording the outcome; return whether it is recorded.

        If not, it will be recorded as soon as the store has recovered.
        """
        if self._end_stored is None:
            return True
        await asyncio.wait((self._end_stored,))
        return self._end_stored.exception() is None

    def _patience_s(self) -> float:
        was_stopped = self.record.owner and time.time() > self.record.deadline_at + _STOPPED_S
        return _STOPPED_PATIENCE_S if was_stopped else _PATIENCE_S

    def _is_callback_stored(self) -> bool:
        stored = self._callback_stored
        return stored is not None and stored.done() and stored.exception() is None

    def _save(self, *, keep: bool = False) -> asyncio.Future[None]:
        self._put = True
        saved = self._store.put(self.record, keep=keep)
        if saved.done():
            self._on_saved(saved)
        elif self.record.owner or not self.stored.done():
            saved.add_done_callback(self._on_saved)
        return saved

    def _on_saved(self, saved: asyncio.Future[None]) -> None:
        exc = None if saved.cancelled() else saved.exception()
        if isinstance(exc, TakenError):
            self._refused(exc.record)
        elif not saved.cancelled() and exc is None and not self.stored.done():
            self.stored.set_result(None)

    def _refused(self, held: Record) -> None:
        """Replace the record by the one that the store has."""
        if held.id == self.record.id:
            self.record = held
            self._ended_elsewhere = held.state is State.FINISHED
            if held.callback is not None:
                self._callback_stored = self.stored
