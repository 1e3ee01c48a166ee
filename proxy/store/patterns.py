"""How jobs ended over time: how many, how long they took, and which failures are alike.

Counted by the database, one part of the jobs at a time (search.py), and within limits; the answer says how far it got.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from proxy.store.conditions import (
    Dialect,
    Part,
    Question,
    Source,
    Sql,
    code,
    cut,
    filters,
    first_part,
    rest_after,
    source_of,
)
from proxy.store.query import JobQuery, Limits, Sort, code_of
from proxy.store.record import Record
from shared.outcome import Failed

__all__ = ["EDGES_MS", "FailureGroup", "Grid", "Patterns", "patterns"]

_Count = Callable[[Dialect, JobQuery, Source, Part, "Patterns"], Question[None]]
#: The bounds between the classes of durations; the last class has no upper bound.
EDGES_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
#: How many groups of failures are distinguished.
_GROUPS: Final = 1_000
_MAX_WORDS: Final = 200
#: What differs between similar failures: numbers and ids.
_PARTICULAR: Final = re.compile(r"\b(?=[0-9a-f-]{0,40}[0-9])[0-9a-f]{6,}(?:-[0-9a-f]{4,})*\b|[0-9]+(?:[.:][0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Buckets of time."""

    #: The start of the first bucket, in Unix time; the length of each, in seconds; their number.
    since: float
    bucket_s: float
    buckets: int

    @property
    def until(self) -> float:
        """The end of the last bucket."""
        return self.since + self.bucket_s * self.buckets

    def bucket_of(self, at: float) -> int:
        """Return the number of the bucket that contains this time."""
        return min(self.buckets - 1, max(0, int((at - self.since) / self.bucket_s)))


@dataclass(slots=True, kw_only=True)
class FailureGroup:
    """Similar failures."""

    count: int = 0
    submitted: Counter[str] = field(default_factory=Counter)
    first_at: float
    last_at: float
    over_time: Counter[int] = field(default_factory=Counter)
    #: The id of one of them.
    example: str


class Patterns:
    """What was counted."""

    def __init__(self, grid: Grid, label: str) -> None:
        """`label`: the label by whose values failures are grouped, too; empty: none."""
        self.grid = grid
        self.label = label
        self.jobs = 0
        self.failed = [0] * grid.buckets
        #: For each bucket of time, the number of jobs in each class of durations (`EDGES_MS`).
        self.latency = [[0] * (len(EDGES_MS) + 1) for _ in range(grid.buckets)]
        #: By code, similar words, and the label's value.
        self.failures: dict[tuple[str, str, str], FailureGroup] = {}
        #: If the limits ended the count: since when jobs, and failures, were counted, in Unix time.
        self.searched_to: float | None = None
        self.failures_to: float | None = None

    @property
    def ended(self) -> list[int]:
        """How many jobs ended in each bucket of time."""
        return [sum(row) for row in self.latency]

    def add(self, bucket: int, duration_class: int, jobs: int, *, failed: bool) -> None:
        """Count jobs that ended in this bucket of time and belong to this class of durations."""
        self.jobs += jobs
        self.latency[bucket][duration_class] += jobs
        self.failed[bucket] += jobs if failed else 0

    def add_failures(self, alike: tuple[str, str, str], bucket: int, jobs: int, submitted: str, seen: _Seen) -> None:
        """Count similar failures; once there are too many groups, all other failures of a code share one."""
        if alike not in self.failures and len(self.failures) >= _GROUPS:
            alike = (alike[0], "(others)", "")
        group = self.failures.setdefault(
            alike, FailureGroup(first_at=seen.first_at, last_at=seen.last_at, example=seen.example)
        )
        if seen.last_at >= group.last_at:
            group.last_at, group.example = seen.last_at, seen.example
        group.first_at = min(group.first_at, seen.first_at)
        group.count += jobs
        group.submitted[submitted] += jobs
        group.over_time[bucket] += jobs

    def add_record(self, record: Record) -> None:
        """Count one job that has ended."""
        ended = record.finished_at or 0.0
        bucket, failure = self.grid.bucket_of(ended), code_of(record)
        took_ms = (ended - record.accepted_at) * 1000
        self.add(bucket, sum(took_ms >= edge for edge in EDGES_MS), 1, failed=failure is not None)
        if failure is not None:
            told = record.failure or record.outcome
            words = record.error or (told.detail if isinstance(told, Failed) and record.failure else "")
            alike = (failure, _alike(words), record.labels.get(self.label, ""))
            self.add_failures(alike, bucket, 1, record.submitted, _Seen(ended, ended, record.id))


@dataclass(frozen=True, slots=True)
class _Seen:
    first_at: float
    last_at: float
    example: str


def _alike(words: str) -> str:
    """Return what similar failures have in common."""
    return _PARTICULAR.sub("#", words[:_MAX_WORDS])


def patterns(dialect: Dialect, query: JobQuery, grid: Grid, label: str, *, limits: Limits) -> Question[Patterns]:
    """Count the newest jobs within the grid, then the newest failures, each as many as can be looked at in time."""
    found = Patterns(grid, label)
    if not query.wants_ended:
        return found
    found.searched_to = yield from _through(dialect, query, limits, found, _count)
    if query.failed is not False:
        found.failures_to = yield from _through(dialect, replace(query, failed=True), limits, found, _count_failures)
    return found


def _through(
    dialect: Dialect, query: JobQuery, limits: Limits, found: Patterns, count: _Count
) -> Question[float | None]:
    """Count the jobs part by part; return None, or how far this got in time."""
    until = time.monotonic() + limits.seconds
    source = yield from source_of(dialect, query, limits)
    rest = first_part(query, None)
    while True:
        part = yield from cut(dialect, query, source, rest, Sort.NEWEST)
        yield from count(dialect, query, source, part, found)
        if part.edge is None:
            return None
        if time.monotonic() >= until:
            return part.edge
        rest = rest_after(query, part, Sort.NEWEST)


def _bucket(sql: Sql, grid: Grid) -> str:
    since, length = sql.p(grid.since, "float8"), sql.p(grid.bucket_s, "float8")
    return sql.dialect.whole(f"(({sql.dialect.unix('j.finished_at')} - {since}) / {length})")


def _where(sql: Sql, query: JobQuery, source: Source, part: Part) -> str:
    conditions = [*part.conditions(sql, Sort.NEWEST), *source.condition(sql), *filters(sql, query)]
    return f"{source.ended} WHERE {' AND '.join(conditions)}"


def _count(dialect: Dialect, query: JobQuery, source: Source, part: Part, found: Patterns) -> Question[None]:
    sql = Sql(dialect)
    took_ms = f"(({dialect.unix('j.finished_at')} - {dialect.unix('j.accepted_at')}) * 1000)"
    classes = " ".join(f"WHEN {took_ms} < {edge} THEN {number}" for number, edge in enumerate(EDGES_MS))
    columns = f"{_bucket(sql, found.grid)}, CASE {classes} ELSE {len(EDGES_MS)} END, {code(dialect)} IS NOT NULL"
    statement = f"SELECT {columns}, count(*) {_where(sql, query, source, part)} GROUP BY 1, 2, 3"
    for bucket, duration_class, failed, jobs in (yield statement, sql.values):
        found.add(_within(found.grid, bucket), duration_class, jobs, failed=bool(failed))


def _count_failures(dialect: Dialect, query: JobQuery, source: Source, part: Part, found: Patterns) -> Question[None]:
    sql = Sql(dialect)
    ended = dialect.unix("j.finished_at")
    columns = f"{code(dialect)}, {dialect.words}, {dialect.labels_alone}, j.submitted, {_bucket(sql, found.grid)}"
    statement = (
        f"SELECT {columns}, count(*), min({ended}), max({ended}), max(j.id) {_where(sql, query, source, part)} "
        "GROUP BY 1, 2, 3, 4, 5"  # cheap: a part has few jobs
    )
    for failure, words, labels, submitted, bucket, jobs, first_at, last_at, example in (yield statement, sql.values):
        alike = (failure, _alike(words or ""), _label(labels, found.label))
        seen = _Seen(first_at, last_at, example)
        found.add_failures(alike, _within(found.grid, bucket), jobs, submitted, seen)


def _within(grid: Grid, bucket: int) -> int:
    return min(grid.buckets - 1, max(0, bucket))


def _label(labels: str | None, name: str) -> str:
    read: Mapping[str, str] = json.loads(labels) if labels and name else {}
    return read.get(name, "")
