"""A lane without a database."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import psycopg

from proxy.store.postgresql.health import Health
from proxy.store.postgresql.orders import Lane
from proxy.store.postgresql.session import GoneError, Session
from tests.support.waiting import eventually


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Order:
    until: float
    size_bytes: int = 1


async def test_an_order_that_was_given_up_and_then_carried_out_is_not_counted_twice() -> None:
    """It was in a batch with one whose row is locked, so each was tried alone: none is left once the other is, too."""
    first, second = _Order(until=1.0), _Order(until=1.0)
    tried: list[list[_Order]] = []
    goes_on, unlocked = asyncio.Event(), asyncio.Event()

    async def carry_out(batch: list[_Order]) -> None:
        tried.append(list(batch))
        if batch == [first]:
            return
        await (goes_on if len(batch) > 1 else unlocked).wait()
        if len(batch) > 1:
            raise GoneError("a row is locked") from psycopg.errors.LockNotAvailable()

    lane: Lane[_Order] = Lane(
        Session(""), Health("here", (), lambda: 0), carry_out=carry_out, give_up=lambda _order, _error: None
    )
    lane.add(first)
    lane.add(second)
    await eventually(lambda: tried == [[first, second]])
    lane.look(2.0, "late")
    assert len(lane) == 0

    goes_on.set()

    await eventually(lambda: tried[1:] == [[first], [second]])
    assert len(lane) == 0
    unlocked.set()
    await lane.close()
