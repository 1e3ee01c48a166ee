"""The ends that an instance waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from proxy.store.postgresql.awaited import AwaitedEnds
from proxy.store.postgresql.health import Health
from proxy.store.postgresql.session import Session
from tests.support.records import finished


async def test_an_end_that_was_told_while_it_was_polled_is_not_read_again() -> None:
    """Results may be large."""
    record, read = finished(), list[str]()

    def on_end(job_id: str) -> bool:
        read.append(job_id)
        return True

    class Database:
        async def run(self, _sql: str, job_ids: Sequence[str]) -> list[tuple[Any, ...]]:
            awaited.tell(record)
            awaited.close()
            return [(job_id,) for job_id in job_ids]

    health = Health("", (), lambda: 0)
    awaited = AwaitedEnds(cast("Session", Database()), health, every_s=0, on_end=on_end)
    waiting = asyncio.create_task(awaited.of(record.id))
    await asyncio.sleep(0)

    await awaited.run()

    assert await waiting is record
    assert (read, awaited.lost_notices) == ([], 0)


async def test_whoever_gives_up_an_end_leaves_it_to_the_others() -> None:
    """Several clients may wait for one job, each for as long as it likes."""
    record = finished()
    health = Health("", (), lambda: 0)
    awaited = AwaitedEnds(cast("Session", None), health, every_s=0, on_end=lambda _: True)
    first, second = [asyncio.create_task(awaited.of(record.id)) for _ in range(2)]
    await asyncio.sleep(0)

    first.cancel()
    await asyncio.wait((first,))
    assert record.id in awaited
    awaited.tell(record)

    assert await second is record
    assert record.id not in awaited
