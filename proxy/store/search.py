"""Queries about many jobs as SQL, for either database. Has no connection itself: the caller executes the SQL.

Theory of operation
-------------------
Each question here is a generator: it yields statements and is sent their rows. The journal drives it in a thread, over
a read-only connection of its own; for PostgreSQL it is driven from the event loop, over a session of its own.

Ended jobs are found by the index of their ends, or by that of failed jobs if only these can match. So a page of the
newest is as fast among a million jobs as among a hundred. If few jobs match, the index is walked in parts of some
thousands, until a time limit; then the page ends where the search did, and says so. Only the jobs of one part are
sorted, and nothing is skipped by counting (OFFSET). Open jobs are few, and have an index of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from proxy.store.conditions import (
    LAST,
    Dialect,
    Part,
    Question,
    Rows,
    Source,
    Sql,
    Statement,
    beyond,
    code,
    cut,
    filters,
    first_part,
    rest_after,
    source_of,
)
from proxy.store.query import Counts, JobPage, JobQuery, Limits, Position, Sort
from proxy.store.record import Record

__all__ = ["counts", "page"]

#: How many combinations of values, and of labels, are counted in each part.
_COMBINATIONS: Final = 1_000


# --- a page ----------------------------------------------------------------------------------------------------------


def page(
    dialect: Dialect, query: JobQuery, *, sort: Sort, limit: int, after: Position | None, limits: Limits
) -> Question[JobPage]:
    """Return the first `limit` jobs after a position."""
    if sort is Sort.SLOWEST:
        return (yield from _slowest(dialect, query, limit, after, limits))
    until = time.monotonic() + limits.seconds
    source = yield from source_of(dialect, query, limits)
    seen_to = (yield from _newest_end(dialect, after)) if sort is Sort.OLDEST and query.wants_ended else None
    found: list[tuple[Record, Position]] = []
    for is_open in (False, True) if sort is Sort.OLDEST else (True, False):
        if after is not None and after.is_open is not is_open and is_open is (sort is not Sort.OLDEST):
            continue  # the position is in the other half, which comes later
        start = after if after is not None and after.is_open is is_open else None
        if is_open:
            if query.wants_open and (query.until is None or query.until > time.time()):
                if seen_to is not None and found:
                    seen_to = max(seen_to, found[-1][1].at)
                found += yield from _open_jobs(dialect, query, source, sort, limit + 1 - len(found), start, seen_to)
        elif query.wants_ended:
            edge = yield from _ended_jobs(dialect, query, source, sort, limit + 1, start, found, until)
            if edge is not None:
                number = LAST if sort is Sort.OLDEST else -1
                return JobPage(
                    records=[record for record, _ in found],
                    next=Position(is_open=False, at=edge, number=number),
                    searched_to=edge,
                )
        if len(found) > limit:
            break
    return _page_of(found, limit)


def _page_of(found: Sequence[tuple[Record, Position]], limit: int) -> JobPage:
    return JobPage(
        records=[record for record, _ in found[:limit]],
        next=found[limit - 1][1] if len(found) > limit else None,
    )


def _newest_end(dialect: Dialect, after: Position | None) -> Question[float]:
    """Return when the last job had ended before the first page with open jobs, in Unix time; 0: none had."""
    if after is not None and after.is_open:
        return after.seen_to
    newest = f"SELECT {dialect.unix('max(j.finished_at)')} {dialect.sources['end']} WHERE j.finished_at IS NOT NULL"
    ((end,),) = yield newest, []
    return float(end or 0.0)


def _open_jobs(
    dialect: Dialect,
    query: JobQuery,
    source: Source,
    sort: Sort,
    limit: int,
    after: Position | None,
    seen_to: float | None,
) -> Question[list[tuple[Record, Position]]]:
    """Return open jobs, and those that ended after `seen_to`, if given: in the place that they had before."""
    direction = "" if sort is Sort.OLDEST else " DESC"

    def select(where_from: str, ended_after: float | None) -> Statement:
        sql = Sql(dialect)
        where = ["j.finished_at IS NULL" if ended_after is None else f"j.finished_at > {sql.at(ended_after)}"]
        where += [*source.condition(sql), *filters(sql, query)]
        if after is not None:
            where += beyond(sql, "j.accepted_at", after, sort)
        statement = (
            f"SELECT {dialect.columns}, {dialect.unix('j.accepted_at')}, j.n {where_from} "
            f"WHERE {' AND '.join(where)} ORDER BY j.accepted_at{direction}, j.n{direction} LIMIT {limit}"
        )
        return statement, sql.values

    rows = yield select(source.open, None)
    found = _found(dialect, rows, is_open=True)
    if seen_to is None:
        return found
    rows = yield select(source.ended, seen_to)
    found = sorted(found + _found(dialect, rows, is_open=True), key=lambda one: (one[1].at, one[1].number))
    return [(record, replace(at, seen_to=seen_to)) for record, at in found[:limit]]


def _ended_jobs(
    dialect: Dialect,
    query: JobQuery,
    source: Source,
    sort: Sort,
    limit: int,
    after: Position | None,
    found: list[tuple[Record, Position]],
    until: float,
) -> Question[float | None]:
    """Add to `found`, up to `limit`; return None, or how far the search got in time."""
    rest = first_part(query, after)
    direction = "" if sort is Sort.OLDEST else " DESC"
    while True:
        part = yield from cut(dialect, query, source, rest, sort)
        sql = Sql(dialect)
        where = [*part.conditions(sql, sort), *source.condition(sql), *filters(sql, query)]
        statement = (
            f"SELECT {dialect.columns}, {dialect.unix('j.finished_at')}, j.n {source.ended} "
            f"WHERE {' AND '.join(where)} ORDER BY j.finished_at{direction}, j.n{direction} "
            f"LIMIT {limit - len(found)}"
        )
        rows = yield statement, sql.values
        found += _found(dialect, rows, is_open=False)
        if part.edge is None or len(found) >= limit:
            return None
        if time.monotonic() >= until:
            return part.edge
        rest = rest_after(query, part, sort)


def _slowest(
    dialect: Dialect, query: JobQuery, limit: int, after: Position | None, limits: Limits
) -> Question[JobPage]:
    """Return the slowest of the newest jobs, of as many as can be looked at in time."""
    if not query.wants_ended:
        return JobPage(records=[], next=None)
    until = time.monotonic() + limits.seconds
    source = yield from source_of(dialect, query, limits)
    took = f"({dialect.unix('j.finished_at')} - {dialect.unix('j.accepted_at')})"
    found: list[tuple[Record, Position]] = []
    rest, looked_at = first_part(query, None), 0
    while True:
        part = yield from cut(dialect, query, source, rest, Sort.SLOWEST)
        looked_at += part.jobs
        sql = Sql(dialect)
        where = [*part.conditions(sql, Sort.SLOWEST), *source.condition(sql), *filters(sql, query)]
        if after is not None:
            at = sql.p(after.at, "float8")
            where.append(f"({took} < {at} OR ({took} = {at} AND j.n < {sql.p(after.number, 'int8')}))")
        statement = (
            f"SELECT {dialect.columns}, {took}, j.n {source.ended} WHERE {' AND '.join(where)} "
            f"ORDER BY {took} DESC, j.n DESC LIMIT {limit + 1}"
        )
        rows = yield statement, sql.values
        found += _found(dialect, rows, is_open=False)
        found.sort(key=lambda one: (one[1].at, one[1].number), reverse=True)
        del found[limit + 1 :]
        if part.edge is None:
            return _page_of(found, limit)
        if time.monotonic() >= until:
            return replace(_page_of(found, limit), searched_to=part.edge, looked_at=looked_at)
        rest = rest_after(query, part, Sort.SLOWEST)


def _found(dialect: Dialect, rows: Rows, *, is_open: bool) -> list[tuple[Record, Position]]:
    return [(dialect.record_of(row[:-2]), Position(is_open=is_open, at=float(row[-2]), number=row[-1])) for row in rows]


# --- how many --------------------------------------------------------------------------------------------------------


def counts(dialect: Dialect, query: JobQuery, *, limits: Limits) -> Question[Counts]:
    """Count the newest jobs, as many as can be looked at in time."""
    until = time.monotonic() + limits.seconds
    source = yield from source_of(dialect, query, limits)
    counted = Counts()
    if query.wants_open and (query.until is None or query.until > time.time()):
        yield from _count(dialect, query, source, None, counted)
    rest = first_part(query, None)
    while query.wants_ended:
        part = yield from cut(dialect, query, source, rest, Sort.NEWEST)
        yield from _count(dialect, query, source, part, counted)
        if part.edge is None:
            break
        if time.monotonic() >= until or counted.total >= limits.counted:
            counted.counted_to = part.edge
            break
        rest = rest_after(query, part, Sort.NEWEST)
    return counted


def _count(dialect: Dialect, query: JobQuery, source: Source, part: Part | None, counted: Counts) -> Question[None]:
    """Count the jobs of a part; None: the open ones."""

    def where(sql: Sql) -> str:
        times = ["j.finished_at IS NULL"] if part is None else part.conditions(sql, Sort.NEWEST)
        conditions = " AND ".join([*times, *source.condition(sql), *filters(sql, query)])
        return f"{source.open if part is None else source.ended} WHERE {conditions}"

    sql = Sql(dialect)
    kinds = (
        "j.state", code(dialect), "j.submitted", "j.profile", dialect.instance, "j.worker_end", "j.cancelled_by"
    )  # fmt: skip
    numbers = ", ".join(str(number) for number in range(1, len(kinds) + 1))
    statement = (
        f"SELECT {', '.join(kinds)}, count(*) {where(sql)} GROUP BY {numbers} ORDER BY {len(kinds) + 1} DESC "
        f"LIMIT {_COMBINATIONS}"
    )
    rows = yield statement, sql.values
    for *kind, jobs in rows:
        counted.add(kind, jobs)
    sql = Sql(dialect)
    statement = f"SELECT {dialect.labels_alone}, count(*) {where(sql)} GROUP BY 1 ORDER BY 2 DESC LIMIT {_COMBINATIONS}"
    rows = yield statement, sql.values
    for labels, jobs in rows:
        if labels:
            counted.add_labels(json.loads(labels), jobs)
