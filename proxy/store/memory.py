"""The store that forgets everything when the process ends."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from proxy.store.about import About
from proxy.store.deeds import Deed, Deeds
from proxy.store.fields import FAILURES_AMONG, SMALL_BYTES
from proxy.store.patterns import Patterns
from proxy.store.polled import polled_end
from proxy.store.protocol import ALL
from proxy.store.query import USUAL, Counts, JobPage, Position, Sort, matches, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable

    from proxy.store.names import Name
    from proxy.store.patterns import Grid
    from proxy.store.protocol import Reading
    from proxy.store.query import JobQuery, Limits
    from proxy.store.record import Record

__all__ = ["MemoryStore"]

_Placed = tuple[Position, "Record"]
_MAX_BYTES: Final = 64 * 1024 * 1024
#: How many jobs are looked at in one turn of the event loop.
_SEARCHED: Final = 500


class MemoryStore:
    """Remembers finished jobs for `ttl_s` seconds, or until `max_bytes` are used: then the oldest are dropped.

    One that is larger by itself is dropped alone.
    """

    kind = "memory"
    trouble = ""

    def __init__(
        self,
        ttl_s: float,
        max_bytes: int = _MAX_BYTES,
        *,
        lost_before: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lost_before`: until when, in Unix seconds, earlier processes may have had jobs that are not remembered."""
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._bytes = 0
        self._lost_before = lost_before
        self._open: dict[str, Record] = {}
        #: id -> when it expires, and the job; in order of expiry.
        self._finished: OrderedDict[str, tuple[float, Record]] = OrderedDict()
        #: When jobs ended, their numbers and ids, in this order; of forgotten jobs as well, which are removed later.
        self._ends: list[tuple[float, int, str]] = []
        self._by_token: dict[bytes, str] = {}
        self._by_key: dict[bytes, str] = {}
        self._deeds = Deeds()
        self._entered = 0
        self._by_beginning: dict[str, str] = {}

    def readings(self) -> Iterable[Reading]:
        """See `JobStore.readings`: there are none."""
        return ()

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """See `JobStore.put`. Done at once."""
        del keep
        self._put(record)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def note(self, record: Record) -> None:
        """See `JobStore.note`."""
        self._put(record)

    async def by_id(self, job_id: str) -> Record | None:
        """See `JobStore.by_id`."""
        self._expire()
        return self._known(job_id)

    async def by_token(self, hashed: bytes) -> Record | None:
        """See `JobStore.by_token`."""
        job_id = self._by_token.get(hashed)
        return await self.by_id(job_id) if job_id else None

    async def by_key(self, key: bytes) -> Record | None:
        """See `JobStore.by_key`."""
        job_id = self._by_key.get(key)
        return await self.by_id(job_id) if job_id else None

    async def by_beginning(self, beginning: str) -> Record | None:
        """See `JobStore.by_beginning`."""
        job_id = self._by_beginning.get(beginning)
        return await self.by_id(job_id) if job_id else None

    async def by_name(self, name: Name, *, among: int = ALL) -> Record | None:
        """See `JobStore.by_name`."""
        for number, job_id in enumerate(itertools.islice(reversed(list(self._by_token.values())), among), start=1):
            record = await self.by_id(job_id)
            if record is not None and name.is_of(record):
                return record
            if number % _SEARCHED == 0:
                await asyncio.sleep(0)
        return None

    async def jobs(
        self, query: JobQuery, *, sort: Sort, limit: int, after: Position | None = None, limits: Limits = USUAL
    ) -> JobPage:
        """See `JobStore.jobs`. Has no limits: jobs are looked at until enough match."""
        del limits
        self._expire()
        list_by = {Sort.NEWEST: self._newest, Sort.OLDEST: self._oldest, Sort.SLOWEST: self._slowest}[sort]
        found = await list_by(query, limit + 1, after)
        return JobPage(
            records=[_without_bodies(record) for _, record in found[:limit]],
            next=found[limit - 1][0] if len(found) > limit else None,
        )

    async def _newest(self, query: JobQuery, limit: int, after: Position | None) -> list[_Placed]:
        found: list[_Placed] = []
        was_open = frozenset(self._open)  # a job that ends meanwhile is not listed twice
        if after is None or after.is_open:
            found = sorted(await self._opened(query), key=_place, reverse=True)
            found = [one for one in found if after is None or _place(one) < (after.at, after.number)][:limit]
            after = None
        if len(found) < limit:
            found += await self._ended(query, limit - len(found), after, newest_first=True, but=was_open)
        return found

    async def _oldest(self, query: JobQuery, limit: int, after: Position | None) -> list[_Placed]:
        if after is not None and after.is_open:  # the ended jobs are on earlier pages, except those that ended since
            seen_to = after.seen_to
            found = await self._ended(query, ALL, Position(is_open=False, at=seen_to, number=ALL))
            found = [(_open_position(record, seen_to), record) for _, record in found]
            found = sorted([*found, *await self._opened(query, seen_to)], key=_place)
            return [one for one in found if _place(one) > (after.at, after.number)][:limit]
        found = await self._ended(query, limit, after)
        if len(found) < limit:
            found += sorted(await self._opened(query, self._ends[-1][0] if self._ends else 0.0), key=_place)
        return found[:limit]

    async def _slowest(self, query: JobQuery, limit: int, after: Position | None) -> list[_Placed]:
        first: list[_Placed] = []
        async for record in self._meant(query):
            if record.finished_at is None:
                continue
            at = Position(is_open=False, at=record.finished_at - record.accepted_at, number=_number(record))
            if after is None or (at.at, at.number) < (after.at, after.number):
                first.append((at, record))
            if len(first) >= limit + _SEARCHED:  # sorting all jobs at once would block the event loop
                first = sorted(first, key=_place, reverse=True)[:limit]
        return sorted(first, key=_place, reverse=True)[:limit]

    async def _opened(self, query: JobQuery, seen_to: float = 0.0) -> list[_Placed]:
        """Return the matching jobs that are open now, in no order."""
        found: list[_Placed] = []
        if query.until is not None and query.until <= time.time():
            return found
        for number, record in enumerate(list(self._open.values()), start=1):
            if number % _SEARCHED == 0:
                await asyncio.sleep(0)
            if matches(record, query):
                found.append((_open_position(record, seen_to), record))
        return found

    async def _ended(
        self,
        query: JobQuery,
        limit: int,
        after: Position | None,
        *,
        newest_first: bool = False,
        but: Collection[str] = (),
    ) -> list[_Placed]:
        """Return the first matching jobs that have ended, after a position, in order."""
        low, high = (query.since or 0.0, -1, ""), (query.until or math.inf, -1, "")
        if after is not None and newest_first:
            high = min(high, (after.at, after.number, ""))
        elif after is not None:
            low = max(low, (after.at, after.number + 1, ""))
        found: list[_Placed] = []
        while True:
            start, end = bisect.bisect_left(self._ends, low), bisect.bisect_left(self._ends, high)
            start, end = (max(start, end - _SEARCHED), end) if newest_first else (start, min(end, start + _SEARCHED))
            part = self._ends[start:end]
            if not part:
                return found
            for at, number, job_id in reversed(part) if newest_first else part:
                record = self._known(job_id)
                if record is None or job_id in but or not matches(record, query):
                    continue
                found.append((Position(is_open=False, at=at, number=number), record))
                if len(found) == limit:
                    return found
            low, high = (low, part[0]) if newest_first else ((part[-1][0], part[-1][1] + 1, ""), high)
            await asyncio.sleep(0)

    async def counts(self, query: JobQuery, *, limits: Limits = USUAL) -> Counts:
        """See `JobStore.counts`. Has no limits: all matching jobs are counted."""
        del limits
        counted = Counts()
        async for record in self._meant(query):
            counted.add_record(record)
        return counted

    async def patterns(self, query: JobQuery, grid: Grid, label: str, *, limits: Limits = USUAL) -> Patterns:
        """See `JobStore.patterns`. Has no limits: all matching jobs are counted."""
        del limits
        found = Patterns(grid, label)
        async for record in self._meant(within(query, grid.since, grid.until)):
            if record.finished_at is not None:
                found.add_record(record)
        return found

    async def _meant(self, query: JobQuery) -> AsyncIterator[Record]:
        """Yield the matching jobs, in no order, without blocking the event loop for long."""
        self._expire()
        now = time.time()
        for number, job_id in enumerate(list(self._by_token.values()), start=1):
            if number % _SEARCHED == 0:
                await asyncio.sleep(0)
            record = self._known(job_id)
            if record is None:  # forgotten meanwhile
                continue
            ended = now if record.finished_at is None else record.finished_at
            in_time = (query.since is None or ended >= query.since) and (query.until is None or ended < query.until)
            if in_time and matches(record, query):
                yield record

    async def ended(self, job_id: str) -> Record:
        """See `JobStore.ended`."""
        return await polled_end(self.by_id, job_id)

    def may_have_lost(self, since: float = 0.0) -> bool:
        """See `JobStore.may_have_lost`."""
        return self._lost_before > max(since, time.time() - self._ttl_s)

    async def unfinished(self) -> list[Record]:
        """See `JobStore.unfinished`: nothing is known of an earlier process."""
        return []

    async def last_failures(self, limit: int) -> list[Record]:
        """See `JobStore.last_failures`."""
        last = (record for _, record in itertools.islice(reversed(self._finished.values()), FAILURES_AMONG))
        failed = (one for one in last if one.failed and len(one.callback or b"") <= SMALL_BYTES)
        return list(itertools.islice(failed, limit))

    async def about(self) -> About:
        """See `JobStore.about`."""
        self._expire()
        oldest = next(iter(self._finished.values()), None)
        return About(place="", size_bytes=self._bytes, oldest_at=oldest[1].finished_at if oldest else None)

    def enter(self, deed: Deed) -> None:
        """See `JobStore.enter`."""
        self._entered += 1
        self._deeds.add(replace(deed, n=self._entered))

    async def deeds(self, limit: int, before: int | None) -> list[Deed]:
        """See `JobStore.deeds`."""
        return self._deeds.newest(limit, before)

    async def close(self) -> None:
        """See `JobStore.close`."""

    def _known(self, job_id: str) -> Record | None:
        entry = self._finished.get(job_id)
        return entry[1] if entry else self._open.get(job_id)

    def _put(self, record: Record) -> None:
        entry = self._finished.get(record.id)
        if entry is None and record.id not in self._open:
            self._by_token[record.token_hash] = record.id
            self._by_beginning[record.beginning] = record.id
            if record.key is not None:
                self._by_key[record.key] = record.id
        if record.finished_at is None:
            self._open[record.id] = record
            return
        self._open.pop(record.id, None)
        place = (record.finished_at, _number(record), record.id)
        index = bisect.bisect_left(self._ends, place)
        if self._ends[index : index + 1] != [place]:
            self._ends.insert(index, place)
        # A job that is already finished keeps its place: a late result does not extend its lifetime.
        expiry = entry[0] if entry else self._clock() + self._ttl_s
        self._bytes += record.size_bytes - (entry[1].size_bytes if entry else 0)
        self._finished[record.id] = (expiry, record)
        if record.size_bytes > self._max_bytes:  # rather than all others
            self._forget(record.id)
        self._expire()

    def _expire(self) -> None:
        now = self._clock()
        while self._finished:
            job_id, (expiry, _) = next(iter(self._finished.items()))
            if expiry > now and self._bytes <= self._max_bytes:
                break
            self._forget(job_id)
        if len(self._ends) > 2 * len(self._finished) + _SEARCHED:
            self._ends = [end for end in self._ends if end[2] in self._finished]

    def _forget(self, job_id: str) -> None:
        expiry, record = self._finished.pop(job_id)
        if expiry > self._clock():
            self._lost_before = max(self._lost_before, record.finished_at or 0.0)
        self._bytes -= record.size_bytes
        del self._by_token[record.token_hash]
        if self._by_beginning.get(record.beginning) == job_id:
            del self._by_beginning[record.beginning]
        if record.key is not None and self._by_key.get(record.key) == job_id:
            del self._by_key[record.key]


def _number(record: Record) -> int:
    """Return the number of a job, as in `Position`: a part of its token's hash."""
    return int.from_bytes(record.token_hash[:7])


def _open_position(record: Record, seen_to: float) -> Position:
    return Position(is_open=True, at=record.accepted_at, number=_number(record), seen_to=seen_to)


def _place(one: _Placed) -> tuple[float, int]:
    return one[0].at, one[0].number


def _without_bodies(record: Record) -> Record:
    callback = None if record.callback is None else b""
    return replace(record, callback=callback, sent=None if record.sent is None else b"")
