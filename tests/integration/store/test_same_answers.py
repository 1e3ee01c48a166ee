"""A journal and a database answer like memory, whatever the jobs and the query: memory looks at each job."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal
from proxy.store.memory import MemoryStore
from proxy.store.patterns import Grid, Patterns
from proxy.store.protocol import JobStore
from proxy.store.query import ANY, JobQuery, Limits, Position, Sort
from proxy.store.record import Record
from shared.errors import Code
from shared.lifecycle import State, Submitted
from shared.outcome import Failed
from tests.support.stores import alike, of, on_database

#: Much more than a statement, and its answer, are on the way on a busy machine.
_WAY_S: Final = 10
_runs: Final = itertools.count()
_TEXTS: Final = [
    "Q", "q", "\u00e9\u00df", "\u00c9\u00df", 'q"x', "100%", "a_b", "a\\b", "x!y", "\u202e", "z\nz", "4711 of 12",
    "de-ad",
]  # fmt: skip
_NAMES: Final = ["label", "other"]
_CODES: Final = [Code.WORKER_DIED, Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.JOB_FAILED]


def _one(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def _some(values: list[Any]) -> st.SearchStrategy[frozenset[Any]]:
    return st.frozensets(_one(values), min_size=1, max_size=2)


_by_name: Final = st.dictionaries(_one(_NAMES), _one(_TEXTS), max_size=2)
_failures: Final = st.builds(
    Failed, code=_one(_CODES), detail=_one(["", *_TEXTS]), submitted=_one(list(Submitted)), result=st.none()
)
#: When a job was accepted, in seconds before now, how long it took (None: it is open), and what is recorded of it.
#: A database has each time later by as long as its statement was on the way, so an end is almost `_WAY_S` or more
#: before the next one, and before the next time that a query or a grid compares it with.
_jobs: Final = st.fixed_dictionaries(
    {
        "ago_s": _one([100.0, 200.0, 300.0, 400.0, 500.0]),
        "took_s": _one([None, 0.3, 30.3, 70.3, 70.3]),
        "state": _one([State.ACCEPTED, State.SUBMITTING, State.WAITING]),
        "callback": st.none() | st.just(b"{}"),
        "failure": st.none() | _failures,
        "says_failed": st.booleans(),
        "error": _one(["", *_TEXTS]),
        "has_key": st.booleans(),
        "profile": _one(["", "cog"]),
        "labels": _by_name,
        "outputs": _by_name,
        "worker_end": _one(["", "SIGKILL"]),
        "cancelled_by": _one(["", "operator ann"]),
        "sent": st.none() | st.just(b"body"),
    }
)
#: The members of a query, with the ends of its range in seconds before now, and its keys by the numbers of their jobs.
_queries: Final = st.fixed_dictionaries(
    {},
    optional={
        "since": _one([50.0, 150.0, 320.0]),
        "until": _one([-1000.0, 50.0, 150.0, 350.0]),
        "states": _some(list(State)),
        "failed": st.booleans(),
        "codes": _some([str(code) for code in _CODES]),
        "submitted": _some(list(Submitted)),
        "labels": st.dictionaries(_one(_NAMES), _one(_TEXTS), max_size=1),
        "keys": _some([0, 1, 2]),
        "profiles": _some(["", "cog"]),
        "worker_end": _one([ANY, "SIGKILL"]),
        "cancelled_by": _one([ANY, "operator bob"]),
        "text": _one([*_TEXTS, *_NAMES]),
    },
)


def _key(run: str, number: int) -> bytes:
    return hashlib.sha256(f"{run} {number}".encode()).digest()


def _record(job: dict[str, Any], now: float, run: str, number: int) -> Record:
    members = dict(job)
    accepted_at, took_s = now - members.pop("ago_s"), members.pop("took_s")
    members |= {
        "id": secrets.token_hex(16),
        "token_hash": secrets.token_bytes(32),
        "key": _key(run, number) if members.pop("has_key") else None,
        "accepted_at": accepted_at,
        "deadline_at": now + 3600,
        "labels": {**job["labels"], "run": run},
    }
    if members["callback"] is None:
        members |= {"says_failed": False, "error": ""}
        members["failure"] = members["failure"] or Failed(code=Code.INTERRUPTED, detail="", submitted=Submitted.NO)
    if took_s is None:
        members |= {"callback": None, "failure": None, "says_failed": False, "error": "", "cancelled_by": ""}
    else:
        members |= {"state": State.FINISHED, "finished_at": accepted_at + took_s}
    return Record(**members)


def _query(members: dict[str, Any], now: float, run: str) -> JobQuery:
    values = members | {name: now - members[name] for name in ("since", "until") if name in members}
    if "keys" in members:
        values["keys"] = frozenset(_key(run, number) for number in members["keys"])
    return JobQuery(**(values | {"labels": {**members.get("labels", {}), "run": run}}))


def _place(record: Record, sort: Sort) -> tuple[bool, float]:
    """Return what a list is sorted by, except for the rounding of times in the conversion between clocks."""
    if record.finished_at is None:
        return True, round(record.accepted_at / _WAY_S)
    return False, round((record.finished_at - (record.accepted_at if sort is Sort.SLOWEST else 0)) / _WAY_S)


async def _listed(store: JobStore, query: JobQuery, sort: Sort, size: int, limits: Limits) -> list[Record]:
    found: list[Record] = []
    after: Position | None = None
    while True:
        page = await store.jobs(query, sort=sort, limit=size, after=after, limits=limits)
        found += page.records
        after = page.next
        if after is None:
            return found


def _counted(found: Patterns) -> tuple[Any, ...]:
    groups = {
        alike: (group.count, dict(group.submitted), dict(group.over_time)) for alike, group in found.failures.items()
    }
    return found.jobs, found.failed, found.latency, groups


async def _check_query(memory: MemoryStore, store: JobStore, query: JobQuery, now: float, size: int, part: int) -> None:
    some, usual = Limits(seconds=0.0, part=part), Limits(seconds=60.0, part=part)
    for sort in Sort:
        # The slowest of a part of the jobs are not those of all.
        limits = usual if sort is Sort.SLOWEST else some
        expected, found = [await _listed(one, query, sort, size, limits) for one in (memory, store)]
        assert [_place(one, sort) for one in found] == [_place(one, sort) for one in expected], sort
        by_id = {one.id: one for one in found}
        assert all(alike(by_id.get(one.id), of(store, one)) for one in expected), sort
    counts, counted = [await one.counts(query, limits=usual) for one in (memory, store)]
    assert (counted.total, counted.by, counted.labels) == (counts.total, counts.by, counts.labels)
    grid = Grid(since=now - 600, bucket_s=70.0, buckets=9)
    patterns, found_patterns = [await one.patterns(query, grid, "label", limits=usual) for one in (memory, store)]
    assert _counted(found_patterns) == _counted(patterns)


async def _check(
    store: JobStore, jobs: list[dict[str, Any]], queries: list[dict[str, Any]], size: int, part: int
) -> None:
    memory, now, run = MemoryStore(3600), float(round(time.time(), -1)), f"run{next(_runs)}x"
    records = [_record(job, now, run, number) for number, job in enumerate(jobs)]
    for record in records:
        await memory.put(record)
        await store.put(of(store, record))
    for members in queries:
        await _check_query(memory, store, _query(members, now, run), now, size, part)
    for record in records:
        assert alike(await store.by_token(record.token_hash), of(store, record))
        if record.key is not None:
            assert alike(await store.by_key(record.key), of(store, record))


def _check_store(opened: AbstractAsyncContextManager[JobStore]) -> None:
    with asyncio.Runner() as runner:
        store = runner.run(opened.__aenter__())

        @given(
            jobs=st.lists(_jobs, max_size=15),
            queries=st.lists(_queries, min_size=3, max_size=3),
            size=_one([1, 3, 50]),
            part=_one([2, 5, 3000]),
        )
        @settings(max_examples=30, deadline=None, phases=[Phase.generate])  # shrinking takes minutes
        def check(**drawn: Any) -> None:
            runner.run(_check(store, **drawn))

        check()
        runner.run(opened.__aexit__(None, None, None))


def test_a_journal_answers_like_memory(tmp_path: Path) -> None:
    """Lists in each order, counts and patterns; and the look-ups of its jobs."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[JobStore]:
        store = Journal(JournalFile(str(tmp_path / "jobs.sqlite3")), ttl_s=3600)
        yield store
        await store.close()

    _check_store(opened())


@pytest.mark.long
def test_a_database_answers_like_memory(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, over one connection: opening one for each question would take the server most of the time."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[JobStore]:
        store = await on_database(database)
        searches = store._searches  # noqa: SLF001 - there is no other way to keep its connection
        session = searches._own_session()  # noqa: SLF001
        with monkeypatch.context() as patch:
            patch.setattr(session, "close", lambda: None)
            patch.setattr(searches, "_own_session", lambda: session)
            yield store
        session.close()
        await store.close()

    _check_store(opened())
