"""The store that forgets with the process."""

from __future__ import annotations

from proxy.store.memory import MemoryStore
from tests.support.records import a_record, finished


async def test_the_oldest_finished_jobs_make_room_for_new_ones() -> None:
    """Memory is bounded by bytes; what is open stays."""
    store = MemoryStore(3600, max_bytes=100_000)
    open_job = a_record()
    store.put(open_job)
    records = [finished(callback=b"x" * 20_000) for _ in range(10)]

    for record in records:
        store.put(record)

    kept = [await store.by_id(record.id) is not None for record in records]
    assert kept == [False] * 6 + [True] * 4
    assert await store.by_id(open_job.id) == open_job


async def test_time_is_taken_from_the_clock_that_was_given() -> None:
    """A finished job is forgotten `ttl_s` after its end was put."""
    now = 0.0
    store = MemoryStore(10, clock=lambda: now)
    record = finished()
    store.put(record)

    now = 9.9
    assert await store.by_id(record.id) == record
    now = 10.1
    assert await store.by_id(record.id) is None
