"""Questions to a journal with a million jobs: how they are answered. `python -m bench.questions` measures the time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from bench.questions import FIRST_END, JOBS, fill
from proxy.store.journal.file import JournalFile
from proxy.store.journal.reader import QuestionOf, T, answer, connect_to_read
from proxy.store.patterns import Grid, patterns
from proxy.store.query import JobQuery, Limits, Position, Sort
from proxy.store.search import counts, page
from shared.lifecycle import State

pytestmark = pytest.mark.xdist_group("million")  # filling the journal takes 4 s of CPU

#: Each answer ends after the first part of the jobs.
_LIMITS: Final = Limits(seconds=0.0, part=5_000)
#: SQLite may take this many steps of its machine for that; scanning all jobs takes 15 million and more.
_STEPS: Final = 3_000_000
_QUERIES: Final = {
    "all": JobQuery(),
    "failed": JobQuery(failed=True),
    "one code": JobQuery(codes=frozenset({"worker-died"})),
    "an account": JobQuery(labels={"account": "a77"}),
    "failures of an account": JobQuery(failed=True, labels={"account": "a100"}),
    "a range": JobQuery(since=FIRST_END + 20_000, until=FIRST_END + 30_000),
    "a word": JobQuery(text="no such word"),
    "an id": JobQuery(text=f"{12_345:032d}"),
    "a key": JobQuery(keys=frozenset({b"k" * 32})),
    "open": JobQuery(states=frozenset({State.WAITING})),
}


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A read-only connection to a journal with a million jobs."""
    path = Path(tmp_path_factory.mktemp("million")) / "jobs.sqlite3"
    JournalFile(str(path)).close()
    fill(path)
    with closing(connect_to_read(path)) as db:
        yield db
    path.unlink()


@dataclass(kw_only=True)
class _Cost:
    """The cost of an answer."""

    steps: int
    plans: list[str]


def _asked(db: sqlite3.Connection, question_of: QuestionOf[T]) -> tuple[T, _Cost]:
    """Return an answer, and how its statements were executed."""
    statements: list[str] = []
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 100

    db.set_trace_callback(statements.append)
    db.set_progress_handler(count, 100)
    found = answer(db, question_of)
    db.set_progress_handler(None, 0)
    db.set_trace_callback(None)
    asked = [statement for statement in statements if statement.startswith("SELECT") and " jobs j " in statement]
    plans = [row[3] for statement in asked for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
    return found, _Cost(steps=steps, plans=plans)


def _check(cost: _Cost) -> None:
    """Check that jobs are found by an index, of which only a part is read; or all of the index of open jobs."""
    searches = [plan for plan in cost.plans if " j " in f"{plan} "]
    assert searches
    assert all(
        (plan.startswith("SEARCH j USING") and "INDEX" in plan) or plan == "SCAN j USING INDEX jobs_open"
        for plan in searches
    ), searches
    assert cost.steps < _STEPS


@pytest.mark.parametrize("sort", [Sort.NEWEST, Sort.OLDEST])
@pytest.mark.parametrize("name", _QUERIES)
def test_a_page_is_found_by_an_index_and_not_sorted(million: sqlite3.Connection, name: str, sort: Sort) -> None:
    """The first page and the one after it; only the jobs of one id or one key are sorted."""
    query, after = _QUERIES[name], None
    for _ in range(2):
        found, cost = _asked(
            million,
            lambda dialect, at=after: page(dialect, query, sort=sort, limit=50, after=at, limits=_LIMITS),  # type: ignore[misc]
        )
        _check(cost)
        sorted_apart = [plan for plan in cost.plans if "B-TREE" in plan]
        assert not sorted_apart or query.keys or query.text, sorted_apart
        after = found.next
        if after is None:
            break


@pytest.mark.parametrize("name", _QUERIES)
def test_counts_and_the_slowest_look_at_a_part_at_a_time(million: sqlite3.Connection, name: str) -> None:
    """They sort only that part."""
    query = _QUERIES[name]
    counted, cost = _asked(million, lambda dialect: counts(dialect, query, limits=_LIMITS))
    _check(cost)
    assert counted.total <= 6_000
    found, cost = _asked(
        million, lambda dialect: page(dialect, query, sort=Sort.SLOWEST, limit=50, after=None, limits=_LIMITS)
    )
    if query.wants_ended:
        _check(cost)
        assert found.looked_at in {None, _LIMITS.part}


@pytest.mark.parametrize("name", _QUERIES)
def test_patterns_look_at_a_part_at_a_time(million: sqlite3.Connection, name: str) -> None:
    """Of the jobs, then of the failures."""
    query = _QUERIES[name]
    grid = Grid(since=FIRST_END, bucket_s=2_500.0, buckets=40)
    found, cost = _asked(million, lambda dialect: patterns(dialect, query, grid, "account", limits=_LIMITS))
    assert found.jobs <= 6_000
    if query.wants_ended:
        _check(cost)


def test_the_last_page_of_a_million_is_found_as_the_first_is(million: sqlite3.Connection) -> None:
    """However far it is from the beginning."""
    deep = Position(is_open=False, at=FIRST_END + 1_000.0, number=JOBS)
    found, cost = _asked(
        million, lambda dialect: page(dialect, JobQuery(), sort=Sort.NEWEST, limit=50, after=deep, limits=_LIMITS)
    )
    assert found.records[0].id == f"{10_000:032d}"
    _check(cost)
