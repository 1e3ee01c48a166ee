"""Which instances are alive, by the database's clock: heartbeats, and the takeover from instances without one.

A lease decides only how soon something happens, never whether it is correct: an instance that has lost a job cannot
write it any more, whatever it assumes. No instance declares another dead before its own heartbeats have succeeded for a
whole lease without a gap; otherwise all would count as dead after an outage of the database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy import log
from proxy.store.postgresql.ends import finish, lasting, pause
from proxy.store.postgresql.health import Health
from proxy.store.postgresql.rows import record_of, values_of
from proxy.store.postgresql.session import GoneError, Session, UnfitError
from proxy.store.postgresql.statements import (
    BEAT,
    CANCELLED,
    CLUSTER,
    DELETE,
    END_OVERDUE,
    EXPIRE,
    FORGET_INSTANCES,
    GONE,
    LEAVE,
    LOST,
    OVERDUE,
    PUTS,
    SEEN_TO,
    TAKE_CANCELLED,
    TAKE_OVER,
    UNSURE,
)
from proxy.store.record import Record
from shared.lifecycle import Submitted

__all__ = ["Leases", "Times"]

_NEVER_SUBMITTED: Final = "the instance that had accepted the job is gone; it was not submitted"
_NOBODY: Final = "the instance that saw to the job is gone, and no callback came by its deadline"
#: The pause between beats while the database is unavailable.
_AGAIN_S: Final = 0.5
#: The pause between looks for jobs that nobody sees to, if one takes long: so many times as long, but at most a lease.
_SPARING: Final = 10
_EXPIRE_BATCH: Final = 500
_EXPIRE_S: Final = 5.0
_LEAST_EXPIRE_S: Final = 0.1
#: Instances that are gone and left nothing open are forgotten after this many leases.
_FORGOTTEN_LEASES: Final = 360


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The lease's duration and the intervals of recurring work, in seconds."""

    lease_s: float = 10.0
    beat_s: float = 1.5
    #: How often the ends of the jobs that are awaited here are polled.
    poll_s: float = 0.4


class Leases:
    """Keeps this instance's lease, and takes over what other instances have left."""

    def __init__(
        self,
        session: Session,
        beside: Session,
        health: Health,
        *,
        writing: Session,
        instance: str,
        name: str,
        ttl_s: float,
        times: Times,
    ) -> None:
        """`beside` is not durable: what expires again does no harm, and a commit may wait long for a standby.

        `writing` is the session that records jobs.
        """
        self._session = session
        self._writing = writing
        self._beside = beside
        self._health = health
        self._instance = instance
        self._name = name
        self._ttl_s = ttl_s
        self._times = times
        self._tasks: list[asyncio.Task[None]] = []
        self._leaving = asyncio.Event()
        self._on_taken_over: Callable[[Sequence[Record]], None] | None = None
        self._on_given_up: Callable[[Sequence[Record]], None] = lambda _: None
        self._is_draining: Callable[[], bool] = lambda: False
        self._on_ended: Callable[[Record], None] = lambda _: None
        #: Since when beats have succeeded without a gap, and when the last one did; by the monotonic clock.
        self._healthy_since: float | None = None
        self._last_beat = time.monotonic()
        #: Jobs that an update may have changed without this instance knowing, because the answer was lost; by its SQL.
        self._unsure: dict[str, list[str]] = {}
        #: Held during a beat, and during a takeover.
        self._beating = asyncio.Lock()
        #: Instances with a lease; the age of the oldest heartbeat among those that have one or own an open job.
        self.instances = 0
        self.slowest_s = 0.0
        #: Jobs that ended before this may be missing though they have not expired; in Unix seconds.
        self.lost_before = 0.0
        #: Jobs taken over; ended after their deadlines for want of a live owner; expired.
        self.taken_over = self.overdue = self.expired = 0

    @property
    def beat_age_s(self) -> float:
        """How long ago the last beat succeeded."""
        return time.monotonic() - self._last_beat

    async def begin(self, on_ended: Callable[[Record], None]) -> None:
        """Register this instance and keep its lease; `on_ended` is called with jobs that were ended for others.

        Raises:
            GoneError, UnfitError: it cannot be registered.
        """
        self._on_ended = on_ended
        await self._beat()
        await self._ask_what_is_lost()
        loop = asyncio.get_running_loop()
        works = (self._beats, self._see_to_others, self._expire)
        self._tasks = [loop.create_task(lasting(work)) for work in works]

    def take_over(
        self,
        on_taken_over: Callable[[Sequence[Record]], None],
        on_given_up: Callable[[Sequence[Record]], None],
        is_draining: Callable[[], bool],
    ) -> None:
        """Take over from instances that are gone, from now on, unless this one is draining (`Peers.watch`)."""
        self._on_taken_over, self._on_given_up, self._is_draining = on_taken_over, on_given_up, is_draining

    async def leave(self) -> None:
        """Stop; from now on, the other instances may take over the jobs that are left open."""
        self._leaving.set()
        await finish(self._tasks)
        await self._session.run(LEAVE, self._instance)

    async def _beats(self) -> None:
        while not self._leaving.is_set():
            began = time.monotonic()
            pause_s = self._times.beat_s
            try:
                await self._beat()
                if self._health.is_unwritable:
                    await self._try_to_record()
                self._health.worked(beating=True)
            except (GoneError, UnfitError) as exc:
                self._healthy_since = None
                self._health.failed(str(exc), began, beating=True)
                pause_s = min(pause_s, _AGAIN_S)
            await pause(self._leaving, pause_s)

    async def _beat(self) -> None:
        async with self._beating:
            ((gap_s,),) = await self._session.run(BEAT, self._instance, self._name)
            now = time.monotonic()
            # By the server's clock: if that was set forward, or all machines were suspended, all leases look old.
            if self._healthy_since is None or gap_s is None or gap_s > self._times.lease_s / 2:
                self._healthy_since = now
            self._last_beat = now

    async def _try_to_record(self) -> None:
        """Record a job of no one and delete it at once, as beats may succeed where new jobs cannot be recorded.

        Another connection would say nothing if there is no room for the one that records jobs.
        """
        session = self._session if self._writing.is_connected else self._writing
        now = time.time()
        job = Record(id=self._instance, token_hash=self._instance.encode(), accepted_at=now, deadline_at=now)
        insert = PUTS["insert"]
        values = insert.parameters(values_of(job, self._instance))
        await session.run_all([(insert.sql, values), (DELETE, (self._instance,))])

    async def _see_to_others(self) -> None:
        """Take over jobs, and end those that are overdue. Apart from the beats, because it may take long.

        As long as anybody's transaction stays open, the index of open jobs also has those that ended since it began.
        """
        while not self._leaving.is_set():
            began, is_more = time.monotonic(), False
            try:
                is_more = await self._see_to_some()
            except (GoneError, UnfitError) as exc:
                self._health.failed(str(exc), time.monotonic())
            sparing_s = min(self._times.lease_s, (time.monotonic() - began) * _SPARING)
            await pause(self._leaving, 0 if is_more else max(self._times.beat_s, sparing_s))

    async def _see_to_some(self) -> bool:
        """Return whether there are more."""
        lease_s = self._times.lease_s
        is_more = await self._end_overdue()
        async with self._beating:  # the beat under way could show that all leases only look old
            healthy_s = time.monotonic() - (self._healthy_since or time.monotonic())
            if self._on_taken_over is not None and healthy_s >= lease_s and not self._is_draining():
                is_more |= await self._take_over_some()
                await self._take_over_cancelled()
        ((self.instances, self.slowest_s),) = await self._session.run(CLUSTER, lease_s)
        return is_more

    async def _end_overdue(self) -> bool:
        """Return whether there are more."""
        ended = await self._unsure_about(END_OVERDUE)
        self._ended_overdue(record for record in ended if record.failure and record.failure.detail == _NOBODY)
        job_ids = [job_id for (job_id,) in await self._session.run(OVERDUE)]
        if job_ids:
            self._ended_overdue(await self._update(END_OVERDUE, job_ids, _NOBODY))
        return len(job_ids) == SEEN_TO

    def _ended_overdue(self, records: Iterable[Record]) -> None:
        overdue = list(records)
        self.overdue += len(overdue)
        for record in overdue:
            log.event("warning", "a job without a live instance was ended", job_id=record.id, owner=record.owner)
            self._on_ended(record)
        self._give_up(record for record in overdue if record.owner != self._instance)

    async def _take_over_some(self) -> bool:
        """Return whether there are more."""
        me, lease_s = self._instance, self._times.lease_s
        taken = await self._unsure_about(TAKE_OVER)
        self._took_over(record for record in taken if record.owner == me and record.finished_at is None)
        gone = await self._session.run(GONE, me, lease_s)
        if not gone:
            return False
        job_ids, owners = [job_id for job_id, _ in gone], [owner for _, owner in gone]
        records = await self._update(TAKE_OVER, job_ids, owners, me, lease_s, _NEVER_SUBMITTED, lease_s / 2)
        self._took_over(records)
        return len(records) == SEEN_TO

    async def _take_over_cancelled(self) -> None:
        me, lease_s = self._instance, self._times.lease_s
        taken = await self._unsure_about(TAKE_CANCELLED)
        self._give_up(record for record in taken if record.owner == me)
        job_ids = [job_id for (job_id,) in await self._session.run(CANCELLED, lease_s)]
        if job_ids:
            self._give_up(await self._update(TAKE_CANCELLED, job_ids, lease_s, me, lease_s / 2))

    async def _update(self, sql: str, job_ids: list[str], *params: Any) -> list[Record]:
        """Update jobs ($1); return the records of those that were changed."""
        self._unsure[sql] = job_ids
        rows = await self._session.run(sql, job_ids, *params)
        del self._unsure[sql]
        return [record_of(row) for row in rows]

    async def _unsure_about(self, sql: str) -> list[Record]:
        """Return the jobs that this update may have changed the last time, if its answer was lost."""
        job_ids = self._unsure.get(sql)
        if not job_ids:
            return []
        rows = await self._session.run(UNSURE, job_ids)
        del self._unsure[sql]
        return [record_of(row) for row in rows]

    def _give_up(self, ended: Iterable[Record]) -> None:
        """Report jobs that may be running at the job server, and have to be cancelled there."""
        unfinished = (record for record in ended if record.callback is None)
        self._on_given_up([record for record in unfinished if record.submitted is not Submitted.NO])

    def _took_over(self, taken: Iterable[Record]) -> None:
        records = list(taken)
        if not records or self._on_taken_over is None:
            return
        self.taken_over += len(records)
        self._on_taken_over(records)
        for record in records:
            if record.finished_at is not None:
                self._on_ended(record)

    async def _expire(self) -> None:
        """Delete expired jobs, some at a time, and instances that are gone."""
        every_s = max(_LEAST_EXPIRE_S, min(_EXPIRE_S, self._ttl_s / 4))
        while not self._leaving.is_set():
            expired = 0
            try:
                ((expired,),) = await self._beside.run(EXPIRE, self._ttl_s, _EXPIRE_BATCH)
                await self._ask_what_is_lost()
                await self._beside.run(FORGET_INSTANCES, self._times.lease_s * _FORGOTTEN_LEASES)
            except (GoneError, UnfitError) as exc:
                self._health.failed(str(exc), time.monotonic())
            self.expired += expired
            await pause(self._leaving, _LEAST_EXPIRE_S if expired == _EXPIRE_BATCH else every_s)

    async def _ask_what_is_lost(self) -> None:
        ((lost_s,),) = await self._session.run(LOST)
        self.lost_before = time.time() - lost_s
