"""The store that forgets everything with the process."""

from __future__ import annotations

import time

from proxy.store.memory import MemoryStore
from tests.support.records import a_record, finished


async def test_the_oldest_finished_jobs_make_room_for_new_ones() -> None:
    """Memory is limited by bytes; open jobs stay."""
    store = MemoryStore(3600, max_bytes=100_000)
    open_job = a_record()
    store.put(open_job)
    records = [finished(callback=b"x" * 20_000) for _ in range(10)]

    for record in records:
        store.put(record)

    kept = [await store.by_id(record.id) is not None for record in records]
    assert kept == [False] * 6 + [True] * 4
    assert await store.by_id(open_job.id) == open_job
    assert store.may_have_lost()
    assert store.may_have_lost((records[5].finished_at or 0.0) - 1)
    assert not store.may_have_lost(records[5].finished_at or 0.0)


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
    assert not store.may_have_lost(), "its time was over"


def test_what_an_earlier_process_had_may_be_lost_until_its_time_is_over() -> None:
    """It is not remembered."""
    assert MemoryStore(10, lost_before=time.time()).may_have_lost()
    assert not MemoryStore(10, lost_before=time.time() - 11).may_have_lost()
    assert not MemoryStore(10).may_have_lost()
