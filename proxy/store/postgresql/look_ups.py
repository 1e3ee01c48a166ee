"""Look-ups of jobs by what identifies them: many with one query, and a large result piece by piece.

A job comes with the first piece of its result. The others are read one at a time, so that the heartbeats and the other
look-ups, which use the same connection, get their turn, and that no answer takes so long that the connection is given
up.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from proxy.store.postgresql.health import PATIENCE_S, Health
from proxy.store.postgresql.orders import Lane, fail, settle
from proxy.store.postgresql.rows import record_of
from proxy.store.postgresql.session import GoneError, Session, UnfitError
from proxy.store.postgresql.statements import FIND, PIECE, PIECE_BYTES
from proxy.store.record import Record
from shared.errors import StoreUnavailableError
from shared.lifecycle import State

__all__ = ["LookUps", "find_whole"]

#: The most jobs that are read at once, and for how long, if there is more than a piece to read: that blocks the event
#: loop, and has to be done before the connection is given up.
_FINDS: Final = 32
_FIND_S: Final = 0.5


class _Found(NamedTuple):
    #: With the first piece of its result.
    record: Record
    #: The size of the whole result.
    size_bytes: int

    @property
    def is_whole(self) -> bool:
        return len(self.record.callback or b"") == self.size_bytes


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Find:
    column: str
    value: str | bytes
    until: float
    done: asyncio.Future[_Found | None]
    size_bytes: int = 100


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Piece:
    job_id: str
    start: int
    until: float
    done: asyncio.Future[bytes]
    size_bytes: int = 100


class LookUps:
    """The look-ups of one instance, over a given session."""

    def __init__(self, session: Session, health: Health, *, ttl_s: float, on_end: Callable[[Record], None]) -> None:
        """Start; must run inside an event loop. `on_end` gets each finished job that is found."""
        self._loop = asyncio.get_running_loop()
        self._session = session
        self._health = health
        self._ttl_s = ttl_s
        self._on_end = on_end
        self._at_once = _FINDS
        #: Held while a piece is waited for.
        self._turn = asyncio.Lock()
        self._lane: Lane[_Find | _Piece] = Lane(session, health, carry_out=self._carry_out, give_up=_give_up)
        self.look, self.close = self._lane.look, self._lane.close

    def __len__(self) -> int:
        """How many are not done."""
        return len(self._lane)

    async def find(self, column: str, value: str | bytes, patience_s: float) -> Record | None:
        """Return the job whose `column` (of `FIND`) has this value, if it is remembered.

        Raises:
            StoreUnavailableError: it was not found within `patience_s`, or there was no further piece for long.
        """
        done: asyncio.Future[_Found | None] = self._loop.create_future()
        self._lane.add(_Find(column=column, value=value, until=self._loop.time() + patience_s, done=done))
        found = await done
        if found is None:
            return None
        record = await _whole(found, self._next_piece)
        if record is not None and not found.is_whole:
            self._on_end(record)
        return record

    async def _next_piece(self, job_id: str, start: int) -> bytes:
        async with self._turn:
            if self._health.trouble:
                raise StoreUnavailableError(self._health.trouble)
            done: asyncio.Future[bytes] = self._loop.create_future()
            self._lane.add(_Piece(job_id=job_id, start=start, until=self._loop.time() + PATIENCE_S, done=done))
            return await done

    async def _carry_out(self, orders: list[_Find | _Piece]) -> None:
        await self._look_up([order for order in orders if isinstance(order, _Find)])
        for order in orders:
            if isinstance(order, _Piece) and not order.done.done():
                settle(order.done, await _piece(self._session, order.job_id, order.start))

    async def _look_up(self, finds: list[_Find]) -> None:
        for column in FIND:
            asked = [find for find in finds if find.column == column and not find.done.done()]
            while asked:
                part, asked = asked[: self._at_once], asked[self._at_once :]
                jobs = await self._read(column, sorted({find.value for find in part}))
                found = {getattr(job.record, column): job for job in jobs}
                for find in part:
                    settle(find.done, found.get(find.value))
                for job in jobs:  # whoever waits for the end gets it, even if the look-up was given up
                    if job.record.state is State.FINISHED and job.is_whole:
                        self._on_end(job.record)

    async def _read(self, column: str, wanted: list[str | bytes]) -> list[_Found]:
        """Read some jobs, and adapt to their size and the connection how many are read at once."""
        began = time.monotonic()
        try:
            jobs = await _find_all(self._session, column, wanted, self._ttl_s)
        except GoneError:
            self._at_once = max(1, len(wanted) // 2)
            raise
        is_much = sum(len(job.record.callback or b"") for job in jobs) > PIECE_BYTES
        took_s = time.monotonic() - began if is_much else 0.0
        self._at_once = max(1, int(len(wanted) / max(len(wanted) / _FINDS, took_s / _FIND_S)))
        return jobs


async def find_whole(session: Session, column: str, values: Iterable[Any], ttl_s: float) -> list[Record]:
    """Return the remembered jobs whose `column` (of `FIND`) has one of these values. Raises GoneError, UnfitError."""
    found = await _find_all(session, column, list(values), ttl_s)
    records = [await _whole(one, functools.partial(_piece, session)) for one in found]
    return [record for record in records if record is not None]


async def _find_all(session: Session, column: str, values: list[Any], ttl_s: float) -> list[_Found]:
    rows = await session.run(FIND[column], values, ttl_s) if values else ()
    return [_Found(record_of(row[:-1]), row[-1]) for row in rows]


async def _whole(found: _Found, next_piece: Callable[[str, int], Awaitable[bytes]]) -> Record | None:
    """Return the job with its whole result; None: it has been deleted meanwhile."""
    pieces = [found.record.callback or b""]
    read = len(pieces[0])
    while read < found.size_bytes:
        piece = await next_piece(found.record.id, read)
        if not piece:
            return None
        pieces.append(piece)
        read += len(piece)
    return found.record if found.is_whole else replace(found.record, callback=b"".join(pieces))


async def _piece(session: Session, job_id: str, start: int) -> bytes:
    """Return the piece of a job's result that begins with the byte number `start`; empty: there is none."""
    rows = await session.run(PIECE, job_id, start + 1)
    return rows[0][0] if rows else b""


def _give_up(order: _Find | _Piece, error: Exception) -> None:
    fail(order.done, StoreUnavailableError(str(error)) if isinstance(error, UnfitError) else error)
