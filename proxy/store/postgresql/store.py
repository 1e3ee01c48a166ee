"""The store that instances share: orders are queued in lanes, each over one connection.

Puts and notes become rows (writes.py); a look-up sees all earlier puts. On a notice from another instance, this one
reads the job's row. The ends of jobs that this instance waits for are found without notices, too: one query polls them
all several times a second.

If the database is unavailable, orders are retried for `PATIENCE_S`, callbacks for longer, because their senders may not
retry. After that, waiting callers get an error, new jobs are refused, and records that must be kept go to the backlog,
until the heartbeats of this instance succeed again.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from msgspec.structs import replace

from proxy import log
from proxy.store.about import About, Instance
from proxy.store.backlog import Backlog
from proxy.store.deeds import Deed
from proxy.store.names import Name, Output
from proxy.store.notes import Notes
from proxy.store.patterns import Grid, Patterns, patterns
from proxy.store.postgresql.audit import AuditTable
from proxy.store.postgresql.awaited import AwaitedEnds
from proxy.store.postgresql.ends import finish, lasting, pause
from proxy.store.postgresql.health import PATIENCE_S, Health
from proxy.store.postgresql.leases import Leases, Times
from proxy.store.postgresql.look_ups import LookUps
from proxy.store.postgresql.notices import EVERYONE, Notices
from proxy.store.postgresql.orders import Lane, fail
from proxy.store.postgresql.reading import DIALECT, Searches
from proxy.store.postgresql.rows import record_of
from proxy.store.postgresql.session import GoneError, Session, UnfitError
from proxy.store.postgresql.statements import ABOUT, CALLED, FAILED, INSTANCES, NAMED
from proxy.store.postgresql.writes import Put, Writer
from proxy.store.protocol import ALL, Reading, TakenError, counter, gauge
from proxy.store.query import USUAL, Counts, JobPage, JobQuery, Limits, Position, Sort, remembered, within
from proxy.store.record import Record
from proxy.store.search import counts, page
from shared.errors import StoreUnavailableError
from shared.lifecycle import State

__all__ = ["PostgreSQLStore"]

#: How long to try to record a callback, or to find its job.
_CALLBACK_PATIENCE_S: Final = 8.0
#: Added for each megabyte of a result.
_PER_MEGABYTE_S: Final = 0.5
#: The minimum time between the starts of two batches: this for each open job but one, up to the second figure.
_PACE_S: Final = 0.00025
_LONGEST_PACE_S: Final = 0.004
#: How often to check whether a caller has waited long enough.
_LOOK_S: Final = 0.25
#: How long the end may take: to write what is left, and to give up the lease.
_CLOSE_S: Final = 2.0
_LEAVE_S: Final = 2.0
#: How many open jobs, and how many finished ones, are searched for a name: few enough for the answer to be in time.
_SEARCHED: Final = 20_000


class PostgreSQLStore:
    """A `JobStore` that several instances share, and the view of the others (`Peers`)."""

    kind = "postgresql"

    def __init__(
        self, conninfo: str, *, place: str, name: str, ttl_s: float, hosts: int = 1, times: Times | None = None
    ) -> None:
        """Use the existing tables in a database; must run inside an event loop.

        `place`: the database's name for people; `hosts`: how many may have to be tried; `ttl_s`: for how many seconds a
        finished job is remembered. Does not connect before `begin`.
        """
        self._loop = asyncio.get_running_loop()
        self._place = place
        self._name = name
        self._ttl_s = float(ttl_s)
        self._times = times or Times()
        self._instance = uuid.uuid4().hex
        session = partial(Session, conninfo, hosts=hosts)
        self._writing, self._reading, self._listening = session(), session(may_take_long=False), session()
        self._beside = session(durable=False)
        self._backlog = Backlog()
        self._unfit = 0
        self._notes = Notes(self._order_notes)
        self._on_changed: Callable[[Record], None] = lambda _: None
        #: Jobs that have changed and are being read.
        self._looked_at: set[str] = set()
        self._reads: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()
        self._searches = Searches(self._beside, partial(session, durable=False))
        health = self._health = Health(place, (self._writing, self._reading), lambda: self._given_up)
        self._writer = Writer(self._instance, self._ttl_s, on_second_result=self._note_second_result)
        self._puts: Lane[Put] = Lane(
            self._writing,
            health,
            carry_out=partial(self._write, self._writing),
            give_up=self._give_up,
            pace_s=self._pace_s,
            proves=True,
        )
        self._noted: Lane[Put] = Lane(
            self._beside, health, carry_out=partial(self._write, self._beside), give_up=self._give_up
        )
        self._audit = AuditTable(self._beside, health)
        self._awaited = AwaitedEnds(self._reading, health, every_s=self._times.poll_s, on_end=self._look_at)
        self._look_ups = LookUps(self._reading, health, ttl_s=self._ttl_s, on_end=self._awaited.tell)
        self._leases = Leases(
            self._reading,
            self._beside,
            health,
            writing=self._writing,
            instance=self._instance,
            name=name,
            ttl_s=self._ttl_s,
            times=self._times,
        )

    async def begin(self) -> None:
        """Register this instance, and start. Raises GoneError, UnfitError."""
        self._notices = Notices(
            self._beside,
            self._listening,
            self._health,
            self._instance,
            on_notice=partial(self._look_at, noticed=True),
            on_gap=self._awaited.look_now,
        )
        await self._leases.begin(self.tell)
        self._tasks = [self._loop.create_task(lasting(work)) for work in (self._awaited.run, self._look)]

    @property
    def open_jobs(self) -> int:
        """About how many jobs of this instance are open: in the database, or noted; one that is both counts twice."""
        return len(self._writer.known) + len(self._notes)

    # --- peers -------------------------------------------------------------------------------------------------------

    @property
    def instance(self) -> str:
        """See `Peers.instance`."""
        return self._instance

    @property
    def name(self) -> str:
        """See `Peers.name`."""
        return self._name

    def watch(
        self,
        *,
        on_changed: Callable[[Record], None],
        on_taken_over: Callable[[Sequence[Record]], None],
        on_given_up: Callable[[Sequence[Record]], None] = lambda _: None,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        """See `Peers.watch`."""
        self._on_changed = on_changed
        self._leases.take_over(on_taken_over, on_given_up, is_draining)

    def tell(self, record: Record, *, to_all: bool = False) -> None:
        """See `Peers.tell`."""
        instances = {record.owner, record.origin, EVERYONE if to_all else ""} - {self._instance, ""}
        if not instances:
            return
        if record.id in self._notes:
            self._order_notes(self._notes.take_all())
        noted = [put.done for put in self._noted.pending() if put.record.id == record.id]
        if noted:
            noted[-1].add_done_callback(lambda _: self._notices.send(instances, record.id))
        else:
            self._notices.send(instances, record.id)

    # --- the store ---------------------------------------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        """See `JobStore.trouble`."""
        return self._health.trouble

    def readings(self) -> Iterable[Reading]:
        """See `JobStore.readings`."""
        sessions = (self._writing, self._reading, self._beside, self._listening)
        connected = sum(session.is_connected for session in sessions)
        batches = self._puts.batches + self._noted.batches
        queued = len(self._puts) + len(self._noted) + len(self._look_ups) + len(self._notes)
        leases = self._leases
        return (
            gauge("journal_unavailable", "1 while the journal is unavailable.", bool(self.trouble)),
            gauge("journal_queue", "Orders that the journal has not carried out.", queued),
            gauge(
                "journal_backlog", "Jobs that will be recorded when the journal is available again.", len(self._backlog)
            ),
            counter("journal_commits", "Batches of records that were committed.", batches),
            counter("journal_failures", "Statements that failed or were not answered.", self._health.failures),
            counter("journal_records_written", "Records written.", self._writer.written),
            counter("journal_records_given_up", "Records dropped because the backlog was full.", self._given_up),
            counter("journal_jobs_expired", "Jobs deleted after RESULT_TTL.", leases.expired),
            gauge("journal_connections", "Connections to the database.", connected),
            gauge("cluster_instances", "Instances whose lease is valid.", leases.instances),
            gauge("cluster_beat_age_seconds", "Since this instance's lease was last renewed.", leases.beat_age_s),
            gauge("cluster_slowest_lease_seconds", "The oldest lease of all instances.", leases.slowest_s),
            counter("cluster_jobs_overdue", "Jobs ended because nobody saw to them.", leases.overdue),
            counter("cluster_notices_heard", "Notices from other instances.", self._notices.heard),
            counter(
                "cluster_notices_lost",
                "Ends that were found by looking: no notice came, or not yet.",
                self._awaited.lost_notices,
            ),
        )

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """See `JobStore.put`. If it fails because the database is unavailable, it may be written nevertheless."""
        had_to_be_kept = self._notes.pop(record.id) | self._backlog.pop(record.id)
        put = self._order(record, keep=keep or had_to_be_kept)
        # Ends are tried anyway: an instance that was paused may only think that the database is unavailable.
        if self.trouble and record.callback is None and not put.keep:
            self._give_up(put, StoreUnavailableError(self.trouble))
        else:
            self._puts.add(put)
        return put.done

    def note(self, record: Record) -> None:
        """See `JobStore.note`."""
        self._notes.add(record)

    async def by_id(self, job_id: str) -> Record | None:
        """See `JobStore.by_id`."""
        return await self._find("id", job_id, PATIENCE_S)

    async def by_token(self, hashed: bytes) -> Record | None:
        """See `JobStore.by_token`."""
        return await self._find("token_hash", hashed, _CALLBACK_PATIENCE_S)

    async def by_key(self, key: bytes) -> Record | None:
        """See `JobStore.by_key`."""
        return await self._find("key", key, PATIENCE_S)

    async def by_beginning(self, beginning: str) -> Record | None:
        """See `JobStore.by_beginning`."""
        return await self._find("beginning", beginning, PATIENCE_S)

    async def by_name(self, name: Name, *, among: int = ALL) -> Record | None:
        """See `JobStore.by_name`. Uses the session of the notes, which are in no hurry and can wait for it."""
        kept = self._backlog.find_named(name)
        if kept is not None:
            return kept
        self._order_notes(self._notes.take_all())  # so that the look-up sees earlier notes
        for put in self._noted.pending() + self._puts.pending():
            if name.is_of(put.record):
                await _settled(put.done)
        among = min(among, _SEARCHED)
        if isinstance(name, Output):
            rows = await self._searches.rows(NAMED, name.in_json, self._ttl_s, among, name.profile)
        else:
            rows = await self._searches.rows(CALLED, name.in_json, self._ttl_s, among, *name.ids)
        job_ids = [record.id for record in map(record_of, rows) if name.is_of(record)]
        return await self.by_id(job_ids[0]) if job_ids else None

    async def jobs(
        self, query: JobQuery, *, sort: Sort, limit: int, after: Position | None = None, limits: Limits = USUAL
    ) -> JobPage:
        """See `JobStore.jobs`: of all instances."""
        meant = remembered(query, time.time() - self._ttl_s)
        return await self._searches.ask(page(DIALECT, meant, sort=sort, limit=limit, after=after, limits=limits))

    async def counts(self, query: JobQuery, *, limits: Limits = USUAL) -> Counts:
        """See `JobStore.counts`: of all instances."""
        return await self._searches.ask(counts(DIALECT, remembered(query, time.time() - self._ttl_s), limits=limits))

    async def patterns(self, query: JobQuery, grid: Grid, label: str, *, limits: Limits = USUAL) -> Patterns:
        """See `JobStore.patterns`: of all instances."""
        meant = within(remembered(query, time.time() - self._ttl_s), grid.since, grid.until)
        return await self._searches.ask(patterns(DIALECT, meant, grid, label, limits=limits))

    async def ended(self, job_id: str) -> Record:
        """See `JobStore.ended`."""
        try:
            return await self._awaited.of(job_id)
        finally:  # another instance may have recorded the end, or the caller has the outcome already
            self._writer.forget(job_id)

    def may_have_lost(self, since: float = 0.0) -> bool:
        """See `JobStore.may_have_lost`: from before the tables were created or restored, or `RESULT_TTL` was raised."""
        return self._leases.lost_before > max(since, time.time() - self._ttl_s)

    async def unfinished(self) -> list[Record]:
        """See `JobStore.unfinished`: jobs that are left open are taken over once the lease has expired."""
        return []

    async def last_failures(self, limit: int) -> list[Record]:
        """See `JobStore.last_failures`: of all instances."""
        return [record_of(row) for row in await self._searches.rows(FAILED, self._ttl_s, limit)]

    async def about(self) -> About:
        """See `JobStore.about`."""
        ((size_bytes, oldest_at),) = await self._searches.rows(ABOUT, self._ttl_s)
        rows = await self._searches.rows(INSTANCES)
        instances = tuple(
            Instance(id=one, name=name, started_at=started_at, beat_s=beat_s, self=one == self._instance)
            for one, name, started_at, beat_s in rows
        )
        return About(place=self._place, size_bytes=size_bytes, oldest_at=oldest_at, instances=instances)

    def enter(self, deed: Deed) -> None:
        """See `JobStore.enter`."""
        self._audit.enter(deed)

    async def deeds(self, limit: int, before: int | None) -> list[Deed]:
        """See `JobStore.deeds`: of all instances."""
        return await self._audit.newest(limit, before)

    async def close(self) -> None:
        """See `JobStore.close`. The last step is to give up this instance's lease."""
        self._order_notes(self._notes.take_all())
        self._order_kept()
        self._closing.set()
        self._awaited.close()
        end = self._loop.time() + _CLOSE_S
        for lane in (self._puts, self._noted, self._notices, self._audit):
            await lane.flush(max(0.0, end - self._loop.time()))
        left = len(self._puts) + len(self._noted) + len(self._backlog)
        if left:
            log.event(
                "error", "some jobs could not be recorded before the process ended", database=self._place, jobs=left
            )
        try:
            async with asyncio.timeout(_LEAVE_S):
                await asyncio.gather(finish(self._tasks), self._leases.leave())
        except (GoneError, UnfitError, TimeoutError) as exc:
            reason = str(exc) or "the database does not answer"
            log.event("warning", "the other instances could not be notified that this one stops", reason=reason)
        for closing in (self._puts, self._noted, self._notices, self._look_ups, self._audit):
            await closing.close()
        for task in self._reads:
            task.cancel()

    # --- writing -----------------------------------------------------------------------------------------------------

    @property
    def _given_up(self) -> int:
        return self._backlog.given_up + self._unfit

    def _order(self, record: Record, *, keep: bool, is_note: bool = False, attempts: int = 0) -> Put:
        patience_s = PATIENCE_S if record.callback is None else _CALLBACK_PATIENCE_S
        until = self._loop.time() + patience_s + _PER_MEGABYTE_S * record.size_bytes / 1e6
        done = self._loop.create_future()
        return Put(record=record, is_note=is_note, keep=keep, until=until, done=done, attempts=attempts)

    def _order_notes(self, notes: Iterable[Record]) -> None:
        for record in notes:
            self._noted.add(self._order(record, keep=True, is_note=True))

    def _pace_s(self) -> float:
        """How long to let puts accumulate; with many jobs, larger batches save more than the delay costs."""
        return min(_PACE_S * (self.open_jobs - 1), _LONGEST_PACE_S)

    async def _write(self, session: Session, puts: list[Put]) -> None:
        alike = await self._writer.write(session, puts)
        for put in puts:
            self._backlog.wrote(put.record)  # it may have been given up meanwhile
            if put.record.state is State.FINISHED and put.record.id in self._awaited:
                record = alike.get(put.record.id)
                if record is not None:
                    self._awaited.tell(record)
                else:
                    self._look_at(put.record.id)

    def _note_second_result(self, holds: Record) -> None:
        log.event("warning", "another result of a job was recorded first", job_id=holds.id)
        self.note(replace(holds, duplicates=holds.duplicates + 1))

    def _give_up(self, put: Put, error: Exception) -> None:
        """Fail the order; keep its record in the backlog if it must be kept."""
        if isinstance(error, UnfitError):
            self._unfit += 1
            log.event("error", "a job cannot be recorded", job_id=put.record.id, reason=str(error))
            fail(put.done, StoreUnavailableError(f"the job cannot be recorded: {error}"))
            return
        self._backlog.add(put.record, keep=put.keep)
        fail(put.done, error)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _find(self, column: str, value: str | bytes, patience_s: float) -> Record | None:
        kept = self._backlog.find(column, value)
        if kept is not None:
            return kept
        if any(getattr(record, column) == value for record in self._notes):
            self._order_notes(self._notes.take_all())  # so that the look-up sees earlier notes
        for put in self._noted.pending() + self._puts.pending():
            if getattr(put.record, column) == value:
                await _settled(put.done)
        return await self._look_ups.find(column, value, patience_s)

    # --- changes by other instances ----------------------------------------------------------------------------------

    def _look_at(self, job_id: str, *, noticed: bool = False) -> bool:
        """Read a job's row soon, and pass it on to the callers that wait for the job or watch it.

        Return False if it is being read already: an end is found by each poll until then, and results may be large.
        """
        if job_id in self._looked_at and not noticed:
            return False
        self._looked_at.add(job_id)
        task = self._loop.create_task(self._pass_on(job_id, noticed=noticed))
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)
        return True

    async def _pass_on(self, job_id: str, *, noticed: bool) -> None:
        try:
            record = await self._look_ups.find("id", job_id, PATIENCE_S)
        except StoreUnavailableError:
            return
        finally:
            self._looked_at.discard(job_id)
        if record is not None and noticed:
            self._on_changed(record)

    async def _look(self) -> None:
        """Give up orders that nobody waits for any more; write the backlog when the database is available again."""
        while not self._closing.is_set():
            await pause(self._closing, _LOOK_S)
            now, reason = self._loop.time(), self.trouble or "the database has not answered in time"
            for lane in (self._puts, self._noted, self._look_ups, self._notices):
                lane.look(now, reason)
            self._health.say()
            late = self._puts.may_succeed_late or self._noted.may_succeed_late
            if len(self._backlog) and self._health.is_well and not late:
                self._order_kept()

    def _order_kept(self) -> None:
        """Try to write the backlog."""
        kept = self._backlog.records()
        self._backlog.clear()
        for record in kept.values():
            if record.owner == self._instance or record.callback is not None:
                self._puts.add(self._order(record, keep=True, attempts=1))
            else:  # nothing but notes is kept about an open or failed job of another instance
                self._order_notes((record,))


async def _settled(done: asyncio.Future[None]) -> None:
    """Wait for an earlier order. If a stored record excluded it, that is fine. Raises StoreUnavailableError."""
    await asyncio.wait((done,))
    error = done.exception()
    if error is not None and not isinstance(error, TakenError):
        raise error
