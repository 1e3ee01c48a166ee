"""A store that works or fails, as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from proxy.store.about import About
from proxy.store.deeds import Deed
from proxy.store.memory import MemoryStore
from proxy.store.names import Name
from proxy.store.patterns import Grid, Patterns
from proxy.store.polled import polled_end
from proxy.store.protocol import ALL, JobStore, Reading
from proxy.store.query import USUAL, Counts, JobPage, JobQuery, Limits, Position, Sort
from proxy.store.record import Record
from shared.errors import StoreUnavailableError
from shared.lifecycle import State

__all__ = ["FailingStore"]

_FULL = "the disk is full"


class FailingStore:
    """A `JobStore` that remembers records, but fails, or hangs, on request."""

    def __init__(self, memory: JobStore | None = None) -> None:
        """`memory`: the real store; several of these may share one."""
        self.memory = memory or MemoryStore(3600)
        self._failing = False
        self._answers = asyncio.Event()
        self._answers.set()
        #: Whether jobs are found while nothing can be recorded, those that wait to be recorded as well.
        self.finds_kept = False
        #: Whether puts are recorded, but the waiting callers get an error.
        self.loses_answers = False
        #: Records to be written when that is possible again.
        self._kept: list[Record] = []
        #: The puts while nothing was answered: the record, whether to keep it, and the caller's future.
        self._held: list[tuple[Record, bool, asyncio.Future[None]]] = []
        #: The records that were put, and whether to keep them; and the notes.
        self.puts: list[tuple[Record, bool]] = []
        self.notes: list[Record] = []
        #: The newest state of each job, by id.
        self._states: dict[str, State] = {}

    @property
    def failing(self) -> bool:
        """Whether nothing can be recorded or found. Afterwards, records to be kept are written."""
        return self._failing

    @failing.setter
    def failing(self, failing: bool) -> None:
        self._failing = failing
        if not failing:
            kept, self._kept = self._kept, []
            for record in kept:
                self.memory.put(record, keep=True)

    @property
    def hanging(self) -> bool:
        """Whether all calls hang. Afterwards, they are carried out in order."""
        return not self._answers.is_set()

    @hanging.setter
    def hanging(self, hanging: bool) -> None:
        if hanging:
            self._answers.clear()
            return
        held, self._held = self._held, []
        for record, keep, done in held:
            self._put(record, keep=keep, done=done)
        self._answers.set()

    def answer_once(self) -> None:
        """Carry out the waiting calls, and let later ones hang."""
        self.hanging = False
        self.hanging = True

    @property
    def trouble(self) -> str:
        """See `JobStore.trouble`."""
        return _FULL if self._failing else ""

    def states(self) -> list[State]:
        """Return the newest state of each open job, recorded or not."""
        return [state for state in self._states.values() if state is not State.FINISHED]

    def readings(self) -> Iterable[Reading]:
        """Return nothing."""
        return ()

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """Record, or do as the test says."""
        self.puts.append((record, keep))
        self._states[record.id] = record.state
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.hanging:
            self._held.append((record, keep, done))
        else:
            self._put(record, keep=keep, done=done)
        return done

    def note(self, record: Record) -> None:
        """Record a note, at some time."""
        self.notes.append(record)
        self._states[record.id] = record.state
        if self.hanging:
            self._held.append((record, True, asyncio.get_running_loop().create_future()))
        elif self._failing:
            self._kept.append(record)
        else:
            self.memory.note(record)

    async def by_id(self, job_id: str) -> Record | None:
        """Find a job, or fail."""
        await self._ask()
        return await self.memory.by_id(job_id)

    async def by_token(self, hashed: bytes) -> Record | None:
        """Find a job, or fail."""
        await self._ask()
        kept = next((record for record in reversed(self._kept) if record.token_hash == hashed), None)
        return kept or await self.memory.by_token(hashed)

    async def by_key(self, key: bytes) -> Record | None:
        """Find a job, or fail."""
        await self._ask()
        return await self.memory.by_key(key)

    async def by_beginning(self, beginning: str) -> Record | None:
        """Find a job, or fail."""
        await self._ask()
        return await self.memory.by_beginning(beginning)

    async def by_name(self, name: Name, *, among: int = ALL) -> Record | None:
        """Find a job, or fail."""
        await self._ask()
        return await self.memory.by_name(name, among=among)

    async def jobs(
        self, query: JobQuery, *, sort: Sort, limit: int, after: Position | None = None, limits: Limits = USUAL
    ) -> JobPage:
        """List jobs, or fail."""
        await self._ask()
        return await self.memory.jobs(query, sort=sort, limit=limit, after=after, limits=limits)

    async def counts(self, query: JobQuery, *, limits: Limits = USUAL) -> Counts:
        """Count jobs, or fail."""
        await self._ask()
        return await self.memory.counts(query, limits=limits)

    async def patterns(self, query: JobQuery, grid: Grid, label: str, *, limits: Limits = USUAL) -> Patterns:
        """See `JobStore.patterns`."""
        await self._ask()
        return await self.memory.patterns(query, grid, label, limits=limits)

    async def ended(self, job_id: str) -> Record:
        """Wait for the end of a job, even while nothing can be found."""
        return await polled_end(self.by_id, job_id)

    def may_have_lost(self, since: float = 0.0) -> bool:
        """See `JobStore.may_have_lost`."""
        return self.memory.may_have_lost(since)

    async def unfinished(self) -> list[Record]:
        """Return the jobs that were left open."""
        await self._ask()
        return await self.memory.unfinished()

    async def last_failures(self, limit: int) -> list[Record]:
        """Return the last failures, or fail."""
        await self._ask()
        return await self.memory.last_failures(limit)

    @property
    def kind(self) -> str:
        """The kind of the real store."""
        return self.memory.kind

    async def about(self) -> About:
        """Return its description, or fail."""
        await self._ask()
        return await self.memory.about()

    def enter(self, deed: Deed) -> None:
        """Keep the entry."""
        self.memory.enter(deed)

    async def deeds(self, limit: int, before: int | None) -> list[Deed]:
        """Return the entries, or fail."""
        await self._ask()
        return await self.memory.deeds(limit, before)

    async def close(self) -> None:
        """Do nothing."""

    async def _ask(self) -> None:
        await asyncio.sleep(0)  # like any real store: the answer never comes at once
        await self._answers.wait()
        if self._failing and not self.finds_kept:
            raise StoreUnavailableError(_FULL)

    def _put(self, record: Record, *, keep: bool, done: asyncio.Future[None]) -> None:
        refusal: BaseException | None = StoreUnavailableError(_FULL)
        if self.loses_answers:
            self.memory.put(record, keep=keep)
        elif not self._failing:
            refusal = self.memory.put(record, keep=keep).exception()  # the real store does it at once
        elif keep:
            self._kept.append(record)
        if done.done():  # the caller was cancelled
            return
        if refusal is None:
            done.set_result(None)
        else:
            done.set_exception(refusal)
            done.exception()
