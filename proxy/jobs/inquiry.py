"""Asks the job server about one job of any instance, even if it has ended: on an operator's request, or because the job
server has announced the outcome of a job that ended without it.

A job in flight here is asked about by its poller. For any other job, the record has everything that a call needs. An
answer that says how the job ended is recorded like a callback: it ends a job of another instance, which is notified,
and is the late result of a job that ended without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from proxy.jobs import log_lines
from proxy.jobs.job import is_id
from proxy.jobs.left_open import adopt
from proxy.jobs.polling import Schedule
from shared.errors import RequestError, StoreUnavailableError
from shared.job_server.verdict import FINAL
from shared.lifecycle import State, Submitted
from shared.messages import Told

if TYPE_CHECKING:
    from proxy.jobs.callback_intake import CallbackIntake
    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.job_server import ServedJobServers
    from proxy.jobs.polling import Poller
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["Inquiry"]

#: How long to ask for an outcome that was announced late, the longest pause, and about how many jobs at a time.
_LATE_S: Final = 60.0
_EVERY_S: Final = 10.0
_MOST_LATE: Final = 100


class Inquiry:
    """Asks about jobs by their ids."""

    def __init__(
        self,
        *,
        in_flight: InFlight,
        store: JobStore,
        poller: Poller,
        job_servers: ServedJobServers,
        callback_intake: CallbackIntake,
    ) -> None:
        """`callback_intake` accepts the answers about jobs that are not in flight here."""
        self._in_flight = in_flight
        self._store = store
        self._poller = poller
        self._job_servers = job_servers
        self._callback_intake = callback_intake
        #: The jobs whose outcomes were announced late, by id.
        self._late: dict[str, asyncio.Task[None]] = {}

    def can_ask(self, record: Record) -> bool:
        """Return whether there is a call that can say more about a job than its record."""
        server = self._job_servers.of(record)
        if server is None or not server.can_be_asked:
            return False
        return record.state is not State.FINISHED or (not _reason_not_to_ask(record) and server.can_ask(record))

    async def ask(self, job_id: str) -> Told | None:
        """Return the job server's answer about a job; None: there is no such job.

        The kind is `unavailable` if there is nothing to ask, or a name is missing for the call.

        Raises:
            StoreUnavailableError: the job cannot be looked up, or the answer cannot be recorded.
            RequestError: it was deleted meanwhile.
        """
        job = self._in_flight.by_id(job_id)
        if job is not None:
            told = await self._poller.ask_now(job)
            if told.kind in FINAL and not job.recorder.called_back:  # the job ended in the meantime
                await asyncio.wait((job.outcome,))
                await self._callback_intake.take_answer(job.token_hash, told)
            return told
        record = await self._store.by_id(job_id) if is_id(job_id) else None
        return None if record is None else await self._ask_by(record)

    def announced(self, record: Record) -> None:
        """Ask about a job that ended without an outcome, in the background: the job server has announced one since."""
        if record.id not in self._late and len(self._late) < _MOST_LATE and self.can_ask(record):
            self._late[record.id] = task = asyncio.get_running_loop().create_task(self._ask_late(record))
            task.add_done_callback(lambda _: self._late.pop(record.id))

    async def _ask_late(self, known: Record) -> None:
        """Ask until there is an outcome, which may not be available at once, but not for long."""
        record: Record | None = known
        schedule = Schedule(after_s=0.0, every_s=_EVERY_S, deadline=time.monotonic() + _LATE_S)
        while record is not None and self.can_ask(record):
            due = schedule.next_at(time.monotonic(), None, notified=True)
            if due is None:
                return
            await asyncio.sleep(due - time.monotonic())
            pause_s = 0.0
            with contextlib.suppress(RequestError, StoreUnavailableError):
                pause_s = (await self._ask_by(record)).pause_s
                record = await self._store.by_id(record.id)
            schedule.asked(time.monotonic(), notified=True, pause_s=pause_s)

    async def _ask_by(self, record: Record) -> Told:
        reason = _reason_not_to_ask(record)
        if reason:
            return Told(job_id=record.id, call="outcome", kind="unavailable", error=reason)
        job = adopt(self._store, record)
        told = await self._poller.ask_about(job)
        if told.kind in FINAL:
            await self._callback_intake.take_answer(record.token_hash, told)
            log_lines.job_event("info", "the job server was asked and reported how a job ended", job, answer=told.kind)
        return told


def _reason_not_to_ask(record: Record) -> str:
    """Return why there is nothing to ask about a job; empty if there is."""
    if record.callback is not None:
        return "the job's outcome is already recorded"
    if record.state is State.FINISHED and record.submitted is Submitted.NO:
        return "the job server was not given the job"
    return ""
