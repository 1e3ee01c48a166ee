"""The store that forgets everything with the process."""

from __future__ import annotations

import asyncio
import random
import time
from unittest.mock import Mock

import pytest
from msgspec.structs import replace

from proxy.store.memory import MemoryStore
from proxy.store.query import JobQuery, Position, Sort, matches
from proxy.store.record import Record
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


async def test_a_job_that_is_larger_than_all_may_be_makes_no_room_for_itself() -> None:
    """It is forgotten at once, and no other."""
    store = MemoryStore(3600, max_bytes=100_000)
    small, large = finished(), finished(callback=b"x" * 100_000)

    store.put(small)
    store.put(large)

    assert await store.by_id(small.id) == small
    assert await store.by_id(large.id) is None
    assert store.may_have_lost((large.finished_at or 0.0) - 1)


async def test_time_is_taken_from_the_clock_that_was_given() -> None:
    """A finished job is forgotten `ttl_s` after its end was put."""
    now = 0.0
    store = MemoryStore(10, clock=lambda: now)
    record = finished()
    store.put(record)

    now = 9.9
    assert await store.by_id(record.id) == record
    store.put(replace(record, duplicates=1))
    now = 10.1
    assert await store.by_id(record.id) is None
    assert not store.may_have_lost(), "its time was over"


def test_what_an_earlier_process_had_may_be_lost_until_its_time_is_over() -> None:
    """It is not remembered."""
    assert MemoryStore(10, lost_before=time.time()).may_have_lost()
    assert not MemoryStore(10, lost_before=time.time() - 11).may_have_lost()
    assert not MemoryStore(10).may_have_lost()


class _Instant(float):
    """A time that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)

    def __hash__(self) -> int:
        return super().__hash__()

    def __lt__(self, other: float) -> bool:
        _Instant.compared += 1
        return super().__lt__(other)


def _many(count: int) -> tuple[MemoryStore, list[Record]]:
    """Return a store with finished jobs, and these, the oldest first; they were put in another order."""
    store = MemoryStore(3_600)
    first = time.time()
    records = [finished(accepted_at=first, finished_at=_Instant(first + number)) for number in range(count)]
    for record in random.Random(1).sample(records, count):
        store.note(record)
    return store, records


@pytest.mark.parametrize("sort", Sort)
async def test_many_jobs_are_listed_in_order_page_by_page(sort: Sort) -> None:
    """Each job once."""
    store, records = _many(3_000)
    found: list[str] = []
    after: Position | None = None
    while True:
        page = await store.jobs(JobQuery(), sort=sort, limit=700, after=after)
        found += [record.id for record in page.records]
        if page.next is None:
            break
        after = page.next
    assert found == [record.id for record in (records if sort is Sort.OLDEST else reversed(records))]


@pytest.mark.parametrize("sort", [Sort.NEWEST, Sort.OLDEST])
async def test_a_page_is_made_without_looking_at_all_jobs(sort: Sort, monkeypatch: pytest.MonkeyPatch) -> None:
    """So an export, which is made of pages, looks at each job about once."""
    store, records = _many(2_000)
    looked_at = Mock(side_effect=matches)
    monkeypatch.setattr("proxy.store.memory.matches", looked_at)
    after, pages = None, 0
    while pages == 0 or after is not None:
        page = await store.jobs(JobQuery(), sort=sort, limit=100, after=after)
        after, pages = page.next, pages + 1
    assert pages == 20
    assert looked_at.call_count < 2 * len(records)


async def test_the_list_of_ends_is_forgotten_with_the_jobs() -> None:
    """It does not grow, and nothing that is forgotten is listed."""
    store = MemoryStore(3_600, max_bytes=20_000)
    for number in range(5_000):
        store.note(finished(finished_at=time.time() + number % 7, key=b"%d" % number))
    page = await store.jobs(JobQuery(), sort=Sort.NEWEST, limit=500)
    assert len(page.records) == len(store._finished) < 20  # noqa: SLF001 - what it keeps cannot be seen from outside
    assert len(store._ends) < 1_000  # noqa: SLF001 - as above
    assert len(store._by_token) == len(store._by_key) == len(page.records)  # noqa: SLF001 - as above


async def test_others_have_their_turn_while_jobs_are_sorted() -> None:
    """However many jobs there are: only about as many as were looked at in one turn are sorted in it."""
    store, _ = _many(10_000)
    listing = asyncio.ensure_future(store.jobs(JobQuery(), sort=Sort.OLDEST, limit=10))
    most = 0
    while not listing.done():
        _Instant.compared = 0
        await asyncio.sleep(0)
        most = max(most, _Instant.compared)
    assert 0 < most < 10_000
