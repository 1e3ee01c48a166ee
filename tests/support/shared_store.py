"""A store that several instances share, in memory, with the conditions of proxy/store/protocol.py."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from proxy.store.about import About
from proxy.store.deeds import Deed
from proxy.store.memory import MemoryStore
from proxy.store.names import Name
from proxy.store.patterns import Grid, Patterns
from proxy.store.polled import polled_end
from proxy.store.protocol import ALL, Reading, TakenError
from proxy.store.query import USUAL, Counts, JobPage, JobQuery, Limits, Position, Sort
from proxy.store.record import Record
from shared.errors import Code
from shared.lifecycle import State, Submitted
from shared.outcome import Failed

__all__ = ["Member", "SharedStore"]


class SharedStore(MemoryStore):
    """The store of all instances."""

    def __init__(self) -> None:
        super().__init__(3600)
        self.members: list[Member] = []
        #: Every record that was refused, and the instance that put it.
        self.refused: list[tuple[str, Record]] = []
        #: Whether notices are lost.
        self.deaf = False

    def newest(self, job_id: str) -> Record | None:
        """Return the current record of a job."""
        entry = self._finished.get(job_id)
        return entry[1] if entry else self._open.get(job_id)

    def lose(self, job_id: str) -> None:
        """Forget an open job, as a database that was restored does."""
        del self._open[job_id]

    def offer(self, me: str, record: Record, *, keep: bool) -> None:
        """Write `record`, put by the instance `me`. Raises TakenError if the stored record excludes it."""
        known = self.newest(record.id)
        try:
            self._put(self._begun(record) if known is None else _written(me, known, record, keep=keep))
        except TakenError:
            self.refused.append((me, record))
            raise

    def mention(self, me: str, record: Record) -> None:
        """Write the additions of a note."""
        known = self.newest(record.id)
        if known is None:
            self._put(record)
            return
        if record.failure is not None and record.submitted is Submitted.YES:  # a callback after the end
            known = known.proven()
        added: dict[str, Any] = {
            "duplicates": max(known.duplicates, record.duplicates),
            "outputs": {**record.outputs, **known.outputs},
            "error": known.error or record.error,
        }
        if record.refused > known.refused:
            added |= {"refused": record.refused, "refusal": record.refusal}
        if known.state is not State.FINISHED and record.state is State.WAITING:
            added |= {"state": State.WAITING}
        if known.owner == me:
            added |= {"outputs": {**known.outputs, **record.outputs}}
        self._put(replace(known, **added))

    def take_over(self, me: str, gone: set[str]) -> list[Record]:
        """Give `me` the open jobs of the instances `gone`; end those that certainly were not submitted."""
        taken = []
        for record in [record for record in self._open.values() if record.owner in gone]:
            mine = replace(record, owner=me)
            if record.state is State.ACCEPTED:
                failure = Failed(code=Code.INTERRUPTED, detail="its instance is gone", submitted=Submitted.NO)
                mine = replace(mine, state=State.FINISHED, finished_at=time.time(), failure=failure)
            self._put(mine)
            taken.append(mine)
        return taken

    def take_over_cancelled(self, me: str, gone: set[str]) -> list[Record]:
        """Give `me` the jobs of the instances `gone` that others have cancelled."""
        taken = []
        for _, record in list(self._finished.values()):
            is_cancelled = record.failure is not None and record.failure.code is Code.CANCELLED
            if record.owner in gone and is_cancelled and record.submitted is not Submitted.NO:
                taken.append(replace(record, owner=me))
                self._put(taken[-1])
        return taken

    def end_overdue(self) -> None:
        """End jobs whose deadline was two seconds ago, whoever owns them."""
        for record in [record for record in self._open.values() if record.deadline_at < time.time() - 2]:
            failure = Failed(code=Code.INTERRUPTED, detail="nobody sees to it", submitted=record.submitted)
            self._put(replace(record, state=State.FINISHED, finished_at=time.time(), failure=failure))

    def _begun(self, record: Record) -> Record:
        holder = self.newest(self._by_key.get(record.key, "")) if record.key is not None else None
        if holder is None:
            return record
        outcome = holder.outcome
        if holder.callback is None and isinstance(outcome, Failed) and outcome.submitted is Submitted.NO:
            return record  # it has the key from now on
        raise TakenError(holder)


def _written(me: str, known: Record, record: Record, *, keep: bool) -> Record:
    """Return what is written if `known` is stored and `me` puts `record`. Raises TakenError."""
    is_open = known.state is not State.FINISHED
    if record.callback is not None:
        if known.callback is None:
            failure = known.failure or record.failure
            kept = replace(record, owner=known.owner, failure=failure, refused=known.refused, refusal=known.refusal)
            return replace(kept, finished_at=known.finished_at or record.finished_at)
        if not keep or known.callback != record.callback:
            raise TakenError(known)
        return known
    if record.failure is not None:
        if record.failure == known.failure and known.callback is None:
            return known
        if not is_open or (record.owner == me != known.owner):
            raise TakenError(known)
        said = record.failure.submitted if record.owner == me else known.submitted
        failure = dataclasses.replace(record.failure, submitted=said)
        ended = replace(known, state=State.FINISHED, finished_at=record.finished_at, failure=failure)
        return replace(ended, cancelled_by=record.cancelled_by)
    if not is_open or known.owner != me or known.state not in {State.ACCEPTED, record.state}:
        raise TakenError(known)
    return replace(record, refused=known.refused, refusal=known.refusal)


class Member:
    """One instance's view of the store and the other instances: a `JobStore` and its `Peers`."""

    trouble = ""

    def __init__(self, shared: SharedStore, instance: str) -> None:
        self.instance = self.name = instance
        #: Whether this instance can neither reach the others nor be reached.
        self.cut_off = False
        self._shared = shared
        self._on_changed: Callable[[Record], None] | None = None
        self._on_taken_over: Callable[[Sequence[Record]], None] | None = None
        self._on_given_up: Callable[[Sequence[Record]], None] = lambda _: None
        self._is_draining: Callable[[], bool] = lambda: False
        #: How many notices it has sent.
        self.told = 0
        shared.members.append(self)

    def readings(self) -> Iterable[Reading]:
        """Return nothing."""
        return ()

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """See `JobStore.put`. Done at once."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._shared.offer(self.instance, record, keep=keep)
        except TakenError as exc:
            done.set_exception(exc)
            done.exception()
        else:
            done.set_result(None)
        return done

    def note(self, record: Record) -> None:
        """See `JobStore.note`."""
        self._shared.mention(self.instance, record)

    async def by_id(self, job_id: str) -> Record | None:
        """See `JobStore.by_id`."""
        return await self._shared.by_id(job_id)

    async def by_token(self, hashed: bytes) -> Record | None:
        """See `JobStore.by_token`."""
        return await self._shared.by_token(hashed)

    async def by_key(self, key: bytes) -> Record | None:
        """See `JobStore.by_key`."""
        return await self._shared.by_key(key)

    async def by_beginning(self, beginning: str) -> Record | None:
        """See `JobStore.by_beginning`."""
        return await self._shared.by_beginning(beginning)

    async def by_name(self, name: Name, *, among: int = ALL) -> Record | None:
        """See `JobStore.by_name`."""
        return await self._shared.by_name(name, among=among)

    async def jobs(
        self, query: JobQuery, *, sort: Sort, limit: int, after: Position | None = None, limits: Limits = USUAL
    ) -> JobPage:
        """See `JobStore.jobs`."""
        return await self._shared.jobs(query, sort=sort, limit=limit, after=after, limits=limits)

    async def counts(self, query: JobQuery, *, limits: Limits = USUAL) -> Counts:
        """See `JobStore.counts`."""
        return await self._shared.counts(query, limits=limits)

    async def patterns(self, query: JobQuery, grid: Grid, label: str, *, limits: Limits = USUAL) -> Patterns:
        """See `JobStore.patterns`."""
        return await self._shared.patterns(query, grid, label, limits=limits)

    async def ended(self, job_id: str) -> Record:
        """See `JobStore.ended`."""
        return await polled_end(self.by_id, job_id)

    def may_have_lost(self, since: float = 0.0) -> bool:
        """See `JobStore.may_have_lost`: it never has."""
        del since
        return False

    async def unfinished(self) -> list[Record]:
        """See `JobStore.unfinished`: live instances take over jobs that are left open."""
        return []

    async def last_failures(self, limit: int) -> list[Record]:
        """See `JobStore.last_failures`."""
        return await self._shared.last_failures(limit)

    @property
    def kind(self) -> str:
        """See `JobStore.kind`."""
        return self._shared.kind

    async def about(self) -> About:
        """See `JobStore.about`."""
        return await self._shared.about()

    def enter(self, deed: Deed) -> None:
        """See `JobStore.enter`."""
        self._shared.enter(deed)

    async def deeds(self, limit: int, before: int | None) -> list[Deed]:
        """See `JobStore.deeds`."""
        return await self._shared.deeds(limit, before)

    async def close(self) -> None:
        """Do nothing."""

    def watch(
        self,
        *,
        on_changed: Callable[[Record], None],
        on_taken_over: Callable[[Sequence[Record]], None],
        on_given_up: Callable[[Sequence[Record]], None] = lambda _: None,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        """See `Peers.watch`."""
        self._on_changed, self._on_taken_over, self._is_draining = on_changed, on_taken_over, is_draining
        self._on_given_up = on_given_up

    def tell(self, record: Record, *, to_all: bool = False) -> None:
        """See `Peers.tell`; it takes some time, like a message between machines."""
        self.told += 1
        if not self.cut_off and not self._shared.deaf:
            for member in self._shared.members:
                if member is not self and (to_all or member.instance in {record.owner, record.origin}):
                    asyncio.get_running_loop().call_soon(member.hear, record.id)

    def hear(self, job_id: str) -> None:
        """Receive a notice that something was recorded of a job."""
        record = self._shared.newest(job_id)
        if record is not None and self._on_changed is not None and not self.cut_off:
            self._on_changed(record)

    def take_over(self, gone: set[str]) -> None:
        """Take over the jobs of the instances that are gone."""
        if self._is_draining():
            return
        records = self._shared.take_over(self.instance, gone)
        if records and self._on_taken_over is not None:
            self._on_taken_over(records)
        self._on_given_up(self._shared.take_over_cancelled(self.instance, gone))
