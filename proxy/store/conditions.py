"""Conditions that select jobs, as SQL for either database, and the parts in which a search goes through them.

Rows are numbered (`n`) in the sort in which they came; two jobs that ended at the same time are told apart by that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from proxy.store.query import ANY, JobQuery, Limits, Position, Sort
from proxy.store.record import Record
from shared.errors import Code

__all__ = [
    "LAST",
    "Dialect",
    "Part",
    "Question",
    "Rows",
    "Source",
    "Sql",
    "Statement",
    "beyond",
    "code",
    "cut",
    "filters",
    "first_part",
    "member",
    "rest_after",
    "source_of",
]

#: More than any number of a row.
LAST: Final = 2**62
#: After everything that an id is made of.
_AFTER_IDS: Final = "~"

Rows = Sequence[Sequence[Any]]
Statement = tuple[str, list[Any]]
T = TypeVar("T")
Question = Generator[Statement, Rows, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What differs between the databases. The table is called j."""

    #: What a record is read from, its callback and what was sent being empty; and what makes a record of it.
    columns: str
    record_of: Callable[[Sequence[Any]], Record]
    #: FROM, by the index that is to be used: end, failed, open, key, id.
    sources: dict[str, str]
    #: A parameter of this number, of this kind (`text`, `float8`, `bytea`, `int8`).
    param: Callable[[int, str], str]
    #: A time in a parameter, and in a column, as the database has it, and as Unix time.
    instant: Callable[[str], str]
    unix: Callable[[str], str]
    #: The condition that a job has a label of this name and value.
    label: Callable[[Sql, str, str], str]
    #: The whole number below one that is not negative.
    whole: Callable[[str], str]
    #: LIKE, whatever the case of letters.
    like: str
    #: All readable texts: as JSON, and plain.
    said_as_json: tuple[str, ...]
    said: tuple[str, ...]
    #: What the job server said of a failure, or we do.
    words: str
    #: The labels alone, to be counted, as JSON.
    labels_alone: str
    instance: str
    owner: str
    says_failed: str


class Sql:
    """The parameters of a statement in the making."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.values: list[Any] = []

    def p(self, value: object, kind: str = "text") -> str:
        """Return a parameter that is this value."""
        self.values.append(value)
        return self.dialect.param(len(self.values), kind)

    def at(self, unix_s: float) -> str:
        """Return an instant as the database has it."""
        return self.dialect.instant(self.p(unix_s, "float8"))

    def any_of(self, column: str, values: Sequence[object], kind: str = "text") -> str:
        """Return that `column` has one of these values."""
        return f"{column} IN ({', '.join(self.p(value, kind) for value in values)})"


def code(dialect: Dialect) -> str:
    """Return the code of the failure that the client got, in the end or at first; NULL: no failure."""
    return f"CASE WHEN j.code IS NOT NULL THEN j.code WHEN {dialect.says_failed} THEN '{Code.JOB_FAILED}' END"


def _failed(dialect: Dialect) -> str:
    """Return the condition of the index of those that failed, word by word."""
    return f"(j.code IS NOT NULL OR {dialect.says_failed})"


def member(name: str, value: str) -> str:
    """Return how a member of an object stands in the JSON that is stored."""
    return f"{json.dumps(name)}: {json.dumps(value)}"


def filters(sql: Sql, query: JobQuery) -> list[str]:
    """Return the conditions of a query, but for its times and its keys."""
    return [*_of_outcome(sql, query), *_of_names(sql, query), *([_said(sql, query)] if query.text else [])]


def _of_outcome(sql: Sql, query: JobQuery) -> Iterator[str]:
    if query.states:
        yield sql.any_of("j.state", sorted(query.states))
    if query.failed is False:
        yield f"NOT {_failed(sql.dialect)}"
    if query.of_failures:
        yield _failed(sql.dialect)
    if query.codes:
        yield sql.any_of(code(sql.dialect), sorted(query.codes))
    if query.submitted:
        yield sql.any_of("j.submitted", sorted(query.submitted))


def _of_names(sql: Sql, query: JobQuery) -> Iterator[str]:
    dialect = sql.dialect
    for name, value in query.labels.items():
        yield dialect.label(sql, name, value)
    if query.profiles:
        yield sql.any_of("j.profile", sorted(query.profiles))
    if query.instances:
        names = sorted(query.instances)
        yield f"({sql.any_of(dialect.instance, names)} OR {sql.any_of(dialect.owner, names)})"
    for column, value in (("j.worker_end", query.worker_end), ("j.cancelled_by", query.cancelled_by)):
        if value:
            yield f"{column} <> ''" if value == ANY else f"{column} = {sql.p(value)}"


def _said(sql: Sql, query: JobQuery) -> str:
    """Return the condition that a text of the job has this in it."""
    dialect, as_json = sql.dialect, json.dumps(query.text)[1:-1]
    parts = [f"{column} {dialect.like} {sql.p(_pattern(query.text))} ESCAPE '!'" for column in dialect.said]
    parts += [f"{column} {dialect.like} {sql.p(_pattern(as_json))} ESCAPE '!'" for column in dialect.said_as_json]
    if query.may_be_id:
        parts.append(f"(j.id >= {sql.p(query.text)} AND j.id < {sql.p(query.text + _AFTER_IDS)})")
    return f"({' OR '.join(parts)})"


def _pattern(text: str) -> str:
    for special in "!%_":
        text = text.replace(special, f"!{special}")
    return f"%{text}%"


# --- which jobs are looked at ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where jobs are looked for; `part`: at so many at a time, or at all that there are if None."""

    open: str
    ended: str
    part: int | None
    condition: Callable[[Sql], list[str]]


def source_of(dialect: Dialect, query: JobQuery, limits: Limits) -> Question[Source]:
    """Return the index to go by: that of keys or of ids, where few jobs can be meant, else those of open and of ended.

    A text that is how an id begins means only the jobs whose ids begin so.
    """
    if query.keys:
        keys, by_key = sorted(query.keys), dialect.sources["key"]
        return Source(open=by_key, ended=by_key, part=None, condition=lambda sql: [sql.any_of("j.key", keys, "bytea")])

    def of_ids(sql: Sql) -> list[str]:
        return [f"j.id >= {sql.p(query.text)}", f"j.id < {sql.p(query.text + _AFTER_IDS)}"]

    by_id = dialect.sources["id"]
    if query.may_be_id:
        sql = Sql(dialect)
        if (yield f"SELECT j.id {by_id} WHERE {' AND '.join(of_ids(sql))} LIMIT 1", sql.values):
            return Source(open=by_id, ended=by_id, part=None, condition=of_ids)
    ended = dialect.sources["failed" if query.of_failures else "end"]
    return Source(open=dialect.sources["open"], ended=ended, part=limits.part, condition=lambda _: [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A range of ends; None: no bound."""

    #: The first that is meant, or the last that is not.
    low: float | None = None
    above: float | None = None
    #: The last that is meant, or the first that is not.
    high: float | None = None
    below: float | None = None
    #: After this job.
    after: Position | None = None
    #: How far it goes; None: to the end.
    edge: float | None = None
    #: How many jobs it has, meant or not, if it has an edge.
    jobs: int = 0

    def conditions(self, sql: Sql, sort: Sort) -> list[str]:
        """Return what holds for the jobs of this part."""
        found = ["j.finished_at IS NOT NULL"]
        bounds = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        found += [f"j.finished_at {sign} {sql.at(bound)}" for sign, bound in bounds if bound is not None]
        return found + (beyond(sql, "j.finished_at", self.after, sort) if self.after else [])


def beyond(sql: Sql, column: str, after: Position, sort: Sort) -> list[str]:
    """Return what holds for the jobs after this one: the first condition is for the index."""
    sign = ">" if sort is Sort.OLDEST else "<"
    at = sql.at(after.at)
    return [f"{column} {sign}= {at}", f"({column} {sign} {at} OR j.n {sign} {sql.p(after.number, 'int8')})"]


def first_part(query: JobQuery, after: Position | None) -> Part:
    """Return where the jobs that have ended are looked for, after a position."""
    return Part(low=query.since, below=query.until, after=after)


def cut(dialect: Dialect, query: JobQuery, source: Source, rest: Part, sort: Sort) -> Question[Part]:
    """Return the first of `rest`, cut to the size of a part."""
    if source.part is None:
        return rest
    sql = Sql(dialect)
    where = rest.conditions(sql, sort) + ([_failed(dialect)] if query.of_failures else [])
    oldest = sort is Sort.OLDEST
    inner = (
        f"SELECT {dialect.unix('j.finished_at')} AS ended {source.ended} WHERE {' AND '.join(where)} "
        f"ORDER BY j.finished_at{'' if oldest else ' DESC'} LIMIT {source.part}"
    )
    rows = yield f"SELECT {'max' if oldest else 'min'}(x.ended), count(*) FROM ({inner}) x", sql.values  # noqa: S608
    edge, count = rows[0]
    if count < source.part:
        return rest
    bound = {"high": edge} if oldest else {"low": edge}
    bounds = {"low": rest.low, "above": rest.above, "high": rest.high, "below": rest.below} | bound
    return Part(**bounds, after=rest.after, edge=edge, jobs=count)


def rest_after(query: JobQuery, part: Part, sort: Sort) -> Part:
    """Return what comes after `part`."""
    if sort is Sort.OLDEST:
        return Part(above=part.edge, below=query.until)
    return Part(low=query.since, below=part.edge)
