"""Asks the job server about jobs: compensates for lost callbacks and replies, and for callbacks that say too little.

Theory of operation
-------------------
A `Poller` follows each job whose profile has a call for its outcome, in parallel with the job's runner. It asks

- `after` seconds after the submission (after a restart: sooner, but not for all jobs at once), then every `every`
  seconds, plus or minus a fifth, and a last time a second before the deadline. This finds a lost callback's outcome;
  after a lost reply, it finds the job itself, if the call needs only our own names;
- as soon as the job server has announced an outcome (`notification_only`), then again after growing pauses, because the
  outcome may not be available yet, and a last time shortly before the deadline. Each announcement starts this anew.

An answer without an outcome may ask for a longer pause (Retry-After).

There is one call at a time for a job, and none is aborted to start another; but none lasts longer than a minute, and a
worker that hangs is not waited for. An answer with a final state is recorded like the callback; the first final state
counts, whichever way it came. An invalid answer is ignored.

The `Asker` seam hides who makes the calls: on this machine a worker does, so that a job server's answer is parsed where
it can do no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from proxy.jobs import log_lines
from shared.errors import Code
from shared.job_server.verdict import Kind
from shared.lifecycle import State, Submitted
from shared.messages import Told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.jobs.job import Job
    from proxy.jobs.job_server import ServedJobServer, ServedJobServers
    from proxy.store.record import Record

__all__ = ["Asker", "Poller", "Schedule"]

#: The failures of jobs that may still run at the job server. INTERRUPTED: of a job that was left open.
_GIVEN_UP: Final = frozenset({Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.INTERRUPTED})
#: The delay if there is only [result] to ask for.
_AFTER_S: Final = 30.0
_EVERY_S: Final = 10.0
#: The random part of a pause, in both directions: jobs that began together do not ask together.
_JITTER: Final = 0.2
#: Before the deadline, so that the answer is there in time.
_LAST_S: Final = 1.0
#: After a notification: the first pause, and the increase of each further one.
_SOON_S: Final = 0.1
_GROWTH: Final = 2.0
#: The longest pause before a call after another notification: some job servers send very many.
_AGAIN_S: Final = 1.0
#: How long to look for the reason of a failure, while the client waits; and when to stop, before the deadline.
_REASON_S: Final = 2.0
_TO_TELL_S: Final = 0.25
#: The possible outcomes of a call.
_OUTCOMES: Final = frozenset({Kind.SUCCEEDED, Kind.FAILED, Kind.PROGRESS, "cancelled", "unavailable"})
#: While a name is missing for a call, which is noticed at once: how long until the next look.
_LACKING_S: Final = 1.0
_NO_ID: Final = "the job server has not given its id for the job yet"
#: How long a person waits for the job server's answer.
_NOW_S: Final = 10.0
#: How long a cancel call for a job that nobody waits for any more may take, with the wait for a worker; and how long to
#: wait before it for the reply that names the job.
_CANCEL_S: Final = 10.0
_NAME_S: Final = 1.5  # less than an operator's page waits


class Asker(Protocol):
    """Makes calls to job servers."""

    async def ask(self, job: Job, call: str, deadline: float) -> Told:
        """Make `call` (shared/messages.py, `Ask`) about `job`, by `deadline` (monotonic seconds). Never raises."""
        ...


@dataclass(slots=True, kw_only=True)
class Schedule:
    """When to ask about a job next. Pure; all times in seconds of one clock."""

    after_s: float
    every_s: float
    deadline: float
    #: A random number from 0 to 1.
    chance: Callable[[], float] = field(default=random.random)
    _asked_at: float | None = None
    _pause_s: float = 0.0
    #: The job server has asked for a pause until then.
    _not_before: float = -math.inf

    def next_at(self, now: float, submitted_at: float | None, *, notified: bool) -> float | None:
        """Return when to ask next; None: not in the present state."""
        last = self.deadline - (_SOON_S if notified else _LAST_S)
        if self._asked_at is not None and self._asked_at >= last:
            return None
        last = max(now, last)
        if notified:
            due = now if self._asked_at is None else self._asked_at + self._pause_s
        elif submitted_at is None:
            return None
        elif self._asked_at is None:
            due = submitted_at + self.after_s
        else:
            due = self._asked_at + self.every_s * (1 + _JITTER * (2 * self.chance() - 1))
        return min(last, max(due, self._not_before))

    def asked(self, now: float, *, notified: bool, pause_s: float = 0.0) -> None:
        """Note that an answer has come, which asks for a pause before the next call; 0: it does not."""
        self._asked_at = now
        self._not_before = now + pause_s
        if notified:
            self._pause_s = max(_SOON_S, min(self._pause_s * _GROWTH, self.every_s))

    def announced(self) -> None:
        """Note that the job server has announced an outcome: whatever it said before is out of date."""
        self._pause_s = min(self._pause_s, _AGAIN_S)
        self._not_before = -math.inf


class Poller:
    """Asks about jobs."""

    def __init__(self, job_servers: ServedJobServers, asker: Asker) -> None:
        self._job_servers = job_servers
        self._asker = asker
        self._looking: set[asyncio.Task[None]] = set()
        #: The number of calls, by profile, call and outcome (the kind in `Told`).
        self.counts: Counter[tuple[str, str, str]] = Counter()
        #: Returns whether a callback with a name came before its job had the name, and forgets the name.
        self.was_called: Callable[[str, str], bool] = lambda _profile, _name: False

    async def follow(self, job: Job) -> None:
        """Ask about `job` until its outcome is on record; to be cancelled when the job ends in another way.

        Nothing is asked if that is impossible.
        """
        server = self._job_servers.of(job)
        if server is None or not server.can_be_asked:
            return
        status = server.profile.status
        after_s = _AFTER_S if status is None else status.after
        every_s = _EVERY_S if status is None else status.every
        if job.adopted:  # with many others at once; and its callback may have come while no front end was running
            after_s = random.random() * every_s  # noqa: S311 - jitter
        schedule = Schedule(after_s=after_s, every_s=every_s, deadline=job.deadline)
        heard = 0
        while not job.callback.done():
            self._hear_early(job, server)
            notified = job.notifications > 0
            if heard < job.notifications:
                heard = job.notifications
                schedule.announced()
            now = time.monotonic()
            due = schedule.next_at(now, _submitted_at(job), notified=notified)
            if due is None or due > now:
                await _changed(job, None if due is None else due - now)
                continue
            if not server.can_ask(job.recorder.record):
                job.unanswered = f"the job server could not be asked: {_NO_ID}"
                await _changed(job, _LACKING_S)
                continue
            told = await self._ask(job, "outcome", job.deadline)
            schedule.asked(time.monotonic(), notified=notified, pause_s=told.pause_s)
            self._take(job, told)

    async def ask_now(self, job: Job) -> Told:
        """Ask about `job` on request; the answer is handled like that of a scheduled call."""
        told = await self.ask_about(job, job.deadline)
        self._take(job, told)
        return told

    async def ask_about(self, job: Job, deadline: float = math.inf) -> Told:
        """Ask about `job`, in flight or not, by `deadline` (monotonic seconds), but no longer than a person waits.

        The kind of the answer is `unavailable` if a name is missing for the call. The answer is only returned.
        """
        server = self._job_servers.of(job)
        if server is None:
            lacking = f"no job server with the profile {job.profile} is served here"
        elif not server.can_be_asked:
            lacking = "the job server has no call for a job's status"
        elif not server.can_ask(job.recorder.record):
            lacking = _NO_ID
        else:
            return await self._ask(job, "outcome", min(deadline, time.monotonic() + _NOW_S))
        return Told(job_id=job.id, call="outcome", kind="unavailable", error=lacking)

    def _hear_early(self, job: Job, server: ServedJobServer) -> None:
        """Take a notification that came before the job had the name in it."""
        output = server.profile.callback.correlate_with
        name = job.recorder.record.outputs.get(output, "")
        if name and self.was_called(server.name, name):
            job.notify()

    async def find_reason(self, job: Job) -> None:
        """Ask for a failure's missing reason; the callback may have come before the names for this call are known."""
        until = time.monotonic() + _REASON_S
        server = self._job_servers.of(job)
        if server is None:
            return
        while not server.can_ask(job.recorder.record):
            left_s = until - time.monotonic()
            if left_s <= 0 or job.state is State.FINISHED:
                return
            await _changed(job, left_s)
        told = await self._ask(job, "status", until)
        if told.kind == Kind.FAILED and told.error:
            job.recorder.reason(told.error)

    def find_reason_before(self, job: Job, then: Callable[[], None]) -> None:
        """Call `then` once the job server was asked why `job` failed, because its callback gave no reason.

        In time before the deadline, whether or not there is an answer: the failure itself is known.
        """

        async def look() -> None:
            reason = asyncio.ensure_future(self.find_reason(job))
            try:
                await asyncio.wait({reason}, timeout=max(0.0, job.deadline - time.monotonic() - _TO_TELL_S))
            finally:
                then()
            await reason

        task = asyncio.get_running_loop().create_task(look())
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    def waits_for_notifications(self, job: Job) -> bool:
        """Return whether callbacks about `job` only say that there may be an outcome to ask for."""
        server = self._job_servers.of(job)
        return server is not None and server.profile.callback.notification_only

    def can_find_reason(self, job: Job) -> bool:
        """Return whether there is a call that may give the reason."""
        server = self._job_servers.of(job)
        return server is not None and server.profile.status is not None

    def can_cancel(self, job: Job) -> bool:
        """Return whether `job` can be cancelled at the job server now."""
        server = self._job_servers.of(job)
        return server is not None and server.can_cancel(job.recorder.record.outputs)

    def has_cancel(self, job: Job) -> bool:
        """Return whether there is a call that cancels `job`, now or once the job server has named it."""
        server = self._job_servers.of(job)
        return server is not None and server.has_cancel

    def awaits_name(self, job: Job) -> bool:
        """Return whether only the reply to the submission of `job`, still to come, has what the cancel call needs."""
        return job.state is State.SUBMITTING and self.has_cancel(job) and not self.can_cancel(job)

    async def name_of(self, job: Job) -> None:
        """Wait for that reply, but not for long."""
        until = time.monotonic() + _NAME_S
        while self.awaits_name(job) and time.monotonic() < until:
            await _changed(job, until - time.monotonic())

    async def cancel(self, job: Job) -> None:
        """Cancel `job` at the job server: best effort, in the background."""
        told = await self._ask(job, "cancel", time.monotonic() + _CANCEL_S) if self.can_cancel(job) else None
        if told is not None and told.kind == "cancelled":
            log_lines.job_event("info", "the job server was told to cancel a job", job)
        else:
            reason = _NO_ID if told is None else told.error
            log_lines.job_event("warning", "the job server could not be told to cancel a job", job, reason=reason)

    def is_named_late(self, record: Record, outputs: Mapping[str, str]) -> bool:
        """Return whether a job that was given up can be cancelled at the job server only now, with these `outputs`."""
        server, failure = self._job_servers.of(record), record.failure
        if server is None or failure is None or record.callback is not None:
            return False
        is_given_up = failure.code in _GIVEN_UP and failure.submitted is not Submitted.NO
        return is_given_up and server.can_cancel(outputs) and not server.can_cancel(record.outputs)

    async def _ask(self, job: Job, call: str, deadline: float) -> Told:
        told = await self._asker.ask(job, call, deadline)
        outcome = str(told.kind) if told.kind in _OUTCOMES else "unavailable"
        self.counts[job.profile or self._job_servers.first.name, call, outcome] += 1
        job.calls[f"{call} {outcome}"] = job.calls.get(f"{call} {outcome}", 0) + 1
        return told

    @staticmethod
    def _take(job: Job, told: Told) -> None:
        if job.ended_by_answer(told):
            log_lines.job_event("info", "the job server was asked and reported how a job ended", job, answer=told.kind)
        elif told.kind == Kind.PROGRESS:
            job.unanswered = told.error
            if told.state:
                job.progress(told.state)
        elif told.kind == "unavailable":
            job.unanswered = f"the job server could not be asked: {told.error}"
            log_lines.job_event("warning", "asking the job server about a job failed", job, reason=told.error)


def _submitted_at(job: Job) -> float | None:
    """Return since when the job server may have had the job."""
    if job.adopted:
        return job.reached[State.ACCEPTED]
    return job.reached.get(State.WAITING, job.reached.get(State.SUBMITTING))


async def _changed(job: Job, timeout_s: float | None) -> None:
    job.changed.clear()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await job.changed.wait()
